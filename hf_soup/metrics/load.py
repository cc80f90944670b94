"""Loading of a [`Metric`] from any form that a user may give, and of a built-in one as an `evaluate.Metric`.

Nothing is computed here, and no model is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import EvaluationError, RecipeError, did_you_mean
from ..untrusted import one_line
from .built_in import BUILT_IN, BuiltIn, metric_inputs
from .predictions import Predictions


if TYPE_CHECKING:
    import datasets
    import evaluate

    Given: TypeAlias = str | Callable[..., Any] | evaluate.EvaluationModule


WRITTEN = ("texts", "answers")  # inputs of metrics for which a model writes
PADDING = -100  # Trainer's value for logits and labels of padding
WAYS = (
    "or give a function of transformers.EvalPrediction, an evaluate.Metric, or the path of a metric's script (others "
    "come from evaluate.load, which needs the network)"
)


@dataclass(frozen=True)
class Metric:
    """A metric as an evaluator uses it.

    Args:
        name (`str`):
            Name of the metric in tables.
        compute (`Callable[[Predictions], dict[str, float]]`):
            Function that computes the values of the metric; a metric of one value returns `{name: value}`.
        higher_is_better (`bool`, *optional*):
            Direction of the metric, where it is known.
        needs_texts (`bool`, *optional*, defaults to `False`):
            Whether the model has to generate for it.
        identity (`str`, *optional*):
            Key of the metric in the cache of scores; `None` for a metric that cannot be identified, such as a
            function, which may change.
    """

    name: str
    compute: Callable[[Predictions], dict[str, float]]
    higher_is_better: bool | None = None
    needs_texts: bool = False
    identity: str | None = None

    @property
    def counts(self) -> bool:
        """Whether the metric is the share of correct items, so that partial results bound it."""
        return self.identity == "accuracy"


def load_metric(name: str) -> evaluate.Metric:
    """Load a built-in metric as an `evaluate.Metric`, for use in other programs.

    Args:
        name (`str`):
            Name of the metric, such as `"accuracy"`.

    Returns:
        `evaluate.Metric`: `compute(predictions=..., references=...)` gives `{name: value}`. Predictions are classes (0
        or 1 for each label, or values), probabilities of shape `(items, classes)`, losses (references are not used),
        lists of tags, texts, lists of the scores of documents (with lists of their relevance), counts of pixels, or
        dicts of the boxes of an image.

    Raises:
        [`RecipeError`]: if there is no metric of that name.
    """
    if name not in BUILT_IN:
        raise RecipeError(f'there is no metric "{name}"{did_you_mean(name, BUILT_IN)}; {WAYS}.')
    import evaluate
    import numpy as np

    built_in = BUILT_IN[name]

    # Defined here, because `evaluate` is imported only on demand.
    class Ours(evaluate.Metric):
        built_in_name = name

        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=name, citation="", inputs_description=built_in.takes, features=_features(built_in)
            )

        def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
            if built_in.takes in ("tags", "rankings", "boxes", *WRITTEN):
                return {name: float(built_in.function(references, predictions))}
            return {name: float(built_in.function(np.asarray(references), np.asarray(predictions)))}

    return Ours(keep_in_memory=True)


def _features(built_in: BuiltIn) -> list[datasets.Features]:
    """The forms of predictions and references against which `evaluate` checks the inputs of a built-in metric."""
    import datasets

    number, text = datasets.Value("float64"), datasets.Value("string")
    answer = number if built_in.kinds == ("values",) else datasets.Value("int64")
    forms = {
        "decisions": [(answer, answer)],
        "probabilities": [(datasets.Sequence(number), answer)],
        "losses": [(number, number)],
        "tags": [(datasets.Sequence(text), datasets.Sequence(text))],
        "texts": [(text, text)],
        "answers": [(text, datasets.Sequence(text)), (text, text)],
        "pixels": [(datasets.Sequence(number), datasets.Sequence(datasets.Value("int64")))],
        "boxes": [(_of_image("scores"), _of_image("area", "iscrowd"))],
        "rankings": [(datasets.Sequence(number), datasets.Sequence(datasets.Value("int64")))],
    }[built_in.takes]
    if built_in.takes == "decisions" and "labels" in built_in.kinds:
        forms.append((datasets.Sequence(answer), datasets.Sequence(answer)))
    return [datasets.Features(predictions=predictions, references=references) for predictions, references in forms]


def _of_image(*names: str) -> dict[str, Any]:
    """The form of the boxes of an image, with further numbers of each."""
    import datasets

    number = datasets.Value("float64")
    more = {name: datasets.Sequence(number) for name in ("labels", *names)}
    return {"boxes": datasets.Sequence(datasets.Sequence(number)), **more}


def load_metrics(given: Given | Sequence[Given]) -> tuple[Metric, ...]:
    """Load one or several metrics in any of the forms that a user may give.

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
    if isinstance(given, str) or not isinstance(given, Sequence):
        given = [given]
    metrics = tuple(_load(item) for item in given)
    names = [metric.name for metric in metrics]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"give one metric, or several with different names, not {names}.")
    return metrics


def _load(given: Given) -> Metric:
    """Load one metric in any of the supported forms."""
    if isinstance(given, str):
        if given in BUILT_IN:
            return _built_in(given)
        return _foreign(_from_evaluate(given), identity=_content(given))
    if hasattr(given, "compute") and not isinstance(given, type):
        name = getattr(given, "built_in_name", None)
        if name is None:
            return _foreign(given)
        return _built_in(name)  # made by `load_metric`; the built-in metric itself has its kinds and direction
    if callable(given):
        return _from_function(given)
    raise RecipeError(f"{given!r} is not a metric: name one ({', '.join(BUILT_IN)}), {WAYS}.")


