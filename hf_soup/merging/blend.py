"""Plan -> the tensors of the soup, piece by piece, into a sink: files or a model in memory; both get the same bits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.check import equal_or_counter
from ..checkpoints.checkpoint import Checkpoint, make_ready
from ..checkpoints.digest import Digests, combined_digest
from ..checkpoints.files import OpenFiles
from ..checkpoints.pieces import PIECE, in_threads, piece_starts
from ..checkpoints.reader import TensorSpec
from ..errors import IncompatibleError, IngredientError, RecipeError
from ..progress import progress_bar
from .plan import Plan, Step


if TYPE_CHECKING:
    import torch

    Sink = Callable[[str, int, torch.Tensor], None]

BASE = -1  # the base model's place among the digests
WIDEST = 8  # bytes of an element


class Piece(NamedTuple):
    """What is made at once: consecutive elements of one tensor, or several small tensors that are made alike.

    Args:
        steps (`tuple[Step, ...]`):
            What is done to each tensor; several if they are whole.
        start (`int`):
            The first element of the first tensor.
        count (`int`):
            How many elements, of all tensors together.
    """

    steps: tuple[Step, ...]
    start: int
    count: int

    @property
    def parts(self) -> Iterator[tuple[str, int, slice]]:
        """The name of each tensor, the element it begins with and where that lies in the piece."""
        if len(self.steps) == 1:
            yield self.steps[0].spec.name, self.start, slice(0, self.count)
            return
        end = 0
        for step in self.steps:
            begin, end = end, end + step.spec.numel
            yield step.spec.name, 0, slice(begin, end)


def blend(
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    sink: Sink,
    *,
    digests: bool = False,
    device: str = "cpu",
) -> list[dict[str, str]]:
    """Make the soup on all cores, in the order of the first ingredient's files.

    Of additive methods memory holds a piece and its sum for each thread, whatever the size of the model and the number
    of ingredients. Others get the tensors of one name all at once: in pieces if they are elementwise, else whole, on
    each thread.

    Args:
        plan ([`Plan`]):
            What to do.
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients, in recipe order.
        sink (`Callable[[str, int, torch.Tensor], None]`):
            Takes a tensor's name, the place of the first element and the elements, flat and on the CPU; from several
            threads, in no certain order, each element once.
        digests (`bool`, *optional*, defaults to `False`):
            Whether what is read is hashed on the way.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to compute, such as `"cuda"`.

    Returns:
        `list[dict[str, str]]`: for each ingredient the digest of each tensor that was read, those of the base model
        last; empty without `digests`.

    Raises:
        [`IngredientError`]: if a tensor holds NaN or infinity, or a folder has changed since it was opened.
        [`IncompatibleError`]: if integer buffers differ that were not at hand for the check.
        [`RecipeError`]: if the result does not fit into the type that was asked for.
    """
    items = [*checkpoints, *([plan.base] if plan.base else [])]
    make_ready(items)
    read = [Digests() for _ in range(len(checkpoints) + 1)] if digests else []
    for step in plan.steps if digests else ():
        for index in (*step.inputs, *([BASE] if step.base else [])):
            read[index].expect(step.spec.name, step.spec.numel)
    lock = threading.Lock()

    def make_worker() -> Callable[[Piece], None]:
        kitchen = _Kitchen(plan, items, files, read, device)

        def work(piece: Piece) -> None:
            elements = kitchen.make(piece)
            for name, start, part in piece.parts:
                sink(name, start, elements[part])
            with lock:
                bar.update(elements.nbytes)

        return work

    bar = progress_bar(desc="Merging", total=plan.nbytes, unit="B", unit_scale=True, delay=0.5)
    with OpenFiles() as files, bar:
        in_threads(_pieces(plan, items), make_worker)
    return [found.result() for found in read]


def _pieces(plan: Plan, items: Sequence[Checkpoint]) -> Iterator[Piece]:
    """In the order of the first ingredient's files; of small tensors that are made alike as many as fit into one."""
    row: list[Step] = []
    count = 0
    for step in sorted(plan.steps, key=lambda step: _place(items[0].specs[step.spec.name])):
        numel = step.spec.numel
        if row and (count + numel > PIECE or _kind(step, items) != _kind(row[0], items)):
            yield Piece(tuple(row), 0, count)
            row, count = [], 0
        if step.orders:
            yield Piece((step,), 0, numel)
        elif not step.copied and step.how.additive and numel <= PIECE:
            row.append(step)
            count += numel
        elif step.copied or step.how.elementwise:
            yield from (Piece((step,), start, min(PIECE, numel - start)) for start in piece_starts(numel))
        else:
            yield Piece((step,), 0, numel)
    if row:
        yield Piece(tuple(row), 0, count)


