"""A store: files under a URL that every machine of a cluster reaches, through fsspec. A shared folder, s3://BUCKET/PATH, ...

Names inside it are relative, with /. A file appears whole or not at all: an object store's do by themselves, a folder's
are written beside their place and renamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamerxl.errors import DreamerError
from dreamerxl.files import replacing


class StoreError(DreamerError):
    """A store cannot be reached, or refuses what is read or written."""


class Store:
    """The files under a URL; a path without a scheme is a folder. Raises StoreError with a sentence."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec
            from fsspec.implementations.local import LocalFileSystem

            self._fs: Any
            self._fs, root = fsspec.url_to_fs(url)
            self._local = isinstance(self._fs, LocalFileSystem)
        except ImportError as error:
            raise StoreError(f"The store {url!r} needs a package that is not installed: {error}.") from None
        except (ValueError, OSError) as error:
            raise StoreError(f"The store {url!r} cannot be used: {error}. A folder or a URL like s3://BUCKET/PATH is.") from None
        self._root = root.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, in the place of one that is there."""
        path = self._path(name)
        try:
            if self._local:
                with replacing(Path(path)) as temporary:
                    temporary.write_bytes(data)
            else:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, data)
        except Exception as error:  # each kind of store has its own
            raise StoreError(f"{name} cannot be written to the store {self.url!r}: {error}.") from error

    def get(self, name: str) -> bytes | None:
        """The contents of a file, or None where there is none."""
        try:
            return self._fs.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise StoreError(f"{name} cannot be read from the store {self.url!r}: {error}.") from error

    def names(self, folder: str) -> list[str]:
        """The files in a folder and in those below it, sorted; those whose names begin with a dot are nobody's yet."""
        try:
            self._fs.invalidate_cache()  # another machine may have written since
            found = self._fs.find(self._path(folder))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise StoreError(f"{folder} cannot be listed in the store {self.url!r}: {error}.") from error
        names = [path[len(self._root) :].lstrip("/") for path in found]
        return sorted(name for name in names if not name.rpartition("/")[2].startswith("."))

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        try:
            self._fs.rm_file(self._path(name))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise StoreError(f"{name} cannot be removed from the store {self.url!r}: {error}.") from error

    def fetch(self, folder: str, target: Path) -> Iterator[Path]:
        """Copy a folder of the store to this machine's disk; gives each file that it has written."""
        for name in self.names(folder):
            data = self.get(name)
            if data is not None:
                path = target / name[len(folder) :].lstrip("/")
                with replacing(path) as temporary:
                    temporary.write_bytes(data)
                yield path

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
