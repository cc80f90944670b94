"""Data returned by a function: `package.module:function` -> a `datasets.Dataset`. No files are read here.

Any failure of such a function, even an attempt to exit the process, becomes a [`DataError`].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import DataError, RecipeError, did_you_mean
from ..plugins import load_path
from ..untrusted import as_error, one_line
from .layouts import find_split


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
# Functions of scikit-learn that need no download: a file may name these without permission to run code.
BUNDLED = frozenset(
    f"sklearn.datasets:load_{name}" for name in ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
)


def is_function(path: str) -> bool:
    """Whether a data source has the form `package.module:function`; an existing file or folder takes precedence."""
    return FUNCTION.fullmatch(path) is not None


def call_function(path: str) -> Any:
    """The return value of a data function.

    Args:
        path (`str`):
            `package.module:function`, which is imported and called without arguments.

    Raises:
        [`DataError`]: if it cannot be imported, is no function, or fails.
    """
    try:
        function = load_path(path)
    except RecipeError as error:
        raise DataError(str(error)) from None
    if not callable(function):
        raise DataError(f"{path} is a {type(function).__name__}, not a function that returns examples.")
    with as_error(DataError, f"{path} failed instead of returning examples"):
        try:
            return function()
        except (SystemExit, GeneratorExit) as error:  # these are not subclasses of `Exception`
            why = one_line(repr(error))
            raise DataError(f"{path} ends the process ({why}) instead of returning examples.") from error


def from_function(path: str, split: str) -> Dataset:
    """One split of the data that a function returns.

    Args:
        path (`str`):
            `package.module:function`.
        split (`str`):
            Split to take from a `DatasetDict`; a single data set is taken as it is.

    Raises:
        [`DataError`]: if there is no such function or split, or it returns something else.
    """
    import datasets

    data = call_function(path)
    if isinstance(data, datasets.DatasetDict):
        return split_of(data, split, path)
    if isinstance(data, datasets.Dataset):
        return data
    if not isinstance(data, Mapping):
        raise DataError(f"{path} returned {type(data).__name__}, and no Dataset, DatasetDict or scikit-learn Bunch.")
    with as_error(DataError, f"{path} returned examples that cannot be read"):
        return _from_bunch(data, path)


def split_of(splits: DatasetDict, split: str, source: str) -> Dataset:
    """One split of several.

    Args:
        splits (`datasets.DatasetDict`):
            The data.
        split (`str`):
            The name, or a usual name for the same.
        source (`str`):
            Name of the data in the error.

    Raises:
        [`DataError`]: if there is none of that name.
    """
    name = find_split(splits, split)
    if name is None:
        raise DataError(f'{source} has no split "{split}"{did_you_mean(split, splits)}')
    return splits[name]


def _from_bunch(bunch: Mapping[str, Any], path: str) -> Dataset:
    """A data set of scikit-learn: images (n, height, width), or a list of texts, with targets and their names."""
    import datasets
    import numpy as np
    from PIL import Image

    if "target" not in bunch or not ("images" in bunch or isinstance(bunch.get("data"), list)):
        raise DataError(f"{path} returned {type(bunch).__name__} without images or texts and a target.")
    # without names, the class numbers become the names
    names = [str(name) for name in bunch.get("target_names", sorted(set(bunch["target"])))]
    labels = datasets.ClassLabel(names=names)
    targets = np.asarray(bunch["target"]).tolist()
    if "images" not in bunch:
        texts = {"text": bunch["data"], "label": targets}
        return datasets.Dataset.from_dict(texts, datasets.Features(text=datasets.Value("string"), label=labels))
    brightest = np.max(bunch["images"]) or 1  # 16 in `load_digits`
    pixels = (np.asarray(bunch["images"], dtype=float) / brightest * 255).round().astype(np.uint8)
    pictures = [Image.fromarray(image).convert("RGB") for image in pixels]
    images = {"image": pictures, "label": targets}
    return datasets.Dataset.from_dict(images, datasets.Features(image=datasets.Image(), label=labels))
