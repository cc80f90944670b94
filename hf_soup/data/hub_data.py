"""Data sets of the Hub, loaded by datasets. Files that a card names outside the Hub are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..checkpoints.hub_errors import patiently, read_errors
from ..errors import DataError
from ..progress import library_bars
from ..untrusted import one_line
from .image_paths import refuse_images_elsewhere
from .layouts import find_split


if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

_FILES = "hf://datasets/"  # the beginning of a file's address, after those of the archives that contain it


@library_bars("datasets", "huggingface_hub.utils")
def load_from_hub(path: str, name: str | None, split: str) -> Dataset:
    """Load one split of a data set of the Hub.

    Args:
        path (`str`):
            Id of the data set.
        name (`str`, *optional*):
            Configuration of the data set.
        split (`str`):
            Split to load; a split under another usual name for it is accepted.

    Raises:
        [`DataError`]: if it cannot be loaded, or names files that are not on the Hub.
    """
    import datasets
    from huggingface_hub import constants

    problem = f"{one_line(path)} is not a folder here, and it could not be loaded as a data set of the Hub"
    caches = (datasets.config.HF_CACHE_HOME, constants.HF_HUB_CACHE)  # the possible folders of downloaded images
    with read_errors(DataError, problem):
        builder = patiently(lambda: _builder(path, name))
        patiently(builder.download_and_prepare)
        known_split = find_split(builder.info.splits or (), split)
        dataset = builder.as_dataset(split=known_split or split)  # datasets raises an error for an unknown split
        return refuse_images_elsewhere(dataset, path, caches)


def splits_on_hub(path: str, name: str | None) -> list[str]:
    """The names of the splits of a data set of the Hub.

    Raises:
        [`DataError`]: if the Hub does not tell.
    """
    import datasets

    with read_errors(DataError, f"{one_line(path)} is not a folder here, and the Hub does not list its splits"):
        patiently(lambda: _builder(path, name))  # refuses files outside the Hub
        return datasets.get_dataset_split_names(path, name)


def _builder(path: str, name: str | None) -> DatasetBuilder:
    """The builder of a data set of the Hub; words of its CSV files such as `NA` are kept."""
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    builder = datasets.load_dataset_builder(path, name)
    _refuse_files_elsewhere(builder.config.data_files, path)
    if isinstance(builder.config, CsvConfig) and builder.config.keep_default_na:
        return datasets.load_dataset_builder(path, name, keep_default_na=False)
    return builder


def _refuse_files_elsewhere(data_files: Mapping[str, Sequence[str]] | None, path: str) -> None:
    """Refuse files that are not on the Hub, since a card may name files of this machine or of any server."""
    for files in (data_files or {}).values():
        for file in files:
            # a file in an archive has an address like zip://FILE::hf://datasets/..., in which the archive comes last
            if not file.split("::")[-1].startswith(_FILES):
                raise DataError(f"the card of {one_line(path)} names {one_line(file)}, which is not on the Hub.")
