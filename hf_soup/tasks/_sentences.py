"""Functions on models of sentence-transformers that tasks share: columns of texts, embeddings, similarities.

The texts are tokenised by the model itself, with its prompts and its modules, so that scores are those of the
evaluators of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.columns import is_text
from ..errors import DataError, EvaluationError, listed


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ._model_inputs import ModelInputs

AUTO_CLASS = "SentenceTransformer"  # or a sparse encoder, which has the same methods
USE = """
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{model}")
embeddings = model.encode(["A sentence.", "Another sentence."])
print(model.similarity(embeddings, embeddings))
"""
LABELS = "labels"
SMALL_FILE = 2**20  # bytes; larger files are not settings


@dataclass(frozen=True)
class SentenceSettings:
    """The settings of a folder of sentence-transformers, which models read by themselves.

    Args:
        files (`dict[str, bytes]`):
            Contents of the small files, such as pooling, prompts and tokenizer.
    """

    files: dict[str, bytes]

    def save_pretrained(self, folder: Path) -> None:
        """Write the files, each into one folder under its whole name."""
        for name, content in self.files.items():
            (Path(folder) / name.replace("/", "__")).write_bytes(content)


def fits(config: PretrainedConfig) -> bool:
    """Never: the columns of the data tell, since several tasks have models without a head."""
    return False


def is_bare(config: PretrainedConfig) -> bool:
    """Whether a model has no head, as the body of a SentenceTransformer, or one for masked words, as a sparse one."""
    architecture = (config.architectures or ["Model"])[0]
    if "Head" in architecture:  # such as GPT2LMHeadModel
        return False
    return architecture.endswith(("Model", "ForMaskedLM", "SentenceTransformer"))


def no_head(dataset: Dataset, label: Any) -> dict[str, Any]:
    """No fields: embeddings need no head."""
    return {}


def load_settings(source: str, revision: str | None = None) -> SentenceSettings:
    """The settings in a folder; none for a Hub id, whose model has them in memory."""
    folder = Path(source)
    files = {}
    for path in sorted(folder.rglob("*.json")):
        if path.is_file() and path.stat().st_size <= SMALL_FILE:
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return SentenceSettings(files)


def sentence_columns(
    dataset: Dataset, given: Sequence[str] | None, usual: Sequence[Sequence[str]], *, listed_too: Sequence[str] = ()
) -> list[str]:
    """Columns of texts that a task takes: those given, or the first of the usual combinations that is there.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the examples.
        given (`Sequence[str]`, *optional*):
            Columns that the user names, in the order of the task.
        usual (`Sequence[Sequence[str]]`):
            Combinations of usual names, in the order of the task.
        listed_too (`Sequence[str]`, *optional*):
            Names among the usual ones whose rows may be lists of texts.

    Raises:
        [`DataError`]: if there are none, or a column has no texts.
    """
    if given:
        chosen = [given] if isinstance(given, str) else list(given)
        if len(chosen) != len(usual[0]):
            raise DataError(f"the text columns are {listed(usual[0])}, in this order, not {listed(chosen)}.")
    else:
        found = [names for names in usual if all(name in dataset.column_names for name in names)]
        if not found:
            ways = "; ".join(listed(names) for names in usual)
            raise DataError(
                f"the task takes columns such as {ways}, and the data has {listed(dataset.column_names)}. Rename "
                "them, or name them with text_columns."
            )
        chosen = list(found[0])
    for place, name in enumerate(chosen):
        if name not in dataset.column_names:
            raise DataError(f'there is no column "{name}" among {listed(dataset.column_names)}.')
        takes_lists = usual[0][place] in listed_too
        if not is_text(dataset, name) and not (takes_lists and is_text(dataset, name, listed=True)):
            raise DataError(f'the column "{name}" holds no texts.')
    return chosen


def rows_of_texts(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """The columns of texts alone, in their order.

    Raises:
        [`DataError`]: if a text is missing.
    """
    for column in columns:
        missing = [row for row, text in enumerate(dataset[column]) if text is None]
        if missing:
            raise DataError(f'row {missing[0]} has no text in "{column}"; leave it out.')
    return dataset.select_columns(list(columns))


def texts_as_they_are(dataset: Dataset, columns: Sequence[str], labels: Any) -> Dataset:
    """Rows with the texts under the numbers of their columns, and labels."""
    rows = rows_of_texts(dataset, columns)
    for place, column in enumerate(columns):
        rows = rows.rename_column(column, f"text {place}")
    return rows.add_column(LABELS, [label.tolist() if hasattr(label, "tolist") else label for label in labels])


def collator(processing_class: Any, inputs: ModelInputs) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes a batch of lists of texts; labels are a tensor."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        batch[LABELS] = torch.tensor(batch[LABELS])
        return batch

    return collate


def lengths(encoded: Dataset) -> None:
    """Unknown: the model sorts the texts of a batch by itself."""


def check_augment(augment: Any, processing_class: Any) -> None:
    """Refuse augmentation, which there is none of for whole sentences."""
    if augment:
        raise DataError("sentence models have no augmentation.")


def embed(model: Any, texts: Sequence[str], *, role: str | None = None) -> torch.Tensor:
    """Embeddings of texts on the device of the model.

    Args:
        model (`SentenceTransformer` or `SparseEncoder`):
            Model in evaluation mode.
        texts (`Sequence[str]`):
            Texts.
        role (`str`, *optional*):
            `"query"` or `"document"`, which have prompts of their own.

    Raises:
        [`EvaluationError`]: if the model is none of sentence-transformers.
    """
    if not hasattr(model, "encode"):
        raise EvaluationError(
            f"{type(model).__name__} gives no embeddings: save the model with sentence-transformers, "
            'as SentenceTransformer("folder").save_pretrained("folder") does.'
        )
    encode = model.encode if role is None else getattr(model, f"encode_{role}")
    embeddings = encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
    return embeddings.to_dense() if embeddings.is_sparse else embeddings
