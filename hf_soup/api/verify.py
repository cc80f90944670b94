"""`verify`: cook a published soup again from its ingredients, and compare every tensor with the published one.

Nothing is saved, and no model is held in memory: both are read piece by piece.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint, make_ready
from ..checkpoints.companion_files import sizes_in
from ..checkpoints.digest import bytes_of, tensor_of
from ..checkpoints.files import OpenFiles
from ..checkpoints.hub import files_at
from ..checkpoints.importance import FOLDER
from ..checkpoints.inside import json_inside
from ..checkpoints.other_contents import ADAPTER, ADAPTER_WEIGHTS
from ..checkpoints.reader import TensorSpec
from ..checkpoints.source import open_checkpoint
from ..checkpoints.staging import temporary_folder
from ..checkpoints.store import Store, is_address
from ..checkpoints.streaming import stream_weights
from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, SoupError
from ..formats.recipe_file import BATCHNORM_FILE, load_hub_recipe, load_recipe
from ..merging.blend import blend
from ..merging.in_memory import output_config
from ..merging.plan import Plan
from ..merging.read_ahead import reading_along
from ..merging.recorded import as_read
from ..options import answers_keywords
from ..publishing.adapter_weights import write_adapter
from ..publishing.weights import digests_under_adapters
from ..types import AdapterRecord
from .from_recipe import bind_recipe, open_recipe
from .soup import Soup


if TYPE_CHECKING:
    import torch


SHOWN = 20  # differing tensors in the table
WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt")


class TensorDifference(NamedTuple):
    """A tensor that differs from the one that the recipe makes.

    Args:
        name (`str`):
            Name of the tensor.
        differing (`int`):
            Number of elements with different bits.
        elements (`int`):
            Number of elements of the tensor.
        largest (`float`):
            Largest absolute difference; infinite if one of the two values is NaN.
    """

    name: str
    differing: int
    elements: int
    largest: float


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """Whether a published soup is identical to what its recipe makes.

    Args:
        source (`str`):
            Folder or Hub id of the soup.
        identical (`int`):
            Number of tensors with the same bits.
        recorded (`int`, *optional*):
            Number of identical tensors that are BatchNorm running statistics. These are stored beside the recipe and
            cannot be computed again without the data.
        different (`tuple[TensorDifference, ...]`, *optional*):
            Tensors that differ.
        problems (`tuple[str, ...]`, *optional*):
            Reasons why the soup could not be cooked again or compared: a missing, changed or private ingredient, or a
            tensor that only one of the two has.
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
        """The result as text, with a line for each tensor that differs."""
        if self.ok:
            noted = f", {self.recorded} of them BatchNorm statistics that are recorded" if self.recorded else ""
            return f"verified: {self.identical} tensors identical{noted}"
        lines = [f"not verified: {self.source}", *(f"- {problem}" for problem in self.problems)]
        if self.different:
            count = self.identical + len(self.different)
            lines += [f"- {len(self.different)} of {count} tensors differ from what the recipe makes", ""]
            differences = [
                [item.name, f"{item.differing:,} of {item.elements:,}", f"{item.largest:.3g}"]
                for item in self.different[:SHOWN]
            ]
            lines.append(align([["tensor", "elements that differ", "largest difference"], *differences]))
            more = len(self.different) - SHOWN
            lines += [f"... and {more} more."] if more > 0 else []
        return "\n".join(lines)


