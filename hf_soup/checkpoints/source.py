"""What a user calls an ingredient -> an opened `Checkpoint`: its configuration and the headers of its weights, pinned.

A source is a folder, a Hub id (`user/run1`, `user/run1@v1.0`, `user/runs/checkpoint-9`), a loaded model, a state dict
with its config, an `Ingredient`, or anything with `.as_ingredient()`. Of files only headers are read here, but for
pickles and for a base model of another class; weights of the Hub are fetched at the first read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IncompatibleError, IngredientError, RecipeError
from ..types import Ingredient
from . import hub
from .check import label_names
from .checkpoint import CARD, COMPANIONS, ELSEWHERE, MEMORY, PRIVATE, Checkpoint
from .digest import combined_digest, tensor_digest
from .folder import (
    checkpoint_of_trainer,
    pickled_files,
    read_config,
    read_pickles,
    read_specs,
    refuse_pickle,
    without_ignored,
)
from .modules import head_names
from .reader import CODES, SAFE_WEIGHTS, TensorSpec, widest


if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


BESIDE = ["config.json", CARD, *COMPANIONS]  # what is fetched of a repository before its weights


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
            Where the weights are.
        name (`str`, *optional*):
            What to call it; by default the folder's or repository's name, or the class of a model.
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Of a state dict, which does not say what it is the state of.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Read `pytorch_model.bin` where there are no safetensors weights, with `weights_only=True`.

    Returns:
        [`Checkpoint`]: pinned to what is there now.

    Raises:
        [`IngredientError`]: if it does not exist, is empty, corrupt or pickled, or cannot be fetched.
    """
    if hasattr(source, "as_ingredient"):
        source = source.as_ingredient()
    if isinstance(source, Ingredient):
        return _reopen(source, allow_pickle)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), name, allow_pickle)
    if hasattr(source, "state_dict") and hasattr(source, "config"):
        return _open_model(source, name or type(source).__name__)
    if isinstance(source, Mapping):
        return _open_state(source, name or "state_dict", config)
    raise IngredientError(
        f"cannot take {type(source).__name__} as an ingredient: give a folder, a Hub id, a model or a state dict."
    )


