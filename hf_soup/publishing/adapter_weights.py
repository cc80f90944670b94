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
from ..checkpoints.adapter_changes import Joined, LowRank, Scale
from ..checkpoints.adapter_file import PREFIX, is_among, trained_whole
from ..checkpoints.adapter_relations import base_identity
from ..checkpoints.checkpoint import MEMORY, Checkpoint, refuse_changed
from ..checkpoints.digest import combined_digest
from ..checkpoints.inside import json_inside
from ..checkpoints.other_contents import ADAPTER, ADAPTER_WEIGHTS
from ..checkpoints.reader import SAFE_WEIGHTS, TensorSpec
from ..checkpoints.writer import weight_files
from ..errors import RecipeError, warn
from ..merging.blend import blend
from ..merging.in_memory import empty_tensors, write_into
from ..merging.joined import joined
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


class Scaled(NamedTuple):
    """The mean of what IA3 makes of a module; an adapter that leaves it scales by 1.

    Args:
        changes (`list[Scale]`), shares (`list[float]`):
            Changes, and the part of each one in the mean.
    """

    changes: list[Scale]
    shares: list[float]

    @property
    def of_inputs(self) -> bool:
        """Whether the inputs of the module are scaled, as of feed-forward modules."""
        return self.changes[0].vector.shape[0] == 1

    def mean(self) -> torch.Tensor:
        """The mean of the vectors, in float32."""
        import torch

        mean = torch.full(self.changes[0].vector.shape, 1 - sum(self.shares), dtype=torch.float64)
        for change, share in zip(self.changes, self.shares, strict=True):
            mean += share * change.vector.read().double()
        return mean.float()


def why_no_adapter(plan: Plan, checkpoints: Sequence[Checkpoint]) -> str | None:
    """Why the soup is no adapter; `None` if it is one.

    Args:
        plan ([`Plan`]):
            Plan of the soup.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe.
    """
    used = [checkpoints[index] for index in sorted({index for step in plan.steps for index in step.inputs})]
    adapters = [item for item in used if isinstance(item, AdapterCheckpoint)]
    for item in used:
        if isinstance(item, AdapterCheckpoint):
            continue
        # the base model is an adapter that changes nothing
        if not adapters or base_identity(item.ingredient) != base_identity(adapters[0].base.ingredient):
            return f"{item.name} is no adapter"
    if not plan.is_linear:
        return "the method is not linear, so that the change has no low rank"
    for step in plan.steps:
        if isinstance(step, CombineStep) and step.how.function.keywords.get("normalize") is False:
            return "the weights are factors (normalize=False), so that the base model is multiplied too"
    kinds = {type(change) for item in adapters for change in item.changes.values()}
    if len(kinds) > 1:
        return "the adapters are of different kinds"
    for item in adapters:
        for change in item.changes.values():
            if isinstance(change, LowRank) and change.magnitude is not None:
                return f"{item.name} is a DoRA adapter, whose mean with others has no low rank"
            if not isinstance(change, LowRank | Scale):
                kind = item.adapter_config["peft_type"]
                return f"{item.name} is a {kind} adapter, and a mean of those is none"
    saved = {name for item in adapters for name in item.saved}
    changed = {name for item in adapters for name in item.changes}
    both = sorted(saved & changed)
    if both:
        return f"{both[0]} is stored whole, and changed as well"
    for step in plan.steps:
        if isinstance(step, CombineStep) and step.orders and step.spec.name in changed:
            return f"{step.spec.name} is changed by factors, and the classes have another order in some adapters"
    for name in sorted(changed):
        own = [item.changes[name] for item in adapters if name in item.changes]
        if len({change.by_column for change in own if isinstance(change, Scale)}) > 1:
            return f"{name} is scaled by its inputs in one adapter and by its outputs in another"
    return None