def _place(spec: TensorSpec) -> tuple[str, int]:
    """Where a tensor lies, to read in the order of the files."""
    return spec.file, spec.start


def _kind(step: Step, items: Sequence[Checkpoint]) -> tuple:
    """What tensors have in common that are made alike."""
    dtypes = [items[index].specs[step.spec.name].dtype for index in step.inputs]
    return step._replace(spec=None), step.spec.dtype, dtypes


class _Kitchen:
    """What one thread makes pieces in: buffers that are used again and again.

    Args:
        plan ([`Plan`]):
            What to do.
        items (`Sequence[Checkpoint]`):
            The ingredients, the base model last if there is one.
        files (`OpenFiles`):
            Their weight files.
        read (`Sequence[Digests]`):
            Take what is read; empty if nothing is hashed.
        device (`str`):
            Where to compute.
    """

    def __init__(
        self, plan: Plan, items: Sequence[Checkpoint], files: OpenFiles, read: Sequence[Digests], device: str
    ):
        self._plan, self._items, self._files, self._read, self._device = plan, items, files, read, device
        self._raw, self._wide, self._sum = _Buffer("cpu"), _Buffer(device), _Buffer(device)

    def make(self, piece: Piece) -> torch.Tensor:
        """The elements of one piece of the soup, flat and on the CPU; valid until the next call."""
        step = piece.steps[0]
        if step.copied:
            return self._copy(piece)
        given = {"base": self._own(BASE, piece)} if step.base else {}
        if "out" in step.how.asks:
            given["out"], _ = self._sum(piece.count, step.accumulator)
        if "rng" in step.how.asks:
            given["rng"] = _generator(self._plan.seed, step.spec.name, self._device)
        make = self._passing if step.how.additive else self._own
        tensors = (make(index, piece) for index in step.inputs)
        combined = step.how.function(tensors, step.weights, **given).reshape(-1)
        result = round_to(combined, step.spec.dtype, out=self._wide(piece.count, step.spec.dtype)[0])
        if not _finite(result):
            self._blame(piece)
        return result.cpu()

    def _copy(self, piece: Piece) -> torch.Tensor:
        (step,) = piece.steps
        values = [self._elements(index, piece).clone() for index in step.inputs]
        if not equal_or_counter(step.spec.name, values):
            names = ", ".join(self._items[index].name for index in step.inputs)
            found = f"{names}: the {step.spec.dtype} buffer {step.spec.name} differs; it cannot be averaged"
            raise IncompatibleError([found])
        return values[0]

    def _elements(self, index: int, piece: Piece) -> torch.Tensor:
        """What an ingredient has there, as it is; of small pieces valid until the next call."""
        item = self._items[index]
        spec = item.specs[piece.steps[0].spec.name]
        elements, into = self._raw(piece.count, spec.dtype)
        if len(piece.steps) == 1:
            item.read_into(self._files, spec.name, piece.start, into)
        else:
            item.read_row(self._files, [step.spec.name for step in piece.steps], into)
        if self._read:
            size = spec.itemsize
            for name, start, part in piece.parts:
                self._read[index].add(name, start, into[part.start * size : part.stop * size], size)
        step = piece.steps[0]
        if step.orders and index != BASE and (order := step.orders[step.inputs.index(index)]):
            return elements.reshape(step.spec.shape)[list(order)].reshape(-1)
        return elements

    def _passing(self, index: int, piece: Piece) -> torch.Tensor:
        """A tensor that is added up at once: all come in one buffer, but the first, which is copied to `out`."""
        step = piece.steps[0]
        elements = self._elements(index, piece)
        if index == step.inputs[0] or (str(elements.dtype) == f"torch.{step.accumulator}" and self._device == "cpu"):
            return elements  # the first is widened when it is copied
        return self._wide(piece.count, step.accumulator)[0].copy_(elements)

    def _own(self, index: int, piece: Piece) -> torch.Tensor:
        """A tensor in memory of its own, in the type to sum in, and looked through for NaN."""
        import torch

        step = piece.steps[0]
        wide = self._elements(index, piece).to(self._device, getattr(torch, step.accumulator), copy=True)
        if not _finite(wide):
            self._refuse_nan(index, step.spec.name)
        return wide if step.how.elementwise else wide.reshape(step.spec.shape)

    def _blame(self, piece: Piece) -> None:
        """A result that is not finite: say which ingredient has made it so, and in which tensor."""
        step = piece.steps[0]
        for index in step.inputs if step.how.additive else ():
            elements = self._elements(index, piece)
            for name, _, part in piece.parts:
                if not _finite(elements[part]):
                    self._refuse_nan(index, name)
        names = ", ".join(step.spec.name for step in piece.steps[:3])
        raise RecipeError(f"{names} does not fit into {step.spec.dtype}. Choose a wider dtype.")

    def _refuse_nan(self, index: int, name: str) -> None:
        raise IngredientError(
            f"{self._items[index].name!r} holds NaN or infinity in {name}: that run diverged or was saved "
            "badly. Leave it out."
        )


