"""YAML files <-> values: the recipe (what was done) and the cook file (what to do). Unknown keys are errors.

It reads no weights and runs nothing. In both files `1e-5` is a number and a key that stands twice is an error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from .errors import RecipeError, did_you_mean
from .lookup import chooses
from .types import Ingredient, Recipe, plain


RECIPE_FILE = "soup_recipe.yaml"
FORMAT = 1  # of the recipe file
T = TypeVar("T")
_NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),  # 1e-5, which plain YAML takes for a word
    list("-+0123456789."),
)
_STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class DataPart:
    """One named set of examples; what is left out is taken from the `data` section."""

    path: str | None = None
    name: str | None = None
    split: str | None = None
    transform: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Data:
    """The `data` section: where the examples are and which split plays which part."""

    path: str
    name: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    shifted: dict[str, DataPart] = field(default_factory=dict)
    label_column: str | None = None
    text_columns: list[str] | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class PretrainStage:
    """The `pretrain` section: a model built from a config and trained, where there is no checkpoint to start from."""

    config: dict[str, Any]
    data: str = "train"
    processor: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    training_args: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class SweepStage:
    """The `sweep` section: fine-tunes of the base model."""

    space: dict[str, Any] | list[dict[str, Any]]
    n_runs: int | None = None
    seed: int = 0
    head: str = "auto"
    init_seed: int = 0
    probe_args: dict[str, Any] = field(default_factory=dict)
    keep: str = "best"
    training_args: dict[str, Any] = field(default_factory=dict)
    on_error: str = "continue"
    executor: str = "local"
    resources: dict[str, float] = field(default_factory=dict)
    push_runs: bool | str = False
    private: bool | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class MergeStage:
    """The `merge` section: who goes into the soup and how."""

    strategy: str | None = None
    method: str = "linear"
    weights: list[float] | dict[str, list[float] | float] | None = None
    metric: str | None = None
    dtype: str = "auto"
    seed: int = 0
    align_labels: bool = False
    folds: int | None = None
    holdout: float | None = None
    executor: str = "local"
    params: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class CompareStage:
    """The `compare` section: what the comparison on the test sets reports."""

    metrics: list[str] = field(default_factory=list)
    ensembles: list[str] | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class PushStage:
    """The `push` section: where on the Hub the soup goes."""

    repo_id: str
    private: bool | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class CookFile:
    """What `hf-soup cook` does, stage by stage; a stage that is left out is not run.

    Raises:
        [`RecipeError`]: if the stages do not fit together.
    """

    output_dir: str
    base_model: str | None = None
    task: str = "auto"
    data: Data | None = None
    pretrain: PretrainStage | None = None
    sweep: SweepStage | None = None
    ingredients: list[str] = field(default_factory=list)
    merge: MergeStage | None = None
    compare: CompareStage | None = None
    push: PushStage | None = None

    __pydantic_config__ = _STRICT

    def __post_init__(self):
        if bool(self.sweep) == bool(self.ingredients):
            raise RecipeError("a cook file has either a `sweep` or a list of `ingredients`, and not both.")
        if self.sweep and bool(self.base_model) == bool(self.pretrain):
            raise RecipeError(
                "a `sweep` needs either a `base_model` or a `pretrain` section that makes one, and not both."
            )
        if self.merge and self.merge.weights is not None and self.merge.strategy not in (None, "weighted"):
            raise RecipeError("`merge` has either `weights` or a `strategy` that finds them, and not both.")
        own = {item.name for item in dataclasses.fields(MergeStage)} | {"evaluator", "base_model"}
        for name in sorted(own & set(self.merge.params if self.merge else ())):
            raise RecipeError(f"`merge.params.{name}` is no parameter of a method or strategy: write `merge.{name}`.")
        strategic = self.merge is not None and chooses(self.merge.strategy)
        wanting = [name for name in ("sweep", "pretrain", "compare") if getattr(self, name) is not None]
        if (wanting or strategic) and self.data is None:
            raise RecipeError(f"`{(wanting or ['merge.strategy'])[0]}` needs a `data` section.")
        if (self.compare or self.push) and self.merge is None:
            raise RecipeError("`compare` and `push` need a `merge` section; `merge: {}` is a uniform soup.")
        names = {"pretrain", "train", "validation", "test"} & set(self.data.shifted if self.data else ())
        if names:
            raise RecipeError(f"`data.shifted.{names.pop()}`: call it otherwise, that is a part of the data.")
        if self.data and self.data.validation == self.data.test:
            raise RecipeError(
                f"`data.validation` and `data.test` are both {self.data.test!r}: what selects may not report. Use two."
            )


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Raises:
        [`RecipeError`]: if it is absent, no YAML, no mapping, or a key stands twice.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text file'}.") from None
    try:
        data = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds {type(data).__name__}, not a mapping of keys to values.")
    return data


def is_recipe(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is a recipe (it names its format) rather than a cook file."""
    return "hf_soup_recipe" in data


