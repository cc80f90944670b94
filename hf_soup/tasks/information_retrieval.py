"""Information retrieval: which texts of a corpus are relevant to a query, by the similarity of embeddings.

The data has one of three forms:
- a row for each query with `query` (or `anchor`, `question`) and `positive`, one relevant text or a list of them, and
  perhaps `negative`: the corpus is all of these texts;
- a row for each text with `text` and a class: every text is a query in turn, and the others of its class are relevant;
- a row for each query and each document with `text`, `id`, `role` (`"query"` or `"document"`) and `relevant`, the ids
  of a query's documents.

Each text is embedded once. The score of a document is its cosine similarity or dot product with the query, as the
model has it; the mean of these scores is the ensemble of several models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.columns import find_column, is_text
from ..errors import DataError, EvaluationError, listed
from ..metrics.predictions import Predictions
from . import _sentences as sentences
from ._no_augmentation import unchanged
from ._sentences import AUTO_CLASS as AUTO_CLASS
from ._sentences import embed, is_bare, rows_of_texts, sentence_columns


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ._model_inputs import ModelInputs

PIPELINE = "sentence-similarity"
METRIC = "ndcg@10"
KIND = "ranking"
TRAINED_AS = "SentenceTransformer"
BATCH_SIZE = 256
EXAMPLE: dict[str, list[Any]] = {
    "query": ["good film", "the bad plot", "a very lovely cast"],
    "positive": ["great film", "the awful plot", "the superb cast"],
}
EXAMPLE_MODEL = "bert"
USE = """
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{model}")
queries, documents = model.encode_query(["A question?"]), model.encode_document(["An answer.", "Another text."])
print(model.similarity(queries, documents))
"""
PAIRS = (("query", "positive"), ("anchor", "positive"), ("question", "positive"), ("question", "answer"))
OTHERS = "negative"
LISTS = ("text", "id", "role", "relevant")
ROLES = ("query", "document")
MOST_SCORES = 20_000_000  # scores of documents, 20 bytes each

# Functions shared with other tasks.
fits = sentences.fits
load_processing_class = sentences.load_settings
head = sentences.no_head
check_augment = sentences.check_augment
augmented = unchanged
collator = sentences.collator
lengths = sentences.lengths


class Corpus(NamedTuple):
    """Queries and documents of a data set.

    Args:
        queries (`list[str]`), rows (`list[int]`):
            Texts of the queries, and the row of each in the data set.
        documents (`list[str]`):
            Texts of the documents.
        relevant (`list[set[int]]`):
            For each query, the numbers of the relevant documents.
        own (`list[int | None]`):
            For each query, the number of the document that is the query itself, which is left out.
    """

    queries: list[str]
    rows: list[int]
    documents: list[str]
    relevant: list[set[int]]
    own: list[int | None]


def fits_columns(config: PretrainedConfig, names: Sequence[str]) -> bool:
    """Whether the data has one of the three forms, and the model has no head; triplets are a task of their own."""
    has_pairs = any(set(pair) <= set(names) for pair in PAIRS) and OTHERS not in names
    return is_bare(config) and (has_pairs or set(LISTS) <= set(names) or {"text", "label"} <= set(names))


def label_column(dataset: Dataset, given: str | None) -> str | None:
    """The column of classes, where texts of one class are relevant to each other."""
    if given is None and (set(LISTS) <= set(dataset.column_names) or _has_pairs(dataset)):
        return None
    return find_column(dataset, given)


def _has_pairs(dataset: Dataset) -> bool:
    return any(set(pair) <= set(dataset.column_names) for pair in PAIRS)


def columns(dataset: Dataset, given: Sequence[str] | None, label: str | None) -> list[str]:
    """The columns of the form that the data has."""
    if label is not None:
        return sentence_columns(dataset, given, [("text",), ("sentence",), ("question",), ("query",)])
    if set(LISTS) <= set(dataset.column_names):
        return list(LISTS)
    pair = sentence_columns(dataset, given, PAIRS, listed_too=("positive",))
    return [*pair, OTHERS] if OTHERS in dataset.column_names else pair


def labels(dataset: Dataset, label: str | None, config: PretrainedConfig) -> list[Any] | None:
    """The class of each text, of whatever type; `None` if the data names relevant texts."""
    return None if label is None else list(dataset[label])


def encode(
    dataset: Dataset, processing_class: Any, columns: Sequence[str], labels: list[Any] | None, inputs: ModelInputs
) -> Dataset:
    """A row for each query and document.

    Raises:
        [`DataError`]: if a query has no relevant document, or there are too many scores.
    """
    import datasets

    corpus = corpus_of(dataset, columns, labels)
    texts = [*corpus.queries, *corpus.documents]
    is_query = [True] * len(corpus.queries) + [False] * len(corpus.documents)
    return datasets.Dataset.from_dict({"text 0": texts, "is_query": is_query, "labels": [0] * len(texts)})


def training_rows(dataset: Dataset, columns: Sequence[str], labels: list[Any] | None) -> Dataset:
    """A row for each query with each of its documents; or texts with their classes."""
    import datasets

    if labels is not None:
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        return rows_of_texts(dataset, columns).add_column("label", [numbers[label] for label in labels])
    corpus = corpus_of(dataset, columns, labels)
    queries, documents = [], []
    for query, relevant in zip(corpus.queries, corpus.relevant, strict=True):
        for number in sorted(relevant):
            queries.append(query)
            documents.append(corpus.documents[number])
    return datasets.Dataset.from_dict({"query": queries, "positive": documents})


def default_loss(rows: Dataset) -> str:
    """The other documents of a batch are negatives; texts with classes are compared with all others."""
    return "BatchAllTripletLoss" if "label" in rows.column_names else "MultipleNegativesRankingLoss"


def forward(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The embedding of each text, of length 1 if the model compares by cosine."""
    import torch
    from torch.nn import functional

    if hasattr(model, "similarity_fn_name") and model.similarity_fn_name not in ("cosine", "dot"):
        raise EvaluationError(
            f"the model compares embeddings by {model.similarity_fn_name}; retrieval is scored for cosine and dot. "
            "An evaluator of sentence-transformers takes others."
        )
    zeros = batch["labels"]
    parts: list[tuple[int, torch.Tensor]] = []
    for role in ROLES:
        places = [place for place, is_query in enumerate(batch["is_query"]) if is_query == (role == "query")]
        if places:
            vectors = embed(model, [batch["text 0"][place] for place in places], role=role)
            parts += zip(places, vectors, strict=True)
    embeddings = torch.stack([vector for _, vector in sorted(parts, key=lambda part: part[0])])
    if model.similarity_fn_name == "cosine":
        embeddings = functional.normalize(embeddings, dim=1)
    return embeddings, zeros, torch.ones_like(zeros)


