"""The linear probe: trains the head of a model with its body frozen, whose outputs are computed once per example."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.staging import temporary_folder
from ..errors import TrainingError
from ..evaluation.running import is_launched
from .context import SweepContext
from .head import is_head
from .settings import separate
from .trainer import fit


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils.generic import ModelOutput

PROBE = {"learning_rate": 1e-3, "num_train_epochs": 5}  # a linear layer needs a higher rate than a body
MEMORY = 0.25  # share of the free memory in which outputs are kept


def train_probe(model: PreTrainedModel, context: SweepContext, init_seed: int, probe_args: Mapping[str, Any]) -> None:
    """Train the head of a model only, on outputs of the frozen body without dropout (LP-FT: Kumar et al. 2022, arXiv
    2202.10054; model soups start from such heads too, arXiv 2203.05482).

    Args:
        model (`transformers.PreTrainedModel`):
            Model whose head is trained in place.
        context ([`SweepContext`]):
            Values that all runs share.
        init_seed (`int`):
            Random seed of the training.
        probe_args (`Mapping[str, Any]`):
            Settings of the training, which take precedence over `PROBE` and the shared settings.

    Raises:
        [`TrainingError`]: if the training fails.
    """
    import torch

    fields, extra = separate({**context.training_args, **PROBE, "seed": init_seed, **probe_args})
    extra = extra._replace(average=None)  # an average is of the runs, and would estimate BatchNorm of the body again
    # on several GPUs one process copies the model in each step, and a compiled model has no Python in between
    is_one_model = torch.cuda.device_count() < 2 or is_launched()
    repeats = is_one_model and not extra.augment and not fields.get("torch_compile")
    try:
        with _frozen_body(model, repeats=repeats), temporary_folder() as folder:
            fit(
                replace(context, callbacks=(), halves=False),
                model,
                fields,
                extra,
                folder / "probe",
                keep="last",
                saves=False,
            )
    except Exception as error:  # Trainer may raise anything
        raise TrainingError(f"the linear probe failed: {type(error).__name__}: {error}") from error
    model.cpu()


@contextlib.contextmanager
def _frozen_body(model: PreTrainedModel, *, repeats: bool) -> Iterator[None]:
    """Keep the body of a model as it is; with `repeats`, examples come again and their outputs are remembered."""
    import psutil

    body = model.base_model
    parameters = [parameter for name, parameter in model.named_parameters() if not is_head(model, name)]
    for parameter in parameters:
        parameter.requires_grad_(False)
    # Trainer calls `train()` before each step: dropout stays off and BatchNorm statistics stay unchanged
    hook = body.register_forward_pre_hook(_evaluate)
    if repeats:
        memory = int(MEMORY * psutil.virtual_memory().available)
        body.forward = RememberedOutputs(body.forward, memory)
    try:
        yield
    finally:
        if repeats:
            del body.forward  # the method of the class is found again
        hook.remove()
        for parameter in parameters:
            parameter.requires_grad_(True)


def _evaluate(module: torch.nn.Module, _: Any) -> None:
    """A hook before `forward` that puts a module into evaluation mode."""
    module.eval()


class Use(NamedTuple):
    """How the head uses one output of the body.

    Args:
        like (`torch.Tensor`):
            An empty tensor with the type, the device and the shape of the output, but no examples.
        is_used (`bool`):
            Whether the loss depends on it.
        is_first (`bool`):
            Whether the loss only depends on the first position of each sequence.
    """

    like: torch.Tensor
    is_used: bool = False
    is_first: bool = False


class RememberedOutputs:
    """The `forward` of a frozen module that computes the outputs for each example once.

    Examples are recognised by their inputs without padding, so that their order and their batches may differ. Only
    outputs on which the loss depends are kept, as the gradient of the first batch shows: the pooled output alone, or
    the first position alone, where a head uses no more. Where the memory does not suffice, outputs are computed again.

    Args:
        forward (`Callable`):
            The module's own `forward`, which returns a `ModelOutput`.
        memory (`int`):
            Maximum number of bytes to keep.
    """

    def __init__(self, forward: Callable[..., Any], memory: int):
        self._forward = forward
        self._memory = memory
        self._known: dict[bytes, dict[str, torch.Tensor]] = {}
        self._first_batch: tuple[list[bytes], dict[str, torch.Tensor], torch.Tensor | None] | None = None
        self._uses: dict[str, Use] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for a batch."""
        import torch

        mask = kwargs.get("attention_mask")
        if not self._memory or (mask is not None and mask.ndim != 2):
            return self._forward(*args, **kwargs)
        if self._first_batch is not None:
            self._learn_use(*self._first_batch)
            self._first_batch = None
        mask = None if mask is None else mask.bool()
        # Trainer also passes scalars, such as the number of items in a batch
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim]
        keys = _keys(inputs, mask)
        known = [self._known[key] for key in keys if key in self._known]
        if len(known) == len(keys):
            return self._assemble(known, mask)
        outputs = self._forward(*args, **kwargs)
        if self._uses:
            self._keep(keys, outputs, mask)
        elif torch.is_grad_enabled():
            leaves = {name: value.detach().requires_grad_() for name, value in _tensors(outputs).items()}
            self._first_batch = keys, leaves, mask
            for name, leaf in leaves.items():
                outputs[name] = leaf.clone()  # which the head may change in place
            self._outputs_type = type(outputs)
        return outputs

    def _learn_use(
        self, keys: Sequence[bytes], outputs: Mapping[str, torch.Tensor], mask: torch.Tensor | None
    ) -> None:
        """Learn from the gradients of the first batch which outputs the loss depends on, and keep these."""
        uses_padding = False
        for name, value in outputs.items():
            is_first = False
            if value.grad is not None and value.ndim == 3:
                used = value.grad.ne(0).any(-1)  # (examples, positions)
                real = _real(value, mask)
                uses_padding |= bool(used[~real].any())
                used[range(len(used)), real.int().argmax(1)] = False
                is_first = not used.any() and bool(real.sum(1).max() > 1)
            self._uses[name] = Use(value.new_empty((0, *value.shape[1:])), value.grad is not None, is_first)
        if uses_padding or not any(use.is_used for use in self._uses.values()):
            self._memory = 0  # nothing is kept: padding differs between batches
        else:
            self._keep(keys, outputs, mask)

    def _keep(self, keys: Sequence[bytes], outputs: Mapping[str, torch.Tensor], mask: torch.Tensor | None) -> None:
        """Keep the used outputs of a batch, as far as the memory suffices."""
        for row, key in enumerate(keys):
            own = {}
            for name, use in self._uses.items():
                if not use.is_used:
                    continue
                value = outputs[name].detach()
                own[name] = value[row].cpu().clone()
                if value.ndim == 3:
                    positions = own[name][_real(value, mask)[row].cpu()]
                    own[name] = positions[:1].clone() if use.is_first else positions
            size = sum(value.nbytes for value in own.values())
            if key not in self._known and size <= self._memory:
                self._memory -= size
                self._known[key] = own

    def _assemble(self, known: Sequence[Mapping[str, torch.Tensor]], mask: torch.Tensor | None) -> Any:
        """The outputs of a batch of known examples; those on which nothing depends are zero."""
        import torch

        outputs = {}
        for name, use in self._uses.items():
            if use.is_used and use.like.ndim != 3:
                outputs[name] = torch.stack([own[name] for own in known]).to(use.like.device)
                continue
            shape = [len(known), *use.like.shape[1:]]
            if mask is not None and use.like.ndim == 3:
                shape[1] = mask.shape[1]
            outputs[name] = use.like.new_zeros(shape)
            if use.is_used:
                real = _real(outputs[name], mask)
                for row, own in enumerate(known):
                    positions = real[row].nonzero().flatten()[: len(own[name])]
                    outputs[name][row, positions] = own[name].to(use.like.device)
        return self._outputs_type(**outputs)


def _tensors(outputs: ModelOutput) -> dict[str, torch.Tensor]:
    """The outputs that are tensors of floating-point numbers; others, such as a cache, are no input of a head."""
    import torch

    return {
        name: value for name, value in outputs.items() if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def _real(value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Which positions of a sequence, of shape `(examples, positions, features)`, are no padding."""
    if mask is not None and mask.shape == value.shape[:2]:
        return mask
    import torch

    return torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)


def _keys(inputs: Sequence[torch.Tensor], mask: torch.Tensor | None) -> list[bytes]:
    """A digest of each example of a batch, without padding."""
    import torch

    hashes = [hashlib.blake2b(digest_size=16) for _ in inputs[0]]
    for value in inputs:
        value = value.detach().cpu()
        for row, digest in enumerate(hashes):
            own = value[row]
            if mask is not None and value.shape[:2] == mask.shape:
                own = own[mask[row].cpu()]
            digest.update(own.contiguous().flatten().view(torch.uint8).numpy().data)
    return [digest.digest() for digest in hashes]
