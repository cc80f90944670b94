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

from ..errors import IncompatibleError, IngredientError, RecipeError, listed
from ..types import Ingredient
from . import hub
from .checkpoint import ELSEWHERE, MEMORY, PRIVATE, Checkpoint
from .digest import combined_digest, tensor_digest
from .files_beside import MODULES, Beside, refuse_links, sizes_in, sort_out
from .folder import (
    ADAPTER,
    checkpoint_of_trainer,
    has_weights,
    pickled_files,
    read_config,
    read_pickles,
    read_specs,
    refuse_pickle,
)
from .labels import label_names
from .layout import Fitted, fit
from .memory import plain_model
from .modules import head_names
from .reader import CODES, SAFE_WEIGHTS, TensorSpec, read_headers, read_tensor, widest


if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

LEFT_SHOWN = 6  # files that stay behind and are named


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
    if isinstance(source, Mapping):
        return _open_state(source, name or "state_dict", config)
    if hasattr(source, "state_dict"):
        return _open_model(plain_model(source), name)
    raise IngredientError(
        f"cannot take {type(source).__name__} as an ingredient: give a folder, a Hub id, a model or a state dict."
    )


def open_base(source: Any, like: Checkpoint, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a base model under the names of the ingredients that were fine-tuned from it.

    Its names become those that transformers finds when it loads it as the class of the ingredients, whatever its own
    class and version: a bare body, one with another head, old names. What the ingredients lack is left out.

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
        [`IngredientError`]: if it cannot be opened, or less than half of the tensors of their bodies fit.
    """
    base = open_checkpoint(source, allow_pickle=allow_pickle)
    if base.problems:
        raise IngredientError(f"{base.problems[0]}.")
    if not like.config:
        return base
    raw = {spec.key: spec for spec in base.specs.values() if not spec.part}
    fitted = _fitted(like.config, {"": raw}, None, base.name)
    specs = {name: spec for name, spec in base.specs.items() if spec.part} | fitted.specs
    specs = {name: spec for name, spec in specs.items() if name in like.specs}
    tensors = base.tensors
    if tensors is not None:
        tensors = {name: tensors[spec.key] for name, spec in specs.items()}
    base = replace(base, specs=specs, tensors=tensors, fitted=fitted)
    _refuse_stranger(base, like)
    return base


def _refuse_stranger(base: Checkpoint, like: Checkpoint) -> None:
    """Refuse a base model that has less than half of the tensors of an ingredient's body."""
    body = set(like.specs) - set(head_names(like.specs))
    fit_there = [name for name in body if name in base.specs and base.specs[name].shape == like.specs[name].shape]
    if len(fit_there) * 2 < len(body) or not fit_there:
        raise IngredientError(
            f"{base.name!r} is no base of {like.name!r}: {len(fit_there)} of {len(body)} tensors of the body fit. "
            "Is it another architecture, or another size?"
        )


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
    _refuse_stranger(replace(base, specs=own), like)
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
    name, notes = name or folder.name, []
    if chosen := checkpoint_of_trainer(folder):
        folder, why = chosen
        notes.append(f"{name} is {folder.name}, {why}")
    sizes = sizes_in(folder)
    beside = sort_out(sizes)
    notes += _left_notes(name, beside)
    pickles = [
        f"{part}/{file}".removeprefix("/") for part in ("", *beside.parts) for file in pickled_files(folder / part)
    ]
    if allow_pickle and pickles:
        opened = _open_pickles(folder, name, beside, needs_config=MODULES not in sizes)
        digest = opened.ingredient.files[MEMORY]
        ingredient = Ingredient(name, str(folder), files={pickles[-1]: digest})
        return replace(opened, ingredient=ingredient, notes=(*notes, *opened.notes))
    tensors, files = read_specs(folder, beside.parts)
    ingredient = Ingredient(name, str(folder), files=files)
    return replace(_opened(ingredient, tensors, folder, beside, notes), opened_as=files)


def _open_hub(source: str, revision: str | None, name: str | None, allow_pickle: bool) -> Checkpoint:
    """Pin a repository: the commit, the digests of its weight files and their headers, without the weights."""
    pin = hub.pin(source, revision)
    ingredient = Ingredient(name or source.split("/")[-1], source, pin.commit, pin.files)
    notes = _left_notes(ingredient.name, pin.beside)
    pickled = [file for file in pin.files if not file.endswith((".safetensors", ".json"))]
    if pickled and not allow_pickle:
        raise IngredientError(f"{source} holds {refuse_pickle(pickled[0], source)}")
    folder = hub.fetch(source, pin.commit, [*pin.small, *pin.beside.taken])
    if pickled:
        hub.fetch_weights([(source, pin.commit, pin.files)])
        opened = _open_pickles(folder, ingredient.name, pin.beside, needs_config=MODULES not in pin.beside.taken)
        return replace(opened, ingredient=ingredient, notes=(*notes, *opened.notes))
    return _opened(ingredient, pin.specs, folder, pin.beside, notes)


def _opened(
    ingredient: Ingredient,
    tensors: Mapping[str, dict[str, TensorSpec]],
    folder: Path,
    beside: Beside,
    notes: Sequence[str],
) -> Checkpoint:
    """A checkpoint whose weights lie in files, by the headers of these; part -> its tensors."""
    refuse_links(folder, beside.taken)
    config = read_config(folder, needed=MODULES not in beside.taken)
    fitted = _fitted(config, tensors, folder, ingredient.name)
    told = [f"{ingredient.name}: {note}" for note in fitted.notes]
    return Checkpoint(
        ingredient,
        config,
        fitted.specs,
        folder,
        beside=beside.taken,
        parts=tuple(tensors),
        fitted=fitted,
        notes=(*notes, *told),
        problems=_adapter_problems(ingredient.name, beside),
    )


def _adapter_problems(name: str, beside: Beside) -> tuple[str, ...]:
    """An adapter beside whole weights: transformers puts it on top of them when it loads."""
    if ADAPTER not in beside.left:
        return ()
    return (
        f"{name} holds whole weights and a PEFT adapter ({ADAPTER}), which transformers puts on top of them when it "
        "loads. Merge the adapter into the weights first (`PeftModel.from_pretrained(...).merge_and_unload()`), or "
        "delete the adapter's files if the weights hold it already",
    )


def _fitted(
    config: Mapping[str, Any], tensors: Mapping[str, dict[str, TensorSpec]], folder: Path | None, name: str
) -> Fitted:
    """All tensors of a checkpoint under the names of their classes; those of a part behind the part's own name."""
    specs: dict[str, TensorSpec] = {}
    expected: dict[str, tuple[int, ...]] = {}
    twins, optional, known, notes, problems = [], set(), set(), [], []
    for part, of_part in tensors.items():
        settings = config if part == "" else read_config(folder / part, needed=False)
        if part and "architectures" not in settings:
            settings = {}
        try:
            found = fit(settings, of_part) if settings else Fitted(dict(of_part))
        except IngredientError as error:
            raise IngredientError(f"{name}: {error}") from None
        prefix = f"{part.replace('/', '.')}." if part else ""
        for key, spec in found.specs.items():
            stored = "" if prefix + key == spec.key else spec.key
            specs[prefix + key] = spec._replace(name=prefix + key, stored=stored)
        if found.expected is not None:
            known.add(part)
            expected |= {prefix + key: shape for key, shape in found.expected.items()}
        optional |= {prefix + key for key in found.optional}
        twins += [(spec, prefix + key) for spec, key in found.twins]
        notes += found.notes
        problems += [found.problem] if found.problem else []
    return Fitted(
        dict(sorted(specs.items())),
        expected if known else None,
        frozenset(optional),
        tuple(twins),
        tuple(notes),
        "; ".join(problems),
        frozenset(known),
    )


def _left_notes(name: str, beside: Beside) -> list[str]:
    """What lies in the folder of an ingredient and no soup takes over."""
    if not beside.left:
        return []
    return [f"of the files of {name} a soup leaves behind {listed(beside.left, LEFT_SHOWN)}"]


def _open_pickles(folder: Path, name: str, beside: Beside, *, needs_config: bool) -> Checkpoint:
    """Weights that torch has pickled: loaded into memory whole, and named as transformers would name them now."""
    config = read_config(folder, needed=needs_config)
    tensors: dict[str, torch.Tensor] = {}
    for part in ("", *beside.parts):
        state = _read_whole(folder / part)
        if state and part == "" and config:
            state = dict(_open_state(state, name, config).tensors)
        prefix = f"{part.replace('/', '.')}." if part else ""
        tensors |= {prefix + key: tensor for key, tensor in state.items()}
    opened = _open_tensors(tensors, name, config)
    specs = dict(opened.specs)
    for part in beside.parts:
        prefix = f"{part.replace('/', '.')}."
        specs |= {key: spec._replace(part=part) for key, spec in specs.items() if key.startswith(prefix)}
    parts = tuple(dict.fromkeys(spec.part for spec in specs.values()))
    problems = _adapter_problems(name, beside)
    return replace(opened, folder=folder, specs=specs, beside=beside.taken, parts=parts, problems=problems)


def _read_whole(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of one folder, whichever way they are stored; nothing where it has none."""
    files = pickled_files(folder)
    if files:
        return read_pickles(folder, files)
    if not has_weights(folder):
        return {}
    return {name: read_tensor(folder, spec) for name, spec in read_headers(folder).items()}


def _open_model(model: Any, name: str | None) -> Checkpoint:
    from .memory import tensors_on_disk

    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    name = name or type(model).__name__
    opened = _open_tensors(tensors_on_disk(model), name, config)
    fitted = _fitted(config, {"": dict(opened.specs)}, None, name)
    opened = _renamed(opened, fitted)
    generation = model.generation_config.to_json_string() if model.can_generate() else None
    return replace(opened, generation_config=generation)


def _renamed(opened: Checkpoint, fitted: Fitted) -> Checkpoint:
    """A checkpoint in memory under the names of its class."""
    import torch

    tensors = {name: opened.tensors[spec.key] for name, spec in fitted.specs.items()}
    torn = [spec.key for spec, name in fitted.twins if not torch.equal(opened.tensors[spec.key], tensors[name])]
    if torn:
        raise IngredientError(
            f"{opened.name} has {torn[0]} and the weight that its configuration ties it to with different values: set "
            "config.tie_word_embeddings = False if they are two."
        )
    specs = {name: spec._replace(stored="") for name, spec in fitted.specs.items()}
    digest = combined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})
    files = {MEMORY: digest}
    ingredient = replace(opened.ingredient, files=files)
    notes = tuple(f"{opened.name}: {note}" for note in fitted.notes)
    fitted = fitted._replace(specs=specs, twins=())
    return replace(opened, ingredient=ingredient, specs=specs, tensors=tensors, fitted=fitted, notes=notes)


def _open_state(state: Mapping[str, torch.Tensor], name: str, config: Any) -> Checkpoint:
    """A state dict goes through transformers' own loading, which knows both the names in memory and those on disk."""
    from .memory import build_model

    if config is None or not state:
        raise IngredientError("a state dict does not say what it is the state of: give `config=` as well.")
    config = config if isinstance(config, Mapping) else config.to_dict()
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    fitted = _fitted(config, {"": _specs(state, name)}, None, name)
    twins = {spec.key: state[spec.key] for spec, _ in fitted.twins}
    tensors = {key: state[spec.key] for key, spec in fitted.specs.items()} | twins
    model = build_model({**config, "dtype": widest(sorted(dtypes)) if dtypes else "float32"}, tensors)
    vars(model).pop("_weight_conversions", None)  # how the names were found here; its file has transformers' own
    opened = _open_model(model, name)
    notes = tuple(f"{name}: {note}" for note in fitted.notes)
    return replace(opened, notes=(*notes, *opened.notes))


def _open_tensors(tensors: dict[str, torch.Tensor], name: str, config: dict[str, Any]) -> Checkpoint:
    digest = combined_digest({key: tensor_digest(tensor) for key, tensor in tensors.items()})
    return Checkpoint(Ingredient(name, MEMORY, files={MEMORY: digest}), config, _specs(tensors, name), None, tensors)


def _specs(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, TensorSpec]:
    specs = {}
    for key, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in CODES:
            raise IngredientError(f"{name}: tensor {key!r} has the type {dtype}, which torch cannot add up.")
        specs[key] = TensorSpec(key, tuple(tensor.shape), dtype)
    return specs
