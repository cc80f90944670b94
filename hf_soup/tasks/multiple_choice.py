"""Multiple choice: a text with several continuations or answers, of which one is right.

A row has `question` (or `context`, `prompt`, `text` ...) and `choices`, a list of texts; or the columns of SWAG,
`sent1`, `sent2` and `ending0` to `ending3`. Rows may have different numbers of choices;
a Trainer counts those that a row lacks as wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import find_column, is_text
from ..errors import DataError, listed
from . import _text as tokens
from ._heads import ends_in
from ._no_augmentation import unchanged
from ._sentences import check_augment as check_augment
from ._text import check_tokenizer, most_tokens


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForMultipleChoice"
PIPELINE = "multiple-choice"
METRIC = "accuracy"
KIND = "classes"
BATCH_SIZE = 16
ABSENT = -1e9  # the logit of a choice that a row does not have
EXAMPLE: dict[str, list[Any]] = {
    "question": ["good film", "the bad plot", "a very lovely cast"],
    "choices": [["great film", "dull"], ["awful", "fine"], ["cold", "superb"]],
    "label": [0, 0, 1],
}
EXAMPLE_MODEL = "bert"
USE = """
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

model = AutoModelForMultipleChoice.from_pretrained("{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
choices = ["an answer", "another one"]
inputs = tokenizer(["A question?"] * len(choices), choices, padding=True, return_tensors="pt")
print(model(**{{name: tensor[None] for name, tensor in inputs.items()}}).logits.softmax(-1))
"""
QUESTIONS = ("question", "context", "prompt", "premise", "text", "sent1", "startphrase")
ENDINGS = ("ending", "choice", "option", "answer")  # beginnings of numbered columns
CHOICES = ("choices", "options", "endings", "answers")
SECOND = "sent2"  # of SWAG: the beginning of each ending

load_processing_class = tokens.load_tokenizer
augmented = unchanged


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for choices."""
    return ends_in(config, "ForMultipleChoice")


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column with the number of the right choice."""
    return find_column(dataset, given)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The column of the text, and those of the choices.

    Raises:
        [`DataError`]: if they are not there, or hold something else.
    """
    names = list(given) if given else _usual(dataset)
    for place, name in enumerate(names):
        if name not in dataset.column_names:
            raise DataError(f'there is no column "{name}" among {listed(dataset.column_names)}.')
        if not is_text(dataset, name) and not (place and is_text(dataset, name, listed=True)):
            raise DataError(f'the column "{name}" holds no texts.')
    if len(names) < 2:
        raise DataError("multiple choice takes a text, and a column of choices or one for each of them.")
    return names


def _usual(dataset: Dataset) -> list[str]:
    """The columns with usual names."""
    there = dataset.column_names
    question = next((name for name in QUESTIONS if name in there), None)
    choices = [name for name in CHOICES if name in there][:1]
    for beginning in ENDINGS:
        numbered = sorted(name for name in there if name.removeprefix(beginning).strip("_").isdigit())
        choices = choices or numbered
    if question is None or not choices:
        raise DataError(
            f"multiple choice takes columns such as question and choices, or sent1, sent2 and ending0 to ending3; the "
            f"data has {listed(there)}. Name them with text_columns: the text first, then the choices."
        )
    return [question, *([SECOND] if SECOND in there else []), *choices]


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """The default of transformers: the head gives one number for each choice, however many there are."""
    return {"num_labels": 2}


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> np.ndarray:
    """The number of the right choice of each row.

    Raises:
        [`DataError`]: if it is missing, or no whole number from 0.
    """
    import numpy as np

    values = dataset[label][:]
    for row, value in enumerate(values):
        if isinstance(value, str) and value.isdigit():
            value = values[row] = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f'row {row} has the label {value!r} in "{label}", which is no number of a choice from 0.')
    return np.asarray(values, dtype=np.int64)


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: np.ndarray,
    inputs: ModelInputs,
) -> Dataset:
    """Lists of tokens: one for each choice of a row, with the text before it.

    Raises:
        [`DataError`]: if a row has no choices, or the right one is not among them.
    """
    import datasets

    check_tokenizer(processing_class)
    limit = most_tokens(processing_class, inputs.positions, inputs.target_positions)
    all_choices = []
    for row, (question, *others) in enumerate(zip(*(dataset[name] for name in columns), strict=True)):
        choices = _choices_of(columns, others)
        if question is None or len(choices) < 2 or None in choices or labels[row] >= len(choices):
            raise DataError(
                f"row {row} has {len(choices)} choices and the label {labels[row]}: it needs a text, at least two "
                "choices, and the number of the right one from 0."
            )
        all_choices.append(choices)
    most = max(map(len, all_choices), default=0)
    encoded: dict[str, list[Any]] = {"labels": labels.tolist()}
    for question, choices in zip(dataset[columns[0]], all_choices, strict=True):
        encoding = processing_class([question] * len(choices), choices, truncation=True, max_length=limit)
        for name, values in encoding.items():
            absent = [values[0][:1]] * (most - len(choices))  # a choice that a row does not have is one token
            encoded.setdefault(name, []).append([*values, *absent])
    return datasets.Dataset.from_dict(encoded)


def _choices_of(columns: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """The choices of one row; with the beginning that they share, as in SWAG."""
    beginning, rest = "", list(values)
    if columns[1] == SECOND:
        beginning, rest = f"{values[0] or ''} ", rest[1:]
    choices = list(rest[0] or ()) if len(rest) == 1 and not isinstance(rest[0], str) else rest
    return [None if choice is None else f"{beginning}{choice}" for choice in choices]


def lengths(encoded: Dataset) -> list[int]:
    """The number of tokens of the longest choice."""
    return [max(map(len, choices)) for choices in encoded["input_ids"]]


def collator(
    processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that makes a batch of shape (rows, choices, tokens)."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        import torch

        if processing_class is None:
            raise DataError("choices are padded by a tokenizer: pass Evaluator(..., processing_class=...).")
        names = [name for name in rows[0] if name != "labels" and name in inputs.names]
        most = len(rows[0]["input_ids"])
        flat = [{name: row[name][place] for name in names} for row in rows for place in range(most)]
        padded = processing_class.pad(flat, return_tensors="pt")
        batch = {name: tensor.reshape(len(rows), most, -1) for name, tensor in padded.items()}
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    return collate


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A logit for each choice, and a very low one for a choice that the row does not have."""
    import torch

    right = batch.pop("labels")
    is_absent = batch["attention_mask"].sum(dim=-1) == 1
    logits = model(**batch).logits
    return logits.masked_fill(is_absent, ABSENT), right, torch.ones_like(right)
