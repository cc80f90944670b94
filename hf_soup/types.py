"""The values that everything passes around: frozen, without tensors, equal when their fields are.

They do no work and touch no file; `hf_soup.recipes` reads and writes them.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .errors import EvaluationError, RecipeError, listed
from .untrusted import is_printable, one_line


if TYPE_CHECKING:
    import numpy as np

    from .outputs import Predictions

ROUNDING = 1e-12  # of a tolerance: 0.912 is within 0.002 of 0.914
LONGEST_NAME, LONGEST_SOURCE = 300, 4096  # characters


@dataclass(frozen=True)
class Ingredient:
    """A reference to one checkpoint.

    Args:
        name (`str`):
            What tables and recipes call it; unique in a recipe.
        source (`str`):
            A folder, a Hub id, or `"memory"` for a model or state dict that was handed over in memory.
        revision (`str`, *optional*):
            The resolved commit of a Hub id.
        files (`Mapping[str, str]`, *optional*):
            Weight file -> digest: `sha256:` as the Hub reports it, `xxh3-128:` of the tensors that were read, or
            `stat:` (header, size and time of change) for a local file that has not been read yet.

    Raises:
        [`RecipeError`]: if its name or source is empty, longer than any name, or holds control characters or what is
            no Unicode.
    """

    name: str
    source: str
    revision: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self):
        for what, text, most in (("name", self.name, LONGEST_NAME), ("source", self.source, LONGEST_SOURCE)):
            if not isinstance(text, str) or len(text) > most or not is_printable(text):
                raise RecipeError(
                    f"{one_line(repr(text), 100)} is no {what} of an ingredient: it is longer than {most} characters, "
                    "or holds control characters or bytes that are no Unicode. Rename it."
                )


@dataclass(frozen=True)
class Recipe:
    """Everything that is needed to make a soup again, bit for bit.

    Args:
        ingredients (`Sequence[Ingredient]`):
            In the order in which they are summed.
        weights (`Sequence[float]` or `Mapping[str, Sequence[float]]`):
            One weight for each ingredient, or a row of them for each module prefix: whole dotted components, with or
            without the model's own prefix, the longest prefix wins and `""` is the rest.
        method (`str`, *optional*, defaults to `"linear"`):
            How the tensors of one name combine.
        params (`Mapping`, *optional*):
            The method's parameters.
        base_model (`Ingredient`, *optional*):
            What the ingredients were fine-tuned from, where the method needs it.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of the floating-point tensors of the soup; `"auto"` is the widest among the ingredients, tensor by tensor.
        seed (`int`, *optional*, defaults to 0):
            For methods that draw random numbers.
        alignments (`Mapping[str, Sequence[int]]`, *optional*):
            For ingredients whose labels are in another order: which of their classes is the soup's class 0, 1, ...
        labels (`Sequence[str]`, *optional*):
            Names of the soup's classes where ingredients are aligned: those of all candidates, whose spelling the
            ingredients that were chosen need not have. `take_from` goes before them.
        take_from (`str`, *optional*):
            Name of the ingredient that gives the soup its configuration, tokenizer, processor and generation settings;
            its weight may be 0. By default the first ingredient does.
        batchnorm (`Mapping`, *optional*):
            Where the running statistics of BatchNorm were estimated again, because those of an average fit nobody: the
            data, and the file beside the recipe that holds them, since weights alone do not say them.
        selection (`Mapping`, *optional*):
            How the recipe was found: strategy, parameters, metric, split, data set, and one row for each trial.
        output (`Mapping`, *optional*):
            What came out: number of tensors and their digest.
        versions (`Mapping`, *optional*):
            Of the libraries that made it.

    Raises:
        [`RecipeError`]: if there is no ingredient, two share a name, a row of weights has the wrong length, a number
            that is not finite, or nothing but zeros, or an alignment is no permutation or of nobody.
    """

    ingredients: tuple[Ingredient, ...]
    weights: tuple[float, ...] | dict[str, tuple[float, ...]]
    method: str = "linear"
    params: dict[str, Any] = field(default_factory=dict)
    base_model: Ingredient | None = None
    dtype: str = "auto"
    seed: int = 0
    alignments: dict[str, tuple[int, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    take_from: str | None = None
    batchnorm: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self):
        object.__setattr__(self, "ingredients", tuple(self.ingredients))
        object.__setattr__(self, "weights", _rows(self.weights))
        object.__setattr__(self, "labels", tuple(self.labels))
        if not self.ingredients:
            raise RecipeError("a soup needs at least one ingredient, none was given. Name folders, Hub ids or models.")
        twice = [name for name, count in Counter(item.name for item in self.ingredients).items() if count > 1]
        if twice:
            raise RecipeError(f"two ingredients are called {listed(twice)}; names in a recipe are unique.")
        if not self.rows:
            raise RecipeError("the weights are empty: give one for each ingredient, or a row for each module prefix.")
        for prefix, row in self.rows.items():
            where = f"the weights of {one_line(prefix)!r}" if prefix else "the weights"
            if len(row) != len(self.ingredients):
                raise RecipeError(
                    f"{where} are {len(row)} ({listed([f'{w:g}' for w in row])}) for {len(self.ingredients)} "
                    f"ingredients ({listed(self.names)}); give one for each."
                )
            if not all(map(math.isfinite, row)):
                raise RecipeError(f"{where} hold a number that is not finite: {listed(map(str, row))}.")
            if not any(row):
                raise RecipeError(
                    f"{where} are all zero: nothing would go into the soup. Give at least one that is not."
                )

        for name, order in self.alignments.items():
            if name not in self.names or sorted(order) != list(range(len(order))):
                raise RecipeError(
                    f"the alignment of {one_line(name)!r} is {listed(map(str, order))}; it permutes the classes of an "
                    "ingredient."
                )

    @property
    def rows(self) -> dict[str, tuple[float, ...]]:
        """The weights as {module prefix: one weight for each ingredient}; a single row is that of `""`."""
        return self.weights if isinstance(self.weights, dict) else {"": self.weights}

    @property
    def names(self) -> tuple[str, ...]:
        """The ingredients' names."""
        return tuple(item.name for item in self.ingredients)

    @property
    def base_inside(self) -> str | None:
        """The name of the base model where it is one of the ingredients: the soup lies on the way from it."""
        base = self.base_model
        known = [(item.name, item.source, item.revision) for item in self.ingredients]
        return base.name if base and (base.name, base.source, base.revision) in known else None

    @property
    def title(self) -> str:
        """What tables call its soup, such as `"greedy soup"`."""
        alike = len({weight for row in self.rows.values() for weight in row}) == 1
        return f"{one_line(self.selection.get('strategy') or ('uniform' if alike else 'weighted'), 60)} soup"

    def fingerprint(self) -> str:
        """A digest of what decides the bytes of the soup, so not of how the recipe was found nor of what came out."""
        import xxhash

        decisive = asdict(self)
        for key in ("selection", "output", "versions"):
            del decisive[key]
        decisive["batchnorm"].pop("file", None)  # wherever it lies
        if self.take_from is None:  # as in recipes from before there was a choice
            del decisive["take_from"]
        if not self.labels:
            del decisive["labels"]
        return xxhash.xxh3_128_hexdigest(json.dumps(plain(decisive), sort_keys=True).encode())


