"""The running statistics of BatchNorm in a soup: estimated on training data, or read from the file beside its recipe.

How those of one model are estimated is in `batchnorm.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.digest import combined_digest, tensor_digest
from ..checkpoints.memory import tensors_on_disk
from ..errors import IngredientError
from ..formats.recipe_file import BATCHNORM_FILE
from ..merging.in_memory import cook_in_memory
from ..merging.plan import Plan
from ..types import BatchNormRecord, Recipe
from ..untrusted import as_error
from .model_maker import estimate_again


if TYPE_CHECKING:
    import torch

    from .evaluator import Evaluator


def running_statistics(
    recipe: Recipe,
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    data: Evaluator | None = None,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """The tensors of a soup that are estimated rather than averaged, by their names on disk.

    Args:
        recipe ([`Recipe`]):
            Of the soup.
        plan ([`Plan`]):
            What the recipe does, tensor by tensor.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        data ([`Evaluator`], *optional*):
            The training data to estimate them on. Without it they are read from the file that the recipe names.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average the model that they are estimated of.

    Returns:
        `dict[str, torch.Tensor]`: empty where the recipe does not say that they are estimated.

    Raises:
        [`IngredientError`]: if the file is not there, or holds other statistics than the recipe was made with.
    """
    if recipe.batchnorm is None:
        return {}
    if data is None:
        return read_statistics(recipe, plan)
    import torch

    model = estimate_again(cook_in_memory(plan, checkpoints, device=device), data)
    tensors = tensors_on_disk(model)
    statistics = {}
    for spec in plan.specs:
        if is_statistic(spec.name):
            statistics[spec.name] = tensors[spec.name].to("cpu", getattr(torch, spec.dtype))
    return statistics


def write_statistics(folder: Path, statistics: Mapping[str, torch.Tensor]) -> str:
    """Write the file of the statistics, without which a recipe that estimates them cannot be cooked again.

    Args:
        folder (`Path`):
            That of the recipe.
        statistics (`Mapping[str, torch.Tensor]`):
            By their names on disk.

    Returns:
        `str`: a digest of the tensors, which the recipe records.
    """
    from safetensors.torch import save_file

    save_file(dict(statistics), folder / BATCHNORM_FILE)
    return _digest(statistics)


def read_statistics(recipe: Recipe, plan: Plan) -> dict[str, torch.Tensor]:
    """The statistics that were written with a recipe, if they are the same still."""
    from safetensors.torch import load_file

    record = recipe.batchnorm or BatchNormRecord()
    path = record.file
    with as_error(IngredientError, f"the recipe estimates BatchNorm on data, and its file cannot be read: {path}"):
        if path is None or not os.path.isfile(path):  # opening a named pipe would wait for a writer
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        statistics = load_file(path)
    names = {spec.name for spec in plan.specs if is_statistic(spec.name)}
    if set(statistics) != names or _digest(statistics) != record.digest:
        raise IngredientError(f"{path} does not hold the running statistics that the recipe was made with.")
    return statistics


def _digest(statistics: Mapping[str, torch.Tensor]) -> str:
    """A digest of the tensors, whatever the file around them looks like."""
    return combined_digest({name: tensor_digest(tensor) for name, tensor in statistics.items()})