@answers_keywords
def verify(
    soup: str | os.PathLike[str] | Soup,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    device: str = "cpu",
    stream: bool | None = None,
) -> Verification:
    """Cook a published soup again from its recipe, with the ingredients at their commits, and compare every tensor.

    Args:
        soup (`str`, `os.PathLike` or [`Soup`]):
            Hub id (`user/soup`, `user/soup@v1`) or folder of a soup, or a [`Soup`] that was saved or loaded.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        allow_code (`bool`, *optional*, defaults to `False`):
            Whether a method from outside of this package may be imported and called. Only for recipes that you trust.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        stream (`bool`, *optional*):
            Whether weights on the Hub, also those of the soup, are streamed instead of downloaded, as for [`merge`].

    Returns:
        [`Verification`]: `.ok`, and every difference; `.table()` lists them.

    Raises:
        [`RecipeError`]: if the soup has no readable recipe, or the recipe names a method that is not allowed.
        [`IngredientError`]: if the soup itself cannot be opened.
    """
    if isinstance(soup, Soup):
        if soup.saved_as is None:
            raise RecipeError("this soup was not saved, so there is nothing to verify: call save_pretrained first.")
        soup = soup.saved_as
    (saved,) = stream_weights([open_checkpoint(soup)], stream)  # pinned to one commit, before its recipe is read
    source, commit = saved.ingredient.source, saved.ingredient.revision
    if commit:
        recipe = load_hub_recipe(source, commit, allow_code=allow_code)
    else:
        recipe = load_recipe(source if is_address(source) else saved.folder or source, allow_code=allow_code)
    try:
        opened = open_recipe(recipe, allow_pickle=allow_pickle, stream=stream)
        if opened.errors:
            return Verification(os.fspath(soup), 0, problems=tuple(map(str, opened.errors)))
        cooked = bind_recipe(opened, device=device)
        if recipe.base_model is not None:
            digests_under_adapters(recipe.base_model, cooked.checkpoints)  # raises if the base model has changed
        if recipe.adapter is not None:
            return _compare_adapters(os.fspath(soup), cooked, saved)
        return _compare(os.fspath(soup), cooked, saved)
    except SoupError as error:  # an ingredient has other weights than those that were averaged, or does not fit
        return Verification(os.fspath(soup), 0, problems=(str(error),))


def _compare(source: str, cooked: Soup, saved: Checkpoint) -> Verification:
    make_ready([saved])
    notes = [*_other_files(saved), *_other_settings(cooked, saved)]
    problems = _other_tensors(cooked.plan, saved)
    if problems:
        return Verification(source, 0, problems=(*notes, *problems))
    statistics = cooked.statistics
    differences = _differing_tensors(cooked, saved, statistics)
    return Verification(
        source,
        identical=len(cooked.plan.steps) - len(differences),
        recorded=sum(is_statistic(name) for name in statistics),
        different=tuple(differences),
        problems=tuple(notes),
    )


def _compare_adapters(source: str, cooked: Soup, saved: Checkpoint) -> Verification:
    """Make the adapter again, and compare it with the published one."""
    from safetensors.torch import load_file

    make_ready([saved])
    record = cooked.recipe.adapter or AdapterRecord()
    with temporary_folder() as folder:
        write_adapter(folder, cooked.plan, cooked.checkpoints, record.rank, cooked.recipe.dtype)
        made = load_file(folder / ADAPTER_WEIGHTS)
        made_config = json_inside(folder, ADAPTER)
    published = load_file(saved.weights_folder / ADAPTER_WEIGHTS)
    problems = _other_files(saved)
    config = json_inside(saved.weights_folder, ADAPTER)
    for key in sorted({*made_config, *config} - {"base_model_name_or_path"}):  # the recipe names the base model
        if made_config.get(key) != config.get(key):
            problems.append(f"{ADAPTER} has {key} = {str(config.get(key))[:60]}, and the recipe makes another")
    base, named = cooked.recipe.base_model, config.get("base_model_name_or_path")
    if base is not None and named not in (base.source, base.name):  # folders are published by their names
        problems.append(f"{ADAPTER} names the base model {str(named)[:60]}, and the recipe {base.source}")
    problems += [f"{name} is only in one of the two adapters" for name in sorted(made.keys() ^ published.keys())]
    differences = []
    for name in sorted(made.keys() & published.keys()):
        if made[name].shape != published[name].shape or made[name].dtype != published[name].dtype:
            problems.append(f"{name} has another shape or type than the recipe makes")
            continue
        count, largest = _difference(made[name].reshape(-1), bytearray(bytes_of(published[name])))
        if count:
            differences.append(TensorDifference(name, count, made[name].numel(), largest))
    identical = len(made.keys() & published.keys()) - len(differences)
    return Verification(source, identical, different=tuple(differences), problems=tuple(problems))


