"""Conversion of an ingredient's source to a `Checkpoint`: its configuration and the headers of its weights, pinned.

A source is a folder, a Hub id (`user/run1`, `user/run1@v1.0`, `user/runs/checkpoint-9`), a loaded model, a state dict
with its config, an `Ingredient`, or anything with `.as_ingredient()`. Except for pickles, only the headers of weight
files are read here; weights on the Hub are downloaded at the first read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError, RecipeError, SoupError, listed
from ..threads import side_by_side
from ..types import Ingredient
from ..untrusted import as_error, one_line
from . import hub
from .adapter import is_adapter, open_adapter, open_peft_model
from .checkpoint import ELSEWHERE, MEMORY, PRIVATE, Checkpoint
from .companion_files import MODULES, SortedFiles, is_of_training, sort_files, without_links, without_unreadable
from .content import file_state
from .distributed_checkpoint import find_distributed, open_distributed
from .folder import checkpoint_of_trainer, has_weights, pickled_files, read_config, read_pickles, read_specs
from .hub_pins import pin_repository
from .inside import contents_of
from .memory import plain_model
from .opened_tensors import open_model, open_pickled_state, open_state, open_tensors
from .other_contents import ADAPTER, CHECKPOINT, refuse_pickle
from .reader import SAFE_WEIGHTS, TensorSpec, read_tensor
from .remote_files import RemoteFiles
from .shards import read_headers
from .store import hub_id, is_address
from .store_pins import pin_store, store_files
from .subfolders import fit_subfolders, subfolder_prefix


if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    OpenBase = Callable[[str], Checkpoint]

STATES = ("stat:", "etag:")
LEFT_SHOWN = 6  # skipped files that are listed


def open_checkpoint(
    source: Any,
    *,
    name: str | None = None,
    config: PretrainedConfig | Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Open one ingredient.

    Args:
        source (`str`, `os.PathLike`, [`Ingredient`], `transformers.PreTrainedModel` or `Mapping[str, torch.Tensor]`):
            Source of the weights.
        name (`str`, *optional*):
            Name of the ingredient; by default that of the folder or repository, or the class of a model.
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Configuration of a state dict, which does not contain one.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Read `pytorch_model.bin` where there are no safetensors weights, with `weights_only=True`.

    Returns:
        [`Checkpoint`]: pinned to the current content.

    Raises:
        [`IngredientError`]: if it does not exist, is empty, corrupt or pickled, or cannot be fetched.
    """
    return _find(source, name, config, allow_pickle)()


