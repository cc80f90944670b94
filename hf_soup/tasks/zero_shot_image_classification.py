"""Zero-shot image classification: models such as CLIP, which compare an image with a sentence for each class.

The sentence is "This is a photo of {}." with the name of the class, as in the pipeline of transformers. Classes belong
to the data, so one model can be scored on data sets with different classes. In sweeps both parts of a model are
trained, with the cross-entropy of these similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED, find_column, label_ids, label_names
from ..errors import DataError
from . import image_classification, text_generation
from ._heads import ends_in
from ._images import image_column
from ._processors import load_processor


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForZeroShotImageClassification"
PIPELINE = "zero-shot-image-classification"
METRIC = "accuracy"
KIND = "classes"
BATCH_SIZE = 128  # the sentences of all classes are read once for each batch
EXAMPLE: dict[str, list[Any]] = {
    "image": ["#ff0000", "#00ff00", "#0000ff", "#ffff00"],  # each colour stands for an image of that colour
    "label": ["good film", "bad", "very dull plot", "bad"],
}
EXAMPLE_MODEL = "clip"
USE = """
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="{model}")
print(classify("picture.png", candidate_labels=["a cat", "a dog"]))
"""
SENTENCE = "This is a photo of {}."
TAKES_ENCODED = False
OF_SIGLIP = 64  # tokens of a sentence

# Functions shared with other tasks.
load_processing_class = partial(load_processor, what="images and texts", backend="pil")
check_augment = image_classification.check_augment
lengths = image_classification.lengths
head = text_generation.head


def fits(config: PretrainedConfig) -> bool:
    """Whether the model is in transformers' list of those that compare images with texts."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return ends_in(config, *MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values())


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of classes.

    Raises:
        [`DataError`]: if the classes have no names.
    """
    column = find_column(dataset, given)
    if label_names(dataset, column) is None:
        raise DataError(
            f'the classes in the column "{column}" have no names, which images are compared with: cast it to a '
            "ClassLabel, or write the names."
        )
    return column


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of images."""
    return image_column(dataset)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> tuple[np.ndarray, list[str]]:
    """The class of each row in the numbering of the data, and the names of all classes."""
    names = label_names(dataset, label) or []
    return label_ids(dataset, label, dict(enumerate(names))), names


def encode(
    dataset: Dataset,
    processing_class: Any,
    columns: Sequence[str],
    labels: tuple[np.ndarray, list[str]],
    inputs: ModelInputs,
) -> Dataset:
    """Images, which are processed when rows are read, and the tokens of the sentences of all classes.

    Raises:
        [`DataError`]: if there is no tokenizer.
    """
    classes, names = labels
    of_images = getattr(processing_class, "image_processor", processing_class)
    encoded = image_classification.encode(dataset, of_images, columns, classes, inputs)
    tokenizer = getattr(processing_class, "tokenizer", None)
    if tokenizer is None:
        raise DataError(
            f"{type(processing_class).__name__} has no tokenizer for the names of classes: pass the processor of the "
            "model as processing_class."
        )
    padding: dict[str, Any] = {"padding": True}
    if "siglip" in type(processing_class).__name__.lower():  # as it was trained, and as in the pipeline
        padding = {"padding": "max_length", "max_length": OF_SIGLIP}
    texts = [SENTENCE.format(name) for name in names]
    sentences = tokenizer(texts, truncation=True, return_tensors="pt", **padding)
    process = partial(_process, column=columns[0], augment={}, sentences=dict(sentences), processing_class=of_images)
    return encoded.with_transform(process)


def augmented(encoded: Dataset, augment: Mapping[str, Any], processing_class: Any) -> Dataset:
    """The same images with random changes, which are drawn each time that a row is read."""
    process: Any = encoded.format["format_kwargs"]["transform"]
    return encoded.with_transform(partial(process, augment=dict(augment)))


def _process(
    batch: dict[str, list[Any]],
    column: str,
    augment: Mapping[str, Any],
    sentences: Mapping[str, torch.Tensor],
    processing_class: Any,
) -> dict[str, Any]:
    """A batch of images as model inputs, with their classes, and the same sentences for each."""
    processed = image_classification.process(batch, column, augment, processing_class)
    return {**processed, "sentences": [sentences] * len(batch[column])}


def collator(processing_class: Any, inputs: ModelInputs) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that stacks the images of rows, and adds the sentences of the classes once."""
    stack = image_classification.collator(processing_class, inputs)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sentences = rows[0]["sentences"]
        batch = stack([{name: value for name, value in row.items() if name != "sentences"} for row in rows])
        return {**batch, **{name: tensor for name, tensor in sentences.items() if name in inputs.names}}

    return collate


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The similarity of each image with the sentence of each class, as the model scales it."""
    classes = batch.pop("labels")
    is_scored = classes != UNSCORED
    logits = model(**batch).logits_per_image
    return logits[is_scored], classes[is_scored], is_scored.long()


def training_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """The loss that Trainer minimises: the cross-entropy of the similarities with the sentences of all classes.

    Args:
        outputs (`transformers.utils.ModelOutput`):
            Outputs of the model for a batch.
        labels (`torch.Tensor` of shape `(rows,)`):
            Classes; -100 for images that do not decode.
        num_items_in_batch (`int`, *optional*):
            Number of images in all batches of a step, over which Trainer takes the mean; by default those of this one.
    """
    import torch

    total = torch.nn.functional.cross_entropy(
        outputs["logits_per_image"], labels, ignore_index=UNSCORED, reduction="sum"
    )
    count = (labels != UNSCORED).sum() if num_items_in_batch is None else num_items_in_batch
    return total / max(int(count), 1)