def _other_files(saved: Checkpoint) -> list[str]:
    """Files that transformers may load instead of the weights, or on top of them."""
    source, commit = saved.ingredient.source, saved.ingredient.revision
    if commit:
        names = set(files_at(source, commit))
    elif is_address(source):
        names = set(Store(source).files())
    else:
        names = set(sizes_in(saved.folder)) if saved.folder is not None else set()
    ours = {*saved.ingredient.files, BATCHNORM_FILE}
    others = []
    for name in sorted(names - ours):
        is_statistics = name.startswith(f"{FOLDER}/")  # of the soup's weights
        if name == ADAPTER or (name.endswith(WEIGHTS) and not is_statistics):
            others.append(name)
    return [f"{name} is there too, and may be loaded instead" for name in others]


def _other_settings(cooked: Soup, saved: Checkpoint) -> list[str]:
    """Differences between the published configuration and that of the recipe: labels, activations, sizes."""
    made = output_config(cooked.plan)
    problems = []
    for key in sorted({*made, *saved.config} - {"transformers_version"}):
        value, made_value = saved.config.get(key), made.get(key)
        if value != made_value:
            shown, made_shown = str(value)[:60], str(made_value)[:60]
            problems.append(f"config.json has {key} = {shown}, and the recipe makes {made_shown}")
    return problems


def _other_tensors(plan: Plan, saved: Checkpoint) -> list[str]:
    """Tensors that only one of the two has, or that differ in shape or type."""
    specs = {spec.name: spec for spec in plan.specs}
    problems = [f"{name} is in the soup, and the recipe makes none" for name in saved.specs if name not in specs]
    for name, spec in specs.items():
        published = saved.specs.get(name)
        if published is None:
            problems.append(f"the soup has no {name}, which the recipe makes")
        elif (published.shape, published.dtype) != (spec.shape, spec.dtype):
            problems.append(f"{name} is {_kind(published)} in the soup, and the recipe makes {_kind(spec)}")
    return problems


def _differing_tensors(
    cooked: Soup, saved: Checkpoint, statistics: Mapping[str, torch.Tensor]
) -> list[TensorDifference]:
    """Average again, and compare with the published weights piece by piece.

    Raises:
        [`IngredientError`]: if an ingredient has other weights than those that the recipe records.
    """
    plan = cooked.plan
    differences: dict[str, tuple[int, float]] = {}  # tensor -> number of differing elements, largest difference
    lock = threading.Lock()

    def compare(name: str, start: int, made: memoryview) -> None:
        published = bytearray(len(made))
        saved.read_into(files, name, start, memoryview(published))
        if made != published:
            count, largest = _difference(tensor_of(made, saved.specs[name].dtype), published)
            with lock:
                count_before, largest_before = differences.get(name, (0, 0.0))
                differences[name] = count_before + count, max(largest_before, largest)

    def sink(name: str, start: int, content: memoryview) -> None:
        if name not in statistics:
            compare(name, start, content)

    with OpenFiles() as files, reading_along(saved, plan, cooked.checkpoints):
        digests = blend(plan, cooked.checkpoints, sink, digests=True, device=cooked.device)
        for item, of_item in zip(cooked.checkpoints, digests, strict=False):  # digests of the base model come last
            as_read(item, of_item)  # raises if the ingredient has changed
        for name, tensor in statistics.items():
            compare(name, 0, bytes_of(tensor))
    sizes = {spec.name: spec.numel for spec in plan.specs}
    return [TensorDifference(name, count, sizes[name], top) for name, (count, top) in sorted(differences.items())]


def _difference(made: torch.Tensor, published: bytearray) -> tuple[int, float]:
    """The number of elements with different bits, and the largest difference."""
    import torch

    made = made.detach().cpu()
    other = torch.frombuffer(published, dtype=made.dtype)
    different_bytes = made.contiguous().view(torch.uint8) != other.view(torch.uint8)
    distance = (made.double() - other.double()).abs()
    largest = float(distance.nan_to_num(nan=float("inf")).max())
    return int(different_bytes.view(-1, made.dtype.itemsize).any(1).sum()), largest


def _kind(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"
