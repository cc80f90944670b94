"""Audio classification: one sound to one of several classes, such as a command, a language or a speaker's mood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import find_column, label_ids
from . import _audio as audio
from . import _heads as heads
from ._audio import sound_column, with_sounds
from ._heads import class_names, classifies_sounds
from ._no_augmentation import unchanged


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForAudioClassification"
PIPELINE = "audio-classification"
METRIC = "accuracy"
KIND = "classes"
BATCH_SIZE = 8
TONES = ((0.1, 300), (1, 420), (2, 360))  # heights and lengths
EXAMPLE: dict[str, list[Any]] = {
    "audio": [[math.sin(height * step) for step in range(count)] for height, count in TONES],
    "label": [0, 1, 2],
}
EXAMPLE_MODEL = "wav2vec2"
USE = """
import numpy as np
from transformers import pipeline

classify = pipeline("audio-classification", model="{model}")
print(classify(np.zeros(16_000, dtype=np.float32)))  # or the path of a file
"""

# Functions shared with other tasks.
load_processing_class = audio.load_feature_extractor
check_augment = audio.check_augment
augmented = unchanged
collator = audio.collator
lengths = audio.lengths
head = heads.head_of_classes
forward = heads.whole_rows


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for classes of whole sounds."""
    return classifies_sounds(config)


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of classes."""
    return find_column(dataset, given)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of sounds."""
    return sound_column(dataset, given)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """The class of each row."""
    return label_ids(dataset, label, class_names(config))


def encode(
    dataset: Dataset, processing_class: Any, columns: Sequence[str], labels: np.ndarray, inputs: ModelInputs
) -> Dataset:
    """Sounds with their lengths and classes; they are decoded for each batch."""
    return with_sounds(dataset, columns[0], labels.tolist(), processing_class)
