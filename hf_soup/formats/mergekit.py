"""Configurations of mergekit as cook files, and recipes as configurations of mergekit.

Settings without an equivalent raise an error that names them. Nothing is merged here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..checkpoints import hub
from ..checkpoints.labels import is_identity
from ..checkpoints.modules import at_depth
from ..checkpoints.source import distinct_names
from ..errors import RecipeError, did_you_mean
from ..plugins import load_function, needs_base, parameters
from ..types import Ingredient, Recipe
from ..untrusted import one_line
from ..yaml_text import parse_yaml
from .strict_yaml import dumper


MERGEKIT_FILE = "mergekit_config.yml"  # the name that tools on the Hub look for
THEIR_NAMES = {"scale": "lambda"}  # parameters of changes that have another name in mergekit
KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "name"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
IGNORED = ("int8_mask", "rescale_norm")  # they save memory, or have the value that is used anyway
RENAMED = {"lambda": "scale", "filter_wise": "per", "nuslerp_row_wise": "per", "nuslerp_flatten": "per"}
OF_EACH = ("weight", "density")  # parameters that may differ between models
LAYERS = "*.[0-9]*"  # pattern for names of tensors in numbered layers
# method -> the names of its parameters in mergekit
PARAMETERS: dict[str, tuple[str, ...]] = {
    "linear": ("weight", "normalize"),
    "slerp": ("t",),
    "nuslerp": ("weight", "nuslerp_flatten", "nuslerp_row_wise"),
    "multislerp": ("weight",),
    "karcher": ("max_iter", "tol"),
    "task_arithmetic": ("weight", "lambda", "normalize"),
    "ties": ("weight", "density", "lambda", "normalize"),
    "dare_linear": ("weight", "density", "lambda", "normalize", "rescale"),
    "dare_ties": ("weight", "density", "lambda", "normalize", "rescale"),
    "breadcrumbs": ("weight", "density", "gamma", "lambda", "normalize"),
    "breadcrumbs_ties": ("weight", "density", "gamma", "lambda", "normalize"),
    "della": ("weight", "density", "epsilon", "lambda", "normalize", "rescale"),
    "della_linear": ("weight", "density", "epsilon", "lambda", "normalize", "rescale"),
    "model_stock": ("filter_wise",),
    "sce": ("select_topk",),
    "nearswap": ("t",),
    "arcee_fusion": (),
    "ram": ("epsilon",),
    "ramplus_tl": ("epsilon", "r", "alpha"),
    "passthrough": ("scale",),
}
DEFAULTS = {"density": 1.0, "weight": 1.0}  # where those of hf_soup differ, or it has none
ORDERED = ("slerp", "nearswap")  # methods whose base model is the first of two models


class Input(NamedTuple):
    """One model of a merge.

    Args:
        source (`str`):
            Folder or Hub id.
        parameters (`Mapping[str, Any]`):
            Its own parameters.
    """

    source: str
    parameters: Mapping[str, Any]


class Slice(NamedTuple):
    """Consecutive layers that are merged with parameters of their own.

    Args:
        inputs (`list[Input]`):
            The models.
        parameters (`Mapping[str, Any]`):
            Parameters of these layers.
        layers (`range`, *optional*):
            Numbers of the layers; all by default.
    """

    inputs: list[Input]
    parameters: Mapping[str, Any]
    layers: range | None = None


def is_mergekit(content: object) -> bool:
    """Whether the content of a YAML file is a configuration of mergekit rather than a cook file."""
    return isinstance(content, Mapping) and "merge_method" in content


def read_documents(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The documents of a YAML file with configurations of mergekit; empty if it is another file.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Raises:
        [`RecipeError`]: if a document is no YAML, or not all of several are configurations of mergekit.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):  # another reader says what is wrong with it
        return []
    if not re.search(r"^merge_method\s*:", text, re.MULTILINE):
        return []
    documents = []
    for number, part in enumerate(re.split(r"^---\s*$", text, flags=re.MULTILINE), start=1):
        content = parse_yaml(part, f"{one_line(path)} (document {number})")
        if content is None:
            continue
        if not is_mergekit(content):
            raise RecipeError(f"{one_line(path)}: document {number} has no `merge_method`, but another one has.")
        documents.append(content)
    return documents


def as_cook_files(documents: Sequence[Mapping[str, Any]], where: str, folder: str) -> list[dict[str, Any]]:
    """The cook files of the documents of one file, in their order; later ones may use the soups of earlier ones.

    Args:
        documents (`Sequence[Mapping[str, Any]]`):
            Configurations of mergekit.
        where (`str`):
            The file, for error messages.
        folder (`str`):
            Folder of the results; that of each stage but the last is below it.

    Raises:
        [`RecipeError`]: naming a setting without an equivalent.
    """
    made: dict[str, str] = {}
    files = []
    for number, document in enumerate(documents):
        is_last = number == len(documents) - 1
        name = document.get("name")
        if not is_last and (not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name)):
            raise RecipeError(f"{where}: every configuration but the last needs a `name` without special characters.")
        own = folder if is_last else f"{folder}/{name}"
        files.append({**as_cook_file(document, where, made), "output_dir": own})
        if isinstance(name, str):
            made[name] = f"{own}/soup"
    return files


def as_cook_file(content: Mapping[str, Any], where: str, made: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The cook file of one configuration of mergekit.

    Args:
        content (`Mapping[str, Any]`):
            The configuration.
        where (`str`):
            The file, for error messages.
        made (`Mapping[str, str]`, *optional*):
            Names of earlier stages, with the folders of their soups.

    Raises:
        [`RecipeError`]: naming a setting without an equivalent.
    """
    converter = _Converter(content, where, made or {})
    return converter.cook_file()


