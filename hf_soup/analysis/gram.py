"""Inner products of many checkpoints in one pass over their files, from which angles, lengths and distances follow.

Only a small matrix is kept for each tensor; the weights are read in pieces, whatever the number of models. The
relation of checkpoints (`relation.py`) and their similarity (`similarity.py`) are computed from the matrices.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.checkpoint import Checkpoint, make_ready
from ..checkpoints.digest import bytes_of, float64_of
from ..checkpoints.files import OpenFiles
from ..checkpoints.modules import group, head_names, own_prefix
from ..checkpoints.pieces import PIECE, in_threads
from ..checkpoints.reader import TensorSpec
from ..errors import IngredientError
from ..progress import progress_bar


if TYPE_CHECKING:
    import numpy as np
    import torch


TOGETHER = 4 * PIECE  # elements of all models at once, in each thread: 8 MiB in float64
WIDEST = 8  # bytes of the widest type of an element


class Signs(NamedTuple):
    """The number of elements in which two changes have the same sign.

    Args:
        balance (`np.ndarray` of shape `(models, models)`):
            Elements with the same sign less those with opposite signs.
        both (`np.ndarray` of shape `(models, models)`):
            Elements that neither leaves as it is.
    """

    balance: np.ndarray
    both: np.ndarray


class TensorGram(NamedTuple):
    """Inner products of one tensor.

    Args:
        tensor (`str`):
            Name of the tensor on disk.
        module (`str`):
            The named module that it belongs to.
        region (`str`):
            `"body"` or `"head"`.
        elements (`int`):
            Number of elements of the tensor.
        dimensions (`int`):
            1 of a bias or a norm, 2 and more of a matrix or a kernel.
        inner (`np.ndarray` of shape `(models + 1, models + 1)`):
            Inner products of the differences from a reference, with those of the reference itself in the last row and
            column. The reference is the base model, or zeros where it lacks the tensor. Without a base model it is the
            first model, so that what is equal in all models is exactly equal.
        known (`bool`):
            Whether the differences are known: the base model has the tensor, or there is no base model.
    """

    tensor: str
    module: str
    region: str
    elements: int
    dimensions: int
    inner: np.ndarray
    known: bool


class Grams(NamedTuple):
    """Inner products of the tensors of some models.

    Args:
        tensors (`tuple[TensorGram, ...]`):
            Inner products of each measured tensor, in order.
        signs (`dict[str, Signs]`):
            Tensor -> signs of the differences from the base model, or without one from the mean of all models; empty
            where signs were not counted.
    """

    tensors: tuple[TensorGram, ...]
    signs: dict[str, Signs]


def measure_grams(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None,
    specs: Sequence[TensorSpec],
    *,
    count_signs: bool = False,
    moved: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> Grams:
    """Read some tensors of all models once, and sum their inner products in float64.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened models with the same tensors.
        base (`Checkpoint`, *optional*):
            Base model that the models were fine-tuned from. It may lack tensors.
        specs (`Sequence[TensorSpec]`):
            Floating-point tensors to measure, as the first model has them.
        count_signs (`bool`, *optional*, defaults to `False`):
            Whether signs of differences are counted as well.
        moved (`Mapping[tuple[str, str], Sequence[int]]`, *optional*):
            Model and tensor -> the order in which its rows are taken; of small tensors, which are read whole.

    Returns:
        [`Grams`]

    Raises:
        [`IngredientError`]: if weights cannot be read or fetched.
    """
    grams = {gram.tensor: gram for gram in _empty_grams(checkpoints, base, specs)}
    signs = {}
    if count_signs:
        signs = {spec.name: _no_signs(len(checkpoints)) for spec in specs}
    items = list(checkpoints)
    if base is not None:
        items.append(base)
    make_ready(items)
    permuted = _read_permuted(items, moved or {}, grams)
    height = len(checkpoints) + 1
    most = max(TOGETHER // height, 1)  # elements of a piece: more models do not take more memory
    lock = threading.Lock()

    def make_worker() -> Callable[[tuple[TensorSpec, int]], None]:
        """Return the function with which a thread processes its pieces, using the files and the bar opened below."""
        import torch

        # Each thread has its own memory, which it reuses for all of its pieces.
        buffer = torch.empty((height, most), dtype=torch.float64)
        raw = torch.empty(most * WIDEST, dtype=torch.uint8)

        def work(piece: tuple[TensorSpec, int]) -> None:
            """Add the products of a piece, and its counts of signs, to those of its tensor."""
            spec, start = piece
            deltas = buffer[:, : min(most, spec.numel - start)]  # the last piece of a tensor is shorter
            for row, item in zip(deltas, items, strict=False):  # the last row may be needed for the reference
                _fill(row, item, spec, start, files, raw, permuted.get((item.name, spec.name)))
            if base is None:
                deltas[-1] = deltas[0]  # the first model is the reference
            deltas[:-1] -= deltas[-1]
            products = (deltas @ deltas.T).numpy()
            counted = None
            if count_signs:
                changes = _from_mean(deltas[:-1]) if base is None else deltas[:-1]
                counted = _signs(changes)
            with lock:  # pieces of one tensor may finish in several threads at once
                grams[spec.name].inner[:] += products
                if counted is not None:
                    signs[spec.name].balance[:] += counted.balance
                    signs[spec.name].both[:] += counted.both
                bar.update(deltas.shape[1] * spec.itemsize * len(items))

        return work

    size = sum(spec.nbytes for spec in specs) * len(items)
    bar = progress_bar(desc="Comparing weights", total=size, unit="B", unit_scale=True)
    with OpenFiles() as files, bar:
        in_threads(_pieces(specs, most), make_worker)
    return Grams(tuple(grams.values()), signs)


def measure_small_grams(
    checkpoints: Sequence[Checkpoint],
    specs: Sequence[TensorSpec],
    moved: Mapping[tuple[str, str], Sequence[int]],
) -> tuple[TensorGram, ...]:
    """Inner products of small tensors without a base model: they are read whole, and torch is not imported for them.

    Args:
        checkpoints (`Sequence[Checkpoint]`), specs (`Sequence[TensorSpec]`), moved (`Mapping`):
            As for [`measure_grams`].

    Raises:
        [`IngredientError`]: if weights cannot be read or fetched.
    """
    import numpy as np

    make_ready(checkpoints)
    grams = tuple(_empty_grams(checkpoints, None, specs))
    with OpenFiles() as files:
        for gram, spec in zip(grams, specs, strict=True):
            deltas = np.empty((len(checkpoints) + 1, spec.numel))
            for row, item in zip(deltas, checkpoints, strict=False):
                row[:] = _read_numbers(item, spec.name, files, moved.get((item.name, spec.name)))
            deltas[-1] = deltas[0]  # the first model is the reference
            with np.errstate(invalid="ignore", over="ignore"):  # of a run that diverged
                deltas[:-1] -= deltas[-1]
                gram.inner[:] = deltas @ deltas.T
    return grams


def _read_numbers(item: Checkpoint, name: str, files: OpenFiles, order: Sequence[int] | None) -> np.ndarray:
    """The numbers of a whole tensor in float64, flat, with its rows in an order if there is one."""
    spec = item.specs[name]
    content = memoryview(bytearray(spec.nbytes))
    item.read_into(files, name, 0, content)
    numbers = float64_of(content, spec.dtype)
    return numbers if order is None else numbers.reshape(spec.shape)[list(order)].reshape(-1)


def refuse_diverged(checkpoints: Sequence[Checkpoint], base: Checkpoint | None, grams: Sequence[TensorGram]) -> None:
    """Refuse models whose inner products are not finite, as they are with any NaN or infinity.

    Args:
        checkpoints (`Sequence[Checkpoint]`), base (`Checkpoint`, *optional*):
            The models that were measured.
        grams (`Sequence[TensorGram]`):
            Inner products of the models.

    Raises:
        [`IngredientError`]: with the name of the model that holds NaN or infinity.
    """
    import numpy as np

    reference = checkpoints[0] if base is None else base
    # The reference comes first: if it is not finite, neither are the differences from it.
    for index, item in [(-1, reference), *enumerate(checkpoints)]:
        squared_lengths = [gram.inner[index, index] for gram in grams]
        if not np.isfinite(squared_lengths).all():
            raise IngredientError(f"{item.name!r} holds NaN or infinity: that run diverged or was saved badly.")


def inner_with_reference(grams: Sequence[TensorGram]) -> np.ndarray:
    """Inner products of the differences and of the reference, as in [`TensorGram`], summed over some tensors."""
    total = grams[0].inner.copy()
    for gram in grams[1:]:
        total += gram.inner
    return total


def inner_of_deltas(grams: Sequence[TensorGram]) -> np.ndarray:
    """Inner products of the models' differences from the reference, summed over some tensors."""
    return inner_with_reference(grams)[:-1, :-1]


