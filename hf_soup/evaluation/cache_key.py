"""Keys of the cache, for the predictions or scores of one model on one data set.

A key covers everything that determines them; weights are covered by the fingerprint of their content.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..checkpoints.adapter import AdapterCheckpoint
from ..checkpoints.checkpoint import Checkpoint, contents_of
from ..checkpoints.common_rows import CommonVocabulary
from ..checkpoints.staging import temporary_folder
from ..plugins import is_code
from ..types import Ingredient, Recipe
from ..version import versions
from .running import resolve_device


if TYPE_CHECKING:
    from ..merging.setup import MergeSetup
    from .evaluator import Evaluator

SET_BY_HAND = ("model_max_length", "padding_side", "truncation_side", "pad_token_type_id")  # may not be in any file
LAYOUT = 4  # version of the format; after a change older entries are not read


def cache_key(evaluator: Evaluator, model: str, *, scores: bool) -> str | None:
    """The key of a model's score or predictions.

    Args:
        evaluator ([`Evaluator`]):
            Evaluator of the examples, with a task.
        model (`str`):
            Fingerprint of the recipe of the model.
        scores (`bool`):
            Whether the key covers the metrics too.

    Returns:
        `str`: the key; `None` if a score may not be kept because a metric is a function.
    """
    import xxhash

    metrics = [metric.identity for metric in evaluator.metrics]  # `None` for a function, which may change
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
        resolve_device(evaluator.device).split(":")[0],  # the number of the GPU does not matter
        evaluator.dtype,
        versions(),  # other versions may compute other bits
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
    """A fingerprint of a recipe for the cache: its configuration and the current content of the weights, regardless of
    their location.

    Args:
        recipe ([`Recipe`]):
            Recipe of a mixture of the setup's ingredients.
        setup ([`MergeSetup`]):
            Opened ingredients, and all other values that determine the bits of the average.

    Returns:
        `str`: the fingerprint; `None` if nothing may be kept, which is so for a custom method, whose code may change,
        and for weights that have changed since they were opened.

    Raises:
        [`IngredientError`]: if weights cannot be read.
    """
    import xxhash

    if is_code(recipe.method):
        return None
    opened: list[Checkpoint] = [setup.by_name[name] for name in recipe.names]
    if recipe.vocabulary is not None:  # rows that an ingredient lacks come from all
        opened += [item for item in setup.candidates if item not in opened]
    opened += [item.base for item in opened if isinstance(item, AdapterCheckpoint)]
    # The soup's configuration and the base model matter too, even if the base model is not averaged.
    for checkpoint in (setup.agreement.settings, setup.averaging.base, setup.row_giver):
        if checkpoint is not None and all(checkpoint.ingredient != item.ingredient for item in opened):
            opened.append(checkpoint)
    if any(item.changed_files() for item in opened):
        return None
    base = recipe.base_model
    if base is not None:
        base = _without_place(base)
    bare = replace(recipe, ingredients=tuple(map(_without_place, recipe.ingredients)), base_model=base)
    contents = contents_of(opened)
    decisive = []
    for item, content in zip(opened, contents, strict=True):
        # which row belongs to a token depends on each ingredient's own tokenizer
        tokenizer = item.own.companion_digests if isinstance(item, CommonVocabulary) else None
        decisive.append([item.config, item.generation, content, *([tokenizer] if tokenizer else [])])
    text = json.dumps([bare.fingerprint(), decisive], sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def _without_place(ingredient: Ingredient) -> Ingredient:
    """An ingredient without its location, because its content identifies it."""
    return Ingredient(ingredient.name, "")


def digest_of_batches(evaluator: Evaluator) -> str:
    """A digest of everything that determines the batches on which BatchNorm is estimated."""
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
    """A digest of the files that a tokenizer or image processor would save; empty if there is none."""
    import xxhash

    if processing_class is None:
        return ""
    copied = copy.deepcopy(processing_class)
    backend = getattr(copied, "backend_tokenizer", None)
    if backend is not None:  # its last truncation and padding are saved too
        backend.no_truncation()
        backend.no_padding()
    with temporary_folder() as folder:
        copied.save_pretrained(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())  # in any order of the file system
        content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    by_hand = [getattr(processing_class, name, None) for name in SET_BY_HAND]
    return xxhash.xxh3_128_hexdigest(content + str(by_hand).encode())
