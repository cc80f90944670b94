"""Measures whether the output of a model for a text depends on padding.

Masks hide padding in most models. They do not where tokens are mixed without a mask (FNet), where neighbours are mixed
(ConvBERT), or where a row is read at the end that is padded; no list of architectures would be complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .running import MODEL_ERRORS, NO_PADDING, batch_on_device, own_attention


if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from ..tasks import Task
    from .encoding import Encoded

RELATIVE = 1e-4  # allowed effect of padding, relative to the differences between texts
ROUNDING = 64  # allowed rounding error in units of the type's precision, but no more than MOST
MOST = 0.05  # relative to the largest logit, for types with low precision


def needs_padding(encoded: Encoded) -> bool:
    """Whether a batch has rows of different lengths."""
    return any((encoded.lengths[rows] != encoded.lengths[rows[0]]).any() for rows in encoded.batches)


class PaddingCheck(NamedTuple):
    """The result of running a few rows of different lengths.

    Args:
        matters (`bool`):
            Whether padding changes the outputs of the model.
        tells (`bool`):
            Whether the result applies to other weights too; a model with the same output for every text shows nothing.
    """

    matters: bool
    tells: bool


def check_padding(task: Task, model: PreTrainedModel, encoded: Encoded, device: torch.device | str) -> PaddingCheck:
    """Run a few rows of different lengths one by one and together, and compare the outputs.

    Their lengths are the two smallest (one odd and one even, if possible), one in between, and the largest. Errors are
    not reported here, because they occur again when the data is run.

    Args:
        task ([`Task`]):
            Task, which runs the model.
        model (`transformers.PreTrainedModel`):
            Model on the device, in evaluation mode.
        encoded ([`Encoded`]):
            Encoded examples, some of different lengths.
        device (`torch.device` or `str`):
            Device on which the model is run.

    Returns:
        [`PaddingCheck`]
    """
    import numpy as np
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    order = np.concatenate(encoded.batches)  # only rows that are run
    lengths, places = np.unique(encoded.lengths[order], return_index=True)
    rows = order[places[sorted({0, 1, len(lengths) // 2, len(lengths) - 1})]]
    with torch.inference_mode():
        try:
            single_logits = torch.cat([_logits(task, model, encoded, row[None], device) for row in rows])
        except MODEL_ERRORS:
            return PaddingCheck(matters=False, tells=False)
        try:
            batch_logits = _logits(task, model, encoded, rows, device)
        except MODEL_ERRORS as error:
            # such errors are handled or reported when the data is run
            handled = isinstance(error, MemoryError) or should_reduce_batch_size(error) or NO_PADDING in str(error)
            return PaddingCheck(matters=not handled, tells=False)
    if not len(single_logits) or not single_logits.isfinite().all():
        return PaddingCheck(matters=False, tells=False)
    if single_logits.shape != batch_logits.shape:
        return PaddingCheck(matters=True, tells=True)
    # The effect of padding is compared with the differences between texts.
    spread = float((single_logits - single_logits.mean(dim=0)).abs().max())
    rounding = min(ROUNDING * torch.finfo(model.dtype).eps, MOST) * float(single_logits.abs().max())
    allowed = RELATIVE * spread + rounding
    agree = bool(((single_logits - batch_logits).abs() <= allowed).all())  # NaN agrees with nothing
    return PaddingCheck(matters=not agree, tells=spread > 0)


def _logits(
    task: Task, model: PreTrainedModel, encoded: Encoded, rows: np.ndarray, device: torch.device | str
) -> torch.Tensor:
    """The logits of some rows in one batch."""
    batch = batch_on_device(encoded.batch_of(rows), device, model.dtype)
    with own_attention(model):
        logits, _, _ = task.forward(model, batch)
    return logits.double().cpu()
