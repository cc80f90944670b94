"""What a soup is made of: references to checkpoints, mixtures of them, and recipes. Values without tensors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, listed
from ..untrusted import is_printable, one_line
from .selection import DataDescription, Selection
from .weights import Weights, as_weights, by_module, check_weights


LONGEST_NAME, LONGEST_SOURCE = 300, 4096  # characters

UNIFORM = "uniform soup"  # what tables and pictures call the plain mean of all ingredients


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

    # Recipe files are read into this class: no unknown keys, and no text that is taken for a number.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self) -> None:
        limits = (("name", self.name, LONGEST_NAME), ("source", self.source, LONGEST_SOURCE))
        for field_name, text, longest in limits:
            if not isinstance(text, str) or len(text) > longest or not is_printable(text):
                raise RecipeError(
                    f"{one_line(repr(text), 100)} is no {field_name} of an ingredient: it is longer than {longest} "
                    "characters, or holds control characters or bytes that are no Unicode. Rename it."
                )


@dataclass(frozen=True)
class Mixture:
    """Which ingredients are averaged, and with what weights: what a strategy finds and trials score.

    A [`Recipe`] is a mixture with everything else that decides the bytes of a soup: method, parameters, type, seed.

    Args:
        ingredients (`Sequence[Ingredient]`):
            In the order in which they are summed.
        weights (`Sequence[float]` or `Mapping[str, Sequence[float]]`):
            One weight for each ingredient, or a row of them for each module prefix; see [`Recipe`].

    Raises:
        [`RecipeError`]: if there is no ingredient, two share a name, or a row of weights has the wrong length, a
            number that is not finite, or nothing but zeros.
    """

    ingredients: tuple[Ingredient, ...]
    weights: Weights

    def __post_init__(self) -> None:
        object.__setattr__(self, "ingredients", tuple(self.ingredients))  # lists are taken, and would not be frozen
        object.__setattr__(self, "weights", as_weights(self.weights))
        _check_mixture(self.ingredients, self.weights_by_module)

    @classmethod
    def equal(cls, ingredients: Sequence[Ingredient]) -> Mixture:
        """All of them with the weight 1, in this order."""
        return cls(tuple(ingredients), (1.0,) * len(ingredients))

    @property
    def weights_by_module(self) -> dict[str, tuple[float, ...]]:
        """The weights as {module prefix: one weight for each ingredient}; a single row is that of `""`."""
        return by_module(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """The ingredients' names."""
        return tuple(item.name for item in self.ingredients)

    @property
    def totals(self) -> tuple[float, ...]:
        """The sum of each ingredient's weights over all modules."""
        return tuple(sum(weights) for weights in zip(*self.weights_by_module.values(), strict=True))

    @property
    def used(self) -> tuple[str, ...]:
        """The names of the ingredients that have a weight other than 0 in any row."""
        # The rows are by module; across them, a column has the weights of one ingredient.
        columns = zip(*self.weights_by_module.values(), strict=True)
        used = []
        for name, weights in zip(self.names, columns, strict=True):
            if any(weights):
                used.append(name)
        return tuple(used)


