"""Makes the soup that a recipe file describes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..checkpoints.base_model import as_ingredient
from ..checkpoints.base_names import fit_base
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.importance import Importance, find_importance
from ..checkpoints.source import open_checkpoint, try_to_open
from ..checkpoints.streaming import stream_weights
from ..checkpoints.vocabularies import with_common_vocabulary
from ..errors import SoupError
from ..merging.agreement import Agreement
from ..merging.averaging import bind_method
from ..merging.plan import find_settings
from ..merging.setup import set_up
from ..parallel import check_executor
from ..plugins import asks_for, importance_kind, load_function
from ..ranks import RANKS
from ..types import Ingredient, Recipe
from .soup import Soup


@dataclass(frozen=True)
class OpenedRecipe:
    """A recipe that was read from a file, with its ingredients opened.

    Args:
        recipe ([`Recipe`]):
            The recipe.
        ingredients (`tuple[Checkpoint, ...]`):
            Ingredients that could be opened, without the base model if that is one of them.
        base (`Checkpoint`, *optional*):
            The base model, if the method needs it or it is an ingredient.
        errors (`tuple[SoupError, ...]`):
            Errors of the ingredients that could not be opened.
    """

    recipe: Recipe
    ingredients: tuple[Checkpoint, ...]
    base: Checkpoint | None
    errors: tuple[SoupError, ...]


def open_recipe(recipe: Recipe, *, allow_pickle: bool = False, stream: bool | None = None) -> OpenedRecipe:
    """Open the ingredients of a recipe, each once.

    Args:
        recipe ([`Recipe`]):
            The recipe, whose sources should exist.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        stream (`bool`, *optional*):
            Whether weights on the Hub are streamed instead of downloaded, as for [`merge`].

    Raises:
        [`RecipeError`]: if the method does not exist or does not take one of the parameters.
    """
    bind_method(recipe.method, recipe.params)
    references = [item for item in recipe.ingredients if item.name != recipe.base_inside]
    base_reference = _base_reference(recipe)
    if base_reference is not None:
        references.append(base_reference)
    ingredients: list[Checkpoint] = []
    base: Checkpoint | None = None
    errors: list[SoupError] = []
    open_base = None if recipe.base_model is None else _always(recipe.base_model)
    all_opened = try_to_open(references, allow_pickle=allow_pickle, open_base=open_base)
    for reference, opened in zip(references, all_opened, strict=True):
        if isinstance(opened, SoupError):
            errors.append(opened)
        elif reference is base_reference:
            base = opened
        else:
            ingredients.append(opened)
    if recipe.vocabulary is None and base is not None:
        *ingredients, base = stream_weights([*ingredients, base], stream)
    elif recipe.vocabulary is None:
        ingredients = list(stream_weights(ingredients, stream))
    return OpenedRecipe(recipe, tuple(ingredients), base, tuple(errors))


def _always(base_model: Ingredient) -> Callable[[str], Checkpoint]:
    """A function that opens one base model, once, whatever adapters name now."""
    pinned = functools.cache(partial(open_checkpoint, base_model))
    return lambda named: pinned()


def _base_reference(recipe: Recipe) -> Ingredient | None:
    """The base model that the recipe names, if the soup cannot be made without it."""
    if recipe.base_inside is not None:
        # the digests of its files are in the ingredient, not in `recipe.base_model`
        return next(item for item in recipe.ingredients if item.name == recipe.base_inside)
    # rows that ingredients lack come from the base model
    is_needed = recipe.vocabulary is not None or asks_for(load_function("method", recipe.method), "base")
    return recipe.base_model if is_needed else None


def cook_recipe(
    recipe: Recipe,
    *,
    candidates: Sequence[Checkpoint] | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    stream: bool | None = None,
    executor: str = "local",
) -> Soup:
    """Make the soup of a recipe that was read from a file.

    Args:
        recipe ([`Recipe`]):
            The recipe, whose sources exist.
        candidates (`Sequence[Checkpoint]`, *optional*):
            Models that the ingredients were chosen from, for a comparison; the ingredients by default.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        stream (`bool`, *optional*):
            Whether weights on the Hub are streamed instead of downloaded, as for [`merge`].
        executor (`str`, *optional*, defaults to `"local"`):
            Where the weight files of the soup are made when it is saved or pushed, as for [`merge`].

    Returns:
        [`Soup`]

    Raises:
        [`IngredientError`]: if an ingredient is missing.
    """
    check_executor(executor, known=("local", "ray", RANKS))
    opened = open_recipe(recipe, allow_pickle=allow_pickle, stream=stream)
    soup = bind_recipe(opened, candidates=candidates, device=device)
    soup.executor = executor
    return soup


def _recorded_importance(recipe: Recipe, ingredients: Sequence[Checkpoint]) -> dict[str, Importance]:
    """The statistics that a recipe's ingredients were averaged by.

    Raises:
        [`RecipeError`]: if they are not beside their ingredients any more.
    """
    kind = importance_kind(recipe.method)
    found = {}
    for item in ingredients:
        if kind is not None and item.name in recipe.importance:
            record = recipe.importance[item.name]
            found[item.name] = find_importance(item, kind, batches=record.batches, digest=record.digest)
    return found


def bind_recipe(opened: OpenedRecipe, *, candidates: Sequence[Checkpoint] | None = None, device: str = "cpu") -> Soup:
    """Make the soup of a recipe whose ingredients are opened; the arguments are those of [`cook_recipe`].

    Raises:
        [`SoupError`]: the first error of an ingredient that could not be opened.
        [`IncompatibleError`]: if the ingredients cannot be averaged.
    """
    if opened.errors:
        raise opened.errors[0]
    recipe, ingredients, base = opened.recipe, opened.ingredients, opened.base
    base_candidate = None
    if base is not None and ingredients:
        base = fit_base(base, ingredients[0])
    if recipe.vocabulary is not None:
        united, base = with_common_vocabulary(ingredients, base, recipe.vocabulary, settings=recipe.take_from)
        ingredients = tuple(united)
    if base is not None and recipe.base_inside is not None:
        like = ingredients[0] if ingredients else base
        base_candidate = replace(as_ingredient(base, like, ()), ingredient=base.ingredient)
    mixable = ingredients
    if not ingredients and base_candidate is not None:  # the base model is the only ingredient
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
        importance=_recorded_importance(recipe, mixable),
        vocabulary=recipe.vocabulary,
        chat_template=recipe.chat_template,
    )
    return Soup(recipe, setup, candidates=candidates, device=device)
