"""A soup of adapters as an adapter: the factors of all ingredients side by side, or fewer by singular values.

The product of matrices side by side is the sum of their products, so that the mean of low-rank changes is exact with
the sum of their ranks. No full matrix is formed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.adapter import AdapterCheckpoint
from ..checkpoints.adapter_changes import PREFIX, Change
from ..checkpoints.checkpoint import MEMORY, Checkpoint
from ..checkpoints.digest import combined_digest
from ..checkpoints.inside import json_inside
from ..checkpoints.other_contents import ADAPTER, ADAPTER_WEIGHTS
from ..checkpoints.reader import SAFE_WEIGHTS, TensorSpec
from ..checkpoints.writer import weight_files
from ..errors import RecipeError, warn
from ..merging.blend import blend
from ..merging.in_memory import empty_tensors, write_into
from ..merging.plan import Plan
from ..merging.steps import CombineStep
from ..types import AdapterRecord, Ingredient, OutputRecord


if TYPE_CHECKING:
    import torch

# Settings of the first ingredient that an adapter keeps.
KEPT = ("peft_type", "task_type", "auto_mapping", "fan_in_fan_out")


class Factors(NamedTuple):
    """The change of one weight of a soup.

    Args:
        left (`torch.Tensor` of shape `(rows, rank)`), right (`torch.Tensor` of shape `(rank, columns)`):
            Factors, in float64.
        lost (`float`), whole (`float`):
            Squared Frobenius norms of what was cut off, and of the whole change; 0 if nothing was.
    """

    left: torch.Tensor
    right: torch.Tensor
    lost: float = 0.0
    whole: float = 0.0


def why_no_adapter(plan: Plan, checkpoints: Sequence[Checkpoint]) -> str | None:
    """Why the soup is no adapter; `None` if it is one.

    Args:
        plan ([`Plan`]):
            Plan of the soup.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe.
    """
    used = {index for step in plan.steps for index in step.inputs}
    adapters: list[AdapterCheckpoint] = []
    for index in sorted(used):
        item = checkpoints[index]
        if not isinstance(item, AdapterCheckpoint):
            return f"{item.name} is no adapter"
        adapters.append(item)
    if not plan.is_linear:
        return "the method is not linear, so that the change has no low rank"
    for step in plan.steps:
        if isinstance(step, CombineStep) and step.how.function.keywords.get("normalize") is False:
            return "the weights are factors (normalize=False), so that the base model is multiplied too"
    for item in adapters:
        if any(change.magnitude is not None for change in item.changes.values()):
            return f"{item.name} is a DoRA adapter, whose mean with others has no low rank"
    saved = {name for item in adapters for name in item.saved}
    changed = {name for item in adapters for name in item.changes}
    both = sorted(saved & changed)
    if both:
        return f"{both[0]} is whole in one adapter and a change in another"
    return None


def write_adapter(
    folder: Path, plan: Plan, checkpoints: Sequence[Checkpoint], rank: int | None
) -> tuple[AdapterRecord, OutputRecord]:
    """Write a soup of adapters as an adapter.

    Args:
        folder (`Path`):
            Existing folder to write to.
        plan ([`Plan`]), checkpoints (`Sequence[Checkpoint]`):
            The arguments of [`why_no_adapter`], which returns `None` for them.
        rank (`int`, *optional*):
            Largest rank of a change, by truncated singular value decomposition; by default the sum of the ranks, which
            is exact.

    Returns:
        `tuple[AdapterRecord, OutputRecord]`: the rank with the relative error, and the digest of what was written.

    Source: Eckart & Young 1936 for the error of the truncation.
    """
    first = next(item for item in checkpoints if isinstance(item, AdapterCheckpoint))
    saved = {name for item in checkpoints if isinstance(item, AdapterCheckpoint) for name in item.saved}
    steps = [step for step in plan.steps if isinstance(step, CombineStep) and _changing(step, checkpoints)]
    names = first.adapter_names
    ranks = {_module(step, names): _rank_of(step, checkpoints, rank) for step in steps}
    whole_names = {names.get(name, name) for name in saved}
    heads = {}
    for name, tensor in _heads(plan, checkpoints, saved).items():
        heads[_head_name(names.get(name, name), ranks, whole_names)] = tensor
    specs = [TensorSpec(name, tuple(tensor.shape), _dtype(tensor)) for name, tensor in heads.items()]
    for step in steps:
        specs += _specs(step, checkpoints, _module(step, names), rank)
    lost = whole = 0.0
    # the factors of one weight are in memory at a time
    with weight_files(folder, specs, max_shard_size="1000TB") as files:
        for name, tensor in heads.items():
            files.write(name, 0, tensor.reshape(-1))
        for step in steps:
            factors = _factors_of(step, checkpoints, rank)
            lost, whole = lost + factors.lost, whole + factors.whole
            own_specs = _specs(step, checkpoints, _module(step, names), rank)
            for spec, tensor in zip(own_specs, _a_and_b(step, checkpoints, factors), strict=True):
                files.write(spec.name, 0, tensor.float().reshape(-1))
    os.replace(folder / SAFE_WEIGHTS, folder / ADAPTER_WEIGHTS)
    config = _config(first, ranks, sorted(whole_names))
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    digests = files.digests()
    error = math.sqrt(lost / whole) if whole else 0.0
    return AdapterRecord(rank, error), OutputRecord(len(digests), combined_digest(digests))


def _module(step: CombineStep, names: Mapping[str, str]) -> str:
    """The module of a step's weight, as it is called in memory."""
    return names.get(step.spec.name, step.spec.name).removesuffix(".weight")


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _changing(step: CombineStep, checkpoints: Sequence[Checkpoint]) -> list[Change]:
    """The changes of a step's tensor."""
    changes = []
    for index in step.inputs:
        item = checkpoints[index]
        if isinstance(item, AdapterCheckpoint) and step.spec.name in item.changes:
            changes.append(item.changes[step.spec.name])
    return changes


