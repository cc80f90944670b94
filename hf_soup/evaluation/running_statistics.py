"""BatchNorm running statistics of a soup: estimated on training data, or read from the file beside its recipe.

`batchnorm.py` estimates those of one model.
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
from ..types import Recipe, StatisticsRecord
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
    """The tensors of a soup that are estimated instead of averaged, by name.

    Args:
        recipe ([`Recipe`]):
            Recipe of the soup.
        plan ([`Plan`]):
            Plan of the recipe.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe.
        data ([`Evaluator`], *optional*):
            Training data to estimate them on; without it they are read from the file that the recipe names.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which the model is averaged.

    Returns:
        `dict[str, torch.Tensor]`: the statistics; empty if the recipe does not estimate them.

    Raises:
        [`IngredientError`]: if the file is missing, or has other statistics than the recipe was made with.
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
    """Write the file of the statistics, which is needed to cook the recipe again.

    Args:
        folder (`Path`):
            Folder of the recipe.
        statistics (`Mapping[str, torch.Tensor]`):
            Statistics by tensor name.

    Returns:
        `str`: the digest of the tensors, which the recipe records.
    """
    from safetensors.torch import save_file

    save_file(dict(statistics), folder / BATCHNORM_FILE)
    return _digest(statistics)


def read_statistics(recipe: Recipe, plan: Plan) -> dict[str, torch.Tensor]:
    """Read the statistics that were written with a recipe, and check that they have not changed."""
    from safetensors.torch import load_file

    record = recipe.batchnorm or StatisticsRecord()
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
    """A digest of the tensors, independent of the file format."""
    return combined_digest({name: tensor_digest(tensor) for name, tensor in statistics.items()})
