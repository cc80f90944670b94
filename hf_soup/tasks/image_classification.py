"""Image classification: one image to one of several classes. Processed with PIL; torchvision is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..transforms import apply_transform, check_transform


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import BaseImageProcessor

AUTO_CLASS = "AutoModelForImageClassification"
ARCHITECTURE = "ForImageClassification"
METRIC = "accuracy"


def load_processing_class(source: str, revision: str | None = None) -> BaseImageProcessor:
    """The image processor of a checkpoint.

    Raises:
        [`DataError`]: if it has none.
    """
    from transformers import AutoImageProcessor

    try:
        options = {"revision": revision or "main", "backend": "pil", "trust_remote_code": False}
        return AutoImageProcessor.from_pretrained(source, **options)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{source} has no image processor that loads ({str(error).splitlines()[0]}). Save one beside it."
        ) from None


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The one column of images.

    Raises:
        [`DataError`]: if there is none or more than one.
    """
    import datasets

    images = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        raise DataError(
            f"the data has {len(images)} columns of images among {', '.join(dataset.column_names)}; one is needed."
        )
    return images


def check_augment(augment: Mapping[str, Any]) -> None:
    """Augmentation is {transform: largest strength}.

    Raises:
        [`RecipeError`]: for what is no transform of images.
    """
    check_transform(augment)


def encode(
    dataset: Dataset,
    processing_class: BaseImageProcessor,
    columns: Sequence[str],
    label_ids: np.ndarray,
    augment: dict[str, Any] | None = None,
) -> Dataset:
    """Process images when they are asked for: memory does not grow with the data, and augmentation is drawn anew.

    Augmentation draws from numpy's global generator, which Trainer seeds and stores in its checkpoints.
    """
    import numpy as np

    (column,) = columns
    labelled = dataset.select_columns([column]).add_column("labels", label_ids.tolist())

    def process(batch: dict[str, list]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in batch[column]]
        if augment:
            images = [apply_transform(image, augment, np.random) for image in images]
        return {
            "pixel_values": processing_class(images, return_tensors="pt")["pixel_values"],
            "labels": batch["labels"],
        }

    return labelled.with_transform(process)


def collator(processing_class: BaseImageProcessor) -> Callable[[list[dict]], dict]:
    """Stack."""
    from transformers import default_data_collator

    return default_data_collator


def lengths(encoded: Dataset) -> None:
    """All images have one size."""
    return None
