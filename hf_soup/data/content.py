"""The content of a data set as hashes, which tell one set of examples from another whatever its file is called."""

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

SETTLED = 2.0  # seconds without change, before which a file could change once more and have the same times


class ContentHashes(NamedTuple):
    """The content of a data set as hashes.

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


State = tuple[int, ...]  # of a file: device, inode, size and times; empty where there is none


class _Hashed(NamedTuple):
    """What was hashed: the result, and the image files outside of the data set with their states."""

    hashes: ContentHashes
    files: tuple[tuple[str, State], ...]


_HASHED: WeakKeyDictionary[Dataset, _Hashed] = WeakKeyDictionary()  # data sets do not change; image files may


def hash_content(dataset: Dataset) -> ContentHashes:
    """Hash the content, row by row: images by their encoded bytes, everything else as JSON.

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
        files.append((path, _state(path)))  # before it is read, so that a change meanwhile shows
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
    """Whether files are what they were when they were hashed."""
    return all(_state(path) == state for path, state in files)


def _are_settled(files: Sequence[tuple[str, State]], now: float) -> bool:
    """Whether files were last changed so long ago that another change would show in their times."""
    change_times = [state[-1] for _, state in files if state]  # in nanoseconds
    return max(change_times, default=0) < (now - SETTLED) * 1e9


def _digest(hashes: Sequence[str]) -> str:
    """One hash of several, in their order."""
    import xxhash

    return xxhash.xxh3_128_hexdigest("\n".join(hashes).encode())


def _state(path: str) -> State:
    """What tells that a file was changed; nothing where there is none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _bytes_of(path: str) -> bytes:
    """The content of an image file, or its name where it cannot be read."""
    try:
        with open_file(path, error_class=DataError) as file:
            return file.read()
    except (OSError, DataError):  # it will be told as an image that does not decode
        return path.encode("utf-8", "surrogatepass")


def _printable(value: Any) -> str:
    """What stands in JSON for a value that JSON has no form for, such as bytes and dates."""
    return value.hex() if isinstance(value, bytes) else str(value)
