"""The gradient of a recipe's loss with respect to its weights, without a copy of every model: one backward pass, and
the dot product of the model's gradient with each ingredient, which is read in pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.digest import bytes_of, tensor_of
from ..checkpoints.files import OpenFiles
from ..checkpoints.modules import group, own_prefix
from ..checkpoints.pieces import in_threads
from ..errors import EvaluationError
from ..merging.buffer import Buffer
from ..merging.plan import Plan
from ..merging.refill import own_tensors
from ..merging.steps import CombineStep
from ..metrics.predictions import check_has_loss
from ..types import Gradient
from .models import is_of_sentences, model_for
from .running import batch_on_device, own_attention, put_on_device


if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from ..tasks import Task
    from .evaluator import Evaluator

WAITING = 2**22  # maximum number of gradient elements that wait to be multiplied, to limit memory
PIECE = 2**18  # elements of a tensor processed at a time, so that AT_ONCE ingredients stay in cache
AT_ONCE = 4  # ingredients multiplied with a gradient in one call


def recipe_gradient(
    evaluator: Evaluator,
    model: PreTrainedModel,
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    rows: np.ndarray,
    scale: float,
) -> Gradient:
    """The gradient of the mean loss on some examples with respect to the weight of each ingredient in each module.

    For a mean, `sum_i w_i x_i / sum_i w_i`, it is `<dL/dtheta, x_i - theta> / sum_i w_i`; for a sum without the
    division it is `<dL/dtheta, x_i>`. The model is in evaluation mode, without dropout.

    Args:
        evaluator ([`Evaluator`]):
            Evaluator with the examples.
        model (`transformers.PreTrainedModel`):
            Model that the plan makes.
        plan ([`Plan`]):
            Plan of a recipe with the linear method.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe.
        rows (`np.ndarray`):
            Row numbers of the examples.
        scale (`float`):
            Factor by which logits of classes and labels are multiplied; values and tokens have none.

    Returns:
        [`Gradient`]

    Raises:
        [`EvaluationError`]: if the loss is not finite, or the model's tensors in memory are not those of its files.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482), learned soup; the chain rule.
    """
    import torch

    task = evaluator.for_model(model).task_module
    check_has_loss(task.KIND)
    if is_of_sentences(task):
        raise EvaluationError(
            f"weights cannot be learned for {task.PIPELINE}, whose embeddings are computed without gradients; greedy "
            "and search choose weights by the score."
        )
    device = put_on_device(model, evaluator.device)
    model.zero_grad(set_to_none=True)
    tensors = own_tensors(model)
    if tensors is None:
        raise EvaluationError(
            f"weights cannot be learned for {type(model).__name__}, which has other tensors in memory than on disk."
        )
    batches = []
    for batch in evaluator.examples.batches_of(model, rows):
        batches.append(batch_on_device(batch, device, model.dtype))
    factor = torch.tensor(scale, device=device, requires_grad=True)
    products = _DotProducts(plan, checkpoints, tensors)
    # By address, because a parameter may have another name in memory than on disk.
    names = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    hooks = []
    for parameter in model.parameters():
        if parameter.data_ptr() in names:
            hook = functools.partial(products.take, names[parameter.data_ptr()])
            hooks.append(parameter.register_post_accumulate_grad_hook(hook))
    try:
        with torch.enable_grad(), products, own_attention(model):
            logits, labels = _outputs(task, model_for(task, model), batches)
            if not labels.numel():  # none of these examples has a label
                return Gradient(0.0, products.by_module(), 0.0)
            loss = _loss(evaluator.task_module.KIND, logits.float(), labels, factor)
            if not loss.isfinite():
                raise EvaluationError(
                    f"the loss of a soup of these ingredients is {loss.item()} on {evaluator.split}."
                )
            loss.backward()
    finally:
        for handle in hooks:
            handle.remove()
        model.zero_grad(set_to_none=True)
    by_scale = 0.0
    if factor.grad is not None:  # the loss of values and tokens does not depend on the factor
        by_scale = factor.grad.item()
    return Gradient(loss.item(), products.by_module(), by_scale)


def _outputs(
    task: Task, model: PreTrainedModel, batches: Sequence[dict[str, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the items of all batches."""
    import torch

    all_logits, all_labels = [], []
    for batch in batches:
        logits, labels, _ = task.forward(model, batch)
        all_logits.append(logits)
        all_labels.append(labels)
    return torch.cat(all_logits), torch.cat(all_labels)