def write_adapter(
    folder: Path, plan: Plan, checkpoints: Sequence[Checkpoint], rank: int | None, dtype: str = "auto"
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
        dtype (`str`, *optional*, defaults to `"auto"`):
            Data type of the factors; `"auto"` is float32, whatever the base model has.

    Returns:
        `tuple[AdapterRecord, OutputRecord]`: the rank with the relative error, and the digest of what was written.

    Raises:
        [`RecipeError`]: if a rank is given for IA3, which has none.

    Source: Eckart & Young 1936 for the error of the truncation.
    """
    import torch

    _refuse_changed(checkpoints)
    first = next(item for item in checkpoints if isinstance(item, AdapterCheckpoint))
    saved = {name for item in checkpoints if isinstance(item, AdapterCheckpoint) for name in item.saved}
    names = first.adapter_names
    whole_names = {names.get(name, name) for name in saved}
    dtype = "float32" if dtype == "auto" else dtype
    changes = [_mean_of(step, checkpoints) for step in plan.steps if isinstance(step, CombineStep)]
    scales = {_module(step, names): mean for step, mean in changes if isinstance(mean, Scaled)}
    if scales and rank is not None:
        raise RecipeError(f"rank={rank} is for LoRA: the changes of IA3 have no rank, and their mean is exact.")
    products = {_module(step, names): mean for step, mean in changes if isinstance(mean, Joined)}
    ranks = {module: _rank_of(mean, rank) for module, mean in products.items()}
    whole = {}  # what is small, or was averaged as it is
    for name, tensor in _heads(plan, checkpoints, saved).items():
        whole[_head_name(names.get(name, name), ranks, whole_names)] = tensor
    for module, scaled in scales.items():
        whole[f"{PREFIX}{module}.ia3_l"] = scaled.mean().to(getattr(torch, dtype))
    specs = [TensorSpec(name, tuple(tensor.shape), _dtype(tensor)) for name, tensor in whole.items()]
    for module, mean in products.items():
        specs += _specs(mean, module, ranks[module], dtype)
    lost = total = 0.0
    # the factors of one weight are in memory at a time
    with weight_files(folder, specs, max_shard_size="1000TB") as files:
        for name, tensor in whole.items():
            files.write_tensor(name, tensor)
        for module, mean in products.items():
            left, right = mean.read_factors()
            factors = Factors(left, right)
            if rank is not None or ranks[module] < left.shape[1]:
                factors = truncated(factors, ranks[module])
            lost, total = lost + factors.lost, total + factors.whole
            tensors = (factors.right, factors.left)
            if mean.changes[0].by_column:
                tensors = (factors.left.T, factors.right.T)
            for spec, tensor in zip(_specs(mean, module, ranks[module], dtype), tensors, strict=True):
                files.write_tensor(spec.name, tensor.to(getattr(torch, dtype)))
    os.replace(folder / SAFE_WEIGHTS, folder / ADAPTER_WEIGHTS)
    _refuse_changed(checkpoints)
    kind = _ia3_config(scales) if scales else _lora_config(ranks, whole_names)
    config = {**_config(first, _trained_whole(whole_names, checkpoints)), **kind}
    if config["task_type"] is None and config["auto_mapping"] is None:
        config["auto_mapping"] = _class_of(first.architecture)
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    digests = files.digests()
    error = math.sqrt(lost / total) if total else 0.0
    kept = None if rank is None or all(rank >= _rank_of(mean, None) for mean in products.values()) else rank
    return AdapterRecord(kept, error, config["peft_type"]), OutputRecord(len(digests), combined_digest(digests))


def _refuse_changed(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse adapters that have been written since they were opened, with the digests of before."""
    for item in checkpoints:
        if isinstance(item, AdapterCheckpoint):
            refuse_changed(item)


def _module(step: CombineStep, names: Mapping[str, str]) -> str:
    """The module of a step's weight, as it is called in memory."""
    return names.get(step.spec.name, step.spec.name).removesuffix(".weight")


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _mean_of(step: CombineStep, checkpoints: Sequence[Checkpoint]) -> tuple[CombineStep, Joined | Scaled | None]:
    """A step with the mean change of its tensor; `None` if no adapter changes it, or its bias follows its weight."""
    scales, shares = [], []
    for index, weight in zip(step.inputs, step.weights, strict=True):
        item = checkpoints[index]
        change = item.changes.get(step.spec.name) if isinstance(item, AdapterCheckpoint) else None
        if isinstance(change, LowRank):
            return step, joined(step, checkpoints)
        if isinstance(change, Scale) and not step.spec.name.endswith(".bias"):
            scales.append(change)
            shares.append(weight / sum(step.weights))
    return step, Scaled(scales, shares) if scales else None


def _rank_of(mean: Joined, rank: int | None) -> int:
    """The rank of a mean change, which is no larger than the matrix."""
    total = min(sum(change.rank for change in mean.changes), *mean.changes[0].shape)
    return total if rank is None else min(rank, total)


def _specs(mean: Joined, module: str, rank: int, dtype: str) -> list[TensorSpec]:
    """The factors A and B of a module, as they are named and shaped in an adapter's file."""
    change, name = mean.changes[0], f"{PREFIX}{module}"
    ends = (".lora_embedding_A", ".lora_embedding_B")
    if change.kind != "embedding":
        ends = (".lora_A.weight", ".lora_B.weight")
    shapes = (rank, *change.a.shape[1:]), (change.b.shape[0], rank, *change.b.shape[2:])
    return [TensorSpec(f"{name}{end}", shape, dtype) for end, shape in zip(ends, shapes, strict=True)]


def _head_name(name: str, ranks: Mapping[str, int], saved: Collection[str]) -> str:
    """The name of a whole tensor in an adapter's file; a bias of a changed module is one of its inner layer."""
    module, _, parameter = name.rpartition(".")
    inner = ".base_layer" if module in ranks and f"{module}.weight" not in saved else ""
    return f"{PREFIX}{module}{inner}.{parameter}"


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


def _trained_whole(whole: Collection[str], checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The modules of whole tensors that an ingredient names in `modules_to_save`, such as a head of several layers.

    Others, such as biases and resized embeddings, are loaded into the base model.
    """
    given: set[str] = set()
    for item in checkpoints:
        if isinstance(item, AdapterCheckpoint):
            given.update(trained_whole(item.adapter_config, item.name))
    modules = set()
    for name in whole:
        parts = name.split(".")[:-1]
        paths = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]  # the outermost first
        modules.update([path for path in paths if is_among(path, given)][:1])
    return sorted(modules)


def _class_of(architecture: str) -> dict[str, str] | None:
    """The class that an adapter was trained on, as PEFT names it where no task type does."""
    import transformers

    found = getattr(transformers, architecture, None)
    return None if found is None else {"base_model_class": architecture, "parent_library": found.__module__}


def _config(first: AdapterCheckpoint, modules: Sequence[str]) -> dict[str, Any]:
    """What the configurations of all kinds of adapters have in common."""
    base = first.base.ingredient
    named = first.adapter_config.get("base_model_name_or_path")  # as an adapter in memory knows it
    return {
        **{name: first.adapter_config.get(name) for name in KEPT},
        "base_model_name_or_path": named if base.source == MEMORY else base.source,
        "revision": base.revision,
        "modules_to_save": list(modules) or None,
        "inference_mode": True,
    }


def _lora_config(ranks: Mapping[str, int], whole: Collection[str]) -> dict[str, Any]:
    """The settings of LoRA, with the same alpha as rank for each module, so that nothing is scaled."""
    modules = {name.rpartition(".")[0] for name in whole}
    with_weight = {name.removesuffix(".weight") for name in whole if name.endswith(".weight")}
    highest = max(ranks.values(), default=1)
    others = {module: rank for module, rank in ranks.items() if rank != highest}
    return {
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "target_modules": sorted(ranks),
        "bias": "all" if modules - with_weight else "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _ia3_config(scales: Mapping[str, Scaled]) -> dict[str, Any]:
    """The settings of IA3."""
    of_inputs = sorted(module for module, scaled in scales.items() if scaled.of_inputs)
    return {"target_modules": sorted(scales), "feedforward_modules": of_inputs, "init_ia3_weights": True}


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


def refuse_rank(rank: int | None, *, merged: bool | None = None) -> None:
    """Refuse what is no rank, or a rank of a whole model.

    Args:
        rank (`int`, *optional*):
            Largest rank.
        merged (`bool`, *optional*):
            Whether the soup is saved as a whole model.

    Raises:
        [`RecipeError`]: if the rank is below 1, or given for a whole model.
    """
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise RecipeError(f"rank is a whole number from 1, not {rank!r}.")
    if merged and rank is not None:
        raise RecipeError(f"rank={rank} is of an adapter, and merged=True saves a whole model: give only one.")
