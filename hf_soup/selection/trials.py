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
        self._hardest: list[RunOrder] = []  # shared as well: none until every ingredient has been run

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self._evaluator.dataset) if self._subset is None else len(self._subset)

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two scores, over the same resamples of the examples."""
        metric = self._metric
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
        value, other_value = (metric.compute(of_one)[metric.name] for of_one in predictions)
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
        mean = mean_probabilities if members[0].kind == "tokens" else mean_logits
        return self._evaluator.score(mean(members, mixture.totals))

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """The derivative of the loss on some examples; the same again costs nothing."""
        rows = examples if self._subset is None else self._subset[examples]
        return self._runner.gradient(mixture, rows, scale)

    def subset(self, examples: np.ndarray) -> ModelTrials:
        """Trials on some of the examples, which share with these what was run."""
        import numpy as np

        trials = copy.copy(self)
        trials._subset = np.sort(examples if self._subset is None else self._subset[examples])
        return trials

    @property
    def _metric(self) -> Metric:
        """What selects, unless the evaluator names another value."""
        return self._evaluator.metrics[0]

    def _map(self, mixtures: Sequence[Mixture], threshold: Threshold | None) -> list[Any]:
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
        """What the predictions say as far as they are known; also of what was run in full for another reason, so that
        a search records the same every time.
        """
        outputs = self._runner.recall(mixture, self._order_of(mixture))
        limit = self._limit(threshold)
        rejected = limit.verdict(outputs) if limit is not None else None
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
        in_subset = self._in_subset(predictions)
        if not len(in_subset.rows):
            raise EvaluationError(f"{' + '.join(mixture.names)}: there is nothing to score among these examples.")
        score = self._runner.score(mixture, in_subset)
        return score if self._subset is None else replace(score, split=f"a part of {score.split}")

    def _score_key(self, mixture: Mixture) -> tuple[str, bytes | None]:
        subset = None if self._subset is None else self._subset.tobytes()
        return self._runner.setup.recipe(mixture).fingerprint(), subset

    def _in_subset(self, predictions: Predictions) -> Predictions:
        return predictions if self._subset is None else predictions.take(self._subset)

    def _limit(self, threshold: Threshold | None) -> Limit | None:
        """When a trial may stop; never where the metric is no count, or the number of items is not known yet."""
        import numpy as np

        if threshold is None or not self._stop_early or not self._counts or not threshold.score.higher_is_better:
            return None
        for single in self._singles:
            outputs = self._runner.recall_in_memory(single)
            if outputs is not None and outputs.whole:
                rows = outputs.predictions.rows
                count = len(rows) if self._subset is None else int(np.isin(rows, self._subset).sum())
                return Limit(threshold.needed(count), count, self._subset)
        return None

    @property
    def _counts(self) -> bool:
        """Whether what selects is a share of right examples."""
        selects = self._evaluator.select_by in (None, self._metric.name)
        return self._metric.counts and selects and not self._evaluator.generate

    def _order_of(self, mixture: Mixture) -> RunOrder | None:
        """The rows to run first: those that some ingredient gets wrong, hardest first; once all were run."""
        if len(mixture.names) == 1 or not self._counts:
            return None
        if not self._hardest:
            outputs = [self._runner.recall_in_memory(single) for single in self._singles]
            if any(of_one is None or not of_one.whole for of_one in outputs):
                return None
            self._hardest.append(_hardest_first([of_one.predictions for of_one in outputs if of_one is not None]))
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

    wrong = np.sum([~right(of_one) for of_one in predictions], axis=0).astype(np.float64)
    mean_loss = np.mean([losses(of_one) for of_one in predictions], axis=0)
    rows = predictions[0].rows
    size = int(rows.max()) + 1
    wrong_by_row, loss_by_row = np.bincount(rows, wrong, size), np.bincount(rows, mean_loss, size)
    order = np.lexsort((-loss_by_row, -wrong_by_row))
    return RunOrder.of(order[wrong_by_row[order] > 0])
