"""Statistics of data that say how much each weight of a model matters: Fisher information, and Gram matrices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from ..checkpoints.reader import TensorSpec
from ..errors import EvaluationError
from ..merging.refill import own_tensors
from ..progress import progress_bar
from ..tasks import TokensTask
from .encoding import of_one_length
from .evaluator import Evaluator
from .models import config_of, is_of_sentences
from .running import batch_on_device, own_attention, put_on_device


if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from ..tasks import Task

    Write = Callable[[str, torch.Tensor], None]

Kind = Literal["fisher", "gram"]
KINDS: tuple[Kind, ...] = ("fisher", "gram")
EXACT_CLASSES = 10  # up to which the expectation over classes is a sum; for more, one class is drawn


def importance_specs(model: PreTrainedModel, kind: Kind) -> list[TensorSpec]:
    """The tensors of a kind of statistics: for each weight that has them, by its name on disk, shape and type.

    Args:
        model (`transformers.PreTrainedModel`):
            Model in the type in which it is run.
        kind (`str`):
            `"fisher"` or `"gram"`.

    Raises:
        [`EvaluationError`]: if the model has other tensors in memory than on disk, or no weight with such statistics.
    """
    weights = _parameters(model) if kind == "fisher" else _linear_weights(model)
    if not weights:
        raise EvaluationError(
            f"{type(model).__name__} has no torch.nn.Linear layer with a weight of its own, so there are no Gram "
            "matrices."
        )
    specs = []
    for name, weight in weights.items():
        shape = tuple(weight.shape) if kind == "fisher" else (weight.shape[1], weight.shape[1])
        specs.append(TensorSpec(name, shape, str(weight.dtype).removeprefix("torch.")))
    return specs


def write_fisher(evaluator: Evaluator, model: PreTrainedModel, seed: int, write: Write) -> None:
    """Estimate the diagonal of the expected Fisher information: the mean over examples of the expected squared
    gradient of the log-likelihood, with labels distributed as the model predicts them.

    The expectation is exact for one item with up to 10 classes, for multiple labels and for values (of unit variance).
    Otherwise one label is drawn for each item, which gives the expectation on average.

    Args:
        evaluator ([`Evaluator`]):
            Evaluator with the examples.
        model (`transformers.PreTrainedModel`):
            Model, which is run in evaluation mode, one example at a time. Its embeddings get sparse gradients.
        seed (`int`):
            Seed of the labels that are drawn.
        write (`Callable[[str, torch.Tensor], None]`):
            Takes the statistics of each weight by its name on disk.

    Raises:
        [`EvaluationError`]: if a gradient is not finite.

    Source: Matena & Raffel 2022, [Merging models with Fisher-weighted averaging](https://arxiv.org/abs/2111.09832),
    equation 3.
    """
    import numpy as np
    import torch

    if is_of_sentences(evaluator.task_module):
        raise EvaluationError(
            f"{evaluator.task_module.PIPELINE} compares embeddings, which have no likelihood, so there is no Fisher "
            'information; kind="gram" (for regmean) works.'
        )
    if evaluator.task_module.KIND in ("pixels", "boxes"):
        raise EvaluationError(
            f"models of {evaluator.task_module.KIND} have no Fisher information here, because their outputs are not "
            'kept; kind="gram" (for regmean) works.'
        )
    device = put_on_device(model, evaluator.device)
    rng = torch.Generator(device).manual_seed(seed)
    parameters = _parameters(model)
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.sparse = True  # an example has few of the tokens
    encoded = evaluator.examples.encoded(model)
    rows = np.sort(np.concatenate(encoded.batches))
    with own_attention(model), torch.enable_grad():
        for row in progress_bar(rows, desc="Estimating Fisher information", unit="example"):
            batch = batch_on_device(encoded.batch_of(row[None]), device, model.dtype)
            logits = _logits(evaluator.task_module, model, batch)
            if not len(logits):  # an unreadable image, or a text of one token
                continue
            directions = _score_directions(evaluator.task_module.KIND, logits.detach(), rng)
            for place, direction in enumerate(directions):
                gradients = torch.autograd.grad(
                    logits,
                    list(parameters.values()),
                    direction,
                    retain_graph=place + 1 < len(directions),
                    allow_unused=True,
                )
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    _add_square(total, gradient)
    for name, total in sums.items():
        if not total.isfinite().all():
            raise EvaluationError(f"the Fisher information of {name} is not finite on {evaluator.split}.")
        write(name, total / len(rows))


def _add_square(total: torch.Tensor, gradient: torch.Tensor | None) -> None:
    """Add the squares of a gradient, of which only the rows of the tokens in an example may be given."""
    if gradient is None:  # the outputs do not depend on this parameter
        return
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        total.index_add_(0, gradient.indices()[0], gradient.values().square())
    else:
        total.addcmul_(gradient, gradient)


def _score_directions(kind: str, logits: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Vectors v, stacked, whose sum of v v' is the Fisher information of the logits, or estimates it if drawn."""
    import torch

    if kind in ("values", "ranking"):  # a normal distribution of unit variance
        return torch.ones_like(logits).diag_embed().reshape(-1, *logits.shape)
    if kind == "labels":  # independent Bernoulli variables
        p = logits.sigmoid()
        return (p * (1 - p)).sqrt().diag_embed().movedim(-1, 0)
    p = logits.softmax(dim=-1)
    if len(logits) == 1 and logits.shape[-1] <= EXACT_CLASSES:  # the score of class c is e_c - p, with probability p_c
        classes = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        return (p.T.sqrt() * (classes - p))[:, None]
    drawn = torch.multinomial(p, 1, generator=rng)
    return (-p).scatter_add(1, drawn, torch.ones_like(p[:, :1]))[None]


def _logits(task: Task, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the items of one example, `(items, classes)`, or `(items,)` for values and rankings."""
    if isinstance(task, TokensTask):  # whose `forward` gives the probability of the correct tokens alone
        return task.all_logits(model, batch)
    return task.forward(model, batch)[0]


def write_gram(evaluator: Evaluator, model: PreTrainedModel, specs: Iterable[TensorSpec], write: Write) -> None:
    """Sum up the Gram matrices X'X of the inputs X of some linear layers, with a row for each token or example.

    Padding does not count: examples of one length are run together.

    Args:
        evaluator ([`Evaluator`]), model (`transformers.PreTrainedModel`), write (`Callable`):
            The arguments of [`write_fisher`].
        specs (`Iterable[TensorSpec]`):
            The weights of these layers, whose matrices are in memory at the same time.

    Raises:
        [`EvaluationError`]: if an input is not finite.

    Source: Jin et al. 2023, [Dataless knowledge fusion](https://arxiv.org/abs/2212.09849), section 3.
    """
    import numpy as np
    import torch

    device = put_on_device(model, evaluator.device)
    weights = _linear_weights(model)
    sums = {}
    for spec in specs:
        # in float64, so that the sum over millions of tokens is exact
        sums[spec.name] = torch.zeros(spec.shape, dtype=torch.float64, device=device)
    names = {weights[name].data_ptr(): name for name in sums}
    encoded = of_one_length(evaluator.examples.encoded(model))
    if config_of(model).is_encoder_decoder:  # targets of one batch may have different lengths
        rows = np.concatenate(encoded.batches)
        encoded = encoded._replace(batches=tuple(rows[:, None]))
    padding: list[torch.Tensor] = []  # the mask of the current batch, if its data was encoded with padding

    def note_padding(module: torch.nn.Module | None, inputs: tuple[Any, ...]) -> None:
        mask = inputs[0].get("attention_mask")
        padding[:] = [] if mask is None or mask.all() else [mask.bool()]

    def add(layer: torch.nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
        name = names.get(layer.weight.data_ptr())
        if name is None:
            return
        x = inputs[0].detach()
        if padding and x.shape[:-1] == padding[0].shape:
            x = x[padding[0]]
        x = x.reshape(-1, x.shape[-1])
        sums[name] += (x.T @ x).double()

    count = sum(map(len, encoded.batches))
    bar = progress_bar(total=count, desc="Summing up Gram matrices", unit="example")
    with bar, own_attention(model), torch.inference_mode(), _before_layers(model, add) as handles:
        if is_of_sentences(evaluator.task_module):  # the model itself makes the tokens, which its first module gets
            handles.append(next(model.children()).register_forward_pre_hook(note_padding))
        for batch_rows in encoded.batches:
            batch = batch_on_device(encoded.batch_of(batch_rows), device, model.dtype)
            note_padding(None, (batch,))
            evaluator.task_module.forward(model, batch)
            bar.update(len(batch_rows))
    for name, total in sums.items():
        if not total.isfinite().all():
            raise EvaluationError(f"the inputs of {name} are not finite on {evaluator.split}.")
        write(name, total.to(weights[name].dtype))


@contextlib.contextmanager
def _before_layers(model: PreTrainedModel, add: Callable[..., None]) -> Iterator[list[RemovableHandle]]:
    """Call a function with each linear layer and its inputs before it is run; gives the handles of the hooks."""
    import torch

    handles = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            handles.append(module.register_forward_pre_hook(add))
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def _parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The floating-point parameters of a model by their names on disk.

    Raises:
        [`EvaluationError`]: if tensors have another form in memory than on disk.
    """
    tensors = own_tensors(model)
    if tensors is None:
        raise EvaluationError(
            f"{type(model).__name__} has other tensors in memory than on disk, so that statistics of its weights "
            "cannot be named."
        )
    # by address, because a parameter may have another name in memory than on disk
    names = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    parameters: dict[str, torch.Tensor] = {}
    for parameter in model.parameters():
        if parameter.data_ptr() in names and parameter.is_floating_point() and parameter.numel():
            parameters[names[parameter.data_ptr()]] = parameter.requires_grad_()
    return parameters


def _linear_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights that linear layers alone use, by their names on disk; one that embeddings share has other inputs."""
    import torch

    uses: dict[int, list[torch.nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses.setdefault(parameter.data_ptr(), []).append(module)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in _parameters(model).items():
        modules = uses[weight.data_ptr()]
        if weight.dim() == 2 and all(isinstance(module, torch.nn.Linear) for module in modules):
            weights[name] = weight
    return weights