def _open_base_of_adapter(source: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Open the base model of an adapter, which has to be a whole model."""
    return _find(source, None, None, allow_pickle, _refuse_another_base)()


def _refuse_another_base(source: str) -> Checkpoint:
    raise IngredientError(
        f"it is an adapter itself, of {one_line(source)}. Merge it into that first: `PeftModel.merge_and_unload()`."
    )


def _find(
    source: Any, name: str | None, config: Any, allow_pickle: bool, open_base: OpenBase | None = None
) -> Callable[[], Checkpoint]:
    """Do the slow reading from a disk or server, and return a function that opens the ingredient.

    This function may run in several threads at once. The one that it returns may not, because it imports transformers.
    """
    open_base = open_base or partial(_open_base_of_adapter, allow_pickle=allow_pickle)
    if isinstance(source, Checkpoint):  # opened before, with information that only its owner has
        return lambda: source
    if hasattr(source, "as_ingredient"):
        source = source.as_ingredient()
    if isinstance(source, Ingredient):
        return partial(_as_recorded, source, _find_again(source, allow_pickle, open_base))
    if isinstance(source, (str, os.PathLike)):
        return _find_path(source, name, allow_pickle, open_base)
    if isinstance(source, Mapping):
        return partial(open_state, source, name or "state_dict", config)
    source = getattr(source, "_orig_mod", source)  # of a compiled model
    if hasattr(source, "peft_config") and hasattr(source, "get_base_model"):
        return partial(open_peft_model, source, name)
    if hasattr(source, "state_dict"):
        return lambda: open_model(plain_model(source), name)
    raise IngredientError(
        f"cannot use {type(source).__name__} as an ingredient: give a folder, a Hub id, a model or a state dict."
    )


def open_all(sources: Any, *, allow_pickle: bool = False) -> tuple[Checkpoint, ...]:
    """Open a sequence of sources; equal names are made distinct by their parents' names or by numbers.

    Raises:
        [`IngredientError`]: as [`open_checkpoint`].
        [`RecipeError`]: if there is none.
    """
    find = partial(_find, name=None, config=None, allow_pickle=allow_pickle)
    opened = [finish() for finish in side_by_side(find, sources)]  # repositories answer slowly
    if not opened:
        raise RecipeError("a soup needs at least one ingredient, but none was given. Name folders, Hub ids or models.")
    names = distinct_names([item.ingredient for item in opened])
    renamed = []  # a checkpoint is frozen
    for item, name in zip(opened, names, strict=True):
        renamed.append(replace(item, ingredient=replace(item.ingredient, name=name)))
    return tuple(renamed)


def try_to_open(
    references: Sequence[Ingredient], *, allow_pickle: bool = False, open_base: OpenBase | None = None
) -> list[Checkpoint | SoupError]:
    """Open the ingredients of a recipe: for each one, the checkpoint, or the error that explains why it differs.

    Args:
        references (`Sequence[Ingredient]`):
            The ingredients.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`open_checkpoint`].
        open_base (`Callable[[str], Checkpoint]`, *optional*):
            Opens the base model of an adapter from what it names; by default that one.
    """

    def find(reference: Ingredient) -> Callable[[], Checkpoint] | SoupError:
        try:
            return _find(reference, None, None, allow_pickle, open_base)
        except SoupError as error:
            return error

    results: list[Checkpoint | SoupError] = []
    for finish in side_by_side(find, references):
        if isinstance(finish, SoupError):
            results.append(finish)
            continue
        try:
            results.append(finish())
        except SoupError as error:
            results.append(error)
    return results


def _absolute(folder: Path) -> Path:
    """The absolute path of a folder as the user named it, even if that is a symbolic link."""
    if ".." in folder.parts:  # the parent of a link's target, which only the file system can resolve
        return folder.resolve()
    return Path(os.path.abspath(folder))


def short_name(path: str) -> str:
    """The name of a folder or repository; for a checkpoint in a run's folder, with the name of the run."""
    components = _components(path)
    if len(components) > 1 and CHECKPOINT.fullmatch(components[-1]):
        return "/".join(components[-2:])
    return components[-1]


def _components(path: str) -> list[str]:
    """The components of a path, of Windows too, or of an address without its bucket, which is not published."""
    components = [component for component in re.split(r"[/\\]", path) if component]
    return components[2:] or components[1:] if is_address(path) else components


def distinct_names(ingredients: Sequence[Ingredient]) -> list[str]:
    """A distinct name for each: its own, with its folder or owner if several share it, and a number if necessary."""
    short = [item.name for item in ingredients]
    longer = []
    for item in ingredients:
        is_shared = short.count(item.name) > 1
        longer.append(_longer_name(item) if is_shared else item.name)
    names = []
    for index, name in enumerate(longer):
        if longer.count(name) > 1:
            number = longer[:index].count(name) + 1
            name = f"{name}-{number}"
        names.append(name)
    return names


def _longer_name(ingredient: Ingredient) -> str:
    """The name of a folder or repository with its parent folder or owner."""
    if ingredient.source == MEMORY:
        return ingredient.name
    components = _components(ingredient.source)
    name = ingredient.name.split("/")
    if components[-len(name) - 1 : -1] == name:  # of a run whose best checkpoint was used
        components.pop()
    length = len(name) if components[-len(name) :] == name else 1
    return "/".join(components[-length - 1 :])


def _find_again(ingredient: Ingredient, allow_pickle: bool, open_base: OpenBase) -> Callable[[], Checkpoint]:
    """Find the source that a recipe refers to."""
    if ingredient.source == MEMORY:
        raise IngredientError(
            f"{ingredient.name!r} was a model in memory when the recipe was written: it cannot be fetched, only named."
        )
    if ingredient.source == ELSEWHERE:
        raise IngredientError(
            f"{ingredient.name!r} was a folder on the machine that published the soup: it can be named, not fetched."
        )
    if ingredient.source == PRIVATE:
        raise IngredientError(
            f"{ingredient.name!r} is private: its name was left out when the soup was published, so it cannot be "
            "fetched."
        )
    if not ingredient.revision:
        return _find_path(ingredient.source, ingredient.name, allow_pickle, open_base)
    if hub.split_source(ingredient.source) is None:
        raise IngredientError(f"{ingredient.name!r} has a revision, but {ingredient.source!r} is not a Hub id.")
    return _find_on_hub(ingredient.source, ingredient.revision, ingredient.name, allow_pickle, open_base)


