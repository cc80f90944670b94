"""Folders on object stores (`s3://bucket/run`, `gs://`, `memory://` ...), through fsspec: files are read and written.

Models are unknown here. Credentials are those that the library of each store finds in the environment.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import IngredientError, MissingExtraError, OutputError, SoupError
from ..untrusted import PASSED_ON, one_line
from .hub_answers import is_inside


ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
HUB = "hf://"
BUCKETS = "hf://buckets/"
# Stores that are known to list folders and to read ranges; others, such as `http`, cannot, or are no stores.
PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "hdfs", "webhdfs", "sftp", "hf", "memory")
MOST_FILES = 100_000  # in one folder


def is_address(source: object) -> bool:
    """Whether a source or target is an address, and neither a path nor a Hub id."""
    return isinstance(source, str) and ADDRESS.match(source) is not None


def hub_id(address: str) -> str | None:
    """The Hub id behind `hf://owner/name@revision/folder`; `None` for other addresses.

    Raises:
        [`IngredientError`]: if it is a data set or a Space.
    """
    if not address.startswith(HUB) or address.startswith(BUCKETS):
        return None
    path = address.removeprefix(HUB).removeprefix("models/").strip("/")
    if path.startswith(("datasets/", "spaces/")):
        raise IngredientError(
            f"{one_line(address)} is no model: hf://owner/name is one, or hf://buckets/owner/name/folder."
        )
    owner, _, rest = path.partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    source = "/".join(filter(None, (owner, name, folder)))
    return f"{source}@{revision}" if revision else source


@dataclass(frozen=True)
class Store:
    """A folder on an object store.

    Args:
        address (`str`):
            Its address, such as `s3://bucket/run1`.
        error (`type[SoupError]`):
            Class of the errors: [`IngredientError`] for sources, [`OutputError`] for targets.
    """

    address: str
    error: type[SoupError] = IngredientError

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert the errors of fsspec and of the libraries of stores."""
        try:
            yield
        except PASSED_ON:
            raise
        except ImportError as error:
            raise MissingExtraError(f"{one_line(self.address)} cannot be reached: {one_line(error)}") from None
        except FileNotFoundError as error:
            raise self.error(f"{one_line(self.address)}: {one_line(error) or 'it does not exist'}.") from None
        except PermissionError as error:
            raise self.error(
                f"{one_line(self.address)} is not open to you: {one_line(error)}. Set the credentials of the store in "
                "the environment."
            ) from None
        except Exception as error:  # each library has its own
            raise self.error(f"{one_line(self.address)} cannot be reached: {one_line(error)}.") from None

    def _open(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps open, and the path of the folder in it."""
        parts = urlsplit(self.address)
        if parts.scheme not in PROTOCOLS or "::" in self.address:
            raise self.error(
                f"{one_line(self.address)} is no address of a store that hf_soup knows: {', '.join(PROTOCOLS)}."
            )
        if parts.password is not None:
            raise self.error("an address may hold no password, which recipes would record: set it in the environment.")
        import fsspec

        file_system, path = fsspec.url_to_fs(self.address)
        return file_system, path.rstrip("/")

    def files(self) -> dict[str, tuple[int, str]]:
        """The files by name: the size of each in bytes, and a text that changes when the file does (its ETag).

        Raises:
            [`SoupError`]: if the store is not reachable, or has an invalid listing.
        """
        with self._errors():
            file_system, root = self._open()
            file_system.invalidate_cache()
            listed = {}
            for path, info in file_system.find(root, detail=True).items():
                if info.get("size") or not path.endswith("/"):  # S3 consoles make folders that are empty files
                    listed[path] = info
            states = {path: _state(file_system, path, info) for path, info in listed.items()}
        if len(listed) > MOST_FILES:
            raise self.error(
                f"{one_line(self.address)} holds more than {MOST_FILES:,} files: name the folder of one run."
            )
        files = {}
        for path, info in sorted(listed.items()):
            name = path.removeprefix(f"{root}/")
            if not is_inside(name) or not isinstance(info.get("size"), int):
                raise self.error(f"{one_line(self.address)} lists {one_line(repr(path), 80)}, which is no file in it.")
            files[name] = info["size"], states[path]
        return files

    def state(self, name: str) -> str:
        """The text that changes when a file does.

        Raises:
            [`SoupError`]: if it does not exist.
        """
        with self._errors():
            file_system, root = self._open()
            file_system.invalidate_cache(posixpath.dirname(f"{root}/{name}"))
            return _state(file_system, f"{root}/{name}", file_system.info(f"{root}/{name}"))

    def read(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of a file from a position to another one; fewer if it is shorter.

        Raises:
            [`SoupError`]: if it cannot be read.
        """
        with self._errors():
            file_system, root = self._open()
            content: bytes = file_system.cat_file(f"{root}/{name}", start=start, end=stop)
            return content

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local path.

        Raises:
            [`SoupError`]: if it cannot be read.
        """
        with self._errors():
            file_system, root = self._open()
            file_system.get_file(f"{root}/{name}", str(path))

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file into the folder, where it appears when it is complete.

        Raises:
            [`SoupError`]: if it cannot be written.
        """
        with self._errors():
            file_system, root = self._open()
            file_system.makedirs(posixpath.dirname(f"{root}/{name}"), exist_ok=True)
            file_system.put_file(str(path), f"{root}/{name}")

    def delete(self, name: str) -> None:
        """Delete a file of the folder.

        Raises:
            [`SoupError`]: if the store refuses.
        """
        with self._errors():
            file_system, root = self._open()
            file_system.rm_file(f"{root}/{name}")


def _state(file_system: Any, path: str, info: dict[str, Any]) -> str:
    """What tells that a file has changed: its ETag or checksum, or else all that is known about it."""
    for key in ("ETag", "etag", "md5Hash", "content_md5", "xet_hash", "checksum"):
        if info.get(key):
            return f"etag:{one_line(info[key]).strip(chr(34))}"
    times = [str(info[key]) for key in ("mtime", "modified", "LastModified", "created") if key in info]
    if not times:
        return f"stat:{file_system.ukey(path)}"
    import xxhash

    return f"stat:{xxhash.xxh3_128_hexdigest(repr((info.get('size'), times)).encode())}"


def target(address: str) -> Store:
    """A folder that is written to.

    Raises:
        [`OutputError`]: if it is a repository of the Hub.
    """
    if address.startswith(HUB) and not address.startswith(BUCKETS):
        raise OutputError(f"{one_line(address)} is a repository of the Hub: push_to_hub writes there (--push-to-hub).")
    return Store(address, OutputError)
