"""The recipe file: what was done, exactly enough to do it again. It reads no weights and runs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import typing
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from ..checkpoints import hub
from ..checkpoints.checkpoint import ELSEWHERE, MEMORY, PRIVATE
from ..checkpoints.hub_answers import is_commit
from ..errors import RecipeError
from ..plugins import is_code, refuse_code
from ..types import (
    BatchNormRecord,
    DataDescription,
    Folds,
    Holdout,
    Ingredient,
    OutputRecord,
    Recipe,
    Selection,
    Trial,
    plain,
)
from ..untrusted import encodable, is_printable, one_line
from .strict_yaml import build, dumper, read_yaml


RECIPE_FILE = "soup_recipe.yaml"
BATCHNORM_FILE = "soup_batchnorm.safetensors"
FORMAT = 1  # of the recipe file
# Keys of `selection` that are there if anything was scored, whatever their values.
WHERE_SCORED = ("metric", "higher_is_better", "split", "dataset", "score", "trials")
T = TypeVar("T")


def is_recipe(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is a recipe (it names its format) rather than a cook file."""
    return "hf_soup_recipe" in data


def load_recipe(source: str | os.PathLike[str], *, allow_code: bool = False) -> Recipe:
    """Read a recipe. Nothing that it names is imported or opened.

    Args:
        source (`str` or `os.PathLike`):
            A `soup_recipe.yaml`, the folder of a soup that holds one, or the Hub id of a soup (`user/soup`,
            `user/soup@v1`). Relative sources of ingredients are taken from its folder.
        allow_code (`bool`, *optional*, defaults to `False`):
            Take a method that is code from outside of this package (`package.module:function`), which is imported and
            called when the soup is cooked. Without it such a recipe is refused, whoever wrote it.

    Returns:
        [`Recipe`]

    Raises:
        [`RecipeError`]: if it cannot be read, has an unknown key, a value of the wrong type, or a method that is code
            from elsewhere.
        [`IngredientError`]: if it is neither a file or folder here nor a repository that you may see.
    """
    repo_id, revision = hub.split_revision(source)
    if not os.path.exists(source) and hub.split_source(repo_id) and not repo_id.endswith((".yaml", ".yml")):
        return load_hub_recipe(repo_id, hub.resolve(repo_id, revision), allow_code=allow_code)
    path = Path(source)
    return _read(path / RECIPE_FILE if path.is_dir() else path, allow_code=allow_code)


def load_hub_recipe(repo_id: str, commit: str, *, allow_code: bool = False) -> Recipe:
    """The recipe of a soup on the Hub at one commit. It names no file of this machine, whoever wrote it.

    Args:
        repo_id (`str`), commit (`str`):
            Where.
        allow_code (`bool`, *optional*, defaults to `False`):
            As of [`load_recipe`].

    Raises:
        [`RecipeError`]: if there is none, it cannot be read, or has a method that is code from elsewhere.
    """
    path = hub.fetch(repo_id, commit, [RECIPE_FILE, BATCHNORM_FILE]) / RECIPE_FILE
    if not path.is_file():
        raise RecipeError(f"{repo_id} has no {RECIPE_FILE} at {commit[:7]}: it is a model, and no soup of hf_soup.")
    recipe = _read(path, anchor=False, allow_code=allow_code)
    base = recipe.base_model and _not_here(recipe.base_model, repo_id)
    return replace(recipe, ingredients=tuple(_not_here(item, repo_id) for item in recipe.ingredients), base_model=base)


def _not_here(item: Ingredient, repo_id: str) -> Ingredient:
    """An ingredient of a published recipe: on the Hub at a commit, or somewhere that is not this machine."""
    if item.source in (MEMORY, PRIVATE):
        return item
    if item.revision is None:
        return replace(item, source=ELSEWHERE)
    if not is_commit(item.revision) or hub.split_source(item.source) is None:
        where = f"{one_line(repr(item.source))} at {one_line(repr(item.revision))}"
        raise RecipeError(f"{repo_id}: {item.name!r} is {where}, which is no commit.")
    return item


