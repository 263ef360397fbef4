"""Objects of a bucket, by fsspec: `gs://`, `s3://`, and `file://` for a shared disk.

Credentials and endpoints are those of gcsfs and s3fs, which find them in the environment. Nothing
is cached: another process may have changed what a listing said.
"""

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jointnas_jax.errors import InputError, JointNASError, StorageError, one_line
from jointnas_jax.files import write_whole

# Protocol -> the extra that reads it.
_EXTRAS = {"gs": "gcs", "s3": "s3"}
# Else gcsfs asks a service of its own what kind of bucket there is, which takes a minute where that
# cannot be reached. Read when it is imported; who needs it sets it.
_PLAIN_GCS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false"
# Objects read or written at once.
_CONNECTIONS = 8
# They log what they then raise.
_LOGGERS = ("fsspec", "gcsfs", "google", "s3fs", "aiobotocore", "botocore", "asyncio")


class Bucket:
    """Objects by their names below a URL.

    Attributes:
      url: URL of the folder of all objects, without a slash at its end.
    """

    def __init__(self, url: str, filesystem: Any = None):
        """Reaches for nothing yet.

        Args:
          url: URL of the folder.
          filesystem: An fsspec file system; None: that of the URL's protocol.

        Raises:
          InputError: The package that reads such URLs is not installed.
        """
        self.url = url
        self._files = filesystem or _filesystem(url)
        self._root = self._files._strip_protocol(url)
        self._on_disk = "file" in self._files.protocol

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none. Raises `StorageError`."""
        with self._reaching("read", name):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, whole or not at all; raises `StorageError`."""
        path = self._path(name)
        with self._reaching("written", name):
            if self._on_disk:  # where a file grows as it is written
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                write_whole(Path(path), content)
            else:
                self._files.pipe_file(path, content)

    def remove(self, name: str) -> None:
        """Removes an object, if it is there; raises `StorageError`."""
        with self._reaching("removed", name), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """Removes all objects below a name; raises `StorageError`."""
        with self._reaching("removed", name), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def names(self, folder: str) -> list[str]:
        """Names of the objects and folders right below a folder, sorted; raises `StorageError`."""
        with self._reaching("listed", folder):
            self._files.invalidate_cache()
            try:
                paths = self._files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def everything(self) -> dict[str, dict[str, Any]]:
        """All objects below the URL: name -> `size` in bytes and what else the store says of it.

        The URL may be that of one object, whose name is "" then. Raises `StorageError`.
        """
        with self._reaching("listed", ""):
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        start = len(self._root) + 1
        return {path[start:]: entry for path, entry in sorted(found.items())}

    def download(self, name: str, file: Path) -> None:
        """Copies an object into a file; raises `StorageError`."""
        with self._reaching("read", name):
            self._files.get_file(self._path(name), str(file))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _reaching(self, verb: str, name: str) -> Iterator[None]:
        """Whatever a store and what lies between raise becomes one line."""
        try:
            yield
        except JointNASError:
            raise
        except Exception as error:  # each library has classes of its own
            where = f"{self.url}/{name}" if name else self.url
            raise StorageError(f"`{where}` cannot be {verb}: {one_line(error)}") from error


def side_by_side(work: Callable[[str], None], items: Iterable[str]) -> None:
    """Calls a function with each item, several at once; the first error ends it."""
    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
        try:
            for _ in pool.map(work, items):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _filesystem(url: str) -> Any:
    protocol = url.partition(":")[0]
    os.environ.setdefault(*_PLAIN_GCS)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        import fsspec

        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(protocol, "gcs")
        raise InputError(
            f"`{url}`: buckets need a package that is not installed ({one_line(error)}); "
            f'pip install "jointnas_jax[{extra}]"'
        ) from error
    except Exception as error:  # no credentials
        raise InputError(f"`{url}` cannot be opened: {one_line(error)}") from error
