"""The verb `sweep`: loads the data, plans, trains. What a run is, and how, is told in `training/`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .checkpoints.targets import refuse_folder
from .data.load import load_data
from .data.splits import load_training
from .errors import RecipeError, did_you_mean
from .parallel import check_executor, gpus
from .training.planning import ON_ERROR, SweepPlan, plan_sweep
from .training.publish import publisher_for
from .training.sweep import Sweep, run_plan


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def sweep(
    base_model: str | os.PathLike,
    dataset: Dataset | DatasetDict | str,
    *,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    output_dir: str | os.PathLike,
    task: str = "auto",
    validation: Dataset | str | None = None,
    metric: str | None = None,
    n_runs: int | None = None,
    seed: int = 0,
    head: str = "auto",
    init_seed: int = 0,
    probe_args: Mapping[str, Any] | None = None,
    keep: str = "best",
    training_args: Mapping[str, Any] | None = None,
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    on_error: str = "continue",
    executor: str = "local",
    resources: Mapping[str, float] | None = None,
    push_runs: bool | str = False,
    private: bool | None = None,
    callbacks: Sequence[Any] | None = None,
) -> Sweep:
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
    check_executor(executor)
    plan = plan_runs(
        base_model,
        dataset,
        space=space,
        output_dir=output_dir,
        task=task,
        validation=validation,
        metric=metric,
        n_runs=n_runs,
        seed=seed,
        head=head,
        init_seed=init_seed,
        probe_args=probe_args,
        keep=keep,
        training_args=training_args,
        label_column=label_column,
        text_columns=text_columns,
        callbacks=callbacks,
    )
    return train(plan, on_error=on_error, executor=executor, resources=resources, push_runs=push_runs, private=private)


def plan_runs(
    base_model: str | os.PathLike,
    dataset: Dataset | DatasetDict | str,
    *,
    output_dir: str | os.PathLike,
    validation: Dataset | str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    **options: Any,
) -> SweepPlan:
    """What [`sweep`] would do with the same arguments: `.table()` says which runs, how many steps, how much disk.

    Args:
        base_model (`str` or `os.PathLike`), dataset (`datasets.Dataset` or `str`):
            As of [`sweep`].
        output_dir (`str` or `os.PathLike`):
            As of [`sweep`].
        validation (`datasets.Dataset` or `str`, *optional*), label_column (`str`, *optional*), seed (`int`):
            As of [`sweep`].
        options:
            As of [`sweep`], but for those that say where and how runs are trained.

    Returns:
        [`SweepPlan`]: everything is checked, and nothing has been written.

    Raises:
        [`SoupError`]: as [`sweep`].
    """
    refuse_folder(output_dir)  # before data is loaded
    options.setdefault("path", dataset if isinstance(dataset, str) else None)
    if validation is None:
        train, validation = load_training(dataset, label_column=label_column, seed=seed)
    else:
        train, validation = load_data(dataset, split="train"), load_data(validation, split="validation")
    given = {"validation": validation, "label_column": label_column, "seed": seed, "workers": max(len(gpus()), 1)}
    return plan_sweep(base_model, train, output_dir=output_dir, **given, **options)


def train(
    plan: SweepPlan,
    *,
    on_error: str = "continue",
    executor: str = "local",
    resources: Mapping[str, float] | None = None,
    push_runs: bool | str = False,
    private: bool | None = None,
) -> Sweep:
    """Train what a plan says; the other arguments are those of [`sweep`].

    Args:
        plan ([`SweepPlan`]):
            Of [`plan_runs`].

    Returns:
        [`Sweep`]

    Raises:
        [`SoupError`]: as [`sweep`].
    """
    if on_error not in ON_ERROR:
        raise RecipeError(f"on_error is one of {', '.join(ON_ERROR)}{did_you_mean(on_error, ON_ERROR)}")
    check_executor(executor)
    context = plan.context
    publisher = publisher_for(
        push_runs, context.folder, private=private, about=context.about, base_card=context.base_card
    )
    return run_plan(plan, executor=executor, resources=resources, on_error=on_error, publisher=publisher)
