"""`load`: opens a saved or pushed soup as a `Soup`, with its comparison."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints import hub
from ..checkpoints.store import hub_id, is_address
from ..checkpoints.store_pins import fetch_from_store
from ..comparison.comparison import COMPARISON_FILE, Comparison
from ..errors import IngredientError
from ..formats.recipe_file import load_recipe
from ..options import answers_keywords
from ..untrusted import read_json
from .from_recipe import cook_recipe
from .soup import Soup


@answers_keywords
def load(
    soup: str | os.PathLike[str],
    *,
    device: str = "cpu",
    allow_pickle: bool = False,
    allow_code: bool = False,
    stream: bool | None = None,
    executor: str = "local",
) -> Soup:
    """Load a saved or pushed soup, in order to compare it, push it or save it elsewhere.

    The recipe is read and its ingredients are opened. Nothing is averaged until it is needed; the average is then
    identical to the saved weights, bit for bit. To use the model only, load the folder with
    `AutoModel.from_pretrained`.

    Args:
        soup (`str` or `os.PathLike`):
            The folder of a soup, or its Hub id (`user/soup`, `user/soup@v1`).
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        allow_code (`bool`, *optional*, defaults to `False`):
            Whether a method from outside of this package may be imported and called. Only for recipes that you trust.
        stream (`bool`, *optional*):
            Whether weights on the Hub are streamed instead of downloaded, as for [`merge`].
        executor (`str`, *optional*, defaults to `"local"`):
            Where the weight files of the soup are made when it is saved or pushed, as for [`merge`].

    Returns:
        [`Soup`]: the soup, with `.comparison` if one was saved with it.

    Raises:
        [`RecipeError`]: if the soup has no readable recipe, or the recipe names a method that is not allowed.
        [`IngredientError`]: if an ingredient is missing or was changed.
    """
    recipe = load_recipe(soup, allow_code=allow_code)
    loaded = cook_recipe(recipe, device=device, allow_pickle=allow_pickle, stream=stream, executor=executor)
    loaded.comparison = _saved_comparison(soup)
    loaded.saved_as = os.fspath(soup)
    return loaded


def read_comparison(folder: Path) -> Comparison | None:
    """The comparison saved in a folder; `None` if it is missing, damaged, or from another version."""
    try:
        return Comparison.from_dict(read_json(folder / COMPARISON_FILE))
    except (OSError, ValueError, IngredientError):  # pydantic's errors are `ValueError`s
        return None


def _saved_comparison(soup: str | os.PathLike[str]) -> Comparison | None:
    if isinstance(soup, str) and is_address(soup):
        on_hub = hub_id(soup)
        if on_hub is not None:
            return _saved_comparison(on_hub)
        return read_comparison(fetch_from_store(soup, [COMPARISON_FILE]))
    folder = Path(soup).expanduser()
    if folder.is_dir():
        return read_comparison(folder)
    repo_id, revision = hub.split_revision(soup)
    if hub.split_source(repo_id) is None:
        return None
    return read_comparison(hub.fetch(repo_id, hub.resolve(repo_id, revision), [COMPARISON_FILE]))
