"""From what a user calls data to a `datasets.Dataset`: loading, and slices of splits.

It knows nothing of models. Data is a Hub id, a file, a folder with files named for their split, a
`package.module:function` that returns a data set (or a scikit-learn Bunch), or a `Dataset` that is there already.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, RecipeError, did_you_mean
from ..lookup import load_path
from ..progress import library_bars


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sklearn.utils import Bunch

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_LOADING_ERRORS = (OSError, ValueError, RuntimeError)  # of datasets, whose own errors inherit these or wrap them


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
