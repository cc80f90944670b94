"""Ingredients as typed on the command line -> arguments of the public functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def take_ingredients(sources: Sequence[str], options: dict[str, Any]) -> list[Any]:
    """The ingredients of a command. With `--allow-pickle` they are opened here, and so is the base model.

    Args:
        sources (`Sequence[str]`):
            Arguments of the command, as typed.
        options (`dict[str, Any]`):
            Options of the command; `allow_pickle` is removed from them.
    """
    allow_pickle = options.pop("allow_pickle")
    if not allow_pickle:
        return list(sources)
    from ..api.ingredients import load_ingredient, read_ingredients

    if options.get("base_model") is not None:
        options["base_model"] = load_ingredient(options["base_model"], allow_pickle=True)
    return [load_ingredient(source, allow_pickle=True) for source in read_ingredients(list(sources))]
