"""Images that a data set refers to by path instead of containing them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DataError
from ..untrusted import one_line


if TYPE_CHECKING:
    from datasets import Dataset


def refuse_images_elsewhere(dataset: Dataset, source: str, folders: Sequence[str | os.PathLike[str]] = ()) -> Dataset:
    """Refuse images outside the data set and the given folders, and return the data set.

    Args:
        dataset (`datasets.Dataset`):
            Images or not.
        source (`str`):
            Name of the data in errors.
        folders (`Sequence[str]`, *optional*):
            Folders that image files may lie in.

    Raises:
        [`DataError`]: if one is another file, or an address.
    """
    import datasets
    import pyarrow.compute as pc

    roots = [os.path.realpath(folder) + os.sep for folder in folders]
    for column, feature in dataset.features.items():
        if not isinstance(feature, datasets.Image):
            continue
        images = dataset.data.column(column)
        content, paths = pc.struct_field(images, "bytes"), pc.struct_field(images, "path")
        outside = pc.and_(pc.is_null(content), pc.is_valid(paths))
        for path in paths.filter(outside).to_pylist():
            if not any(os.path.realpath(path).startswith(root) for root in roots):
                raise DataError(
                    f'{one_line(source)} does not hold the images of its column "{one_line(column)}", but names files '
                    f"or addresses, such as {one_line(path)}: save it with the images in it."
                )
    return dataset