def _as_recorded(ingredient: Ingredient, finish: Callable[[], Checkpoint]) -> Checkpoint:
    """Open an ingredient of a recipe; content digests are compared where the tensors are read."""
    opened = finish()
    # `stat:` and `etag:` denote the state of a file, which may differ although its content does not.
    recorded = {file: digest for file, digest in ingredient.files.items() if not digest.startswith(STATES)}
    missing = sorted(set(recorded) - set(opened.ingredient.files))
    if missing:
        raise IngredientError(f"{ingredient.name!r} ({ingredient.source}) has no {', '.join(missing)} any more.")
    changed = []
    for file, digest in recorded.items():
        is_from_hub = digest.startswith("sha")  # known without reading the file
        if is_from_hub and opened.ingredient.files[file] != digest:
            changed.append(file)
    if changed:
        raise IngredientError(
            f"{', '.join(changed)} of {ingredient.name!r} is not the file that the recipe was made from."
        )
    files = {**opened.ingredient.files, **recorded}
    pinned = replace(opened.ingredient, name=ingredient.name, files=files, tensors=ingredient.tensors)
    return replace(opened, ingredient=pinned)


def _find_path(
    path: str | os.PathLike[str], name: str | None, allow_pickle: bool, open_base: OpenBase
) -> Callable[[], Checkpoint]:
    """A folder if it exists, else a repository of the Hub, since a folder may be named `owner/name` as well."""
    if isinstance(path, str) and is_address(path):
        on_hub = hub_id(path)
        if on_hub is None:
            return _find_on_store(path, name, open_base)
        path = on_hub
    with as_error(IngredientError, f"{one_line(path)} is not a path"):  # ~unknown, NUL, too long
        source = os.fspath(path)
        if not isinstance(source, str):
            source = os.fsdecode(source)
        source.encode()  # a recipe could not store a name that is not UTF-8
        folder = Path(source).expanduser()
        if folder.is_dir():  # otherwise the current folder may have been deleted
            folder = _absolute(folder)
        is_folder, exists = folder.is_dir(), folder.exists()
    if is_folder:
        return _find_in_folder(folder, name, allow_pickle, open_base)
    if exists:
        raise IngredientError(
            f"{one_line(source)} is a file; an ingredient is a folder with {SAFE_WEIGHTS} and config.json."
        )
    repo_id, revision = hub.split_revision(source)
    if hub.split_source(repo_id) is not None:
        return _find_on_hub(repo_id, revision, name, allow_pickle, open_base)
    raise IngredientError(
        f"{one_line(source)} does not exist, and is not a Hub id (owner/name, owner/name@revision) either."
    )


