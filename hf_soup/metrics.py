"""Metrics: our own, which need no network, and from whatever a user calls a metric to a [`Metric`].

scikit-learn, scipy and seqeval do the arithmetic. It runs no model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .calibration import brier_score, expected_calibration_error
from .errors import EvaluationError, MissingExtraError, RecipeError, did_you_mean
from .outputs import Predictions, decisions, losses, probabilities
from .untrusted import one_line


if TYPE_CHECKING:
    import evaluate
    import numpy as np

    Given = str | Callable[..., Any] | evaluate.EvaluationModule


class BuiltIn(NamedTuple):
    """One metric of our own.

    Args:
        takes (`str`):
            `"decisions"`, `"probabilities"`, `"losses"`, `"tags"` (names of classes, row by row) or `"texts"`.
        kinds (`tuple[str, ...]`):
            Outputs that it is defined for.
        function (`Callable`):
            `f(references, predictions) -> float`.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Its direction.
    """

    takes: str
    kinds: tuple[str, ...]
    function: Callable[..., float]
    higher_is_better: bool = True


def _sklearn(name: str, **options: Any) -> Callable[..., float]:
    def function(references: np.ndarray, predictions: np.ndarray) -> float:
        from sklearn import metrics

        return getattr(metrics, name)(references, predictions, **options)

    return function


def _correlation(name: str) -> Callable[..., float]:
    def function(references: np.ndarray, predictions: np.ndarray) -> float:
        import warnings

        from scipy import stats

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)  # NaN is told where it is used
            return getattr(stats, name)(predictions, references).statistic

    return function


def _f1_binary(references: np.ndarray, predictions: np.ndarray) -> float:
    if max(references.max(), predictions.max()) > 1:
        raise EvaluationError("f1 is of two classes, the second of them positive; for more take f1_macro or f1_micro.")
    return _sklearn("f1_score", zero_division=0)(references, predictions)


def _mean(references: np.ndarray, predictions: np.ndarray) -> float:
    return predictions.mean()


def _perplexity(references: np.ndarray, predictions: np.ndarray) -> float:
    import numpy as np

    return np.exp(predictions.mean())


def _ece(references: np.ndarray, predictions: np.ndarray) -> float:
    return expected_calibration_error(predictions, references)


def _brier(references: np.ndarray, predictions: np.ndarray) -> float:
    return brier_score(predictions, references)


def _seqeval_f1(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> float:
    try:
        from seqeval.metrics import f1_score
    except ImportError:
        raise MissingExtraError("seqeval_f1 needs seqeval: pip install 'hf-soup[seqeval]'") from None
    return f1_score(references, predictions, zero_division=0)


def _exact_match(references: Sequence[str], predictions: Sequence[str]) -> float:
    return sum(said.strip() == right.strip() for said, right in zip(predictions, references, strict=True)) / len(
        references
    )


_CHOICE, _PLAIN = ("classes", "labels"), ("classes",)
BUILT_IN: dict[str, BuiltIn] = {
    "accuracy": BuiltIn("decisions", _CHOICE, _sklearn("accuracy_score")),  # of labels: all of an example right
    "f1": BuiltIn("decisions", _PLAIN, _f1_binary),
    "f1_macro": BuiltIn("decisions", _CHOICE, _sklearn("f1_score", average="macro", zero_division=0)),
    "f1_micro": BuiltIn("decisions", _CHOICE, _sklearn("f1_score", average="micro", zero_division=0)),
    "matthews_correlation": BuiltIn("decisions", _PLAIN, _sklearn("matthews_corrcoef")),
    "pearsonr": BuiltIn("decisions", ("values",), _correlation("pearsonr")),
    "spearmanr": BuiltIn("decisions", ("values",), _correlation("spearmanr")),
    "mse": BuiltIn("decisions", ("values",), _sklearn("mean_squared_error"), False),
    "loss": BuiltIn("losses", ("classes", "labels", "values", "tokens"), _mean, False),
    "nll": BuiltIn("losses", ("classes", "tokens"), _mean, False),
    "perplexity": BuiltIn("losses", ("tokens",), _perplexity, False),
    "brier": BuiltIn("probabilities", _PLAIN, _brier, False),
    "ece": BuiltIn("probabilities", _PLAIN, _ece, False),
    "seqeval_f1": BuiltIn("tags", _PLAIN, _seqeval_f1),
    "exact_match": BuiltIn("texts", ("tokens",), _exact_match),
}
WAYS = (
    "or give a function of transformers.EvalPrediction, an evaluate.Metric, or the path of a metric's script (others "
    "come from evaluate.load, which needs the network)"
)


@dataclass(frozen=True)
class Metric:
    """A metric as an evaluator uses it.

    Args:
        name (`str`):
            What tables call it.
        compute (`Callable[[Predictions], dict[str, float]]`):
            Its values; a metric of one value gives `{name: value}`.
        higher_is_better (`bool`, *optional*):
            Its direction, where that is known.
        needs_texts (`bool`, *optional*, defaults to `False`):
            Whether the model has to generate for it.
        identity (`str`, *optional*):
            What stands for it in the cache of scores; `None` where nothing can (a function may change).
    """

    name: str
    compute: Callable[[Predictions], dict[str, float]]
    higher_is_better: bool | None = None
    needs_texts: bool = False
    identity: str | None = None

    @property
    def counts(self) -> bool:
        """Whether it is the share of items that are right, so that a part of them bounds it."""
        return self.identity == "accuracy"


def load_metric(name: str) -> evaluate.Metric:
    """One of our own metrics for other programs, as an `evaluate.Metric`.

    Args:
        name (`str`):
            Such as `"accuracy"`.

    Returns:
        `evaluate.Metric`: `compute(predictions=..., references=...)` gives `{name: value}`. Predictions are classes (0
        or 1 for each label, or values), probabilities of shape `(items, classes)`, losses (references are not used),
        lists of tags, or texts.

    Raises:
        [`RecipeError`]: if there is none of that name.
    """
    if name not in BUILT_IN:
        raise RecipeError(f'there is no metric "{name}"{did_you_mean(name, BUILT_IN)}; {WAYS}.')
    import datasets
    import evaluate
    import numpy as np

    built_in = BUILT_IN[name]
    number = datasets.Value("float64")
    whole = number if built_in.kinds == ("values",) else datasets.Value("int64")
    text = datasets.Value("string")
    columns = {
        "decisions": (whole, whole),
        "probabilities": (datasets.Sequence(number), whole),
        "losses": (number, number),
        "tags": (datasets.Sequence(text), datasets.Sequence(text)),
        "texts": (text, text),
    }[built_in.takes]
    layouts = [columns]
    if built_in.takes == "decisions" and "labels" in built_in.kinds:
        layouts.append((datasets.Sequence(whole), datasets.Sequence(whole)))

    class Ours(evaluate.Metric):
        built_in_name = name

        def _info(self) -> evaluate.MetricInfo:
            features = [datasets.Features({"predictions": p, "references": r}) for p, r in layouts]
            about = {"description": name, "citation": "", "inputs_description": built_in.takes}
            return evaluate.MetricInfo(**about, features=features)

        def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
            if built_in.takes not in ("tags", "texts"):
                predictions, references = np.asarray(predictions), np.asarray(references)
            return {name: float(built_in.function(references, predictions))}

    return Ours(keep_in_memory=True)


def load_metrics(given: Given | Sequence[Given]) -> tuple[Metric, ...]:
    """What a user calls metrics, one or several.

    Args:
        given (`str`, `Callable`, `evaluate.EvaluationModule`, or a sequence of them):
            A built-in name; the path of a metric's script or folder; a name for `evaluate.load`; a metric of
            `evaluate`, or several of them from `evaluate.combine`; or a function of `transformers.EvalPrediction` that
            returns a number or a dict of them, as `Trainer` takes it.

    Returns:
        `tuple[Metric, ...]`

    Raises:
        [`RecipeError`]: if there is no such metric, or two have one name.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    metrics = tuple(_load(item) for item in (given if several else [given]))
    names = [metric.name for metric in metrics]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"metrics are one or several of different names, not {names}.")
    return metrics


