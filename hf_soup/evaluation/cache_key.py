"""What stands for the predictions or scores of one model on one set of examples, between processes.

All that decides them is in the key; the weights are, through the fingerprint of their content.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint, contents_of
from ..checkpoints.staging import temporary_folder
from ..plugins import is_code
from ..types import Ingredient, Recipe
from ..version import versions
from .running import resolve_device


if TYPE_CHECKING:
    from ..merging.setup import MergeSetup
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

    metrics = [metric.identity for metric in evaluator.metrics]  # `None` of a function, which may change
    if scores and None in metrics:
        return None
    generation = evaluator.generate
    if not isinstance(generation, bool):
        generation = dict(generation)
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
        resolve_device(evaluator.device).split(":")[0],  # which of several GPUs does not matter
        evaluator.dtype,
        versions(),  # other ones may compute other bits
        model,
        LAYOUT,
        generation,
        any(metric.needs_texts for metric in evaluator.metrics),
    ]
    selecting = None
    if scores:
        selecting = [*metrics, evaluator.select_by, evaluator.higher_is_better]
    return xxhash.xxh3_128_hexdigest(json.dumps([decisive, selecting], default=str).encode())


def content_fingerprint(recipe: Recipe, setup: MergeSetup) -> str | None:
    """Under what the predictions of a recipe are kept: its configuration, and the content of the weights as it is now,
    wherever they lie.

    Args:
        recipe ([`Recipe`]):
            Of a mixture of the setup's ingredients.
        setup ([`MergeSetup`]):
            The opened ingredients, and whatever else decides the bits.

    Returns:
        `str`, or `None` where nothing may be kept: for a method of the user's own, whose code may change, and for
        weights that have changed since they were opened.

    Raises:
        [`IngredientError`]: if weights cannot be read.
    """
    import xxhash

    if is_code(recipe.method):
        return None
    opened: list[Checkpoint] = [setup.by_name[name] for name in recipe.names]
    # The soup's configuration and the base model decide as well, whether or not they are averaged.
    for checkpoint in (setup.agreement.settings, setup.averaging.base):
        if checkpoint is not None and all(checkpoint.ingredient != item.ingredient for item in opened):
            opened.append(checkpoint)
    if any(item.changed_files() for item in opened):
        return None
    base = recipe.base_model
    if base is not None:
        base = _without_place(base)
    bare = replace(recipe, ingredients=tuple(map(_without_place, recipe.ingredients)), base_model=base)
    contents = contents_of(opened)
    decisive = [[item.config, item.generation, content] for item, content in zip(opened, contents, strict=True)]
    text = json.dumps([bare.fingerprint(), decisive], sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def _without_place(ingredient: Ingredient) -> Ingredient:
    """An ingredient by its name alone: its content says what it is, wherever it lies."""
    return Ingredient(ingredient.name, "")


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
        files = sorted(path for path in folder.rglob("*") if path.is_file())  # in any order of the file system
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    by_hand = [getattr(processing_class, name, None) for name in SET_BY_HAND]
    return xxhash.xxh3_128_hexdigest(content + str(by_hand).encode())
