"""The results of a published soup in a comparison, for its card and for leaderboards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checkpoints.hub import split_source
from ..comparison.comparison import SHIFTS, TEST, VALIDATION, Comparison, ModelScores
from ..errors import DataError
from ..metrics.statistics import SHARES, Interval, formatted
from ..types import Recipe


if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class Result:
    """The results of one soup in a comparison.

    Args:
        comparison ([`Comparison`]):
            The whole comparison.
        scores ([`ModelScores`]):
            Scores of the soup.
    """

    comparison: Comparison
    scores: ModelScores

    @property
    def test(self) -> Interval | None:
        """The score on the test set, by the metric that ranks the models."""
        return self.scores.scores.get(TEST, {}).get(self.comparison.metric)

    @property
    def test_text(self) -> str:
        """The test score with its interval as text, in percent if the metric is a share."""
        score = self.test
        if score is None:
            return ""
        metric = self.comparison.metric
        value = formatted(metric, score.value)
        unit = " %" if metric in SHARES else ""
        if score.low is None or score.high is None:
            return f"{value}{unit}"
        return f"{value}{unit} [{formatted(metric, score.low)}, {formatted(metric, score.high)}]"

    @property
    def sentence(self) -> str:
        """The sentence of the summary about the soup."""
        for line in self.comparison.summary.split("\n"):
            if line.removeprefix("The ").startswith(self.scores.name):
                return line
        return ""

    @property
    def smallest_difference(self) -> str | None:
        """The smallest significant difference on the test set, if an interval is known."""
        difference = self.comparison.differences.get(self.scores.name, {}).get(TEST, {}).get("single")
        if difference is None or difference.low is None or difference.high is None:
            return None
        half_width = (difference.high - difference.low) / 2
        if self.comparison.metric in SHARES:
            return f"{100 * half_width:.1f} points"
        return f"{half_width:.4f}"


def result_of(recipe: Recipe, comparison: Comparison | None) -> Result | None:
    """The results of a recipe's soup: those of the model with that title, or of the only soup in the comparison.

    Args:
        recipe ([`Recipe`]):
            Recipe of the soup.
        comparison ([`Comparison`], *optional*):
            Comparison, which may include other soups.
    """
    if comparison is None:
        return None
    # By title first, because a comparison may have its own uniform soup, and soups of several strategies.
    for model in comparison.models:
        if model.role in ("soup", "uniform") and model.name == recipe.title:
            return Result(comparison, model)
    soups = [model for model in comparison.models if model.role == "soup"]
    if len(soups) != 1:
        return None
    return Result(comparison, soups[0])


def model_index(result: Result, task_type: str) -> list[EvalResult]:
    """The scores for the metadata of a card: those on every data set that was not used for selection.

    Args:
        result ([`Result`]):
            Results of the soup.
        task_type (`str`):
            Name of the task on the Hub.
    """
    from huggingface_hub import EvalResult

    entries = []
    for name in result.comparison.sizes:
        if name in (VALIDATION, SHIFTS):  # used for selection, or a mean of data sets
            continue
        for metric, score in result.scores.scores.get(name, {}).items():
            entry = EvalResult(
                task_type=task_type,
                dataset_type=result.comparison.sources.get(name, name),
                dataset_name=name,
                dataset_split=name,
                metric_type=metric,
                metric_value=round(score.value, 6),
            )
            entries.append(entry)
    return entries


def leaderboard_path(benchmark: str) -> str:
    """The file in a repository with the score of a benchmark, such as `"nyu-mll/glue:sst2"`."""
    dataset_id = benchmark.partition(":")[0]
    return f".eval_results/hf_soup--{dataset_id.replace('/', '--')}.yaml"


def evaluation_results(comparison: Comparison | None, recipe: Recipe, benchmark: str) -> str:
    """The content of the file in `.eval_results/` that adds the test score to a benchmark's leaderboard.

    Args:
        comparison ([`Comparison`], *optional*), recipe ([`Recipe`]):
            Comparison and recipe of the soup.
        benchmark (`str`):
            Data set and task of the benchmark, such as `"nyu-mll/glue:sst2"`.

    Raises:
        [`DataError`]: if there is no test score, or the name of the benchmark has another form.
    """
    import yaml
    from huggingface_hub import EvalResultEntry
    from huggingface_hub import eval_result_entries_to_yaml as as_data

    result = result_of(recipe, comparison)
    if result is None or result.test is None:
        raise DataError(f"there is no test score for the benchmark {benchmark!r}: set soup.comparison before.")
    dataset_id, colon, task_id = benchmark.partition(":")
    if not colon or not task_id or split_source(dataset_id) is None:
        raise DataError(f"the benchmark {benchmark!r} is not of the form DATASET:TASK, such as nyu-mll/glue:sst2.")
    note = result.comparison.metric
    if result.comparison.sizes[TEST]:
        note += f" on {result.comparison.sizes[TEST]} examples"
    entry = EvalResultEntry(dataset_id, task_id, round(result.test.value, 6), notes=note)
    return yaml.safe_dump(as_data([entry]), sort_keys=False)
