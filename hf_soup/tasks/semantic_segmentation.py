"""Semantic segmentation: each pixel of an image to one of several classes.

Scores are computed on the masks as they are in the data, to which the outputs are enlarged, as a pipeline does it. Of
each image only counts are kept: for each class the pixels that have it, that the model says have it, and both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.columns import find_column
from ..data.images import decode_mask
from ..errors import DataError, warn
from ..progress import progress_bar
from . import _images as images
from . import image_classification
from ._heads import ends_in
from ._images import check_image_processor, image_column, open_images, undecoded
from ._no_augmentation import refuse_augment, unchanged


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForSemanticSegmentation"
PIPELINE = "image-segmentation"
METRIC = "mean_iou"
KIND = "pixels"
BATCH_SIZE = 8
EXAMPLE: dict[str, list[Any]] = {
    "image": ["#ff0000", "#00ff00", "#0000ff"],  # each colour stands for an image of that colour
    "mask": ["#000000", "#010101", "#020202"],  # and each grey for a mask with that class
}
EXAMPLE_MODEL = "segformer"
USE = """
from transformers import pipeline

segment = pipeline("image-segmentation", model="{model}")
print(segment("picture.png"))
"""
MASKS = ("mask", "masks", "annotation", "segmentation_mask", "semantic_mask", "label", "labels")
IMAGE, MASK = "image", "mask"  # columns of encoded rows
IGNORED = 255  # the class of pixels that do not count
LOOKED_AT = 16  # masks that are looked at to find out whether they are black and white
TAKES_ENCODED = False

# Functions shared with other tasks.
load_processing_class = images.load_image_processor
check_augment = partial(refuse_augment, why="images with masks have no augmentation, which masks would not follow.")
augmented = unchanged
lengths = image_classification.lengths


def fits(config: PretrainedConfig) -> bool:
    """Whether the model is in transformers' list of those that give a class to each pixel."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

    return ends_in(config, *MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values())


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of masks.

    Raises:
        [`DataError`]: if it holds no images.
    """
    import datasets

    column = find_column(dataset, given, MASKS, role="mask")
    if not isinstance(dataset.features[column], datasets.Image):
        raise DataError(f'the column "{column}" holds {dataset.features[column]}, and masks are needed, as images.')
    return column


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of images."""
    return image_column(dataset, other_than=label)


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """The number of classes in the masks, which are all read.

    Raises:
        [`DataError`]: if there is only one class, or one has a number that image processors do not take.
    """
    highest = 0
    for encoded in progress_bar(undecoded(dataset, label)[label], desc="Reading masks", unit="mask", delay=2):
        mask = decode_mask(encoded)
        highest = max(highest, int(mask[mask != IGNORED].max(initial=0)))
    if not 0 < highest < IGNORED:
        raise DataError(
            f"the highest class in the masks is {highest}: classes are numbers from 0 to {IGNORED - 1}, and pixels "
            f"with {IGNORED} do not count."
        )
    return {"num_labels": highest + 1}


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> Dataset:
    """The masks, undecoded."""
    return undecoded(dataset, label, MASK)


def encode(
    dataset: Dataset,
    processing_class: BaseImageProcessor,
    columns: Sequence[str],
    labels: Dataset,
    inputs: ModelInputs,
) -> Dataset:
    """Images and masks, which are decoded for each batch, so that memory does not grow with the data.

    Raises:
        [`DataError`]: if a tokenizer was passed instead of an image processor.
    """
    from datasets import concatenate_datasets

    check_image_processor(processing_class)
    _tell_binary_masks(labels)
    pictures = undecoded(dataset, columns[0], IMAGE)
    return concatenate_datasets([pictures, labels], axis=1)


def _tell_binary_masks(masks: Dataset) -> None:
    """Warn if masks have a class 255 beside a background, as black and white images do: it would not count."""
    import numpy as np

    values: set[int] = set()
    for encoded in masks.select(range(min(LOOKED_AT, len(masks))))[MASK]:
        with contextlib.suppress(DataError):  # reported when the mask is scored
            values |= set(np.unique(decode_mask(encoded)).tolist())
    if values == {0, IGNORED}:
        warn(f"the masks hold only 0 and {IGNORED}, and pixels with {IGNORED} do not count: write 1 for the class.")


