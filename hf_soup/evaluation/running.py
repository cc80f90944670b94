"""One batch through one model: devices, precision, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError, EvaluationError


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel


class Encoded(NamedTuple):
    """Examples as model inputs, the batches that they are run in (rows of the data set), and what makes a batch."""

    rows: Dataset
    batches: tuple[np.ndarray, ...]
    collate: Any


def run_batch(
    task: ModuleType,
    model: PreTrainedModel,
    encoded: Encoded,
    rows: np.ndarray,
    device: Any,
    processing_class: Any,
    options: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """What a model says about one batch, or `None` if memory ran out."""
    import numpy as np
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    batch = encoded.collate(encoded.rows.__getitems__(rows.tolist()))
    images = "pixel_values" in batch
    try:
        batch = {key: on_device(value, device, model.dtype) for key, value in batch.items()}
        texts = [] if options is None else task.generate(model, batch, processing_class, **options)
        started = time.perf_counter()
        logits, labels, counts = (tensor.cpu() for tensor in task.forward(model, batch))
    except ValueError as error:
        if "padding token" not in str(error):
            raise
        raise DataError(
            f"{type(model).__name__} has no padding token, without which rows of different length do not go together: "
            "set config.pad_token_id and save it, or take batch_size=1."
        ) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(error):
            return None
        raise
    seconds = time.perf_counter() - started
    counts = counts.numpy()
    return {
        "logits": logits.float().numpy(),
        "labels": labels.numpy(),
        "rows": np.repeat(rows, counts),
        "asked": rows,
        "read": counts > 0 if images else np.ones(len(rows), dtype=bool),
        "texts": texts,
        "seconds": seconds,
    }


def on_device(value: torch.Tensor, device: Any, dtype: torch.dtype | None) -> torch.Tensor:
    """A model's input where the model is; images in the model's own type, which not every model sees to itself."""
    image = value.is_floating_point() and value.ndim > 2
    return value.to(device, dtype if image else None)


def halved(rows: np.ndarray, model: PreTrainedModel) -> int:
    """How many examples to go on with where so many were too many."""
    from accelerate.utils.memory import clear_device_cache

    if len(rows) == 1:
        raise EvaluationError(
            f"memory runs out at one example (row {rows[0]}) of {type(model).__name__}; take a smaller model or "
            "shorter examples."
        )
    clear_device_cache(garbage_collection=True)
    half = (len(rows) + 1) // 2
    warnings.warn(f"memory ran out at {len(rows)} examples at a time: going on with {half}.", stacklevel=4)
    return half


def resolve_device(given: str) -> str:
    """`"auto"` is a GPU where there is one."""
    import torch

    return given if given != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def is_launched() -> bool:
    """Whether this process is one of several that `accelerate launch` or `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def precision(device: Any, dtype: str, own: torch.dtype) -> contextlib.AbstractContextManager:
    """bfloat16 arithmetic for float32 models, on GPUs that have it."""
    import torch

    kind = torch.device(device).type
    fast = (
        dtype == "auto"
        and kind == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
        and own == torch.float32
    )
    if dtype == "bfloat16" or fast:
        return torch.autocast(kind, dtype=torch.bfloat16)
    return contextlib.nullcontext()
