"""What commands print of their results: in the form that was asked for, and soups as data and as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..display.tables import align
from ..formats.records import selection_as_dict
from .output import result


if TYPE_CHECKING:
    from ..api.soup import Soup


def show(form: str, path: Any, data: Any, text: str) -> None:
    """Print a result in the form that was asked for: a path, data, or text for people."""
    result({"human": text.strip(), "json": json.dumps(data, indent=2, default=str), "quiet": str(path)}[form])


def described(soup: Soup) -> dict[str, Any]:
    """A soup as data."""
    recipe = soup.recipe
    return {
        "ingredients": recipe.names,
        "weights": recipe.weights,
        "method": recipe.method,
        "selection": selection_as_dict(recipe.selection),
    }


def trial_table(soup: Soup) -> str:
    """What was tried, and why it was kept or not; and the weight of each ingredient, where these differ."""
    weights = soup.recipe.weights_by_module
    if soup.selection is None or not soup.selection.trials:
        return _weight_table(soup)
    are_equal = len({weight for of_module in weights.values() for weight in of_module}) == 1
    return soup.selection.table() + ("" if are_equal else f"\n\n{_weight_table(soup)}")


def _weight_table(soup: Soup) -> str:
    """A row for each ingredient, and a column for each module that has weights of its own."""
    weights = soup.recipe.weights_by_module
    heads = ["weight"]
    if len(weights) > 1:
        heads = [f"weight of {prefix or 'the rest'}" for prefix in weights]
    lines = [["ingredient", *heads]]
    for index, name in enumerate(soup.recipe.names):
        lines.append([name, *(f"{of_module[index]:.4g}" for of_module in weights.values())])
    return align(lines)