def _loss(kind: str, logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The mean loss, as models of transformers define it."""
    from torch.nn import functional

    if kind == "classes":
        return functional.cross_entropy(logits * scale, labels)
    if kind == "labels":
        return functional.binary_cross_entropy_with_logits(logits * scale, labels.float())
    if kind == "values":
        return functional.mse_loss(logits, labels.float())
    return -logits.mean()  # logits of texts are the log probabilities of the correct tokens


class _Piece(NamedTuple):
    """Consecutive elements of one gradient.

    Args:
        step (`CombineStep`):
            Step of the plan that makes the tensor.
        gradient (`torch.Tensor`):
            Gradient of the whole tensor, flat.
        start (`int`), numel (`int`):
            Index of the first element, and number of elements.
    """

    step: CombineStep
    gradient: torch.Tensor
    start: int
    numel: int


class _DotProducts:
    """Dot products of gradients with ingredients. A gradient is used as soon as it is computed, and then freed.

    Args:
        plan ([`Plan`]):
            Plan of a recipe with the linear method.
        checkpoints (`Sequence[Checkpoint]`):
            Ingredients in the order of the recipe.
        tensors (`Mapping[str, torch.Tensor]`):
            Tensors of the model by their names on disk.
    """

    def __init__(self, plan: Plan, checkpoints: Sequence[Checkpoint], tensors: Mapping[str, torch.Tensor]):
        self._plan, self._checkpoints, self._tensors = plan, checkpoints, tensors
        self._steps = {step.spec.name: step for step in plan.steps if isinstance(step, CombineStep)}
        self._waiting: list[tuple[CombineStep, torch.Tensor]] = []
        self._sums: dict[str, np.ndarray] = {}  # tensor -> dot product with each ingredient
        self._files = OpenFiles()

    def __enter__(self) -> None:
        self._files.__enter__()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._multiply_waiting()
        finally:
            self._waiting.clear()
            self._files.__exit__()

    def take(self, name: str, parameter: torch.Tensor) -> None:
        """Take the gradient of a parameter; torch calls this as soon as the gradient is computed."""
        if name in self._steps and parameter.grad is not None:
            self._waiting.append((self._steps[name], parameter.grad))
        parameter.grad = None  # the model would otherwise hold all gradients at once
        if sum(gradient.numel() for _, gradient in self._waiting) >= WAITING:
            self._multiply_waiting()

    def by_module(self) -> dict[str, tuple[float, ...]]:
        """The sums for each module, one for each ingredient."""
        import numpy as np

        prefix = own_prefix(spec.name for spec in self._plan.specs)
        zeros = np.zeros(len(self._checkpoints))  # for tensors that the loss does not depend on
        sums: dict[str, np.ndarray] = {}
        for name in self._steps:
            module = group(name, prefix)
            sums[module] = sums.get(module, zeros) + self._sums.get(name, zeros)
        return {module: tuple(products.tolist()) for module, products in sums.items()}

    def _multiply_waiting(self) -> None:
        """Multiply the waiting gradients. The pieces are summed in a fixed order, so the result is reproducible."""
        import numpy as np

        pieces: list[_Piece] = []
        for step, gradient in self._waiting:
            pieces += _pieces(step, gradient)
        products = np.zeros((len(pieces), len(self._checkpoints)))

        def make_worker() -> Callable[[int], None]:
            buffers = _Buffers()

            def work(place: int) -> None:
                products[place] = self._multiply(pieces[place], buffers)

            return work

        in_threads(range(len(pieces)), make_worker)
        for piece, products_of_piece in zip(pieces, products, strict=True):
            name = piece.step.spec.name
            self._sums[name] = self._sums.get(name, 0) + products_of_piece
        self._waiting.clear()

    def _multiply(self, piece: _Piece, buffers: _Buffers) -> np.ndarray:
        """The dot product of a piece with each ingredient; a few are read at a time, so that they stay in cache."""
        import torch

        step = piece.step
        piece_of_tensor = slice(piece.start, piece.start + piece.numel)
        gradient = piece.gradient[piece_of_tensor]
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        theta = self._tensors[step.spec.name].reshape(-1)[piece_of_tensor].to(gradient)
        normalize = step.how.function.keywords.get("normalize", True)
        products = []
        for first in range(0, len(self._checkpoints), AT_ONCE):
            indices = range(first, min(first + AT_ONCE, len(self._checkpoints)))
            numbers, memory = buffers.numbers(len(indices), piece.numel, gradient.dtype)
            for place, index in enumerate(indices):
                self._read(piece, index, numbers[place], memory[place], buffers)
            change = numbers.to(gradient.device)
            if normalize:
                change.sub_(theta)
            products.append((change @ gradient).cpu())
        total = sum(step.weights) if normalize else 1
        return torch.cat(products).double().numpy() / total

    def _read(self, piece: _Piece, index: int, into: torch.Tensor, memory: memoryview, buffers: _Buffers) -> None:
        """Read a piece of an ingredient in the type of the computation; `memory` is that of `into`."""
        step, checkpoint = piece.step, self._checkpoints[index]
        spec = checkpoint.specs[step.spec.name]
        order = None
        if step.orders and index in step.inputs:
            order = step.orders[step.inputs.index(index)]
        if order is None and f"torch.{spec.dtype}" == str(into.dtype):
            checkpoint.read_into(self._files, spec.name, piece.start, memory)
            return
        memory_as_stored = buffers.as_stored.bytes(piece.numel, spec.dtype)
        checkpoint.read_into(self._files, spec.name, piece.start, memory_as_stored)
        elements = tensor_of(memory_as_stored, spec.dtype)
        if order is not None:
            elements = elements.reshape(spec.shape)[list(order)].reshape(-1)
        into.copy_(elements)


def _pieces(step: CombineStep, gradient: torch.Tensor) -> list[_Piece]:
    """Split a gradient into pieces that stay in cache."""
    numel = step.spec.numel
    flat = gradient.reshape(-1)
    if step.orders:  # rows in another order are taken from the whole tensor
        return [_Piece(step, flat, 0, numel)]
    return [_Piece(step, flat, start, min(PIECE, numel - start)) for start in range(0, max(numel, 1), PIECE)]


class _Buffers:
    """Reusable memory of one thread: for a few ingredients side by side, and for one in its stored type."""

    def __init__(self) -> None:
        self.as_stored = Buffer(PIECE)
        self._numbers = Buffer(AT_ONCE * PIECE)
        self._views: dict[tuple[int, int, torch.dtype], tuple[torch.Tensor, list[memoryview]]] = {}

    def numbers(self, n: int, numel: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[memoryview]]:
        """A tensor (n, numel) for n ingredients, and the bytes of each row."""
        key = n, numel, dtype
        if key in self._views:
            return self._views[key]
        numbers = self._numbers.elements(n * numel, str(dtype).removeprefix("torch.")).reshape(n, numel)
        view = numbers, [bytes_of(of_ingredient) for of_ingredient in numbers]
        if numel <= PIECE:  # larger ones get separate memory, which is not kept
            self._views[key] = view
        return view