def load_cook_file(path: str | os.PathLike, overrides: Sequence[str] = ()) -> CookFile:
    """Read and check a cook file.

    Args:
        path (`str` or `os.PathLike`):
            A YAML file; what its keys mean is in `docs/cook_file.md`.
        overrides (`Sequence[str]`, *optional*):
            Such as `"data.path=my_data"` or `"sweep.n_runs=4"`: values to use instead of those in the file.

    Raises:
        [`RecipeError`]: with the path of the first wrong key or value, and the nearest known key.
    """
    data = read_yaml(path)
    for item in overrides:
        _override(data, item)
    return _build(CookFile, data, str(path))


def load_recipe(path: str | os.PathLike) -> Recipe:
    """Read a recipe.

    Args:
        path (`str` or `os.PathLike`):
            A `soup_recipe.yaml`, or the folder of a soup that holds one. Relative sources are taken from its folder.

    Returns:
        [`Recipe`]

    Raises:
        [`RecipeError`]: if it cannot be read, has an unknown key or a value of the wrong type.
    """
    path = Path(path)
    path = path / RECIPE_FILE if path.is_dir() else path
    data = read_yaml(path)
    if not is_recipe(data):
        raise RecipeError(
            f"{path} is no recipe: it lacks the key `hf_soup_recipe`. A cook file goes to `hf_soup.cook`."
        )
    version = data.pop("hf_soup_recipe")
    if version != FORMAT:
        raise RecipeError(f"{path} has recipe format {version}; this hf_soup reads format {FORMAT}. Upgrade hf_soup.")
    recipe = _build(Recipe, data, str(path))
    if "file" in recipe.batchnorm:
        recipe = replace(recipe, batchnorm={**recipe.batchnorm, "file": str(_beside(path, recipe.batchnorm["file"]))})
    base = recipe.base_model and _anchor(recipe.base_model, path.parent)
    return replace(
        recipe, ingredients=tuple(_anchor(item, path.parent) for item in recipe.ingredients), base_model=base
    )


def dump_recipe(recipe: Recipe, folder: str | os.PathLike | None = None) -> str:
    """The text of a recipe file.

    Args:
        recipe ([`Recipe`]):
            What to write.
        folder (`str` or `os.PathLike`, *optional*):
            Where the file will lie: sources that are folders are written relative to it. Without it (a recipe that is
            published) they are written by name alone.
    """
    import yaml

    data = asdict(recipe)
    for item in filter(None, [*data["ingredients"], data["base_model"]]):
        item["source"] = _without_root(item["source"], folder)
    for part in ("selection", "batchnorm"):
        dataset = data[part].get("dataset") or {}
        if dataset.get("path"):
            dataset["path"] = _without_root(dataset["path"], folder)
    if "file" in data["batchnorm"]:
        data["batchnorm"]["file"] = os.path.basename(data["batchnorm"]["file"])
    layout = {"sort_keys": False, "allow_unicode": True, "width": 119, "default_flow_style": None}
    return yaml.dump(plain({"hf_soup_recipe": FORMAT, **data}), Dumper=_dumper(), **layout)


