"""The recipe file: a complete record of a merge, sufficient to repeat it. No weights are read and nothing is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..checkpoints.checkpoint import ELSEWHERE, MEMORY, PRIVATE
from ..checkpoints.hub_answers import is_commit
from ..checkpoints.store import hub_id, is_address
from ..checkpoints.store_pins import fetch_from_store
from ..errors import RecipeError
from ..options import answers_keywords
from ..plugins import is_code, refuse_code
from ..types import AdapterRecord, Ingredient, OutputRecord, Recipe, plain
from ..untrusted import encodable, is_printable, one_line
from .records import read_batchnorm, read_importance, read_leniently, read_selection, selection_as_dict, take_record
from .strict_yaml import build, dumper, read_yaml


RECIPE_FILE = "soup_recipe.yaml"
BATCHNORM_FILE = "soup_batchnorm.safetensors"
FORMAT = 1  # of the recipe file


def is_recipe(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is a recipe (it names its format) rather than a cook file."""
    return "hf_soup_recipe" in data


@answers_keywords
def load_recipe(source: str | os.PathLike[str], *, allow_code: bool = False) -> Recipe:
    """Read a recipe. Nothing that it names is imported or opened.

    Args:
        source (`str` or `os.PathLike`):
            A `soup_recipe.yaml`, the folder of a soup that holds one, its address on an object store, or the Hub id of
            a soup (`user/soup`, `user/soup@v1`). Relative sources of ingredients are taken from its folder.
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
    if isinstance(source, str) and is_address(source):
        return _load_store_recipe(source, allow_code=allow_code)
    repo_id, revision = hub.split_revision(source)
    if not os.path.exists(source) and hub.split_source(repo_id) and not repo_id.endswith((".yaml", ".yml")):
        return load_hub_recipe(repo_id, hub.resolve(repo_id, revision), allow_code=allow_code)
    path = Path(source)
    return _read(path / RECIPE_FILE if path.is_dir() else path, allow_code=allow_code)


def _load_store_recipe(address: str, *, allow_code: bool) -> Recipe:
    """The recipe of a soup on an object store. Paths of this machine in it are refused."""
    on_hub = hub_id(address)
    if on_hub is not None:
        return load_recipe(on_hub, allow_code=allow_code)
    path = fetch_from_store(address, [RECIPE_FILE, BATCHNORM_FILE]) / RECIPE_FILE
    if not path.is_file():
        raise RecipeError(f"{one_line(address)} has no {RECIPE_FILE}: it is no soup of hf_soup.")
    recipe = _read(path, anchor=False, allow_code=allow_code)
    return _map_ingredients(
        recipe, lambda item: item if is_address(item.source) else _not_here(item, one_line(address))
    )


def load_hub_recipe(repo_id: str, commit: str, *, allow_code: bool = False) -> Recipe:
    """The recipe of a soup on the Hub at one commit. Paths of this machine in it are refused.

    Args:
        repo_id (`str`), commit (`str`):
            Repository of the soup, and its commit.
        allow_code (`bool`, *optional*, defaults to `False`):
            Whether the recipe may name code from elsewhere, as in [`load_recipe`].

    Raises:
        [`RecipeError`]: if there is none, it cannot be read, or has a method that is code from elsewhere.
    """
    path = hub.fetch(repo_id, commit, [RECIPE_FILE, BATCHNORM_FILE]) / RECIPE_FILE
    if not path.is_file():
        raise RecipeError(f"{repo_id} has no {RECIPE_FILE} at {commit[:7]}: it is a model, but not a soup of hf_soup.")
    recipe = _read(path, anchor=False, allow_code=allow_code)
    return _map_ingredients(recipe, lambda item: _not_here(item, repo_id))


def _map_ingredients(recipe: Recipe, change: Callable[[Ingredient], Ingredient]) -> Recipe:
    """The recipe with all of its ingredients changed, and its base model as well."""
    base = recipe.base_model
    if base is not None:
        base = change(base)
    return replace(recipe, ingredients=tuple(map(change, recipe.ingredients)), base_model=base)


def _not_here(item: Ingredient, repo_id: str) -> Ingredient:
    """An ingredient of a published recipe: on the Hub at a commit, or in a place other than this machine."""
    if item.source in (MEMORY, PRIVATE):
        return item
    if item.revision is None:
        return replace(item, source=ELSEWHERE)
    if not is_commit(item.revision) or hub.split_source(item.source) is None:
        where = f"{one_line(repr(item.source))} at {one_line(repr(item.revision))}"
        raise RecipeError(f"{repo_id}: {item.name!r} is {where}, which is not a commit.")
    return item


def _read(path: Path, *, anchor: bool = True, allow_code: bool = False) -> Recipe:
    """Read and check a recipe file.

    Args:
        path (`Path`):
            The file.
        anchor (`bool`, *optional*, defaults to `True`):
            Whether sources are paths from its folder; in a recipe of the Hub they are no paths of this machine.
        allow_code (`bool`, *optional*, defaults to `False`):
            Whether the recipe may name code from elsewhere, as in [`load_recipe`].
    """
    # Aliases are never written, and would let a small file expand to a huge one.
    data = read_yaml(path, aliases=False)
    if not is_recipe(data):
        raise RecipeError(
            f"{path} is not a recipe: it lacks the key `hf_soup_recipe`. A cook file goes to `hf_soup.cook`."
        )
    version = data.pop("hf_soup_recipe")
    # `True` passes `isinstance` as an int, and equals 1.
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise RecipeError(
            f"{path} has recipe format {one_line(version)}; this hf_soup reads up to {FORMAT}. Upgrade hf_soup."
        )
    # A key without a value counts as missing.
    content = {key: value for key, value in data.items() if value is not None}
    selection = take_record(content, "selection", path)
    batchnorm = take_record(content, "batchnorm", path)
    output = take_record(content, "output", path)
    importance = take_record(content, "importance", path)
    adapter = take_record(content, "adapter", path)
    recipe = build(Recipe, content, str(path))
    recipe = replace(
        recipe,
        selection=read_selection(selection),
        batchnorm=read_batchnorm(batchnorm, path),
        importance=read_importance(importance, path),
        adapter=_read_adapter(adapter, path) if adapter else None,
        output=read_leniently(OutputRecord, output),
    )
    if is_code(recipe.method) and not allow_code:
        refuse_code([("method", recipe.method)], str(path))
    _check_files(recipe, path)
    if not anchor:
        return recipe
    return _map_ingredients(recipe, lambda item: _anchor(item, path.parent))


def _read_adapter(content: Any, path: Path) -> AdapterRecord:
    """How a soup was written as an adapter.

    Raises:
        [`RecipeError`]: if the rank is none.
    """
    record = build(AdapterRecord, content, f"{path}: adapter")
    if record.rank is not None and record.rank < 1:
        raise RecipeError(f"{path}: the rank of the adapter is {record.rank}, and a rank is a whole number from 1.")
    return record


def dump_recipe(recipe: Recipe, folder: str | os.PathLike[str] | None = None) -> str:
    """The text of a recipe file.

    Args:
        recipe ([`Recipe`]):
            Recipe to write.
        folder (`str` or `os.PathLike`, *optional*):
            Folder that the file will lie in: sources that are folders are written relative to it. Without it (for a
            recipe that is published) they are written by name alone.
    """
    import yaml

    data: dict[str, Any] = asdict(replace(recipe, selection=None, batchnorm=None, importance={}))
    data["selection"] = selection_as_dict(recipe.selection)
    data["batchnorm"] = {}
    if recipe.batchnorm is not None:
        data["batchnorm"] = recipe.batchnorm.as_dict()
    data["output"] = data["output"] or {}
    data["importance"] = {name: record.as_dict() for name, record in recipe.importance.items()}
    if not recipe.importance:  # so that recipes of other methods do not change
        del data["importance"]
    for name in ("vocabulary", "chat_template", "adapter"):
        if data[name] is None:
            del data[name]
    if not recipe.labels:  # only for aligned ingredients, so that other recipes do not change
        del data["labels"]
    for item in (*data["ingredients"], data["base_model"] or {}):
        if not item.get("tensors"):  # of streamed files alone
            item.pop("tensors", None)
    _shorten_paths(data, folder)
    content = _encodable(plain({"hf_soup_recipe": FORMAT, **data}))
    text: str = yaml.dump(
        content, Dumper=dumper(), sort_keys=False, allow_unicode=True, width=119, default_flow_style=None
    )
    return text


def _shorten_paths(data: dict[str, Any], folder: str | os.PathLike[str] | None) -> None:
    """Shorten the local paths in a recipe's content in place, as documented in [`dump_recipe`]."""
    references = [*data["ingredients"]]
    if data["base_model"] is not None:
        references.append(data["base_model"])
    for item in references:
        item["source"] = _without_root(item["source"], folder)
    for record in (data["selection"], data["batchnorm"], *data.get("importance", {}).values()):
        dataset = record.get("dataset")
        if isinstance(dataset, dict) and isinstance(dataset.get("path"), str):
            dataset["path"] = _without_root(dataset["path"], folder)
    if "file" in data["batchnorm"]:
        data["batchnorm"]["file"] = os.path.basename(data["batchnorm"]["file"])


