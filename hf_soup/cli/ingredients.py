"""Ingredients as commands name them -> what the verbs take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def take_ingredients(sources: Sequence[str], options: dict[str, Any]) -> list[Any]:
    """The ingredients of a command, opened where it allows pickles; and so is the base model, if it takes one.

    Args:
        sources (`Sequence[str]`):
            What was typed.
        options (`dict[str, Any]`):
            The options of the command, of which `allow_pickle` is taken.
    """
    allow_pickle = options.pop("allow_pickle")
    if not allow_pickle:
        return list(sources)
    from ..api.ingredients import load_ingredient, read_ingredients

    if options.get("base_model") is not None:
        options["base_model"] = load_ingredient(options["base_model"], allow_pickle=True)
    return [load_ingredient(source, allow_pickle=True) for source in read_ingredients(list(sources))]
