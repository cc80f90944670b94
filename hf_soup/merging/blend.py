"""Plan -> the tensors of the soup, piece by piece, into a sink: files or a model in memory, with identical bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..checkpoints.check import equal_or_counter
from ..checkpoints.checkpoint import Checkpoint, make_ready
from ..checkpoints.digest import Digests, bytes_of, tensor_of
from ..checkpoints.files import OpenFiles
from ..checkpoints.pieces import PIECE, in_threads
from ..errors import IncompatibleError, IngredientError, RecipeError
from ..progress import progress_bar
from .budget import MemoryBudget, bytes_at_once
from .buffer import Buffer
from .joined import join_adapters
from .pieces import Piece, pieces_of
from .plan import Plan
from .read_ahead import BASE, reading_ahead
from .steps import CombineStep, CopyStep, Step
from .sums import AT_ONCE, add_up, divisor, is_one_pass


if TYPE_CHECKING:
    import torch

    Sink = Callable[[str, int, memoryview], None]


def blend(
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    sink: Sink,
    *,
    digests: bool = False,
    device: str = "cpu",
) -> list[dict[str, str]]:
    """Make the soup on all cores, in the order of the first ingredient's files.

    For additive methods, memory holds a piece and its sum per thread, whatever the size of the model and the number of
    ingredients. Other methods get all tensors of a name at once: in pieces if they are elementwise, else complete, on
    as many threads as the memory of the plan allows.

    Args:
        plan ([`Plan`]):
            Plan of the merge.
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients, in recipe order.
        sink (`Callable[[str, int, memoryview], None]`):
            Takes a tensor's name, the place of the first element and the bytes of the elements; from several threads,
            in no certain order, each element once.
        digests (`bool`, *optional*, defaults to `False`):
            Whether what is read is hashed on the way.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are combined, such as `"cuda"`.

    Returns:
        `list[dict[str, str]]`: for each ingredient the digest of each tensor that was read, those of the base model
        last; empty without `digests`.

    Raises:
        [`IngredientError`]: if a tensor holds NaN or infinity, or a folder has changed since it was opened.
        [`IncompatibleError`]: if integer buffers differ that were not at hand for the check.
        [`RecipeError`]: if the result does not fit into the type that was asked for.
    """
    plan, checkpoints_and_base = join_adapters(plan, checkpoints)
    n_joined = len(checkpoints_and_base) - len(checkpoints)
    if plan.base is not None:
        checkpoints_and_base.append(plan.base)
    make_ready([*checkpoints_and_base, *plan.importance.values()])
    digests_read: list[Digests] = []
    if digests:
        digests_read = _expected_digests(plan, len(checkpoints) + n_joined)
    lock = threading.Lock()
    memory = MemoryBudget(plan.max_memory)

    # Called once on each thread, so the buffers are not shared.
    def make_worker() -> Callable[[Piece], None]:
        worker = _Worker(plan, checkpoints_and_base, files, digests_read, device)

        def work(piece: Piece) -> None:
            with memory.using(bytes_at_once(piece.steps[0])):
                content = worker.make(piece)
            size = piece.steps[0].spec.itemsize
            for span in piece.spans:
                sink(span.name, span.start, content[span.within.start * size : span.within.stop * size])
            with lock:
                bar.update(len(content))

        return work

    bar = progress_bar(desc="Merging", total=plan.nbytes, unit="B", unit_scale=True, delay=0.5)
    with OpenFiles() as files, bar, reading_ahead(plan, checkpoints_and_base):
        with_torch = _needs_torch(plan, checkpoints_and_base, device)
        in_threads(pieces_of(plan, checkpoints_and_base), make_worker, with_torch=with_torch)
    results = [digests_of_one.result() for digests_of_one in digests_read]
    del results[len(checkpoints) : len(checkpoints) + n_joined]
    del checkpoints_and_base[len(checkpoints) : len(checkpoints) + n_joined]
    for result, checkpoint in zip(results, checkpoints_and_base, strict=False):  # there may be no base model
        result |= checkpoint.digests_apart()  # of tensors that are not read as they are stored
    return results


def _needs_torch(plan: Plan, checkpoints: Sequence[Checkpoint], device: str) -> bool:
    """Whether anything is computed by torch: the soup, or what is read."""
    if any(checkpoint.computes for checkpoint in checkpoints):
        return True
    for step in plan.steps:
        is_copied = isinstance(step, CopyStep) and not step.orders
        if not is_copied and not is_one_pass(step, _dtypes(step, checkpoints), device):
            return True
    return False


def _dtypes(step: Step, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The type in which each input of a step is stored."""
    return [checkpoints[index].specs[step.spec.name].dtype for index in step.inputs]


