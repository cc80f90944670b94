"""`verify`: cook a published soup again from its ingredients, and compare every tensor with what was published.

Nothing is saved, and no model is held in memory: both go by piece by piece.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .api import cook_recipe, needs_base
from .checkpoints.check import is_statistic
from .checkpoints.checkpoint import Checkpoint, make_ready
from .checkpoints.digest import bytes_of
from .checkpoints.files import OpenFiles
from .checkpoints.files_beside import sizes_in
from .checkpoints.hub import files_at
from .checkpoints.reader import TensorSpec
from .checkpoints.source import open_checkpoint, problems_of
from .errors import SoupError
from .merging.blend import blend, file_digests
from .merging.in_memory import output_config
from .recipes import BATCHNORM_FILE, load_hub_recipe, load_recipe
from .tables import align


if TYPE_CHECKING:
    import torch

    from .soup import Soup

SHOWN = 20  # tensors that differ
WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt")


class TensorDifference(NamedTuple):
    """One tensor that is not what the recipe makes.

    Args:
        name (`str`):
            Of the tensor.
        differing (`int`):
            How many of its elements differ in their bits.
        elements (`int`):
            Of how many.
        largest (`float`):
            The largest absolute difference; infinite where one of the two is no number.
    """

    name: str
    differing: int
    elements: int
    largest: float


@dataclass(frozen=True)
class Verification:
    """Whether a published soup is what its recipe says.

    Args:
        source (`str`):
            The soup.
        identical (`int`):
            How many tensors have the same bits.
        recorded (`int`, *optional*):
            How many of these are running statistics of BatchNorm, which are recorded beside the recipe and cannot be
            computed again without the data.
        different (`tuple[TensorDifference, ...]`, *optional*):
            Those that differ.
        problems (`tuple[str, ...]`, *optional*):
            What kept it from being cooked again: an ingredient that is gone, changed or private, a tensor that one of
            the two lacks.
    """

    source: str
    identical: int
    recorded: int = 0
    different: tuple[TensorDifference, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every tensor is identical."""
        return self.identical > 0 and not self.different and not self.problems

    def table(self) -> str:
        """The result in words, with a line for each tensor that differs."""
        if self.ok:
            noted = f", {self.recorded} of them BatchNorm statistics that are recorded" if self.recorded else ""
            return f"verified: {self.identical} tensors identical{noted}"
        lines = [f"not verified: {self.source}", *(f"- {problem}" for problem in self.problems)]
        if self.different:
            count = self.identical + len(self.different)
            lines += [f"- {len(self.different)} of {count} tensors differ from what the recipe makes", ""]
            rows = [
                [item.name, f"{item.differing:,} of {item.elements:,}", f"{item.largest:.3g}"]
                for item in self.different[:SHOWN]
            ]
            lines.append(align([["tensor", "elements that differ", "largest difference"], *rows]))
            more = len(self.different) - SHOWN
            lines += [f"... and {more} more."] if more > 0 else []
        return "\n".join(lines)


def verify(
    soup: str | os.PathLike, *, allow_pickle: bool = False, allow_code: bool = False, device: str = "cpu"
) -> Verification:
    """Fetch a soup's recipe and its ingredients at their commits, cook it again and compare every tensor.

    Args:
        soup (`str` or `os.PathLike`):
            The Hub id of a soup (`user/soup`, `user/soup@v1`), or the folder of one.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            As for [`merge`].
        allow_code (`bool`, *optional*, defaults to `False`):
            As for [`cook`]: import and call a method that is not of this package.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.

    Returns:
        [`Verification`]: `.ok`, and what differs by how much; `.table()` says it.

    Raises:
        [`RecipeError`]: if it has no recipe that can be read, or one with a method that is not allowed.
        [`IngredientError`]: if the soup itself cannot be opened.
    """
    saved = open_checkpoint(soup)  # at one commit, whose recipe is looked at
    source, commit = saved.ingredient.source, saved.ingredient.revision
    if commit:
        recipe = load_hub_recipe(source, commit, allow_code=allow_code)
    else:
        recipe = load_recipe(saved.folder, allow_code=allow_code)
    base = recipe.base_model if needs_base(recipe.method) or recipe.base_inside else None
    problems = problems_of([*recipe.ingredients, *([base] if base else [])], allow_pickle=allow_pickle)
    if problems:
        return Verification(os.fspath(soup), 0, problems=tuple(problems))
    try:
        cooked = cook_recipe(recipe, device=device, allow_pickle=allow_pickle)
        return _compared(os.fspath(soup), cooked, saved)
    except SoupError as error:  # an ingredient has other weights than those that were poured, or does not fit
        return Verification(os.fspath(soup), 0, problems=(str(error),))