@dataclass(frozen=True)
class BatchNormRecord:
    """Where the running statistics of BatchNorm in a soup come from, instead of an average.

    Args:
        dataset ([`DataDescription`]):
            The training data that they were estimated on.
        batches (`str`, *optional*):
            Digest of all that decides the batches of it.
        file (`str`, *optional*):
            The file beside the recipe that holds them, since weights alone do not say them.
        digest (`str`, *optional*):
            Of the statistics in it.
    """

    dataset: DataDescription = field(default_factory=DataDescription)
    batches: str | None = None
    file: str | None = None
    digest: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As recipes hold it: without what is not known."""
        content: dict[str, Any] = {"dataset": self.dataset.as_dict()}
        for key, value in (("batches", self.batches), ("file", self.file), ("digest", self.digest)):
            if value is not None:
                content[key] = value
        return content


@dataclass(frozen=True)
class OutputRecord:
    """What came out of a merge.

    Args:
        tensors (`int`):
            How many tensors.
        digest (`str`):
            Of all of them together.
    """

    tensors: int
    digest: str


@dataclass(frozen=True, repr=False)
class Recipe(Result):
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
        batchnorm ([`BatchNormRecord`], *optional*):
            Where the running statistics of BatchNorm were estimated again, because averaged statistics match no model.
        selection ([`Selection`], *optional*):
            How the mixture was found: strategy, parameters, metric, split, data set, and every trial.
        output ([`OutputRecord`], *optional*):
            What came out: number of tensors and their digest.
        versions (`Mapping`, *optional*):
            Of the libraries that made it.

    Raises:
        [`RecipeError`]: if there is no ingredient, two share a name, a row of weights has the wrong length, a number
            that is not finite, or nothing but zeros, or an alignment is no permutation, or of none of the ingredients.
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
    batchnorm: BatchNormRecord | None = None
    selection: Selection | None = None
    output: OutputRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)

    # As of an ingredient.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self) -> None:
        object.__setattr__(self, "ingredients", tuple(self.ingredients))  # as of a mixture
        object.__setattr__(self, "weights", as_weights(self.weights))
        object.__setattr__(self, "labels", tuple(self.labels))
        _check_mixture(self.ingredients, self.weights_by_module)
        for name, order in self.alignments.items():
            if name not in self.names or sorted(order) != list(range(len(order))):
                raise RecipeError(
                    f"the alignment of {one_line(name)!r} is {listed(map(str, order))}; it permutes the classes of an "
                    "ingredient."
                )

    def table(self) -> str:
        """A line for each ingredient with its weights and its source, and how they are averaged below."""
        by_module = self.weights_by_module
        heads = ["weight"] if len(by_module) == 1 else [f"weight of {module or 'the rest'}" for module in by_module]
        lines = [["ingredient", *heads, "from"]]
        for index, item in enumerate(self.ingredients):
            source = f"{item.source}@{item.revision[:7]}" if item.revision else item.source
            lines.append([item.name, *(f"{weights[index]:.4g}" for weights in by_module.values()), source])
        how = f"{self.title}, {self.method}"
        if self.params:
            how += f" ({', '.join(f'{name}={value}' for name, value in self.params.items())})"
        if self.base_model is not None:
            how += f", base model {self.base_model.name}"
        return f"{align(lines)}\n\n{how}"

    def _about(self) -> str:
        return f"{self.title} of {', '.join(self.names)}"

    @property
    def mixture(self) -> Mixture:
        """Ingredients and weights alone."""
        return Mixture(self.ingredients, self.weights)

    @property
    def weights_by_module(self) -> dict[str, tuple[float, ...]]:
        """The weights as {module prefix: one weight for each ingredient}; a single row is that of `""`."""
        return by_module(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """The ingredients' names."""
        return tuple(item.name for item in self.ingredients)

    @property
    def base_inside(self) -> str | None:
        """The name of the base model where it is one of the ingredients: the soup lies on the way from it."""
        base = self.base_model
        if base is None:
            return None
        # Files are left out: digests of the same weights may have been taken in different ways.
        references = [(item.name, item.source, item.revision) for item in self.ingredients]
        if (base.name, base.source, base.revision) in references:
            return base.name
        return None

    @property
    def title(self) -> str:
        """What tables call its soup, such as `"greedy soup"`."""
        if self.selection is not None and self.selection.strategy:  # a name that a stranger's file may hold
            return f"{one_line(self.selection.strategy, 60)} soup"
        different_weights: set[float] = set()
        for weights in self.weights_by_module.values():
            different_weights.update(weights)
        if len(different_weights) == 1:
            return UNIFORM
        return "weighted soup"

    def fingerprint(self) -> str:
        """A digest of what decides the bytes of the soup, so not of how the recipe was found nor of what came out."""
        import xxhash

        # `asdict` copies deeply, and a selection may have hundreds of trials.
        decisive = asdict(replace(self, selection=None, batchnorm=None))
        for key in ("selection", "output", "versions"):
            del decisive[key]
        decisive["batchnorm"] = {}
        if self.batchnorm is not None:  # the name of the file decides nothing: the digest stands for what it holds
            decisive["batchnorm"] = replace(self.batchnorm, file=None).as_dict()
        # Without these the digest is that of recipes from before there were such fields.
        if self.take_from is None:
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
    # Larger ones stay as they are: as integers they would show digits that a float does not have.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _check_mixture(ingredients: Sequence[Ingredient], weights_by_module: Mapping[str, Sequence[float]]) -> None:
    """Refuse ingredients without a name of their own, and weights that make no mean of them."""
    if not ingredients:
        raise RecipeError("a soup needs at least one ingredient, none was given. Name folders, Hub ids or models.")
    names = [item.name for item in ingredients]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise RecipeError(f"two ingredients are called {listed(repeated)}; names in a recipe are unique.")
    if not weights_by_module:
        raise RecipeError("the weights are empty: give one for each ingredient, or a row for each module prefix.")
    for prefix, weights in weights_by_module.items():
        check_weights(prefix, weights, names)