def _find_in_folder(
    folder: Path, name: str | None, allow_pickle: bool, open_base: OpenBase
) -> Callable[[], Checkpoint]:
    """Read the headers of a folder's weights; for a Trainer's folder, those of its best or last checkpoint."""
    with as_error(IngredientError, f"{one_line(folder)} cannot be read"):
        name = name or one_line(short_name(str(folder)))
        notes: list[str] = []
        chosen = None if is_adapter(folder) else checkpoint_of_trainer(folder)
        if chosen is not None:
            folder, reason = chosen
            notes.append(f"{name} is {folder.name}, {reason}")
        contents = contents_of(folder)
        sorted_files = without_links(folder, sort_files(contents.sizes), contents)
        sorted_files = without_unreadable(folder, sorted_files)
        pickles = []
        for subfolder in ("", *sorted_files.subfolders):
            for file in pickled_files(folder / subfolder):
                pickles.append(f"{subfolder}/{file}".removeprefix("/"))
    if is_adapter(folder) and not has_weights(folder) and not pickles:
        ingredient = Ingredient(name, str(folder))
        return partial(open_adapter, ingredient, folder, sorted_files.taken, open_base, notes)
    distributed = None if pickles or has_weights(folder) else find_distributed(folder, name, allow_pickle=allow_pickle)
    if distributed is not None:
        found, ingredient = distributed
        parts = {*found.files, *(f"{file.partition('/')[0]}/" for file in found.files if "/" in file)}
        taken = tuple(file for file in sorted_files.taken if file not in parts)
        if MODULES in taken:
            raise IngredientError(
                f"{name} holds parts of a model of sentence-transformers, whose modules lie in folders of their own. "
                "Put the weights together first: `accelerate merge-weights`."
            )
        companions = _without_weights(sorted_files, parts)._replace(taken=taken)
        all_notes = [*notes, *_left_notes(name, companions)]
        return partial(open_distributed, ingredient, folder, found, companions, all_notes)
    if allow_pickle and pickles:
        sorted_files = _without_weights(sorted_files, pickles)
        return partial(_open_pickles, Ingredient(name, str(folder)), folder, sorted_files, notes, pickles[-1])
    tensors, files = read_specs(folder, sorted_files.subfolders)
    ingredient = Ingredient(name, str(folder), files=files)
    states = {file: file_state(folder / file) for file in files}  # compared when weights are read
    return partial(_open_safetensors, ingredient, tensors, folder, sorted_files, notes, opened_as=states)


def _find_on_hub(
    source: str, revision: str | None, name: str | None, allow_pickle: bool, open_base: OpenBase
) -> Callable[[], Checkpoint]:
    """Pin a repository: the commit, the digests of its weight files and their headers, without the weights."""
    pin = pin_repository(source, revision)
    name = name or short_name(source)
    notes = []
    if pin.checkpoint:
        source = f"{source}/{pin.checkpoint}"
        notes.append(f"{name} is {pin.checkpoint}, {pin.reason}")
    ingredient = Ingredient(name, source, pin.commit, pin.files)
    if ADAPTER in pin.files:
        folder = hub.fetch(source, pin.commit, [*pin.files, *pin.small, *pin.sorted_files.taken])
        return partial(open_adapter, ingredient, folder, pin.sorted_files.taken, open_base, notes)
    pickled = [file for file in pin.files if not file.endswith((".safetensors", ".json"))]  # JSON: an index of shards
    if pickled and not allow_pickle:
        raise IngredientError(f"{source} holds {refuse_pickle(pickled[0], source)}")
    folder = hub.fetch(source, pin.commit, [*pin.small, *pin.sorted_files.taken])
    sorted_files = without_unreadable(folder, pin.sorted_files)
    if pickled:
        hub.fetch_weights([(source, pin.commit, pin.files)])
        sorted_files = _without_weights(sorted_files, pin.files)
        return partial(_open_pickles, ingredient, folder, sorted_files, notes)
    return partial(_open_safetensors, ingredient, pin.specs, folder, sorted_files, notes)


def _find_on_store(address: str, name: str | None, open_base: OpenBase) -> Callable[[], Checkpoint]:
    """Pin a folder on an object store, whose weights are read by ranges."""
    pin = pin_store(address)
    notes = []
    if pin.checkpoint:
        address = f"{address.rstrip('/')}/{pin.checkpoint}"
        notes.append(f"{name or short_name(address)} is {pin.checkpoint}, {pin.reason}")
    name = name or one_line(short_name(address))
    if ADAPTER in pin.files:
        return partial(open_adapter, Ingredient(name, address), pin.folder, pin.sorted_files.taken, open_base, notes)
    sorted_files = without_unreadable(pin.folder, pin.sorted_files)
    remote = store_files(name, address, pin)
    ingredient = Ingredient(name, address, files=pin.files)
    return partial(_open_safetensors, ingredient, pin.specs, pin.folder, sorted_files, notes, remote=remote)


def _without_weights(sorted_files: SortedFiles, weight_files: Collection[str]) -> SortedFiles:
    """The same files without pickles that are read as weights, which are otherwise listed as skipped."""
    left = tuple(file for file in sorted_files.left if file not in weight_files)
    return sorted_files._replace(left=left)


