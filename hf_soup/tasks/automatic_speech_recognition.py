"""Speech recognition: a sound to its text, by connectionist temporal classification (CTC) or by a decoder.

Scores use the text that the model hears, or the probability of the right one. With CTC (Wav2Vec2, HuBERT ...) these
are the likeliest letter at each time, as such models are decoded without a language model, and the probability over
all ways to spread the letters over time. A decoder (Whisper, Speech2Text ...) writes its text token by token.

Source: Graves et al. 2006, [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED, find_column, is_text
from ..errors import DataError, EvaluationError
from . import _audio as audio
from ._audio import sound_column, sounds_of, with_sounds
from ._heads import ends_in
from ._no_augmentation import unchanged
from ._processors import load_processor
from ._text import call_tokenizer, right_tokens


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ._model_inputs import ModelInputs

AUTO_CLASS = ("AutoModelForCTC", "AutoModelForSpeechSeq2Seq")
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
load_processing_class = partial(load_processor, what="sounds and texts")
check_augment = audio.check_augment
augmented = unchanged
lengths = audio.lengths


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for CTC, or is in transformers' list of encoder-decoders of speech."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        return ends_in(config, *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values())
    return ends_in(config, "ForCTC")


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """The mean over letters as the loss of CTC; the default, a sum, grows with the length of texts."""
    return {"ctc_loss_reduction": "mean"}


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
    """Sounds with their lengths and the letters or tokens of their texts.

    Raises:
        [`DataError`]: if there is no tokenizer.
    """
    tokenizer = getattr(processing_class, "tokenizer", None)
    if tokenizer is None:
        raise DataError(
            f"{type(processing_class).__name__} has no tokenizer for the texts: pass the processor of the model as "
            "processing_class."
        )
    encoded = []
    for ids in call_tokenizer(tokenizer, labels, limit=inputs.target_positions)["input_ids"]:
        # the model puts it there itself
        encoded.append(ids[1:] if len(ids) > 1 and ids[0] == inputs.decoder_start else ids)
    return with_sounds(dataset, columns[0], encoded, processing_class)


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
    """The log-probability of each text, divided by its number of letters; of each token, if a decoder writes."""
    if _writes(model):
        return right_tokens(model(**batch).logits, batch["labels"])
    return _by_ctc(model, batch, _letters(model, batch))


def all_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the tokens that a decoder writes.

    Raises:
        [`EvaluationError`]: for CTC, whose letters have no places.
    """
    if not _writes(model):
        raise EvaluationError(
            "Fisher information of CTC, whose letters have no places, is not estimated; "
            'kind="gram" (for regmean) works.'
        )
    logits: torch.Tensor = model(**batch).logits[batch["labels"] != UNSCORED]
    return logits


def write(
    model: Any, batch: dict[str, torch.Tensor], processing_class: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """The outputs of `forward`, and the texts: of the likeliest letters, or as the decoder writes them.

    Args:
        model (`transformers.PreTrainedModel`), batch (`dict[str, torch.Tensor]`):
            The arguments of `forward`.
        processing_class (`transformers.ProcessorMixin`):
            Processor of the model.
        options:
            Options of `model.generate`, such as `max_new_tokens`, or for Whisper `language`.

    Raises:
        [`EvaluationError`]: if there are options for a model with CTC, which generates nothing step by step.
    """
    import torch

    if _writes(model):
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        texts = processing_class.batch_decode(model.generate(**inputs, **options), skip_special_tokens=True)
        return *forward(model, batch), list(texts)
    if options:
        raise EvaluationError(f"models with CTC generate nothing step by step: leave {', '.join(options)} out.")
    logits = _letters(model, batch)
    is_padding = torch.arange(logits.shape[1], device=logits.device) >= _times(model, batch, logits)[:, None]
    letters = logits.argmax(dim=-1).masked_fill(is_padding, model.config.pad_token_id)
    return *_by_ctc(model, batch, logits), list(processing_class.batch_decode(letters))


def _writes(model: Any) -> bool:
    """Whether a model has a decoder, which writes its texts token by token."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _letters(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the letters at each time."""
    logits: torch.Tensor = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    return logits


def _by_ctc(
    model: Any, batch: Mapping[str, torch.Tensor], logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The log-probability of each text, over all ways to spread its letters over time."""
    import torch

    letters = batch["labels"]
    counts = (letters != UNSCORED).sum(dim=1)
    losses = torch.nn.functional.ctc_loss(
        logits.float().log_softmax(dim=-1).transpose(0, 1),
        letters[letters != UNSCORED],
        _times(model, batch, logits),
        counts,
        blank=model.config.pad_token_id,
        reduction="none",
        zero_infinity=model.config.ctc_zero_infinity,
    )
    return -losses / counts.clamp(min=1), counts, torch.ones_like(counts)


def _times(model: Any, batch: Mapping[str, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """For how many times each sound has outputs; those of padding come after."""
    import torch

    mask = batch.get("attention_mask")
    if mask is None:
        return torch.full((len(logits),), logits.shape[1], device=logits.device)
    times: torch.Tensor = model._get_feat_extract_output_lengths(mask.sum(dim=-1))
    return times.long()
