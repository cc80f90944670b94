"""What tasks without augmentation share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset


def unchanged(encoded: Dataset, augment: Any, processing_class: Any) -> Dataset:
    """The examples as they are, in place of random changes."""
    return encoded
