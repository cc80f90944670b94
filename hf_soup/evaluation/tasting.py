"""Cook a recipe in memory and run it over examples, as far as it is worth. What a worker elsewhere gets to do so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint, contents_of
from ..errors import EvaluationError
from ..merging.in_memory import Refill, cook_in_memory, rough
from ..merging.plan import Plan, make_plan
from ..methods.linear import linear
from ..outputs import Predictions, joined, right
from ..types import Gradient, Ingredient, Recipe, Rejected
from .batchnorm import update_batchnorm
from .evaluator import Evaluator, Outputs
from .gradient import recipe_gradient
from .running import resolve_device


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel


class Job(NamedTuple):
    """What is asked of one recipe.

    Args:
        recipe ([`Recipe`]):
            With method, type and seed.
        first (`np.ndarray`, *optional*):
            Rows to run first.
        known ([`Outputs`], *optional*):
            What it said before it was stopped.
        limit ([`Limit`], *optional*):
            When to stop.
    """

    recipe: Recipe
    first: np.ndarray | None = None
    known: Outputs | None = None
    limit: Limit | None = None


class Limit(NamedTuple):
    """How many items have to be right, of those that count.

    Args:
        needed (`int`):
            Fewer are too few.
        n (`int`):
            Of how many.
        rows (`np.ndarray`, *optional*):
            Which rows count; all by default.
    """

    needed: int
    n: int
    rows: np.ndarray | None = None

    def left(self, said: Predictions) -> tuple[int, int]:
        """How many of these items count, and how many of them are right."""
        counted = right(said)[self._counts(said)]
        return len(counted), int(counted.sum())

    def verdict(self, outputs: Outputs | None) -> Rejected | None:
        """From which item on it is out of reach, in the order in which rows were asked, so that it does not matter how
        many more were run; `None` if it is not.
        """
        import numpy as np

        if self.n < self.needed:  # nobody can reach it
            return Rejected(self.n, self.n, 0)
        if outputs is None:
            return None
        said, place = outputs.said, np.empty(int(outputs.asked.max()) + 1, dtype=np.int64)
        place[outputs.asked] = np.arange(len(outputs.asked))
        counted = np.flatnonzero(self._counts(said))
        in_turn = counted[np.argsort(place[said.rows[counted]], kind="stable")]
        most = self.n - np.cumsum(~right(said)[in_turn])
        lost = np.flatnonzero(most < self.needed)
        return Rejected(int(most[lost[0]]), self.n, int(lost[0]) + 1) if len(lost) else None

    def _counts(self, said: Predictions) -> np.ndarray:
        import numpy as np

        return np.ones(len(said.rows), dtype=bool) if self.rows is None else np.isin(said.rows, self.rows)


class Taster:
    """Cooks recipes and runs them. It can be sent to other machines, where it begins with no model.

    Args:
        checkpoints (`Mapping[str, Checkpoint]`):
            The opened ingredients by name.
        evaluator (`Callable[[PreTrainedModel], Any]`):
            An [`Evaluator`], or any function of a model.
        base (`Checkpoint`, *optional*):
            The base model, for methods that need it.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        batchnorm ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again where a recipe says so.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        evaluator: Callable[[PreTrainedModel], Any],
        base: Checkpoint | None = None,
        *,
        device: str = "cpu",
        batchnorm: Evaluator | None = None,
    ):
        self.checkpoints, self.evaluator, self.base = checkpoints, evaluator, base
        self.device, self.batchnorm = device, batchnorm
        self.refill = Refill(device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "refill": None}

    def __call__(self, job: Job) -> Outputs | Any:
        """Run the model of a recipe over the examples until its limit is out of reach, or all of them.

        Returns:
            [`Outputs`] of an evaluator, of a function what it returns.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        if job.known is not None and job.known.whole:  # there is no example left to run
            return job.known
        plan, items = self.plan(job.recipe)
        try:
            if isinstance(self.evaluator, Evaluator):
                return self._run(self._cook(plan, items, job.recipe), job)
            model = cook_in_memory(plan, items, device=self.device)  # with which a function may do what it likes
            return self.evaluator(estimate_again(model, job.recipe, self.batchnorm))
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(job.recipe.names)}: {error}") from error

    def gradient(self, recipe: Recipe, rows: np.ndarray, scale: float) -> Gradient:
        """The derivative of the loss on some examples; see [`recipe_gradient`].

        Raises:
            [`EvaluationError`]: if the method is another than the linear one.
        """
        plan, items = self.plan(recipe)
        if any(not step.copied and step.how.function.func is not linear for step in plan.steps):
            raise EvaluationError(f'weights are learned for method="linear" alone, not for "{recipe.method}".')
        model = self._cook(rough(plan), items, recipe)
        return recipe_gradient(self.evaluator, model, self.refill.tensors, plan, items, rows, scale)

    def plan(self, recipe: Recipe) -> tuple[Plan, list[Checkpoint]]:
        """What the recipe makes, and of whom."""
        items = [self.checkpoints[name] for name in recipe.names]
        settings = self.checkpoints.get(recipe.take_from or "")  # which need not be one of its ingredients
        return make_plan(recipe, items, self.base, settings=settings), items

    def _cook(self, plan: Plan, items: Sequence[Checkpoint], recipe: Recipe) -> PreTrainedModel:
        self.refill = self.refill or Refill(self.device)
        model = self.refill.fill(plan, items)
        if recipe.batchnorm and self.batchnorm is not None:
            counted = [spec.name for spec in plan.specs if is_statistic(spec.name) or not spec.is_floating]
            self.refill.forget(counted)
            model = estimate_again(model, recipe, self.batchnorm)
        return model

    def _run(self, model: PreTrainedModel, job: Job) -> Outputs:
        if job.limit is None:
            return _together(job.known, self._outputs(model, job, None))
        seen, correct = job.limit.left(job.known.said) if job.known else (0, 0)

        def enough(said: Predictions) -> bool:
            nonlocal seen, correct
            more, good = job.limit.left(said)
            seen, correct = seen + more, correct + good
            return correct + job.limit.n - seen < job.limit.needed

        return _together(job.known, self._outputs(model, job, enough))

    def _outputs(self, model: PreTrainedModel, job: Job, enough: Callable[[Predictions], bool] | None) -> Outputs:
        done = job.known.asked if job.known else None
        return self.evaluator.run(model, first=job.first, done=done, enough=enough)


def _together(before: Outputs | None, after: Outputs) -> Outputs:
    import numpy as np

    if before is None:
        return after
    return Outputs(joined([before.said, after.said]), np.concatenate([before.asked, after.asked]), after.whole)


def lasting_fingerprint(recipe: Recipe, checkpoints: Iterable[Checkpoint | None]) -> str | None:
    """Under what the scores of a recipe are kept: with configurations, and the content of the weights as it is now,
    wherever they lie.

    Args:
        recipe ([`Recipe`]):
            Who goes in and how.
        checkpoints (`Iterable[Checkpoint]`):
            The opened ingredients in their order, then whatever else decides what comes out, such as the base model;
            `None` stands for nothing.

    Returns:
        `str`, or `None` where nothing may be kept: for a method of the user's own, whose code may change, and for
        weights that have changed since they were opened.

    Raises:
        [`IngredientError`]: if weights cannot be read.
    """
    items: list[Checkpoint] = []
    for item in checkpoints:
        known = [other.ingredient for other in items] if len(items) >= len(recipe.ingredients) else []
        if item is not None and item.ingredient not in known:
            items.append(item)
    if ":" in recipe.method or any(item.changed_files() for item in items):
        return None
    import xxhash

    named = tuple(_without_place(item) for item in recipe.ingredients)
    base = recipe.base_model and _without_place(recipe.base_model)
    bare = replace(recipe, ingredients=named, base_model=base)
    opened = [[item.config, item.generation, content] for item, content in zip(items, contents_of(items), strict=True)]
    content = json.dumps([bare.fingerprint(), opened], sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(content.encode("utf-8", "surrogatepass"))


def _without_place(ingredient: Ingredient) -> Ingredient:
    """A reference without what its content says better."""
    return Ingredient(ingredient.name, "")


def estimate_again(model: PreTrainedModel, recipe: Recipe, data: Evaluator | None) -> PreTrainedModel:
    """Estimate BatchNorm again where a recipe says so and its data is at hand."""
    if not recipe.batchnorm or data is None:
        return model
    device = model.device
    return update_batchnorm(model.to(resolve_device(data.device)), data.batches(model)).to(device)
