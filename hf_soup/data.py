"""From what a user calls data to a `datasets.Dataset`: loading, splits, columns, labels, and a hash of the content.

It knows nothing of models. Data is a Hub id, a file, a folder with files named for their split, a
`package.module:function` that returns a data set (or a scikit-learn Bunch), or a `Dataset` that is there already.
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
from .progress import library_bars


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, DatasetDict
    from sklearn.utils import Bunch

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
LABEL_COLUMNS = ("label", "labels")
UNSCORED = -100  # the label that transformers' losses leave out
_STRINGS = ("string", "large_string")
_HASHED: WeakKeyDictionary[Dataset, Rows] = WeakKeyDictionary()  # data sets do not change
_LOADING_ERRORS = (OSError, ValueError, RuntimeError)  # of datasets, whose own errors inherit these or wrap them


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


def load_data(path: str | Dataset | DatasetDict, *, split: str, name: str | None = None) -> Dataset:
    """Load one split.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            A folder, a file, a Hub id, or `package.module:function`; a `Dataset` is taken as it is, and `split`
            slices it.
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
    elif isinstance(path, datasets.DatasetDict):
        found = _of_dict(path, part, "the data")
    elif os.path.isdir(path):
        found = _from_folder(Path(path), part)
    elif os.path.isfile(path):
        found = _from_file(Path(path))
    elif ":" in path:
        found = _from_function(path, part)
    else:
        found = _from_hub(path, name, part)
    if "[" in split:
        found = _slice(found, split)
    if not len(found):
        raise DataError(f"the split {split!r} of {path} is empty.")
    return found


def split_data_source(source: str, split: str) -> tuple[str, str | None, str]:
    """What the command line calls data: `PATH#SPLIT`, where a Hub id may have its configuration: `nyu-mll/glue/sst2`.

    Args:
        source (`str`):
            As it was written.
        split (`str`):
            What is taken where it names none.

    Returns:
        `tuple[str, str | None, str]`: path, configuration and split.
    """
    path, _, part = source.partition("#")
    owner, *rest = path.split("/")
    on_hub = not os.path.exists(path) and ":" not in path and len(rest) == 2
    return (f"{owner}/{rest[0]}", rest[1], part or split) if on_hub else (path, None, part or split)


def find_column(dataset: Dataset, given: str | None, usual: Sequence[str] = LABEL_COLUMNS, what: str = "label") -> str:
    """The column that was named, else the first of the usual ones that is there.

    Raises:
        [`DataError`]: if it is not there.
    """
    for column in [given] if given else usual:
        if column in dataset.column_names:
            return column
    wanted = given or usual[0]
    raise DataError(f'the data has no {what} column "{wanted}"{did_you_mean(wanted, dataset.column_names)}')


def label_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names of the classes in order: those of a `ClassLabel`, sorted strings, or `None` for numbers without names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            With one label a row, or lists of them.

    Raises:
        [`DataError`]: if the labels are neither whole numbers nor strings, or some are missing.
    """
    import datasets

    feature, values = _inner(dataset.features[column]), _flat(dataset, column)
    hidden = (None, -1) if isinstance(feature, datasets.ClassLabel) else (None,)  # -1: how the Hub hides test labels
    missing = sum(value in hidden for value in values)
    if missing:
        raise DataError(f'{missing} of {len(values)} rows have no label in the column "{column}".')
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if getattr(feature, "dtype", "") in _STRINGS:
        return sorted(set(values))
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "bool")):
        raise DataError(f'the label column "{column}" holds {feature}, and classes are whole numbers or names.')
    return None


def label_ids(dataset: Dataset, column: str, id2label: Mapping[int, str]) -> np.ndarray:
    """The class of each label as the model counts them, matched by name where both have names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Its label column; of lists, all of them one behind the other.
        id2label (`Mapping[int, str]`):
            The model's classes.

    Returns:
        `np.ndarray` of shape `(labels,)`, int64; -100, which marks words without a label, stays.

    Raises:
        [`DataError`]: if a label is no class of the model, or is missing.
    """
    import numpy as np

    ours, values = label_names(dataset, column), _flat(dataset, column)
    theirs = [id2label[index] for index in sorted(id2label)]
    named = theirs != [f"LABEL_{index}" for index in range(len(theirs))]
    if len(values) and isinstance(values[0], str) and not named:
        raise DataError(
            f'the column "{column}" has names such as "{values[0]}", and the model has none for its classes.'
        )
    if ours is not None and named:
        unknown = sorted(set(ours) - set(theirs))
        if unknown:
            raise DataError(
                f'the model has no class "{unknown[0]}" that the data has{did_you_mean(unknown[0], theirs)}'
            )
        values = [v if v == UNSCORED else theirs.index(v if isinstance(v, str) else ours[v]) for v in values]
    ids = np.asarray(values, dtype=np.int64)
    wrong = (ids != UNSCORED) & ((ids < 0) | (ids >= len(theirs)))
    if wrong.any():
        raise DataError(
            f'labels in "{column}" go from {ids[wrong].min()} to {ids[wrong].max()}, the model has {len(theirs)} '
            "classes from 0. Is it a model for this data?"
        )
    return ids


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column of numbers, or of lists of them one behind the other, as float64.

    Raises:
        [`DataError`]: if it holds something else, or a number is missing or not finite.
    """
    import numpy as np

    feature, values = _inner(dataset.features[column]), _flat(dataset, column)
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float", "bool")):
        example = f", such as {values[0]!r}" if values else ""
        raise DataError(f'the column "{column}" holds {feature}{example}, and numbers are needed.')
    found = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
    if not np.isfinite(found).all():
        missing = (~np.isfinite(found)).sum()
        raise DataError(f'{missing} of {len(found)} values in "{column}" are missing or not finite.')
    return found


