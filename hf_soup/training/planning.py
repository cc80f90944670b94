"""What a sweep will do, decided and checked before anything is written: runs, steps, disk. It trains nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.bounds import at_most_modules
from ..checkpoints.named_code import forget_code
from ..checkpoints.targets import refuse_folder
from ..data.content import hash_content
from ..data.splits import TrainingData
from ..display.tables import align, cell, shared_line
from ..errors import OutputError, RecipeError, TrainingError
from ..metrics.load import Metric, load_metrics
from ..options import SweepOptions, check_choices
from ..plugins import load_module
from ..publishing.bases import START
from ..seeds import check_seed
from ..tasks._model_inputs import empty_model, inputs_of
from ..tasks._text import limit_length
from ..tasks._vocabulary import check_token
from ..untrusted import as_error
from .base_model import BaseModel, base_identity, pin_base_model
from .class_weights import check_class_weights
from .context import SweepContext
from .examples import Columns, choose_columns, encode_examples, guess_task
from .lengths import Length, run_length
from .manifest import SHARED, check_start, extend_manifest, find_manifest
from .records import load_failure, load_runs
from .settings import canonical, check_settings
from .space import different, expand_space
from .start import Origin, find_origin


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from ..tasks._model_inputs import ModelInputs


OPTIMIZER_STATES = 2  # of the size of the weights, as AdamW has them
UNDER_WAY = 3  # checkpoints of a run: the best or the one before, the last, and the one that is being written


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it runs.

    Args:
        options ([`SweepOptions`]):
            What the user asked for.
        context ([`SweepContext`]):
            What all runs share.
        origin ([`Origin`], *optional*):
            Where the start comes from; `None` if it is there.
        runs (`Mapping[str, Mapping]`):
            Name -> settings of its own, in the order of the space.
        manifest (`Mapping[str, Any]`):
            What `sweep.json` will hold.
        steps (`Mapping[str, int]`):
            Optimizer steps of each run.
        done (`frozenset[str]`):
            Runs that are whole, or failed in a way that trying again would not change.
        disk (`int`):
            Bytes that the rest will take, at most, while it runs.
    """

    options: SweepOptions
    context: SweepContext
    origin: Origin | None
    runs: Mapping[str, Mapping[str, Any]]
    manifest: Mapping[str, Any]
    steps: Mapping[str, int]
    done: frozenset[str]
    disk: int

    @property
    def todo(self) -> list[str]:
        """The runs that are to be trained, those last that have failed before."""
        left = [name for name in self.runs if name not in self.done]
        return sorted(left, key=lambda name: load_failure(self.context.folder / name) is not None)

    def summary(self) -> str:
        """How much there is to do, in one line."""
        steps = sum(self.steps[name] for name in self.todo)
        there = f", {len(self.done)} are there" if self.done else ""
        size = f"{self.disk / 1e9:.1f} GB" if self.disk >= 1e9 else f"{self.disk / 1e6:.0f} MB"
        return f"{len(self.todo)} runs of {len(self.runs)} to train{there}: {steps:,} steps, at most {size} on disk"

    def table(self) -> str:
        """A row for each run: what it has of its own, its steps, and whether it is there; then what all share, and the
        summary.
        """
        keys = list(dict.fromkeys(key for setting in self.runs.values() for key in setting))
        lines = [["run", *keys, "steps", ""]]
        for name, setting in self.runs.items():
            values = [cell(setting.get(key)) for key in keys]
            lines.append([name, *values, f"{self.steps[name]:,}", "there" if name in self.done else ""])
        return "\n".join([align(lines), *shared_line(self.context.training_args, keys), "", self.summary()])


