"""How commands print results: in the chosen format, with soups as data and as text."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from ..display.tables import fitted
from ..formats.records import selection_as_dict
from .output import result


if TYPE_CHECKING:
    from ..api.soup import Soup


def show(form: str, path: Any, data: Any, text: str) -> None:
    """Print a result in the chosen format: a path, data, or text for people, fitted to their terminal."""
    if form == "human" and sys.stdout.isatty():
        text = fitted(text, shutil.get_terminal_size().columns)
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