def _other_files(saved: Checkpoint) -> list[str]:
    """Files that transformers may load instead of the weights, or on top of them."""
    ours = {*saved.ingredient.files, BATCHNORM_FILE}
    source, commit = saved.ingredient.source, saved.ingredient.revision
    there = files_at(source, commit) if commit else sizes_in(saved.folder)
    weights = (name for name in there if name.endswith(WEIGHTS) or name == "adapter_config.json")
    return [f"{name} is there too, and may be loaded instead" for name in sorted(weights) if name not in ours]


def _other_settings(cooked: Soup, saved: Checkpoint) -> list[str]:
    """What the configuration says otherwise than that which the recipe makes: labels, activations, sizes."""
    made = output_config(cooked.plan)
    keys = sorted({*made, *saved.config} - {"transformers_version"})
    return [
        f"config.json has {key} = {str(saved.config.get(key))[:60]}, and the recipe makes {str(made.get(key))[:60]}"
        for key in keys
        if saved.config.get(key) != made.get(key)
    ]


def _compared(source: str, cooked: Soup, saved: Checkpoint) -> Verification:
    make_ready([saved])
    plan, statistics = cooked.plan, cooked.statistics
    specs = {spec.name: spec for spec in plan.specs}
    beside = _other_files(saved) + _other_settings(cooked, saved)
    problems = [f"{name} is in the soup, and the recipe makes none" for name in saved.specs if name not in specs]
    for name, spec in specs.items():
        there = saved.specs.get(name)
        if there is None:
            problems.append(f"the soup has no {name}, which the recipe makes")
        elif (there.shape, there.dtype) != (spec.shape, spec.dtype):
            problems.append(f"{name} is {_kind(there)} in the soup, and the recipe makes {_kind(spec)}")
    if problems:
        return Verification(source, 0, problems=(*beside, *problems))
    found: dict[str, tuple[int, float]] = {}
    lock = threading.Lock()

    def sink(name: str, start: int, elements: torch.Tensor) -> None:
        if name not in statistics:
            compare(name, start, elements)

    def compare(name: str, start: int, elements: torch.Tensor) -> None:
        made = bytes_of(elements)
        there = bytearray(len(made))
        saved.read_into(files, name, start, memoryview(there))
        if made != there:
            count, largest = _difference(elements, there)
            with lock:
                before = found.get(name, (0, 0.0))
                found[name] = before[0] + count, max(before[1], largest)

    with OpenFiles() as files:
        read = blend(plan, cooked.checkpoints, sink, digests=True, device=cooked.device)
        for item, digests in zip(cooked.checkpoints, read, strict=False):  # folders may have changed since
            file_digests(item, digests)
        for name, tensor in statistics.items():
            compare(name, 0, tensor.reshape(-1))
    different = tuple(
        TensorDifference(name, count, specs[name].numel, largest) for name, (count, largest) in sorted(found.items())
    )
    recorded = sum(is_statistic(name) for name in statistics)
    return Verification(source, len(specs) - len(different), recorded, different, tuple(beside))


def _difference(made: torch.Tensor, there: bytearray) -> tuple[int, float]:
    """How many elements differ in their bits, and by how much at most."""
    import torch

    made = made.detach().cpu()
    other = torch.frombuffer(there, dtype=made.dtype)
    size = made.dtype.itemsize
    bits = made.contiguous().view(torch.uint8) != other.view(torch.uint8)
    apart = (made.double() - other.double()).abs()
    largest = float(apart.nan_to_num(nan=float("inf")).max())
    return int(bits.view(-1, size).any(1).sum()), largest


def _kind(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"
