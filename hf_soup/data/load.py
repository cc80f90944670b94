"""Loading of a `datasets.Dataset` from the name of a source, and slices of splits.

Models and file formats are unknown here. Data is a Hub id, a file, a folder in one of the layouts of
[`hf_soup.data.layouts`], a `package.module:function` that returns a data set (or a scikit-learn Bunch), or an existing
`Dataset`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from ..progress import library_bars
from ..untrusted import one_line
from .arrow_files import read_saved
from .classes import subset_of
from .functions import from_function, is_function, split_of
from .hub_data import load_from_hub
from .image_folders import images_of, read_image_folder
from .layouts import TABLES, configuration, entries, is_saved, is_table, refuse_leaving, source_of
from .places import place_of, refuse_missing_path
from .tables import READERS, read_tables


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

ON_HUB = "hf://datasets/"  # goes before a Hub id if a local folder has almost the same name


def load_data(path: str | Dataset | DatasetDict, *, split: str, name: str | None = None) -> Dataset:
    """Load one split.

    Args:
        path (`str`, `datasets.Dataset` or `datasets.DatasetDict`):
            A folder, a file, a Hub id (also `hf://datasets/OWNER/NAME`), or `package.module:function`; a `Dataset` is
            taken as it is, and `split` slices it.
        split (`str`):
            Split or slice to load, such as `"train"`, `"train[:1000]"` or `"train[:80%]"`.
        name (`str`, *optional*):
            The configuration of a Hub data set, or of a folder the one within it.

    Returns:
        `datasets.Dataset`

    Raises:
        [`DataError`]: if there is no such data or split, or it is empty.
    """
    import datasets

    split_name = without_slice(split)
    if isinstance(path, datasets.Dataset):
        dataset = path
    elif isinstance(path, datasets.DatasetDict):
        dataset = split_of(path, split_name, "the data")
    else:
        dataset = _from_place(place_of(path), name, split_name)
    if "[" in split:
        dataset = _slice(dataset, split)
    if not len(dataset):
        raise DataError(f"the split {split!r} of {path} is empty.")
    return dataset


def without_slice(split: str) -> str:
    """The name of a split without its slice: `train` of `train[:80%]`."""
    return split.partition("[")[0].strip()


def _from_place(path: str, name: str | None, split: str) -> Dataset:
    """One split of the data at a path or with a name."""
    # Local files take precedence over functions and the Hub, unless the Hub's address is given explicitly.
    if os.path.isdir(path):
        return _from_folder(Path(path), name, split)
    if os.path.isfile(path):
        return _from_file(Path(path))
    if path.startswith(ON_HUB):
        return load_from_hub(path.removeprefix(ON_HUB), name, split)
    if is_function(path):
        return from_function(path, split)
    refuse_missing_path(path)
    return load_from_hub(path, name, split)


def split_data_source(source: str, split: str) -> tuple[str, str | None, str]:
    """Split the command line's `PATH#SPLIT`; a Hub id may include its configuration: `nyu-mll/glue/sst2`.

    Args:
        source (`str`):
            Source as the user wrote it.
        split (`str`):
            Split to use where the source names none.

    Returns:
        `tuple[str, str | None, str]`: path, configuration and split.
    """
    path, _, named_split = source.partition("#")
    path = place_of(path)
    # OWNER/NAME/CONFIGURATION; a colon indicates hf://datasets/... or package.module:function
    has_configuration = path.count("/") == 2 and ":" not in path and not os.path.exists(path)
    if not has_configuration:
        return path, None, named_split or split
    dataset_id, _, configuration_name = path.rpartition("/")
    return dataset_id, configuration_name, named_split or split


def _from_folder(folder: Path, name: str | None, split: str) -> Dataset:
    """One split of a folder: `train.csv` is the split `train`; other names (`other_test.csv`) are not part of it."""
    folder = configuration(folder, name)
    if is_saved(folder):  # a single data set
        return read_saved(folder)
    paths = source_of(folder, split)
    if paths[0].is_dir():
        return _from_split_folder(paths[0])
    return _from_tables(paths)


def _from_split_folder(folder: Path) -> Dataset:
    """The folder of one split: a saved data set, images, or tables, which are read in the order of their names."""
    if is_saved(folder):
        return read_saved(folder)
    images = images_of(folder)
    tables = [path for path in entries(folder) if is_table(path)]
    if images or not tables:
        return read_image_folder(folder, images)
    for path in tables:
        refuse_leaving(path, folder)
    return _from_tables(tables)


def _from_file(path: Path) -> Dataset:
    """A single file, which has no splits."""
    if path.suffix.lower() not in READERS:
        raise DataError(f"{one_line(path)} is not a file of examples that can be read: {', '.join(sorted(TABLES))}.")
    return _from_tables([path])


@library_bars("datasets")
def _from_tables(paths: Sequence[Path]) -> Dataset:
    return read_tables(paths)


def _slice(dataset: Dataset, split: str) -> Dataset:
    """Hugging Face's split syntax, such as `train[100:200]` or `train[:20%]`, on rows in memory."""
    from datasets import ReadInstruction

    try:
        (instruction,) = ReadInstruction.from_spec(split).to_absolute({without_slice(split): len(dataset)})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{split!r} is not a slice of {len(dataset)} rows: {error}") from None
    stop = len(dataset) if instruction.to is None else instruction.to
    rows = range(instruction.from_ or 0, stop)
    if not rows:
        rows = range(0)  # datasets raises an IndexError for a slice that begins beyond the end
    return subset_of(dataset.select(rows), dataset)
