"""Inner products of many checkpoints in one pass over their files: angles, lengths and distances all follow from them.

What is kept is a small matrix for each tensor; the weights go by piece by piece, whatever the number of models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..progress import progress_bar
from .checkpoint import Checkpoint, make_ready
from .digest import bytes_of
from .files import OpenFiles
from .pieces import PIECE, in_threads
from .reader import TensorSpec


if TYPE_CHECKING:
    import numpy as np
    import torch


TOGETHER = 4 * PIECE  # elements of all models at once: 8 MiB in float64


class Signs(NamedTuple):
    """In how many elements two changes point the same way.

    Args:
        balance (`np.ndarray` of shape `(models, models)`):
            Elements with the same sign less those with opposite signs.
        both (`np.ndarray` of shape `(models, models)`):
            Elements that neither leaves as it is.
    """

    balance: np.ndarray
    both: np.ndarray


def inner_products(
    items: Sequence[Checkpoint],
    specs: Sequence[TensorSpec],
    gram_of: Callable[[str], np.ndarray],
    *,
    deltas: bool = False,
    signs_of: Callable[[str], Signs] | None = None,
    from_mean: bool = False,
    moved: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> None:
    """Add the inner products of the items' weights, in float64, to the matrix that each tensor belongs to.

    Args:
        items (`Sequence[Checkpoint]`):
            The models; a tensor that one lacks counts as zeros.
        specs (`Sequence[TensorSpec]`):
            Which tensors.
        gram_of (`Callable[[str], np.ndarray]`):
            Tensor -> a float64 matrix of shape `(items, items)`; several tensors may share one.
        deltas (`bool`, *optional*, defaults to `False`):
            Whether the last item is a base model that is taken from the others first, element by element.
        signs_of (`Callable[[str], Signs]`, *optional*):
            Tensor -> counts of signs of the deltas.
        from_mean (`bool`, *optional*, defaults to `False`):
            Whether signs are of the differences from the mean of all but the last instead.
        moved (`Mapping[tuple[str, str], Sequence[int]]`, *optional*):
            Item and tensor -> the order in which its rows are taken; of small tensors, which are read whole.
    """
    import torch

    make_ready(items)
    by_name = {item.name: item for item in items}
    permuted = {
        (name, tensor): by_name[name].read(tensor)[list(order)].flatten()
        for (name, tensor), order in (moved or {}).items()
    }
    count = max(TOGETHER // len(items), 1)  # elements at once, so that memory stays as it is for many items
    lock = threading.Lock()

    def make_worker() -> Callable[[tuple[TensorSpec, int]], None]:
        wide = torch.empty((len(items), count), dtype=torch.float64)
        raw = torch.empty(count * 8, dtype=torch.uint8)

        def work(piece: tuple[TensorSpec, int]) -> None:
            spec, start = piece
            length = min(count, spec.numel - start)
            for row, item in zip(wide, items, strict=True):
                own = item.specs.get(spec.name)
                if own is None or own.shape != spec.shape:  # a base model without that head
                    row[:length] = 0
                    continue
                if (item.name, spec.name) in permuted:
                    row[:length] = permuted[item.name, spec.name][start : start + length]
                    continue
                elements = raw[: length * own.itemsize].view(getattr(torch, own.dtype))
                item.read_into(files, spec.name, start, bytes_of(elements))
                row[:length] = elements
            rows = wide[:, :length]
            if deltas:
                rows[:-1] -= rows[-1]
            product = (rows @ rows.T).numpy()
            signs = _signs(_from_mean(rows[:-1]) if from_mean else rows[:-1]) if signs_of else None
            with lock:
                gram = gram_of(spec.name)
                gram += product
                for sum_, part in zip(signs_of(spec.name), signs, strict=True) if signs else ():
                    sum_ += part
                bar.update(length * spec.itemsize * len(items))

        return work

    size = sum(spec.nbytes for spec in specs) * len(items)
    bar = progress_bar(desc="Comparing weights", total=size, unit="B", unit_scale=True)
    with OpenFiles() as files, bar:
        in_threads(((spec, start) for spec in specs for start in range(0, spec.numel, count)), make_worker)


def _from_mean(rows: torch.Tensor) -> torch.Tensor:
    """Differences from the mean of all; where all are equal exactly none, whatever the mean rounds to."""
    apart = rows - rows.mean(0)
    apart[:, (rows == rows[0]).all(0)] = 0
    return apart


def _signs(rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a piece: exact in float32, since a piece has fewer than 2^24 elements."""
    import torch

    signs = torch.sign(rows).to(torch.float32)
    there = signs.abs()
    everywhere = bool(there.all())  # as nearly always, and then known without a product
    both = torch.full((len(rows),) * 2, float(rows.shape[1])) if everywhere else there @ there.T
    return (signs @ signs.T).double().numpy(), both.double().numpy()
