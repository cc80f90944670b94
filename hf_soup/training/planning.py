"""The plan of a sweep, checked before anything is written: runs, steps, disk space. Nothing is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.bounds import at_most_modules
from ..checkpoints.named_code import forget_code
from ..checkpoints.targets import refuse_folder
from ..data.content import hash_content
from ..data.splits import TrainingData
from ..display.results import Result
from ..display.tables import align, cell, shared_line
from ..errors import RecipeError, TrainingError
from ..evaluation.running import is_launched
from ..jobs.settings import JobCosts, job_costs
from ..metrics.load import Metric
from ..options import SweepOptions, check_choices
from ..plugins import load_module
from ..publishing.bases import START
from ..seeds import check_seed
from ..tasks import SentenceTask, Task
from ..tasks._model_inputs import empty_model, inputs_of
from ..tasks._sentences import AUTO_CLASS as SENTENCES
from ..tasks._text import limit_length
from ..tasks._vocabulary import check_token
from ..types import is_better_higher
from ..untrusted import as_error
from .adapters import peft_settings, refuse_unfit
from .base_model import BaseModel, base_identity, pin_base_model
from .class_weights import check_class_weights
from .context import SweepContext
from .disk import most_bytes, refuse_small_disk
from .examples import Columns, choose_columns, encode_examples, guess_task
from .folds import check_folds, pooled
from .lengths import Length, run_length
from .manifest import SHARED, check_start, extend_manifest, find_manifest, whole_runs
from .metric import selecting_metric
from .records import load_failure, load_runs
from .refinement import read_refinement
from .settings import canonical
from .start import Origin, find_origin
from .sweep_settings import SweepSettings, check_all_settings, read_settings


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from ..metrics.load import Given
    from ..tasks._sentences import AUTO_CLASS as SENTENCES
from ..tasks._model_inputs import ModelInputs


@dataclass(frozen=True, repr=False)
class SweepPlan(Result):
    """The plan of a sweep.

    Args:
        options ([`SweepOptions`]):
            Options that the user passed.
        context ([`SweepContext`]):
            Values that all runs share.
        origin ([`Origin`], *optional*):
            Origin of the start; `None` if the start exists already.
        runs (`Mapping[str, Mapping]`):
            Settings of each run by name, in the order of the space.
        manifest (`Mapping[str, Any]`):
            Content that `sweep.json` will have.
        steps (`Mapping[str, int]`):
            Number of optimizer steps of each run.
        done (`frozenset[str]`):
            Names of runs that are complete, or have failed and would fail in the same way again.
        disk (`int`):
            Maximum number of bytes that the remaining runs need while they are trained.
        further (`int`, *optional*, defaults to 0):
            Number of runs that will be added around the best ones.
        costs ([`JobCosts`], *optional*):
            What they cost at most, if they are trained in jobs.
    """

    options: SweepOptions
    context: SweepContext
    origin: Origin | None
    runs: Mapping[str, Mapping[str, Any]]
    manifest: Mapping[str, Any]
    steps: Mapping[str, int]
    done: frozenset[str]
    disk: int
    further: int = 0
    costs: JobCosts | None = None

    @property
    def todo(self) -> list[str]:
        """The runs to train; those that have failed before come last."""
        to_train = [name for name in self.runs if name not in self.done]
        # a failed run may fail again, and the others should not wait for it
        return sorted(to_train, key=lambda name: load_failure(self.context.folder / name) is not None)

    def summary(self) -> str:
        """The remaining work in one line."""
        todo = self.todo
        steps = sum(self.steps[name] for name in todo)
        runs = f"{len(todo)} runs of {len(self.runs)} to train"
        if self.further:
            runs += f", then {self.further} around the best"
        if self.done:
            runs += f", {len(self.done)} are done"
        if self.disk >= 1e9:
            size = f"{self.disk / 1e9:.1f} GB"
        else:
            size = f"{self.disk / 1e6:.0f} MB"
        return f"{runs}: {steps:,} steps, at most {size} on disk"

    def table(self) -> str:
        """A row for each run with its settings, steps and status; below it the shared settings and the summary."""
        keys: list[str] = []
        for setting in self.runs.values():
            keys += [key for key in setting if key not in keys]
        lines = [["run", *keys, "steps", ""]]
        for name, setting in self.runs.items():
            values = [cell(setting.get(key)) for key in keys]
            status = "there" if name in self.done else ""
            lines.append([name, *values, f"{self.steps[name]:,}", status])
        below = [self.summary()] if self.costs is None else [self.summary(), self.costs.summary()]
        return "\n".join([align(lines), *shared_line(self.context.training_args, keys), "", *below])


def plan_sweep(
    base_model: str | os.PathLike[str],
    data: TrainingData,
    options: SweepOptions,
    *,
    output_dir: str | os.PathLike[str],
    task: str = "auto",
    metric: Given | None = None,
    higher_is_better: bool | None = None,
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    callbacks: Sequence[Any] | None = None,
    workers: int = 1,
) -> SweepPlan:
    """Check all arguments of [`hf_soup.sweep`] on loaded data sets, and plan the runs. See there for other arguments.

    Args:
        data ([`TrainingData`]):
            Training and validation examples.
        options ([`SweepOptions`]):
            Options that cook files and the command line have too.
        workers (`int`, *optional*, defaults to 1):
            Number of runs trained at once on this machine, which determines the disk space.

    Raises:
        [`SoupError`]: if an argument is invalid; nothing has been written then.
    """
    from .callbacks import fresh_callbacks, listed_callbacks, stop_early

    folder = refuse_folder(output_dir).resolve()
    options = _checked_options(options, data)
    if options.folds is not None:
        data = pooled(data)
    callbacks = listed_callbacks(callbacks)
    # made once without use, so that a callback that cannot be made fails here and not in the first run
    stops_early = stop_early(fresh_callbacks(callbacks))
    if task == "auto":
        task = guess_task(data.train)
    module = load_module("task", task)
    if isinstance(module, SentenceTask):
        _check_sentence_options(options, module)
    metric = metric or module.METRIC
    chosen_metric = selecting_metric(metric, higher_is_better, module.KIND)
    settings = read_settings(options)
    columns = choose_columns(module, data.train, label_column, text_columns)
    manifest = find_manifest(folder)  # of an earlier call that this one resumes
    if options.folds is not None:
        existing = whole_runs(manifest).values() if manifest else ()
        settings = settings.in_folds(options.folds, existing)
    base = pin_base_model(base_model, manifest)
    start = _plan_start(base, folder / START, columns, options.head)
    check_all_settings(
        settings,
        module,
        start.processing_class,
        evaluates=data.validation is not None,
        metric=chosen_metric,
        stops_early=stops_early,
    )
    model = _outline(start.config, columns, base_model)
    inputs = inputs_of(model)
    for own in _adapters(settings.runs, settings.shared):
        refuse_unfit(_outline(start.config, columns, base_model), own, columns.task_name)
    _fit_tokenizer(start.processing_class, inputs, settings)
    # a folder with other runs raises an error before the data is encoded, which takes long
    fixed = _fixed(base_model, data, columns, options, chosen_metric, settings)
    if manifest and start.origin is None:
        check_start(manifest, folder / START)
    commit = manifest.get("base_commit") if manifest else base.commit
    # settings may have moved between the shared ones and those of the runs: both are read from the result
    extended, runs = extend_manifest(manifest, folder, fixed, settings.runs)
    # models of sentence-transformers truncate by themselves
    if settings.shared.get("max_length") is not None and not isinstance(module, SentenceTask):
        limit_length(start.processing_class, settings.shared["max_length"], inputs.positions)
    train, validation = _encode(data, columns, start, inputs)
    for weights in settings.values_of("class_weights"):  # which may need the labels of the encoded data
        check_class_weights(weights, module, start.config, train, columns.head.get("id2label"))
    refinement = read_refinement(options.refine_or_default)
    context = SweepContext(
        folder=folder,
        task=columns.task_name,
        processing_class=start.processing_class,
        train=train,
        validation=validation,
        metric=metric,
        higher_is_better=higher_is_better,
        training_args=_still_shared(settings.shared, extended),
        keep=options.keep,
        own_heads=options.head == "independent",
        about=_about(base_model, commit, data, fixed),
        base_card=base.card,
        callbacks=callbacks,
        halves=refinement is not None and refinement.halving,
        label_column=label_column,
        text_columns=text_columns,
    )
    lengths = {name: run_length(context, name, setting, chosen_metric) for name, setting in runs.items()}
    done = _done_runs(folder, runs)
    # runs that an earlier call has added are there already
    further = 0 if refinement is None else max(refinement.runs - (len(extended["runs"]) - len(runs)), 0)
    costs = None
    if options.executor == "jobs":
        costs = job_costs(options.resources, len(runs) - len(done) + further)
    plan = SweepPlan(
        options=options,
        context=context,
        origin=start.origin,
        runs=runs,
        manifest={**extended, "base_commit": commit},
        steps={name: length.steps for name, length in lengths.items()},
        done=done,
        further=further,
        costs=costs,
        disk=most_bytes(
            model,
            {**lengths, **_lengths_of(lengths, further)},
            done,
            keep=options.keep,
            makes_start=start.origin is not None,
            workers=workers,
        ),
    )
    refuse_small_disk(folder, plan.disk, plan.summary)
    return plan


def add_runs(plan: SweepPlan, settings: Sequence[Mapping[str, Any]]) -> SweepPlan:
    """Plan further runs of a sweep whose planned runs are complete.

    Args:
        plan ([`SweepPlan`]):
            Plan of the runs that are complete.
        settings (`Sequence[Mapping[str, Any]]`):
            Settings of each further run.

    Returns:
        [`SweepPlan`]: the plan of all runs.
    """
    folder, options = plan.context.folder, plan.options
    module = load_module("task", plan.context.task)
    processing_class = module.load_processing_class(str(folder / START), None)
    context = replace(plan.context, processing_class=processing_class, halves=False)
    metric = selecting_metric(context.metric, context.higher_is_better, module.KIND)
    manifest = find_manifest(folder)
    extended, runs = extend_manifest(manifest, folder, plan.manifest["fixed"], [*plan.runs.values(), *settings])
    lengths = {name: run_length(context, name, setting, metric) for name, setting in runs.items()}
    return SweepPlan(
        options=options,
        context=context,
        origin=None,
        runs=runs,
        manifest={**extended, "base_commit": plan.manifest["base_commit"]},
        steps={name: length.steps for name, length in lengths.items()},
        done=_done_runs(folder, runs),
        disk=plan.disk,
    )


def _check_sentence_options(options: SweepOptions, task: Task) -> None:
    """Refuse options that make no sense for models of sentence-transformers.

    Raises:
        [`RecipeError`]: naming the option.
    """
    if options.folds is not None:
        raise RecipeError(f"folds= is not for {task.PIPELINE}, whose examples are scored together.")
    if options.head not in ("auto", "checkpoint", "new"):
        raise RecipeError(f'models of {task.PIPELINE} have no separate head: leave head="{options.head}" out.')


def _check_jobs(options: SweepOptions) -> None:
    """Refuse options of a sweep that make no sense if each run is trained in a job of its own.

    Raises:
        [`RecipeError`]: naming the option.
    """
    if not options.push_runs:
        raise RecipeError(
            'executor="jobs" keeps each run in its own repository on the Hub: write push_runs=True, and private=True '
            "if only you may see them."
        )
    if is_launched():
        raise RecipeError('executor="jobs" starts jobs from one process; here several train each run.')
    refinement = read_refinement(options.refine_or_default)
    if refinement is not None and refinement.halving:
        raise RecipeError("refine: halving compares runs that share a folder, which jobs do not.")


def _lengths_of(lengths: Mapping[str, Length], further: int) -> dict[str, Length]:
    """The lengths of runs that will be added, each as long as the longest."""
    longest = max(lengths.values(), key=lambda length: length.evaluations)
    return {f"further-{number}": longest for number in range(further)}


def _checked_options(options: SweepOptions, data: TrainingData) -> SweepOptions:
    """Options with plain values, checked as far as possible without the data and the base model."""
    init_seed = check_seed(options.init_seed, "init_seed")
    check_choices(options)
    check_folds(options)
    if options.executor == "jobs":
        _check_jobs(options)
    if options.keep == "best" and data.validation is None:
        raise RecipeError('keep="best" needs validation data; without it, write keep="last".')
    if read_refinement(options.refine_or_default) is not None and data.validation is None:
        raise RecipeError(
            "refine needs validation data, by which the best settings are found; refine=0 leaves it out."
        )
    return replace(options, init_seed=init_seed, probe_args=canonical(options.probe_args or {}))


class _Start(NamedTuple):
    """The start of the runs of a sweep.

    Args:
        origin ([`Origin`], *optional*):
            Origin of the start; `None` if the start exists already.
        config (`transformers.PretrainedConfig`):
            Configuration of the start.
        processing_class:
            Tokenizer or image processor of the start.
    """

    origin: Origin | None
    config: PretrainedConfig
    processing_class: Any


def _plan_start(base: BaseModel, folder: Path, columns: Columns, head: str) -> _Start:
    """The existing start in a folder, or else the one that will be made from the base model."""
    if folder.is_dir():
        from transformers import AutoConfig

        origin = None
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        processing_class = columns.task.load_processing_class(str(folder), None)
    else:
        origin = find_origin(base.source, base.commit, columns.task, columns.head, head)
        config = origin.config
        processing_class = columns.task.load_processing_class(base.source, base.commit)
    forget_code(processing_class)  # the processing class is saved with each run
    return _Start(origin, config, processing_class)


def _adapters(runs: Iterable[Mapping[str, Any]], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The different settings of adapters among those of runs."""
    different: dict[str, dict[str, Any]] = {}
    for settings in runs:
        own = peft_settings({**shared, **settings})
        if own is not None:
            different[json.dumps(own, sort_keys=True, default=str)] = own
    return list(different.values())