def finish(
    predictions: Predictions, dataset: Dataset, columns: Sequence[str], labels: list[Any] | None
) -> Predictions:
    """The scores of all documents for each query, from the embeddings of all texts.

    Args:
        predictions ([`Predictions`]):
            Embeddings in place of logits, in the order of `encode`.
        dataset (`datasets.Dataset`), columns (`Sequence[str]`), labels (`list`, *optional*):
            The arguments of `encode`.
    """
    import numpy as np

    corpus = corpus_of(dataset, columns, labels)
    count = len(corpus.queries)
    all_scores = predictions.logits[:count] @ predictions.logits[count:].T
    scores, relevance, rows = [], [], []
    for place, row in enumerate(corpus.rows):
        of_query = np.zeros(len(corpus.documents), dtype=np.int64)
        of_query[list(corpus.relevant[place])] = 1
        is_candidate = np.ones(len(corpus.documents), dtype=bool)
        own = corpus.own[place]
        if own is not None:
            is_candidate[own] = False
        scores.append(all_scores[place][is_candidate])
        relevance.append(of_query[is_candidate])
        rows.append(np.full(int(is_candidate.sum()), row))
    return predictions._replace(
        logits=np.concatenate(scores), labels=np.concatenate(relevance), rows=np.concatenate(rows)
    )