def _read(path: Path, *, anchor: bool = True, allow_code: bool = False) -> Recipe:
    data = read_yaml(path, aliases=False)
    if not is_recipe(data):
        raise RecipeError(
            f"{path} is no recipe: it lacks the key `hf_soup_recipe`. A cook file goes to `hf_soup.cook`."
        )
    version = data.pop("hf_soup_recipe")
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise RecipeError(
            f"{path} has recipe format {one_line(version)}; this hf_soup reads up to {FORMAT}. Upgrade hf_soup."
        )
    content = {key: value for key, value in data.items() if value is not None}
    selection = _record(content, "selection", path)
    batchnorm = _record(content, "batchnorm", path)
    output = _record(content, "output", path)
    recipe = build(Recipe, content, str(path))
    recipe = replace(
        recipe,
        selection=read_selection(selection),
        batchnorm=_read_batchnorm(batchnorm, path),
        output=_read_leniently(OutputRecord, output),
    )
    if is_code(recipe.method) and not allow_code:
        refuse_code([("method", recipe.method)], str(path))
    _check_files(recipe, path)
    if not anchor:
        return recipe
    base = recipe.base_model and _anchor(recipe.base_model, path.parent)
    return replace(
        recipe, ingredients=tuple(_anchor(item, path.parent) for item in recipe.ingredients), base_model=base
    )