def layers_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of layers that a configuration says its first model has, if it has slices.

    Args:
        documents (`Sequence[Mapping[str, Any]]`):
            Configurations that were converted without an error.

    Returns:
        `dict[str, int]`: model -> number of its layers; without models that an earlier stage makes.
    """
    made = [document.get("name") for document in documents]
    found = {}
    for document in documents:
        slices = document.get("slices") or [{}]
        for source in slices[-1].get("sources", []):
            if isinstance(source["model"], str) and source["model"] not in made:
                found[source["model"]] = source["layer_range"][1]
    return found


class _Converter:
    """The conversion of one configuration; the arguments are those of [`as_cook_file`]."""

    def __init__(self, content: Mapping[str, Any], where: str, made: Mapping[str, str]):
        self.content, self.where, self.made = content, where, made
        self.method = content["merge_method"]
        for key in content:
            if key not in KEYS:
                self.refuse(str(key), f"`{key}`", did_you_mean(str(key), KEYS))
        if self.method not in PARAMETERS:
            self.refuse("merge_method", f"merge_method: {self.method}", did_you_mean(str(self.method), PARAMETERS))
        self._check_tokenizer()
        self.slices = self._slices()
        self.base = self._base()
        self.sources = self._sources()

    def refuse(self, key: str, what: str, why: str = "") -> NoReturn:
        """Raise an error that a setting, which a key of the file begins, has no equivalent."""
        raise RecipeError(
            f"{self.where}{_line_of(self.where, key)}: {one_line(what)} of mergekit has no equivalent here"
            f"{why}{'' if why.endswith(('.', '?')) else '.'} docs/from_mergekit.md lists those that have one."
        )

    def cook_file(self) -> dict[str, Any]:
        """The content of the cook file."""
        merge: dict[str, Any] = {"method": self.method}
        params: dict[str, Any] = {}
        for name in PARAMETERS[self.method]:
            values = [self._value(name, source) for source in self.sources]
            if name == "weight":
                merge["weights"] = self._weights(values)
            elif name in OF_EACH and any(value != values[0] for value in values):
                params[name] = dict(zip(self._names(), values, strict=True))
            elif any(value != values[0] for value in values):
                self.refuse(name, f"`{name}` with different values for the models", ": it is one value for all")
            elif values[0] is not None:
                params |= self._renamed(name, values[0])
        if self.content.get("out_dtype") or self.content.get("dtype"):
            merge["dtype"] = self.content.get("out_dtype") or self.content.get("dtype")
        if params:
            merge["params"] = params
        cook = {"ingredients": self.sources, "merge": merge}
        if self.base is not None and self.method not in ORDERED and self.method not in ("linear", "karcher"):
            cook["base_model"] = self.base
        return cook

    # Models

    def _slices(self) -> list[Slice]:
        """The slices; one of all layers if there is a list of models."""
        shared = self._mapping(self.content.get("parameters"))
        if "models" in self.content:
            return [Slice([self._input(item) for item in self._list("models")], shared)]
        slices = []
        for item in self._list("slices"):
            own = {**shared, **self._mapping(item.get("parameters"))}
            sources = item.get("sources")
            if not isinstance(sources, list) or not sources:
                self.refuse("slices", "a slice without `sources`")
            ranges = {tuple(source.get("layer_range") or ()) for source in sources}
            if len(ranges) > 1:
                self.refuse("layer_range", "a slice of different layers", ": stack layers with mergekit")
            (bounds,) = ranges
            if len(bounds) != 2:
                self.refuse("slices", "a slice without `layer_range`")
            slices.append(Slice([self._input(source) for source in sources], own, range(*bounds)))
        place = 0
        for item in slices:
            if item.layers is not None and item.layers.start != place:
                self.refuse(
                    "layer_range", f"layer {item.layers.start} in place {place}", ": stack layers with mergekit"
                )
            place = item.layers.stop if item.layers is not None else 0
        return slices

    def _list(self, key: str) -> list[Any]:
        items = self.content.get(key)
        if not isinstance(items, list) or not items or not all(isinstance(item, Mapping) for item in items):
            raise RecipeError(f"{self.where}: `{key}` is a list of models, and is missing or empty.")
        return items

    def _mapping(self, value: Any) -> Mapping[str, Any]:
        if value is not None and not isinstance(value, Mapping):
            raise RecipeError(f"{self.where}: `parameters` is a mapping, not {one_line(repr(value))}.")
        return value or {}

    def _input(self, item: Mapping[str, Any]) -> Input:
        return Input(self._source(item.get("model")), self._mapping(item.get("parameters")))

    def _source(self, model: Any) -> str:
        """Folder or Hub id of a model; the soup of an earlier stage for its name."""
        if isinstance(model, Mapping):
            inner = model.get("model", model)
            path, revision = inner.get("path"), inner.get("revision")
            if model.get("lora"):
                self.refuse("lora", "an adapter (`lora`)", ": merge it into its model first")
            model = f"{path}@{revision}" if revision else path
        if not isinstance(model, str) or not model:
            raise RecipeError(f"{self.where}: a model is a path or a Hub id, not {one_line(repr(model))}.")
        if "+" in model and not os.path.exists(model):
            self.refuse("model", f"an adapter ({model})", ": merge it into its model first")
        return self.made.get(model, model)

    def _base(self) -> str | None:
        base = self.content.get("base_model")
        return None if base is None else self._source(base)

    def _sources(self) -> list[str]:
        """The ingredients in order; a base model among them is none, except for methods that begin with it."""
        first = [item.source for item in self.slices[0].inputs]
        for other in self.slices[1:]:
            if sorted(item.source for item in other.inputs) != sorted(first):
                self.refuse("slices", "a slice of other models", ": all slices have the same ones")
        if len(set(first)) < len(first):
            self.refuse("models", "a model that is listed twice")
        if self.method in ORDERED:
            if self.base not in first:
                raise RecipeError(f"{self.where}: `base_model` of {self.method} is one of its two models.")
            return [self.base, *(source for source in first if source != self.base)]
        if self.method in ("linear", "karcher") or self.base is None:
            return first
        return [source for source in first if source != self.base]

    def _names(self) -> list[str]:
        """The names that the ingredients will have."""
        return distinct_names([Ingredient(Path(source).name, source) for source in self.sources])

    def _check_tokenizer(self) -> None:
        """Refuse what would change the vocabulary or the template; equal tokenizers need no choice."""
        tokenizer = self.content.get("tokenizer") or {}
        source = self.content.get("tokenizer_source", tokenizer.get("source"))
        if source == "union" or tokenizer.get("tokens"):
            self.refuse(
                "tokenizer_source",
                "a union of vocabularies (`tokenizer_source: union`)",
                ": tokenizers have to be equal",
            )
        if self.content.get("chat_template") not in (None, "auto"):
            self.refuse("chat_template", "`chat_template`", ": set it on the saved tokenizer")

    # Values

    def _value(self, name: str, source: str) -> Any:
        """The value of a parameter for a model: a number, or a mapping of patterns to numbers and lists."""
        if len(self.slices) == 1 and self.slices[0].layers is None:
            return self._of_levels(name, self._levels(name, self.slices[0], source))
        by_slice = [self._of_levels(name, self._levels(name, item, source)) for item in self.slices]
        if len(self.slices) == 1:
            return by_slice[0]
        if all(value == by_slice[0] and not isinstance(value, Mapping) for value in by_slice):
            return by_slice[0]
        patterns: dict[str, Any] = {}
        for item, value in zip(self.slices, by_slice, strict=True):
            of_slice = value if isinstance(value, Mapping) else {"": value}
            layers = item.layers or range(0)
            for layer in layers:
                depth = (layer - layers.start) / max(len(layers) - 1, 1)
                for pattern, number in of_slice.items():
                    text = pattern.removeprefix(LAYERS).removeprefix("*")
                    of_layer = at_depth(number, depth) if isinstance(number, list) else number
                    patterns.setdefault(f"*.layers.{layer}.*{text}", of_layer)
        outside = [value.get("", 0.0) if isinstance(value, Mapping) else value for value in by_slice]
        return {**patterns, "*embed*": outside[0], "": outside[-1]}

    def _levels(self, name: str, item: Slice, source: str) -> list[Any]:
        """The values that are given for a model, the most special first."""
        own = next(given.parameters for given in item.inputs if given.source == source)
        levels = [given[name] for given in (own, item.parameters) if name in given]
        return [*levels, DEFAULTS[name]] if name in DEFAULTS else levels

    def _of_levels(self, name: str, levels: Sequence[Any]) -> Any:
        """The value that the levels give to each tensor: where filters of one leave a gap, the next one counts."""
        patterns: dict[str, Any] = {}
        for level in levels:
            if isinstance(level, list) and level and all(isinstance(item, Mapping) for item in level):
                for item in level:
                    text = item.get("filter")
                    self._add(name, patterns, "" if text in (None, "*") else f"*{text}*", item.get("value"))
            else:
                self._add(name, patterns, "", level)
            if "" in patterns:
                break
        if not patterns:
            return None
        return patterns[""] if list(patterns) == [""] else patterns

    def _add(self, name: str, patterns: dict[str, Any], pattern: str, value: Any) -> None:
        """Add the value for names of a pattern; of a list, the first value counts outside of the layers."""
        if isinstance(value, list):
            if not value or not all(isinstance(item, (int, float)) for item in value):
                raise RecipeError(
                    f"{self.where}: `{name}` is a number or a list of numbers, not {one_line(repr(value))}."
                )
            if len(set(value)) > 1:
                patterns.setdefault(f"{LAYERS}{pattern.removeprefix('*')}" if pattern else LAYERS, list(value))
            value = value[0]
        patterns.setdefault(pattern, value)

    def _weights(self, values: Sequence[Any]) -> Any:
        """The weights of the ingredients: a list, or a mapping by name where they differ between tensors."""
        if any(isinstance(value, Mapping) for value in values):
            return dict(zip(self._names(), values, strict=True))
        return list(values)

    def _renamed(self, name: str, value: Any) -> dict[str, Any]:
        """A parameter with the name that it has here."""
        if name == "filter_wise":
            return {"per": "row"} if value else {}
        if name == "nuslerp_flatten":  # the other parameter says how
            row_wise = self._value("nuslerp_row_wise", self.sources[0])
            return {} if value else {"per": "column" if row_wise else "row"}
        if name == "nuslerp_row_wise":
            return {}
        return {RENAMED.get(name, name): value}


def _line_of(path: str, key: str) -> str:
    """The line of a key in a file, as a part of a message; empty if it is not found."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    for number, line in enumerate(lines, start=1):
        if re.match(rf"[\s-]*\{{?\s*{re.escape(key)}\s*:", line):
            return f", line {number}"
    return ""


