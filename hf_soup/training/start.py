"""The shared start of all runs: the pre-trained body and one head, saved as `start/`. Averages need one start."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.bounds import refuse_unbounded
from ..checkpoints.companion_files import CONFIG
from ..checkpoints.hub_errors import read_errors
from ..checkpoints.inside import json_inside
from ..checkpoints.memory import quiet_transformers
from ..checkpoints.named_code import forget_code
from ..checkpoints.staging import staged_folder
from ..errors import RecipeError, TrainingError
from ..plugins import load_module
from ..publishing.bases import START
from ..publishing.run_card import render_start_card, write_card
from ..tasks import SentenceTask
from ..tasks._model_inputs import auto_class
from ..untrusted import as_error, one_line
from .context import SweepContext
from .head import class_labels, has_plain_head, is_head, with_new_head
from .probe import train_probe
from .processes import is_main, wait
from .sentences import load_sentence_model


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from ..tasks import Task


class Origin(NamedTuple):
    """The origin of the start: a base model and a head.

    Args:
        source (`str`):
            Hub id or folder of the base model.
        revision (`str`, *optional*):
            Commit of the base model.
        head (`str`):
            Kind of head: `"checkpoint"`, `"new"`, `"probe"` or `"independent"`.
        fields (`Mapping[str, Any]`):
            Fields of the configuration that follow from the labels of the data.
        config (`transformers.PretrainedConfig`):
            Configuration of the start.
    """

    source: str
    revision: str | None
    head: str
    fields: Mapping[str, Any]
    config: PretrainedConfig


@read_errors(TrainingError, "the configuration of the base model cannot be read")
def find_origin(source: str, revision: str | None, task: Task, fields: Mapping[str, Any], head: str) -> Origin:
    """Read the configuration of a base model, and determine the head of the start.

    Args:
        source (`str`), revision (`str`, *optional*):
            Hub id or folder of the base model, and its commit.
        task ([`Task`]):
            A file of `hf_soup.tasks`.
        fields (`Mapping[str, Any]`):
            Result of `task.head` for the data.
        head (`str`):
            Kind of head, as for [`hf_soup.sweep`].

    Raises:
        [`RecipeError`]: if a head is requested and models of the task have none.
        [`TrainingError`]: if the base model has no configuration, or lacks the requested head.
    """
    config = _read_config(source, revision, {})
    if not fields:
        if head not in ("auto", "checkpoint"):
            raise RecipeError(f'models of {task.PIPELINE} have no separate head: leave head="{head}" out.')
        return Origin(source, revision, "checkpoint", {}, config)
    has_head = task.fits(config)
    if head == "checkpoint" and not has_head:
        raise TrainingError(f'{source} has no head for this task: write head="new" or head="probe".')
    changes = _for_its_head(config, fields, task) if has_head else None
    if head == "auto":
        head = "new" if changes is None else "checkpoint"
    if head == "checkpoint":
        changes = changes or {}
        return Origin(source, revision, head, changes, _read_config(source, revision, changes))
    # otherwise the problem type of the base model would determine the loss
    fields = {"problem_type": None, **fields}
    return Origin(source, revision, head, fields, _read_config(source, revision, fields))


def _read_config(source: str, revision: str | None, fields: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of a base model with changed fields, and without custom code."""
    from transformers import AutoConfig

    with as_error(TrainingError, f"{one_line(source)} has no configuration that loads"), quiet_transformers():
        with contextlib.suppress(FileNotFoundError):  # transformers reports a missing file
            folder = Path(source) if revision is None else hub.fetch(source, revision, [CONFIG])
            written = json_inside(folder, CONFIG)
            if isinstance(written, dict):
                refuse_unbounded(written, f"{CONFIG} of {source}")
        config: PretrainedConfig = AutoConfig.from_pretrained(
            source, revision=revision or "main", trust_remote_code=False, **fields
        )
        forget_code(config)
    return config


