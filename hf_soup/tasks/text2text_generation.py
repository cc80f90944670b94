"""Sequence to sequence: a text to another, such as a summary or a translation.

Scores use the probability of each token of the reference text or, on request, generated texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED, find_column, is_list, is_text
from ..data.text_columns import choose_columns
from ..errors import DataError
from . import _text as tokens
from . import text_generation
from ._boxes import box_column
from ._heads import ends_in
from ._padding import pad_collator
from ._text import call_tokenizer, most_tokens, right_tokens, tokenize


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForSeq2SeqLM"
PIPELINE = "text2text-generation"
METRIC = "loss"
KIND = "tokens"
BATCH_SIZE = 8  # logits of a whole vocabulary for each token
TARGETS = ("target", "targets", "labels", "label", "summary", "highlights", "output", "answer", "response")
SOURCES = ("input", "inputs", "source", "src", "question", "prompt", "instruction", "context")
EXAMPLE: dict[str, list[Any]] = {
    "text": ["good film", "the bad plot was very dull", "warm"],
    "target": ["good", "bad and dull", "fine"],
}
EXAMPLE_MODEL = "bart"
USE = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
inputs = tokenizer("A text to rewrite.", return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=20), skip_special_tokens=True))
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
head = text_generation.head
check_augment = tokens.check_masking
augmented = tokens.masked
lengths = tokens.lengths


def fits(config: PretrainedConfig) -> bool:
    """Whether the model is in transformers' list of encoder-decoders of texts; others have similar names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    listed = ends_in(config, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values())
    return listed and getattr(config, "is_encoder_decoder", False)


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of reference texts.

    Raises:
        [`DataError`]: if the column has other values.
    """
    if given is None and {"input_ids", "labels"} <= set(dataset.column_names) and is_list(dataset, "labels"):
        return "labels"  # tokens already
    targets = []
    for name in TARGETS:
        if name in dataset.column_names and _holds_targets(dataset, name):  # a column `label` may hold classes
            targets.append(name)
    column = find_column(dataset, given, targets or TARGETS)
    if not _holds_targets(dataset, column):
        raise DataError(f'the column "{column}" holds {dataset.features[column]}, and the right texts are needed.')
    return column


def _holds_targets(dataset: Dataset, column: str) -> bool:
    """Whether a column has texts, or lists of tokens."""
    return is_text(dataset, column) or is_list(dataset, column)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The text column."""
    return choose_columns(dataset, given, label, most=1, classes=False, usual=SOURCES)


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> list[Any]:
    """The reference texts, or their tokens."""
    return dataset[label][:]


def references(dataset: Dataset, label: str) -> tuple[str, ...]:
    """The reference texts.

    Raises:
        [`DataError`]: if the data has tokens instead.
    """
    if not is_text(dataset, label):
        raise DataError(f'what a model writes is compared with texts, and the column "{label}" holds tokens.')
    return tuple(text or "" for text in dataset[label])


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: list[Any],
    inputs: ModelInputs,
) -> Dataset:
    """Encode both texts as tokens."""
    limit = most_tokens(processing_class, inputs.positions)
    target_limit = most_tokens(processing_class, inputs.target_positions)
    boxes = box_column(dataset, processing_class, columns, inputs)
    texts = [text or "" for text in labels]
    targets = call_tokenizer(processing_class, text_target=texts, limit=target_limit)["input_ids"]
    return tokenize(dataset, processing_class, columns, limit, boxes).add_column("labels", targets)


def collator(
    processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Pad inputs on the tokenizer's side and reference texts on the right, because the decoder reads from the left."""
    return pad_collator(processing_class, inputs, labels_follow=False)


def all_logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the tokens that are scored."""
    return model(**batch).logits[batch["labels"] != UNSCORED]


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each token of the reference text, given those before it."""
    return right_tokens(model(**batch).logits, batch["labels"])


def write(
    model: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    processing_class: Any,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """The outputs of `forward`, and the generated texts; `options` are those of `model.generate`."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    writer: Any = model  # `generate` is a method of these models, but not of all models
    texts = processing_class.batch_decode(writer.generate(**inputs, **options), skip_special_tokens=True)
    return *forward(model, batch), texts
