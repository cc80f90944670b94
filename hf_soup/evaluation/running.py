"""Runs batches through one model: devices, precision, processes, and recovery when memory runs out."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..checkpoints.memory import quiet_transformers
from ..errors import DataError, EvaluationError, warn
from ..metrics.predictions import Predictions
from ..progress import progress_bar
from ..tasks import WritingTask
from ..tasks._heads import class_names


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from ..tasks import Task
    from .encoding import Encoded

UNREADABLE = 0.01  # fraction of the images that may be unreadable
# errors of models for invalid inputs
MODEL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
NO_PADDING = "padding token"  # part of the error of transformers for models that lack one


class BatchOutput(NamedTuple):
    """The output of a model for one batch.

    Args:
        logits (`np.ndarray`), labels (`np.ndarray`):
            Logits and labels of each item, as in [`hf_soup.metrics.predictions.Predictions`].
        item_rows (`np.ndarray`):
            Row of the data set that each item belongs to.
        rows (`np.ndarray`):
            Rows of the batch.
        readable (`np.ndarray`, bool):
            Whether each of these rows has a readable image; all are `True` if the data has no images.
        texts (`list[str]`):
            Generated text of each row; empty if no texts are generated.
        seconds (`float`):
            Time of the forward pass, and of writing texts.
    """

    logits: np.ndarray
    labels: np.ndarray
    item_rows: np.ndarray
    rows: np.ndarray
    readable: np.ndarray
    texts: list[str]
    seconds: float


def run_batches(
    task: Task,
    model: PreTrainedModel,
    encoded: Encoded,
    processing_class: Any,
    options: Mapping[str, Any] | None,
    *,
    device: str,
    dtype: str,
    enough: Callable[[BatchOutput], bool] | None = None,
) -> list[BatchOutput]:
    """Run all batches through a model. Under `accelerate launch` each process runs a share, and all get all outputs.

    It stops early if more images are unreadable than [`refuse_unreadable`] allows, or if `enough` returns true for the
    output of a batch. If processes share the work, it does not stop early.

    Args:
        task ([`Task`]):
            Task, which runs the model.
        model (`transformers.PreTrainedModel`):
            Model, which is moved to the device and put into evaluation mode.
        encoded ([`Encoded`]):
            Encoded examples with their batches.
        processing_class (`transformers.PreTrainedTokenizerBase`, *optional*):
            Tokenizer that decodes generated texts.
        options (`Mapping[str, Any]`, *optional*):
            Options of `model.generate`; `None` if no texts are generated.
        device (`str`), dtype (`str`):
            Device and data type, as for an [`Evaluator`].
        enough (`Callable[[BatchOutput], bool]`, *optional*):
            Function of the output of a batch that returns whether to stop.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    place = put_on_device(model, device)
    state: PartialState | None = None
    batches = encoded.batches
    if is_launched():
        state = PartialState()
        # Every n-th batch: batches are sorted by length, and each process should get some long ones.
        batches = batches[state.process_index :: state.num_processes]
    pending = deque(batches)
    outputs: list[BatchOutput] = []
    unreadable, largest = 0, max(map(len, pending), default=0)
    bar = progress_bar(total=sum(map(len, pending)), desc="Predicting", unit="example", delay=2)
    with bar, torch.inference_mode(), precision(place, dtype, model.dtype):
        while pending and unreadable <= UNREADABLE * len(encoded.rows):
            rows = pending.popleft()
            if len(rows) > largest:  # memory ran out for a batch of this size
                pending.extendleft((rows[largest:], rows[:largest]))  # extendleft reverses the order
                continue
            output = run_batch(task, model, encoded, rows, place, processing_class, options)
            if output is None:
                largest = halved(rows, model)
                pending.appendleft(rows)
                continue
            outputs.append(output)
            unreadable += int((~output.readable).sum())
            bar.update(len(rows))
            # Processes that share the work wait for each other at the end, so none may stop early.
            if enough is not None and state is None and enough(output):
                break
    if state is None:
        return outputs
    return gather_object(outputs)