def plain(value: Any) -> Any:
    """A value as files hold it: lists for tuples, string keys, and whole numbers without a point (1, not 1.0)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's and torch's
        return plain(value.tolist())
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _rows(weights: Any) -> tuple[float, ...] | dict[str, tuple[float, ...]]:
    try:
        if isinstance(weights, Mapping):
            return {_prefix(prefix): _row(row) for prefix, row in weights.items()}
        return _row(weights)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(
            "weights are a sequence of numbers, or a mapping {module prefix: sequence of numbers}, not "
            f"{one_line(repr(weights))}."
        ) from None


def _row(row: Any) -> tuple[float, ...]:
    if isinstance(row, (str, bytes)):  # whose characters may be digits
        raise TypeError
    return tuple(map(float, row))


def _prefix(prefix: Any) -> str:
    if not isinstance(prefix, str):
        raise TypeError
    return prefix


@dataclass(frozen=True)
class Score:
    """What a metric said about one model on one set of examples.

    Args:
        metric (`str`):
            Its name.
        value (`float`):
            In the metric's own unit (accuracy: 0 to 1).
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of the metric.
        split (`str`, *optional*):
            Which part of the data, such as `"validation"`.
        dataset (`str`, *optional*):
            Fingerprint of the examples.
        n (`int`, *optional*):
            How many examples.
        others (`Mapping[str, float]`, *optional*):
            Values of other metrics on the same predictions; they do not select.

    Raises:
        [`EvaluationError`]: if the value is NaN or no number.
    """

    metric: str
    value: float
    higher_is_better: bool = True
    split: str | None = None
    dataset: str | None = None
    n: int | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.value, (int, float)):
            raise EvaluationError(f"the metric {self.metric!r} gave {one_line(repr(self.value))}, which is no number.")
        object.__setattr__(self, "value", float(self.value))
        if math.isnan(self.value):
            raise EvaluationError(
                f"the metric {self.metric!r} gave NaN on {self.split or 'the data'}; it cannot rank models."
            )

    @property
    def rank_key(self) -> float:
        """Sorts scores of one metric from worst to best."""
        return self.value if self.higher_is_better else -self.value

    def beats(self, other: Score, *, ties: bool = False, tolerance: float = 0.0) -> bool:
        """Whether this score is better than `other`.

        Args:
            other ([`Score`]):
                Of the same metric.
            ties (`bool`, *optional*, defaults to `False`):
                Whether to be as good is enough.
            tolerance (`float`, *optional*, defaults to 0.0):
                How much worse is still good enough, in the metric's unit.

        Raises:
            [`EvaluationError`]: if the two are scores of different metrics.
        """
        if (self.metric, self.higher_is_better) != (other.metric, other.higher_is_better):
            raise EvaluationError(f"scores of {self.metric!r} and {other.metric!r} cannot be compared.")
        bar = other.rank_key - (tolerance + ROUNDING if tolerance else 0)
        return self.rank_key >= bar if ties else self.rank_key > bar

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f}"


@dataclass(frozen=True)
class Bar:
    """What a trial has to reach.

    Args:
        score ([`Score`]):
            Of what it is measured against.
        ties (`bool`, *optional*, defaults to `True`):
            Whether to be as good is enough.
        tolerance (`float`, *optional*, defaults to 0.0):
            How much worse is still good enough, in the metric's unit.
    """

    score: Score
    ties: bool = True
    tolerance: float = 0.0

    def reached_by(self, score: Score | Rejected) -> bool:
        """Whether a trial is good enough; one that was stopped is not."""
        return isinstance(score, Score) and score.beats(self.score, ties=self.ties, tolerance=self.tolerance)

    def needed(self, n: int) -> int:
        """How many of `n` have to be right, for a metric that is their share; `n + 1` if all are not enough."""
        return bisect_left(range(n + 1), True, key=lambda right: self.reached_by(replace(self.score, value=right / n)))


@dataclass(frozen=True)
class Rejected:
    """What is known of a trial that was stopped because it could no longer reach its bar. It is no score.

    Args:
        right (`int`):
            How many can be right at most.
        n (`int`):
            Of how many.
        after (`int`):
            How many the model was run on.
    """

    right: int
    n: int
    after: int

    def __str__(self) -> str:
        return f"at most {self.right} of {self.n}, after {self.after}"


@dataclass(frozen=True)
class Trial:
    """One thing that a strategy tried: a row of tables.

    Args:
        tried (`str`):
            What, such as `"+ run-3"`.
        kept (`bool`):
            Whether it was taken.
        why (`str`):
            The reason, in words.
        score (`float`, *optional*):
            What it scored on validation; none where it was stopped early or ruled out.
        difference (`float`, *optional*), low (`float`, *optional*), high (`float`, *optional*):
            Score less that of the soup so far, and the 95 % interval of this difference over paired examples.
        at_most (`float`, *optional*):
            What it could score at most, where it was stopped early.
        ingredient (`str`, *optional*):
            Which, where one was scored alone.
        alpha (`float`, *optional*):
            How far along a path it lies.
    """

    tried: str
    kept: bool
    why: str
    score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    ingredient: str | None = None
    alpha: float | None = None


class Gradient(NamedTuple):
    """The derivative of a recipe's loss.

    Args:
        loss (`float`):
            Mean over the items.
        weights (`dict[str, tuple[float, ...]]`):
            Module -> for each ingredient the derivative by its weight there, as the recipe's mean defines it.
        scale (`float`):
            The derivative by what logits are multiplied with.
    """

    loss: float
    weights: dict[str, tuple[float, ...]]
    scale: float


class Trials(Protocol):
    """All that a strategy sees of the world: numbers in, a recipe out. Recipes have ingredients and weights alone;
    method, type and seed are those of the merge.
    """

    @property
    def examples(self) -> int:
        """How many examples validation has."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """The named modules of the model, from the bottom up."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Those of them that lie outside of the body."""
        ...

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """Modules of which an ingredient has not every tensor: a base model may have no head."""
        ...

    def score(self, recipe: Recipe, beat: Bar | None = None) -> Score | Rejected:
        """Cook a recipe in memory and score it on validation; with `beat` stop when it can no longer be reached."""
        ...

    def map(self, recipes: Sequence[Recipe], beat: Bar | None = None) -> list[Score | Rejected]:
        """Score recipes that do not depend on each other, at once where there are workers."""
        ...

    def difference(self, recipe: Recipe, other: Recipe) -> tuple[float, float] | None:
        """The 95 % interval of the difference of two recipes that were scored, where their predictions are known."""
        ...

    def logits(self, ingredient: Ingredient) -> Predictions:
        """What one ingredient says on validation."""
        ...

    def ensemble(self, recipe: Recipe) -> Score:
        """The score of the ingredients' averaged outputs, without a forward pass of their soup."""
        ...

    def gradient(self, recipe: Recipe, rows: np.ndarray, scale: float = 1.0) -> Gradient:
        """The derivative of the loss on some examples, with logits multiplied by `scale`."""
        ...

    def part(self, rows: np.ndarray) -> Trials:
        """Trials on some of the examples."""
        ...
