"""Names of databases, and what of them may be shown: never a password."""

from pathlib import Path

import sqlalchemy

from jointnas_jax.errors import ConfigError
from jointnas_jax.storage.workdir import TRIALS

# What tells a database from another, of the options that a URL may end with. Any other one may be a
# password under some name.
_PLACE = ("host", "hostaddr", "port", "dbname", "service", "unix_socket")


def sqlite_url(workdir: Path) -> sqlalchemy.URL:
    """The database in a workdir, whatever characters its name has."""
    return sqlalchemy.URL.create("sqlite", database=str((workdir / TRIALS).resolve()))


def parse_url(storage: str) -> sqlalchemy.URL:
    """Reads `config.study.storage`; raises `ConfigError`, without it, if it names no database."""
    try:
        return sqlalchemy.make_url(storage)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ConfigError(
            "`config.study.storage` must name a database as SQLAlchemy does, such as "
            "`postgresql://host/name`; what was given is not shown, it may hold a password"
        ) from None


def public_name(url: sqlalchemy.URL) -> str:
    """The URL without passwords: a database's name for people and for files."""
    if url.drivername == "sqlite":
        return url.database or ""
    query = {name: value for name, value in url.query.items() if name in _PLACE}
    public = sqlalchemy.URL.create(
        *(url.drivername, url.username, None, url.host, url.port, url.database, query)
    )
    return public.render_as_string()


def url_of(name: str) -> sqlalchemy.URL:
    """The URL that has a public name, which says less where there was a password."""
    if "://" not in name:
        return sqlalchemy.URL.create("sqlite", database=name)
    return parse_url(name)


def without_secrets(text: str, url: sqlalchemy.URL) -> str:
    """What a driver says about a URL, without the parts of it that may be passwords."""
    secrets = [url.password, *(v for name, v in url.query.items() if name not in _PLACE)]
    for secret in secrets:
        for part in (secret,) if isinstance(secret, str) else secret or ():
            text = text.replace(part, "***") if part else text
    return text
