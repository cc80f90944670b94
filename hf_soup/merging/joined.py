"""Adapters of one base model in a weighted mean: the base model is read once, and their changes are one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..checkpoints.adapter import AdapterCheckpoint
from ..checkpoints.adapter_changes import Change, Joined, LowRank
from ..checkpoints.adapter_relations import base_identity
from ..checkpoints.checkpoint import Checkpoint
from ..methods.linear import linear
from .plan import Plan
from .steps import CombineStep, CopyStep, Step


def join_adapters(plan: Plan, checkpoints: Sequence[Checkpoint]) -> tuple[Plan, list[Checkpoint]]:
    """Replace adapters of the same weights by one that stands for their mean, where the method is a weighted mean.

    The sums are those of each adapter by itself, up to the rounding of float64.

    Args:
        plan ([`Plan`]):
            Plan of the merge.
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients, in recipe order.

    Returns:
        `tuple[Plan, list[Checkpoint]]`: the plan and the ingredients, those that stand for several at the end.
    """
    extended = list(checkpoints)
    means: dict[tuple[tuple[int, float], ...], tuple[int, dict[str, Change]]] = {}  # adapters -> place, mean changes
    steps: list[Step] = []
    for step in plan.steps:
        low_rank = _low_rank_changes(step, checkpoints)
        total = sum(step.weights[place] for place in low_rank)
        if isinstance(step, CopyStep) or len(low_rank) < 2 or total == 0:
            steps.append(step)
            continue
        members = tuple((step.inputs[place], step.weights[place] / total) for place in low_rank)
        if members not in means:
            means[members] = len(extended), {}
            extended.append(checkpoints[members[0][0]])
        index, changes = means[members]
        changes[step.spec.name] = Joined(tuple(low_rank.values()), tuple(share for _, share in members))
        others = [place for place in range(len(step.inputs)) if place not in low_rank]
        steps.append(
            step._replace(
                inputs=(*(step.inputs[place] for place in others), index),
                weights=(*(step.weights[place] for place in others), total),
            )
        )
    for index, changes in means.values():
        adapter = extended[index]
        if isinstance(adapter, AdapterCheckpoint):
            extended[index] = replace(adapter, changes={**adapter.changes, **changes})
    return plan._replace(steps=tuple(steps)), extended


def joined(step: CombineStep, checkpoints: Sequence[Checkpoint]) -> Joined:
    """The mean of the low-rank changes of a tensor; an ingredient that leaves the tensor counts as no change."""
    total = sum(step.weights)
    changes = _low_rank_changes(step, checkpoints)
    return Joined(tuple(changes.values()), tuple(step.weights[place] / total for place in changes))


def _low_rank_changes(step: Step, checkpoints: Sequence[Checkpoint]) -> dict[int, LowRank]:
    """Place among the inputs of a weighted mean -> low-rank change, of the adapters of the first one's base model."""
    if isinstance(step, CopyStep) or step.how.function.func is not linear or step.orders:
        return {}
    changes: dict[int, LowRank] = {}
    base = None
    for place, index in enumerate(step.inputs):
        item = checkpoints[index]
        if not isinstance(item, AdapterCheckpoint) or step.spec.name in item.saved:  # not of the base model itself
            continue
        change = item.changes.get(step.spec.name)
        if isinstance(change, LowRank) and change.magnitude is None:
            own_base = base_identity(item.base.ingredient)
            base = own_base if base is None else base
            if own_base == base:
                changes[place] = change
    return changes