def corpus_of(dataset: Dataset, columns: Sequence[str], labels: list[Any] | None) -> Corpus:
    """The queries and documents of a data set.

    Raises:
        [`DataError`]: if a query has no relevant document, or there are too many scores.
    """
    if labels is not None:
        corpus = _of_classes(dataset, columns[0], labels)
    elif set(LISTS) <= set(columns):
        corpus = _of_lists(dataset)
    else:
        corpus = _of_pairs(dataset, columns)
    if not corpus.queries:
        raise DataError("no query has a relevant document.")
    size = len(corpus.queries) * len(corpus.documents)
    if size > MOST_SCORES:
        raise DataError(
            f"{len(corpus.queries):,} queries and {len(corpus.documents):,} documents have {size:,} scores, and at "
            f"most {MOST_SCORES:,} are kept: take fewer, or pass an InformationRetrievalEvaluator of "
            "sentence-transformers as the evaluator."
        )
    return corpus


def _of_pairs(dataset: Dataset, columns: Sequence[str]) -> Corpus:
    """The form with a row for each query; all texts in it are the corpus, each once."""
    numbers: dict[str, int] = {}
    relevant = []
    queries = list(dataset[columns[0]])
    for column in columns[1:]:
        for row, texts in enumerate(dataset[column]):
            own = [texts] if isinstance(texts, str) else [text for text in texts or () if text is not None]
            places = {numbers.setdefault(text, len(numbers)) for text in own}
            if column != columns[1]:
                continue
            if not places or queries[row] is None:
                raise DataError(f'row {row} has no text in "{columns[0]}" or "{column}"; leave it out.')
            relevant.append(places)
    return Corpus(queries, list(range(len(queries))), list(numbers), relevant, [None] * len(queries))


def _of_classes(dataset: Dataset, column: str, labels: Sequence[Any]) -> Corpus:
    """The form with classes; a text that is the only one of its class is no query."""
    texts = list(dataset[column])
    members: dict[Any, set[int]] = {}
    for row, label in enumerate(labels):
        if label is None or texts[row] is None:
            raise DataError(f'row {row} has no text in "{column}" or no class; leave it out.')
        members.setdefault(label, set()).add(row)
    rows = [row for row, label in enumerate(labels) if len(members[label]) > 1]
    relevant = [members[labels[row]] - {row} for row in rows]
    return Corpus([texts[row] for row in rows], rows, texts, relevant, list(rows))


def _of_lists(dataset: Dataset) -> Corpus:
    """The form with a row for each query and each document."""
    roles, ids, texts = (list(dataset[name]) for name in ("role", "id", "text"))
    strange = sorted({str(role) for role in roles} - set(ROLES))
    if strange:
        raise DataError(f'the column "role" holds {listed(strange)}; a row is a query or a document.')
    if not is_text(dataset, "text") or None in texts:
        raise DataError('the column "text" has to hold a text in each row.')
    numbers: dict[Any, int] = {}
    documents: list[str] = []
    for row, role in enumerate(roles):
        if role == "document":
            if ids[row] in numbers:
                raise DataError(f"two documents have the id {ids[row]!r}.")
            numbers[ids[row]] = len(documents)
            documents.append(texts[row])
    rows, relevant = [], []
    for row, own_ids in enumerate(dataset["relevant"]):
        if roles[row] == "document" or not own_ids:  # as usual, queries without a relevant document are left out
            continue
        absent = [each for each in own_ids if each not in numbers]
        if absent:
            raise DataError(f"the query {ids[row]!r} has the relevant document {absent[0]!r}, which is not there.")
        rows.append(row)
        relevant.append({numbers[each] for each in own_ids})
    return Corpus([texts[row] for row in rows], rows, documents, relevant, [None] * len(rows))