def make_start(origin: Origin, context: SweepContext, *, init_seed: int, probe_args: Mapping[str, Any]) -> None:
    """Save the start of all runs, unless it exists.

    Args:
        origin ([`Origin`]):
            Base model and head.
        context ([`SweepContext`]):
            Values that all runs share.
        init_seed (`int`):
            Random seed of a new head.
        probe_args (`Mapping[str, Any]`):
            Settings of the linear probe, which take precedence over `PROBE` and the shared settings.

    Raises:
        [`TrainingError`]: if the base model does not load, or its weights lack the head.
    """
    target = context.folder / START
    if target.is_dir():
        return
    task = load_module("task", context.task)
    if isinstance(task, SentenceTask):
        _make_sentence_start(target, origin, task, context, init_seed)
        return
    with quiet_transformers():
        model = _load(origin, task, init_seed)
        if getattr(model.config, "pad_token_id", 0) is None and origin.fields:  # batches need a padding token
            model.config.pad_token_id = _padding(context.processing_class)
        if origin.head == "probe":
            train_probe(model, context, init_seed, probe_args)
        if is_main():
            with staged_folder(target) as stage:
                model.save_pretrained(stage)
                context.processing_class.save_pretrained(stage)
                _write_card_of_start(stage, origin, context)
    wait()


def _make_sentence_start(
    target: Path, origin: Origin, task: SentenceTask, context: SweepContext, init_seed: int
) -> None:
    """Save the start of models of sentence-transformers, with all their modules."""
    import transformers

    source = f"{origin.source}@{origin.revision}" if origin.revision else origin.source
    with quiet_transformers():
        transformers.set_seed(init_seed)  # for a new head of a cross-encoder
        model = load_sentence_model(task, source)
        if is_main():
            with staged_folder(target) as stage:
                model.save_pretrained(str(stage))
                _write_card_of_start(stage, origin, context)
    wait()


def _write_card_of_start(folder: Path, origin: Origin, context: SweepContext) -> None:
    base_model = None
    if origin.revision:  # a model on the Hub, which a card may link to
        base_model, _ = hub.split_revision(context.about["base_model"])
    write_card(folder, render_start_card(sweep=context.folder.name, base_model=base_model, base=context.base_card))


def _padding(processing_class: Any) -> int | None:
    """The padding token of a tokenizer, or else the end-of-text token, as for GPT-2."""
    for name in ("pad_token_id", "eos_token_id"):
        token: int | None = getattr(processing_class, name, None)
        if token is not None:
            return token
    return None


@read_errors(TrainingError, "the base model cannot be read")
def _load(origin: Origin, task: Task, init_seed: int) -> PreTrainedModel:
    """Load the base model with the chosen head."""
    import transformers

    transformers.set_seed(init_seed)  # for other missing weights, such as a pooler
    model: PreTrainedModel
    with as_error(TrainingError, f"{origin.source} does not load as a model for {task.PIPELINE}"):
        model, loading = auto_class(task.AUTO_CLASS, origin.config).from_pretrained(
            origin.source,
            config=origin.config,
            revision=origin.revision or "main",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    new = list(loading["missing_keys"])
    for key in loading["mismatched_keys"]:  # names, or names with shapes
        new.append(key[0] if isinstance(key, tuple) else key)
    # missing weights are new already; of a detector, whose boxes do not depend on the classes, no others are replaced
    if origin.head == "new" and new and (task.KIND == "boxes" or not has_plain_head(model)):
        return model
    if origin.head != "checkpoint":
        return with_new_head(model, init_seed)
    lacking = [name for name in new if is_head(model, name)]
    if lacking:
        raise TrainingError(f'the weights of {origin.source} lack a head that fits ({lacking[0]}): write head="new".')
    return model


def _for_its_head(config: PretrainedConfig, fields: Mapping[str, Any], task: Task) -> dict[str, Any] | None:
    """Changes to a configuration that make its head fit this data; `None` if the head has other labels.

    Class names are compared: a different order is that of the checkpoint, and a head without names takes those of the
    data.
    """
    if task.KIND == "pixels":  # masks may lack the last classes, and a background that does not count is no class
        return {} if config.num_labels >= fields["num_labels"] - 1 else None
    if "id2label" not in fields:  # numbers in place of classes, or letters
        return dict(fields) if config.num_labels == fields.get("num_labels", config.num_labels) else None
    of_model = _in_order(class_labels(config))
    of_data = _in_order(fields["id2label"])
    if len(of_model) != len(of_data):
        return None
    nameless = [f"LABEL_{index}" for index in range(len(of_data))]
    if of_model == nameless:
        return dict(fields)
    is_for_data = of_data == nameless or sorted(of_model) == sorted(of_data)
    return {} if is_for_data else None


def _in_order(labels: Mapping[int, str]) -> list[str]:
    """Class names in the order of their indices."""
    return [labels[index] for index in sorted(labels)]
