"""The verb `sweep`: loads the data, plans, trains. What a run is, and how, is told in `training/`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from ..checkpoints.targets import refuse_folder
from ..data.splits import VALIDATION, Source, TrainingData, load_training_data
from ..options import SweepOptions, called_with, check_choices
from ..parallel import check_executor, gpus
from ..training.planning import SweepPlan, plan_sweep
from ..training.publish import publisher_for
from ..training.running import run_plan
from ..training.sweep import Sweep


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class SweepArguments(SweepOptions):
    """What [`sweep`] is called with: its options, and what a cook file says elsewhere than in its `sweep` section.

    The command line names data as a [`Source`], and a cook file has loaded it before, as [`TrainingData`].
    """

    base_model: str | os.PathLike[str]
    dataset: Dataset | DatasetDict | Source | TrainingData | str
    _: KW_ONLY
    output_dir: str | os.PathLike[str]
    task: str = "auto"
    validation: Dataset | Source | str | None = None
    metric: str | None = None
    label_column: str | None = None
    text_columns: Sequence[str] | None = None
    callbacks: Sequence[Any] | None = None


@called_with(SweepArguments)
def sweep(arguments: SweepArguments) -> Sweep:
    """Fine-tune one model several times, from one initial head, so that the runs can be averaged.

    Every run is a `transformers.Trainer` run in a folder of its own. Called again, whole runs are not repeated, one
    that was interrupted goes on from its newest checkpoint, and a larger space adds runs. Under `accelerate launch`
    each run is trained by all processes.

    Args:
        base_model (`str` or `os.PathLike`):
            A Hub id (`@revision` allowed) or folder with a tokenizer or image processor.
        dataset (`datasets.Dataset`, `datasets.DatasetDict` or `str`):
            The training examples; or a folder, a Hub id or several sets, whose `train` split they are.
        space (`Mapping[str, Any]` or `Sequence[Mapping]`):
            A grid (`{"learning_rate": [1e-5, 3e-5], "seed": range(3)}`), a list of settings, or distributions with
            `n_runs` (`{"learning_rate": {"loguniform": [1e-5, 1e-3]}}`, `choice`, `integers`, `uniform`). Any field of
            `TrainingArguments` may vary, and besides them `optimizer` (`"adamw"`, `"adam"`, `"sgd"` with `momentum`,
            `"adafactor"`), `layer_decay`, `bagging_fraction` and `augment` (`{"crop": 0.2, "flip": 0.5}` and others
            for images, `{"mask": 0.15}` for texts), `early_stopping_patience` (number of evaluations without a better
            score after which a run stops) with `early_stopping_threshold` (how much better it has to be), and
            `class_weights` (`"balanced"`, a mapping of classes to weights, or a list in the order of the model's
            classes). Shorter names: `epochs`, `batch_size`, `scheduler`, `warmup`, `label_smoothing`.
        output_dir (`str` or `os.PathLike`):
            Where the runs go.
        task (`str`, *optional*, defaults to `"auto"`):
            Such as `"text-classification"`; by default by the columns of the data.
        validation (`datasets.Dataset` or `str`, *optional*):
            Examples that runs are scored on. By default the `validation` split of `dataset`; if it has none, a tenth
            of the training examples is kept apart, stratified by the label, and a warning says so.
        metric (`str`, *optional*):
            What tells the best; the task's own by default.
        n_runs (`int`, *optional*):
            Draw as many settings from the space; the whole grid by default.
        seed (`int`, *optional*, defaults to 0):
            Of the drawing, and of a validation split that is kept apart.
        head (`str`, *optional*, defaults to `"auto"`):
            The one head that all runs start from: `"checkpoint"`, that of the base model; `"new"`, initialised once;
            `"probe"`, initialised once and trained first with the body frozen; `"auto"`, that of the base model where
            it is for the same labels, else a new one. `"independent"` gives each run another one, for experiments:
            their averages are rarely good.
        init_seed (`int`, *optional*, defaults to 0):
            Of a new head. A run's own `seed` is for data order, dropout, augmentation and subset only.
        probe_args (`Mapping`, *optional*):
            Settings of the probe, over `training_args`; by default five epochs at a learning rate of 1e-3.
        keep (`str`, *optional*, defaults to `"best"`):
            Which checkpoint of each run: `"best"` by the metric at each evaluation (each epoch, or `eval_steps`),
            `"last"`, or `"all"`, so that those on the way of a run are ingredients too.
        training_args (`Mapping`, *optional*):
            Settings that all runs share, as in `space`; here alone `max_length`, the number of tokens that texts are
            cut to. It is saved with the tokenizer, so that runs and soups are evaluated on texts that are cut alike.
        label_column (`str`, *optional*):
            By default `label` or `labels`.
        text_columns (`Sequence[str]`, *optional*):
            By default those with well-known names (`text`; `premise` and `hypothesis`; ...), else the only column of
            strings that is neither an id nor tells the label.
        on_error (`str`, *optional*, defaults to `"continue"`):
            A run that fails (an exception, a loss that is no number, no memory) is recorded, and the others go on;
            `"raise"` stops at the first.
        executor (`str`, *optional*, defaults to `"local"`):
            `"local"` trains one after the other, or one on each visible GPU; `"ray"` on a Ray cluster, the one that
            `RAY_ADDRESS` names or one that is started here.
        resources (`Mapping[str, float]`, *optional*):
            What a run takes of a Ray cluster: `num_cpus` (1 by default), `num_gpus` (1 where there are any).
        push_runs (`bool` or `str`, *optional*, defaults to `False`):
            Whether each run goes to a repository of its own on the Hub, so that workers need no shared storage: `True`
            calls them `you/FOLDER-run-0`, a string is another prefix.
        private (`bool`, *optional*):
            Whether these repositories are private.
        callbacks (`Sequence`, *optional*):
            Callbacks for the Trainer of each run: instances or classes of `transformers.TrainerCallback`, or functions
            without arguments that return one (each is called once before, to check what it returns). Every run has a
            copy of its own, so what an instance collects is not in the one that you passed. Several GPUs need
            callbacks that can be pickled.

    Returns:
        [`Sweep`]: a sequence of runs that [`merge`] takes as it is.

    Raises:
        [`RecipeError`]: if the space is empty or names a parameter that does not exist; if a setting does not fit the
            task or the data; if a callback is none.
        [`TrainingError`]: if the folder holds runs of another base model, data or training arguments; if every run
            failed, or one did and `on_error="raise"`.
        [`OutputError`]: if `output_dir` cannot be written, or the disk is too small or full.
    """
    check_executor(arguments.executor)
    return train(_plan(arguments))


@called_with(SweepArguments)
def plan_runs(arguments: SweepArguments) -> SweepPlan:
    """What [`sweep`] would do with the same arguments: `.table()` says which runs, how many steps, how much disk.

    Returns:
        [`SweepPlan`]: everything is checked, and nothing has been written.

    Raises:
        [`SoupError`]: as [`sweep`].
    """
    return _plan(arguments)


def _plan(arguments: SweepArguments) -> SweepPlan:
    """The one place in which a sweep is set up, whether it is called from Python, a cook file or the command line."""
    refuse_folder(arguments.output_dir)  # before data is loaded
    check_choices(arguments)
    return plan_sweep(
        arguments.base_model,
        _load_data(arguments),
        arguments,
        output_dir=arguments.output_dir,
        task=arguments.task,
        metric=arguments.metric,
        label_column=arguments.label_column,
        text_columns=arguments.text_columns,
        callbacks=arguments.callbacks,
        workers=_count_workers(),
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
    """How many runs are trained at once on this machine: one on each GPU, or one on the CPU."""
    return max(len(gpus()), 1)


def train(plan: SweepPlan) -> Sweep:
    """Train what a plan says.

    Args:
        plan ([`SweepPlan`]):
            Of [`plan_runs`].

    Returns:
        [`Sweep`]

    Raises:
        [`SoupError`]: as [`sweep`].
    """
    options, context = plan.options, plan.context
    check_executor(options.executor)
    publisher = publisher_for(
        options.push_runs,
        context.folder,
        private=options.private,
        about=context.about,
        base_card=context.base_card,
    )
    return run_plan(plan, publisher=publisher)
