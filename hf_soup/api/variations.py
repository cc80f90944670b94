"""Makes the soup of a changed recipe: other ingredients, strategy or method. Unchanged ingredients stay pinned."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..checkpoints.vocabularies import BASE, UNION
from ..data.functions import BUNDLED, is_function
from ..errors import RecipeError, did_you_mean
from ..evaluation.evaluator import Evaluator
from ..formats.strict_yaml import override
from ..merging.varied import is_by_ingredient
from ..metrics.built_in import BUILT_IN
from ..plugins import is_code, refuse_code
from ..types import Ingredient, Recipe
from ..untrusted import one_line
from .ingredients import load_ingredient
from .merge import merge
from .soup import Soup


OF_EVALUATORS = ("metric", "higher_is_better")  # settings of the evaluator, not arguments of the merge
NOT_SET = ("ingredients", "device")  # arguments of a merge that cannot be set for a variation


def cook_variation(
    recipe: Recipe,
    *,
    overrides: Sequence[str] = (),
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    allow_pickle: bool = False,
    allow_code: bool = False,
) -> Soup:
    """Make the soup of a recipe with changes.

    Args:
        recipe ([`Recipe`]):
            Recipe to start from.
        overrides (`Sequence[str]`, *optional*):
            Arguments of [`merge`] with their values, such as `"strategy=uniform"` or `"params.normalize=false"`.
        add (`Sequence[str]`, *optional*):
            Folders or Hub ids of ingredients to add.
        drop (`Sequence[str]`, *optional*):
            Names or Hub ids of ingredients to leave out.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        allow_code (`bool`, *optional*, defaults to `False`):
            Whether overrides may name code from outside of this package.

    Returns:
        [`Soup`]: the new soup, without the selection of the original recipe.

    Raises:
        [`RecipeError`]: if an argument or ingredient does not exist, or the weight of an added ingredient is unknown.
    """
    given = _read(overrides)
    if not allow_code:
        refuse_code(_code(given), "what is set for the recipe")
    kept = _kept(recipe, drop)
    settings: dict[str, Any] = {"method": recipe.method, "dtype": recipe.dtype, "seed": recipe.seed}
    settings["align_labels"] = bool(recipe.alignments)
    settings["chat_template"] = recipe.chat_template
    if given.get("method", recipe.method) == recipe.method and recipe.importance:
        records = {item.name: recipe.importance[item.name] for item in kept if item.name in recipe.importance}
        settings["importance_data"] = records
    if recipe.vocabulary in (None, UNION, BASE, *(item.name for item in kept)):
        settings["vocabulary"] = recipe.vocabulary
    base_model = given.pop("base_model", recipe.base_model)
    if base_model is not None:
        settings["base_model"] = load_ingredient(base_model, allow_pickle=allow_pickle)
    if recipe.take_from in [item.name for item in kept]:
        settings["take_from"] = recipe.take_from
    params = {}
    if given.get("method", recipe.method) == recipe.method:
        params = {name: _of_kept(value, recipe.names, kept) for name, value in recipe.params.items()}
    if "weights" not in given and "strategy" not in given:
        settings["weights"] = _weights(recipe, kept, len(add))
    params |= given.pop("params", {})
    _make_evaluator(given)
    ingredients = [load_ingredient(source, allow_pickle=allow_pickle) for source in (*kept, *add)]
    return merge(ingredients, **{**settings, **given}, **params)


def _read(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse `strategy=uniform` and the like into arguments of a merge."""
    given: dict[str, Any] = {}
    for item in overrides:
        override(given, item)
    known = [name for name in inspect.signature(merge).parameters if name not in NOT_SET] + list(OF_EVALUATORS)
    for name in given:
        if name not in known:
            raise RecipeError(f"{one_line(name)!r} cannot be set for a recipe{did_you_mean(name, known)}")
    params = given.get("params", {})
    if not isinstance(params, dict):
        raise RecipeError("`params` holds parameters of the method and the strategy: write params.NAME=VALUE.")
    for name in set(params) & set(inspect.signature(merge).parameters):
        raise RecipeError(f"`params.{name}` is no parameter of a method or strategy: write {name}=VALUE.")
    return given


def _make_evaluator(given: dict[str, Any]) -> None:
    """Combine data, metric and direction, which are separate overrides, into one evaluator."""
    options = {name: given.pop(name) for name in OF_EVALUATORS if name in given}
    if not options:
        return
    if "evaluator" not in given:
        raise RecipeError("a metric is what an evaluator scores by: set evaluator=DATA as well.")
    given["evaluator"] = Evaluator(given["evaluator"], **options)


def _code(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The arguments that name code from outside of this package, with the names."""
    for key, value in given.items():
        for named in value if isinstance(value, list) else [value]:
            if isinstance(named, str) and _names_code(key, named):
                yield key, named


def _names_code(key: str, named: str) -> bool:
    if key in ("method", "strategy"):
        return is_code(named)
    if key in ("evaluator", "batchnorm_data", "importance_data"):
        return is_function(named) and named not in BUNDLED
    return key == "metric" and named not in BUILT_IN


def _of_kept(value: Any, names: Sequence[str], kept: Sequence[Ingredient]) -> Any:
    """The value of a parameter without those of ingredients that are dropped, if it is given by ingredient."""
    if not is_by_ingredient(value, names):
        return value
    names_kept = [item.name for item in kept]
    return {name: own for name, own in value.items() if name in names_kept}


def _kept(recipe: Recipe, drop: Sequence[str]) -> list[Ingredient]:
    """The ingredients that are kept, without a base model, which only a strategy adds."""
    items = [item for item in recipe.ingredients if item.name != recipe.base_inside]
    for name in drop:
        if not any(name in (item.name, item.source) for item in items):
            known = [item.source if item.revision else item.name for item in items]
            raise RecipeError(f"no ingredient is called {name!r}, so it cannot be dropped{did_you_mean(name, known)}")
    kept = [item for item in items if not {item.name, item.source} & set(drop)]
    if not kept:
        raise RecipeError("every ingredient is dropped, so nothing of the recipe is left: merge the new ingredients.")
    return kept


def _weights(recipe: Recipe, kept: Sequence[Ingredient], added: int) -> dict[str, list[float]]:
    """The recipe's weights of the kept ingredients, and of the added ones if all weights are equal."""
    if recipe.base_inside:
        raise RecipeError(
            "the soup is interpolated with its base model by a coefficient chosen for these ingredients: choose it "
            "again with strategy=..."
        )
    weights_by_module = {}
    for prefix, weights in recipe.weights_by_module.items():
        held = [weight for item, weight in zip(recipe.ingredients, weights, strict=True) if item in kept]
        if added and len(set(held)) != 1:
            raise RecipeError(
                f"the ingredients have the weights {', '.join(f'{weight:.4g}' for weight in held)}, which does not "
                "determine those of the added ingredients: set weights=[...] or a strategy=..."
            )
        weights_by_module[prefix] = held + held[:1] * added
    return weights_by_module
