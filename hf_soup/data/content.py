"""Hashes of the content of a data set, which identify a set of examples independently of its file name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import DataError
from ..untrusted import open_file


if TYPE_CHECKING:
    from datasets import Dataset

SETTLED = 2.0  # seconds without change, within which a file could change again without a change of its times


class ContentHashes(NamedTuple):
    """Hashes of the content of a dataset.

    Args:
        fingerprint (`str`):
            xxh3-128 over the sorted row hashes, so independent of the order of rows.
        row_hashes (`frozenset[str]`):
            Hash of each distinct row.
        ordered (`str`):
            xxh3-128 over the row hashes as they come.
    """

    fingerprint: str
    row_hashes: frozenset[str]
    ordered: str


State = tuple[int, ...]  # of a file: device, inode, size and times; empty if it does not exist


class _Hashed(NamedTuple):
    """The result of hashing, and the external image files with their states."""

    hashes: ContentHashes
    files: tuple[tuple[str, State], ...]


_HASHED: WeakKeyDictionary[Dataset, _Hashed] = WeakKeyDictionary()  # data sets do not change, but image files may


def hash_content(dataset: Dataset) -> ContentHashes:
    """Hash the content row by row: images by their encoded bytes, everything else as JSON.

    Args:
        dataset (`datasets.Dataset`):
            Any; transforms that are set on it are not applied. Of image files that it only names, it is what they are
            now.
    """
    import datasets
    import xxhash

    hashed = _HASHED.get(dataset)
    if hashed is not None and _are_unchanged(hashed.files):
        return hashed.hashes
    started = time.time()
    plain = dataset.with_format(None)
    image_columns = [column for column, feature in plain.features.items() if isinstance(feature, datasets.Image)]
    for column in image_columns:
        plain = plain.cast_column(column, datasets.Image(decode=False))
    files: list[tuple[str, State]] = []

    def image_bytes(image: Mapping[str, Any]) -> bytes:
        if image["bytes"]:
            return image["bytes"]
        path = image["path"] or ""
        files.append((path, _state(path)))  # before reading, so that a change during it is detected
        return _bytes_of(path)

    def content(row: dict[str, Any]) -> bytes:
        for column in image_columns:
            if row[column]:
                row[column] = image_bytes(row[column])
        return json.dumps(row, sort_keys=True, default=_printable).encode()

    hashes = [xxhash.xxh3_128_hexdigest(content(row)) for row in plain]
    hashed_content = ContentHashes(_digest(sorted(hashes)), frozenset(hashes), _digest(hashes))
    if _are_settled(files, started):
        _HASHED[dataset] = _Hashed(hashed_content, tuple(files))
    return hashed_content


def _are_unchanged(files: Sequence[tuple[str, State]]) -> bool:
    """Whether files have not changed since they were hashed."""
    return all(_state(path) == state for path, state in files)


def _are_settled(files: Sequence[tuple[str, State]], now: float) -> bool:
    """Whether the last changes of files are so old that another change would show in their times."""
    change_times = [state[-1] for _, state in files if state]  # in nanoseconds
    return max(change_times, default=0) < (now - SETTLED) * 1e9


def _digest(hashes: Sequence[str]) -> str:
    """One hash of several, in order."""
    import xxhash

    return xxhash.xxh3_128_hexdigest("\n".join(hashes).encode())


def _state(path: str) -> State:
    """The state by which a change of a file is detected; empty if it does not exist."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _bytes_of(path: str) -> bytes:
    """The content of an image file, or its name if it cannot be read."""
    try:
        with open_file(path, error_class=DataError) as file:
            return file.read()
    except (OSError, DataError):  # it will be reported as an image that cannot be decoded
        return path.encode("utf-8", "surrogatepass")


def _printable(value: Any) -> str:
    """A substitute for values that JSON cannot represent, such as bytes and dates."""
    return value.hex() if isinstance(value, bytes) else str(value)
