"""The supported layouts of data folders: which files belong to which split. No rows are read.

- `train.csv` (or `.tsv`, `.json`, `.jsonl`, `.parquet`), several `train-00000-of-00002.parquet`, or a folder `train/`
  with such files or with images; the same in a folder `data/`, as on the Hub;
- the output of `save_to_disk`, for one data set or for several splits;
- a folder for each configuration, which `name` selects.

`README.md` and scripts in the folder are not read. All files have to be in the folder: links that leave it are
refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import DataError, did_you_mean, listed
from ..untrusted import one_line, read_json
from .arrow_files import SAVED, SAVED_SPLITS


TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
ABOUT = ("dataset_info", "dataset_infos", "dataset_dict", "state", "config", "metadata")  # files that hold no split
ALIASES = {"train": ("training",), "validation": ("valid", "val", "dev"), "test": ("testing",)}
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")

Sources = dict[str, list[tuple[Path, ...]]]  # split -> its files or folder; several are an error


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a single data set written by `save_to_disk`."""
    return (folder / SAVED).is_file()


def splits_of(folder: Path) -> Sources:
    """The splits of a folder, with the files or the folder of each.

    Raises:
        [`DataError`]: if the folder cannot be read.
    """
    if (folder / SAVED_SPLITS).is_file():
        return _saved_splits(folder)
    splits = _listed_splits(folder)
    data = folder / "data"
    if data.is_dir():
        refuse_leaving(data, folder)
        splits = _listed_splits(data) | splits  # those of the top folder take precedence
    return splits


def find_split(names: Iterable[str], split: str) -> str | None:
    """The name of a split among the given names: itself, or else a usual synonym of it.

    Args:
        names (`Iterable[str]`):
            The splits that are there.
        split (`str`):
            Split to look for; `dev`, `val` and `valid` stand for `validation`.

    Returns:
        `str`, or `None` where there is none.

    Raises:
        [`DataError`]: if several are.
    """
    present = list(names)
    if split in present:
        return split
    aliases = [alias for alias in ALIASES.get(split, ()) if alias in present]
    if not aliases:
        return None
    if len(aliases) > 1:
        raise DataError(f'the data has no split "{split}", but {listed(aliases)}: name one of them.')
    return aliases[0]


def source_of(folder: Path, split: str) -> tuple[Path, ...]:
    """The files of a split, or its folder.

    Raises:
        [`DataError`]: if it is not there, not whole, or there twice.
    """
    splits = splits_of(folder)
    name = find_split(splits, split)
    if name is None:
        raise DataError(
            f"{one_line(folder)} has no file ({', '.join(TABLES)}) or folder for the split "
            f'"{one_line(split)}"{did_you_mean(split, splits)}{_hint(folder, splits)}'
        )
    sources = splits[name]
    if len(sources) > 1:
        names = [str(paths[0].relative_to(folder)) for paths in sources]
        raise DataError(f'{one_line(folder)} has several sources for the split "{name}": {listed(names)}. Keep one.')
    (paths,) = sources
    _refuse_missing_shards(paths)
    for path in paths:
        refuse_leaving(path, folder)
    return paths


def configuration(folder: Path, name: str | None) -> Path:
    """The folder of a configuration; the top folder if none is named.

    Raises:
        [`DataError`]: if there is no such folder.
    """
    if name is None:
        return folder
    folders = [path.name for path in entries(folder) if path.is_dir()]
    if name not in folders:
        raise DataError(
            f'{one_line(folder)} has no folder for the configuration "{one_line(name)}"{did_you_mean(name, folders)}'
        )
    refuse_leaving(folder / name, folder)
    return folder / name


def entries(folder: Path) -> list[Path]:
    """The contents of a folder, sorted by name, without hidden files.

    Raises:
        [`DataError`]: if it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))
    except OSError as error:
        raise DataError(f"{one_line(folder)} cannot be read: {error.strerror}.") from None


def is_table(path: Path) -> bool:
    """Whether a file name has the extension of a table."""
    return path.suffix.lower() in TABLES


def refuse_leaving(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of a folder; links of the Hub's cache to its own blobs are accepted.

    Raises:
        [`DataError`]: if it does.
    """
    target = Path(os.path.realpath(path))
    root = Path(os.path.realpath(folder))
    if target.is_relative_to(root) or target.is_relative_to(_blobs(root)):
        return
    raise DataError(
        f"{one_line(path)} is a link out of {one_line(folder)}, and data of a folder is read from that folder alone: "
        "copy it there."
    )


def _blobs(root: Path) -> Path:
    """The folder with the files of a snapshot in the Hub's cache; the folder itself if it is not a snapshot."""
    from huggingface_hub import constants

    # CACHE/datasets--OWNER--NAME/snapshots/COMMIT/FILE is a link into CACHE/datasets--OWNER--NAME/blobs.
    cache = Path(os.path.realpath(constants.HF_HUB_CACHE))
    if not root.is_relative_to(cache) or root == cache:
        return root
    return cache / root.relative_to(cache).parts[0] / "blobs"


def _listed_splits(folder: Path) -> Sources:
    """The splits of the folders and files directly in one folder."""
    splits: Sources = {}
    shards: dict[tuple[str, str, str], list[Path]] = {}  # (split, extension, number of files) -> its files
    for path in entries(folder):
        if path.is_dir():
            splits.setdefault(path.name, []).append((path,))
            continue
        if not is_table(path) or path.stem in ABOUT:
            continue
        shard = _SHARD.fullmatch(path.stem)
        if shard is None:
            splits.setdefault(path.stem, []).append((path,))
        else:
            key = (shard["split"], path.suffix.lower(), shard["count"])
            shards.setdefault(key, []).append(path)
    for (split, _, _), paths in shards.items():
        splits.setdefault(split, []).append(tuple(paths))
    return splits


def _refuse_missing_shards(paths: tuple[Path, ...]) -> None:
    """Refuse an incomplete set of shards, such as only `train-00000-of-00002.parquet`."""
    shard = _SHARD.fullmatch(paths[0].stem)
    if shard is not None and len(paths) != int(shard["count"]):
        raise DataError(
            f'{one_line(paths[0].parent)} has {len(paths)} of the {int(shard["count"])} files of "{shard["split"]}", '
            f"such as {one_line(paths[0].name)}."
        )


def _saved_splits(folder: Path) -> Sources:
    """The splits that `DatasetDict.save_to_disk` wrote, each in a folder named after it."""
    content = read_json(folder / SAVED_SPLITS, error_class=DataError)
    names = None
    if isinstance(content, dict):
        names = content.get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{one_line(folder / SAVED_SPLITS)} has no list of splits.")
    for name in names:
        if Path(name).name != name or not is_saved(folder / name):
            raise DataError(
                f'{one_line(folder / SAVED_SPLITS)} names the split "{one_line(name)}", which the folder lacks.'
            )
    return {name: [(folder / name,)] for name in names}


def _hint(folder: Path, splits: Mapping[str, object]) -> str:
    """What else a folder without the split contains that may have been meant."""
    packed = [path.name for path in entries(folder) if path.suffix.lower() in PACKED]
    if packed:
        return f". {listed(packed, 3)}: compressed files are not read; unpack them"
    if _has_tables(folder):
        return ""
    configurations = [folder / name for name in splits if _has_tables(folder / name)]
    if configurations:
        return f". Where these are configurations, give one as name, or as the folder {configurations[0]}"
    return ""


def _has_tables(folder: Path) -> bool:
    return folder.is_dir() and any(is_table(path) for path in entries(folder))
