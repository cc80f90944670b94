"""References to checkpoints, mixtures of them, and recipes, as values without tensors."""

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


LONGEST_NAME, LONGEST_SOURCE = 300, 4096  # maximum number of characters

UNIFORM = "uniform soup"  # name of the plain mean of all ingredients in tables and pictures


@dataclass(frozen=True)
class Ingredient:
    """A reference to one checkpoint.

    Args:
        name (`str`):
            Name of the ingredient in tables and recipes; unique in a recipe.
        source (`str`):
            Source of the weights: a folder, a Hub id, or `"memory"` for a model or state dict in memory.
        revision (`str`, *optional*):
            Resolved commit of a Hub id.
        files (`Mapping[str, str]`, *optional*):
            Digests of the weight files: `sha256:` as reported by the Hub, `xxh3-128:` of the tensors that were read,
            or `stat:` (header, size and modification time) for a local file that has not been read yet.
        tensors (`Mapping[str, str]`, *optional*):
            Digests (`xxh3-128:`) of the tensors that were read, for files on the Hub that were streamed in parts: the
            digest of the complete file in `files` was not computed then.

    Raises:
        [`RecipeError`]: if the name or source is empty, too long, or contains control characters or invalid Unicode.
    """

    name: str
    source: str
    revision: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)

    # Recipe files are read into this class: unknown keys are errors, and strings are not converted to numbers.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self) -> None:
        limits = (("name", self.name, LONGEST_NAME), ("source", self.source, LONGEST_SOURCE))
        for field_name, text, longest in limits:
            if not isinstance(text, str) or len(text) > longest or not is_printable(text):
                raise RecipeError(
                    f"{one_line(repr(text), 100)} is no valid {field_name} of an ingredient: it has more than "
                    f"{longest} characters, or contains control characters or invalid Unicode. Rename it."
                )


