"""Reranking: a cross-encoder reads a query together with each of its documents, and scores how relevant that is.

A row has a query and its documents: `query` with `positive` and `negative`, each a text or a list of texts, or
`query`, `documents` and `labels`, 1 for relevant documents and 0 for others. The score is the model's output before
its activation, which leaves the order as it is; the mean of these scores is the ensemble of several models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import is_list, is_text
from ..errors import DataError, listed
from . import _text as tokens
from ._heads import ends_in
from ._no_augmentation import unchanged
from ._sentences import check_augment as check_augment
from ._sentences import lengths as lengths
from ._text import check_tokenizer, most_tokens


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForSequenceClassification"
PIPELINE = "text-ranking"
METRIC = "ndcg@10"
KIND = "ranking"
TRAINED_AS = "CrossEncoder"
BATCH_SIZE = 16  # queries
EXAMPLE: dict[str, list[Any]] = {
    "query": ["good film", "the bad plot", "a very lovely cast"],
    "positive": [["great film"], ["the awful plot", "a poor plot"], ["the superb cast"]],
    "negative": [["bad film", "dull"], ["the fine plot"], ["dull"]],
}
EXAMPLE_MODEL = "bert"
USE = """
from sentence_transformers import CrossEncoder

model = CrossEncoder("{model}")
print(model.rank("A question?", ["An answer.", "Another text."]))
"""
FORMS = (("query", "positive", "negative"), ("query", "documents", "labels"))

load_processing_class = tokens.load_tokenizer
augmented = unchanged


def fits(config: PretrainedConfig) -> bool:
    """Never: the columns of the data tell it from a regression of pairs."""
    return False


def fits_columns(config: PretrainedConfig, names: Sequence[str]) -> bool:
    """Whether the model gives one number, and the data has queries with documents."""
    gives_number = ends_in(config, "ForSequenceClassification") and config.num_labels == 1
    return gives_number and any(set(form) <= set(names) for form in FORMS)


def label_column(dataset: Dataset, given: str | None) -> None:
    """None: the columns of documents are the label."""


def columns(dataset: Dataset, given: Sequence[str] | None, label: None) -> list[str]:
    """The columns of one of the two forms.

    Raises:
        [`DataError`]: if there are none, or they hold something else.
    """
    for form in [given] if given else FORMS:
        if all(name in dataset.column_names for name in form) and len(form) == len(FORMS[0]):
            break
    else:
        ways = "; ".join(listed(form) for form in FORMS)
        raise DataError(f"reranking takes columns such as {ways}, and the data has {listed(dataset.column_names)}.")
    query, documents, others = form
    has_labels = is_list(dataset, others) and not is_text(dataset, others, listed=True)
    for name in [query, documents] if has_labels else form:
        if not is_text(dataset, name) and (name == query or not is_text(dataset, name, listed=True)):
            raise DataError(f'the column "{name}" holds no texts.')
    return list(form)


def head(dataset: Dataset, label: None) -> dict[str, Any]:
    """Fields of a head for one number."""
    return {"num_labels": 1}


def labels(dataset: Dataset, label: None, config: PretrainedConfig) -> None:
    """None: they are in the columns of documents."""


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: None,
    inputs: ModelInputs,
) -> Dataset:
    """Lists of tokens: one for each document of a row, with its query.

    Raises:
        [`DataError`]: if a query has no relevant document.
    """
    import datasets

    check_tokenizer(processing_class)
    limit = most_tokens(processing_class, inputs.positions, inputs.target_positions)
    encoded: dict[str, list[Any]] = {}
    for row, (query, documents, others) in enumerate(zip(*(dataset[name] for name in columns), strict=True)):
        texts, relevance = _documents(documents, others)
        if query is None or not any(relevance):
            raise DataError(f"row {row} has no query or no relevant document; leave it out.")
        encoding = processing_class([query] * len(texts), texts, truncation=True, max_length=limit)
        for name, values in {**encoding, "labels": relevance}.items():
            encoded.setdefault(name, []).append(values)
    return datasets.Dataset.from_dict(encoded)


def _documents(documents: Any, others: Any) -> tuple[list[str], list[int]]:
    """The texts of a row's documents, and 1 for each relevant one."""
    first: list[str] = [documents] if isinstance(documents, str) else list(documents or ())
    second: list[Any] = [others] if isinstance(others, str) else list(others or ())
    if second and not isinstance(second[0], str):  # labels of the documents
        if len(first) != len(second):
            raise DataError(f"a row has {len(first)} documents and {len(second)} labels.")
        return first, [int(label > 0) for label in second]
    return [*first, *second], [1] * len(first) + [0] * len(second)


def training_rows(dataset: Dataset, columns: Sequence[str], labels: None) -> Dataset:
    """A row for each query with each of its documents, and whether that is relevant."""
    import datasets

    rows: dict[str, list[Any]] = {"query": [], "document": [], "label": []}
    for row, (query, documents, others) in enumerate(zip(*(dataset[name] for name in columns), strict=True)):
        if query is None:
            raise DataError(f"row {row} has no query; leave it out.")
        texts, relevance = _documents(documents, others)
        rows["query"] += [query] * len(texts)
        rows["document"] += texts
        rows["label"] += map(float, relevance)
    return datasets.Dataset.from_dict(rows)


def default_loss(rows: Dataset) -> str:
    """Of each pair by itself."""
    return "BinaryCrossEntropyLoss"


def collator(
    processing_class: PreTrainedTokenizerBase, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """A function that makes a batch of all documents of some rows, with the number of documents of each row."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        import torch

        names = [name for name in rows[0] if name != "labels" and name in inputs.names]
        pairs = [{name: row[name][place] for name in names} for row in rows for place in range(len(row["labels"]))]
        batch = dict(processing_class.pad(pairs, return_tensors="pt"))
        batch["labels"] = torch.tensor([label for row in rows for label in row["labels"]])
        batch["counts"] = torch.tensor([len(row["labels"]) for row in rows])
        return batch

    return collate


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The score of each document, the documents of a row one after the other."""
    relevance, counts = batch.pop("labels"), batch.pop("counts")
    return model(**batch).logits[:, 0], relevance, counts
