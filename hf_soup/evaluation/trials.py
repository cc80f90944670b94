"""What a strategy sees of the world: recipes in, scores out. Nothing is run twice, and nothing longer than needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.layout import names_in_depth
from ..checkpoints.modules import by_depth, group, head_names, own_prefix
from ..errors import EvaluationError, RecipeError
from ..metrics import Metric
from ..outputs import Predictions, losses, right
from ..parallel import run_all
from ..progress import progress_bar
from ..types import Bar, Gradient, Ingredient, Recipe, Rejected, Score
from .binding import as_score
from .cache import LARGE, keep_gradient, keep_outputs, keep_score, kept_gradient, kept_outputs, kept_score
from .ensemble import mean_logits, mean_probabilities
from .evaluator import Evaluator, Outputs
from .statistics import interval, metric_sums, resampled
from .tasting import Job, Limit, Taster, lasting_fingerprint


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

FEW = 3
RESAMPLES = 1000  # of the interval of each trial's difference


class ModelTrials:
    """Scores recipes by cooking them in memory and asking an evaluator; a [`Trials`].

    A metric that counts right examples lets a trial end as soon as it cannot reach its bar. To that end averages are
    run on the rows first that most ingredients get wrong, in batches that stay the same for the whole search.

    Args:
        checkpoints (`Mapping[str, Checkpoint]`):
            The opened ingredients by name.
        evaluator (`Callable[[PreTrainedModel], Score | float]`):
            An [`Evaluator`], or any function of a model that returns a score or a number (higher is better).
        complete (`Callable[[Recipe], Recipe]`):
            Fills in method, parameters, type and seed of the whole merge.
        base (`Checkpoint`, *optional*):
            The base model, for methods that need it.
        way_from (`Checkpoint`, *optional*):
            The base model as one more ingredient, for strategies that ask for it.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        batchnorm ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again where a recipe says so.
        executor (`str`, *optional*, defaults to `"local"`):
            Where recipes are scored that do not depend on each other, as of [`run_all`].
        stop_early (`bool`, *optional*, defaults to `True`):
            `False` runs every trial in full, with the same result.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        evaluator: Callable[[PreTrainedModel], Score | float],
        complete: Callable[[Recipe], Recipe],
        base: Checkpoint | None = None,
        *,
        way_from: Checkpoint | None = None,
        device: str = "cpu",
        batchnorm: Evaluator | None = None,
        executor: str = "local",
        stop_early: bool = True,
    ):
        among = {} if way_from is None else {way_from.name: way_from}
        known = {**checkpoints, **among}
        self._taster = Taster(known, evaluator, base, device=device, batchnorm=batchnorm)
        self._candidates = sorted(checkpoints)
        self._first_config = next(iter(checkpoints.values())).config
        self._evaluator, self._complete, self._executor = evaluator, complete, executor
        self._stop_early = stop_early
        self._rows: np.ndarray | None = None  # the part; None is all of validation
        self._outputs: dict[tuple, Outputs] = {}
        self._scores: dict[tuple, Score] = {}
        self._found: dict[str, Any] = {}  # what all parts share once it is known
        self._bar = progress_bar(desc="Scoring recipes", unit="recipe")

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self._examined("this strategy").dataset) if self._rows is None else len(self._rows)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The named modules from the bottom up, as the model's class defines them."""
        return by_depth(self._specs, names_in_depth(self._first_config))

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The modules outside of the body."""
        prefix = own_prefix(self._specs)
        return tuple(dict.fromkeys(group(name, prefix) for name in head_names(self._specs)))

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """The modules of which an ingredient has not every tensor."""
        has, prefix = self._taster.checkpoints[ingredient.name].specs, own_prefix(self._specs)
        lacks = [name for name, spec in self._specs.items() if spec.is_floating and name not in has]
        return tuple(dict.fromkeys(group(name, prefix) for name in lacks))

    def score(self, recipe: Recipe, beat: Bar | None = None) -> Score | Rejected:
        """Cook and score one recipe; the same one again costs nothing, nor does one that an earlier process scored.

        Raises:
            [`EvaluationError`]: if the evaluator returns something else than a score or a number.
        """
        return self.map([recipe], beat)[0]

    def map(self, recipes: Sequence[Recipe], beat: Bar | None = None) -> list[Score | Rejected]:
        """Score recipes that do not depend on each other."""
        recipes = [self._complete(recipe) for recipe in recipes]
        answers = [self._answer(recipe, beat) for recipe in recipes]
        todo = [index for index, answer in enumerate(answers) if answer is None]
        jobs = [self._job(recipes[index], beat) for index in todo]
        before = [self._content(recipes[index]) for index in todo]
        for place, result in run_all(self._taster, jobs, executor=self._executor if len(jobs) > 1 else "local"):
            index = todo[place]
            self._keep(recipes[index], result, before[place])
            answers[index] = self._answer(recipes[index], beat)
            self._bar.set_postfix_str(f"{'+'.join(recipes[index].names)[:40]} {answers[index]}")
            self._bar.update()
        return answers

    def difference(self, recipe: Recipe, other: Recipe) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two scores, over the same resamples of the examples."""
        if not isinstance(self._evaluator, Evaluator):
            return None
        metric = self._metric
        if self._evaluator.select_by not in (None, metric.name):
            return None
        both = [self._recall(self._complete(one)) for one in (recipe, other)]
        if any(one is None or not one.whole for one in both) or metric.identity != metric.name:
            return None
        said = [self._in_part(one.said) for one in both]
        if metric_sums(metric.name, said[0]) is None:
            return None
        a, b = resampled(metric, metric.name, said, resamples=RESAMPLES)
        values = [metric.compute(one)[metric.name] for one in said]
        found = interval(values[0] - values[1], a - b)
        return None if found.low is None else (found.low, found.high)

    def logits(self, ingredient: Ingredient) -> Predictions:
        """What one ingredient says."""
        self._examined("to know what ingredients say")
        recipe = Recipe((ingredient,), (1.0,))
        self.score(recipe)
        found = self._recall(self._complete(recipe))
        return self._in_part(found.said)

    def ensemble(self, recipe: Recipe) -> Score:
        """The score of the averaged outputs of the ingredients."""
        evaluator = self._examined("an ensemble")
        members = [self.logits(item) for item in recipe.ingredients]
        if members[0].texts:
            raise EvaluationError("an ensemble writes no texts, which the metric is of.")
        mean = mean_probabilities if members[0].kind == "tokens" else mean_logits
        weights = [sum(column) for column in zip(*recipe.rows.values(), strict=True)]
        return evaluator.score(mean(members, weights), evaluator.task)

    def gradient(self, recipe: Recipe, rows: np.ndarray, scale: float = 1.0) -> Gradient:
        """The derivative of the loss on some examples; the same again costs nothing."""
        self._examined("to learn weights")
        recipe, rows = self._complete(recipe), rows if self._rows is None else self._rows[rows]
        before, key = self._content(recipe), self._on_disk(recipe)
        key = key and f"{key}:{scale!r}:{_digest(rows)}"
        found = kept_gradient(key)
        if found is None:
            found = self._taster.gradient(recipe, rows, scale)
            if self._content(recipe) == before:
                keep_gradient(key, found, f"{len(rows)} rows of {' + '.join(recipe.names)[:60]}")
        return found

    def part(self, rows: np.ndarray) -> ModelTrials:
        """Trials on some of the examples, which share with these what was run."""
        import numpy as np

        self._examined("to take a part of validation")
        other = copy.copy(self)
        other._rows = np.sort(rows if self._rows is None else self._rows[rows])
        return other

    @property
    def _specs(self) -> Mapping[str, Any]:
        return self._taster.checkpoints[self._candidates[0]].specs

    @property
    def _metric(self) -> Metric:
        """What selects."""
        return self._evaluator.metrics(self._evaluator.task)[0]

    def _examined(self, what: str) -> Evaluator:
        """The evaluator, of which there are examples.

        Raises:
            [`EvaluationError`]: if it is a function of a model.
        """
        if isinstance(self._evaluator, Evaluator):
            return self._evaluator
        raise EvaluationError(f"{what} needs examples, which a function of a model has not: give an Evaluator.")

    def _answer(self, recipe: Recipe, beat: Bar | None) -> Score | Rejected | None:
        """What is known already."""
        key = self._key(recipe)
        place = (key, None if self._rows is None else self._rows.tobytes())
        if not isinstance(self._evaluator, Evaluator):
            return self._scores.get(place)
        limit = self._limit(beat)
        single = len(recipe.names) == 1  # what one says is needed whole, to know which examples are hard
        if not single and limit is None and key not in self._outputs and self._rows is None:
            score = kept_score(self._on_disk(recipe, scores=True))
            if score is not None:
                self._scores[place] = score
                return score
        found = self._recall(recipe)
        # also of what was run in full for another reason: a search has the same rows every time
        rejected = limit and limit.verdict(found)
        if rejected:
            return rejected
        if found is None:  # what is large is not kept; its score is
            score = None if single or self._rows is not None else kept_score(self._on_disk(recipe, scores=True))
            return score or self._scores.get(place)
        if not found.whole:
            return None
        if place not in self._scores:
            self._scores[place] = self._score(recipe, found.said)
        return self._scores[place]

    def _job(self, recipe: Recipe, beat: Bar | None) -> Job:
        if not isinstance(self._evaluator, Evaluator):
            return Job(recipe)
        known = self._outputs.get(self._key(recipe))  # what was found when it was looked for; it may be gone by now
        return Job(recipe, self._first(recipe), known, self._limit(beat))

    def _keep(self, recipe: Recipe, result: Any, before: str | None) -> None:
        """Keep a result, on disk only if weights and data are what they were before it was run."""
        key = self._key(recipe)
        if not isinstance(self._evaluator, Evaluator):
            self._scores[key, None] = as_score(result)
            return
        self._outputs[key] = result
        if len(recipe.names) > 1 and result.said.logits.nbytes > LARGE:  # of these only the last few stay in memory
            large = self._found.setdefault("large", [])
            large.append(key)
            if len(large) > FEW:
                self._outputs.pop(large.pop(0), None)
        if before is None or self._content(recipe) != before:
            return
        about = f"{' + '.join(recipe.names)[:60]} on {self._evaluator.path or self._evaluator.split}"
        keep_outputs(self._on_disk(recipe), result, about, always=len(recipe.names) == 1)
        if result.whole and self._rows is None:
            keep_score(self._on_disk(recipe, scores=True), self._score(recipe, result.said), about)

    def _recall(self, recipe: Recipe) -> Outputs | None:
        """What a recipe's model said, as far as it was run, here or by an earlier process."""
        key = self._key(recipe)
        if key not in self._outputs and (found := kept_outputs(self._on_disk(recipe))):
            self._outputs[key] = found
        return self._outputs.get(key)

    def _key(self, recipe: Recipe) -> tuple[str, str]:
        """In memory: who, and on which rows first."""
        first = self._first(recipe) if isinstance(self._evaluator, Evaluator) else None
        return recipe.fingerprint(), "" if first is None else self._found["digest"]

    def _on_disk(self, recipe: Recipe, *, scores: bool = False) -> str | None:
        """Under what it is kept between processes, if it may be."""
        key = self._content(recipe, scores=scores)
        return key and ":".join(filter(None, [key, self._key(recipe)[1]]))

    def _content(self, recipe: Recipe, *, scores: bool = False) -> str | None:
        """What stands for the content of weights, data and settings as they are now, if it may be kept."""
        if not isinstance(self._evaluator, Evaluator) or not self._evaluator.keeps:
            return None
        opened = self._taster.checkpoints
        items = [opened[name] for name in recipe.names]
        others = opened.get(recipe.take_from or ""), self._taster.base if recipe.base_model else None
        fingerprint = lasting_fingerprint(recipe, [*items, *others])
        return fingerprint and self._evaluator.key(fingerprint, self._evaluator.task, scores=scores)

    def _score(self, recipe: Recipe, said: Predictions) -> Score:
        try:
            if not len(self._in_part(said).rows):
                raise EvaluationError("there is nothing to score among these examples.")
            score = self._evaluator.score(self._in_part(said), self._evaluator.task)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(recipe.names)}: {error}") from error
        return score if self._rows is None else replace(score, split=f"a part of {score.split}")

    def _in_part(self, said: Predictions) -> Predictions:
        return said if self._rows is None else said.take(self._rows)

    def _limit(self, beat: Bar | None) -> Limit | None:
        """When a trial may stop; never where the metric is no count, or nobody has said how many items there are."""
        import numpy as np

        if beat is None or not self._stop_early or not self._counts or not beat.score.higher_is_better:
            return None
        alone = next((found for name in self._candidates if (found := self._alone(name))), None)
        if alone is None:
            return None
        n = len(alone.rows) if self._rows is None else int(np.isin(alone.rows, self._rows).sum())
        return Limit(beat.needed(n), n, self._rows)

    @property
    def _counts(self) -> bool:
        selects = self._evaluator.select_by in (None, self._metric.name)
        return self._metric.counts and selects and not self._evaluator.generate

    def _alone(self, name: str) -> Predictions | None:
        """What an ingredient alone said, if it was asked here."""
        recipe = self._complete(Recipe((self._taster.checkpoints[name].ingredient,), (1.0,)))
        found = self._outputs.get((recipe.fingerprint(), ""))
        return found.said if found and found.whole else None

    def _first(self, recipe: Recipe) -> np.ndarray | None:
        """The rows to run first: those that some ingredient gets wrong, hardest first; once all are known."""
        if len(recipe.names) == 1 or not self._counts:
            return None
        if "hardest" not in self._found:
            alone = [self._alone(name) for name in self._candidates]
            if None in alone:
                return None
            self._found["hardest"], self._found["digest"] = _hardest_first(alone)
        return self._found["hardest"]


class NoTrials:
    """For strategies that ask for no score, where there is no evaluator."""

    def __getattr__(self, name: str) -> Any:
        """There is nothing to ask.

        Raises:
            [`RecipeError`]: always.
        """
        raise RecipeError("this strategy chooses by validation score: pass evaluator=hf_soup.Evaluator(data).")


def _hardest_first(alone: Sequence[Predictions]) -> tuple[np.ndarray, str]:
    """The rows that some ingredient gets wrong, those first that most do; of equals the highest mean loss."""
    import numpy as np

    wrong = np.sum([~right(said) for said in alone], axis=0).astype(np.float64)
    loss = np.mean([losses(said) for said in alone], axis=0)
    rows = alone[0].rows
    size = int(rows.max()) + 1
    per_row = np.bincount(rows, wrong, size), np.bincount(rows, loss, size)
    order = np.lexsort((-per_row[1], -per_row[0]))
    hardest = order[per_row[0][order] > 0]
    return hardest, _digest(hardest)


def _digest(rows: np.ndarray) -> str:
    import numpy as np
    import xxhash

    return xxhash.xxh3_64_hexdigest(rows.astype(np.int64).tobytes())
