"""Whether what a model gives for a text depends on the padding beside it: measured on the model itself.

Masks hide padding in most models. They do not where tokens are mixed without a mask (FNet), where neighbours are mixed
(ConvBERT), or where a row is read at the end that is padded; no list of architectures would be complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .running import MODEL_ERRORS, NO_PADDING, on_device, own_attention


if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from ..tasks import Task
    from .encoding import Encoded

RELATIVE = 1e-4  # of the differences between texts: a difference that padding may make
ROUNDING = 64  # times the precision of the type that a model computes in, but no more than MOST
MOST = 0.05  # of the largest logit: types of little precision tell less


def needs_padding(encoded: Encoded) -> bool:
    """Whether a batch has rows of different lengths."""
    return any((encoded.lengths[rows] != encoded.lengths[rows[0]]).any() for rows in encoded.batches)


class PaddingCheck(NamedTuple):
    """What a few rows of different lengths show.

    Args:
        matters (`bool`):
            Whether the model gives something else for texts that are padded.
        tells (`bool`):
            Whether this holds for other weights too: a model that gives the same for every text shows nothing.
    """

    matters: bool
    tells: bool


def check_padding(task: Task, model: PreTrainedModel, encoded: Encoded, device: torch.device | str) -> PaddingCheck:
    """Run a few rows of different lengths one by one and together.

    They have the two least lengths, which are one odd and one even where any two are, one between, and the greatest.
    What fails one by one fails as well when the data is run, and is told there.

    Args:
        task ([`Task`]):
            How the model is run.
        model (`transformers.PreTrainedModel`):
            On the device, in evaluation mode.
        encoded ([`Encoded`]):
            Examples, some of different lengths.
        device (`torch.device` or `str`):
            Where to run it.

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
            # such errors are handled, or told, when the data is run
            handled = isinstance(error, MemoryError) or should_reduce_batch_size(error) or NO_PADDING in str(error)
            return PaddingCheck(matters=not handled, tells=False)
    if not len(single_logits) or not single_logits.isfinite().all():
        return PaddingCheck(matters=False, tells=False)
    if single_logits.shape != batch_logits.shape:
        return PaddingCheck(matters=True, tells=True)
    # What padding may change is measured against what the texts themselves change.
    spread = float((single_logits - single_logits.mean(dim=0)).abs().max())
    rounding = min(ROUNDING * torch.finfo(model.dtype).eps, MOST) * float(single_logits.abs().max())
    allowed = RELATIVE * spread + rounding
    agree = bool(((single_logits - batch_logits).abs() <= allowed).all())  # NaN agrees with nothing
    return PaddingCheck(matters=not agree, tells=spread > 0)


def _logits(
    task: Task, model: PreTrainedModel, encoded: Encoded, rows: np.ndarray, device: torch.device | str
) -> torch.Tensor:
    """The logits of some rows in one batch."""
    batch = {name: on_device(value, device, model.dtype) for name, value in encoded.batch_of(rows).items()}
    with own_attention(model):
        logits, _, _ = task.forward(model, batch)
    return logits.double().cpu()