def _open_safetensors(
    ingredient: Ingredient,
    tensors: Mapping[str, dict[str, TensorSpec]],
    folder: Path,
    sorted_files: SortedFiles,
    notes: Sequence[str] = (),
    opened_as: Mapping[str, str] | None = None,
    remote: RemoteFiles | None = None,
) -> Checkpoint:
    """A checkpoint whose weights are in files, from their headers; `tensors` maps subfolders to tensors."""
    with as_error(IngredientError, f"{ingredient.name} cannot be opened"):
        config = read_config(folder, needed=MODULES not in sorted_files.taken)
        fitted = fit_subfolders(config, tensors, folder)
    layout_notes = [f"{ingredient.name}: {note}" for note in fitted.notes]
    return Checkpoint(
        ingredient,
        config,
        fitted.specs,
        folder,
        opened_as=opened_as or {},
        companion_names=sorted_files.taken,
        subfolders=tuple(tensors),
        fitted=fitted,
        notes=(*notes, *_left_notes(ingredient.name, sorted_files), *layout_notes),
        problems=_adapter_problems(ingredient.name, sorted_files),
        remote=remote,
    )


def _adapter_problems(name: str, sorted_files: SortedFiles) -> tuple[str, ...]:
    """The problem of an adapter next to complete weights: transformers applies it on loading."""
    places = [ADAPTER, *(f"{subfolder}/{ADAPTER}" for subfolder in sorted_files.subfolders)]
    adapters = [place for place in places if place in sorted_files.left]
    if not adapters:
        return ()
    return (
        f"{name} holds whole weights and a PEFT adapter ({adapters[0]}), which transformers puts on top of them when "
        "it loads. Merge the adapter into the weights first (`PeftModel.from_pretrained(...).merge_and_unload()`), or "
        "delete the adapter's files if the weights hold it already",
    )


def _left_notes(name: str, sorted_files: SortedFiles) -> list[str]:
    """A note about files that a soup does not take over, other than states and logs of training."""
    left = [file for file in sorted_files.left if not is_of_training(file)]
    if not left:
        return []
    return [f"of the files of {name} a soup leaves behind {listed(left, LEFT_SHOWN)}"]


def _open_pickles(
    ingredient: Ingredient, folder: Path, sorted_files: SortedFiles, notes: Sequence[str] = (), file: str | None = None
) -> Checkpoint:
    """Weights in torch pickles: loaded completely into memory, under the names that transformers currently uses.

    Args:
        file (`str`, *optional*):
            The file under which the digest of a folder's weights is kept; the Hub's own digests stay as they are.
    """
    name = ingredient.name
    config = read_config(folder, needed=MODULES not in sorted_files.taken)
    tensors = _read_whole(folder)
    fitted = None
    all_notes = [*notes, *_left_notes(name, sorted_files)]
    if tensors and config:
        model = open_pickled_state(tensors, name, config)
        tensors, fitted = dict(model.tensors or {}), model.fitted
        all_notes += model.notes
    for subfolder in sorted_files.subfolders:
        prefix = subfolder_prefix(subfolder)
        for key, tensor in _read_whole(folder / subfolder).items():
            tensors[prefix + key] = tensor
    opened = open_tensors(tensors, name, config)
    specs = _in_subfolders(opened.specs, sorted_files.subfolders)
    if file is not None:
        ingredient = replace(ingredient, files={file: opened.ingredient.files[MEMORY]})
    return replace(
        opened,
        ingredient=ingredient,
        specs=specs,
        folder=folder,
        companion_names=sorted_files.taken,
        subfolders=tuple(dict.fromkeys(spec.subfolder for spec in specs.values())),
        fitted=fitted,
        notes=tuple(all_notes),
        problems=_adapter_problems(name, sorted_files),
    )


def _in_subfolders(specs: Mapping[str, TensorSpec], subfolders: Sequence[str]) -> dict[str, TensorSpec]:
    """The same specs, with the subfolder in front of the names if there are subfolders."""
    placed = dict(specs)
    for subfolder in subfolders:
        prefix = subfolder_prefix(subfolder)
        for key, spec in specs.items():
            if key.startswith(prefix):
                placed[key] = spec._replace(subfolder=subfolder)
    return placed


def _read_whole(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of one folder in any supported format; empty if it has none."""
    files = pickled_files(folder)
    if files:
        return read_pickles(folder, files)
    if not has_weights(folder):
        return {}
    return {name: read_tensor(folder, spec) for name, spec in read_headers(folder).specs.items()}
