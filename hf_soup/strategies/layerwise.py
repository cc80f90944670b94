"""Decides module by module what is averaged, and over which ingredients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import RecipeError, did_you_mean
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search
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
) -> Choice:
    """Decide for each named module of the model whether it is averaged, and over which ingredients.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation, which also names the modules of the model.
        mode (`str`, *optional*, defaults to `"selective"`):
            `"selective"` averages one module after the other over all ingredients and keeps each change that does not
            lower the score; `"greedy"` chooses the ingredients of each module one by one; `"heads"` averages the heads
            only, and `"body"` everything but the heads, whatever the score.
        modules (`Sequence[str]`, *optional*):
            Modules to decide on, all of them by default; a prefix such as `"encoder"` stands for every module below
            it. With the modes `"heads"` and `"body"`, these modules are averaged instead.
        start (`str`, *optional*, defaults to `"best"`):
            Model to start from: the `"best"` single ingredient, or a `"greedy"` soup.
        module_order (`str`, *optional*, defaults to `"head_down"`):
            Order in which modules are decided on: from the head down, from the bottom up, or as `modules` lists them.
        accept (`str`, *optional*, defaults to `">="`):
            `">="` keeps a change that leaves the score unchanged; `">"` keeps it only if the score improves.
        tolerance (`float`, *optional*, defaults to 0.0):
            How far below the best score so far a soup may score and still be accepted, in the metric's unit.

    Returns:
        [`Choice`]: the mixture with a row of weights for each module, or with one row where all modules are alike.

    Raises:
        [`RecipeError`]: if the model has no module of a given name, or no head apart from its body.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482) (learned by layer).
    """
    decided = _modules_to_decide(modules, mode, trials)
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    if len(search.ranked) == 1:
        return search.result()
    # 1. Start with the same ingredients in every module: the best one, or those of a greedy soup.
    if start == "greedy":
        choice = greedy(ingredients, trials, accept=accept, tolerance=tolerance)
        search.add_trials(choice)
        soup = choice.mixture
        search.begin(soup, trials.score(soup), f"greedy soup of {', '.join(soup.names)}")
    members = {module: set(search.mixture.names) for module in trials.modules}
    if mode in ("heads", "body"):
        return _average_all(search, members, decided)

    def attempt(module: str, names: set[str], tried: str) -> None:
        """Average one module over these ingredients, and keep the change if the score reaches the threshold."""
        nonlocal members
        changed = {**members, module: names}
        if changed != members and search.attempt(_mixture(search, changed), tried):
            members = changed

    # 2. For each module try all ingredients at once, or a greedy soup within the module, best ingredient first.
    all_names = [item.name for item in search.ranked]
    for module in _in_order(decided, module_order, trials.modules):
        if mode == "selective":
            attempt(module, set(all_names), f"{module} of all")
        else:
            for name in all_names:
                attempt(module, members[module] | {name}, f"{module} + {name}")
    return search.result()


def _modules_to_decide(given: Sequence[str] | None, mode: str, trials: Trials) -> list[str]:
    """The modules that were named; by default all of them, or those of the heads or of the body."""
    if given is not None:
        return _expanded(given, trials.modules)
    if mode in ("heads", "body"):
        return _modules_of(mode, trials)
    return list(trials.modules)


def _in_order(decided: list[str], module_order: str, modules: Sequence[str]) -> list[str]:
    """The modules to decide on, in the requested order."""
    if module_order == "given":
        return decided
    bottom_up = [module for module in modules if module in decided]
    if module_order == "head_down":
        return bottom_up[::-1]
    return bottom_up


def _average_all(search: Search, members: dict[str, set[str]], averaged: Sequence[str]) -> Choice:
    """Average these modules over all ingredients; the score is recorded but decides nothing."""
    all_names = {item.name for item in search.ranked}
    mixture = _mixture(search, {**members, **dict.fromkeys(averaged, all_names)})
    score = search.trials.score(mixture)
    search.note(f"{', '.join(averaged)} of all", mixture, score, True)
    search.take(mixture, score)
    return search.result()


def _mixture(search: Search, members: dict[str, set[str]]) -> Mixture:
    """The mixture in which each module is averaged over the ingredients of these names, with weights 0 and 1."""
    different = {frozenset(names) for names in members.values()}
    used = frozenset().union(*different)
    items = [item for item in search.ranked if item.name in used]
    if len(different) == 1:  # one row of weights for all modules
        return Mixture.equal(items)
    weights = {}
    for module, names in members.items():
        weights[module] = tuple(float(item.name in names) for item in items)
    return Mixture(tuple(items), weights)


def _expanded(given: Sequence[str], all_modules: Sequence[str]) -> list[str]:
    """Every module that was named, where a prefix stands for the modules below it, from the bottom up."""
    if isinstance(given, str):
        raise RecipeError(f"modules is a list of names: write [{given!r}].")
    modules: list[str] = []
    for name in given:
        below = [module for module in all_modules if module == name or module.startswith(f"{name}.")]
        if not below:
            raise RecipeError(f'modules: the model has no module "{name}"{did_you_mean(name, all_modules)}')
        modules += [module for module in below if module not in modules]
    if not modules:
        raise RecipeError("modules is an empty list; omit it to decide on all modules.")
    return modules


def _modules_of(mode: str, trials: Trials) -> list[str]:
    """The modules of the heads, or those of the body."""
    if not trials.heads:
        raise RecipeError("this model has no head apart from its body; name modules=[...] instead.")
    if mode == "heads":
        return [module for module in trials.modules if module in trials.heads]
    return [module for module in trials.modules if module not in trials.heads]