def split_like(ids: np.ndarray, lists: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Cut what was put one behind the other into parts as long as `lists`."""
    import numpy as np

    return np.split(ids, np.cumsum([len(item or ()) for item in lists])[:-1])


def is_list(dataset: Dataset, column: str) -> bool:
    """Whether a column holds lists."""
    return hasattr(dataset.features[column], "feature")


def is_text(dataset: Dataset, column: str, *, listed: bool = False) -> bool:
    """Whether a column holds strings, or with `listed=True` lists of them."""
    feature = dataset.features[column]
    return listed == is_list(dataset, column) and getattr(_inner(feature), "dtype", "") in _STRINGS


def _inner(feature: Any) -> Any:
    return getattr(feature, "feature", feature)


def _flat(dataset: Dataset, column: str) -> list[Any]:
    values = dataset[column]
    return [item for row in values for item in row or ()] if is_list(dataset, column) else values[:]


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


def choose_columns(
    dataset: Dataset, given: Sequence[str] | None, label: str | None, *, most: int = 2, listed: bool = False
) -> list[str]:
    """The text columns: those that were named, else every column of strings but the label's.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        given (`Sequence[str]`, *optional*):
            What the user named.
        label (`str`, *optional*):
            The label column.
        most (`int`, *optional*, defaults to 2):
            How many the task takes.
        listed (`bool`, *optional*, defaults to `False`):
            Columns of lists of strings (words) instead.

    Raises:
        [`DataError`]: if a named column is not there or holds something else, or it is not plain which ones are meant.
    """
    what = "lists of words" if listed else "text"
    for column in given or ():
        find_column(dataset, column, what="text")
        if not is_text(dataset, column, listed=listed):
            raise DataError(f'the column "{column}" holds {dataset.features[column]}, and {what} is needed.')
    found = [
        column
        for column in given or dataset.column_names
        if is_text(dataset, column, listed=listed) and column != label
    ]
    if not 1 <= len(found) <= most:
        names = ", ".join(found) or "none"
        what = "columns of lists of words" if listed else "text columns"
        raise DataError(f"the data has {len(found)} {what} ({names}): name them in `text_columns`.")
    return found


def _from_folder(folder: Path, part: str) -> Dataset:
    """`train.csv` is the split `train`; files of other names (`other_test.csv`) do not flow into it."""
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in BUILDERS}
    path = folder / part if (folder / part).is_dir() else files.get(part)
    if path is None:
        kinds = ", ".join(sorted(BUILDERS))
        raise DataError(f'{folder} has no file ({kinds}) or folder for the split "{part}"{did_you_mean(part, files)}')
    return _from_file(path)


@library_bars("datasets")
def _from_file(path: Path) -> Dataset:
    """One file, or a folder of images."""
    import datasets

    if path.is_file() and path.suffix not in BUILDERS:
        raise DataError(f"{path} is no file of examples that can be read: {', '.join(sorted(BUILDERS))}.")
    try:
        if path.is_dir():
            return datasets.load_dataset("imagefolder", data_dir=str(path), split="train")
        extra = {"sep": "\t"} if path.suffix == ".tsv" else {}
        return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", **extra)
    except _LOADING_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error.__cause__ or error}") from None


@library_bars("datasets", "huggingface_hub.utils")
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
        return _of_dict(found, part, path)
    return found if isinstance(found, datasets.Dataset) else _from_bunch(found, path)


def _of_dict(found: DatasetDict, part: str, what: str) -> Dataset:
    if part not in found:
        raise DataError(f'{what} has no split "{part}"{did_you_mean(part, found)}')
    return found[part]


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


def _bytes_of(path: str | None) -> bytes:
    try:
        return Path(path or "").read_bytes()
    except OSError:  # it will be told as an image that does not decode
        return (path or "").encode()


def _printable(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
