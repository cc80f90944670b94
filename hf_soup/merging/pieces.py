"""Plan -> the pieces in which it is executed: parts of large tensors, and groups of small ones. No files are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.pieces import PIECE, piece_starts
from ..checkpoints.reader import TensorSpec
from .plan import Plan
from .steps import CombineStep, CopyStep, Step


class Span(NamedTuple):
    """Consecutive elements of one tensor, and their location in a piece.

    Args:
        name (`str`):
            The tensor.
        start (`int`):
            The first of the elements.
        within (`slice`):
            Range of these elements among the elements of the piece.
    """

    name: str
    start: int
    within: slice


class Piece(NamedTuple):
    """What is computed at once: consecutive elements of one tensor, or several small tensors with the same operation.

    Args:
        steps (`tuple[Step, ...]`):
            Steps that make the tensors; there are several where the piece consists of whole tensors.
        start (`int`):
            The first element of the first tensor.
        numel (`int`):
            Number of elements of all tensors together.
    """

    steps: tuple[Step, ...]
    start: int
    numel: int

    @property
    def spans(self) -> Iterator[Span]:
        """The elements of each tensor."""
        if len(self.steps) == 1:
            yield Span(self.steps[0].spec.name, self.start, slice(0, self.numel))
            return
        end = 0
        for step in self.steps:
            begin, end = end, end + step.spec.numel
            yield Span(step.spec.name, 0, slice(begin, end))


def pieces_of(plan: Plan, checkpoints: Sequence[Checkpoint]) -> Iterator[Piece]:
    """The pieces in the order of the first ingredient's files, with as many small tensors per piece as fit."""
    batch: list[CombineStep] = []  # small tensors that are computed together
    batch_numel = 0
    for step in in_reading_order(plan, checkpoints):
        numel = step.spec.numel
        if batch and not _joins(step, batch, batch_numel + numel, checkpoints):
            yield Piece(tuple(batch), 0, batch_numel)
            batch, batch_numel = [], 0
        # reordered rows, and methods that see complete tensors, need a piece with a single tensor
        if isinstance(step, CombineStep) and step.how.additive and not step.orders and numel <= PIECE:
            batch.append(step)
            batch_numel += numel
        elif _may_be_cut(step):
            for start in piece_starts(numel):
                yield Piece((step,), start, min(PIECE, numel - start))
        else:
            yield Piece((step,), 0, numel)
    if batch:
        yield Piece(tuple(batch), 0, batch_numel)


def in_reading_order(plan: Plan, checkpoints: Sequence[Checkpoint]) -> list[Step]:
    """The steps in the order of the first ingredient's files."""
    first_specs = checkpoints[0].specs
    # Adjacent tensors are read in order, so that a disk need not seek and small ones are read together.
    return sorted(plan.steps, key=lambda step: _place(first_specs[step.spec.name]))


def _place(spec: TensorSpec) -> tuple[str, int]:
    """The location of a tensor, to read in the order of the files."""
    return spec.file, spec.start


def _may_be_cut(step: Step) -> bool:
    """Whether a tensor may be computed in pieces."""
    if step.orders:  # reordered rows are taken from the complete tensor
        return False
    return isinstance(step, CopyStep) or step.how.elementwise


def _joins(step: Step, batch: Sequence[CombineStep], numel: int, checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether a tensor can join a batch, which would then have `numel` elements and be computed in one call.

    It can if only name, shape and location differ.
    """
    if isinstance(step, CopyStep) or numel > PIECE:
        return False
    first = batch[0]
    if step.spec.dtype != first.spec.dtype or step._replace(spec=first.spec) != first:
        return False
    for index in step.inputs:
        specs = checkpoints[index].specs
        if specs[step.spec.name].dtype != specs[first.spec.name].dtype:
            return False
    return True