def inner_of_weights(grams: Sequence[TensorGram]) -> np.ndarray:
    """Inner products of the models' weights, summed over some tensors."""
    total = inner_with_reference(grams)
    along = total[:-1, -1]
    # (b + d_i)(b + d_j) = bb + b d_i + b d_j + d_i d_j
    return total[:-1, :-1] + along[:, None] + along[None, :] + total[-1, -1]


def cosines_of(inner: np.ndarray, *, of_zero: float) -> np.ndarray:
    """Cosines from inner products, -1 to 1.

    Args:
        inner (`np.ndarray` of shape `(models, models)`):
            Inner products of all pairs.
        of_zero (`float`):
            Value for a pair with a zero vector, which has no direction.
    """
    import numpy as np

    lengths = np.sqrt(np.maximum(np.diag(inner), 0))  # rounding may leave less than 0
    outer = np.outer(lengths, lengths)
    return np.divide(inner, outer, out=np.full_like(inner, of_zero), where=outer > 0).clip(-1, 1)


def _empty_grams(
    checkpoints: Sequence[Checkpoint], base: Checkpoint | None, specs: Sequence[TensorSpec]
) -> Iterator[TensorGram]:
    """Empty grams, one for each tensor, to which the products of its pieces are added."""
    import numpy as np

    names = checkpoints[0].specs
    prefix, heads = own_prefix(names), set(head_names(names))
    height = len(checkpoints) + 1
    for spec in specs:
        yield TensorGram(
            tensor=spec.name,
            module=group(spec.name, prefix),
            region="head" if spec.name in heads else "body",
            elements=spec.numel,
            dimensions=len(spec.shape),
            inner=np.zeros((height, height)),
            known=base is None or _has(base, spec),
        )


