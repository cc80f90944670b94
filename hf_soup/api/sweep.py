"""`sweep`: loads the data, plans the runs and trains them. `training/` defines what a run is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from ..checkpoints.targets import refuse_folder
from ..data.splits import VALIDATION, Source, TrainingData, load_training_data
from ..options import SweepOptions, called_with, check_choices
from ..parallel import check_executor, gpus
from ..training.folds import with_folds
from ..training.planning import SweepPlan, add_runs, plan_sweep
from ..training.publish import publisher_for
from ..training.refinement import read_refinement, settings_around_best
from ..training.running import run_plan
from ..training.sweep import Sweep


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from ..metrics.load import Given


@dataclass(frozen=True)
class SweepArguments(SweepOptions):
    """Arguments of [`sweep`]: its options, and values that a cook file has outside of its `sweep` section.

    Data is a [`Source`] if it comes from the command line, and [`TrainingData`] if a cook file has loaded it.
    """

    base_model: str | os.PathLike[str]
    dataset: Dataset | DatasetDict | Source | TrainingData | str
    _: KW_ONLY
    output_dir: str | os.PathLike[str]
    task: str = "auto"
    validation: Dataset | Source | str | None = None
    metric: Given | None = None
    higher_is_better: bool | None = None
    label_column: str | None = None
    text_columns: Sequence[str] | None = None
    callbacks: Sequence[Any] | None = None


@called_with(SweepArguments)
def sweep(arguments: SweepArguments) -> Sweep:
    """Fine-tune one model several times from the same initial head, so that the runs can be averaged.

    Every run is a `transformers.Trainer` run in its own folder. When the function is called again, complete runs are
    not repeated, an interrupted run resumes from its newest checkpoint, and a larger space adds runs. Under
    `accelerate launch` each run is trained by all processes.

    Args:
        base_model (`str` or `os.PathLike`):
            Model to fine-tune: a Hub id (`@revision` allowed) or a folder, with a tokenizer or image processor.
        dataset (`datasets.Dataset`, `datasets.DatasetDict` or `str`):
            Training examples; or a folder, a Hub id or a `DatasetDict`, whose `train` split is used.
        space (`Mapping[str, Any]` or `Sequence[Mapping]`, *optional*):
            Settings of the runs: a grid (`{"learning_rate": [1e-5, 3e-5], "seed": range(3)}`), a list of settings, or
            distributions with `n_runs` (`{"learning_rate": {"loguniform": [1e-5, 1e-3]}}`, `choice`, `integers`,
            `uniform`). By default four learning rates (2e-5, 5e-5, 1e-4 and 2e-4), refined by four more runs. Any
            field of `TrainingArguments` may vary. Further settings are `optimizer` (`"adamw"`, `"adam"`, `"sgd"` with
            `momentum`, `"adafactor"`), `layer_decay`, `bagging_fraction`, `augment` (such as `{"crop": 0.2, "flip":
            0.5}` for images or `{"mask": 0.15}` for texts), `average` (the average of a run's weights that is
            evaluated and saved, such as `{"last": 3}` or `{"ema": 0.99}`, as for
            [`hf_soup.callbacks.AverageWeights`]), `early_stopping_patience` (number of evaluations without improvement
            after which a run stops) with `early_stopping_threshold` (the smallest change that counts as improvement),
            and `class_weights` (`"balanced"`, a mapping of classes to weights, or a list in the order of the model's
            classes). Shorter names: `epochs`, `batch_size`, `scheduler`, `warmup`, `label_smoothing`.
        output_dir (`str` or `os.PathLike`):
            Folder in which the runs are saved.
        task (`str`, *optional*, defaults to `"auto"`):
            Task of the models, such as `"text-classification"`; by default inferred from the columns of the data.
        validation (`datasets.Dataset` or `str`, *optional*):
            Examples on which runs are scored. By default the `validation` split of `dataset`; if there is none, a
            tenth of the training examples is held out, stratified by the label, with a warning.
        metric (`str`, `Callable` or `evaluate.EvaluationModule`, *optional*):
            Metric that determines the best checkpoint and run; by default that of the task. A function takes a
            `transformers.EvalPrediction` and returns a number, or a dict with one number or with one of its own name.
            Training on several GPUs needs a function that can be pickled.
        higher_is_better (`bool`, *optional*):
            Direction of the metric. Those of built-in metrics are known; of others, higher values are better by
            default.
        n_runs (`int`, *optional*):
            Number of settings drawn from the space; by default the whole grid is used.
        refine (`int` or `Mapping`, *optional*):
            Number of further runs around the best settings: after the runs of the space, the settings with the best
            mean score are trained with so many new seeds, because ingredients of like quality average better. A
            mapping (`{"runs": 4, "learning_rate": 1.5, "bagging_fraction": 0.9}`) also varies the learning rate by up
            to this factor in both directions, and trains each further run on a random part of the examples. With
            `"halving": True` the runs of the space are stopped after a quarter and after half of their training if
            they are in the lower half of the runs that have come as far (successive halving).
        folds (`int`, *optional*):
            Number of folds of the training and validation examples together: each run is trained on all but one fold
            and scored on that one, and the runs of one setting leave out one fold after the other. The soup of several
            folds has seen all data, and no data is left to choose by: merge the runs of the best settings,
            `merge(sweep.best_settings())`.
        seed (`int`, *optional*, defaults to 0):
            Random seed for drawing settings and for holding out a validation split.
        head (`str`, *optional*, defaults to `"auto"`):
            Initial head that all runs share: `"checkpoint"`, the head of the base model; `"new"`, a randomly
            initialised head; `"probe"`, a new head that is first trained with the body frozen; `"auto"`, the head of
            the base model if it has the same labels, and a new one otherwise. `"independent"` initialises a different
            head for each run, for experiments only: averages of such runs are rarely good.
        init_seed (`int`, *optional*, defaults to 0):
            Random seed of a new head. The `seed` of a run only affects data order, dropout, augmentation and the
            subset of examples.
        probe_args (`Mapping`, *optional*):
            Settings of the training of a `"probe"` head, which take precedence over `training_args`; by default five
            epochs at a learning rate of 1e-3.
        keep (`str`, *optional*, defaults to `"best"`):
            Checkpoints of each run to keep: `"best"` by the metric among all evaluations (each epoch, or
            `eval_steps`), `"last"`, or `"all"`, so that intermediate checkpoints can be ingredients too.
        training_args (`Mapping`, *optional*):
            Settings that all runs share, with the names of `space`, and `max_length`, the number of tokens at which
            texts are truncated. `max_length` is saved with the tokenizer, so that evaluation truncates texts in the
            same way.
        peft (`Mapping`, *optional*):
            Settings of LoRA (PEFT's `LoraConfig`, such as `{"r": 8, "lora_alpha": 16, "target_modules":
            "all-linear"}`), to train an adapter instead of all weights, with the head. All runs start from the same
            factors; `"init_seed"` (0 by default) draws others. In `space` a part is called `"peft.r"`, and
            `"peft"` a list of such mappings.
        label_column (`str`, *optional*):
            Name of the label column; by default `label` or `labels`.
        text_columns (`Sequence[str]`, *optional*):
            Names of the text columns; by default those with well-known names (`text`; `premise` and `hypothesis`;
            ...), or else the only column of strings that contains neither ids nor the label.
        on_error (`str`, *optional*, defaults to `"continue"`):
            Handling of a run that fails (an exception, a NaN loss, out of memory): `"continue"` records it and trains
            the others, `"raise"` stops.
        executor (`str`, *optional*, defaults to `"local"`):
            Where runs are trained: `"local"`, one at a time or one on each visible GPU; `"ray"`, on the Ray cluster
            that `RAY_ADDRESS` names, or else on one that is started on this machine; `"jobs"`, each in a Hugging Face
            Job of its own, which needs `push_runs`.
        resources (`Mapping[str, float | str]`, *optional*):
            Resources that a run needs on a Ray cluster: `num_cpus` (1 by default) and `num_gpus` (by default 1 if the
            cluster has GPUs); or the settings of its job, as for [`merge`].
        push_runs (`bool` or `str`, *optional*, defaults to `False`):
            Whether each run is pushed to its own repository on the Hub, so that workers need no shared storage. `True`
            names the repositories `you/FOLDER-run-0` and so on; a string is used as another prefix.
        private (`bool`, *optional*):
            Whether these repositories are private.
        callbacks (`Sequence`, *optional*):
            Callbacks for the Trainer of each run: instances or classes of `transformers.TrainerCallback`, or functions
            without arguments that return one (each is called once in advance, to check its result). Every run has its
            own copy, so an instance that you pass does not collect anything itself. Training on several GPUs needs
            callbacks that can be pickled.

    Returns:
        [`Sweep`]: a sequence of runs that can be passed to [`merge`].

    Raises:
        [`RecipeError`]: if the space is empty or names a parameter that does not exist, a setting does not fit the
            task or the data, or a callback is not a `TrainerCallback`.
        [`TrainingError`]: if the folder holds runs with another base model, data or training arguments; if every run
            failed, or a run failed with `on_error="raise"`.
        [`OutputError`]: if `output_dir` cannot be written, or the disk is too small or full.
    """
    return train(_plan(arguments))


@called_with(SweepArguments)
def plan_runs(arguments: SweepArguments) -> SweepPlan:
    """Show what [`sweep`] would do with the same arguments: `.table()` lists the runs, their steps and disk space.

    Returns:
        [`SweepPlan`]: the plan; everything is checked, and nothing is written.

    Raises:
        [`SoupError`]: for the same reasons as [`sweep`].
    """
    return _plan(arguments)


def _plan(arguments: SweepArguments) -> SweepPlan:
    """Set up a sweep; Python, cook files and the command line all use this function."""
    refuse_folder(arguments.output_dir)  # before data is loaded
    check_choices(arguments)
    check_executor(arguments.executor, arguments.resources)
    return plan_sweep(
        arguments.base_model,
        _load_data(arguments),
        arguments,
        output_dir=arguments.output_dir,
        task=arguments.task,
        metric=arguments.metric,
        higher_is_better=arguments.higher_is_better,
        label_column=arguments.label_column,
        text_columns=arguments.text_columns,
        callbacks=arguments.callbacks,
        workers=0 if arguments.executor == "jobs" else _count_workers(),
    )


def _load_data(arguments: SweepArguments) -> TrainingData:
    dataset, validation = arguments.dataset, arguments.validation
    if isinstance(dataset, TrainingData):
        return dataset
    if validation is None:
        validation = VALIDATION
    elif not isinstance(validation, Source):
        validation = Source(validation, split=VALIDATION)
    return load_training_data(
        dataset if isinstance(dataset, Source) else Source(dataset),
        validation,
        label_column=arguments.label_column,
        seed=arguments.seed,
    )


def _count_workers() -> int:
    """Number of runs trained at once on this machine: one for each GPU, or one on the CPU."""
    return max(len(gpus()), 1)


def train(plan: SweepPlan) -> Sweep:
    """Train the runs of a plan.

    Args:
        plan ([`SweepPlan`]):
            A plan made by [`plan_runs`].

    Returns:
        [`Sweep`]

    Raises:
        [`SoupError`]: for the same reasons as [`sweep`].
    """
    options, context = plan.options, plan.context
    publisher = publisher_for(
        options.push_runs,
        context.folder,
        private=options.private,
        about=context.about,
        base_card=context.base_card,
    )
    sweep = run_plan(plan, publisher=publisher)
    refinement = read_refinement(options.refine_or_default)
    if refinement is None:
        return sweep
    complete = [run for run in sweep if not run.is_intermediate]
    shared = context.training_args
    seeds = [own["seed"] for own in plan.runs.values() if "seed" in own]  # those of stopped and failed runs too
    further = settings_around_best(complete, shared, refinement, seed=options.seed, seeds=seeds)
    if options.folds is not None:
        existing = [{**shared, **own} for own in plan.runs.values()]
        further = with_folds(further, options.folds, shared=shared, existing=existing)
    return run_plan(add_runs(plan, further), publisher=publisher)