def _rank_of(step: CombineStep, checkpoints: Sequence[Checkpoint], rank: int | None) -> int:
    """The rank of the mean change of a tensor."""
    changes = _changing(step, checkpoints)
    total = sum(change.rank for change in changes)
    return total if rank is None else min(rank, total, *changes[0].shape)


def _specs(step: CombineStep, checkpoints: Sequence[Checkpoint], module: str, rank: int | None) -> list[TensorSpec]:
    """The factors A and B of a module, as they are named and shaped in an adapter's file."""
    change, name = _changing(step, checkpoints)[0], f"{PREFIX}{module}"
    own_rank = _rank_of(step, checkpoints, rank)
    ends = (".lora_embedding_A", ".lora_embedding_B")
    if change.kind != "embedding":
        ends = (".lora_A.weight", ".lora_B.weight")
    shapes = (own_rank, *change.a.shape[1:]), (change.b.shape[0], own_rank, *change.b.shape[2:])
    return [TensorSpec(f"{name}{end}", shape, "float32") for end, shape in zip(ends, shapes, strict=True)]


def _a_and_b(
    step: CombineStep, checkpoints: Sequence[Checkpoint], factors: Factors
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors A (rank by inputs) and B (outputs by rank)."""
    if _changing(step, checkpoints)[0].by_column:
        return factors.left.T, factors.right.T
    return factors.right, factors.left


def _head_name(name: str, ranks: Mapping[str, int], saved: Collection[str]) -> str:
    """The name of a whole tensor in an adapter's file; a bias of a changed module is one of its inner layer."""
    module, _, parameter = name.rpartition(".")
    inner = ".base_layer" if module in ranks and f"{module}.weight" not in saved else ""
    return f"{PREFIX}{module}{inner}.{parameter}"


def _factors_of(step: CombineStep, checkpoints: Sequence[Checkpoint], rank: int | None) -> Factors:
    """The mean change of one tensor."""
    import torch

    total = sum(step.weights)
    left, right = [], []
    for index, weight in zip(step.inputs, step.weights, strict=True):
        item = checkpoints[index]
        if isinstance(item, AdapterCheckpoint) and step.spec.name in item.changes:
            own_left, own_right = item.changes[step.spec.name].factors
            left.append(own_left * (weight / total))
            right.append(own_right)
    factors = Factors(torch.cat(left, dim=1), torch.cat(right))
    return factors if rank is None else truncated(factors, rank)


def truncated(factors: Factors, rank: int) -> Factors:
    """The nearest product of a smaller rank, from the factors alone.

    Args:
        factors ([`Factors`]):
            Factors of the whole change.
        rank (`int`):
            The rank to keep.
    """
    import torch

    rank = min(rank, *factors.left.shape, factors.right.shape[1])
    # left @ right = (Q_l R_l) (Q_r R_r)', so that the singular values are those of the small matrix R_l R_r'
    q_left, r_left = torch.linalg.qr(factors.left)
    q_right, r_right = torch.linalg.qr(factors.right.T)
    u, values, v = torch.linalg.svd(r_left @ r_right.T)
    root = values[:rank].sqrt()
    return Factors(
        q_left @ (u[:, :rank] * root),
        (root[:, None] * v[:rank]) @ q_right.T,
        lost=float(values[rank:].square().sum()),
        whole=float(values.square().sum()),
    )


def _heads(plan: Plan, checkpoints: Sequence[Checkpoint], saved: Collection[str]) -> dict[str, torch.Tensor]:
    """The averages of the tensors that adapters hold whole."""
    steps = tuple(step for step in plan.steps if step.spec.name in saved)
    tensors = empty_tensors(step.spec for step in steps)
    if steps:
        blend(plan._replace(steps=steps), checkpoints, write_into(tensors))
    return tensors


def _config(first: AdapterCheckpoint, ranks: Mapping[str, int], heads: Sequence[str]) -> dict[str, Any]:
    """The configuration of the adapter, with the same alpha as rank for each module, so that nothing is scaled."""
    base = first.base.ingredient
    modules = {name.rpartition(".")[0] for name in heads}
    with_weight = {name.removesuffix(".weight") for name in heads if name.endswith(".weight")}
    highest = max(ranks.values(), default=1)
    others = {module: rank for module, rank in ranks.items() if rank != highest}
    kept = {name: first.adapter_config.get(name) for name in KEPT}
    return {
        **kept,
        "base_model_name_or_path": None if base.source == MEMORY else base.source,
        "revision": base.revision,
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "target_modules": sorted(ranks),
        "modules_to_save": sorted(with_weight) or None,
        "bias": "all" if modules - with_weight else "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def publish_base(folder: Path, base: Ingredient, repo_id: str) -> None:
    """Name the base model in the configuration of a published adapter, without the path of a folder.

    Args:
        folder (`Path`):
            Folder of the adapter.
        base ([`Ingredient`]):
            The base model as the published recipe names it.
        repo_id (`str`):
            Repository of the soup.
    """
    config = json_inside(folder, ADAPTER)
    config["base_model_name_or_path"] = base.source if base.revision else base.name
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if not base.revision:
        warn(
            f"{repo_id} is an adapter of {base.name}, which is not a repository that others can see: they cannot load "
            "it. merged=True pushes a whole model."
        )


def refuse_rank(rank: int | None) -> None:
    """Refuse what is no rank.

    Raises:
        [`RecipeError`]: if it is below 1.
    """
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise RecipeError(f"rank is a whole number from 1, not {rank!r}.")