def write_mergekit(folder: Path, recipe: Recipe) -> None:
    """Write `mergekit_config.yml`, by which tools on the Hub recognise a merge, if mergekit can make the same model.

    Args:
        folder (`Path`):
            Folder of the soup.
        recipe ([`Recipe`]):
            Its recipe.
    """
    text = dump_mergekit(recipe)
    if text is not None:
        (folder / MERGEKIT_FILE).write_text(text, encoding="utf-8")


def dump_mergekit(recipe: Recipe) -> str | None:
    """The configuration with which mergekit makes the same model; `None` if it cannot.

    Args:
        recipe ([`Recipe`]):
            The recipe of a soup. Weights by module, alignments and statistics estimated again have no equivalent.
    """
    import yaml

    if isinstance(recipe.weights, Mapping):
        return None
    is_plain = recipe.batchnorm is None and not any(not is_identity(order) for order in recipe.alignments.values())
    if recipe.method not in PARAMETERS or not is_plain or recipe.base_inside is not None:
        return None
    params: dict[str, Any] = {}
    for name, value in _with_defaults(recipe, recipe.weights).items():
        theirs = THEIR_NAMES.get(name, name) if recipe.method != "passthrough" else name
        if not isinstance(value, (int, float)) or theirs not in PARAMETERS[recipe.method]:
            return None
        params[theirs] = value
    models = []
    for item, weight in zip(recipe.ingredients, recipe.weights, strict=True):
        if weight:
            own = {"parameters": {"weight": weight}} if "weight" in PARAMETERS[recipe.method] else {}
            models.append({"model": _public(item), **own})
    content: dict[str, Any] = {"merge_method": recipe.method, "models": models}
    if recipe.method in ORDERED:
        content["base_model"] = models[0]["model"]
    elif recipe.base_model is not None and needs_base(recipe.method):
        content["base_model"] = _public(recipe.base_model)
    if params:
        content["parameters"] = params
    if recipe.dtype != "auto":
        content["dtype"] = recipe.dtype
    return yaml.dump(content, Dumper=dumper(), sort_keys=False)


def _with_defaults(recipe: Recipe, weights: Sequence[float]) -> dict[str, Any]:
    """The parameters of a recipe, with the defaults that mergekit does not have."""
    params = dict(recipe.params)
    function = load_function("method", recipe.method)
    if recipe.method == "slerp" and params.get("t") is None:
        params["t"] = weights[-1] / sum(weights)
    for name, parameter in parameters(function).items():
        theirs = THEIR_NAMES.get(name, name)
        if name in ("density", "t") and theirs in PARAMETERS[recipe.method]:
            params.setdefault(name, parameter.default)
    return params


def _public(item: Ingredient) -> str:
    """A Hub id, or the name of a folder without its path."""
    if hub.is_hub_id(item.source):
        return f"{item.source}@{item.revision}" if item.revision else item.source
    return item.name
