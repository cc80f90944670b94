"""Checks that a model has embeddings for all tokens of its data, before it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DataError
from ..untrusted import one_line
from ._padding import padding_token


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs


def check_vocabulary(rows: Dataset, processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs) -> None:
    """Raise an error for tokens without an embedding, on which the model would fail later.

    Args:
        rows (`datasets.Dataset`):
            Encoded texts; other data is not checked.
        processing_class (`transformers.PreTrainedTokenizerBase`, *optional*):
            Tokenizer, whose padding token is checked too if rows differ in length.
        inputs ([`ModelInputs`]):
            Inputs that the model takes.

    Raises:
        [`DataError`]: naming the token, its id and the number of embeddings.
    """
    if inputs.vocabulary is None or "input_ids" not in rows.column_names:
        return
    lengths: set[int] = set()
    for row, ids in enumerate(rows.select_columns(["input_ids"]).with_format(None)["input_ids"]):
        if ids and isinstance(ids[0], list):  # several texts in a row
            ids = [token for text in ids for token in text]
        lengths.add(len(ids))
        # checking the smallest and the largest id is sufficient; a word is only looked up for the error
        for token in (min(ids, default=0), max(ids, default=0)):
            check_token(token, f"row {row} has", processing_class, inputs)
    filler = padding_token(processing_class, inputs)
    # rows of the same length need no padding
    if filler is not None and len(lengths) > 1:
        check_token(filler, "texts are filled up with", processing_class, inputs)


def check_token(token: int, where: str, processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs) -> None:
    """Raise an error for a token without an embedding.

    Args:
        token (`int`):
            Id of the token.
        where (`str`):
            Beginning of the error, such as `"row 3 has"`.
        processing_class (`transformers.PreTrainedTokenizerBase`, *optional*):
            Tokenizer, which knows the word of the token.
        inputs ([`ModelInputs`]):
            Inputs that the model takes.

    Raises:
        [`DataError`]: naming the token, its id and the number of embeddings.
    """
    if inputs.vocabulary is None or 0 <= token < inputs.vocabulary:
        return
    word, size = "a token", ""
    if processing_class is not None:
        size = f" {type(processing_class).__name__} has {len(processing_class):,} tokens."
        if token >= 0:
            word = f"the token {one_line(processing_class.convert_ids_to_tokens(token))!r}"
    raise DataError(
        f"{where} {word} with the id {token:,}, and {inputs.model} has {inputs.vocabulary:,} token embeddings.{size} "
        "Take the tokenizer that the model was trained with, or call "
        "model.resize_token_embeddings(len(tokenizer)) and train it."
    )