def plan_sweep(
    base_model: str | os.PathLike[str],
    data: TrainingData,
    options: SweepOptions,
    *,
    output_dir: str | os.PathLike[str],
    task: str = "auto",
    metric: str | None = None,
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    callbacks: Sequence[Any] | None = None,
    workers: int = 1,
) -> SweepPlan:
    """Check everything that [`hf_soup.sweep`] is given, on loaded data sets; its arguments are described there.

    Args:
        data ([`TrainingData`]):
            The examples.
        options ([`SweepOptions`]):
            The options that a cook file and the command line have as well.
        workers (`int`, *optional*, defaults to 1):
            How many runs are trained at once, for the disk that they need.

    Raises:
        [`SoupError`]: for what is wrong; nothing has been written then.
    """
    from .callbacks import fresh_callbacks, listed_callbacks, stop_early

    folder = refuse_folder(output_dir).resolve()
    options = _checked_options(options, data)
    callbacks = listed_callbacks(callbacks)
    stopped_by_callback = stop_early(fresh_callbacks(callbacks))
    module = load_module("task", task if task != "auto" else guess_task(data.train))
    metric = metric or module.METRIC
    (chosen_metric,) = load_metrics(metric)
    settings = _read_settings(options)
    columns = choose_columns(module, data.train, label_column, text_columns)
    manifest = find_manifest(folder)
    base = pin_base_model(base_model, manifest)
    start = _plan_start(base, folder / START, columns, options.head)
    for own in settings.of_runs_and_probe:
        check_settings(
            {**settings.shared, **own},
            module,
            start.processing_class,
            evaluates=data.validation is not None,
            metric=chosen_metric,
            stops_early=stopped_by_callback,
        )
    model = _outline(start.config, columns, base_model)
    inputs = inputs_of(model)
    _fit_tokenizer(start.processing_class, inputs, settings)
    fixed = _fixed(base_model, data, columns, options, chosen_metric, settings)
    if manifest and start.origin is None:
        check_start(manifest, folder / START)
    commit = manifest.get("base_commit") if manifest else base.commit
    extended, runs = extend_manifest(manifest, folder, fixed, settings.runs)
    if settings.shared.get("max_length") is not None:
        limit_length(start.processing_class, settings.shared["max_length"], inputs.positions)
    train = encode_examples(data.train, columns, start.config, start.processing_class, inputs, "train")
    validation = None
    if data.validation is not None:
        validation = encode_examples(
            data.validation, columns, start.config, start.processing_class, inputs, "validation"
        )
    for weights in settings.values_of("class_weights"):
        check_class_weights(weights, module, start.config, train, columns.head.get("id2label"))
    context = SweepContext(
        folder=folder,
        task=columns.task_name,
        processing_class=start.processing_class,
        train=train,
        validation=validation,
        metric=metric,
        training_args=_still_shared(settings.shared, extended),
        keep=options.keep,
        own_heads=options.head == "independent",
        about=_about(base_model, commit, data, fixed),
        base_card=base.card,
        callbacks=callbacks,
    )
    lengths = {name: run_length(context, name, setting, chosen_metric) for name, setting in runs.items()}
    done = frozenset(name for name in runs if _is_done(folder / name))
    plan = SweepPlan(
        options=options,
        context=context,
        origin=start.origin,
        runs=runs,
        manifest={**extended, "base_commit": commit},
        steps={name: length.steps for name, length in lengths.items()},
        done=done,
        disk=_disk(model, lengths, done, keep=options.keep, makes_start=start.origin is not None, workers=workers),
    )
    _refuse_small_disk(plan)
    return plan


def _checked_options(options: SweepOptions, data: TrainingData) -> SweepOptions:
    """Options with plain values, so far as they can be checked without looking at the data or the base model."""
    init_seed = check_seed(options.init_seed, "init_seed")
    check_choices(options)
    if options.keep == "best" and data.validation is None:
        raise RecipeError('keep="best" needs validation data; without it, write keep="last".')
    return replace(options, init_seed=init_seed, probe_args=canonical(options.probe_args or {}))


class _Settings(NamedTuple):
    """The settings of a sweep, under the names that `TrainingArguments` has.

    Args:
        shared (`dict[str, Any]`):
            Those that all runs share.
        runs (`list[dict[str, Any]]`):
            Those that each run has of its own.
        probe (`Mapping[str, Any]`):
            Those of the linear probe, over the shared ones.
    """

    shared: dict[str, Any]
    runs: list[dict[str, Any]]
    probe: Mapping[str, Any]

    @property
    def of_runs_and_probe(self) -> list[Mapping[str, Any]]:
        """The settings that are trained with, each without the shared ones."""
        return [*self.runs, self.probe]

    def values_of(self, name: str) -> list[Any]:
        """The values that a setting has in some run, each once, where it has one."""
        values: list[Any] = []
        for own in self.of_runs_and_probe:
            value = {**self.shared, **own}.get(name)
            if value is not None and value not in values:
                values.append(value)
        return values


def _read_settings(options: SweepOptions) -> _Settings:
    runs = expand_space(options.space, n_runs=options.n_runs, seed=options.seed)
    settings = _Settings(
        shared=canonical(options.training_args or {}),
        runs=different([canonical(setting) for setting in runs]),
        probe=options.probe_args or {},
    )
    if any("max_length" in own for own in settings.of_runs_and_probe):  # texts are cut once, before the first run
        raise RecipeError(
            '"max_length" is the same for all runs, because the data is encoded once: give it one value, in '
            "training_args."
        )
    return settings


