"""What stands for the predictions or scores of one model on one set of examples, between processes.

All that decides them is in the key; the weights are, through the fingerprint of the model's recipe.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from ..checkpoints.staging import temporary_folder
from ..version import versions
from .running import resolve_device


if TYPE_CHECKING:
    from .evaluator import Evaluator

SET_BY_HAND = ("model_max_length", "padding_side", "truncation_side", "pad_token_type_id")  # these may be in no file
LAYOUT = 4  # of what is kept; a change of it makes older files unread


def cache_key(evaluator: Evaluator, model: str, *, scores: bool) -> str | None:
    """The key of one model's score, or of its predictions.

    Args:
        evaluator ([`Evaluator`]):
            The examples, with a task.
        model (`str`):
            Fingerprint of the model's recipe.
        scores (`bool`):
            Whether the metrics count as well.

    Returns:
        `str`, or `None` where a score may not be kept because a metric is a function.
    """
    import xxhash

    metrics = [metric.identity for metric in evaluator.metrics]
    if scores and None in metrics:
        return None
    generation = evaluator.generate if isinstance(evaluator.generate, bool) else dict(evaluator.generate)
    decisive = [
        evaluator.content_hashes.ordered,
        repr(evaluator.dataset.features),
        evaluator.dataset.format["columns"],
        evaluator.split,
        evaluator.task,
        evaluator.preprocessing,
        evaluator.label_column,
        evaluator.text_columns,
        evaluator.batch_size,
        resolve_device(evaluator.device).split(":")[0],
        evaluator.dtype,
        versions(),
        model,
        LAYOUT,
        generation,
        any(metric.needs_texts for metric in evaluator.metrics),
    ]
    selecting = [*metrics, evaluator.select_by, evaluator.higher_is_better] if scores else None
    return xxhash.xxh3_128_hexdigest(json.dumps([decisive, selecting], default=str).encode())


def digest_of_batches(evaluator: Evaluator) -> str:
    """A digest of all that decides the batches on which BatchNorm is estimated."""
    import xxhash

    decisive = [
        evaluator.content_hashes.ordered,
        evaluator.preprocessing,
        evaluator.text_columns,
        evaluator.batch_size,
        evaluator.task,
    ]
    return f"xxh3-128:{xxhash.xxh3_128_hexdigest(json.dumps(decisive, default=str).encode())}"


def digest_of_processing(processing_class: Any) -> str:
    """A digest of the files that a tokenizer or image processor would save; empty where there is none."""
    import xxhash

    if processing_class is None:
        return ""
    copied = copy.deepcopy(processing_class)
    backend = getattr(copied, "backend_tokenizer", None)
    if backend is not None:  # how it was used last is saved as well
        backend.no_truncation()
        backend.no_padding()
    with temporary_folder() as folder:
        copied.save_pretrained(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    by_hand = [getattr(processing_class, name, None) for name in SET_BY_HAND]
    return xxhash.xxh3_128_hexdigest(content + str(by_hand).encode())
