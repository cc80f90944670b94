"""A soup of adapters as an adapter: the factors of all ingredients side by side, or fewer by singular values.

The product of matrices side by side is the sum of their products, so that the mean of low-rank changes is exact with
the sum of their ranks. No full matrix is formed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.adapter import AdapterCheckpoint
from ..checkpoints.adapter_changes import PREFIX
from ..checkpoints.checkpoint import MEMORY, Checkpoint
from ..checkpoints.digest import combined_digest, tensor_digest
from ..checkpoints.inside import json_inside
from ..checkpoints.other_contents import ADAPTER, ADAPTER_WEIGHTS
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
    from safetensors.torch import save_file

    first = next(item for item in checkpoints if isinstance(item, AdapterCheckpoint))
    saved = {name for item in checkpoints if isinstance(item, AdapterCheckpoint) for name in item.saved}
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    lost = whole = 0.0
    for step in plan.steps:
        if not isinstance(step, CombineStep):
            continue
        factors = _factors_of(step, checkpoints, rank)
        if factors is None:
            continue
        lost, whole = lost + factors.lost, whole + factors.whole
        module = step.spec.name.removesuffix(".weight")
        ranks[module] = factors.left.shape[1]
        kind = next(item.changes[step.spec.name].kind for item in _adapters(step, checkpoints))
        tensors |= _named(module, kind, factors, step.spec.shape)
    heads = _heads(plan, checkpoints, saved)
    weights_saved = {name.removesuffix(".weight") for name in heads if name.endswith(".weight")}
    for name, tensor in heads.items():
        module, _, parameter = name.rpartition(".")
        inner = ".base_layer" if module in ranks and module not in weights_saved else ""
        tensors[f"{PREFIX}{module}{inner}.{parameter}"] = tensor
    config = _config(first, ranks, sorted(heads))
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"}
    )
    digest = combined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})
    error = math.sqrt(lost / whole) if whole else 0.0
    return AdapterRecord(rank, error), OutputRecord(len(tensors), digest)


def _adapters(step: CombineStep, checkpoints: Sequence[Checkpoint]) -> list[AdapterCheckpoint]:
    """The inputs of a step that change its tensor."""
    changing = []
    for index in step.inputs:
        item = checkpoints[index]
        if isinstance(item, AdapterCheckpoint) and step.spec.name in item.changes:
            changing.append(item)
    return changing


def _factors_of(step: CombineStep, checkpoints: Sequence[Checkpoint], rank: int | None) -> Factors | None:
    """The mean change of one tensor; `None` if no adapter changes it."""
    import torch

    total = sum(step.weights)
    left, right = [], []
    for index, weight in zip(step.inputs, step.weights, strict=True):
        item = checkpoints[index]
        if isinstance(item, AdapterCheckpoint) and step.spec.name in item.changes:
            change = item.changes[step.spec.name]
            left.append(change.left * (weight / total))
            right.append(change.right)
    if not left:
        return None
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


def _named(module: str, kind: str, factors: Factors, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The factors A and B of a module under their names in an adapter's file, in float32."""
    left, right = factors.left.float(), factors.right.float()
    if kind == "embedding":
        return {
            f"{PREFIX}{module}.lora_embedding_A": left.T,
            f"{PREFIX}{module}.lora_embedding_B": right.T,
        }
    a, b = (left.T, right.T) if kind == "transposed" else (right, left)
    if kind == "convolution":
        a = a.reshape(len(a), *shape[1:])
        b = b.reshape(*b.shape, *(1 for _ in shape[2:]))
    return {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}


def _heads(plan: Plan, checkpoints: Sequence[Checkpoint], saved: set[str]) -> dict[str, torch.Tensor]:
    """The averages of the tensors that adapters hold whole."""
    steps = tuple(step for step in plan.steps if step.spec.name in saved)
    tensors = empty_tensors(step.spec for step in steps)
    if steps:
        blend(plan._replace(steps=steps), checkpoints, write_into(tensors))
    return tensors


def _config(first: AdapterCheckpoint, ranks: dict[str, int], heads: Sequence[str]) -> dict[str, Any]:
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
