"""The derivative of a recipe's loss by its weights, without a copy of every model: one backward pass, and the dot
product of the model's gradient with each ingredient, which streams past in pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.digest import bytes_of
from ..checkpoints.files import OpenFiles
from ..checkpoints.modules import group, own_prefix
from ..checkpoints.pieces import in_threads
from ..errors import EvaluationError
from ..merging.plan import Plan, Step
from ..types import Gradient
from .running import on_device, own_attention, resolve_device


if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from .evaluator import Evaluator

ENOUGH = 2**22  # numbers of gradients that wait to be used together
SLICE = 2**18  # numbers of a tensor at a time, of so many ingredients
TOGETHER = 4


def recipe_gradient(
    evaluator: Evaluator,
    model: PreTrainedModel,
    own: Callable[[], Mapping[str, torch.Tensor] | None],
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    rows: np.ndarray,
    scale: float,
) -> Gradient:
    """The derivative of the mean loss on some examples by the weight of each ingredient in each module.

    Of the mean that a recipe defines, `sum_i w_i x_i / sum_i w_i`, it is `<dL/dtheta, x_i - theta> / sum_i w_i`; of a
    sum without the division `<dL/dtheta, x_i>`. The model is in evaluation mode, so without dropout.

    Args:
        evaluator ([`Evaluator`]):
            The examples.
        model (`transformers.PreTrainedModel`):
            What the plan makes.
        own (`Callable`):
            Gives the model's own memory by names on disk.
        plan ([`Plan`]):
            Of the linear method.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        rows (`np.ndarray`):
            Which examples.
        scale (`float`):
            What logits of classes and labels are multiplied with; values and tokens have none.

    Returns:
        [`Gradient`]

    Raises:
        [`EvaluationError`]: if the loss is not finite, or the model's weights in memory are not those of its files.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), learned soup; the chain rule.
    """
    import torch

    task = evaluator.task_module
    device = model.device if hasattr(model, "hf_device_map") else resolve_device(evaluator.device)
    model.to(device).eval().zero_grad(set_to_none=True)
    tensors = own()
    if tensors is None:
        raise EvaluationError(
            f"{type(model).__name__} has other tensors in memory than on disk, which are not learned."
        )
    batches = [
        {key: on_device(value, device, model.dtype) for key, value in batch.items()}
        for batch in evaluator.row_batches(model, rows)
    ]
    factor = torch.tensor(scale, device=device, requires_grad=True)
    own = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    dots = _Dots(plan, checkpoints, tensors)
    hooks = [
        parameter.register_post_accumulate_grad_hook(functools.partial(dots.take, own[parameter.data_ptr()]))
        for parameter in model.parameters()
        if parameter.data_ptr() in own
    ]
    try:
        with torch.enable_grad(), dots, own_attention(model):
            parts = [task.forward(model, batch) for batch in batches]
            logits, labels = (torch.cat(tensors) for tensors in list(zip(*parts, strict=True))[:2])
            if not labels.numel():  # no example of these has anything to say
                return Gradient(0.0, dots.by_module(), 0.0)
            loss = _loss(task.KIND, logits.float(), labels, factor)
            if not loss.isfinite():
                raise EvaluationError(
                    f"the loss of a soup of these ingredients is {loss.item()} on {evaluator.split}."
                )
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
    return Gradient(loss.item(), dots.by_module(), 0.0 if factor.grad is None else factor.grad.item())


def _loss(kind: str, logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The mean loss, as transformers' models define it."""
    from torch.nn import functional

    if kind == "classes":
        return functional.cross_entropy(logits * scale, labels)
    if kind == "labels":
        return functional.binary_cross_entropy_with_logits(logits * scale, labels.float())
    return functional.mse_loss(logits, labels.float()) if kind == "values" else -logits.mean()


