"""Batches through one model: devices, precision, processes, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..checkpoints.memory import quiet_transformers
from ..errors import DataError, EvaluationError, warn
from ..outputs import Predictions
from ..progress import progress_bar


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from .encoding import Encoded

UNREADABLE = 0.01  # of the images may fail to decode
MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    MemoryError,
)  # what a model raises on what it is given
NO_PADDING = "padding token"  # what transformers says of models that need one and have none


def run_batches(
    task: ModuleType,
    model: PreTrainedModel,
    encoded: Encoded,
    processing_class: Any,
    options: Mapping[str, Any] | None,
    *,
    device: str,
    dtype: str,
    enough: Callable[[dict[str, Any]], bool] | None = None,
) -> list[dict[str, Any]]:
    """Every batch through a model; under `accelerate launch` each process runs its share, and all get the whole.

    It stops early where so many images do not decode that [`refuse_unreadable`] will not have it, and when `enough`
    says so of what a batch gave; not where processes share the work.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    place = put_on_device(model, device)
    state = PartialState() if is_launched() else None
    todo = deque(encoded.batches[state.process_index :: state.num_processes] if state else encoded.batches)
    parts: list[dict[str, Any]] = []
    unreadable, most = 0, max(map(len, todo), default=0)
    bar = progress_bar(total=sum(map(len, todo)), desc="Predicting", unit="example", delay=2)
    with bar, torch.inference_mode(), precision(place, dtype, model.dtype):
        while todo and unreadable <= UNREADABLE * len(encoded.rows):
            rows = todo.popleft()
            if len(rows) > most:
                todo.extendleft((rows[most:], rows[:most]))
                continue
            part = run_batch(task, model, encoded, rows, place, processing_class, options)
            if part is None:
                most = halved(rows, model)
                todo.appendleft(rows)
                continue
            parts.append(part)
            unreadable += int((~part["read"]).sum())
            bar.update(len(rows))
            if enough is not None and state is None and enough(part):
                break
    return gather_object(parts) if state else parts


def put_on_device(model: PreTrainedModel, device: str) -> Any:
    """Move a model, in evaluation mode, to where an evaluator runs it, and say where that is."""
    from accelerate import PartialState

    state = PartialState(cpu=resolve_device(device) == "cpu") if is_launched() else None
    place = state.device if state and device == "auto" else resolve_device(device)
    if hasattr(model, "hf_device_map"):  # it lies on several devices already
        place = model.device
    else:
        model.to(place)
    model.eval()
    return place


def in_order(parts: list[dict[str, Any]], kind: str, config: PretrainedConfig) -> Predictions:
    """What batches gave as one, in the order of the data set."""
    import numpy as np

    logits, labels, rows = (np.concatenate([part[key] for part in parts]) for key in ("logits", "labels", "rows"))
    order = np.argsort(rows, kind="stable")
    if kind == "values":
        labels = labels.astype(np.float64)
    classes = dict(config.id2label) if kind in ("classes", "labels") else {}
    names = tuple(str(classes[index]) for index in sorted(classes))
    return Predictions(logits[order], labels[order], rows[order], kind, names, _seconds(parts))


def refuse_unreadable(parts: list[dict[str, Any]], dataset: Dataset, split: str) -> None:
    """Say which images did not decode.

    Raises:
        [`DataError`]: if they are more than 1 %.
    """
    import datasets
    import numpy as np

    rows = np.sort(np.concatenate([part["asked"][~part["read"]] for part in parts]))
    if not len(rows):
        return
    column = next((name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)), None)
    named = []
    for row in rows[:5].tolist():
        image = column and dataset.cast_column(column, datasets.Image(decode=False))[row][column]
        path = image and image["path"]
        named.append(f"row {row} ({path})" if path else f"row {row}")
    more = ", ..." if len(rows) > len(named) else ""
    told = f"{len(rows)} of {len(dataset)} images of {split} do not decode: {', '.join(named)}{more}"
    if len(rows) > UNREADABLE * len(dataset):  # and there the run has stopped
        raise DataError(f"at least {told}. Repair or remove them.")
    warn(f"{told}; they are left out.")


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

    batch = encoded.batch_of(rows)
    try:
        batch = {key: on_device(value, device, model.dtype) for key, value in batch.items()}
        texts = [] if options is None else task.generate(model, batch, processing_class, **options)
        started = time.perf_counter()
        with own_attention(model):
            logits, labels, counts = (tensor.cpu() for tensor in task.forward(model, batch))
    except MODEL_ERRORS as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(error):
            return None
        if NO_PADDING in str(error):
            raise DataError(
                f"{type(model).__name__} has no padding token, without which rows of different length do not go "
                "together: set config.pad_token_id and save it, or take batch_size=1."
            ) from None
        raise EvaluationError(
            f"{type(model).__name__} fails on {len(rows)} examples, of which row {rows[0]} is the first: "
            f"{type(error).__name__}: {str(error).strip()}"
        ) from error
    seconds = time.perf_counter() - started
    counts = counts.numpy()
    return {
        "logits": logits.float().numpy(),
        "labels": labels.numpy(),
        "rows": np.repeat(rows, counts),
        "asked": rows,
        "read": counts > 0 if encoded.decodes_images else np.ones(len(rows), dtype=bool),
        "texts": texts,
        "seconds": seconds,
    }


def on_device(value: torch.Tensor, device: Any, dtype: torch.dtype | None) -> torch.Tensor:
    """A model's input where the model is; images in the model's own type, which not every model sees to itself."""
    image = value.is_floating_point() and value.ndim > 2
    return value.to(device, dtype if image else None)


@contextlib.contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """The kind of attention that the configuration says: BigBird and its kin change it for good after a short text."""
    body = getattr(model, "base_model", model)
    parts = [part for part in (body, getattr(body, "encoder", None)) if hasattr(part, "set_attention_type")]
    if not parts or getattr(model.config, "add_cross_attention", False):  # these are never sparse
        yield
        return
    parts[0].set_attention_type(model.config.attention_type)
    with quiet_transformers():  # which says it for every short batch
        yield


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
    warn(f"memory ran out at {len(rows)} examples at a time: going on with {half}.")
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


def _seconds(parts: list[dict[str, Any]]) -> float:
    """What all batches take at the pace of those after the first, which warms up."""
    timed = parts[1:] or parts
    rows, timed_rows = (sum(len(part["asked"]) for part in some) for some in (parts, timed))
    return sum(part["seconds"] for part in timed) * rows / timed_rows
