"""The states that DeepSpeed saves with ZeRO: weights in float32, flat and divided among processes.

With stages 1 and 2 the parameters of a group lie one after the other in a flat vector, of which each process has a
part. With stage 3 each parameter is divided by itself, and each process has its parts one after the other. A universal
checkpoint has a file for each parameter. Only the places of parameters are read here.

Source: `deepspeed.utils.zero_to_fp32`, which puts the weights together as a copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import IngredientError
from ..untrusted import as_error, one_line
from .distributed import Chunk, Distributed
from .reader import TensorSpec
from .torch_archive import StoredTensor, read_archive


LATEST = ("latest_universal", "latest")  # files with the name of the folder that holds the states
MODEL_STATES = re.compile(r"(zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
OPTIM_STATES = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
UNIVERSAL = "zero"  # the folder with a folder for each parameter
WEIGHTS = "fp32.pt"


def zero_folder(folder: Path) -> str | None:
    """The folder in a checkpoint that holds the states of DeepSpeed; `None` if none does."""
    for file in LATEST:
        if (folder / file).is_file():
            name = (folder / file).read_text(encoding="utf-8", errors="replace").strip()
            if Path(name).name == name and (folder / name).is_dir():
                return name
    return "" if any(MODEL_STATES.fullmatch(path.name) for path in folder.iterdir()) else None


def read_zero(folder: Path, inner: str) -> Distributed:
    """Read where the weights of a model are.

    Args:
        folder (`Path`):
            Folder of the checkpoint.
        inner (`str`):
            The folder in it with the states, as returned by [`zero_folder`].

    Raises:
        [`IngredientError`]: if a process has not saved its part, the model is divided among tensor-parallel processes
            as well, or a file is damaged.
    """
    place = folder / inner
    prefix = f"{inner}/" if inner else ""
    model_files = _files_of(place, MODEL_STATES)
    if not model_files:
        raise IngredientError(f"{place} has no file with the states of a model.")
    with as_error(IngredientError, f"{place} does not hold the states of DeepSpeed"):
        model = read_archive(place / model_files[0])
        if (place / UNIVERSAL).is_dir():
            files = [*model_files[:1]]
            parts = dict(_of_universal(place, prefix))
            files += [own[0].file.removeprefix(prefix) for _, own in parts.values()]
        else:
            optim_files = _files_of(place, OPTIM_STATES)
            files = [*model_files, *optim_files]
            parts = dict(_of_partitions(place, prefix, model, model_files, optim_files))
        # buffers, and with stage 1 parameters that are not trained; those of stage 3 are empty there
        for name, tensor in dict(model["module"] or {}).items():
            if name not in parts and isinstance(tensor, StoredTensor) and tensor.numel:
                parts[name] = _whole(tensor, prefix + model_files[0], name)
        for alias, name in dict(model.get("shared_params") or {}).items():
            if name in parts:
                parts[alias] = (parts[name][0]._replace(name=alias), parts[name][1])
    specs = {name: spec for name, (spec, _) in parts.items()}
    chunks = {name: own for name, (_, own) in parts.items()}
    latest = [file for file in LATEST if inner and (folder / file).is_file()]
    return Distributed(specs, chunks, (*(prefix + file for file in files), *latest))


def _files_of(place: Path, pattern: re.Pattern[str]) -> list[str]:
    """The files of one kind in the order of processes.

    Raises:
        [`IngredientError`]: if the model is divided among tensor-parallel processes, too.
    """
    found = []
    for path in place.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            if int(match[3]):
                raise IngredientError(
                    f"{place} holds a model that is divided among tensor-parallel processes, too ({path.name}). "
                    "Convert it with DeepSpeed's ds_to_universal.py."
                )
            found.append((int(match[2] or 0), path.name))
    return [name for _, name in sorted(found)]


def _whole(tensor: StoredTensor, file: str, name: str) -> tuple[TensorSpec, tuple[Chunk, ...]]:
    """A tensor that lies in one file."""
    if not tensor.is_by_rows:
        raise IngredientError(f"{one_line(name)!r} is not stored row by row, so it cannot be read in ranges.")
    chunk = Chunk((0,), (tensor.numel,), file, tensor.start, flat=True)
    return TensorSpec(name, tensor.shape, tensor.dtype, file), (chunk,)


def _of_universal(place: Path, prefix: str) -> Iterator[tuple[str, tuple[TensorSpec, tuple[Chunk, ...]]]]:
    """The parameters of a universal checkpoint."""
    for folder in sorted((place / UNIVERSAL).iterdir()):
        if (folder / WEIGHTS).is_file():
            saved = read_archive(folder / WEIGHTS)
            tensor = saved["param"] if isinstance(saved, dict) else saved
            yield folder.name, _whole(tensor, f"{prefix}{UNIVERSAL}/{folder.name}/{WEIGHTS}", folder.name)


def _of_partitions(
    place: Path, prefix: str, model: Mapping[str, Any], model_files: Sequence[str], optim_files: Sequence[str]
) -> Iterator[tuple[str, tuple[TensorSpec, tuple[Chunk, ...]]]]:
    """The parameters of the states of all processes."""
    if not optim_files:
        raise IngredientError(f"{place} has no states of the optimizer, which hold the weights of ZeRO.")
    states = [read_archive(place / file)["optimizer_state_dict"] for file in optim_files]
    count = states[0]["partition_count"]
    count = max(count) if isinstance(count, (list, tuple)) else count
    if count != len(states):
        raise IngredientError(f"{place} has the parts of {len(states)} of {count} processes: others are missing.")
    in_groups = "single_partition_of_fp32_groups" in states[0]  # stages 1 and 2
    files = [prefix + file for file in optim_files]
    shapes = [dict(group) for group in model["param_shapes"]]
    if in_groups:
        groups = [state["single_partition_of_fp32_groups"] for state in states]
        paddings = states[0].get("param_alignment_paddings")
        parameters = _in_groups(shapes, groups, files, paddings)
    else:
        parameters = _one_by_one(shapes, [state["fp32_flat_groups"] for state in states], files)
    for name, spec, chunks in parameters:
        yield name, (spec, chunks)
    yield from _frozen(place, prefix, model_files, [model] if in_groups else None)


def _frozen(
    place: Path, prefix: str, model_files: Sequence[str], models: Sequence[Mapping[str, Any]] | None
) -> Iterator[tuple[str, tuple[TensorSpec, tuple[Chunk, ...]]]]:
    """Parameters that are not trained, which lie in the states of the model: whole, or divided among all of them."""
    models = models or [read_archive(place / file) for file in model_files]
    shapes = dict(models[0].get("frozen_param_shapes") or {})
    for name, shape in shapes.items():
        parts = [each["frozen_param_fragments"][name] for each in models]
        spec = TensorSpec(name, tuple(shape), parts[0].dtype, prefix + model_files[0])
        chunks, first = [], 0
        for part, file in zip(parts, model_files, strict=False):
            numel = min(part.numel, spec.numel - first)
            if numel > 0:
                chunks.append(Chunk((first,), (numel,), prefix + file, part.start, flat=True))
            first += part.numel
        yield name, (spec, tuple(chunks))


def _in_groups(
    shapes: Sequence[Mapping[str, Sequence[int]]],
    groups: Sequence[Sequence[StoredTensor]],
    files: Sequence[str],
    paddings: Sequence[Sequence[int]] | None,
) -> Iterator[tuple[str, TensorSpec, tuple[Chunk, ...]]]:
    """Parameters that lie one after the other in a vector, of which each process has a part (stages 1 and 2).

    Args:
        shapes (`Sequence[Mapping[str, Sequence[int]]]`):
            For each group, the shapes of its parameters in their order.
        groups (`Sequence[Sequence[StoredTensor]]`):
            For each process, its parts of the vectors of all groups.
        files (`Sequence[str]`):
            The file of each process.
        paddings (`Sequence[Sequence[int]]`, *optional*):
            For each group, how many numbers follow after each parameter that belong to none.
    """
    for number, group in enumerate(shapes):
        parts = [of_process[number] for of_process in groups]
        first = 0
        for place, (name, shape) in enumerate(group.items()):
            spec = TensorSpec(name, tuple(shape), parts[0].dtype, files[0])
            chunks, begin = [], 0  # of the part in the vector
            for part, file in zip(parts, files, strict=True):
                low, high = max(first, begin), min(first + spec.numel, begin + part.numel)
                if low < high:
                    start = part.start + (low - begin) * spec.itemsize
                    chunks.append(Chunk((low - first,), (high - low,), file, start, flat=True))
                begin += part.numel
            yield name, spec, tuple(chunks)
            first += spec.numel + (paddings[number][place] if paddings else 0)


def _one_by_one(
    shapes: Sequence[Mapping[str, Sequence[int]]], groups: Sequence[Sequence[StoredTensor]], files: Sequence[str]
) -> Iterator[tuple[str, TensorSpec, tuple[Chunk, ...]]]:
    """Parameters that are each divided among all processes (stage 3); the arguments are those of [`_in_groups`]."""
    first = 0  # of the parts of a process, one after the other over its vectors
    for group in shapes:
        for name, shape in group.items():
            spec = TensorSpec(name, tuple(shape), groups[0][0].dtype, files[0])
            size = math.ceil(spec.numel / len(files))
            chunks = []
            for process, (vectors, file) in enumerate(zip(groups, files, strict=True)):
                begin = 0  # of the vector
                for vector in vectors:
                    low, high = max(first, begin), min(first + size, begin + vector.numel)
                    offset = process * size + low - first
                    numel = min(high - low, spec.numel - offset)
                    if numel > 0:
                        start = vector.start + (low - begin) * spec.itemsize
                        chunks.append(Chunk((offset,), (numel,), file, start, flat=True))
                    begin += vector.numel
            yield name, spec, tuple(chunks)
            first += size