def _record(content: dict[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """Take out of a recipe what only records how it came about, which is read more leniently than the rest.

    Raises:
        [`RecipeError`]: if it is no mapping, or describes a data set by something else than texts.
    """
    record = content.pop(key, {})
    if not isinstance(record, Mapping):
        raise RecipeError(f"{one_line(path)}: `{key}`: input should be an object, found {one_line(repr(record))}")
    dataset = record.get("dataset") or {}
    texts = ("path", "fingerprint", "inputs")
    # a comparison relies on the fingerprints
    if not isinstance(dataset, Mapping) or not all(isinstance(dataset.get(text) or "", str) for text in texts):
        raise RecipeError(f"{one_line(path)}: `{key}.dataset` does not describe a data set by its fingerprint.")
    return record


def _read_batchnorm(content: Mapping[str, Any], path: Path) -> BatchNormRecord | None:
    """Where the statistics of BatchNorm come from; the file that holds them lies beside the recipe."""
    if not content:
        return None
    flat = {key: value for key, value in content.items() if key != "dataset"}
    record = _read_leniently(BatchNormRecord, flat) or BatchNormRecord()
    dataset = _read_leniently(DataDescription, content.get("dataset") or {}) or DataDescription()
    file = str(_beside(path, content["file"])) if "file" in content else None
    return replace(record, dataset=dataset, file=file)


def dump_recipe(recipe: Recipe, folder: str | os.PathLike[str] | None = None) -> str:
    """The text of a recipe file.

    Args:
        recipe ([`Recipe`]):
            What to write.
        folder (`str` or `os.PathLike`, *optional*):
            Where the file will lie: sources that are folders are written relative to it. Without it (a recipe that is
            published) they are written by name alone.
    """
    import yaml

    data: dict[str, Any] = asdict(replace(recipe, selection=None, batchnorm=None))
    data["selection"] = selection_as_dict(recipe.selection)
    data["batchnorm"] = {} if recipe.batchnorm is None else recipe.batchnorm.as_dict()
    data["output"] = data["output"] or {}
    if not recipe.labels:  # only of aligned ingredients: other recipes are as before there were any
        del data["labels"]
    for item in filter(None, [*data["ingredients"], data["base_model"]]):
        item["source"] = _without_root(item["source"], folder)
    for key in ("selection", "batchnorm"):
        dataset = data[key].get("dataset")
        if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
            dataset["path"] = _without_root(dataset["path"], folder)
    if "file" in data["batchnorm"]:
        data["batchnorm"]["file"] = os.path.basename(data["batchnorm"]["file"])
    content = _encodable(plain({"hf_soup_recipe": FORMAT, **data}))
    text: str = yaml.dump(
        content, Dumper=dumper(), sort_keys=False, allow_unicode=True, width=119, default_flow_style=None
    )
    return text


def _encodable(value: Any) -> Any:
    """The same values without lone surrogates, which no file in UTF-8 can hold."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def _without_root(path: str, folder: str | os.PathLike[str] | None) -> str:
    """A local path relative to `folder`, or its last part alone; Hub ids and the like stay as they are."""
    if not os.path.isabs(path) and not os.path.exists(path):
        return path
    path = os.path.abspath(path)
    if folder is None:
        return os.path.basename(path)
    path = os.path.relpath(path, os.path.abspath(folder))
    return path if path.startswith(".") else os.path.join(".", path)  # `runs/run-0` could be a Hub id


def selection_as_dict(selection: Selection | None) -> dict[str, Any]:
    """How a recipe was found, as its file holds it: without what is not known.

    Args:
        selection ([`Selection`], *optional*):
            Of the recipe; of none the result is empty.
    """
    if selection is None:
        return {}
    content = asdict(selection)
    content["trials"] = [_known_fields(trial) for trial in content["trials"]]
    content["dataset"] = {} if selection.dataset is None else selection.dataset.as_dict()
    if selection.score is None and not selection.trials:
        for key in WHERE_SCORED:
            del content[key]
    for key, value in content.items():
        if isinstance(value, tuple):
            content[key] = list(value)
    return {key: value for key, value in content.items() if key in WHERE_SCORED or _is_known(key, value)}


def _is_known(key: str, value: Any) -> bool:
    """Whether a file has a field: `params` always, others unless they are empty."""
    return key == "params" or value not in (None, "", {})


def _known_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value is not None}


def read_selection(content: Mapping[str, Any]) -> Selection | None:
    """How a recipe was found, from its file; what is not as this version writes it is left out.

    A selection decides nothing when a recipe is cooked again, so a file of another version, or of a stranger, may say
    anything here without being refused.

    Args:
        content (`Mapping`):
            What the file holds under `selection`.
    """
    if not isinstance(content.get("strategy"), str):
        return None
    rows = content.get("trials")
    trials = [_read_leniently(Trial, row) for row in rows] if isinstance(rows, list) else []
    flat = {key: value for key, value in content.items() if key not in ("dataset", "trials", "folds", "holdout")}
    selection = _read_leniently(Selection, flat)
    return selection and replace(
        selection,
        dataset=_read_leniently(DataDescription, content.get("dataset") or None),
        trials=tuple(trial for trial in trials if trial is not None),
        folds=_read_leniently(Folds, content.get("folds")),
        holdout=_read_leniently(Holdout, content.get("holdout")),
    )


def _read_leniently(cls: type[T], content: Any) -> T | None:
    """A value from a file: fields of another type are as if they were not there; `None` if it lacks one it needs."""
    import pydantic

    if not isinstance(content, Mapping):
        return None
    readable = {}
    for name, hint in typing.get_type_hints(cls).items():
        # by way of JSON, where strict types still take a list for a tuple and 1 for 1.0
        with contextlib.suppress(KeyError, TypeError, ValueError, pydantic.ValidationError):
            value = pydantic.TypeAdapter(hint).validate_json(json.dumps(content[name], allow_nan=False), strict=True)
            readable[name] = value
    with contextlib.suppress(TypeError):  # a field without a default is missing
        return cls(**readable)
    return None


def _check_files(recipe: Recipe, path: Path) -> None:
    """Refuse file names and digests that the type of an [`Ingredient`] leaves open and other code relies on."""
    for item in filter(None, [*recipe.ingredients, recipe.base_model]):
        for name, digest in item.files.items():
            if not _is_inside(name) or not is_printable(digest):
                raise RecipeError(
                    f"{one_line(path)}: `files` of {item.name!r} has {one_line(name)!r}: {one_line(digest)!r}; it "
                    "maps files of the ingredient to digests."
                )


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in a folder or below it."""
    return not name.startswith("/") and not {"", ".", ".."} & set(name.split("/")) and is_printable(name)


def _beside(recipe: Path, name: Any) -> Path:
    """A file in the recipe's own folder; a recipe of a stranger may name no other."""
    if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(".safetensors"):
        raise RecipeError(
            f"{recipe}: `batchnorm.file` is a safetensors file beside the recipe, not {one_line(repr(name))}."
        )
    return recipe.parent.absolute() / name


def _anchor(item: Ingredient, folder: Path) -> Ingredient:
    """Turn `../runs/run-0` into a path that is right from anywhere; what is no path there may be a Hub id."""
    if item.revision or not (item.source.startswith(".") or (folder / item.source).exists()):
        return item
    return replace(item, source=os.path.abspath(folder / item.source))