class _Dots:
    """Dot products of gradients with ingredients. A gradient is used as soon as it is there, and then let go.

    Args:
        plan ([`Plan`]):
            Of the linear method.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        tensors (`Mapping[str, torch.Tensor]`):
            The model's own by names on disk.
    """

    def __init__(self, plan: Plan, checkpoints: Sequence[Checkpoint], tensors: Mapping[str, torch.Tensor]):
        self._plan, self._checkpoints, self._tensors = plan, checkpoints, tensors
        self._steps = {step.spec.name: step for step in plan.steps if not step.copied}
        self._waiting: list[tuple[Step, torch.Tensor]] = []
        self._found: dict[str, np.ndarray] = {}
        self._files = OpenFiles()

    def __enter__(self) -> None:
        self._files.__enter__()

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                self._work_off()
        finally:
            self._waiting.clear()
            self._files.__exit__()

    def take(self, name: str, parameter: torch.nn.Parameter) -> None:
        """A parameter has its gradient."""
        if name in self._steps:
            self._waiting.append((self._steps[name], parameter.grad))
        parameter.grad = None
        if sum(gradient.numel() for _, gradient in self._waiting) >= ENOUGH:
            self._work_off()

    def by_module(self) -> dict[str, tuple[float, ...]]:
        """Module -> one number for each ingredient."""
        import numpy as np

        prefix = own_prefix(spec.name for spec in self._plan.specs)
        nothing = np.zeros(len(self._checkpoints))  # of what the loss does not depend on
        sums: dict[str, np.ndarray] = {}
        for name in self._steps:
            module = group(name, prefix)
            sums[module] = sums.get(module, nothing) + self._found.get(name, nothing)
        return {module: tuple(row.tolist()) for module, row in sums.items()}

    def _work_off(self) -> None:
        """Every piece has its place, so that the sum is always the same."""
        import numpy as np

        pieces = []
        for step, gradient in self._waiting:
            numel = step.spec.numel
            most = max(numel, 1) if step.orders else SLICE  # rows in another order are taken whole
            pieces += [(step, gradient.reshape(-1), at, min(most, numel - at)) for at in range(0, max(numel, 1), most)]
        found = np.zeros((len(pieces), len(self._checkpoints)))

        def make_worker() -> Callable[[tuple[int, tuple]], None]:
            buffers = _Buffers()

            def work(numbered: tuple[int, tuple]) -> None:
                place, piece = numbered
                found[place] = self._dot(*piece, buffers)

            return work

        in_threads(enumerate(pieces), make_worker)
        for (step, *_), row in zip(pieces, found, strict=True):
            self._found[step.spec.name] = self._found.get(step.spec.name, 0) + row
        self._waiting.clear()

    def _dot(self, step: Step, gradient: torch.Tensor, start: int, count: int, buffers: _Buffers) -> np.ndarray:
        """Of one piece, with each ingredient; a few are read at a time, so that all of it stays in cache."""
        import torch

        gradient = gradient[start : start + count].to(torch.promote_types(gradient.dtype, torch.float32))
        theta = self._tensors[step.spec.name].reshape(-1)[start : start + count].to(gradient)
        normalize = step.how.function.keywords.get("normalize", True)
        found = []
        for first in range(0, len(self._checkpoints), TOGETHER):
            some = self._checkpoints[first : first + TOGETHER]
            rows, places = buffers.rows(len(some), count, gradient.dtype)
            for index, item in enumerate(some, start=first):
                self._read(step, index, item, start, rows[index - first], places[index - first], buffers)
            change = rows.to(gradient.device)
            found.append(((change.sub_(theta) if normalize else change) @ gradient).cpu())
        return torch.cat(found).double().numpy() / (sum(step.weights) if normalize else 1)

    def _read(
        self,
        step: Step,
        index: int,
        item: Checkpoint,
        start: int,
        row: torch.Tensor,
        place: memoryview,
        buffers: _Buffers,
    ) -> None:
        """What an ingredient has there, in the type to compute in."""
        spec = item.specs[step.spec.name]
        order = step.orders[step.inputs.index(index)] if step.orders and index in step.inputs else None
        if not order and f"torch.{spec.dtype}" == str(row.dtype):
            item.read_into(self._files, spec.name, start, place)
            return
        elements = buffers.raw(len(row), spec.dtype)
        item.read_into(self._files, spec.name, start, bytes_of(elements))
        row.copy_(elements.reshape(spec.shape)[list(order)].reshape(-1) if order else elements)


class _Buffers:
    """Memory of one thread that is used again."""

    def __init__(self):
        import torch

        self._memory = torch.empty(TOGETHER * SLICE * 8, dtype=torch.uint8)
        self._raw = torch.empty(SLICE * 8, dtype=torch.uint8)
        self._views = functools.cache(self._view)  # most pieces have the same size

    def rows(self, n: int, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[memoryview]]:
        """For a few ingredients side by side: numbers, and the bytes of each."""
        return (self._views if count <= SLICE else self._view)(n, count, dtype)

    def _view(self, n: int, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[memoryview]]:
        rows = _take(self._memory, n * count, dtype).reshape(n, count)
        return rows, [bytes_of(row) for row in rows]

    def raw(self, count: int, dtype: str) -> torch.Tensor:
        """For one as it is in its file."""
        import torch

        return _take(self._raw, count, getattr(torch, dtype))


def _take(memory: torch.Tensor, count: int, dtype: torch.dtype) -> torch.Tensor:
    size = count * dtype.itemsize
    return (memory[:size] if size <= len(memory) else memory.new_empty(size)).view(dtype)