def metric_inputs(said: Predictions, takes: str) -> tuple[Any, Any]:
    """What a metric compares: `(references, predictions)` as `takes` of [`BuiltIn`] says."""
    if takes == "texts":
        return said.references, said.texts
    if takes == "tags":
        return tuple(list(_by_row(said, classes)) for classes in (said.labels, decisions(said)))
    make = {"decisions": decisions, "probabilities": probabilities, "losses": losses}[takes]
    return said.labels, make(said)


def _load(given: Given) -> Metric:
    if isinstance(given, str):
        if given in BUILT_IN:
            return _built_in(given)
        return _foreign(_from_evaluate(given), identity=_content(given))
    if hasattr(given, "compute") and not isinstance(given, type):
        ours = getattr(given, "built_in_name", None)
        return _built_in(ours) if ours else _foreign(given)
    if callable(given):
        return _from_function(given)
    raise RecipeError(f"{given!r} is no metric: name one ({', '.join(BUILT_IN)}), {WAYS}.")


def _built_in(name: str) -> Metric:
    metric = BUILT_IN[name]

    def compute(said: Predictions) -> dict[str, float]:
        if said.kind not in metric.kinds:
            fitting = [other for other, built_in in BUILT_IN.items() if said.kind in built_in.kinds]
            raise EvaluationError(f"{name} is not defined for a model of {said.kind}: take {', '.join(fitting)}.")
        return {name: float(metric.function(*metric_inputs(said, metric.takes)))}

    return Metric(name, compute, metric.higher_is_better, metric.takes == "texts", name)


