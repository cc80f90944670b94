"""Module by module: which parts of the model are averaged, and over whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RecipeError, did_you_mean
from ..lookup import strategy
from ..types import Ingredient, Recipe, Trials
from ._search import Search, soup_of
from .greedy import greedy


@strategy(never_worse=True)
def layerwise(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    mode: Literal["selective", "greedy", "heads", "body"] = "selective",
    modules: Sequence[str] | None = None,
    start: Literal["best", "greedy"] = "best",
    module_order: Literal["head_down", "bottom_up", "given"] = "head_down",
    accept: Literal[">=", ">"] = ">=",
    tolerance: float = 0.0,
) -> Recipe:
    """Decide for each named module whether it is averaged.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores recipes on validation, and names the modules.
        mode (`str`, *optional*, defaults to `"selective"`):
            `"selective"` averages one module after the other over all ingredients and keeps it so if the score does
            not fall; `"greedy"` chooses for each module, one by one, which ingredients go into it; `"heads"` averages
            the heads alone and `"body"` all but the heads, as told.
        modules (`Sequence[str]`, *optional*):
            Which modules are decided on (`"encoder"` is all below it): all by default. With `"heads"` or `"body"`,
            these are averaged instead.
        start (`str`, *optional*, defaults to `"best"`):
            What every module is at first: the best single ingredient, or a `"greedy"` soup.
        module_order (`str`, *optional*, defaults to `"head_down"`):
            In which order modules are decided on: from the head down, from the bottom up, or as `modules` gives them.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` keeps a change that leaves the score as it is; `">"` asks for a gain.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far is still good enough, in the metric's unit.

    Returns:
        [`Recipe`]: with a row of weights for each module, unless they are all alike.

    Raises:
        [`RecipeError`]: if there is no such module, or the model has no head apart from its body.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482) (learned by layer).
    """
    asked = _expanded(modules, trials.modules)
    told = _side(mode, trials) if mode in ("heads", "body") and not modules else asked
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    if len(search.ranked) == 1:
        return search.result()
    everybody = [item.name for item in search.ranked]
    rows = {module: {everybody[0]} for module in trials.modules}
    if start == "greedy":
        first = greedy(ingredients, trials, accept=accept, tolerance=tolerance)
        search.add_rows(first)
        rows = {module: set(first.names) for module in trials.modules}
        search.begin(first, trials.score(first), f"greedy soup of {', '.join(first.names)}")
    if mode in ("heads", "body"):
        return _as_told(search, rows, told)
    order = {"head_down": [m for m in reversed(trials.modules) if m in asked], "given": asked}.get(
        module_order, [m for m in trials.modules if m in asked]
    )
    for module in order:
        if mode == "selective":
            changed = {**rows, module: set(everybody)}
            if changed != rows and search.attempt(_recipe(search, changed), f"{module} of all"):
                rows = changed
            continue
        for name in everybody:
            changed = {**rows, module: rows[module] | {name}}
            if changed != rows and search.attempt(_recipe(search, changed), f"{module} + {name}"):
                rows = changed
    return search.result()


def _as_told(search: Search, rows: dict[str, set[str]], averaged: Sequence[str]) -> Recipe:
    """Average these modules over all ingredients; the score is told, and decides nothing."""
    everybody = {item.name for item in search.ranked}
    recipe = _recipe(search, {**rows, **dict.fromkeys(averaged, everybody)})
    score = search.trials.score(recipe)
    search.note(f"{', '.join(averaged)} of all", recipe, score, True)
    search.take(recipe, score)
    return search.result()


def _recipe(search: Search, rows: dict[str, set[str]]) -> Recipe:
    """Modules -> who is in them, as rows of weights over those who are in any."""
    if len({frozenset(names) for names in rows.values()}) == 1:
        inside = next(iter(rows.values()))
        return soup_of([item for item in search.ranked if item.name in inside])
    items = [item for item in search.ranked if any(item.name in names for names in rows.values())]
    weights = {module: tuple(float(item.name in names) for item in items) for module, names in rows.items()}
    return Recipe(tuple(items), weights)


def _expanded(given: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The modules that were asked for, one by one; those below a prefix from the bottom up."""
    if given is None:
        return list(known)
    if isinstance(given, str):
        raise RecipeError(f"modules is a list of names: write [{given!r}].")
    found: list[str] = []
    for name in given:
        below = [module for module in known if module == name or module.startswith(f"{name}.")]
        if not below:
            raise RecipeError(f'modules: the model has no module "{name}"{did_you_mean(name, known)}')
        found += [module for module in below if module not in found]
    if not found:
        raise RecipeError("modules is an empty list; leave it out to decide on all of them.")
    return found


def _side(mode: str, trials: Trials) -> list[str]:
    if not trials.heads:
        raise RecipeError("this model has no head apart from its body; name modules=[...] instead.")
    return [module for module in trials.modules if (module in trials.heads) == (mode == "heads")]
