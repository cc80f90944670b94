"""The options of `sweep`, `merge`, `compare`, `push` and `analyze`: one dataclass each, one field for each option.

A field is the only place that declares an option: type, default, help and choices. The sections of cook files, the
options of the command line with their completion, the check of choices and the signature of `sweep` follow from it.
It runs nothing and imports little, because the command line reads it before it knows which command is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .errors import RecipeError, did_you_mean
from .parallel import EXECUTORS
from .plugins import names


if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = ParamSpec("P")
Arguments = TypeVar("Arguments")
Result = TypeVar("Result")

HEADS = ("auto", "new", "probe", "checkpoint", "independent")
KEEP = ("best", "last", "all")
ON_ERROR = ("continue", "raise")
ENSEMBLES = ("logits", "probabilities", "vote", "mixture")
PARTS = ("similarity", "diversity", "landscape", "plane", "contribution", "modules", "advice")  # of an analysis
STRICT = {"extra": "forbid", "strict": True}  # how pydantic reads the sections of a cook file


def option(
    default: Any, text: str, *, choices: Sequence[str] = (), checked: bool = False, metavar: str | None = None
) -> Any:
    """A field that is an option of the command line too; one without a text is for cook files and Python alone.

    Args:
        default:
            Its value where none is given.
        text (`str`):
            What `--help` says of it.
        choices (`Sequence[str]`, *optional*):
            What the shell completes.
        checked (`bool`, *optional*, defaults to `False`):
            Whether [`check_choices`] refuses everything else. Methods and strategies may be code of the user's own,
            and executors are checked where they are found.
        metavar (`str`, *optional*):
            What `--help` calls its value.
    """
    metadata = {"text": text, "choices": tuple(choices), "checked": checked, "metavar": metavar}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Which runs a sweep makes, what they start from, and where they are trained: `sweep` in a cook file.

    The docstring of [`hf_soup.sweep`] describes each of them.
    """

    space: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    n_runs: int | None = option(None, "Draw so many settings; all combinations by default.")
    seed: int = option(0, "Of the drawing, and of validation data kept apart.")
    head: str = option("auto", f"{', '.join(HEADS[:-1])} or {HEADS[-1]}.", choices=HEADS, checked=True)
    init_seed: int = option(0, "Of a new head, the same for all runs.")
    probe_args: Mapping[str, Any] | None = None
    keep: str = option("best", "Of each run: best, last or all checkpoints.", choices=KEEP, checked=True)
    training_args: Mapping[str, Any] | None = None
    on_error: str = option("continue", "When a run fails: continue or raise.", choices=ON_ERROR, checked=True)
    executor: str = option("local", "Where runs are trained: local or ray.", choices=EXECUTORS)
    resources: Mapping[str, float] | None = None
    push_runs: bool | str = option(False, "Put each run into a repository of its own on the Hub.")
    private: bool | None = option(None, "Make these repositories private.")

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Which ingredients go into a soup, and how: `merge` in a cook file.

    The docstring of [`hf_soup.merge`] describes each of them; `params` are the parameters of the method and of the
    strategy.
    """

    weights: list[float] | dict[str, list[float] | float] | None = None
    method: str = option("linear", f"How tensors combine: {', '.join(names('method'))}.", choices=names("method"))
    strategy: str | None = option(None, f"Who goes in: {', '.join(names('strategy'))}.", choices=names("strategy"))
    metric: str | None = option(None, "What to choose by; the task's own by default.")
    folds: int | None = option(None, "Search so many times on all folds but one: what is the choice worth?")
    holdout: float | None = option(None, "Part of --data that the search does not see, to score the choice on.")
    executor: str = option("local", "Where independent trials run: local or ray.", choices=EXECUTORS)
    dtype: str = option("auto", "Of the soup: bfloat16, float16, float32 ...")
    seed: int = option(0, "Of what methods and strategies draw at random.")
    align_labels: bool = option(False, "Permute heads whose labels are in another order; ignore letter case.")
    take_from: str | None = option(
        None, "The ingredient whose config, tokenizer and processor the soup takes.", metavar="NAME"
    )
    params: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What the comparison on the test sets reports: `compare` in a cook file."""

    metrics: tuple[str, ...] = option((), "The first one counts; the task's own by default.")
    ensembles: tuple[str, ...] | None = option(None, f"{', '.join(ENSEMBLES)}; all by default.", choices=ENSEMBLES)

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Where on the Hub the soup goes: `push` in a cook file; the fields are parameters of [`Soup.push_to_hub`]."""

    repo_id: str
    private: bool | None = option(None, "Make a new repository there private.")
    revision: str | None = None
    create_pr: bool = False
    tags: list[str] = field(default_factory=list)
    include_plots: bool = True
    name_private: bool = option(False, "Name private ingredients in a public repository.")
    license: str | None = None
    benchmark: str | None = None

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    """What an analysis looks at, and how far: options of [`hf_soup.analyze`], which describes each of them."""

    parts: tuple[str, ...] | None = option(
        None,
        f"{', '.join(PARTS[:-1])} or {PARTS[-1]}; may be repeated. By default similarity, and with --data diversity, "
        "landscape and advice.",
        choices=PARTS,
    )
    points: int = option(11, "Of each line, and in each direction of the plane.")
    beyond: float = option(0.0, "How far lines go on beyond their ends.")
    corners: tuple[str, ...] | None = option(None, "A model that the plane goes through: three of them.")
    path: tuple[str, ...] = option((), "Models of a greedy soup in its order, to be drawn on the plane.")
    samples: int | None = option(None, "Orders to draw for Shapley values; exact for up to 8 models by default.")
    budget: int | None = option(None, "Score so many models at most (analyze: in landscape, plane, advice each).")


def check_choices(options: DataclassInstance) -> None:
    """Refuse a value that is none of the choices of its option.

    Raises:
        [`RecipeError`]: with the choices, and the nearest one.
    """
    for item in fields(options):
        choices, value = item.metadata.get("choices", ()), getattr(options, item.name)
        if item.metadata.get("checked") and value not in choices:
            raise RecipeError(f"{item.name} is one of {', '.join(choices)}{did_you_mean(value, choices)}")


def keywords(options: DataclassInstance) -> dict[str, Any]:
    """The options as keyword arguments of a function that takes each of them by its name."""
    return {item.name: getattr(options, item.name) for item in fields(options)}


def answers_keywords(function: Callable[P, Result]) -> Callable[P, Result]:
    """Answer a keyword that a function does not take, misspelt or of another library, with the one that was meant.

    Type checkers see the signature of the function, and `help` shows it.

    Raises:
        [`RecipeError`]: when the function is called with such a keyword.
    """
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        _check_keywords(function.__qualname__.removesuffix(".__init__"), kwargs, known)
        return function(*args, **kwargs)

    return call


def answers_keywords_of_class(cls: type[Result]) -> type[Result]:
    """The same for the arguments that a class is called with."""
    cls.__init__ = answers_keywords(cls.__init__)  # type: ignore[method-assign]
    return cls


def _check_keywords(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    for keyword in given:
        if keyword not in known:
            raise RecipeError(f'{name} takes no argument "{keyword}"{did_you_mean(keyword, known)}')


def dtype_name(dtype: object) -> str:
    """The name of a floating-point type: `"float16"` of `torch.float16`; a name is its own."""
    return str(dtype).removeprefix("torch.")


def called_with(
    arguments: Callable[P, Arguments],
) -> Callable[[Callable[[Arguments], Result]], Callable[P, Result]]:
    """Give a function of one dataclass the signature of that dataclass: it is called with its fields.

    Type checkers see the same signature, and `help` shows it, so the fields are declared once.

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

        # what has to be given comes first, as in a signature that is written by hand
        ordered = sorted(known.values(), key=lambda item: (item.kind, item.default is not item.empty))
        returned = inspect.signature(function).return_annotation
        signature = inspect.Signature(ordered, return_annotation=returned)
        call.__signature__ = signature  # type: ignore[attr-defined]  # read by `inspect`, and unknown to type checkers
        return call

    return decorate
