"""Folders of images as data sets, with a subfolder per class or a `metadata` file with a row per image.

The images are listed, not opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import DataError, listed, warn
from ..untrusted import as_error, one_line
from .layouts import is_table, refuse_leaving
from .tables import read_tables


if TYPE_CHECKING:
    from datasets import Dataset

METADATA, FILE_NAME = "metadata", "file_name"


def images_of(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted by path, without hidden files.

    Raises:
        [`DataError`]: if a link leads out of the folder.
    """
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    endings = {ending.lower() for ending in ImageFolder.EXTENSIONS}
    return sorted((path for path in _files(folder) if path.suffix.lower() in endings), key=str)


def read_image_folder(folder: Path, images: list[Path] | None = None) -> Dataset:
    """The images of a folder in the column `image`, and their folders in `label` if these are classes.

    Args:
        folder (`Path`):
            Folder of one split.
        images (`list[Path]`, *optional*):
            Result of [`images_of`], where it was computed already.

    Raises:
        [`DataError`]: if there are none, or a metadata file names one that is not there.
    """
    # Absolute, because the data set stores the paths, and the images are opened later and perhaps elsewhere.
    folder = Path(os.path.abspath(folder))
    if images is None:
        images = images_of(folder)
    else:
        images = [Path(os.path.abspath(path)) for path in images]
    tables = [path for path in _files(folder) if is_table(path) and path.stem == METADATA]
    if not images:
        raise DataError(f"{one_line(folder)} holds neither tables of examples nor images.")
    if tables:
        return _with_metadata(folder, images, tables)
    return _with_folders_as_classes(images)


def _with_folders_as_classes(images: list[Path]) -> Dataset:
    """Images labelled with the names of their folders, if there are several folders at the same depth."""
    import datasets

    columns: dict[str, Any] = {"image": [str(path) for path in images]}
    features: dict[str, Any] = {"image": datasets.Image()}
    classes = sorted({path.parent.name for path in images})
    depths = {len(path.parts) for path in images}
    if len(classes) > 1 and len(depths) == 1:  # folders at different depths are not classes
        index_of = {name: index for index, name in enumerate(classes)}
        columns["label"] = [index_of[path.parent.name] for path in images]
        features["label"] = datasets.ClassLabel(names=classes)
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def _with_metadata(folder: Path, images: list[Path], tables: list[Path]) -> Dataset:
    """The rows of the metadata files, with the images in place of their file names."""
    import datasets

    loaded: list[Dataset] = []
    named_images: set[Path] = set()
    for table in sorted(tables, key=str):
        rows = read_tables([table])
        if FILE_NAME not in rows.column_names:
            raise DataError(f'{one_line(table)} has no column "{FILE_NAME}" with the name of each image.')
        paths = [_image_of_row(table, row, name) for row, name in enumerate(rows[FILE_NAME])]
        named_images.update(paths)
        loaded.append(_with_images(rows, paths))
    unnamed = [str(path.relative_to(folder)) for path in images if path not in named_images]
    if unnamed:
        warn(
            f"{len(unnamed)} of {len(images)} images of {one_line(folder)} are in no {METADATA} file and left out: "
            f"{one_line(listed(unnamed, 5))}."
        )
    with as_error(DataError, f"the {METADATA} files of {one_line(folder)} cannot be joined"):
        return datasets.concatenate_datasets(loaded)


def _with_images(rows: Dataset, paths: list[Path]) -> Dataset:
    """The rows of a metadata file with the column `image` in place of the file names."""
    import datasets

    columns: dict[str, list[Any]] = {}
    features: dict[str, Any] = {}
    for name, feature in rows.features.items():
        if name == FILE_NAME:
            columns["image"] = [str(path) for path in paths]
            features["image"] = datasets.Image()
        elif name != "image":  # such a column would replace the images
            columns[name] = rows[name][:]
            features[name] = feature
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


def _image_of_row(table: Path, row: int, name: Any) -> Path:
    """The image that a row of a metadata file names, which is in the folder of that file or below."""
    pure = PurePosixPath(str(name).replace(os.sep, "/"))
    if not name or pure.is_absolute() or ".." in pure.parts or "://" in str(name):
        raise DataError(f'{one_line(table)}, row {row}: "{one_line(name)}" is not a path below its folder.')
    path = table.parent / pure
    if not path.is_file():
        raise DataError(f'{one_line(table)}, row {row}: there is no file "{one_line(name)}" beside it.')
    return path


def _files(folder: Path) -> Iterable[Path]:
    """Regular files below a folder, without hidden ones. Links have to stay inside; folder links are skipped."""
    pending = [folder]
    while pending:
        with as_error(DataError, f"{one_line(folder)} cannot be read"):
            entries = list(os.scandir(pending.pop()))
        for entry in entries:
            if entry.name.startswith((".", "__")):
                continue
            if entry.is_symlink():
                refuse_leaving(Path(entry.path), folder)
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)
