"""Writes the weights of a soup, and adds to the recipe the digests of what was read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.adapter import AdapterCheckpoint
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.digest import Digests, combined_digest
from ..checkpoints.files import OpenFiles
from ..checkpoints.output_layout import lay_out
from ..checkpoints.pieces import PIECE, in_threads, piece_starts
from ..checkpoints.reader import TensorSpec
from ..checkpoints.writer import write_indexes
from ..errors import warn
from ..evaluation.running_statistics import write_statistics
from ..formats.recipe_file import BATCHNORM_FILE
from ..merging.output import Digested, make_shards
from ..merging.plan import Plan
from ..merging.read_ahead import BASE
from ..merging.recorded import as_read, file_digests
from ..types import Ingredient, OutputRecord, Recipe
from ..untrusted import one_line
from ..version import versions


if TYPE_CHECKING:
    import torch

MOST_BYTES = 16  # of one element: complex128


def write_weights(
    folder: Path,
    recipe: Recipe,
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    statistics: Mapping[str, torch.Tensor],
    max_shard_size: int | str = "50GB",
    device: str = "cpu",
    row_giver: Checkpoint | None = None,
) -> Recipe:
    """Average the ingredients into weight files, tensor by tensor, and write estimated BatchNorm statistics.

    Args:
        folder (`Path`):
            Existing folder to write to.
        recipe ([`Recipe`]):
            Recipe of the soup.
        plan ([`Plan`]):
            Plan of the recipe.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe.
        statistics (`Mapping[str, torch.Tensor]`):
            Tensors that replace averages, as returned by [`running_statistics`].
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
            Maximum size of a weight file, as in transformers.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        row_giver (`Checkpoint`, *optional*):
            The base model, if rows of a common vocabulary come from it.

    Returns:
        [`Recipe`]: the recipe with the digests of the ingredients' and the soup's weights, and the versions in use.

    Raises:
        [`IngredientError`]: if an ingredient contains NaN, or has changed since the recipe was made.
    """
    layout = lay_out(plan.specs, max_shard_size)
    digested = make_shards(folder, layout.shards, plan, checkpoints, statistics=statistics, device=device)
    write_indexes(folder, layout)
    return with_digests(folder, recipe, plan, checkpoints, digested, statistics=statistics, row_giver=row_giver)


def with_digests(
    folder: Path,
    recipe: Recipe,
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    digested: Digested,
    *,
    statistics: Mapping[str, torch.Tensor],
    row_giver: Checkpoint | None = None,
) -> Recipe:
    """The recipe with what was read and written, and the file of BatchNorm statistics that it names.

    Args:
        digested ([`Digested`]):
            What was read and written.
        folder (`Path`), recipe ([`Recipe`]), plan ([`Plan`]), checkpoints (`Sequence[Checkpoint]`), statistics
            (`Mapping[str, torch.Tensor]`), row_giver (`Checkpoint`, *optional*):
            As for [`write_weights`].

    Raises:
        [`IngredientError`]: if an ingredient has changed since the recipe was made.
    """
    ingredients = []
    for place, checkpoint in enumerate(checkpoints):
        ingredients.append(as_read(checkpoint, digested.read[place], digested.verified[place]))
    base = recipe.base_model
    if base is not None and plan.base is not None:
        read = as_read(plan.base, digested.read[BASE], digested.verified[BASE])
        base = replace(base, files=read.files, tensors=read.tensors)
    elif base is not None and row_giver is not None:
        base = replace(base, files=file_digests(row_giver, row_giver.digests_apart()))
    elif base is not None:
        base = replace(base, files=digests_under_adapters(base, checkpoints))
    batchnorm = recipe.batchnorm
    if statistics and batchnorm is not None:
        batchnorm = replace(batchnorm, file=BATCHNORM_FILE, digest=write_statistics(folder, statistics))
    return replace(
        recipe,
        ingredients=tuple(ingredients),
        base_model=base,
        adapter=None,
        batchnorm=batchnorm,
        output=OutputRecord(len(digested.written), combined_digest(digested.written)),
        versions=versions(),
    )


def digests_under_adapters(base: Ingredient, checkpoints: Sequence[Checkpoint]) -> Mapping[str, str]:
    """The digests of the base model's files, which adapters read; those known before, if there are no adapters.

    Args:
        base ([`Ingredient`]):
            The base model of a recipe.
        checkpoints (`Sequence[Checkpoint]`):
            The recipe's ingredients.

    Raises:
        [`IngredientError`]: if it has other weights than the recipe records.
    """
    for item in checkpoints:
        if isinstance(item, AdapterCheckpoint) and not item.base.on_hub and not item.base.in_memory:
            return file_digests(item.base, _digests_of(item.base))
    return base.files


def _digests_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The digest of each tensor, from pieces that are read by several threads."""
    digests = Digests()
    places = []
    for name, spec in checkpoint.specs.items():
        digests.expect(name, spec.numel)
        places += [(spec, start) for start in piece_starts(spec.numel)]
    with OpenFiles() as files:

        def make_worker() -> Callable[[tuple[TensorSpec, int]], None]:
            buffer = memoryview(bytearray(PIECE * MOST_BYTES))

            def work(place: tuple[TensorSpec, int]) -> None:
                spec, start = place
                piece = buffer[: min(PIECE, spec.numel - start) * spec.itemsize]
                checkpoint.read_into(files, spec.name, start, piece)
                digests.add(spec.name, start, piece, spec.itemsize)

            return work

        in_threads(places, make_worker, with_torch=checkpoint.computes)
    return digests.result()


def warn_of_another_digest(recipe: Recipe, written: Recipe) -> None:
    """Warn if cooking a recipe again has made other weights than it records.

    Args:
        recipe ([`Recipe`]):
            Recipe as it was read.
        written ([`Recipe`]):
            Same recipe, with the digest of the written weights.
    """
    if recipe.output is None or written.output is None or recipe.output.digest == written.output.digest:
        return
    warn(
        f"the soup's digest is {written.output.digest}, the recipe says {recipe.output.digest}: it was changed, or "
        f"made with other versions ({one_line(recipe.versions)})."
    )
