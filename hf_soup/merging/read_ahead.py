"""The order in which a merge reads weights on servers, so that they are requested before they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.remote_files import ByteRange, RemoteFiles
from .pieces import in_reading_order
from .plan import Plan


BASE = -1  # the base model's index among the ingredients and their digests


@contextlib.contextmanager
def reading_ahead(plan: Plan, checkpoints: Sequence[Checkpoint]) -> Iterator[None]:
    """Request the weights of streamed ingredients in the order of the pieces; without any, nothing happens.

    Args:
        plan ([`Plan`]):
            Plan of the merge.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients, the base model last if there is one.

    Raises:
        [`IngredientError`]: at the end, if a file came with other contents than the Hub announced.
    """
    ranges: dict[RemoteFiles, list[ByteRange]] = {}
    if any(item.is_streamed for item in checkpoints):
        for step in in_reading_order(plan, checkpoints):
            for index in (*step.inputs, BASE) if step.base else step.inputs:
                for remote, byte_range in checkpoints[index].byte_ranges(step.spec.name):
                    ranges.setdefault(remote, []).append(byte_range)
    with _announced(ranges):
        yield


@contextlib.contextmanager
def reading_along(saved: Checkpoint, plan: Plan, checkpoints: Sequence[Checkpoint]) -> Iterator[None]:
    """The same for a saved soup that is compared with what the plan makes, while that is made.

    Args:
        saved (`Checkpoint`):
            The soup.
        plan ([`Plan`]), checkpoints (`Sequence[Checkpoint]`):
            As for [`reading_ahead`].

    Raises:
        [`IngredientError`]: as of [`reading_ahead`].
    """
    ranges: dict[RemoteFiles, list[ByteRange]] = {}
    for step in in_reading_order(plan, checkpoints):
        for remote, byte_range in saved.byte_ranges(step.spec.name):
            ranges.setdefault(remote, []).append(byte_range)
    with _announced(ranges):
        yield


@contextlib.contextmanager
def _announced(ranges: Mapping[RemoteFiles, Sequence[ByteRange]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for remote, of_remote in ranges.items():
            stack.enter_context(remote.reading_ahead(of_remote, len(ranges)))
        yield