def _outline(config: PretrainedConfig, columns: Columns, base_model: str | os.PathLike[str]) -> PreTrainedModel:
    """The model that the runs start from, without weights."""
    with as_error(TrainingError, f"no model can be built from the configuration of {base_model}"), at_most_modules():
        is_of_sentences = columns.task.AUTO_CLASS == SENTENCES
        return empty_model("AutoModel" if is_of_sentences else columns.task.AUTO_CLASS, config)


def _fit_tokenizer(processing_class: Any, inputs: ModelInputs, settings: SweepSettings) -> None:
    """Raise an error if the model has no embedding for the mask token, and truncate texts to the model's positions.

    The length is saved with the runs, so that evaluation truncates texts in the same way.
    """
    if any("mask" in augment for augment in settings.values_of("augment")):
        check_token(processing_class.mask_token_id, "texts are masked with", processing_class, inputs)
    # image processors have no such limit
    if hasattr(processing_class, "model_max_length") and inputs.positions is not None:
        processing_class.model_max_length = min(processing_class.model_max_length, inputs.positions)


def _encode(
    data: TrainingData, columns: Columns, start: _Start, inputs: ModelInputs
) -> tuple[Dataset, Dataset | None]:
    """The encoded training and validation examples; texts for models of sentence-transformers."""
    task = columns.task
    if isinstance(task, SentenceTask):
        labels = task.labels(data.train, columns.label, start.config)
        return task.training_rows(data.train, columns.inputs, labels), data.validation
    train = encode_examples(data.train, columns, start.config, start.processing_class, inputs, "train")
    if data.validation is None:
        return train, None
    validation = encode_examples(data.validation, columns, start.config, start.processing_class, inputs, "validation")
    return train, validation


