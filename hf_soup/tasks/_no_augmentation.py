"""What tasks without augmentation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError


if TYPE_CHECKING:
    from datasets import Dataset


def unchanged(encoded: Dataset, augment: Any, processing_class: Any) -> Dataset:
    """The examples as they are, in place of random changes."""
    return encoded


def refuse_augment(augment: Mapping[str, Any], processing_class: Any, *, why: str) -> None:
    """Refuse augmentation.

    Args:
        augment (`Mapping[str, Any]`), processing_class (*any*):
            The arguments of `check_augment` in [`hf_soup.tasks.Task`].
        why (`str`):
            The error, which says that there is none.

    Raises:
        [`RecipeError`]: if there is any.
    """
    if augment:
        raise RecipeError(why)
