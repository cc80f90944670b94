"""The base model that an adapter names, and whether the adapter fits it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ..errors import IngredientError
from ..untrusted import one_line
from .adapter_changes import Change, Stored
from .adapter_file import is_among
from .adapter_model import Form
from .checkpoint import Checkpoint, read_card
from .folder import QuantisedError
from .other_contents import ADAPTER
from .reader import TensorSpec


def open_base_of(
    name: str, source: str, revision: str | None, open_base: Callable[[str], Checkpoint]
) -> tuple[Checkpoint, list[str]]:
    """Open the base model that an adapter names; of a quantised one, the model that it was made from.

    Args:
        name (`str`):
            Name of the adapter.
        source (`str`), revision (`str`, *optional*):
            Folder or Hub id of the base model, and its commit.
        open_base (`Callable[[str], Checkpoint]`):
            Opens it.

    Returns:
        `tuple[Checkpoint, list[str]]`: the base model, and notes on it.

    Raises:
        [`IngredientError`]: if it cannot be opened, or is quantised and its card names no origin.
    """
    failed = f"the base model of the adapter {name} cannot be opened"
    try:
        return open_base(f"{source}@{revision}" if revision and not Path(source).is_dir() else source), []
    except QuantisedError as error:
        origin = read_card(error.folder).get("base_model")
        if isinstance(origin, list) and len(origin) == 1:
            origin = origin[0]
        if not isinstance(origin, str):
            raise IngredientError(
                f"{failed}: {source} is quantised. Name the model that it was made from as base_model_name_or_path in "
                f"{ADAPTER}; the changes are then added to its weights."
            ) from error
    except IngredientError as error:
        raise IngredientError(f"{failed}: {error}") from error
    note = (
        f"{name} was trained on {one_line(source)}, which is quantised: its changes are added to {one_line(origin)}, "
        "from which that was made, and each may have made up for rounding errors that are not there"
    )
    try:
        return open_base(origin), [note]
    except IngredientError as error:
        raise IngredientError(f"{failed}: {error}") from error


def one_of_tied(
    saved: Mapping[str, Stored], form: Form, modules_to_save: Collection[str]
) -> tuple[dict[str, Stored], list[str]]:
    """Tensors that an adapter holds whole, of tied weights one alone.

    A module that PEFT trains whole (`modules_to_save`) is a copy that is tied to nothing, so that the model has two
    tables where its class has one, unless both are held and equal. Otherwise, as of a resized vocabulary, what is
    loaded into one of them is in the other.

    Args:
        saved (`Mapping[str, Stored]`):
            Tensors by their names in memory.
        form ([`Form`]):
            Form of the model.
        modules_to_save (`Collection[str]`):
            Names, or ends of names, of the modules that were trained whole.

    Returns:
        `tuple[dict[str, Stored], list[str]]`: the tensors, and what is wrong with them.
    """
    import torch

    kept, problems = dict(saved), []
    for group in form.tied:
        held = [name for name in saved if name in group]
        if not held:
            continue
        copies = [name for name in held if is_among(name.rpartition(".")[0], modules_to_save)]
        has_all = not copies or set(form.embeddings) & group <= set(held)
        first = saved[held[0]].read()
        if not has_all or not all(torch.equal(saved[name].read(), first) for name in held[1:]):
            problems.append(
                f"it holds {one_line(held[0])}, which is tied to {one_line(min(group - {held[0]}))}, and PEFT has "
                "trained one of the two: save the whole model with `merge_and_unload()`"
            )
        on_file = next((name for name in group if form.on_disk.get(name, name) in form.shapes), held[0])
        kept = {name: tensor for name, tensor in kept.items() if name not in group}
        kept[on_file] = saved[held[0]]
    return kept, problems


def misfits(
    changes: Mapping[str, Change],
    saved: Mapping[str, Stored],
    base_specs: Mapping[str, TensorSpec],
    form: Form,
) -> list[str]:
    """What an adapter changes or holds that its model lacks, that has another shape there, or that is tied.

    Args:
        changes (`Mapping[str, Change]`), saved (`Mapping[str, Stored]`):
            Content of the adapter, by names on disk.
        base_specs (`Mapping[str, TensorSpec]`):
            Tensors of the base model.
        form ([`Form`]):
            Form of the model.
    """
    problems = []
    tied = {form.on_disk.get(name, name) for group in form.tied for name in group}
    for key, change in changes.items():
        if key in tied:
            problems.append(f"it changes {one_line(key)}, which is tied to other weights that PEFT leaves as they are")
            continue
        spec = saved[key].spec if key in saved else base_specs.get(key)
        if spec is None:
            problems.append(f"it changes {one_line(key)}, which is not there")
            continue
        misfit = change.misfit(spec.shape[0], math.prod(spec.shape[1:]))
        if misfit is not None:
            problems.append(f"its change of {one_line(key)} {misfit}; the weight has the shape {list(spec.shape)}")
    for key, tensor in saved.items():
        if form.shapes.get(key) != tuple(tensor.shape):
            there = f"{list(form.shapes[key])} there" if key in form.shapes else "not there"
            problems.append(f"it holds {one_line(key)} of the shape {list(tensor.shape)}, which is {there}")
    return problems[:3]
