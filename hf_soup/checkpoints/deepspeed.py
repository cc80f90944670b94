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

from ..errors import IngredientError, listed
from ..untrusted import as_error, one_line
from .distributed import Chunk, Distributed
from .inside import is_there, place_of, read_inside
from .reader import TensorSpec
from .torch_archive import Inert, StoredTensor, read_archive


LATEST = ("latest", "latest_universal")  # files with the name of the folder that holds the states
OF_EXPERTS = ("ds_autoep_layers", "autoep_layers")  # states of experts that are divided in a way of their own
LONGEST_NAME = 1000  # bytes of the name of a folder
MODEL_STATES = re.compile(r"(zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
OPTIM_STATES = re.compile(r"(bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
UNIVERSAL = "zero"  # the folder with a folder for each parameter
WEIGHTS = "fp32.pt"


def zero_folder(folder: Path) -> str | None:
    """The folder in a checkpoint that holds the states of DeepSpeed; `None` if none does."""
    for file in LATEST:
        if is_there(folder, file):
            with as_error(IngredientError, f"{folder / file} cannot be read"):
                name = read_inside(folder, file, at_most=LONGEST_NAME).decode("utf-8", errors="replace").strip()
                if name not in ("", ".", "..") and Path(name).name == name and (folder / name).is_dir():
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
    place = place_of(folder, inner)
    prefix = f"{inner}/" if inner else ""
    is_universal = (place / UNIVERSAL).is_dir()
    model_files = _files_of(place, MODEL_STATES, parallel=is_universal)
    if not model_files:
        raise IngredientError(f"{place} has no file with the states of a model.")
    with as_error(IngredientError, f"{place} does not hold the states of DeepSpeed"):
        model = read_archive(place_of(place, model_files[0]))
        for key in OF_EXPERTS:
            if model.get(key):
                raise IngredientError(
                    f"{place} has experts that are divided among groups of processes. Convert it with DeepSpeed."
                )
        if is_universal:
            parts = dict(_of_universal(place, prefix, model))
            files = [model_files[0], *(own[0].file.removeprefix(prefix) for _, own in parts.values())]
            names = list(model.get("buffer_names") or ())
        else:
            optim_files = _files_of(place, OPTIM_STATES)
            files = [*model_files, *optim_files]
            parts = dict(_of_partitions(place, prefix, model, model_files, optim_files))
            names = list(model["module"] or ())  # parameters that are not trained, with stage 1; empty with stage 3
        for name in names:
            tensor = model["module"].get(name)
            if isinstance(tensor, Inert):
                raise IngredientError(f"{one_line(name)!r} is no plain tensor in {model_files[0]}.")
            if name not in parts and isinstance(tensor, StoredTensor) and tensor.numel:
                parts[name] = _whole(tensor, prefix + model_files[0], name)
        for alias, name in dict(model.get("shared_params") or {}).items():
            if name in parts:
                parts[alias] = (parts[name][0]._replace(name=alias), parts[name][1])
    specs = {name: spec for name, (spec, _) in parts.items()}
    chunks = {name: own for name, (_, own) in parts.items()}
    latest = [file for file in LATEST if inner and is_there(folder, file)]
    return Distributed(specs, chunks, (*(prefix + file for file in files), *latest))


def _files_of(place: Path, pattern: re.Pattern[str], *, parallel: bool = False) -> list[str]:
    """The files of one kind in the order of processes.

    Args:
        place (`Path`), pattern (`re.Pattern[str]`):
            Folder, and the names of the files.
        parallel (`bool`, *optional*, defaults to `False`):
            Whether there may be files of several tensor-parallel processes, of which the first is taken.

    Raises:
        [`IngredientError`]: if there are, or one of a process is missing.
    """
    found = []
    for path in place.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            if int(match[3]) and parallel:
                continue
            if int(match[3]):
                raise IngredientError(
                    f"{place} holds a model that is divided among tensor-parallel processes, too ({path.name}). "
                    "Convert it with DeepSpeed's ds_to_universal.py."
                )
            found.append((int(match[2] or 0), path.name))
    found.sort()
    if [process for process, _ in found] != list(range(len(found))):
        raise IngredientError(f"{place} has not one file of each process, but {listed([name for _, name in found])}.")
    return [name for _, name in found]


def _whole(tensor: StoredTensor, file: str, name: str) -> tuple[TensorSpec, tuple[Chunk, ...]]:
    """A tensor that lies in one file."""
    if not tensor.is_by_rows:
        raise IngredientError(f"{one_line(name)!r} is not stored row by row, so it cannot be read in ranges.")
    chunk = Chunk((0,), (tensor.numel,), file, tensor.start, flat=True)
    return TensorSpec(name, tensor.shape, tensor.dtype, file), (chunk,)


def _of_universal(
    place: Path, prefix: str, model: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[TensorSpec, tuple[Chunk, ...]]]]:
    """The parameters of a universal checkpoint, which has a file for each of them, some of them flat."""
    shapes = {name: tuple(shape) for group in model["param_shapes"] for name, shape in group.items()}
    shapes |= {name: tuple(shape) for name, shape in (model.get("frozen_param_shapes") or {}).items()}
    for name, shape in shapes.items():
        file = f"{UNIVERSAL}/{name}/{WEIGHTS}"
        if not is_there(place, file):
            raise IngredientError(
                f"{place} has no {file}: convert the checkpoint again, or use the one that it was made from."
            )
        saved = read_archive(place_of(place, file))
        tensor = saved.get("param") if isinstance(saved, dict) else saved
        if not isinstance(tensor, StoredTensor):
            raise IngredientError(f"{place / file} holds no tensor.")
        spec, chunks = _whole(tensor, prefix + file, name)
        if spec.numel != math.prod(shape):
            raise IngredientError(
                f"{place / file} has {spec.numel:,} numbers, and {one_line(name)!r} has the shape {list(shape)}: with "
                "tensor-parallel processes this is a part."
            )
        yield name, (spec._replace(shape=shape), chunks)


def _of_partitions(
    place: Path, prefix: str, model: Mapping[str, Any], model_files: Sequence[str], optim_files: Sequence[str]
) -> Iterator[tuple[str, tuple[TensorSpec, tuple[Chunk, ...]]]]:
    """The parameters of the states of all processes."""
    if not optim_files:
        raise IngredientError(f"{place} has no states of the optimizer, which hold the weights of ZeRO.")
    states = [read_archive(place_of(place, file))["optimizer_state_dict"] for file in optim_files]
    count = states[0]["partition_count"]
    count = max(count) if isinstance(count, (list, tuple)) else count
    if count != len(states):
        raise IngredientError(f"{place} has the parts of {len(states)} of {count} processes: others are missing.")
    in_groups = "single_partition_of_fp32_groups" in states[0]  # stages 1 and 2
    if states[0].get("ds_zero_partition_groups"):
        raise IngredientError(f"{place} divides parameters among groups of processes. Convert it with DeepSpeed.")
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
    models = models or [read_archive(place_of(place, file)) for file in model_files]
    shapes = dict(models[0].get("frozen_param_shapes") or {})
    for name, shape in shapes.items():
        parts = [each["frozen_param_fragments"][name] for each in models]
        _refuse_other_order(parts, name)
        spec = TensorSpec(name, tuple(shape), parts[0].dtype, prefix + model_files[0])
        chunks, first = [], 0
        for part, file in zip(parts, model_files[: len(parts)], strict=True):
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
        _refuse_other_order(parts, f"group {number}")
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
        _refuse_remainder(first, sum(part.numel for part in parts), 2 * len(files))


def _one_by_one(
    shapes: Sequence[Mapping[str, Sequence[int]]], groups: Sequence[Sequence[StoredTensor]], files: Sequence[str]
) -> Iterator[tuple[str, TensorSpec, tuple[Chunk, ...]]]:
    """Parameters that are each divided among all processes (stage 3); the arguments are those of [`_in_groups`]."""
    for vectors in groups:
        _refuse_other_order(vectors, "a vector")
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
    for vectors in groups:
        _refuse_remainder(first, sum(vector.numel for vector in vectors), 1)


def _refuse_other_order(parts: Sequence[StoredTensor], name: str) -> None:
    """Raise an error for parts that are not stored row by row, or differ in type."""
    if len({part.dtype for part in parts}) > 1 or not all(part.is_by_rows for part in parts):
        raise IngredientError(f"the parts of {one_line(name)} differ in type, or are not stored row by row.")


def _refuse_remainder(used: int, there: int, align: int) -> None:
    """Raise an error if parameters do not use all numbers of a vector, but for what it is filled up with.

    Raises:
        [`IngredientError`]: with both counts; then the parameters are not divided as it was taken for.
    """
    if math.ceil(used / align) != math.ceil(there / align):
        raise IngredientError(
            f"the parameters have {used:,} of {there:,} numbers that the processes have saved: some are divided in "
            "another way, such as experts. Convert the checkpoint with DeepSpeed."
        )
