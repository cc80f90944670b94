"""Configurations of mergekit as cook files: stages, models and parameters. `mergekit_values.py` has the values.

Settings without an equivalent raise an error that names them. Nothing is merged here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..checkpoints.hub import split_revision
from ..checkpoints.source import distinct_names, short_name
from ..checkpoints.vocabularies import BASE, UNION
from ..errors import RecipeError, did_you_mean
from ..types import Ingredient
from ..untrusted import one_line
from ..yaml_text import parse_yaml
from .chat_template import TEMPLATES, is_template
from .mergekit_values import of_levels, of_slices


KEYS = (
    *("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "name"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
RENAMED = {"lambda": "scale", "filter_wise": "per", "nuslerp_row_wise": "per", "nuslerp_flatten": "per"}
OF_EACH = ("weight", "density")  # parameters that may differ between models
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
# parameters of any method; mergekit ignores those of other methods, and some save memory
KNOWN = {name for names in PARAMETERS.values() for name in names} | {"int8_mask", "normalize_weights", "eps"}
# method and parameter -> the only value with an equivalent
SAME = {("multislerp", "normalize_weights"): True} | {
    (method, "rescale"): False for method in ("ties", "breadcrumbs", "breadcrumbs_ties")
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
            Numbers of the layers; empty for all.
    """

    inputs: list[Input]
    parameters: Mapping[str, Any]
    layers: range = range(0)


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


def layers_of(documents: Sequence[Mapping[str, Any]], where: str) -> dict[str, int]:
    """The number of layers that the configurations say their models have, where they have slices.

    Args:
        documents (`Sequence[Mapping[str, Any]]`):
            Configurations that were converted without an error.
        where (`str`):
            The file, for error messages.

    Returns:
        `dict[str, int]`: model -> number of its layers; without models that an earlier stage makes.
    """
    made: dict[str, str] = {}
    found = {}
    for document in documents:
        converter = _Converter(document, where, made)
        layers = converter.slices[-1].layers.stop
        for source in converter.sources:
            if layers and source not in made:
                found[source] = layers
        if "name" in document:
            made[document["name"]] = document["name"]
    return found