def _built_in(name: str) -> Metric:
    built_in = BUILT_IN[name]

    def compute(predictions: Predictions) -> dict[str, float]:
        kind = predictions.kind
        if kind not in built_in.kinds:
            fitting = [candidate for candidate in BUILT_IN if kind in BUILT_IN[candidate].kinds]
            raise EvaluationError(f"{name} is not defined for a model of {kind}: use one of {', '.join(fitting)}.")
        references, outputs = metric_inputs(predictions, built_in.takes)
        return {name: float(built_in.function(references, outputs))}

    return Metric(name, compute, built_in.higher_is_better, needs_texts=built_in.takes in WRITTEN, identity=name)


def _foreign(metric: evaluate.EvaluationModule, identity: str | None = None) -> Metric:
    """A metric of `evaluate`; its inputs are classes, values or labels, tags by row if rows have several, or texts."""
    name = getattr(metric, "name", None) or type(metric).__name__
    _refuse_combined(metric)

    def compute(predictions: Predictions) -> dict[str, float]:
        if predictions.texts:
            takes = "answers"
        elif predictions.kind == "classes" and len(predictions.rows) != predictions.examples:  # classes of words
            takes = "tags"
        else:
            takes = "decisions"
        references, outputs = metric_inputs(predictions, takes)
        try:
            values = metric.compute(predictions=outputs, references=references)
        except Exception as error:  # a custom metric may raise anything
            raise EvaluationError(f"the metric {name!r} failed: {one_line(error)}") from error
        return _numbers(values, name)

    return Metric(name, compute, identity=identity)


def _refuse_combined(metric: evaluate.EvaluationModule) -> None:
    """Refuse built-in metrics in `evaluate.combine`, which passes the same inputs (decisions) to all of its metrics.

    Raises:
        [`RecipeError`]: if one takes something else.
    """
    for module in getattr(metric, "evaluation_modules", ()):
        name = getattr(module, "built_in_name", None)
        if name is not None and BUILT_IN[name].takes != "decisions":
            raise RecipeError(
                f"{name} cannot be combined, because it takes {BUILT_IN[name].takes}: give metric=[..., {name!r}]."
            )


def _from_function(function: Callable[..., Any]) -> Metric:
    """A function of `transformers.EvalPrediction`, such as the `compute_metrics` of a `Trainer`."""
    name = getattr(function, "__name__", type(function).__name__)

    def compute(predictions: Predictions) -> dict[str, float]:
        from transformers import EvalPrediction

        outputs, references = _as_trainer_has_it(predictions)
        return _numbers(function(EvalPrediction(outputs, references)), name)

    return Metric(name, compute)


def _as_trainer_has_it(predictions: Predictions) -> tuple[Any, Any]:
    """Predictions and labels in Trainer's shapes: words padded with -100 to the longest row, values as a column."""
    import numpy as np

    logits, labels = predictions.logits, predictions.labels
    if predictions.texts:
        return predictions.texts, predictions.references
    if predictions.kind == "values":
        return logits[:, None], labels
    rows, counts = np.unique(predictions.rows, return_counts=True)
    if predictions.kind != "classes" or counts.max(initial=1) == 1:
        return logits, labels
    # position of each word in its row: its index minus that of the row's first word
    firsts = np.cumsum(counts) - counts
    places = np.arange(len(predictions.rows)) - np.repeat(firsts, counts)
    cells = np.repeat(np.arange(len(rows)), counts), places
    padded_logits = np.full((len(rows), counts.max(), logits.shape[1]), PADDING, dtype=logits.dtype)
    padded_labels = np.full((len(rows), counts.max()), PADDING)
    padded_logits[cells], padded_labels[cells] = logits, labels
    return padded_logits, padded_labels


def _numbers(answer: Any, name: str) -> dict[str, float]:
    """Every number in a metric's result, which may be a single number; lists (scores per class) are ignored."""
    import numbers

    if isinstance(answer, Mapping):
        values = {str(key): float(value) for key, value in answer.items() if isinstance(value, numbers.Real)}
        if values:
            return values
    elif isinstance(answer, numbers.Real) or getattr(answer, "ndim", None) == 0:
        return {name: float(answer)}
    raise EvaluationError(
        f"the metric {name!r} returned {one_line(repr(answer))}; it has to return a number or a dict of numbers."
    )


def _from_evaluate(name: str) -> evaluate.EvaluationModule:
    """A metric from a local script or from the Hub."""
    import evaluate

    try:
        return evaluate.load(name, keep_in_memory=True)
    except Exception as error:  # evaluate passes on any error of its network or of the script's imports
        if os.path.exists(name):
            raise RecipeError(f"{name} does not load as a metric of evaluate: {one_line(error)}") from None
        reason = one_line(str(error) or type(error).__name__, 200)
        hint = did_you_mean(name, BUILT_IN)
        raise RecipeError(f'there is no metric "{one_line(name)}"{hint}; {WAYS}. evaluate.load: {reason}') from None


def _content(name: str) -> str:
    """The identity of an `evaluate` metric in the cache: its name, and for a script also its content."""
    import xxhash

    path = Path(name)
    if path.is_file():
        files = [path]
    else:
        files = sorted(path.glob("*.py"))  # a name that is not a path has no content
    return name + "".join(xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files)
