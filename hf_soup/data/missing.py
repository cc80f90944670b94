"""Warnings about missing texts, before a model reads them as empty ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import DataError, warn


if TYPE_CHECKING:
    from datasets import Dataset


def tell_missing_texts(dataset: Dataset, columns: Sequence[str]) -> None:
    """Warn about rows whose text is missing, empty or blank, which a model would see as empty.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        columns (`Sequence[str]`):
            Text columns of the data set.

    Raises:
        [`DataError`]: if a column has no text at all.
    """
    for column in columns:
        missing = [row for row, text in enumerate(dataset[column]) if text is None or not text.strip()]
        if not missing:
            continue
        if len(missing) == len(dataset):
            raise DataError(f'none of the {len(dataset)} rows has a text in the column "{column}".')
        warn(
            f'{len(missing)} of {len(dataset)} rows have no text in the column "{column}", first row {missing[0]}; '
            "they are read as empty texts."
        )
