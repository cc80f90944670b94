"""Bounding boxes of the words of a page: the column with a box for each word, for models of documents.

Nothing is encoded here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data.columns import is_text
from ..errors import DataError


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

BOX_COLUMNS = ("bbox", "bboxes", "boxes")  # a box for each word


def box_column(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, columns: Sequence[str], inputs: ModelInputs
) -> str | None:
    """The column with boxes of words to pass to the tokenizer, or `None` if there are no boxes.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the examples.
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer of the model.
        columns (`Sequence[str]`):
            Columns of texts, or of lists of words.
        inputs ([`ModelInputs`]):
            Inputs that the model takes.

    Raises:
        [`DataError`]: if the model takes boxes, but the data or the tokenizer does not fit.
    """
    boxes = find_boxes(dataset)
    # tokenizers of LayoutLM and similar models, which only their signature identifies
    takes_boxes = "boxes" in inspect.signature(type(tokenizer).__call__).parameters
    has_words = len(columns) == 1 and is_text(dataset, columns[0], listed=True)
    if boxes is not None and takes_boxes and has_words:
        return boxes
    # data without boxes for a tokenizer without boxes is plain text
    is_plain_text = boxes is None and not takes_boxes
    if "bbox" not in inputs.names or is_plain_text:
        return None
    if boxes is None:
        problem = f"the data has no column of them ({', '.join(BOX_COLUMNS)})"
    elif not takes_boxes:
        problem = f'{type(tokenizer).__name__} does not take those in "{boxes}"'
    else:
        problem = f"{' and '.join(columns)} has texts instead of lists of words: name the words in `text_columns`"
    raise DataError(
        f"{inputs.model} takes a box for each word, and {problem}. Encode the data first: columns input_ids, "
        "attention_mask, bbox (a box for each token) and the labels are taken as they are."
    )


def find_boxes(dataset: Dataset) -> str | None:
    """The column with boxes of words, found by its name."""
    for column in BOX_COLUMNS:
        if column in dataset.column_names:
            return column
    return None