def _no_signs(count: int) -> Signs:
    """Zero counts, to which those of pieces are added."""
    import numpy as np

    return Signs(np.zeros((count, count)), np.zeros((count, count)))


def _has(item: Checkpoint, spec: TensorSpec) -> bool:
    """Whether a model has a tensor: a base model may lack a head, or have one of another shape."""
    own = item.specs.get(spec.name)
    return own is not None and own.shape == spec.shape


def _read_permuted(
    items: Sequence[Checkpoint], moved: Mapping[tuple[str, str], Sequence[int]], grams: Mapping[str, TensorGram]
) -> dict[tuple[str, str], torch.Tensor]:
    """Model and tensor -> its elements with the rows in their new order, from which pieces can be taken."""
    by_name = {item.name: item for item in items}
    permuted = {}
    for (name, tensor), order in moved.items():
        if tensor in grams:
            permuted[name, tensor] = by_name[name].read(tensor)[list(order)].flatten()
    return permuted


def _pieces(specs: Sequence[TensorSpec], most: int) -> Iterator[tuple[TensorSpec, int]]:
    """Each tensor in pieces of at most `most` elements: the tensor and the first element of the piece."""
    for spec in specs:
        for start in range(0, spec.numel, most):
            yield spec, start


def _fill(
    row: torch.Tensor,
    item: Checkpoint,
    spec: TensorSpec,
    start: int,
    files: OpenFiles,
    raw: torch.Tensor,
    permuted: torch.Tensor | None,
) -> None:
    """Write a piece of one model's tensor into a row of float64, through a byte buffer."""
    import torch

    if not _has(item, spec):
        row.zero_()
    elif permuted is not None:
        row.copy_(permuted[start : start + len(row)])
    else:
        own = item.specs[spec.name]
        elements = raw[: len(row) * own.itemsize].view(getattr(torch, own.dtype))
        item.read_into(files, spec.name, start, bytes_of(elements))
        row.copy_(elements)


def _from_mean(deltas: torch.Tensor) -> torch.Tensor:
    """Differences from the mean of all models; exactly zero if all are equal, however the mean is rounded."""
    apart = deltas - deltas.mean(0)
    apart[:, (deltas == deltas[0]).all(0)] = 0
    return apart


def _signs(deltas: torch.Tensor) -> Signs:
    """Sign counts of a piece, exact in float32 because a piece has fewer than 2^24 elements."""
    import torch

    signs = torch.sign(deltas).to(torch.float32)
    changed = signs.abs()
    if bool(changed.all()):  # the usual case, in which no product is needed
        models, elements = deltas.shape
        both = torch.full((models, models), float(elements))
    else:
        both = changed @ changed.T
    return Signs((signs @ signs.T).double().numpy(), both.double().numpy())
