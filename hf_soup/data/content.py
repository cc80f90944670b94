"""The content of a data set as hashes, which tell one set of examples from another whatever its file is called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import DataError
from ..untrusted import open_file


if TYPE_CHECKING:
    from datasets import Dataset

_HASHED: WeakKeyDictionary[Dataset, Rows] = WeakKeyDictionary()  # data sets do not change


class Rows(NamedTuple):
    """The content of a data set as hashes.

    Args:
        fingerprint (`str`):
            xxh3-128 over the sorted row hashes, so independent of the order of rows.
        rows (`frozenset[str]`):
            One hash for each different row.
        ordered (`str`):
            xxh3-128 over the row hashes as they come.
    """

    fingerprint: str
    rows: frozenset[str]
    ordered: str


def hash_rows(dataset: Dataset) -> Rows:
    """Hash the content, row by row: images by their encoded bytes, everything else as JSON.

    Args:
        dataset (`datasets.Dataset`):
            Any; transforms that are set on it are not applied.
    """
    import datasets
    import xxhash

    if dataset in _HASHED:
        return _HASHED[dataset]
    plain = dataset.with_format(None)
    for column, feature in plain.features.items():
        if isinstance(feature, datasets.Image):
            plain = plain.cast_column(column, datasets.Image(decode=False))
    images = [column for column, feature in plain.features.items() if isinstance(feature, datasets.Image)]

    def content(row: dict[str, Any]) -> bytes:
        encoded = {
            column: row[column] and (row[column]["bytes"] or _bytes_of(row[column]["path"])) for column in images
        }
        return json.dumps(row | encoded, sort_keys=True, default=_printable).encode()

    hashes = [xxhash.xxh3_128_hexdigest(content(row)) for row in plain]
    sorted_digest, digest = (xxhash.xxh3_128_hexdigest("\n".join(rows).encode()) for rows in (sorted(hashes), hashes))
    _HASHED[dataset] = Rows(sorted_digest, frozenset(hashes), digest)
    return _HASHED[dataset]


def _bytes_of(path: str | None) -> bytes:
    try:
        with open_file(path or "", kind=DataError) as file:
            return file.read()
    except (OSError, DataError):  # it will be told as an image that does not decode
        return (path or "").encode("utf-8", "surrogateescape")


def _printable(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
