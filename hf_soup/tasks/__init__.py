"""Tasks: from columns to what a model takes, and from what it says to predictions. One file each.

A new task is one new file with
- `AUTO_CLASS` (its class in transformers), `PIPELINE` (what the Hub calls it), `METRIC` (the default), `KIND` (of its
  output, as `hf_soup.outputs` lists them), `BATCH_SIZE` (examples at a time, by default), `EXAMPLE` (columns of a few
  rows, on which the contract is tested), `EXAMPLE_MODEL` (the `model_type` of the tiny model for that) and `USE` (what
  the card of a soup says on how to run it, with `{model}` for its folder or Hub id);
- `fits(config)`: whether a model with this configuration does the task;
- `load_processing_class(source, revision)`: the tokenizer or image processor that belongs to a checkpoint;
- `label_column(dataset, given)`: the column with what is right, or `None` where the inputs say it themselves;
- `columns(dataset, given, label)`: which columns are its inputs;
- `head(dataset, label)`: fields of the configuration of a new model for such data;
- `check_augment(augment, processing_class)`: refuses what is no augmentation of its inputs;
- `labels(dataset, label, config)`: what is right, as the model counts it, one entry for each row;
- `encode(dataset, processing_class, columns, labels, inputs)`: a data set of model inputs and `labels`; `inputs` is
  what the model takes ([`hf_soup.model_inputs.ModelInputs`]), and texts are cut to it;
- `augmented(encoded, augment, processing_class)`: the same, changed at random each time that a row is asked for;
- `collator(processing_class, inputs)`: makes a batch of rows, with what the model takes of them;
- `lengths(encoded)`: what to sort by before batching, or `None`;
- `forward(model, batch)`: logits and labels as `hf_soup.outputs.Predictions` has them, and the items of each row;
- where the model writes texts, `generate(model, batch, processing_class, **options)` and `references(dataset, label)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..lookup import load_module, names


if TYPE_CHECKING:
    from transformers import PretrainedConfig


def task_of(config: PretrainedConfig | Mapping[str, Any], task: str = "auto", architecture: str | None = None) -> str:
    """The task that was named, or the one that a model's configuration is for.

    Args:
        config (`transformers.PretrainedConfig` or `Mapping`):
            Of the model.
        task (`str`, *optional*, defaults to `"auto"`):
            What was named.
        architecture (`str`, *optional*):
            The model's class, where the configuration does not name it.

    Raises:
        [`RecipeError`]: if there is no task of that name.
        [`DataError`]: if the configuration fits none.
    """
    if task != "auto":
        load_module("task", task)
        return task
    from transformers import PretrainedConfig

    if isinstance(config, Mapping):
        config = PretrainedConfig.from_dict(dict(config))
    if architecture is not None and config.architectures != [architecture]:
        config = PretrainedConfig.from_dict({**config.to_dict(), "architectures": [architecture]})
    for name in names("task"):
        if load_module("task", name).fits(config):
            return name
    found = (config.architectures or ["model without an architecture"])[0]
    raise DataError(f"no task fits a {found}: give task= as one of {', '.join(names('task'))}.")
