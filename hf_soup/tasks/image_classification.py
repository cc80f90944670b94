"""Image classification: one image to one of several classes. Processed with PIL; torchvision is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..data.columns import UNSCORED, find_column, label_ids
from ..transforms import apply_transform, check_transform
from . import _heads as heads
from . import _images as images
from ._heads import class_names, ends_in
from ._images import check_image_processor, image_column, open_images, undecoded


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import BaseImageProcessor, PretrainedConfig

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForImageClassification"
PIPELINE = "image-classification"
METRIC = "accuracy"
KIND = "classes"
BATCH_SIZE = 64
EXAMPLE: dict[str, list[Any]] = {
    "image": ["#ff0000", "#00ff00", "#0000ff", "#ffff00"],  # each colour stands for an image of that colour
    "label": [0, 1, 2, 0],
}
EXAMPLE_MODEL = "vit"
USE = """
from transformers import pipeline

classify = pipeline("image-classification", model="{model}")
print(classify("picture.png"))
"""

# Functions shared with other tasks.
load_processing_class = images.load_image_processor
head = heads.head_of_classes
forward = heads.whole_rows


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for classes of whole images."""
    return ends_in(config, "ForImageClassification")


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of classes."""
    return find_column(dataset, given)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of images."""
    return image_column(dataset)


def check_augment(augment: Mapping[str, Any], processing_class: BaseImageProcessor) -> None:
    """Check augmentations, which are a mapping of transforms to their largest strengths.

    Raises:
        [`RecipeError`]: for unknown transforms of images.
    """
    check_transform(augment)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """The class of each row."""
    return label_ids(dataset, label, class_names(config))


def encode(
    dataset: Dataset,
    processing_class: BaseImageProcessor,
    columns: Sequence[str],
    labels: np.ndarray,
    inputs: ModelInputs,
) -> Dataset:
    """Process images when rows are read, so that memory does not grow with the data.

    An image that cannot be decoded is replaced by a black one with the label -100, which is neither learned nor
    scored.

    Raises:
        [`DataError`]: if a tokenizer was passed instead of an image processor.
    """
    check_image_processor(processing_class)
    (column,) = columns
    labelled = undecoded(dataset, column).add_column("labels", labels.tolist())
    return augmented(labelled, {}, processing_class)


def augmented(encoded: Dataset, augment: Mapping[str, Any], processing_class: BaseImageProcessor) -> Dataset:
    """The same images with random changes, which are drawn each time that a row is read.

    numpy's global generator is used, which Trainer seeds and stores in its checkpoints.
    """
    (column,) = set(encoded.column_names) - {"labels"}
    return encoded.with_transform(
        partial(process, column=column, augment=dict(augment), processing_class=processing_class)
    )


def process(
    batch: dict[str, list[Any]], column: str, augment: Mapping[str, Any], processing_class: BaseImageProcessor
) -> dict[str, Any]:
    """A batch of images as model inputs, with their classes."""
    import numpy as np

    pictures, readable = open_images(batch[column])
    classes = [
        label if is_readable else UNSCORED for label, is_readable in zip(batch["labels"], readable, strict=True)
    ]
    if augment:
        # the module has the functions of a generator, and uses the global one
        generator = cast("np.random.Generator", np.random)
        pictures = [apply_transform(image, augment, generator) for image in pictures]
    return {**processing_class(pictures, return_tensors="pt"), "labels": classes}


def collator(
    processing_class: BaseImageProcessor | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that stacks the model inputs of rows."""
    return partial(_stack, names=inputs.names)


def _stack(rows: list[dict[str, Any]], names: frozenset[str]) -> dict[str, torch.Tensor]:
    """Make a batch from some rows."""
    from transformers import default_data_collator

    taken_rows = []
    for row in rows:
        taken_rows.append({name: value for name, value in row.items() if name in names or name == "labels"})
    return default_data_collator(taken_rows)


def lengths(encoded: Dataset) -> None:
    """`None`, because all images have the same size."""
    return None
