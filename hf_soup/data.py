"""From what a user calls data to a `datasets.Dataset`: loading, splits, columns, labels, and a hash of the content.

It knows nothing of models. Data is a Hub id, a folder with files named for their split, a `package.module:function`
that returns a data set (or a scikit-learn Bunch), or a `Dataset` that is there already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from .errors import DataError, RecipeError, did_you_mean
from .lookup import load_path


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from sklearn.utils import Bunch

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
LABEL_COLUMNS = ("label", "labels")
_HASHED: WeakKeyDictionary[Dataset, Rows] = WeakKeyDictionary()  # data sets do not change
_LOADING_ERRORS = (OSError, ValueError, RuntimeError)  # of datasets, whose own errors inherit these or wrap them


class Rows(NamedTuple):
    """The content of a data set as hashes.

    Args:
        fingerprint (`str`):
            xxh3-128 over the sorted row hashes, so independent of the order of rows.
        rows (`frozenset[str]`):
            One hash for each different row.
    """

    fingerprint: str
    rows: frozenset[str]


def load_data(path: str | Dataset, *, split: str, name: str | None = None) -> Dataset:
    """Load one split.

    Args:
        path (`str` or `datasets.Dataset`):
            A folder, a Hub id, or `package.module:function`; a `Dataset` is taken as it is, and `split` slices it.
        split (`str`):
            Such as `"train"`, `"train[:1000]"`, `"train[:80%]"`.
        name (`str`, *optional*):
            The configuration of a Hub data set.

    Returns:
        `datasets.Dataset`

    Raises:
        [`DataError`]: if there is no such data or split, or it is empty.
    """
    import datasets

    part = split.split("[")[0].strip()
    if isinstance(path, datasets.Dataset):
        found = path
    elif os.path.isdir(path):
        found = _from_folder(Path(path), part)
    elif ":" in path:
        found = _from_function(path, part)
    else:
        found = _from_hub(path, name, part)
    if "[" in split:
        found = _slice(found, split)
    if not len(found):
        raise DataError(f"the split {split!r} of {path} is empty.")
    return found


def label_column(dataset: Dataset, given: str | None = None) -> str:
    """The column with the labels: the one that was named, else `label` or `labels`.

    Raises:
        [`DataError`]: if it is not there.
    """
    for column in [given] if given else LABEL_COLUMNS:
        if column in dataset.column_names:
            return column
    wanted = given or LABEL_COLUMNS[0]
    raise DataError(f'the data has no label column "{wanted}"{did_you_mean(wanted, dataset.column_names)}')


def label_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names of the classes in order: those of a `ClassLabel`, sorted strings, or `None` for numbers without names.

    Raises:
        [`DataError`]: if the labels are neither whole numbers nor strings, or some are missing.
    """
    import datasets

    feature = dataset.features[column]
    unlabelled = (
        (None, -1) if isinstance(feature, datasets.ClassLabel) else (None,)
    )  # -1: how the Hub hides test labels
    missing = sum(value in unlabelled for value in dataset[column])
    if missing:
        raise DataError(f'{missing} of {len(dataset)} rows have no label in the column "{column}".')
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        return sorted(set(dataset[column]))
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "bool")):
        raise DataError(f'the label column "{column}" holds {feature}, and classes are whole numbers or names.')
    return None


def label_ids(dataset: Dataset, column: str, id2label: Mapping[int, str]) -> np.ndarray:
    """The class of each row as the model counts them, matched by name where both have names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Its label column.
        id2label (`Mapping[int, str]`):
            The model's classes.

    Returns:
        `np.ndarray` of shape `(rows,)`, int64.

    Raises:
        [`DataError`]: if a label is no class of the model, or is missing.
    """
    import numpy as np

    ours, values = label_names(dataset, column), dataset[column]
    theirs = [id2label[index] for index in sorted(id2label)]
    named = theirs != [f"LABEL_{index}" for index in range(len(theirs))]
    if isinstance(values[0], str) and not named:
        raise DataError(
            f'the column "{column}" has names such as "{values[0]}", and the model has none for its classes.'
        )
    if ours is not None and named:
        unknown = sorted(set(ours) - set(theirs))
        if unknown:
            raise DataError(
                f'the model has no class "{unknown[0]}" that the data has{did_you_mean(unknown[0], theirs)}'
            )
        values = [theirs.index(value if isinstance(value, str) else ours[value]) for value in values]
    ids = np.asarray(values, dtype=np.int64)
    if ids.min() < 0 or ids.max() >= len(theirs):
        raise DataError(
            f'the labels in "{column}" go from {ids.min()} to {ids.max()}, the model has {len(theirs)} classes from 0.'
        )
    return ids


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
            column: row[column] and (row[column]["bytes"] or Path(row[column]["path"]).read_bytes())
            for column in images
        }
        return json.dumps(row | encoded, sort_keys=True, default=_printable).encode()

    hashes = [xxhash.xxh3_128_hexdigest(content(row)) for row in plain]
    _HASHED[dataset] = Rows(xxhash.xxh3_128_hexdigest("\n".join(sorted(hashes)).encode()), frozenset(hashes))
    return _HASHED[dataset]


