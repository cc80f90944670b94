"""Image classification: one image to one of several classes. Processed with PIL; torchvision is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..checkpoints.hub_errors import read_errors
from ..data.columns import UNSCORED, find_column, label_ids
from ..data.images import decode_image
from ..errors import DataError
from ..transforms import apply_transform, check_transform
from . import _heads as heads
from ._heads import class_names, ends_in


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
head = heads.head_of_classes
forward = heads.whole_rows


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for classes of whole images."""
    return ends_in(config, "ForImageClassification")


@read_errors(DataError, "the image processor cannot be read")
def load_processing_class(source: str, revision: str | None = None) -> BaseImageProcessor:
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


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of classes."""
    return find_column(dataset, given)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of images.

    Raises:
        [`DataError`]: if there is no such column or more than one.
    """
    import datasets

    images = []
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            images.append(column)
    if len(images) != 1:
        raise DataError(
            f"the data has {len(images)} columns of images among {', '.join(dataset.column_names)}; one is needed."
        )
    return images


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
    import datasets

    if hasattr(processing_class, "model_max_length") or not callable(processing_class):
        raise DataError(
            f"the data holds images, and {type(processing_class).__name__} is no image processor: pass the image "
            "processor of the model as processing_class."
        )
    (column,) = columns
    labelled = dataset.select_columns([column]).add_column("labels", labels.tolist())
    # undecoded bytes, because `datasets` would fail on an image that cannot be decoded
    undecoded = labelled.cast_column(column, datasets.Image(decode=False))
    return augmented(undecoded, {}, processing_class)


def augmented(encoded: Dataset, augment: Mapping[str, Any], processing_class: BaseImageProcessor) -> Dataset:
    """The same images with random changes, which are drawn each time that a row is read.

    numpy's global generator is used, which Trainer seeds and stores in its checkpoints.
    """
    (column,) = set(encoded.column_names) - {"labels"}
    return encoded.with_transform(
        partial(_process, column=column, augment=dict(augment), processing_class=processing_class)
    )


def _process(
    batch: dict[str, list[Any]], column: str, augment: Mapping[str, Any], processing_class: BaseImageProcessor
) -> dict[str, Any]:
    """A batch of images as model inputs, with their classes."""
    import numpy as np
    from PIL import Image

    images = []
    classes = list(batch["labels"])
    for index, encoded in enumerate(batch[column]):
        try:
            images.append(decode_image(encoded).convert("RGB"))
        except DataError:  # a black image keeps the batch complete
            images.append(Image.new("RGB", (32, 32)))
            classes[index] = UNSCORED
    if augment:
        # the module has the functions of a generator, and uses the global one
        generator = cast("np.random.Generator", np.random)
        images = [apply_transform(image, augment, generator) for image in images]
    return {**processing_class(images, return_tensors="pt"), "labels": classes}


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
