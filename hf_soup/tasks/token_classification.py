"""Token classification: a class for each word, such as names of people and places, or parts of speech.

A word is scored once, by its first token; words beyond the model's length limit are left out with a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import UNSCORED, find_column, is_list, label_ids, split_like
from ..data.text_columns import choose_columns
from ..errors import DataError, warn
from . import _heads as heads
from . import _text as tokens
from ._boxes import box_column
from ._heads import class_names, ends_in
from ._padding import pad_collator
from ._text import call_tokenizer, check_tokenizer, in_memory, most_tokens


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForTokenClassification"
PIPELINE = "token-classification"
METRIC = "f1_macro"
KIND = "classes"
BATCH_SIZE = 64
EXAMPLE: dict[str, list[Any]] = {
    "tokens": [["good", "film"], ["the", "bad", "plot"], ["cast"]],
    "tags": [[0, 1], [2, 0, 1], [1]],
}
EXAMPLE_MODEL = "bert"
USE = """
from transformers import pipeline

find = pipeline("token-classification", model="{model}", aggregation_strategy="simple")
print(find("A sentence to find names in."))
"""

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
head = heads.head_of_classes
check_augment = tokens.check_masking
augmented = tokens.masked
collator = pad_collator
lengths = tokens.lengths


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for classes of tokens."""
    return ends_in(config, "ForTokenClassification")


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column with a list of classes for each row.

    Raises:
        [`DataError`]: if the column has no lists.
    """
    column = find_column(dataset, given, ("labels", "label", "tags", "ner_tags", "pos_tags"))
    if not is_list(dataset, column):
        raise DataError(f'the column "{column}" holds one label a row; token classification takes one for each word.')
    return column


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of lists of words.

    Raises:
        [`DataError`]: if a row has more or fewer labels than words.
    """
    (column,) = choose_columns(dataset, given, label, most=1, of_words=True)
    for row, (words, classes) in enumerate(zip(dataset[column], dataset[label], strict=True)):
        if words is None or classes is None or None in words:
            raise DataError(f'row {row} lacks words in "{column}" or labels in "{label}"; leave it out.')
        if len(words) != len(classes):
            raise DataError(f'row {row} has {len(words)} words in "{column}" and {len(classes)} labels in "{label}".')
    return [column]


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> list[np.ndarray]:
    """The class of each word, row by row."""
    return split_like(label_ids(dataset, label, class_names(config)), dataset[label])


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: list[np.ndarray],
    inputs: ModelInputs,
) -> Dataset:
    """Encode words as tokens, with the class of each word at its first token.

    Raises:
        [`DataError`]: if the tokenizer does not map tokens to words, or does not take the words.
    """
    check_tokenizer(processing_class)
    # tokenizers written in Python have no `word_ids`
    if not processing_class.is_fast:
        raise DataError(f"{type(processing_class).__name__} does not map tokens to words; use a fast tokenizer.")
    (words_column,) = columns
    limit = most_tokens(processing_class, inputs.positions, inputs.target_positions)
    boxes = box_column(dataset, processing_class, columns, inputs)
    words_with_tokens = 0

    def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        nonlocal words_with_tokens
        if boxes is None:
            encoding = call_tokenizer(processing_class, batch[words_column], limit=limit, is_split_into_words=True)
        else:  # a tokenizer that takes boxes always takes words
            encoding = call_tokenizer(processing_class, batch[words_column], limit=limit, boxes=batch[boxes])
        token_labels = []
        for place, row in enumerate(indices):  # index of a row in the batch, and in the data set
            row_labels = []
            for word in _words_that_begin(encoding.word_ids(place)):
                if word is None:
                    row_labels.append(UNSCORED)
                else:
                    row_labels.append(int(labels[row][word]))
                    words_with_tokens += 1
            token_labels.append(row_labels)
        return {**encoding, "labels": token_labels}

    encoded = in_memory(dataset, encode_batch, with_indices=True)
    lost = sum(map(len, labels)) - words_with_tokens
    if lost:
        warn(f"{lost} words have no token among the {limit} that the model takes; they are not scored.")
    return encoded


def _words_that_begin(word_ids: Sequence[int | None]) -> list[int | None]:
    """The word that begins with each token, or `None`.

    Args:
        word_ids (`Sequence[int | None]`):
            Index of the word of each token; `None` for special tokens.
    """
    words: list[int | None] = []
    previous = None
    for word in word_ids:
        # the tokens of a word are consecutive
        words.append(word if word != previous else None)
        previous = word
    return words


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and class of each word."""
    classes = batch.pop("labels")
    logits = model(**batch).logits
    is_scored = classes != UNSCORED  # (rows, tokens)
    return logits[is_scored], classes[is_scored], is_scored.sum(dim=1)
