"""Speech recognition by connectionist temporal classification (CTC): a sound to its text.

Scores use the probability of the right text, over all ways to spread its letters over time, or the text that the model
hears: the likeliest letter at each time, which is how such models are decoded without a language model.

Source: Graves et al. 2006, [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.hub_errors import read_errors
from ..data.columns import UNSCORED, find_column, is_text
from ..errors import DataError, EvaluationError
from . import _audio as audio
from . import text_generation
from ._audio import sound_column, sounds_of, with_sounds
from ._heads import ends_in
from ._no_augmentation import unchanged


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForCTC"
PIPELINE = "automatic-speech-recognition"
METRIC = "wer"
KIND = "tokens"
BATCH_SIZE = 8
TEXTS = ("text", "transcription", "transcript", "sentence", "normalized_text")
SOUNDS = ((1, 400), (2, 560), (3, 480))  # steepness and length of the waves of the example
EXAMPLE: dict[str, list[Any]] = {
    "audio": [[0.1 * ((step * slope) % 7 - 3) for step in range(length)] for slope, length in SOUNDS],
    "text": ["GOOD", "A FILM", "BAD"],
}
EXAMPLE_MODEL = "wav2vec2"
USE = """
import numpy as np
from transformers import pipeline

hear = pipeline("automatic-speech-recognition", model="{model}")
print(hear(np.zeros(16_000, dtype=np.float32)))  # or the path of a file
"""

# Functions shared with other tasks.
check_augment = audio.check_augment
augmented = unchanged
lengths = audio.lengths
head = text_generation.head


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for CTC."""
    return ends_in(config, "ForCTC")


@read_errors(DataError, "the processor cannot be read")
def load_processing_class(source: str, revision: str | None = None) -> Any:
    """Load the feature extractor of a checkpoint together with its tokenizer.

    Raises:
        [`DataError`]: if the checkpoint lacks one of them.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} has no processor of sounds and texts that loads ({reason}).") from None


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of texts.

    Raises:
        [`DataError`]: if the column has other values.
    """
    column = find_column(dataset, given, TEXTS)
    if not is_text(dataset, column):
        raise DataError(f'the column "{column}" holds {dataset.features[column]}, and the right texts are needed.')
    return column


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of sounds."""
    return sound_column(dataset, given)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> list[str]:
    """The texts."""
    return [text or "" for text in dataset[label]]


def references(dataset: Dataset, label: str) -> tuple[str, ...]:
    """The texts."""
    return tuple(text or "" for text in dataset[label])


def encode(
    dataset: Dataset, processing_class: Any, columns: Sequence[str], labels: list[str], inputs: ModelInputs
) -> Dataset:
    """Sounds with their lengths and the letters of their texts.

    Raises:
        [`DataError`]: if there is no tokenizer.
    """
    tokenizer = getattr(processing_class, "tokenizer", None)
    if tokenizer is None:
        raise DataError(
            f"{type(processing_class).__name__} has no tokenizer for the texts: pass the processor of the model as "
            "processing_class."
        )
    letters = [tokenizer(text)["input_ids"] for text in labels]
    return with_sounds(dataset, columns[0], letters, processing_class)


def collator(processing_class: Any, inputs: ModelInputs) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that makes a batch of sounds, with letters padded with -100."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        letters = [torch.tensor(row["labels"], dtype=torch.long) for row in rows]
        padded = pad_sequence(letters, batch_first=True, padding_value=UNSCORED)
        return {**sounds_of(rows, processing_class, inputs), "labels": padded}

    return collate


def forward(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The log-probability of each text, divided by its number of letters."""
    import torch

    letters = batch.pop("labels")
    counts = (letters != UNSCORED).sum(dim=1)
    logs = model(**batch).logits.float().log_softmax(dim=-1)
    losses = torch.nn.functional.ctc_loss(
        logs.transpose(0, 1),
        letters[letters != UNSCORED],
        _times(model, batch, logs),
        counts,
        blank=model.config.pad_token_id,
        reduction="none",
        zero_infinity=model.config.ctc_zero_infinity,
    )
    return -losses / counts.clamp(min=1), counts, torch.ones_like(counts)


def _times(model: Any, batch: dict[str, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """For how many times each sound has outputs; those of padding come after."""
    import torch

    mask = batch.get("attention_mask")
    if mask is None:
        return torch.full((len(logits),), logits.shape[1], device=logits.device)
    times: torch.Tensor = model._get_feat_extract_output_lengths(mask.sum(dim=-1))
    return times.long()


def generate(model: Any, batch: dict[str, torch.Tensor], processing_class: Any, **options: Any) -> list[str]:
    """The text of the likeliest letters.

    Raises:
        [`EvaluationError`]: if there are options, since nothing is generated step by step.
    """
    import torch

    if options:
        raise EvaluationError(f"models with CTC generate nothing step by step: leave {', '.join(options)} out.")
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs).logits
    is_padding = torch.arange(logits.shape[1], device=logits.device) >= _times(model, inputs, logits)[:, None]
    letters = logits.argmax(dim=-1).masked_fill(is_padding, model.config.pad_token_id)
    return list(processing_class.batch_decode(letters))
