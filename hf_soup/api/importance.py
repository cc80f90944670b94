"""`importance`: statistics of an ingredient's weights on data, estimated once and kept beside the ingredient."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.importance import Importance, find_importance, write_importance
from ..checkpoints.reader import TensorSpec
from ..checkpoints.source import open_checkpoint
from ..data.text_columns import choose_columns
from ..errors import DataError, EvaluationError, RecipeError, did_you_mean
from ..evaluation.binding import bind_evaluator
from ..evaluation.cache_key import digest_of_batches
from ..evaluation.evaluator import Evaluator
from ..evaluation.importance import KINDS, Kind, importance_specs, write_fisher, write_gram
from ..merging.agreement import Agreement
from ..merging.budget import read_size
from ..merging.in_memory import cook_in_memory
from ..merging.setup import set_up
from ..options import answers_keywords
from ..plugins import asks_for, importance_kind, load_function
from ..seeds import check_seed
from ..types import Mixture, StatisticsRecord
from ..untrusted import as_error, one_line


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    Write = Callable[[str, torch.Tensor], None]

MAX_EXAMPLES = 1000


@answers_keywords
def importance(
    ingredient: Any,
    data: Any,
    *,
    kind: Kind = "fisher",
    max_examples: int | None = MAX_EXAMPLES,
    seed: int = 0,
    max_memory: int | str | None = None,
) -> Path:
    """Estimate on data how much each weight of a model matters, for the methods `fisher` and `regmean`.

    The statistics are kept beside the ingredient, in `soup_importance/`, or below `HF_HOME` for one that has no folder
    of its own. [`merge`] finds them there. No labels are needed.

    Args:
        ingredient (`str`, `os.PathLike`, `PreTrainedModel` or [`Ingredient`]):
            A checkpoint, in any form that [`merge`] takes.
        data ([`Evaluator`], `datasets.Dataset` or `str`):
            Examples (the `train` split of a folder or data set on the Hub), usually those that the model was trained
            on.
        kind (`str`, *optional*, defaults to `"fisher"`):
            `"fisher"` for the diagonal of the expected Fisher information, which has the shape of the weights, or
            `"gram"` for the Gram matrices of the inputs of linear layers.
        max_examples (`int`, *optional*, defaults to 1000):
            Number of examples to use; more are drawn from at random. `None` uses all.
        seed (`int`, *optional*, defaults to 0):
            Random seed of the examples and labels that are drawn.
        max_memory (`int` or `str`, *optional*):
            Memory for Gram matrices, in bytes or as a size (`"8GB"`); by default a quarter of the free memory. Layers
            whose matrices do not fit together take another pass over the data.

    Returns:
        `Path`: the folder of the statistics. If they exist already, nothing is computed.

    Raises:
        [`IngredientError`]: if the ingredient cannot be read.
        [`DataError`]: if the data does not fit the model.
        [`RecipeError`]: if there is no such kind.
        [`EvaluationError`]: if the model fails on the data, or has no weights with such statistics.

    Source: Matena & Raffel 2022, [Merging models with Fisher-weighted averaging](https://arxiv.org/abs/2111.09832),
    and Jin et al. 2023, [Dataless knowledge fusion](https://arxiv.org/abs/2212.09849).
    """
    if kind not in KINDS:
        raise RecipeError(
            f"importance is of the kind {' or '.join(map(repr, KINDS))}, not {one_line(repr(kind), 40)}."
        )
    seed, memory = check_seed(seed), read_size(max_memory)
    item = open_checkpoint(ingredient)
    found = _estimated(item, data, kind, max_examples, seed, memory)
    return found.tensors.weights_folder


def importance_for(method: str, items: Sequence[Checkpoint], data: Any = None) -> dict[str, Importance]:
    """The statistics of the ingredients' weights that a method asks for; empty if it asks for none.

    Args:
        method (`str`):
            Name of the method.
        items (`Sequence[Checkpoint]`):
            The ingredients, opened.
        data ([`Evaluator`], `datasets.Dataset`, `str` or `Mapping`, *optional*):
            Examples to estimate them on, or examples (or the record of a recipe) for each ingredient by name; by
            default those are taken that are kept beside the ingredients.

    Raises:
        [`RecipeError`]: if the method asks for none, although there is data, or an ingredient has none.
    """
    kind = importance_kind(method)
    if kind is None and asks_for(load_function("method", method), "importance"):
        raise RecipeError(
            f'the method "{one_line(method)}" does not say which importance: @method(importance="fisher").'
        )
    if kind is None:
        if data is not None:
            raise RecipeError(f'the method "{one_line(method)}" takes no importance_data: "fisher" and "regmean" do.')
        return {}
    names = [item.name for item in items]
    is_by_name = type(data) is dict  # a DatasetDict has splits
    by_name: Mapping[str, Any] = data if is_by_name else dict.fromkeys(names, data)
    for name in by_name:
        if name not in names:
            raise RecipeError(f"importance_data is given for {one_line(name)!r}{did_you_mean(name, names)}")
    found = {}
    for item in items:
        of_item = by_name.get(item.name)
        if of_item is None:
            found[item.name] = find_importance(item, kind)
        elif isinstance(of_item, StatisticsRecord):
            found[item.name] = find_importance(item, kind, batches=of_item.batches, digest=of_item.digest)
        else:
            found[item.name] = _estimated(item, of_item, kind, MAX_EXAMPLES, 0, read_size(None))
    return found


def _estimated(
    item: Checkpoint, data: Any, kind: Kind, max_examples: int | None, seed: int, memory: int
) -> Importance:
    """The statistics of an ingredient on data, estimated unless they are there."""
    import xxhash

    evaluator = _bound(data, item, max_examples, seed)
    decisive = [kind, seed, digest_of_batches(evaluator)]
    batches = f"xxh3-128:{xxhash.xxh3_128_hexdigest(json.dumps(decisive).encode())}"
    with contextlib.suppress(RecipeError):  # there are none
        return find_importance(item, kind, batches=batches)
    model = _model_of(item)
    specs = importance_specs(model, kind)
    record = StatisticsRecord(evaluator.described(), batches)

    def fill(write: Write) -> None:
        if kind == "fisher":
            write_fisher(evaluator, model, seed, write)
            return
        for group in _groups(specs, memory):
            write_gram(evaluator, model, group, write)

    with as_error(EvaluationError, f"{type(model).__name__} fails on {evaluator.split}"):
        write_importance(item, kind, specs, record, fill)
    return find_importance(item, kind, batches=batches)


def _bound(data: Any, item: Checkpoint, max_examples: int | None, seed: int) -> Evaluator:
    """The examples, drawn from the data, with labels that do not matter where it has none."""
    import numpy as np

    evaluator = bind_evaluator(data, [item], split="train")
    if not isinstance(evaluator, Evaluator):
        raise RecipeError("importance is estimated on examples: give a data set, not a function.")
    count = len(evaluator.dataset)
    if max_examples is not None and max_examples < 1:
        raise RecipeError(f"max_examples is {max_examples}, but at least one example is needed.")
    dataset = evaluator.dataset
    if max_examples is not None and max_examples < count:
        dataset = dataset.select(np.sort(np.random.default_rng(seed).permutation(count)[:max_examples]))
    return replace(evaluator, dataset=_with_labels(dataset, evaluator))


def _with_labels(dataset: Dataset, evaluator: Evaluator) -> Dataset:
    """The examples with a column of labels, which stand for any: expectations are over the model's own."""
    task = evaluator.task_module
    # texts are their own labels; masks, boxes and names of classes have to be there
    if task.KIND in ("tokens", "pixels", "boxes") or task.PIPELINE == "zero-shot-image-classification":
        return dataset
    try:
        task.label_column(dataset, evaluator.label_column)
    except DataError:
        if evaluator.label_column is not None:
            raise
    else:
        return dataset
    if task.PIPELINE == "token-classification":  # one for each word
        (column,) = choose_columns(dataset, evaluator.text_columns, None, most=1, of_words=True)
        labels: list[Any] = [[0] * len(words) for words in dataset[column]]
    else:
        label = {"classes": 0, "labels": [0], "values": 0.0, "ranking": 0}[task.KIND]
        labels = [label] * len(dataset)
    return dataset.add_column("label", labels)


def _model_of(item: Checkpoint) -> PreTrainedModel:
    """The model of an ingredient in float32, or float64 if it has such tensors."""
    dtype = "float64" if any(spec.dtype == "float64" for spec in item.specs.values()) else "float32"
    setup = set_up([item], Agreement(), dtype=dtype)
    return cook_in_memory(setup.plan(Mixture.equal([item.ingredient])), [item])


def _groups(specs: Sequence[TensorSpec], memory: int) -> Iterator[list[TensorSpec]]:
    """Consecutive tensors whose sums in float64 fit into memory together; one that does not is alone."""
    group: list[TensorSpec] = []
    for spec in specs:
        if group and 8 * sum(each.numel for each in (*group, spec)) > memory:
            yield group
            group = []
        group.append(spec)
    yield group