def _foreign(metric: evaluate.EvaluationModule, identity: str | None = None) -> Metric:
    """A metric of `evaluate`: it gets classes, values or labels; tags row by row where rows have several; or texts."""
    name = getattr(metric, "name", None) or type(metric).__name__
    for part in getattr(metric, "evaluation_modules", ()):
        ours = getattr(part, "built_in_name", None)
        if ours and BUILT_IN[ours].takes != "decisions":  # `combine` gives all of them the same
            takes = BUILT_IN[ours].takes
            raise RecipeError(f"{ours} cannot be combined, for it takes {takes}: give metric=[..., {ours!r}].")

    def compute(said: Predictions) -> dict[str, float]:
        words = said.kind == "classes" and len(said.rows) != said.examples
        takes = "texts" if said.texts else "tags" if words else "decisions"
        references, predictions = metric_inputs(said, takes)
        try:
            found = metric.compute(predictions=predictions, references=references)
        except Exception as error:  # whatever a metric of others trips over
            raise EvaluationError(f"the metric {name!r} failed: {one_line(error)}") from error
        return _numbers(found, name)

    return Metric(name, compute, identity=identity)


def _from_function(function: Callable[..., Any]) -> Metric:
    name = getattr(function, "__name__", type(function).__name__)

    def compute(said: Predictions) -> dict[str, float]:
        from transformers import EvalPrediction

        return _numbers(function(EvalPrediction(*_as_trainer_has_it(said))), name)

    return Metric(name, compute)


def _as_trainer_has_it(said: Predictions) -> tuple[Any, Any]:
    """Predictions and labels in Trainer's shapes: words padded with -100 to the longest row, values as a column."""
    import numpy as np

    if said.texts:
        return said.texts, said.references
    if said.kind == "values":
        return said.logits[:, None], said.labels
    ids, counts = np.unique(said.rows, return_counts=True)
    if said.kind != "classes" or counts.max(initial=1) == 1:
        return said.logits, said.labels
    places = np.arange(len(said.rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = np.repeat(np.arange(len(ids)), counts), places
    logits = np.full((len(ids), counts.max(), said.logits.shape[1]), -100, dtype=said.logits.dtype)
    labels = np.full((len(ids), counts.max()), -100)
    logits[at], labels[at] = said.logits, said.labels
    return logits, labels


def _numbers(found: Any, name: str) -> dict[str, float]:
    """Every number of a metric's answer, which may be one number; lists (scores of each class) are left out."""
    import numbers

    if isinstance(found, Mapping):
        values = {str(key): float(value) for key, value in found.items() if isinstance(value, numbers.Real)}
        if values:
            return values
    elif isinstance(found, numbers.Real) or getattr(found, "ndim", None) == 0:
        return {name: float(found)}
    raise EvaluationError(
        f"the metric {name!r} returned {one_line(repr(found))}; it has to return a number or a dict of numbers."
    )


def _from_evaluate(name: str) -> evaluate.EvaluationModule:
    import evaluate

    try:
        return evaluate.load(name, keep_in_memory=True)
    except Exception as error:  # evaluate lets through whatever its network and the script's imports raise
        if os.path.exists(name):
            raise RecipeError(f"{name} does not load as a metric of evaluate: {one_line(error)}") from None
        why = one_line(str(error) or type(error).__name__, 200)
        known = did_you_mean(name, BUILT_IN)
        raise RecipeError(f'there is no metric "{one_line(name)}"{known}; {WAYS}. evaluate.load: {why}') from None


def _content(name: str) -> str:
    """A script by what it says, a name as it is."""
    import xxhash

    path = Path(name)
    files = sorted(path.glob("*.py")) if path.is_dir() else [path] if path.is_file() else []
    return name + "".join(xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files)


def _by_row(said: Predictions, classes: np.ndarray) -> Iterator[list[str]]:
    import numpy as np

    starts = np.flatnonzero(np.diff(said.rows)) + 1
    for part in np.split(classes, starts):
        yield [said.names[index] if said.names else str(index) for index in part]