def _encodable(value: Any) -> Any:
    """The same values without lone surrogates, which UTF-8 files cannot hold."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value


def _without_root(path: str, folder: str | os.PathLike[str] | None) -> str:
    """A local path relative to `folder`, or only its last component; Hub ids and similar sources are unchanged."""
    if is_address(path):
        return path if folder is not None else path.rstrip("/").rpartition("/")[2]
    if not os.path.isabs(path) and not os.path.exists(path):
        return path
    path = os.path.abspath(path)
    if folder is None or is_address(folder):
        return os.path.basename(path)
    path = os.path.relpath(path, os.path.abspath(folder))
    if path.startswith("."):
        return path
    return os.path.join(".", path)  # `runs/run-0` could also be a Hub id


def _check_files(recipe: Recipe, path: Path) -> None:
    """Refuse file names and digests that the types of an [`Ingredient`] allow but other code does not."""
    references = [*recipe.ingredients]
    if recipe.base_model is not None:
        references.append(recipe.base_model)
    for item in references:
        for name, digest in (*item.files.items(), *item.tensors.items()):
            if not _is_inside(name) or not is_printable(digest):
                raise RecipeError(
                    f"{one_line(path)}: `files` of {item.name!r} has {one_line(name)!r}: {one_line(digest)!r}; it "
                    "maps files of the ingredient to digests."
                )


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in a folder or its subfolders."""
    if name.startswith("/") or not is_printable(name):
        return False
    return {"", ".", ".."}.isdisjoint(name.split("/"))


def _anchor(item: Ingredient, folder: Path) -> Ingredient:
    """Convert a path such as `../runs/run-0` to one that is valid anywhere; anything else may be a Hub id."""
    if item.revision or is_address(item.source):
        return item
    is_path = item.source.startswith(".") or (folder / item.source).exists()
    if not is_path:
        return item
    return replace(item, source=os.path.abspath(folder / item.source))
