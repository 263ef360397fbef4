"""Names of databases, and their public form: never a password."""

from pathlib import Path

import sqlalchemy

from jointnas_jax.errors import ConfigError
from jointnas_jax.rules import local_path
from jointnas_jax.storage.workdir import TRIALS

# Options of a URL that identify a database. Any other one may be a password under some name.
_IDENTITY = ("host", "hostaddr", "port", "dbname", "service", "unix_socket")


def sqlite_url(workdir: Path) -> sqlalchemy.URL:
    """URL of the database in a workdir, whatever characters the path has."""
    return sqlalchemy.URL.create("sqlite", database=str((workdir / TRIALS).resolve()))


def parse_url(storage: str | sqlalchemy.URL) -> sqlalchemy.URL:
    """Reads `config.study.storage`; raises `ConfigError`, without the value, if it is no URL.

    The file of an SQLite database is a path as `local_path`'s.
    """
    try:
        url = sqlalchemy.make_url(storage)
        if url.drivername == "sqlite" and url.database:
            url = url.set(database=local_path(url.database, "config.study.storage"))
        return url
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(
            "`config.study.storage` must name a database as SQLAlchemy does, such as "
            "`postgresql://host/name`; the value is not shown, it may hold a password"
        ) from None


def public_name(url: sqlalchemy.URL) -> str:
    """The URL without passwords: the name of a database for people and for files."""
    if url.drivername == "sqlite":
        return url.database or ""
    query = {name: value for name, value in url.query.items() if name in _IDENTITY}
    return sqlalchemy.URL.create(
        url.drivername,
        url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query=query,
    ).render_as_string()


def url_of(name: str) -> sqlalchemy.URL:
    """The URL of a public name, without the password that it may need."""
    if "://" not in name:
        return sqlalchemy.URL.create("sqlite", database=name)
    return parse_url(name)


def without_secrets(text: str, url: sqlalchemy.URL) -> str:
    """A driver's message about a URL, without the parts that may be passwords."""
    secrets = [url.password, *(v for name, v in url.query.items() if name not in _IDENTITY)]
    for secret in secrets:
        for part in (secret,) if isinstance(secret, str) else secret or ():
            text = text.replace(part, "***") if part else text
    return text
