"""Functions that tasks with images share: image processors, columns of images, decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.hub_errors import read_errors
from ..data.images import decode_image
from ..errors import DataError, listed


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image
    from transformers import BaseImageProcessor


@read_errors(DataError, "the image processor cannot be read")
def load_image_processor(source: str, revision: str | None = None) -> BaseImageProcessor:
    """Load the image processor of a checkpoint.

    Raises:
        [`DataError`]: if the checkpoint has no image processor.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            source, revision=revision or "main", backend="pil", trust_remote_code=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{source} has no image processor that loads ({str(error).splitlines()[0]}). Save one beside it."
        ) from None


def image_column(dataset: Dataset, *, other_than: str | None = None) -> list[str]:
    """The column of images.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the examples.
        other_than (`str`, *optional*):
            Column that does not count, such as that of masks.

    Raises:
        [`DataError`]: if there is no such column or more than one.
    """
    import datasets

    images = []
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image) and column != other_than:
            images.append(column)
    if len(images) != 1:
        raise DataError(
            f"the data has {len(images)} columns of images among {listed(dataset.column_names)}; one is needed."
        )
    return images


def check_image_processor(processing_class: Any) -> None:
    """Raise an error if images are to be prepared without an image processor.

    Raises:
        [`DataError`]: if the processing class is something else, such as a tokenizer.
    """
    if hasattr(processing_class, "model_max_length") or not callable(processing_class):
        raise DataError(
            f"the data holds images, and {type(processing_class).__name__} is no image processor: pass the image "
            "processor of the model as processing_class."
        )


def undecoded(dataset: Dataset, column: str, name: str | None = None) -> Dataset:
    """The column of images as bytes or paths, because `datasets` would fail on one that does not decode.

    Args:
        dataset (`datasets.Dataset`), column (`str`):
            Data set with the examples, and its column of images.
        name (`str`, *optional*):
            Name of the column in the result; by default the same.
    """
    import datasets

    images = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return images if name in (None, column) else images.rename_column(column, name)


def open_images(encoded: Sequence[Any]) -> tuple[list[Image], list[bool]]:
    """Decode images to RGB.

    Args:
        encoded (`Sequence[Any]`):
            Images as [`hf_soup.data.images.decode_image`] takes them.

    Returns:
        `tuple[list[PIL.Image.Image], list[bool]]`: the images, and whether each could be decoded. One that could not
        is replaced by a black one, which keeps a batch complete.
    """
    from PIL import Image

    images, readable = [], []
    for each in encoded:
        try:
            images.append(decode_image(each).convert("RGB"))
            readable.append(True)
        except DataError:
            images.append(Image.new("RGB", (32, 32)))
            readable.append(False)
    return images, readable