class _Converter:
    """The conversion of one configuration; the arguments are those of [`as_cook_file`]."""

    def __init__(self, content: Mapping[str, Any], where: str, made: Mapping[str, str]):
        self.content, self.where, self.made = content, where, made
        self.method = content["merge_method"]
        for key in content:
            if key not in KEYS:
                self.refuse(str(key), f"`{key}`", did_you_mean(str(key), KEYS))
        if not isinstance(self.method, str) or self.method not in PARAMETERS:
            self.refuse("merge_method", f"merge_method: {self.method}", did_you_mean(str(self.method), PARAMETERS))
        self.tokenizer = self._tokenizer()
        self.template = self._template()
        self.shared = self._parameters(content.get("parameters"))
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
        if self.template is not None:
            merge["chat_template"] = self.template
        needs_base = self.method not in ORDERED and self.method not in ("linear", "karcher")
        if self.tokenizer is not None:
            merge["vocabulary"] = self._vocabulary()
            needs_base = True  # its rows come before those of the models
        if self.base is not None and needs_base:
            cook["base_model"] = self.base
        return cook

    # Models

    def _slices(self) -> list[Slice]:
        """The slices; one without layers if there is a list of models."""
        if "models" in self.content and "slices" in self.content:
            self.refuse("slices", "`models` beside `slices`")
        if "models" in self.content:
            return [Slice([self._input(item, ("model", "parameters")) for item in self._list("models")], {})]
        slices = []
        for item in self._list("slices"):
            self._check_keys(item, ("sources", "parameters"))
            sources = item.get("sources")
            if not isinstance(sources, list) or not sources or not all(isinstance(one, Mapping) for one in sources):
                self.refuse("slices", "a slice without `sources`")
            inputs = [self._input(source, ("model", "parameters", "layer_range")) for source in sources]
            ranges = [source.get("layer_range") for source in sources]
            if any(bounds != ranges[0] for bounds in ranges):
                self.refuse("layer_range", "a slice of different layers", ": stack layers with mergekit")
            slices.append(Slice(inputs, self._parameters(item.get("parameters")), self._layers(ranges[0])))
        place = 0
        for slice_ in slices:
            if slice_.layers.start != place:
                what = f"layer {slice_.layers.start} in place {place}"
                self.refuse("layer_range", what, ": stack layers with mergekit")
            place = slice_.layers.stop
        return slices

    def _layers(self, bounds: Any) -> range:
        """The layers from the first to the last but one of the bounds."""
        is_pair = isinstance(bounds, list) and len(bounds) == 2
        if not is_pair or not all(isinstance(bound, int) for bound in bounds) or not 0 <= bounds[0] < bounds[1]:
            self.refuse("slices", f"a slice without a `layer_range` such as [0, 12] ({bounds!r})")
        return range(*bounds)

    def _list(self, key: str) -> list[Any]:
        items = self.content.get(key)
        if not isinstance(items, list) or not items or not all(isinstance(item, Mapping) for item in items):
            raise RecipeError(f"{self.where}: `{key}` is a list of models, and is missing or empty.")
        return items

    def _parameters(self, value: Any) -> Mapping[str, Any]:
        """A mapping of parameters, all of which are known."""
        if value is not None and not isinstance(value, Mapping):
            raise RecipeError(f"{self.where}: `parameters` is a mapping, not {one_line(repr(value))}.")
        for name, given in (value or {}).items():
            expected = SAME.get((self.method, name))
            if name not in KNOWN or (expected is not None and given is not expected):
                self.refuse(str(name), f"`{name}` of {self.method}", did_you_mean(str(name), KNOWN))
        return value or {}

    def _check_keys(self, item: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in item:
            if key not in keys:
                self.refuse(str(key), f"`{key}` of a slice or model", did_you_mean(str(key), keys))

    def _input(self, item: Mapping[str, Any], keys: Sequence[str]) -> Input:
        self._check_keys(item, keys)
        return Input(self._source(item.get("model")), self._parameters(item.get("parameters")))

    def _source(self, model: Any) -> str:
        """Folder or Hub id of a model; the soup of an earlier stage for its name."""
        if isinstance(model, Mapping):
            if model.get("lora"):  # the adapter says what its model is
                return self._source(model["lora"])
            inner = model.get("model", model)
            if isinstance(inner, Mapping):
                path, revision = inner.get("path"), inner.get("revision")
                inner = f"{path}@{revision}" if revision else path
            model = inner
        if not isinstance(model, str) or not model:
            raise RecipeError(f"{self.where}: a model is a path or a Hub id, not {one_line(repr(model))}.")
        if "+" in model and not os.path.exists(model):
            model = model.rpartition("+")[2]
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
        named = []
        for source in self.sources:
            place, _ = split_revision(source)
            named.append(Ingredient(short_name(place), place))
        return distinct_names(named)

    def _vocabulary(self) -> str:
        """The vocabulary as it is named here: `"union"`, or the model whose tokenizer is taken."""
        if self.tokenizer == UNION:
            return UNION
        source = self.base or self.sources[0] if self.tokenizer == "base" else self._source(self.tokenizer)
        if source == self.base:
            return BASE
        if source not in self.sources:
            self.refuse("tokenizer_source", f"tokenizer_source: {self.tokenizer}", ": it is one of the models merged")
        return self._names()[self.sources.index(source)]

    def _tokenizer(self) -> str | None:
        """Where the tokenizer comes from; what else would change it is refused."""
        tokenizer = self.content.get("tokenizer") or {}
        if not isinstance(tokenizer, Mapping):
            raise RecipeError(f"{self.where}: `tokenizer` is a mapping, not {one_line(repr(tokenizer))}.")
        source = self.content.get("tokenizer_source", tokenizer.get("source"))
        if tokenizer.get("tokens"):
            self.refuse("tokens", "`tokens` of `tokenizer`", ": rows of tokens come from the models that have them")
        for key, value in tokenizer.items():
            if key not in ("source", "tokens") and value is not None:
                self.refuse(str(key), f"`{key}` of `tokenizer`", did_you_mean(str(key), ("source", "tokens")))
        if source is not None and not isinstance(source, str):
            source = self._source(source)
        return source

    def _template(self) -> str | None:
        """The chat template as Jinja; `None` for that of an ingredient."""
        template = self.content.get("chat_template")
        if template in (None, "auto"):
            return None
        if isinstance(template, str) and is_template(template):
            return template
        if not isinstance(template, str) or template not in TEMPLATES:
            self.refuse("chat_template", f"chat_template: {template}", ": give its text, as Jinja")
        return TEMPLATES[template]

    def _value(self, name: str, source: str) -> Any:
        """The value of a parameter for a model: a number, or a mapping of patterns to numbers and lists."""
        by_slice = []
        for item in self.slices:
            own = next(given.parameters for given in item.inputs if given.source == source)
            levels = [given[name] for given in (own, item.parameters, self.shared) if name in given]
            if name in DEFAULTS:
                levels.append(DEFAULTS[name])
            by_slice.append(of_levels(levels, f"{self.where}: `{name}`"))
        if len(by_slice) == 1:
            return by_slice[0]
        return of_slices(by_slice, [len(item.layers) for item in self.slices])

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
            if value:
                return {}
            row_wise = self._value("nuslerp_row_wise", self.sources[0])
            return {"per": "column" if row_wise else "row"}
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
