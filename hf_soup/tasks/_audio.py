"""Functions that tasks with sounds share: feature extractors, columns of sounds, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checkpoints.hub_errors import read_errors
from ..data.audio import decode_audio
from ..data.columns import is_list
from ..errors import DataError, listed, warn
from ..progress import library_bars
from ._no_augmentation import refuse_augment


if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from ._model_inputs import ModelInputs

SOUND, SAMPLES = "sound", "samples"  # columns of encoded rows: what is decoded for a batch, and its length
check_augment = partial(
    refuse_augment, why="sounds have no augmentation; models such as Wav2Vec2 mask them by their configuration."
)
SOUNDS = ("audio", "sound", "speech", "array", "input_values")  # usual names of columns of samples


@read_errors(DataError, "the feature extractor cannot be read")
def load_feature_extractor(source: str, revision: str | None = None) -> Any:
    """Load the feature extractor of a checkpoint.

    Raises:
        [`DataError`]: if the checkpoint has none.
    """
    from transformers import AutoFeatureExtractor

    try:
        return AutoFeatureExtractor.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} has no feature extractor that loads ({reason}). Save one beside it.") from None


def sound_column(dataset: Dataset, given: Sequence[str] | None) -> list[str]:
    """The column of sounds: of the type `datasets.Audio`, or lists of samples.

    Raises:
        [`DataError`]: if there is none, or more than one.
    """
    import datasets

    found = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Audio)]
    found = found or [name for name in SOUNDS if name in dataset.column_names and is_list(dataset, name)]
    if given:
        found = [given] if isinstance(given, str) else list(given)
    if len(found) != 1 or found[0] not in dataset.column_names:
        raise DataError(
            f"the data has {len(found)} columns of sounds among {listed(dataset.column_names)}; one is needed, of the "
            "type datasets.Audio or with lists of samples."
        )
    return found


@library_bars("datasets")
def with_sounds(dataset: Dataset, column: str, labels: Any, processing_class: Any) -> Dataset:
    """Rows with undecoded sounds, so that memory does not grow with the data, their lengths and labels.

    Raises:
        [`DataError`]: if a sound does not decode, or there is no feature extractor.
    """
    import datasets

    rate = _rate_of(processing_class)
    if rate is None:
        raise DataError(
            f"the data holds sounds, and {type(processing_class).__name__} is no feature extractor: pass that of the "
            "model as processing_class."
        )
    rows = dataset.select_columns([column])
    if isinstance(dataset.features[column], datasets.Audio):
        rows = rows.cast_column(column, datasets.Audio(decode=False))
    counts = []
    for row, encoded in enumerate(rows[column]):
        try:
            counts.append(len(decode_audio(encoded, rate)))
        except DataError as error:
            raise DataError(f"row {row}: {error}") from None
    _tell_cut_sounds(counts, processing_class, rate)
    rows = rows.rename_column(column, SOUND) if column != SOUND else rows
    return rows.add_column(SAMPLES, counts).add_column("labels", labels)


def lengths(encoded: Dataset) -> list[int]:
    """The number of samples of each row."""
    return list(encoded[SAMPLES])


def collator(processing_class: Any, inputs: ModelInputs) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that decodes the sounds of some rows, and makes a batch that is as long as the longest."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        import torch

        labels = torch.tensor([row["labels"] for row in rows])
        return {**sounds_of(rows, processing_class, inputs), "labels": labels}

    return collate


def sounds_of(rows: list[dict[str, Any]], processing_class: Any, inputs: ModelInputs) -> dict[str, torch.Tensor]:
    """The sounds of some rows as one batch, without labels.

    Raises:
        [`DataError`]: if there is no feature extractor.
    """
    rate = _rate_of(processing_class)
    if rate is None:
        raise DataError("sounds are prepared by a feature extractor: pass Evaluator(..., processing_class=...).")
    sounds = [decode_audio(row[SOUND], rate) for row in rows]
    padding = True if _samples_heard(processing_class) is None else "max_length"
    extractor = getattr(processing_class, "feature_extractor", processing_class)
    batch = extractor(sounds, sampling_rate=rate, padding=padding, return_tensors="pt")
    return {name: tensor for name, tensor in batch.items() if name in inputs.names}


def _samples_heard(processing_class: Any) -> int | None:
    """The number of samples that each sound is filled up or cut to, as in Whisper; `None` if there is none."""
    extractor = getattr(processing_class, "feature_extractor", processing_class)
    return getattr(extractor, "n_samples", None)


def _tell_cut_sounds(counts: Sequence[int], processing_class: Any, rate: int) -> None:
    """Warn of sounds that are longer than the model hears."""
    heard = _samples_heard(processing_class)
    longer = sum(heard is not None and count > heard for count in counts)
    if heard is not None and longer:
        warn(
            f"{longer} of {len(counts)} sounds are longer than {heard / rate:g} seconds, which is all that the model "
            "hears: split them."
        )


def _rate_of(processing_class: Any) -> int | None:
    """The rate of a feature extractor, or of that in a processor; `None` if it is none."""
    extractor = getattr(processing_class, "feature_extractor", processing_class)
    return getattr(extractor, "sampling_rate", None)