def open_base(source: Any, like: Checkpoint, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a base model under the names of the ingredients that were fine-tuned from it.

    A base of another class (a bare body, or one with another head) goes through transformers' own loading; what it
    lacks is left out.

    Args:
        source:
            As for [`open_checkpoint`].
        like (`Checkpoint`):
            An ingredient.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`open_checkpoint`].

    Returns:
        [`Checkpoint`]

    Raises:
        [`IngredientError`]: if it cannot be opened, or has nothing that the ingredient has.
    """
    base = open_checkpoint(source, allow_pickle=allow_pickle)
    shared = {name for name in like.specs if name in base.specs and base.specs[name].shape == like.specs[name].shape}
    if base.architecture == like.architecture or len(shared) == len(like.specs):
        return base
    from .memory import tensors_of_body

    tensors = tensors_of_body(like.config, {name: base.read(name) for name in base.specs})
    if not tensors:
        raise IngredientError(f"{base.name!r} is no base of {like.name!r}: they have no tensor in common.")
    return replace(base, specs=_specs(tensors, base.name), tensors=tensors)


def as_ingredient(base: Checkpoint, like: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """A base model as one more ingredient, of the class of the others: what it lacks they have alone.

    Args:
        base (`Checkpoint`):
            As [`open_base`] gives it.
        like (`Checkpoint`):
            An ingredient.
        names (`Sequence[str]`):
            Of all ingredients; it gets another.

    Raises:
        [`IngredientError`]: if less than half of the tensors of their bodies fit.
        [`IncompatibleError`]: if it has their labels in another order.
    """
    theirs, ours, head = label_names(base.config), label_names(like.config), set(head_names(like.specs))
    if theirs != ours and sorted(theirs) == sorted(ours) and head & set(base.specs):
        found = f"{base.name} has the labels in another order than the ingredients"
        raise IncompatibleError([f"{found}: {list(theirs)[:6]}, not {list(ours)[:6]}"])
    apart = head if theirs != ours else set()  # a head for something else
    name = f"{base.name} (base)" if base.name in names else base.name
    fitting = {key: spec for key, spec in base.specs.items() if key in like.specs and key not in apart}
    own = {key: spec for key, spec in fitting.items() if spec.shape == like.specs[key].shape}
    body = set(like.specs) - head
    fit = len(body & set(own))
    if fit * 2 < len(body):
        raise IngredientError(
            f"{base.name!r} is no base of {like.name!r}: {fit} of {len(body)} tensors of the body fit."
        )
    return replace(base, ingredient=replace(base.ingredient, name=name), config=like.config, specs=own)


def open_all(sources: Any, *, config: Any = None, allow_pickle: bool = False) -> tuple[Checkpoint, ...]:
    """Open a sequence of sources; equal names are told apart by their parents' names or by numbers.

    Raises:
        [`IngredientError`]: as [`open_checkpoint`].
        [`RecipeError`]: if `sources` is one source or nothing at all.
    """
    one = isinstance(sources, (str, os.PathLike, Mapping, Ingredient))
    if one or hasattr(sources, "state_dict") or hasattr(sources, "as_ingredient"):
        raise RecipeError(f"ingredients are a list; to take one alone, write [{str(sources)[:60]}].")
    one_by_one = allow_pickle or not all(isinstance(source, (str, os.PathLike, Ingredient)) for source in sources)
    with ThreadPoolExecutor(1 if one_by_one else 8) as pool:  # repositories answer slowly, and side by side
        opened = list(pool.map(partial(open_checkpoint, config=config, allow_pickle=allow_pickle), sources))
    if not opened:
        raise RecipeError("a soup needs at least one ingredient, none was given. Name folders, Hub ids or models.")
    names = distinct_names([item.ingredient for item in opened])
    return tuple(
        replace(item, ingredient=replace(item.ingredient, name=name)) for item, name in zip(opened, names, strict=True)
    )


def distinct_names(ingredients: Sequence[Ingredient]) -> list[str]:
    """A name for each: its own, with its folder's or owner's where several share it, and a number if need be."""
    names = [item.name for item in ingredients]
    longer = [
        "/".join(re.split(r"[/\\]", item.source)[-2:]) if item.source != MEMORY else item.name for item in ingredients
    ]
    names = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    return [f"{name}-{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _reopen(ingredient: Ingredient, allow_pickle: bool) -> Checkpoint:
    """Open what a recipe refers to; digests of contents are compared where the tensors are read."""
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
            f"{ingredient.name!r} is private: whoever published the soup left its name out, so it cannot be fetched."
        )
    if ingredient.revision:
        if hub.split_source(ingredient.source) is None:
            raise IngredientError(f"{ingredient.name!r} has a revision, but {ingredient.source!r} is no Hub id.")
        opened = _open_hub(ingredient.source, ingredient.revision, ingredient.name, allow_pickle)
    else:
        opened = _open_path(ingredient.source, ingredient.name, allow_pickle)
    recorded = {file: digest for file, digest in ingredient.files.items() if not digest.startswith("stat:")}
    missing = sorted(set(recorded) - set(opened.ingredient.files))
    if missing:
        raise IngredientError(f"{ingredient.name!r} ({ingredient.source}) has no {', '.join(missing)} any more.")
    changed = [
        file
        for file, digest in recorded.items()
        if digest.startswith("sha") and opened.ingredient.files[file] != digest
    ]
    if changed:
        raise IngredientError(
            f"{', '.join(changed)} of {ingredient.name!r} is not the file that the recipe was made from."
        )
    files = opened.ingredient.files | recorded
    return replace(opened, ingredient=replace(opened.ingredient, name=ingredient.name, files=files))


def _open_path(source: str, name: str | None, allow_pickle: bool) -> Checkpoint:
    try:
        folder = Path(source).expanduser()
        is_folder = folder.is_dir()
    except (RuntimeError, ValueError, OSError) as error:  # ~nobody, a NUL, a name that is too long
        raise IngredientError(f"{source!r} is no path: {error}.") from None
    if is_folder:
        return _open_folder(folder, name, allow_pickle)
    if folder.exists():
        raise IngredientError(f"{source} is a file; an ingredient is a folder with {SAFE_WEIGHTS} and config.json.")
    repo_id, revision = hub.split_revision(source)
    if hub.split_source(repo_id) is not None:
        return _open_hub(repo_id, revision, name, allow_pickle)
    raise IngredientError(f"{source} does not exist, and it is no Hub id (owner/name, owner/name@revision) either.")


def _open_folder(folder: Path, name: str | None, allow_pickle: bool) -> Checkpoint:
    folder = folder.resolve()
    name, note = name or folder.name, ""
    if chosen := checkpoint_of_trainer(folder):
        folder, why = chosen
        note = f"{name} is {folder.name}, {why}"
    if allow_pickle and (files := pickled_files(folder)):
        opened = _open_pickles(folder, files, name)
        digest = opened.ingredient.files[MEMORY]
        return replace(opened, ingredient=Ingredient(name, str(folder), files={files[-1]: digest}), note=note)
    specs, files = read_specs(folder)
    ingredient = Ingredient(name, str(folder), files=files)
    return Checkpoint(ingredient, read_config(folder), without_ignored(specs), folder, opened_as=files, note=note)


def _open_pickles(folder: Path, files: Sequence[str], name: str) -> Checkpoint:
    """Weights that torch has pickled: loaded into memory whole, and named as transformers would name them now."""
    opened = _open_state(read_pickles(folder, files), name, read_config(folder))
    return replace(opened, folder=folder)


def _open_hub(source: str, revision: str | None, name: str | None, allow_pickle: bool) -> Checkpoint:
    """Pin a repository: the commit, the digests of its weight files and their headers, without the weights."""
    pin = hub.pin(source, revision)
    ingredient = Ingredient(name or source.split("/")[-1], source, pin.commit, pin.files)
    if not pin.specs:
        if not allow_pickle:
            raise IngredientError(f"{source} holds {refuse_pickle(next(iter(pin.files)), source)}")
        hub.fetch_weights([(source, pin.commit, pin.files)])
        folder = hub.fetch(source, pin.commit, BESIDE)
        return replace(_open_pickles(folder, list(pin.files), ingredient.name), ingredient=ingredient)
    folder = hub.fetch(source, pin.commit, BESIDE)
    return Checkpoint(ingredient, read_config(folder), without_ignored(pin.specs), folder)


def _open_model(model: PreTrainedModel, name: str) -> Checkpoint:
    from .memory import tensors_on_disk

    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    generation = model.generation_config.to_json_string() if model.can_generate() else None
    return replace(_open_tensors(tensors_on_disk(model), name, config), generation_config=generation)


def _open_state(state: Mapping[str, torch.Tensor], name: str, config: Any) -> Checkpoint:
    """A state dict goes through transformers' own loading, which knows both the names in memory and those on disk."""
    from .memory import build_model

    if config is None or not state:
        raise IngredientError("a state dict does not say what it is the state of: give `config=` as well.")
    config = config if isinstance(config, Mapping) else config.to_dict()
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    model = build_model({**config, "dtype": widest(sorted(dtypes)) if dtypes else "float32"}, dict(state))
    vars(model).pop("_weight_conversions", None)  # how the names were found here; its file has transformers' own
    return _open_model(model, name)


def _open_tensors(tensors: dict[str, torch.Tensor], name: str, config: dict[str, Any]) -> Checkpoint:
    digest = combined_digest({key: tensor_digest(tensor) for key, tensor in tensors.items()})
    return Checkpoint(Ingredient(name, MEMORY, files={MEMORY: digest}), config, _specs(tensors, name), None, tensors)


def _specs(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, TensorSpec]:
    specs = {}
    for key, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in CODES:
            raise IngredientError(f"{name}: tensor {key!r} has the type {dtype}, which cannot be averaged.")
        specs[key] = TensorSpec(key, tuple(tensor.shape), dtype)
    return specs
