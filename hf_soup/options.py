"""The options of the verbs and of the stages of a cook file: one dataclass each, one field for each option.

Each option is declared by its field alone: type, default, help and choices. The sections of cook files, the options
of the command line with their completion, the check of choices and the signature of `sweep` are derived from it.
This module imports little, because the command line reads it before it knows which command is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .errors import RecipeError, did_you_mean
from .plugins import names


if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
Arguments = TypeVar("Arguments")
Result = TypeVar("Result")

EXECUTORS = ("local", "ray", "jobs")
HEADS = ("auto", "new", "probe", "checkpoint", "independent")
KEEP = ("best", "last", "all")
ON_ERROR = ("continue", "raise")
ENSEMBLES = ("logits", "probabilities", "vote", "mixture")
WITHIN = ("mean", "last", "greedy", "minus_sqrt")  # averages of the snapshots of a run
PARTS = ("similarity", "diversity", "landscape", "plane", "contribution", "modules", "advice")  # of an analysis
# The default sweep: half of the runs find the learning rate, the others refine it; docs/strategies.md has the reason.
DEFAULT_SPACE: Mapping[str, Any] = {"learning_rate": [2e-5, 5e-5, 1e-4, 2e-4], "seed": [0]}
DEFAULT_REFINE = 4
STRICT = {"extra": "forbid", "strict": True}  # how pydantic reads the sections of a cook file


def option(
    default: Any, text: str, *, choices: Sequence[str] = (), checked: bool = False, metavar: str | None = None
) -> Any:
    """A dataclass field that is an option of the command line too; other fields are for cook files and Python only.

    Args:
        default:
            Value of the option if none is given.
        text (`str`):
            Description of the option in `--help`.
        choices (`Sequence[str]`, *optional*):
            Values that shell completion offers.
        checked (`bool`, *optional*, defaults to `False`):
            Whether [`check_choices`] raises an error for other values. Methods and strategies are not checked, because
            they may be the user's own code; executors are checked where they are looked up.
        metavar (`str`, *optional*):
            Name of the value in `--help`.
    """
    metadata = {"text": text, "choices": tuple(choices), "checked": checked, "metavar": metavar}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep: which runs are trained, from which start, and where. The `sweep` section of a cook file.

    The docstring of [`hf_soup.sweep`] describes each of them.
    """

    space: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    n_runs: int | None = option(None, "Number of settings to draw; by default all combinations are used.")
    refine: int | Mapping[str, float | bool] | None = option(
        None, "Number of further runs around the best settings.", metavar="N"
    )
    folds: int | None = option(
        None, "Number of folds: each run trains on training and validation data without one fold, and is scored on it."
    )
    seed: int = option(0, "Random seed for drawing settings and for holding out validation data.")
    head: str = option(
        "auto", f"Initial head of the runs: {', '.join(HEADS[:-1])} or {HEADS[-1]}.", choices=HEADS, checked=True
    )
    init_seed: int = option(0, "Random seed of a new head, which all runs share.")
    probe_args: Mapping[str, Any] | None = None
    keep: str = option("best", "Checkpoints of each run to keep: best, last or all.", choices=KEEP, checked=True)
    training_args: Mapping[str, Any] | None = None
    peft: Mapping[str, Any] | None = None
    on_error: str = option("continue", "What to do if a run fails: continue or raise.", choices=ON_ERROR, checked=True)
    executor: str = option("local", "Where runs are trained: local, ray or jobs.", choices=EXECUTORS)
    resources: Mapping[str, float | str] | None = option(
        None, "Resource of Ray (num_gpus=1) or setting of jobs (flavor=t4-small, timeout=2h); may be repeated."
    )
    push_runs: bool | str = option(False, "Push each run to its own repository on the Hub.")
    private: bool | None = option(None, "Make the repositories of the runs private.")

    __pydantic_config__ = STRICT

    @property
    def space_or_default(self) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        """The space, or the default one without the settings that all runs share."""
        if self.space is not None:
            return self.space
        shared = self.training_args or {}
        return {name: values for name, values in DEFAULT_SPACE.items() if name not in shared}

    @property
    def refine_or_default(self) -> int | Mapping[str, float | bool] | None:
        """The refinement; that of the default space, if neither is given."""
        if self.space is None and self.refine is None:
            return DEFAULT_REFINE
        return self.refine


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of a merge: which ingredients go into the soup, and how. The `merge` section of a cook file.

    The docstring of [`hf_soup.merge`] describes each of them; `params` are the parameters of the method and of the
    strategy.
    """

    weights: list[float] | dict[str, Any] | None = None
    method: str = option(
        "linear", f"Method that combines tensors: {', '.join(names('method'))}.", choices=names("method")
    )
    strategy: str | None = option(
        None,
        f"Strategy that chooses ingredients and weights: {', '.join(names('strategy'))}.",
        choices=names("strategy"),
    )
    within: str | None = option(None, f"Average the snapshots of each run first: {', '.join(WITHIN)}.", choices=WITHIN)
    k: int | None = option(None, "Number of snapshots of each run that --within averages; 3 by default.")
    group_by: str | Mapping[str, str] | None = option(
        None, "Average runs of the same value of this setting first, such as learning_rate.", metavar="SETTING"
    )
    metric: str | None = option(None, "Metric by which the strategy chooses; by default that of the task.")
    folds: int | None = option(None, "Number of cross-validation folds used to estimate selection optimism.")
    holdout: float | None = option(None, "Fraction of --data held out from selection, to estimate selection optimism.")
    executor: str = option("local", "Where independent trials run: local, ray or jobs.", choices=EXECUTORS)
    resources: Mapping[str, float | str] | None = option(
        None, "Resource of Ray (num_gpus=1) or setting of jobs (flavor=t4-small, timeout=2h); may be repeated."
    )
    dtype: str = option("auto", "Data type of the soup: bfloat16, float16, float32 ...")
    seed: int = option(0, "Random seed of methods, strategies and folds.")
    max_memory: int | str | None = option(
        None, "Memory for methods that need whole tensors, such as 8GB; by default a quarter of what is free."
    )
    stream: bool | None = option(
        None,
        "Read weights on the Hub as they are averaged and do not keep them; by default if the disk is too small.",
    )
    vocabulary: str | None = option(
        None, "For tokenizers with different added tokens: union, base_model, or the ingredient whose tokens are kept."
    )
    chat_template: str | None = option(None, "Chat template of the soup, as Jinja; by default that of an ingredient.")
    align_labels: bool = option(False, "Permute heads whose labels are in another order, and ignore letter case.")
    take_from: str | None = option(
        None, "Name of the ingredient whose config, tokenizer and processor the soup takes.", metavar="NAME"
    )
    params: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of the comparison on test sets. The `compare` section of a cook file."""

    metrics: tuple[str, ...] = option(
        (), "Metric to report; may be repeated, and the first one ranks the models. By default that of the task."
    )
    ensembles: tuple[str, ...] | None = option(
        None, f"Ensemble to score: {', '.join(ENSEMBLES)}; may be repeated. By default all.", choices=ENSEMBLES
    )

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """How the soup is saved, parameters of [`Soup.save_pretrained`]. The `save` section of a cook file."""

    merged: bool | None = None
    rank: int | None = None
    max_shard_size: int | str = "50GB"

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Options of a push to the Hub, parameters of [`Soup.push_to_hub`]. The `push` section of a cook file."""

    repo_id: str
    private: bool | None = option(None, "Make the repository private if it is created.")
    revision: str | None = None
    create_pr: bool = False
    tags: list[str] = field(default_factory=list)
    include_plots: bool = True
    name_private: bool = option(False, "Name private ingredients in a public repository.")
    license: str | None = None
    benchmark: str | None = None
    merged: bool | None = None
    rank: int | None = None

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    """Options of an analysis. The docstring of [`hf_soup.analyze`] describes each of them."""

    parts: tuple[str, ...] | None = option(
        None,
        f"Part of the analysis: {', '.join(PARTS[:-1])} or {PARTS[-1]}; may be repeated. By default similarity, and "
        "with --data also diversity, landscape and advice.",
        choices=PARTS,
    )
    points: int = option(11, "Number of points on each line, and in each direction of the plane.")
    beyond: float = option(0.0, "How far each line extends beyond its ends, as a fraction of its length.")
    corners: tuple[str, ...] | None = option(None, "Name of a model that spans the plane; give it three times.")
    path: tuple[str, ...] = option((), "Name of an ingredient of a greedy soup, shown on the plane; repeat in order.")
    samples: int | None = option(None, "Number of random orders for Shapley values; by default exact up to 8 models.")
    budget: int | None = option(
        None, "Maximum number of models to score (analyze: in each of landscape, plane, advice)."
    )


def check_choices(options: DataclassInstance) -> None:
    """Raise an error for a value that is not among the choices of its option.

    Raises:
        [`RecipeError`]: naming the choices and the nearest one.
    """
    for item in fields(options):
        choices, value = item.metadata.get("choices", ()), getattr(options, item.name)
        if item.metadata.get("checked") and value not in choices:
            raise RecipeError(f"{item.name} is one of {', '.join(choices)}{did_you_mean(value, choices)}")


def keywords(options: DataclassInstance) -> dict[str, Any]:
    """The options as keyword arguments, by the names of the fields."""
    return {item.name: getattr(options, item.name) for item in fields(options)}


def answers_keywords(function: Callable[P, Result]) -> Callable[P, Result]:
    """Make a function report an unknown keyword, misspelt or from another library, with a suggestion.

    Type checkers see the signature of the function, and `help` shows it.

    Raises:
        [`RecipeError`]: if the function is called with an unknown keyword.
    """
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        _check_keywords(function.__qualname__.removesuffix(".__init__"), kwargs, known)
        return function(*args, **kwargs)

    return call


def answers_keywords_of_class(cls: type[Result]) -> type[Result]:
    """Make the constructor of a class answer unknown keywords, like [`answers_keywords`]."""
    cls.__init__ = answers_keywords(cls.__init__)  # type: ignore[method-assign]
    return cls


def _check_keywords(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    for keyword in given:
        if keyword not in known:
            raise RecipeError(f'{name} takes no argument "{keyword}"{did_you_mean(keyword, known)}')


def dtype_name(dtype: object) -> str:
    """The name of a floating-point type, such as `"float16"` for `torch.float16`; a name is returned unchanged."""
    return str(dtype).removeprefix("torch.")


def called_with(
    arguments: Callable[P, Arguments],
) -> Callable[[Callable[[Arguments], Result]], Callable[P, Result]]:
    """Give a function whose argument is a dataclass the signature of that dataclass, so that callers pass the fields.

    Type checkers and `help` see the same signature, so the fields are declared once.

    Args:
        arguments (`type`):
            The dataclass.
    """

    def decorate(function: Callable[[Arguments], Result]) -> Callable[P, Result]:
        known = inspect.signature(arguments).parameters

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            _check_keywords(function.__name__, kwargs, known)
            return function(arguments(*args, **kwargs))

        # required parameters come first, as in a hand-written signature
        ordered = sorted(known.values(), key=lambda item: (item.kind, item.default is not item.empty))
        returned = inspect.signature(function).return_annotation
        signature = inspect.Signature(ordered, return_annotation=returned)
        call.__signature__ = signature  # type: ignore[attr-defined]  # read by `inspect`, and unknown to type checkers
        return call

    return decorate