def put_on_device(model: PreTrainedModel, device: str) -> torch.device:
    """Put a model into evaluation mode, move it to an evaluator's device, and return the device."""
    import torch
    from accelerate import PartialState

    place = torch.device(resolve_device(device))
    if is_launched():
        # the first Accelerator of a process determines for all later ones whether CPUs are used
        state = PartialState(cpu=place.type == "cpu")
        if device == "auto":
            place = state.device
    if hasattr(model, "hf_device_map"):  # the model is distributed over several devices already
        place = model.device
    else:
        cast("torch.nn.Module", model).to(place)  # a decorator hides the arguments of the model's own `to`
    model.eval()
    return place


def predictions_of(outputs: Sequence[BatchOutput], kind: str, config: PretrainedConfig) -> Predictions:
    """Join the outputs of batches into predictions in the order of the data set.

    Args:
        outputs (`Sequence[BatchOutput]`):
            Outputs of all batches.
        kind (`str`):
            Kind of the task's outputs.
        config (`transformers.PretrainedConfig`):
            Configuration of the model, with class names.
    """
    import numpy as np

    logits = np.concatenate([output.logits for output in outputs])
    labels = np.concatenate([output.labels for output in outputs])
    rows = np.concatenate([output.item_rows for output in outputs])
    order = np.argsort(rows, kind="stable")  # stable: the items of a row stay in order
    if kind == "values":  # a data set may have values as integers
        labels = labels.astype(np.float64)
    names: tuple[str, ...] = ()
    if kind in ("classes", "labels"):
        classes = class_names(config)
        names = tuple(str(classes[index]) for index in sorted(classes))
    return Predictions(logits[order], labels[order], rows[order], kind, names, _seconds(outputs))


def refuse_unreadable(outputs: Sequence[BatchOutput], dataset: Dataset, split: str) -> None:
    """Warn of images that could not be decoded.

    Raises:
        [`DataError`]: if more than 1 % could not be decoded.
    """
    import numpy as np

    rows = np.sort(np.concatenate([output.rows[~output.readable] for output in outputs]))
    if not len(rows):
        return
    examples = []
    for row in rows[:5].tolist():
        path = _image_path(dataset, row)
        examples.append(f"row {row} ({path})" if path else f"row {row}")
    more = ", ..." if len(rows) > len(examples) else ""
    problem = f"{len(rows)} of {len(dataset)} images of {split} do not decode: {', '.join(examples)}{more}"
    if len(rows) > UNREADABLE * len(dataset):  # the run has stopped there
        raise DataError(f"at least {problem}. Repair or remove them.")
    warn(f"{problem}; they are left out.")


def _image_path(dataset: Dataset, row: int) -> str | None:
    """The file of the first image of a row, if the data names it."""
    import datasets

    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            image = dataset.cast_column(column, datasets.Image(decode=False))[row][column]
            return image["path"] if image else None
    return None


