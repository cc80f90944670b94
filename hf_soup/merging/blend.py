"""Plan -> a stream of (name, tensor). It has two sinks, a folder and a model in memory, and they get the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.check import equal_or_counter
from ..checkpoints.digest import combined_digest, tensor_digest
from ..checkpoints.source import Checkpoint
from ..errors import IncompatibleError, IngredientError, RecipeError
from ..methods.linear import linear
from .plan import Plan, Step


if TYPE_CHECKING:
    import torch


BASE = -1  # the base model's place among the digests


class Poured(NamedTuple):
    """One tensor of the soup, and what was read for it.

    Args:
        name (`str`):
            Its name on disk.
        tensor (`torch.Tensor`):
            Its values, in the type that the plan says.
        digests (`dict[int, str]`):
            xxh3-128 of what was read, by the ingredient's place in the recipe (-1: the base model), if asked for.
    """

    name: str
    tensor: torch.Tensor
    digests: dict[int, str]


def blend(plan: Plan, checkpoints: Sequence[Checkpoint], *, digests: bool = False) -> Iterator[Poured]:
    """Make the soup, one tensor after the other; memory holds two tensors of one name and the sum.

    Args:
        plan ([`Plan`]):
            What to do.
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients, in recipe order.
        digests (`bool`, *optional*, defaults to `False`):
            Whether the tensors that are read are hashed on the way.

    Yields:
        [`Poured`]: in the plan's order.

    Raises:
        [`IngredientError`]: if a tensor holds NaN or infinity, or a folder has changed since it was opened.
        [`IncompatibleError`]: if integer buffers differ that were not at hand for the check.
        [`RecipeError`]: if the result does not fit into the type that was asked for.
    """
    for item in (*checkpoints, *([plan.base] if plan.base else [])):
        item.refuse_change()
    for step in plan.steps:
        seen: dict[int, str] = {}
        tensors = _read(step, checkpoints, seen if digests else None)
        if step.copied:
            yield Poured(step.spec.name, _copy(step, tensors, checkpoints), seen)
            continue
        base = {"base": _read_wide(plan.base, BASE, step, seen if digests else None)} if step.base else {}
        yield Poured(step.spec.name, _combine(step, tensors, plan, base), seen)


def file_digests(checkpoint: Checkpoint, read: dict[str, str]) -> dict[str, str]:
    """What a recipe records of the files of an ingredient once they were read; the Hub's own digests stay as they are.

    Args:
        checkpoint ([`Checkpoint`]):
            The ingredient.
        read (`dict[str, str]`):
            Tensor name -> digest of each tensor that was read.

    Raises:
        [`IngredientError`]: if what was read is not what the recipe, or the look at a model in memory, recorded.
    """
    result = dict(checkpoint.ingredient.files)
    for file, recorded in result.items():
        if recorded.startswith("sha"):
            continue
        inside = {
            name: digest
            for name, digest in read.items()
            if checkpoint.in_memory or checkpoint.specs[name].file == file
        }
        if checkpoint.in_memory and len(inside) < len(checkpoint.specs):
            continue  # weight 0 somewhere: the digest of all tensors stays
        result[file] = combined_digest(inside)
        if recorded.startswith("xxh3") and recorded != result[file]:
            raise IngredientError(
                f"the weights of {checkpoint.name!r} are not those that the recipe was made from ({file} has changed)."
            )
    return result


def _read(step: Step, checkpoints: Sequence[Checkpoint], seen: dict[int, str] | None) -> Iterator[torch.Tensor]:
    for index in step.inputs:
        yield _read_wide(checkpoints[index], index, step, seen)


def _read_wide(item: Checkpoint, index: int, step: Step, seen: dict[int, str] | None) -> torch.Tensor:
    """One tensor in the type to sum in, as it is where it will be copied; its digest goes into `seen`."""
    import torch

    tensor = item.read(step.spec.name)
    if seen is not None:
        seen[index] = tensor_digest(tensor)
    if step.copied:
        return tensor
    wide = tensor.to(getattr(torch, step.accumulator))
    if not _finite(wide):
        raise IngredientError(
            f"{item.name!r} holds NaN or infinity in {step.spec.name}: that run diverged or was saved badly. "
            "Leave it out."
        )
    return wide


def _combine(step: Step, tensors: Iterator[torch.Tensor], plan: Plan, base: dict[str, torch.Tensor]) -> torch.Tensor:
    method = plan.method if step.base or plan.base is None else linear
    result = round_to(method(tensors, step.weights, **base), step.spec.dtype)
    if not _finite(result.float() if "float8" in step.spec.dtype else result):
        raise RecipeError(f"{step.spec.name} does not fit into {step.spec.dtype}. Choose a wider dtype.")
    return result


def _copy(step: Step, tensors: Iterator[torch.Tensor], checkpoints: Sequence[Checkpoint]) -> torch.Tensor:
    values = list(tensors)
    if not equal_or_counter(step.spec.name, values):
        names = ", ".join(checkpoints[index].name for index in step.inputs)
        raise IncompatibleError(
            [f"{names}: the {step.spec.dtype} buffer {step.spec.name} differs; it cannot be averaged"]
        )
    return values[0]


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite, in one pass and without a second tensor: a NaN wins both minimum and maximum."""
    if not tensor.numel():
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite()) and bool(high.isfinite())


def round_to(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Cast once, to the nearest value of the type.

    torch goes from float64 to 16 bits and fewer by way of float32 and so rounds twice. Rounding the first time to odd
    (cut off, and set the last bit if anything was lost) makes the second rounding right.

    Args:
        tensor (`torch.Tensor`):
            float32 or float64, finite.
        dtype (`str`):
            A floating-point type.
    """
    import torch

    target = getattr(torch, dtype)
    if tensor.dtype != torch.float64 or target.itemsize > 2:
        return tensor.to(target)
    near = tensor.to(torch.float32)
    bits = near.view(torch.int32)
    bits -= (near.double().abs() > tensor.abs()).int()  # back towards zero where the magnitude was rounded up
    bits |= (near.double() != tensor).int()
    return near.to(target)