def _expected_digests(plan: Plan, n_checkpoints: int) -> list[Digests]:
    """Room for the digests of the tensors that will be read, for each ingredient and finally the base model."""
    digests = [Digests() for _ in range(n_checkpoints + 1)]
    for step in plan.steps:
        for index in step.inputs:
            digests[index].expect(step.spec.name, step.spec.numel)
        if step.base:
            digests[BASE].expect(step.spec.name, step.spec.numel)
    return digests


class _Worker:
    """The worker of one thread, which makes pieces in reused buffers.

    Args:
        plan ([`Plan`]):
            Plan of the merge.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients, the base model last if there is one.
        files (`OpenFiles`):
            Weight files of the checkpoints.
        digests (`Sequence[Digests]`):
            Take what is read; empty if nothing is hashed.
        device (`str`):
            Device on which tensors are combined.
    """

    def __init__(
        self,
        plan: Plan,
        checkpoints: Sequence[Checkpoint],
        files: OpenFiles,
        digests: Sequence[Digests],
        device: str,
    ):
        self._plan = plan
        self._checkpoints = checkpoints
        self._files = files
        self._digests = digests
        self._device = device
        self._raws = [Buffer(PIECE) for _ in range(AT_ONCE)]  # as read, in the ingredient's own type
        self._wide = Buffer(PIECE, device)  # in the accumulation type; finally the result in its own type
        self._sum = Buffer(PIECE, device)

    def make(self, piece: Piece) -> memoryview:
        """The bytes of one piece of the soup; valid until the next call."""
        step = piece.steps[0]
        if isinstance(step, CopyStep):
            return self._copy(step, piece)
        if is_one_pass(step, _dtypes(step, self._checkpoints), self._device):
            return self._sum_in_one_pass(step, piece)
        result = self._combine(step, piece)
        # Checked once, on the result: checking every input would be an additional pass over each.
        if not _finite(result):
            self._blame(step, piece)
        return bytes_of(result)

    def _sum_in_one_pass(self, step: CombineStep, piece: Piece) -> memoryview:
        """The bytes of a piece of a weighted mean or sum, whose inputs have the type of the result."""
        out = self._wide.bytes(piece.numel, step.spec.dtype)
        sums = None
        if len(step.inputs) > AT_ONCE:
            sums = self._sum.bytes(piece.numel, step.accumulator)
        is_finite = True
        for begin in range(0, len(step.inputs), AT_ONCE):
            places = range(begin, min(begin + AT_ONCE, len(step.inputs)))
            contents = [self._read(step.inputs[place], step, piece, self._raws[place - begin]) for place in places]
            is_last = places.stop == len(step.inputs)
            is_finite = add_up(
                step.spec.dtype,
                contents,
                tuple(step.weights[place] for place in places),
                sums=sums,
                begins=begin == 0,
                out=out if is_last else None,
                total=divisor(step) if is_last else 0.0,
            )
        if not is_finite:
            self._blame(step, piece)
        return out

    def _combine(self, step: CombineStep, piece: Piece) -> torch.Tensor:
        """The elements of a piece that a method computes, on the device; `step` is the first of several steps."""
        # the parameters that a method may request, as described in `hf_soup.methods`
        provided: dict[str, torch.Tensor | torch.Generator | list[torch.Tensor]] = {}
        if step.base:
            provided["base"] = self._own(BASE, step, piece)
        if step.importance:
            provided["importance"] = [self._importance(index, step, piece) for index in step.inputs]
        if "out" in step.how.asks:
            provided["out"] = self._sum.elements(piece.numel, step.accumulator)
        if "rng" in step.how.asks:
            provided["rng"] = _generator(self._plan.seed, step.spec.name, self._device)
        read = self._passing if step.how.additive else self._own
        # A generator, so that an additive method has one input in memory at a time.
        tensors = (read(index, step, piece) for index in step.inputs)
        combined = step.how.function(tensors, step.weights, **provided).reshape(-1)
        return round_to(combined, step.spec.dtype, out=self._wide.elements(piece.numel, step.spec.dtype))

    def _copy(self, step: CopyStep, piece: Piece) -> memoryview:
        """The bytes of a buffer, which are the same in all ingredients."""
        values = []
        for index in step.inputs:
            if step.orders:
                content = bytes_of(self._elements(index, step, piece))
            else:
                content = self._read(index, step, piece, self._raws[0])
            values.append(bytearray(content))  # copied, because all are read into the same memory
        if not equal_or_counter(step.spec.name, values):
            names = ", ".join(self._checkpoints[index].name for index in step.inputs)
            problem = f"{names}: the {step.spec.dtype} buffer {step.spec.name} differs; it cannot be averaged"
            raise IncompatibleError([problem])
        return memoryview(values[0])

    def _elements(self, index: int, step: Step, piece: Piece) -> torch.Tensor:
        """The original elements of an ingredient; for small pieces, valid until the next call."""
        dtype = self._checkpoints[index].specs[step.spec.name].dtype
        elements = tensor_of(self._read(index, step, piece, self._raws[0]), dtype)
        if step.orders and index != BASE:  # the base model's classes are in the order of the soup
            order = step.orders[step.inputs.index(index)]
            if order is not None:
                return elements.reshape(step.spec.shape)[list(order)].reshape(-1)
        return elements

    def _read(self, index: int, step: Step, piece: Piece, buffer: Buffer) -> memoryview:
        """The bytes of elements of an ingredient as they are stored, in a buffer."""
        checkpoint = self._checkpoints[index]
        spec = checkpoint.specs[step.spec.name]
        into = buffer.bytes(piece.numel, spec.dtype)
        if len(piece.steps) == 1:  # a tensor, or a piece of it
            checkpoint.read_into(self._files, spec.name, piece.start, into)
        else:
            checkpoint.read_row(self._files, [step.spec.name for step in piece.steps], into)
        if self._digests:
            size = spec.itemsize
            for name, start, within in piece.spans:
                bytes_read = into[within.start * size : within.stop * size]
                self._digests[index].add(name, start, bytes_read, size)
        return into

    def _passing(self, index: int, step: CombineStep, piece: Piece) -> torch.Tensor:
        """A tensor that is accumulated at once: all share one buffer, except the first, copied to `out`."""
        elements = self._elements(index, step, piece)
        if index == step.inputs[0]:  # it is widened when it is copied
            return elements
        if self._device == "cpu" and str(elements.dtype) == f"torch.{step.accumulator}":
            return elements
        return self._wide.elements(piece.numel, step.accumulator).copy_(elements)

    def _own(self, index: int, step: CombineStep, piece: Piece) -> torch.Tensor:
        """A tensor in its own memory, in the accumulation type, checked for NaN."""
        import torch

        elements = self._elements(index, step, piece)
        wide = elements.to(self._device, getattr(torch, step.accumulator), copy=True)
        if not _finite(wide):
            self._refuse_nan(index, step.spec.name)
        if step.how.elementwise:  # flat, like a piece
            return wide
        return wide.reshape(step.spec.shape)

    def _importance(self, index: int, step: CombineStep, piece: Piece) -> torch.Tensor:
        """The statistics of an ingredient's tensor, or of a piece of it in the order of the soup's classes."""
        import torch

        statistics = self._plan.importance[self._checkpoints[index].name]
        spec = statistics.specs[step.spec.name]
        numel = piece.numel if step.how.elementwise else spec.numel
        tensor = torch.empty(numel, dtype=getattr(torch, spec.dtype))
        statistics.read_into(self._files, spec.name, piece.start, bytes_of(tensor))
        order = step.orders[step.inputs.index(index)] if step.orders else None
        if order is not None and step.how.elementwise:
            tensor = tensor.reshape(spec.shape)[list(order)].reshape(-1)
        wide = tensor.to(self._device, getattr(torch, step.accumulator))
        return wide if step.how.elementwise else wide.reshape(spec.shape)

    def _blame(self, step: CombineStep, piece: Piece) -> NoReturn:
        """Raise an error that names the ingredient and tensor responsible for a result that is not finite."""
        if step.how.additive:  # for other methods, each input was checked when it was read
            for index in step.inputs:
                elements = self._elements(index, step, piece)
                for span in piece.spans:
                    if not _finite(elements[span.within]):
                        self._refuse_nan(index, span.name)
        # All inputs are finite: their mean overflows the type, or their sum the accumulation type.
        names = ", ".join(step.spec.name for step in piece.steps[:3])
        raise RecipeError(f"{names} does not fit into {step.spec.dtype}. Choose a wider dtype.")

    def _refuse_nan(self, index: int, name: str) -> NoReturn:
        raise IngredientError(
            f"{self._checkpoints[index].name!r} holds NaN or infinity in {name}: that run diverged or was saved "
            "badly. Leave it out."
        )


def _generator(seed: int, name: str, device: str) -> torch.Generator:
    """The random numbers of one tensor, independent of the order in which tensors are made."""
    import torch
    import xxhash

    return torch.Generator(device).manual_seed(xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) >> 1)


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are finite. NaN and infinity show in the sum, which is the fastest check."""
    import torch

    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # torch has no sum for float8
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if tensor.sum(dtype=wide).isfinite():
        return True
    return bool(tensor.isfinite().all())  # large finite numbers may sum to infinity


def round_to(tensor: torch.Tensor, dtype: str, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Round once, to the nearest value of the type.

    torch converts float64 to 16 bits and fewer through float32 and so rounds twice. Rounding to odd the first time
    (truncate, and set the last bit if anything was lost) makes the second rounding correct.

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
        # The bits of a float as an integer: subtracting one gives the next number towards zero, whatever its sign.
        bits = near.view(torch.int32)
        bits -= (near.double().abs() > tensor.abs()).int()  # back towards zero if the magnitude was rounded up
        bits |= (near.double() != tensor).int()  # odd if anything was lost
        tensor = near
    if out is None:
        return tensor.to(target)
    return out.copy_(tensor)