def collator(
    processing_class: BaseImageProcessor | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes a batch, with the masks in their own size."""
    return partial(_collate, processor=processing_class, names=inputs.names)


def _collate(rows: list[dict[str, Any]], processor: Any, names: frozenset[str]) -> dict[str, Any]:
    """Make a batch from some rows."""
    import numpy as np
    import torch

    pictures, masks, readable = _decoded(rows, processor)
    batch = processor(pictures, return_tensors="pt")
    if getattr(processor, "do_reduce_labels", False):  # 0 is the background, which does not count
        masks = [np.where((mask == 0) | (mask == IGNORED), IGNORED, mask - 1) for mask in masks]
    return {
        **{name: value for name, value in batch.items() if name in names},
        "masks": masks,
        "readable": torch.tensor(readable),
        "post_process": processor.post_process_semantic_segmentation,
    }


def training_collator(
    processing_class: BaseImageProcessor, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes a batch for training, with masks in the size of the model's inputs."""
    return partial(_collate_for_training, processor=processing_class, names=inputs.names)


def _collate_for_training(rows: list[dict[str, Any]], processor: Any, names: frozenset[str]) -> dict[str, Any]:
    """Make a batch for training from some rows."""
    from PIL.Image import Resampling

    pictures, masks, _ = _decoded(rows, processor)
    batch = processor(pictures, return_tensors="pt")
    # some processors resize masks as they do images, which mixes the numbers of classes
    resized = processor(pictures, segmentation_maps=masks, resample=Resampling.NEAREST, return_tensors="pt")
    inputs = {name: value for name, value in batch.items() if name in names}
    return {**inputs, "labels": resized["labels"].long()}


def _decoded(rows: list[dict[str, Any]], processor: Any) -> tuple[list[Any], list[np.ndarray], list[bool]]:
    """The images and masks of some rows, and whether each image could be decoded.

    Raises:
        [`DataError`]: if a mask has another size than its image.
    """
    import numpy as np

    if processor is None:
        raise DataError("images are prepared by an image processor: pass Evaluator(..., processing_class=...).")
    pictures, readable = open_images([row[IMAGE] for row in rows])
    masks = []
    for row, picture, is_readable in zip(rows, pictures, readable, strict=True):
        size = picture.size[::-1]
        mask = decode_mask(row[MASK]) if is_readable else np.full(size, IGNORED)
        if mask.shape != size:
            raise DataError(f"a mask of {mask.shape} pixels belongs to an image of {size}.")
        masks.append(mask)
    return pictures, masks, readable


def forward(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each image the pixels of each class: those that are right, and those that the model says have it."""
    import numpy as np
    import torch

    masks, readable, post_process = (batch.pop(name) for name in ("masks", "readable", "post_process"))
    outputs = model(**batch)
    # one by one, because the outputs of a whole batch in the size of the masks may be large
    counts, totals = [], []
    classes = outputs.logits.shape[1]
    for place, mask in enumerate(masks):
        if not readable[place]:
            continue
        own = type(outputs)(logits=outputs.logits[place : place + 1])
        (predicted,) = post_process(own, target_sizes=[mask.shape])
        is_scored = mask != IGNORED
        wrong = is_scored & ((mask < 0) | (mask >= classes))
        if wrong.any():
            raise DataError(f"a mask has the class {mask[wrong][0]}, and the model has {classes} classes from 0.")
        true, classes_of_pixels = mask[is_scored], predicted.cpu().numpy()[is_scored]
        right = np.bincount(true[true == classes_of_pixels], minlength=classes)
        counts.append(np.concatenate([right, np.bincount(classes_of_pixels, minlength=classes)]))
        totals.append(np.bincount(true, minlength=classes))
    return (
        torch.tensor(np.array(counts), dtype=torch.float32).reshape(-1, 2 * classes),
        torch.tensor(np.array(totals), dtype=torch.long).reshape(-1, classes),
        readable.long(),
    )