def choose_columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The text columns: those that were named, else every column of strings but the label's, one or two of them.

    Raises:
        [`DataError`]: if a named column is not there, or it is not plain which ones are meant.
    """
    if given:
        for column in given:
            if column not in dataset.column_names:
                raise DataError(f'the data has no text column "{column}"{did_you_mean(column, dataset.column_names)}')
        return list(given)
    strings = [
        column
        for column, feature in dataset.features.items()
        if getattr(feature, "dtype", "") in ("string", "large_string") and column != label
    ]
    if not 1 <= len(strings) <= 2:
        raise DataError(
            f"the data has {len(strings)} text columns ({', '.join(strings) or 'none'}): name them in `text_columns`."
        )
    return strings


def _from_folder(folder: Path, part: str) -> Dataset:
    """`train.csv` is the split `train`; files of other names (`other_test.csv`) do not flow into it."""
    import datasets

    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in BUILDERS}
    path = folder / part if (folder / part).is_dir() else files.get(part)
    if path is None:
        kinds = ", ".join(sorted(BUILDERS))
        raise DataError(f'{folder} has no file ({kinds}) or folder for the split "{part}"{did_you_mean(part, files)}')
    try:
        if path.is_dir():
            return datasets.load_dataset("imagefolder", data_dir=str(path), split="train")
        extra = {"sep": "\t"} if path.suffix == ".tsv" else {}
        return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", **extra)
    except _LOADING_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error.__cause__ or error}") from None


def _from_hub(path: str, name: str | None, part: str) -> Dataset:
    import datasets

    try:
        return datasets.load_dataset(path, name, split=part)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no folder here, and as a data set of the Hub it could not be loaded: {error}"
        ) from None


def _from_function(path: str, part: str) -> Dataset:
    import datasets

    try:
        found = load_path(path)()
    except RecipeError as error:
        raise DataError(str(error)) from None
    if isinstance(found, datasets.DatasetDict):
        if part not in found:
            raise DataError(f'{path} has no split "{part}"{did_you_mean(part, found)}')
        return found[part]
    return found if isinstance(found, datasets.Dataset) else _from_bunch(found, path)


def _from_bunch(bunch: Bunch, path: str) -> Dataset:
    """scikit-learn's data sets: images (n, height, width), or a list of texts, with targets and their names."""
    import datasets
    import numpy as np
    from PIL import Image

    if "target" not in bunch or not ("images" in bunch or isinstance(bunch.get("data"), list)):
        raise DataError(f"{path} returned {type(bunch).__name__} without images or texts and a target.")
    names = [str(name) for name in bunch.get("target_names", sorted(set(bunch["target"])))]
    labels = datasets.ClassLabel(names=names)
    if "images" not in bunch:
        columns: dict[str, Any] = {"text": bunch["data"]}
        features = {"text": datasets.Value("string")}
    else:
        grey = np.asarray(bunch["images"], dtype=float) / np.max(bunch["images"]) * 255
        columns = {"image": [Image.fromarray(image.round().astype(np.uint8)).convert("RGB") for image in grey]}
        features = {"image": datasets.Image()}
    targets = np.asarray(bunch["target"]).tolist()
    return datasets.Dataset.from_dict(columns | {"label": targets}, datasets.Features(features | {"label": labels}))


def _slice(dataset: Dataset, split: str) -> Dataset:
    """Hugging Face's split syntax, such as `train[100:200]` or `train[:20%]`, on rows that are in memory."""
    from datasets import ReadInstruction

    name = split.split("[")[0].strip()
    try:
        (part,) = ReadInstruction.from_spec(split).to_absolute({name: len(dataset)})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{split!r} is no slice of {len(dataset)} rows: {error}") from None
    stop = len(dataset) if part.to is None else part.to
    rows = range(part.from_ or 0, stop)
    return dataset.select(rows if rows else [])


def _printable(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