def _fixed(
    base_model: str | os.PathLike[str],
    data: TrainingData,
    columns: Columns,
    options: SweepOptions,
    metric: Metric,
    settings: SweepSettings,
) -> dict[str, Any]:
    """The values in `sweep.json` that all runs of a folder have to share."""
    validation = None
    if data.validation is not None:
        validation = hash_content(data.validation).fingerprint
    return {
        "base_model": base_identity(base_model),
        "task": columns.task_name,
        "train": hash_content(data.train).fingerprint,
        "validation": validation,
        "label_column": columns.label,
        "classes": columns.classes,
        "text_columns": columns.text_columns,
        "columns": columns.inputs,
        "head": options.head,
        "init_seed": options.init_seed,
        "probe_args": settings.probe,
        "keep": options.keep,
        "metric": metric.name,
        "higher_is_better": is_better_higher(metric.higher_is_better),
        SHARED: settings.shared,
    }


def _still_shared(shared: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The shared settings, without those that have become settings of each run since the sweep began."""
    return {name: value for name, value in shared.items() if name in manifest["fixed"][SHARED]}


def _about(
    base_model: str | os.PathLike[str], commit: str | None, data: TrainingData, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Base model and data, as named in `run.json` and in the card of each run, without paths of this machine."""
    # only models on the Hub have a commit; of a folder, only its name may be published
    base_name = str(base_model) if commit else Path(base_model).name
    path = data.path if hub.is_hub_id(data.path) else None
    validation = None
    if data.validation is not None:
        validation = {"fingerprint": fixed["validation"], "rows": len(data.validation)}
    return {
        "base_model": base_name,
        "base_commit": commit,
        "data": {
            "path": path,
            "train": {"fingerprint": fixed["train"], "rows": len(data.train)},
            "validation": validation,
        },
    }


def _done_runs(folder: Path, names: Iterable[str]) -> frozenset[str]:
    """The runs that are complete, or whose failure would be the same again."""
    done = set()
    for name in names:
        failure = load_failure(folder / name)
        if (failure is not None and failure.is_final) or load_runs(folder / name):
            done.add(name)
    return frozenset(done)