def run_batch(
    task: Task,
    model: PreTrainedModel,
    encoded: Encoded,
    rows: np.ndarray,
    device: torch.device,
    processing_class: Any,
    options: Mapping[str, Any] | None,
) -> BatchOutput | None:
    """Run one batch; `None` if memory ran out. The arguments are those of [`run_batches`].

    Raises:
        [`DataError`]: if rows of different lengths need a padding token that the model lacks.
        [`EvaluationError`]: if the model fails.
    """
    import numpy as np
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    batch = encoded.batch_of(rows)
    try:
        batch = batch_on_device(batch, device, model.dtype)
        started = time.perf_counter()
        texts: list[str] = []
        with own_attention(model):
            if options is not None and isinstance(task, WritingTask):
                logits, labels, counts, texts = task.write(model, batch, processing_class, **options)
            else:
                logits, labels, counts = task.forward(model, batch)
            logits, labels, counts = logits.cpu(), labels.cpu(), counts.cpu()
    except MODEL_ERRORS as error:
        # Some backends raise a plain RuntimeError when memory runs out, which accelerate recognises.
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(error):
            return None
        if NO_PADDING in str(error):
            raise DataError(
                f"{type(model).__name__} has no padding token, so rows of different lengths cannot be in one batch: "
                "set config.pad_token_id and save it, or use batch_size=1."
            ) from None
        raise EvaluationError(
            f"{type(model).__name__} fails on {len(rows)} examples, of which row {rows[0]} is the first: "
            f"{type(error).__name__}: {str(error).strip()}"
        ) from error
    seconds = time.perf_counter() - started  # includes the copy to the CPU, which waits for the GPU
    items = counts.numpy()
    return BatchOutput(
        logits=logits.float().numpy(),
        labels=labels.numpy(),
        item_rows=np.repeat(rows, items),
        rows=rows,
        # an unreadable image has the label -100, so its row has no items
        readable=items > 0 if encoded.decodes_images else np.ones(len(rows), dtype=bool),
        texts=texts,
        seconds=seconds,
    )


def batch_on_device(batch: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype | None) -> dict[str, Any]:
    """Move the inputs of a batch to the model's device, and images to its type; texts stay as they are.

    Not every model does so itself.
    """
    import torch

    moved = dict(batch)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            moved[name] = on_device(value, device, dtype)
    return moved


def on_device(value: torch.Tensor, device: torch.device | str, dtype: torch.dtype | None) -> torch.Tensor:
    """Move an input to the model's device, and images to its type."""
    is_image = value.is_floating_point() and value.ndim > 2  # numeric labels have at most two dimensions
    return value.to(device, dtype if is_image else None)


@contextlib.contextmanager
def own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Restore the attention of the configuration: BigBird and similar models change it permanently for short texts."""
    body: Any = getattr(model, "base_model", model)
    encoder: Any = getattr(body, "encoder", None)
    switch = getattr(body, "set_attention_type", None) or getattr(encoder, "set_attention_type", None)
    if switch is None or getattr(model.config, "add_cross_attention", False):  # such attention is never sparse
        yield
        return
    switch(model.config.attention_type)
    with quiet_transformers():  # which warns for every short batch
        yield


def halved(rows: np.ndarray, model: PreTrainedModel) -> int:
    """The batch size to continue with after memory ran out."""
    from accelerate.utils.memory import clear_device_cache

    if len(rows) == 1:
        raise EvaluationError(
            f"memory runs out for one example (row {rows[0]}) of {type(model).__name__}; use a smaller model or "
            "shorter examples."
        )
    clear_device_cache(garbage_collection=True)
    half = (len(rows) + 1) // 2  # rounded up, so never 0
    warn(f"memory ran out with a batch of {len(rows)} examples: continuing with {half}.")
    return half


def resolve_device(device: str) -> str:
    """Resolve `"auto"`, which is a GPU if there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_launched() -> bool:
    """Whether this process is one of several that `accelerate launch` or `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1  # both set it for each process


def precision(device: torch.device | str, dtype: str, own: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 arithmetic for float32 models, on GPUs that support it.

    Args:
        device (`torch.device` or `str`):
            Device of the model.
        dtype (`str`):
            Data type of the computation, as for an [`Evaluator`].
        own (`torch.dtype`):
            Data type of the model's weights.
    """
    import torch

    device_type = torch.device(device).type
    is_fast = (
        dtype == "auto"
        and own == torch.float32
        and device_type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if dtype == "bfloat16" or is_fast:
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _seconds(outputs: Sequence[BatchOutput]) -> float:
    """The time of all batches, estimated without the first one, which is slower."""
    timed = outputs[1:] or outputs
    rows = sum(len(output.rows) for output in outputs)
    timed_rows = sum(len(output.rows) for output in timed)
    return sum(output.seconds for output in timed) * rows / timed_rows