def _without_root(path: str, folder: str | os.PathLike | None) -> str:
    """A local path relative to `folder`, or its last part alone; Hub ids and the like stay as they are."""
    if not os.path.isabs(path) and not os.path.exists(path):
        return path
    path = os.path.abspath(path)
    if folder is None:
        return os.path.basename(path)
    path = os.path.relpath(path, os.path.abspath(folder))
    return path if path.startswith(".") else os.path.join(".", path)  # `runs/run-0` could be a Hub id


def _beside(recipe: Path, name: Any) -> Path:
    """A file in the recipe's own folder; a recipe of a stranger may name no other."""
    if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(".safetensors"):
        raise RecipeError(f"{recipe}: `batchnorm.file` is a safetensors file beside the recipe, not {name!r}.")
    return recipe.parent.absolute() / name


def read_value(text: str) -> Any:
    """One value as YAML has it, with numbers as everybody writes them.

    Raises:
        [`RecipeError`]: if it is no YAML.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r} is not valid YAML: {error}") from None


def _override(data: dict[str, Any], item: str) -> None:
    """Set `a.b.c=value` in nested mappings; the value is read as YAML."""
    keys, equals, value = item.partition("=")
    *parents, last = keys.split(".")
    if not equals or not all([*parents, last]):
        raise RecipeError(f"{item!r} sets nothing: write KEY=VALUE, such as data.path=my_data.")
    for key in parents:
        data[key] = {} if data.get(key) is None else data[key]
        if not isinstance(data[key], dict):
            raise RecipeError(f"{item!r}: `{key}` is a {type(data[key]).__name__} in the file; replace it as a whole.")
        data = data[key]
    data[last] = read_value(value)


def _anchor(item: Ingredient, folder: Path) -> Ingredient:
    """Turn `../runs/run-0` into a path that is right from anywhere; what is no path there may be a Hub id."""
    if item.revision or not (item.source.startswith(".") or (folder / item.source).exists()):
        return item
    return replace(item, source=os.path.abspath(folder / item.source))


def _build(cls: type[T], data: Mapping[str, Any], path: str) -> T:
    import pydantic

    try:
        # by way of JSON, where strict types still take a list for a tuple and 1 for 1.0
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(data))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except (TypeError, ValueError) as error:
        if not isinstance(error, pydantic.ValidationError):
            raise RecipeError(
                f"{path} holds something else than numbers, strings, lists and mappings: {error}"
            ) from None
        raise RecipeError(f"{path}: " + "; ".join(_explain(cls, item) for item in error.errors()[:5])) from None


def _explain(cls: type, error: Mapping[str, Any]) -> str:
    place = [item for item in error["loc"] if "[" not in str(item)] or ["file"]  # without pydantic's names of types
    *parents, last = place
    where = ".".join(map(str, place))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields_at(cls, parents)
        return (
            f"unknown key `{last}`"
            + (f" in `{'.'.join(map(str, parents))}`" if parents else "")
            + did_you_mean(last, known)
        )
    if error["type"] in ("missing", "missing_argument"):
        return f"the key `{where}` is missing"
    return f"`{where}`: {error['msg'][0].lower()}{error['msg'][1:]}, found {error['input']!r}"


def _fields_at(cls: Any, keys: list[Any]) -> list[str]:
    """The field names of the dataclass that lies below `keys`, followed through optional, list and mapping types."""
    for key in keys:
        within = [item for item in typing.get_args(cls) if item is not Ellipsis]
        hint = typing.get_type_hints(cls)[key] if dataclasses.is_dataclass(cls) else within[-1]
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        cls = inner[0] if type(None) in typing.get_args(hint) else hint
    return [item.name for item in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _loader() -> type:
    """PyYAML's safe loader with numbers as everybody writes them, no dates, and no key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key.value, str):
                    raise yaml.constructor.ConstructorError(None, None, "a key is a word, not a list", key.start_mark)
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    dates = "tag:yaml.org,2002:timestamp"
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != dates]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(*_NUMBER)
    return Loader


def _dumper() -> type:
    """PyYAML's safe dumper, which puts quotes around a string that our loader would take for a number."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_implicit_resolver(*_NUMBER)
    return Dumper