@dataclass(frozen=True)
class Mixture:
    """Ingredients to average and their weights, which strategies choose and trials score.

    A [`Recipe`] is a mixture with everything else that determines the bytes of a soup: method, parameters, type, seed.

    Args:
        ingredients (`Sequence[Ingredient]`):
            Ingredients in the order in which they are summed.
        weights (`Sequence[float]` or `Mapping[str, Sequence[float]]`):
            Weight of each ingredient, or a row of weights for each module prefix; see [`Recipe`].
        params (`Mapping[str, float]`, *optional*):
            Parameters of the method, which take precedence over those of the merge.

    Raises:
        [`RecipeError`]: if there is no ingredient, two have the same name, or a row of weights has the wrong length,
            contains a number that is not finite, or is all zeros.
    """

    ingredients: tuple[Ingredient, ...]
    weights: Weights
    params: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ingredients", tuple(self.ingredients))  # lists are accepted, but would not be frozen
        object.__setattr__(self, "weights", as_weights(self.weights))
        _check_mixture(self.ingredients, self.weights_by_module)

    @classmethod
    def equal(cls, ingredients: Sequence[Ingredient]) -> Mixture:
        """A mixture of all ingredients with the weight 1, in this order."""
        return cls(tuple(ingredients), (1.0,) * len(ingredients))

    @property
    def weights_by_module(self) -> dict[str, tuple[float, ...]]:
        """The weights of the ingredients by module prefix; a single row is that of `""`."""
        return by_module(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ingredients."""
        return tuple(item.name for item in self.ingredients)

    @property
    def totals(self) -> tuple[float, ...]:
        """The sum of each ingredient's weights over all modules."""
        return tuple(sum(weights) for weights in zip(*self.weights_by_module.values(), strict=True))

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the ingredients with a weight other than 0 in some row."""
        # Each row is for a module, and each column has the weights of one ingredient.
        columns = zip(*self.weights_by_module.values(), strict=True)
        used = []
        for name, weights in zip(self.names, columns, strict=True):
            if any(weights):
                used.append(name)
        return tuple(used)


@dataclass(frozen=True)
class StatisticsRecord:
    """The origin of statistics of data: of BatchNorm in a soup if it is not averaged, or the importance of weights.

    Args:
        dataset ([`DataDescription`]):
            Data that they were estimated on.
        batches (`str`, *optional*):
            Digest of everything that determines the batches.
        file (`str`, *optional*):
            File beside the recipe that contains the statistics, because they do not follow from the weights.
        digest (`str`, *optional*):
            Digest of the statistics in the file.
    """

    dataset: DataDescription = field(default_factory=DataDescription)
    batches: str | None = None
    file: str | None = None
    digest: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as saved in recipes, without unknown values."""
        content: dict[str, Any] = {"dataset": self.dataset.as_dict()}
        for key, value in (("batches", self.batches), ("file", self.file), ("digest", self.digest)):
            if value is not None:
                content[key] = value
        return content


@dataclass(frozen=True)
class AdapterRecord:
    """How a soup of adapters was written as an adapter.

    Args:
        rank (`int`, *optional*):
            Largest rank that was kept; `None` for the sum of the ranks, which is exact.
        error (`float`, *optional*, defaults to 0):
            Norm of what was cut off, relative to that of the change of all weights.
        kind (`str`, *optional*, defaults to `"LORA"`):
            Type of the adapter in PEFT.
    """

    rank: int | None = None
    error: float = 0.0
    kind: str = "LORA"


@dataclass(frozen=True)
class OutputRecord:
    """The result of a merge.

    Args:
        tensors (`int`):
            Number of tensors.
        digest (`str`):
            Digest of all tensors together.
    """

    tensors: int
    digest: str


@dataclass(frozen=True, repr=False)
class Recipe(Result):
    """Everything that is needed to make a soup again, bit for bit.

    Args:
        ingredients (`Sequence[Ingredient]`):
            Ingredients in the order in which they are summed.
        weights (`Sequence[float]` or `Mapping[str, Sequence[float]]`):
            Weight of each ingredient, or a row of weights for each module prefix. Prefixes consist of whole dotted
            components, with or without the model's own prefix; the longest matching one is used, and `""` is the rest.
        method (`str`, *optional*, defaults to `"linear"`):
            Method that combines the tensors of one name.
        params (`Mapping`, *optional*):
            Parameters of the method.
        base_model (`Ingredient`, *optional*):
            Model that the ingredients were fine-tuned from, if the method needs it.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Data type of the floating-point tensors of the soup; `"auto"` uses the widest type among the ingredients
            for each tensor.
        seed (`int`, *optional*, defaults to 0):
            Random seed of methods that use random numbers.
        alignments (`Mapping[str, Sequence[int]]`, *optional*):
            Permutations of classes by ingredient, for ingredients whose labels are in another order: the index in the
            ingredient of the soup's class 0, 1, ...
        labels (`Sequence[str]`, *optional*):
            Class names of the soup if ingredients are aligned. They are those of all candidates and may be spelled
            differently in the chosen ingredients; `take_from` takes precedence.
        take_from (`str`, *optional*):
            Name of the ingredient whose configuration, tokenizer, processor and generation settings the soup takes; by
            default the first. Its weight may be 0.
        vocabulary (`str`, *optional*):
            Vocabulary that ingredients with different added tokens are brought to: `"union"`, `"base_model"`, or the
            name of the ingredient whose tokens are kept; by default their tokenizers are equal.
        chat_template (`str`, *optional*):
            Chat template of the soup, as Jinja; by default that of the ingredient that gives the settings.
        batchnorm ([`StatisticsRecord`], *optional*):
            Record of BatchNorm running statistics that were estimated again, because averaged statistics match no
            model.
        importance (`Mapping[str, StatisticsRecord]`, *optional*):
            Record of the statistics of each ingredient's weights, for a method that is given them.
        adapter ([`AdapterRecord`], *optional*):
            How a soup of adapters was written as an adapter, if it was not written as a whole model.
        selection ([`Selection`], *optional*):
            How the mixture was chosen: strategy, parameters, metric, split, data set, and every trial.
        output ([`OutputRecord`], *optional*):
            Result of the merge: number of tensors and their digest.
        versions (`Mapping`, *optional*):
            Versions of the libraries that made the soup.

    Raises:
        [`RecipeError`]: if there is no ingredient, two have the same name, a row of weights has the wrong length,
            contains a number that is not finite or is all zeros, or an alignment is not a permutation or names no
            ingredient.
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
    vocabulary: str | None = None
    chat_template: str | None = None
    batchnorm: StatisticsRecord | None = None
    importance: dict[str, StatisticsRecord] = field(default_factory=dict)
    adapter: AdapterRecord | None = None
    selection: Selection | None = None
    output: OutputRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)

    # As for an ingredient.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    def __post_init__(self) -> None:
        object.__setattr__(self, "ingredients", tuple(self.ingredients))  # as for a mixture
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
        """A row for each ingredient with its weights and source, and below how they are averaged."""
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
        """The ingredients and their weights, with the parameters that a strategy may have found."""
        numbers = {}
        for name, value in self.params.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers[name] = value
        return Mixture(self.ingredients, self.weights, numbers)

    @property
    def weights_by_module(self) -> dict[str, tuple[float, ...]]:
        """The weights of the ingredients by module prefix; a single row is that of `""`."""
        return by_module(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ingredients."""
        return tuple(item.name for item in self.ingredients)

    @property
    def base_inside(self) -> str | None:
        """Name of the base model if it is one of the ingredients, so that the soup is interpolated with it."""
        base = self.base_model
        if base is None:
            return None
        # Files are ignored, because digests of the same weights may be of different kinds.
        references = [(item.name, item.source, item.revision) for item in self.ingredients]
        if (base.name, base.source, base.revision) in references:
            return base.name
        return None

    @property
    def title(self) -> str:
        """Name of the soup in tables, such as `"greedy soup"`."""
        if self.selection is not None and self.selection.strategy:  # the name may come from an untrusted file
            return f"{one_line(self.selection.strategy, 60)} soup"
        different_weights: set[float] = set()
        for weights in self.weights_by_module.values():
            different_weights.update(weights)
        if len(different_weights) == 1:
            return UNIFORM
        return "weighted soup"

    def fingerprint(self) -> str:
        """A digest of everything that determines the bytes of the soup, so not of the selection and the result."""
        import xxhash

        # `asdict` makes deep copies, and a selection may have hundreds of trials.
        decisive = asdict(replace(self, selection=None, batchnorm=None))
        for key in ("selection", "output", "versions", "adapter"):
            del decisive[key]
        decisive["batchnorm"] = {}
        if self.batchnorm is not None:  # the name of the file does not matter, because the digest covers its content
            decisive["batchnorm"] = replace(self.batchnorm, file=None).as_dict()
        # Without these fields the digest is that of recipes from before the fields existed.
        if self.take_from is None:
            del decisive["take_from"]
        for name in ("vocabulary", "chat_template"):
            if decisive[name] is None:
                del decisive[name]
        if not self.labels:
            del decisive["labels"]
        decisive["importance"] = {name: record.digest for name, record in self.importance.items()}
        if not self.importance:
            del decisive["importance"]
        for item in (*decisive["ingredients"], decisive["base_model"] or {}):
            item.pop("tensors", None)  # how they were read does not matter
        return xxhash.xxh3_128_hexdigest(json.dumps(plain(decisive), sort_keys=True).encode())


def plain(value: Any) -> Any:
    """A value as saved in files: lists for tuples, string keys, and whole numbers as integers (1, not 1.0)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch values
        return plain(value.tolist())
    # Larger ones are left unchanged, because as integers they would show digits that a float does not have.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _check_mixture(ingredients: Sequence[Ingredient], weights_by_module: Mapping[str, Sequence[float]]) -> None:
    """Raise an error for ingredients without unique names, and for weights that do not define a mean."""
    if not ingredients:
        raise RecipeError("a soup needs at least one ingredient, none was given. Name folders, Hub ids or models.")
    names = [item.name for item in ingredients]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise RecipeError(f"two ingredients are called {listed(repeated)}; names in a recipe have to be unique.")
    if not weights_by_module:
        raise RecipeError("the weights are empty: give one for each ingredient, or a row for each module prefix.")
    for prefix, weights in weights_by_module.items():
        check_weights(prefix, weights, names)