def file_digests(checkpoint: Checkpoint, read: dict[str, str]) -> dict[str, str]:
    """What a recipe records of the files of an ingredient once they were read; the Hub's own digests stay as they are.

    Args:
        checkpoint ([`Checkpoint`]):
            The ingredient.
        read (`dict[str, str]`):
            Tensor name -> digest of each tensor that was read.

    Raises:
        [`IngredientError`]: if what was read is not what the recipe, or the look at a model in memory, recorded.
    """
    result = dict(checkpoint.ingredient.files)
    for file, recorded in result.items():
        names = [
            name for name in checkpoint.specs if checkpoint.in_memory or checkpoint.specs[name].file in (file, "")
        ]
        inside = {checkpoint.specs[name].key: read[name] for name in names if name in read}
        if recorded.startswith("sha") or not inside:
            continue
        digest = combined_digest(inside, part=len(inside) < len(names))
        alike = recorded.split(":")[0] == digest.split(":")[0]
        if alike and recorded != digest:
            raise IngredientError(
                f"the weights of {checkpoint.name!r} are not those that the recipe was made from ({file} has changed)."
            )
        if recorded.startswith("stat:") or len(inside) == len(names):
            result[file] = digest
    return result


class _Buffer:
    """Memory for one piece that is used again and again; whole tensors get memory of their own.

    Called with a number of elements and their type, it gives the memory as elements and, on the CPU, as bytes.
    """

    def __init__(self, device: str):
        import torch

        self._memory = torch.empty(PIECE * WIDEST, dtype=torch.uint8, device=device)
        self._views = functools.cache(self._view)  # most pieces have the same size

    def __call__(self, count: int, dtype: str) -> tuple[torch.Tensor, memoryview | None]:
        return (self._views if count <= PIECE else self._view)(count, dtype)

    def _view(self, count: int, dtype: str) -> tuple[torch.Tensor, memoryview | None]:
        import torch

        dtype = getattr(torch, dtype)
        size = count * dtype.itemsize
        memory = self._memory[:size] if count <= PIECE else self._memory.new_empty(size)
        return memory.view(dtype), None if memory.device.type != "cpu" else memoryview(memory.numpy())


def _generator(seed: int, name: str, device: str) -> torch.Generator:
    """Random numbers of one tensor, the same in whatever order tensors are made."""
    import torch
    import xxhash

    return torch.Generator(device).manual_seed(xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) >> 1)


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite. NaN and infinity show in the sum, which is the fastest pass there is."""
    import torch

    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # torch adds up no float8
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return bool(tensor.sum(dtype=wide).isfinite()) or bool(tensor.isfinite().all())  # finite numbers may sum to more


def round_to(tensor: torch.Tensor, dtype: str, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Cast once, to the nearest value of the type.

    torch goes from float64 to 16 bits and fewer by way of float32 and so rounds twice. Rounding the first time to odd
    (cut off, and set the last bit if anything was lost) makes the second rounding right.

    Args:
        tensor (`torch.Tensor`):
            float32 or float64, finite.
        dtype (`str`):
            A floating-point type.
        out (`torch.Tensor`, *optional*):
            Memory for the result, of that type.
    """
    import torch

    target = getattr(torch, dtype)
    if tensor.dtype == torch.float64 and target.itemsize <= 2:
        near = tensor.to(torch.float32)
        bits = near.view(torch.int32)
        bits -= (near.double().abs() > tensor.abs()).int()  # back towards zero where the magnitude was rounded up
        bits |= (near.double() != tensor).int()
        tensor = near
    return tensor.to(target) if out is None else out.copy_(tensor)
