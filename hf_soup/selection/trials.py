"""Trials, with which a strategy scores mixtures. Nothing is run twice, and nothing longer than needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError, RecipeError
from ..evaluation.ensemble import mean_logits, mean_probabilities
from ..evaluation.evaluator import Evaluator
from ..evaluation.limits import Limit
from ..evaluation.model_maker import ModelMaker
from ..evaluation.recipe_runner import Job, RecipeRunner, RunOrder
from ..metrics.load import Metric
from ..metrics.predictions import WITHOUT_LOSS, Predictions, losses, right
from ..metrics.statistics import interval, metric_sums, resampled
from ..types import Gradient, Ingredient, Mixture, Rejected, Score, Threshold
from .setup_trials import SetupTrials


if TYPE_CHECKING:
    import numpy as np

    from ..merging.setup import MergeSetup

RESAMPLES = 1000  # resamples for the interval of each trial's difference


class ModelTrials(SetupTrials):
    """[`Trials`] that average mixtures in memory and run them on examples.

    If the metric counts correct examples, a trial ends as soon as it cannot reach its threshold. For this purpose,
    averages are first run on the rows that most ingredients get wrong, in the same batches for the whole search.

    Args:
        setup ([`MergeSetup`]):
            Ingredients, and how they are averaged.
        evaluator ([`Evaluator`]):
            Evaluator of the examples, with the ingredients' processing class.
        training ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again, if a recipe says so.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        executor (`str`, *optional*, defaults to `"local"`):
            Where independent mixtures are scored, as for [`run_all`].
        resources (`Mapping[str, Any]`, *optional*):
            Resources of that executor.
        stop_early (`bool`, *optional*, defaults to `True`):
            Whether trials are stopped early. The result is the same if every trial is run in full.
    """

    def __init__(
        self,
        setup: MergeSetup,
        evaluator: Evaluator,
        *,
        training: Evaluator | None = None,
        device: str = "cpu",
        executor: str = "local",
        resources: Mapping[str, Any] | None = None,
        stop_early: bool = True,
    ):
        super().__init__(setup)
        self._evaluator = evaluator
        maker = ModelMaker(setup, device=device, training=training)
        self._runner = RecipeRunner(maker, evaluator, executor=executor, resources=resources)
        by_name = sorted(setup.candidates, key=lambda item: item.name)  # sums over them must not depend on their order
        self._singles = [Mixture.equal([item.ingredient]) for item in by_name]
        self._stop_early = stop_early
        self._subset: np.ndarray | None = None  # rows that are scored; `None` for all validation data
        self._scores: dict[tuple[str, bytes | None], Score] = {}  # shared with the trials on subsets
        # Shared too, so a list that is filled in place; empty until every ingredient has been run.
        self._hardest: list[RunOrder] = []

    @property
    def examples(self) -> int:
        """Number of examples."""
        if self._subset is None:
            return len(self._evaluator.dataset)
        return len(self._subset)

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two scores, over the same resamples of the examples."""
        metric = self._metric
        # Only built-in metrics, whose identity is their name, are sums over examples, which are resampled.
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

    def loss(self, mixture: Mixture) -> float | None:
        """The mean loss over the items; `None` if it was not run in full, generated texts, or has no loss."""
        outputs = self._runner.recall(mixture, self._order_of(mixture))
        if outputs is None or not outputs.whole or outputs.predictions.texts:
            return None
        if outputs.predictions.kind in WITHOUT_LOSS:
            return None
        return float(losses(self._in_subset(outputs.predictions)).mean())

    def logits(self, ingredient: Ingredient) -> Predictions:
        """The predictions of one ingredient."""
        return self.predictions(Mixture.equal([ingredient]))

    def predictions(self, mixture: Mixture) -> Predictions:
        """The predictions of a mixture, which is run in full."""
        return self._in_subset(self._runner.predictions(mixture))

    def ensemble(self, mixture: Mixture) -> Score:
        """The score of the averaged outputs of the ingredients."""
        return self.ensemble_of([Mixture.equal([item]) for item in mixture.ingredients], mixture.totals)

    def ensemble_of(self, mixtures: Sequence[Mixture], weights: Sequence[float]) -> Score:
        """The score of the averaged outputs of several mixtures."""
        members = [self.predictions(member) for member in mixtures]
        if members[0].texts:
            raise EvaluationError("an ensemble generates no texts, which the metric needs.")
        # For tokens only the probability of the correct one is kept, whose mean is that of an ensemble.
        mean = mean_probabilities if members[0].kind == "tokens" else mean_logits
        return self._evaluator.score(mean(members, weights))

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """The gradient of the loss on some examples, which is kept."""
        return self._runner.gradient(mixture, self._rows_of(examples), scale)

    def subset(self, examples: np.ndarray) -> ModelTrials:
        """Trials on some of the examples, which share the results of these trials."""
        import numpy as np

        trials = copy.copy(self)  # shallow: both share results
        trials._subset = np.sort(self._rows_of(examples))
        return trials

    def _rows_of(self, examples: np.ndarray) -> np.ndarray:
        """The rows of the data set for examples, which a subset counts from 0."""
        if self._subset is None:
            return examples
        return self._subset[examples]

    @property
    def _metric(self) -> Metric:
        """The metric that selects, unless the evaluator names another value."""
        return self._evaluator.metrics[0]

    def _map(self, mixtures: Sequence[Mixture], threshold: Threshold | None) -> list[Any]:
        """The result of each mixture; only mixtures without a known result are run."""
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
        """The remaining work for a mixture."""
        order = self._order_of(mixture)
        return Job(mixture, order, self._limit(threshold), self._runner.recall(mixture, order))

    def _known_result(self, mixture: Mixture, threshold: Threshold | None) -> Score | Rejected | None:
        """The result of a mixture, if it is known without running anything."""
        is_single = len(mixture.names) == 1
        score_may_be_kept = not is_single and self._subset is None  # of single ingredients, predictions are needed too
        if score_may_be_kept and self._limit(threshold) is None:
            key = self._score_key(mixture)
            if key not in self._scores:
                score = self._runner.kept_score(mixture, self._order_of(mixture))
                if score is not None:
                    self._scores[key] = score
            if key in self._scores:
                return self._scores[key]
        result = self._result(mixture, threshold)
        if result is None and score_may_be_kept:  # large predictions are not kept, but their score is
            return self._runner.kept_score(mixture, self._order_of(mixture))
        return result

    def _result(self, mixture: Mixture, threshold: Threshold | None) -> Score | Rejected | None:
        """The result that follows from known predictions.

        The limit is applied even if a mixture was run in full for another reason, so that a search is reproducible.
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
        """The score on the examples of these trials, from predictions on all validation data."""
        in_subset = self._in_subset(predictions)
        if not len(in_subset.rows):
            raise EvaluationError(f"{' + '.join(mixture.names)}: none of these examples can be scored.")
        score = self._runner.score(mixture, in_subset)
        if self._subset is None:
            return score
        return replace(score, split=f"a part of {score.split}")

    def _score_key(self, mixture: Mixture) -> tuple[str, bytes | None]:
        """The key of a score: the recipe, and the rows that count."""
        fingerprint = self._runner.setup.recipe(mixture).fingerprint()
        if self._subset is None:
            return fingerprint, None
        return fingerprint, self._subset.tobytes()

    def _in_subset(self, predictions: Predictions) -> Predictions:
        """The predictions on the examples of these trials."""
        if self._subset is None:
            return predictions
        return predictions.take(self._subset)

    def _limit(self, threshold: Threshold | None) -> Limit | None:
        """The limit of a trial; `None` if the metric does not count, or the number of items is not known yet."""
        if threshold is None or not self._stop_early or not self._counts or not threshold.score.higher_is_better:
            return None
        count = self._count_of_items()
        if count is None:
            return None
        return Limit(threshold.needed(count), count, self._subset)

    def _count_of_items(self) -> int | None:
        """Number of items that the metric counts, which is larger than that of examples if tokens are counted; `None`
        until a single ingredient has been run in full.
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
        """Whether the metric that selects is a share of correct examples."""
        selects = self._evaluator.select_by in (None, self._metric.name)
        # Logits do not say whether generated texts are correct.
        return self._metric.counts and selects and not self._evaluator.generate

    def _order_of(self, mixture: Mixture) -> RunOrder | None:
        """The rows to run first, hardest first: those that some ingredient gets wrong, once all have been run."""
        # Single ingredients are run in the usual order, because they determine which rows are hard.
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
    """Trials for strategies that need no scores, if there is no evaluator."""

    def __getattr__(self, name: str) -> Any:
        """Raise an error for every use.

        Raises:
            [`RecipeError`]: always.
        """
        raise RecipeError("this strategy chooses by validation score: pass evaluator=hf_soup.Evaluator(data).")


def _hardest_first(predictions: Sequence[Predictions]) -> RunOrder:
    """The rows that some ingredient gets wrong, by the number of ingredients that do, then by mean loss."""
    import numpy as np

    wrong = np.sum([~right(of_single) for of_single in predictions], axis=0).astype(np.float64)
    mean_loss = np.mean([losses(of_single) for of_single in predictions], axis=0)
    rows = predictions[0].rows  # row of each item; a row of tokens has several items, which are summed here
    size = int(rows.max()) + 1
    wrong_by_row, loss_by_row = np.bincount(rows, wrong, size), np.bincount(rows, mean_loss, size)
    order = np.lexsort((-loss_by_row, -wrong_by_row))
    return RunOrder.of(order[wrong_by_row[order] > 0])
