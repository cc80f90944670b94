"""Semantic segmentation: each pixel of an image to one of several classes.

Scores are computed on the masks as they are in the data, to which the outputs are enlarged, as a pipeline does it. Of
each image only counts are kept: for each class the pixels that have it, that the model says have it, and both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import find_column
from ..data.images import decode_mask
from ..errors import DataError, RecipeError
from ..progress import progress_bar
from . import _images as images
from . import image_classification
from ._heads import classes_head, ends_in
from ._images import check_image_processor, image_column, open_images, undecoded
from ._no_augmentation import unchanged


if TYPE_CHECKING:
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

# Functions shared with other tasks.
load_processing_class = images.load_image_processor
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


def check_augment(augment: Mapping[str, Any], processing_class: Any) -> None:
    """Refuse augmentation, since masks would have to change with their images.

    Raises:
        [`RecipeError`]: if there is any.
    """
    if augment:
        raise RecipeError("images with masks have no augmentation, because the masks would not change with them.")


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """Fields of the head for the classes in the masks, which are all read."""
    highest = 1
    for encoded in progress_bar(undecoded(dataset, label)[label], desc="Reading masks", unit="mask", delay=2):
        mask = decode_mask(encoded)
        highest = max(highest, int(mask[mask != IGNORED].max(initial=0)))
    return classes_head([f"LABEL_{index}" for index in range(highest + 1)])


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> Dataset:
    """The masks, undecoded."""
    masks = undecoded(dataset, label)
    return masks.rename_column(label, MASK) if label != MASK else masks


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
    pictures = undecoded(dataset, columns[0])
    pictures = pictures.rename_column(columns[0], IMAGE) if columns[0] != IMAGE else pictures
    return concatenate_datasets([pictures, labels], axis=1)


def collator(
    processing_class: BaseImageProcessor | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes a batch, with the masks in their own size."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch

        if processing_class is None:
            raise DataError("images are prepared by an image processor: pass Evaluator(..., processing_class=...).")
        processor: Any = processing_class
        pictures, readable = open_images([row[IMAGE] for row in rows])
        masks = []
        for row, picture, is_readable in zip(rows, pictures, readable, strict=True):
            mask = decode_mask(row[MASK]) if is_readable else np.full(picture.size[::-1], IGNORED)
            if mask.shape != picture.size[::-1]:
                raise DataError(f"a mask of {mask.shape} pixels belongs to an image of {picture.size[::-1]}.")
            masks.append(mask)
        batch = dict(processor(pictures, segmentation_maps=masks, return_tensors="pt"))
        if getattr(processor, "do_reduce_labels", False):  # 0 is the background, which does not count
            masks = [np.where(mask == 0, IGNORED, np.where(mask == IGNORED, IGNORED, mask - 1)) for mask in masks]
        return {
            **{name: value for name, value in batch.items() if name in inputs.names},
            "labels": batch["labels"].long(),
            "masks": masks,
            "readable": torch.tensor(readable),
            "post_process": processor.post_process_semantic_segmentation,
        }

    return collate


def forward(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each image the pixels of each class: those that are right, and those that the model says have it."""
    import numpy as np
    import torch

    masks, readable, post_process = (batch.pop(name) for name in ("masks", "readable", "post_process"))
    batch.pop("labels")
    outputs = model(**batch)
    # one by one, because the outputs of a whole batch in the size of the masks may be large
    counts, totals = [], []
    classes = outputs.logits.shape[1]
    for place, mask in enumerate(masks):
        if not readable[place]:
            continue
        own = type(outputs)(logits=outputs.logits[place : place + 1])
        (said,) = post_process(own, target_sizes=[mask.shape])
        is_scored = mask != IGNORED
        wrong = is_scored & ((mask < 0) | (mask >= classes))
        if wrong.any():
            raise DataError(f"a mask has the class {mask[wrong][0]}, and the model has {classes} classes from 0.")
        true, predicted = mask[is_scored], said.cpu().numpy()[is_scored]
        right = np.bincount(true[true == predicted], minlength=classes)
        counts.append(np.concatenate([right, np.bincount(predicted, minlength=classes)]))
        totals.append(np.bincount(true, minlength=classes))
    return (
        torch.tensor(np.array(counts), dtype=torch.float32).reshape(-1, 2 * classes),
        torch.tensor(np.array(totals), dtype=torch.long).reshape(-1, classes),
        readable.long(),
    )
