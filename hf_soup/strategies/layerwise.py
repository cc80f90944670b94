"""Module by module: which parts of the model are averaged, and over whom."""

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
    """Decide for each named module whether it is averaged.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scores mixtures on validation, and names the modules.
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
        [`Choice`]: with a row of weights for each module, unless they are all alike.

    Raises:
        [`RecipeError`]: if there is no such module, or the model has no head apart from its body.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482) (learned by layer).
    """
    decided = _modules_to_decide(modules, mode, trials)
    search = Search(ingredients, trials, ties=accept == ">=", tolerance=tolerance)
    if len(search.ranked) == 1:
        return search.result()
    # 1. Begin with the same ingredients in every module: the best one, or those of a greedy soup.
    if start == "greedy":
        choice = greedy(ingredients, trials, accept=accept, tolerance=tolerance)
        search.add_trials(choice)
        soup = choice.mixture
        search.begin(soup, trials.score(soup), f"greedy soup of {', '.join(soup.names)}")
    members = {module: set(search.mixture.names) for module in trials.modules}
    if mode in ("heads", "body"):
        return _average_all(search, members, decided)

    def attempt(module: str, names: set[str], tried: str) -> None:
        """Average one module over these ingredients, and leave it so if the score is good enough."""
        nonlocal members
        changed = {**members, module: names}
        if changed != members and search.attempt(_mixture(search, changed), tried):
            members = changed

    # 2. Module by module: all ingredients at once, or a greedy soup within the module, best ingredient first.
    all_names = [item.name for item in search.ranked]
    for module in _in_order(decided, module_order, trials.modules):
        if mode == "selective":
            attempt(module, set(all_names), f"{module} of all")
        else:
            for name in all_names:
                attempt(module, members[module] | {name}, f"{module} + {name}")
    return search.result()


def _modules_to_decide(given: Sequence[str] | None, mode: str, trials: Trials) -> list[str]:
    """The modules that were named; by default all, or those of the heads or of the body."""
    if given is not None:
        return _expanded(given, trials.modules)
    if mode in ("heads", "body"):
        return _modules_of(mode, trials)
    return list(trials.modules)


def _in_order(decided: list[str], module_order: str, modules: Sequence[str]) -> list[str]:
    """The modules to decide on, in the order that was asked for."""
    if module_order == "given":
        return decided
    bottom_up = [module for module in modules if module in decided]
    if module_order == "head_down":
        return bottom_up[::-1]
    return bottom_up


def _average_all(search: Search, members: dict[str, set[str]], averaged: Sequence[str]) -> Choice:
    """Average these modules over all ingredients; the score is recorded, and decides nothing."""
    all_names = {item.name for item in search.ranked}
    mixture = _mixture(search, {**members, **dict.fromkeys(averaged, all_names)})
    score = search.trials.score(mixture)
    search.note(f"{', '.join(averaged)} of all", mixture, score, True)
    search.take(mixture, score)
    return search.result()


def _mixture(search: Search, members: dict[str, set[str]]) -> Mixture:
    """Module -> names of the ingredients that it is averaged over, as rows of weights 0 and 1."""
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
    """The modules that were named, one by one; those below a prefix from the bottom up."""
    if isinstance(given, str):
        raise RecipeError(f"modules is a list of names: write [{given!r}].")
    modules: list[str] = []
    for name in given:
        below = [module for module in all_modules if module == name or module.startswith(f"{name}.")]
        if not below:
            raise RecipeError(f'modules: the model has no module "{name}"{did_you_mean(name, all_modules)}')
        modules += [module for module in below if module not in modules]
    if not modules:
        raise RecipeError("modules is an empty list; leave it out to decide on all of them.")
    return modules


def _modules_of(mode: str, trials: Trials) -> list[str]:
    """The modules of the heads, or those of the body."""
    if not trials.heads:
        raise RecipeError("this model has no head apart from its body; name modules=[...] instead.")
    if mode == "heads":
        return [module for module in trials.modules if module in trials.heads]
    return [module for module in trials.modules if module not in trials.heads]
