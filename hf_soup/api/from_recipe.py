"""A recipe that was read from a file -> the soup that it describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..checkpoints.base_model import as_ingredient, fit_base
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.source import try_to_open
from ..errors import SoupError
from ..merging.agreement import Agreement
from ..merging.averaging import bind_method
from ..merging.plan import find_settings
from ..merging.setup import set_up
from ..plugins import needs_base
from ..types import Ingredient, Recipe
from .soup import Soup


@dataclass(frozen=True)
class OpenedRecipe:
    """The ingredients of a recipe that was read from a file, opened.

    Args:
        recipe ([`Recipe`]):
            The recipe.
        ingredients (`tuple[Checkpoint, ...]`):
            Its ingredients that could be opened, without a base model that is one of them.
        base (`Checkpoint`, *optional*):
            The base model, where the method needs it or it is an ingredient.
        errors (`tuple[SoupError, ...]`):
            Why the others could not.
    """

    recipe: Recipe
    ingredients: tuple[Checkpoint, ...]
    base: Checkpoint | None
    errors: tuple[SoupError, ...]


def open_recipe(recipe: Recipe, *, allow_pickle: bool = False) -> OpenedRecipe:
    """Open what a recipe was made of, each once.

    Args:
        recipe ([`Recipe`]):
            With sources that should be there.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Raises:
        [`RecipeError`]: if there is no such method, or it takes no such parameter.
    """
    bind_method(recipe.method, recipe.params)
    references = [item for item in recipe.ingredients if item.name != recipe.base_inside]
    base_reference = _base_reference(recipe)
    if base_reference is not None:
        references.append(base_reference)
    ingredients: list[Checkpoint] = []
    base: Checkpoint | None = None
    errors: list[SoupError] = []
    for reference, opened in zip(references, try_to_open(references, allow_pickle=allow_pickle), strict=True):
        if isinstance(opened, SoupError):
            errors.append(opened)
        elif reference is base_reference:
            base = opened
        else:
            ingredients.append(opened)
    return OpenedRecipe(recipe, tuple(ingredients), base, tuple(errors))


def _base_reference(recipe: Recipe) -> Ingredient | None:
    """The base model as the recipe names it, if the soup cannot be made without it."""
    if recipe.base_inside is not None:
        # the ingredient, and not `recipe.base_model`, has the digests of its files
        return next(item for item in recipe.ingredients if item.name == recipe.base_inside)
    return recipe.base_model if needs_base(recipe.method) else None


def cook_recipe(
    recipe: Recipe,
    *,
    candidates: Sequence[Checkpoint] | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
) -> Soup:
    """The soup of a recipe that was read from a file.

    Args:
        recipe ([`Recipe`]):
            With sources that are there.
        candidates (`Sequence[Checkpoint]`, *optional*):
            All that were chosen from, for a comparison; the ingredients by default.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].

    Returns:
        [`Soup`]

    Raises:
        [`IngredientError`]: if an ingredient is gone.
    """
    return bind_recipe(open_recipe(recipe, allow_pickle=allow_pickle), candidates=candidates, device=device)


def bind_recipe(opened: OpenedRecipe, *, candidates: Sequence[Checkpoint] | None = None, device: str = "cpu") -> Soup:
    """The soup of a recipe whose ingredients are opened; arguments as of [`cook_recipe`].

    Raises:
        [`SoupError`]: the first of the errors, if there are any.
        [`IncompatibleError`]: if the ingredients cannot be averaged.
    """
    if opened.errors:
        raise opened.errors[0]
    recipe, ingredients, base = opened.recipe, opened.ingredients, opened.base
    base_candidate = None
    if base is not None and ingredients:
        base = fit_base(base, ingredients[0])
    if base is not None and recipe.base_inside is not None:
        like = ingredients[0] if ingredients else base
        base_candidate = replace(as_ingredient(base, like, ()), ingredient=base.ingredient)
    mixable = ingredients
    if not ingredients and base_candidate is not None:  # nothing goes in but the base model
        mixable, base_candidate = (base_candidate,), None
    settings = None
    if recipe.take_from is not None:
        candidates_for_settings = ingredients if base_candidate is None else (*ingredients, base_candidate)
        settings = find_settings(recipe.take_from, candidates_for_settings)
    setup = set_up(
        mixable,
        Agreement(settings, recipe.labels, recipe.alignments),
        method=recipe.method,
        params=recipe.params,
        base=base,
        base_candidate=base_candidate,
        dtype=recipe.dtype,
        seed=recipe.seed,
        batchnorm=recipe.batchnorm,
    )
    return Soup(recipe, setup, candidates=candidates, device=device)
