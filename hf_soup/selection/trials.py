"""What a strategy sees of the world: mixtures in, scores out. Nothing is run twice, and nothing longer than needed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError, RecipeError
from ..evaluation.ensemble import mean_logits, mean_probabilities
from ..evaluation.evaluator import Evaluator
from ..evaluation.limits import Limit
from ..evaluation.model_maker import ModelMaker
from ..evaluation.recipe_runner import Job, RecipeRunner, RunOrder
from ..metrics.load import Metric
from ..metrics.predictions import Predictions, losses, right
from ..metrics.statistics import interval, metric_sums, resampled
from ..types import Gradient, Ingredient, Mixture, Rejected, Score, Threshold
from .setup_trials import SetupTrials


if TYPE_CHECKING:
    import numpy as np

    from ..merging.setup import MergeSetup

RESAMPLES = 1000  # of the interval of each trial's difference


class ModelTrials(SetupTrials):
    """Scores mixtures by averaging them in memory and running them over examples; a [`Trials`].

    A metric that counts right examples lets a trial end as soon as it cannot reach its threshold. To that end averages
    are run on the rows first that most ingredients get wrong, in batches that stay the same for the whole search.

    Args:
        setup ([`MergeSetup`]):
            The ingredients, and how they are averaged.
        evaluator ([`Evaluator`]):
            The examples, bound to the ingredients' processing.
        training ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again where a recipe says so.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        executor (`str`, *optional*, defaults to `"local"`):
            Where mixtures are scored that do not depend on each other, as of [`run_all`].
        stop_early (`bool`, *optional*, defaults to `True`):
            `False` runs every trial in full, with the same result.
    """

    def __init__(
        self,
        setup: MergeSetup,
        evaluator: Evaluator,
        *,
        training: Evaluator | None = None,
        device: str = "cpu",
        executor: str = "local",
        stop_early: bool = True,
    ):
        super().__init__(setup)
        self._evaluator = evaluator
        self._runner = RecipeRunner(ModelMaker(setup, device=device, training=training), evaluator, executor=executor)
        by_name = sorted(setup.candidates, key=lambda item: item.name)  # sums over them do not depend on their order
        self._singles = [Mixture.equal([item.ingredient]) for item in by_name]
        self._stop_early = stop_early
        self._subset: np.ndarray | None = None  # rows that are scored; `None` is all of validation
        self._scores: dict[tuple[str, bytes | None], Score] = {}  # shared with the trials on subsets
        # Shared as well, so a list that is filled in place: no order until every ingredient has been run.
        self._hardest: list[RunOrder] = []

    @property
    def examples(self) -> int:
        """How many examples there are."""
        if self._subset is None:
            return len(self._evaluator.dataset)
        return len(self._subset)

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two scores, over the same resamples of the examples."""
        metric = self._metric
        # Only a built-in metric, whose identity is its name, is known as sums over examples, which are resampled.
        if metric.identity != metric.name or self._evaluator.select_by not in (None, metric.name):
            return None
        predictions = []
        for compared in (mixture, other):
            outputs = self._runner.recall(compared, self._order_of(compared))
            if outputs is None or not outputs.whole:
                return None
            predictions.append(self._in_subset(outputs.predictions))
        if metric_sums(metric.name, predictions[0]) is None:
            return None
        resampled_values, resampled_others = resampled(metric, metric.name, predictions, resamples=RESAMPLES)
        value, other_value = [metric.compute(of_mixture)[metric.name] for of_mixture in predictions]
        difference = interval(value - other_value, resampled_values - resampled_others)
        if difference.low is None or difference.high is None:
            return None
        return difference.low, difference.high

    def logits(self, ingredient: Ingredient) -> Predictions:
        """The predictions of one ingredient."""
        return self._in_subset(self._runner.predictions(Mixture.equal([ingredient])))

    def ensemble(self, mixture: Mixture) -> Score:
        """The score of the averaged outputs of the ingredients."""
        members = [self.logits(item) for item in mixture.ingredients]
        if members[0].texts:
            raise EvaluationError("an ensemble writes no texts, which the metric is of.")
        # Of tokens only the probability of the right one is kept, whose mean is that of an ensemble.
        mean = mean_probabilities if members[0].kind == "tokens" else mean_logits
        return self._evaluator.score(mean(members, mixture.totals))

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """The derivative of the loss on some examples; the same again costs nothing."""
        return self._runner.gradient(mixture, self._rows_of(examples), scale)

    def subset(self, examples: np.ndarray) -> ModelTrials:
        """Trials on some of the examples, which share with these what was run."""
        import numpy as np

        trials = copy.copy(self)  # shallow: what was run and scored belongs to both
        trials._subset = np.sort(self._rows_of(examples))
        return trials

    def _rows_of(self, examples: np.ndarray) -> np.ndarray:
        """The rows of the data set that examples are, which a subset counts from 0."""
        if self._subset is None:
            return examples
        return self._subset[examples]

    @property
    def _metric(self) -> Metric:
        """What selects, unless the evaluator names another value."""
        return self._evaluator.metrics[0]

    def _map(self, mixtures: Sequence[Mixture], threshold: Threshold | None) -> list[Any]:
        """The result of each mixture; only those without one are run."""
        results = [self._known_result(mixture, threshold) for mixture in mixtures]
        places = [place for place, result in enumerate(results) if result is None]
        jobs = [self._job(mixtures[place], threshold) for place in places]
        for job_place, _ in self._runner.run(jobs, keep_scores=self._subset is None):
            place = places[job_place]
            mixture = mixtures[place]
            results[place] = self._result(mixture, threshold)
            self._bar.set_postfix_str(f"{'+'.join(mixture.names)[:40]} {results[place]}")
            self._bar.update()
        return results

    def _job(self, mixture: Mixture, threshold: Threshold | None) -> Job:
        """What is left to run of a mixture."""
        order = self._order_of(mixture)
        return Job(mixture, order, self._limit(threshold), self._runner.recall(mixture, order))

    def _known_result(self, mixture: Mixture, threshold: Threshold | None) -> Score | Rejected | None:
        """What is known without running anything."""
        is_single = len(mixture.names) == 1
        score_may_be_kept = not is_single and self._subset is None  # predictions of single ingredients are needed too
        if score_may_be_kept and self._limit(threshold) is None:
            key = self._score_key(mixture)
            if key not in self._scores:
                score = self._runner.kept_score(mixture, self._order_of(mixture))
                if score is not None:
                    self._scores[key] = score
            if key in self._scores:
                return self._scores[key]
        result = self._result(mixture, threshold)
        if result is None and score_may_be_kept:  # predictions that are large are not kept; their score is
            return self._runner.kept_score(mixture, self._order_of(mixture))
        return result

    def _result(self, mixture: Mixture, threshold: Threshold | None) -> Score | Rejected | None:
        """What the predictions say as far as they are known.

        Of a mixture that was run in full for another reason the limit is asked as well, so that a search records the
        same every time.
        """
        outputs = self._runner.recall(mixture, self._order_of(mixture))
        limit = self._limit(threshold)
        if limit is not None:
            rejected = limit.verdict(outputs)
            if rejected is not None:
                return rejected
        key = self._score_key(mixture)
        if outputs is None:
            return self._scores.get(key)
        if not outputs.whole:
            return None
        if key not in self._scores:
            self._scores[key] = self._score(mixture, outputs.predictions)
        return self._scores[key]

    def _score(self, mixture: Mixture, predictions: Predictions) -> Score:
        """The score on the examples of these trials, out of predictions on all of validation."""
        in_subset = self._in_subset(predictions)
        if not len(in_subset.rows):
            raise EvaluationError(f"{' + '.join(mixture.names)}: there is nothing to score among these examples.")
        score = self._runner.score(mixture, in_subset)
        if self._subset is None:
            return score
        return replace(score, split=f"a part of {score.split}")

    def _score_key(self, mixture: Mixture) -> tuple[str, bytes | None]:
        """What a score is remembered by: the recipe, and which rows count."""
        fingerprint = self._runner.setup.recipe(mixture).fingerprint()
        if self._subset is None:
            return fingerprint, None
        return fingerprint, self._subset.tobytes()

    def _in_subset(self, predictions: Predictions) -> Predictions:
        """Those of the predictions that are of the examples of these trials."""
        if self._subset is None:
            return predictions
        return predictions.take(self._subset)

    def _limit(self, threshold: Threshold | None) -> Limit | None:
        """When a trial may stop; never where the metric is no count, or the number of items is not known yet."""
        if threshold is None or not self._stop_early or not self._counts or not threshold.score.higher_is_better:
            return None
        count = self._count_of_items()
        if count is None:
            return None
        return Limit(threshold.needed(count), count, self._subset)

    def _count_of_items(self) -> int | None:
        """How many items the metric counts, which are more than examples where each token is one; `None` until a
        single ingredient has been run in full.
        """
        import numpy as np

        for single in self._singles:
            outputs = self._runner.recall_in_memory(single)
            if outputs is None or not outputs.whole:
                continue
            rows = outputs.predictions.rows
            if self._subset is None:
                return len(rows)
            return int(np.isin(rows, self._subset).sum())
        return None

    @property
    def _counts(self) -> bool:
        """Whether what selects is a share of right examples."""
        selects = self._evaluator.select_by in (None, self._metric.name)
        # Of texts that a model writes, logits do not say whether they are right.
        return self._metric.counts and selects and not self._evaluator.generate

    def _order_of(self, mixture: Mixture) -> RunOrder | None:
        """The rows to run first: those that some ingredient gets wrong, hardest first; once all were run."""
        # Single ingredients are run in the usual order, since they are what tells which rows are hard.
        if len(mixture.names) == 1 or not self._counts:
            return None
        if not self._hardest:
            predictions = []
            for single in self._singles:
                outputs = self._runner.recall_in_memory(single)
                if outputs is None or not outputs.whole:
                    return None
                predictions.append(outputs.predictions)
            self._hardest.append(_hardest_first(predictions))
        return self._hardest[0]


class NoTrials:
    """For strategies that ask for no score, where there is no evaluator."""

    def __getattr__(self, name: str) -> Any:
        """There is nothing to ask.

        Raises:
            [`RecipeError`]: always.
        """
        raise RecipeError("this strategy chooses by validation score: pass evaluator=hf_soup.Evaluator(data).")


def _hardest_first(predictions: Sequence[Predictions]) -> RunOrder:
    """The rows that some ingredient gets wrong, those first that most do; of equals the highest mean loss."""
    import numpy as np

    wrong = np.sum([~right(of_single) for of_single in predictions], axis=0).astype(np.float64)
    mean_loss = np.mean([losses(of_single) for of_single in predictions], axis=0)
    rows = predictions[0].rows  # of each item; a row of tokens has several, which are summed here
    size = int(rows.max()) + 1
    wrong_by_row, loss_by_row = np.bincount(rows, wrong, size), np.bincount(rows, mean_loss, size)
    order = np.lexsort((-loss_by_row, -wrong_by_row))
    return RunOrder.of(order[wrong_by_row[order] > 0])