class _Start(NamedTuple):
    """What the runs of a sweep start from.

    Args:
        origin ([`Origin`], *optional*):
            Where it comes from; `None` if it has been made.
        config (`transformers.PretrainedConfig`):
            Its configuration.
        processing_class:
            Its tokenizer or image processor.
    """

    origin: Origin | None
    config: PretrainedConfig
    processing_class: Any


def _plan_start(base: BaseModel, folder: Path, columns: Columns, head: str) -> _Start:
    if folder.is_dir():
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        origin, processing_class = None, columns.task.load_processing_class(str(folder), None)
    else:
        origin = find_origin(base.source, base.commit, columns.task, columns.head, head)
        config = origin.config
        processing_class = columns.task.load_processing_class(base.source, base.commit)
    forget_code(processing_class)
    return _Start(origin, config, processing_class)


def _outline(config: PretrainedConfig, columns: Columns, base_model: str | os.PathLike[str]) -> PreTrainedModel:
    """The model that runs start from, without weights."""
    with as_error(TrainingError, f"no model can be built from the configuration of {base_model}"), at_most_modules():
        return empty_model(columns.task.AUTO_CLASS, config)


def _fit_tokenizer(processing_class: Any, inputs: ModelInputs, settings: _Settings) -> None:
    """Refuse a mask that the model has no embedding for, and cut texts at the positions that it has.

    The length is saved with the runs, so that they and their soups are evaluated on texts that are cut alike.
    """
    if any("mask" in augment for augment in settings.values_of("augment")):
        check_token(processing_class.mask_token_id, "texts are masked with", processing_class, inputs)
    if hasattr(processing_class, "model_max_length") and inputs.positions is not None:
        processing_class.model_max_length = min(processing_class.model_max_length, inputs.positions)


def _fixed(
    base_model: str | os.PathLike[str],
    data: TrainingData,
    columns: Columns,
    options: SweepOptions,
    metric: Metric,
    settings: _Settings,
) -> dict[str, Any]:
    """What all runs of a folder have to share, as `sweep.json` holds it."""
    return {
        "base_model": base_identity(base_model),
        "task": columns.task_name,
        "train": hash_content(data.train).fingerprint,
        "validation": hash_content(data.validation).fingerprint if data.validation is not None else None,
        "label_column": columns.label,
        "classes": columns.classes,
        "text_columns": columns.text_columns,
        "columns": columns.inputs,
        "head": options.head,
        "init_seed": options.init_seed,
        "probe_args": settings.probe,
        "keep": options.keep,
        "metric": metric.name,
        SHARED: settings.shared,
    }


def _still_shared(shared: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The shared settings, less those that have become each run's own since the sweep began."""
    return {name: value for name, value in shared.items() if name in manifest["fixed"][SHARED]}


def _about(
    base_model: str | os.PathLike[str], commit: str | None, data: TrainingData, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Base model and data, as `run.json` and the card of each run name them: no paths of this machine."""
    validation = None
    if data.validation is not None:
        validation = {"fingerprint": fixed["validation"], "rows": len(data.validation)}
    return {
        "base_model": str(base_model) if commit else Path(base_model).name,
        "base_commit": commit,
        "data": {
            "path": data.path if hub.is_hub_id(data.path) else None,
            "train": {"fingerprint": fixed["train"], "rows": len(data.train)},
            "validation": validation,
        },
    }


def _is_done(folder: Path) -> bool:
    """Whole, or diverged: the same would come out again."""
    failure = load_failure(folder)
    return bool(load_runs(folder)) or (failure is not None and failure.cause == "diverged")


def _disk(
    model: PreTrainedModel,
    lengths: Mapping[str, Length],
    done: frozenset[str],
    *,
    keep: str,
    makes_start: bool,
    workers: int,
) -> int:
    """Bytes that runs take at most: weights of what is kept, and checkpoints with their optimizer on the way."""
    todo = [length for name, length in lengths.items() if name not in done]
    kept = sum(length.evaluations if keep == "all" else 1 for length in todo)
    if makes_start:
        kept += 1
    on_the_way = min(workers, len(todo)) * UNDER_WAY * (1 + OPTIMIZER_STATES)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return weights * (kept + on_the_way)


def _refuse_small_disk(plan: SweepPlan) -> None:
    folder = plan.context.folder
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if plan.disk > free:
        raise OutputError(
            f"{folder}: {plan.summary()}, and {free / 1e9:.1f} GB are free. Make room, or train fewer runs at once."
        )
