"""The settings of a run: fields of `TrainingArguments`, shorter names for some of them, and further settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RecipeError, did_you_mean
from ..evaluation.running import is_launched
from ..metrics.load import Metric
from ..seeds import check_seed
from ..tasks import SentenceTask
from ..types import is_better_higher
from ..untrusted import as_error, one_line
from .adapters import PEFT, check_peft, peft_settings
from .averages import average_of
from .optimizer import OPTIMIZERS
from .sentences import LOSS, arguments_class, check_sentence_settings


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..tasks import Task

SHORT = {
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "label_smoothing": "label_smoothing_factor",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
}
AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
WITHOUT_SMOOTHING = (
    "automatic-speech-recognition",
    "image-segmentation",
    "object-detection",
    "question-answering",
    "zero-shot-image-classification",
)
DECIDED = {  # fields that a sweep sets itself -> what to use instead
    "output_dir": "the sweep's own `output_dir` is for all runs",
    "push_to_hub": "write push_runs",
    "hub_token": "log in with `hf auth login`; no token goes into files",
    "hub_model_id": "write push_runs",
    "hub_strategy": "write push_runs",
    "resume_from_checkpoint": "interrupted runs are resumed automatically",
    "save_strategy": "checkpoints are saved at each evaluation: write keep, eval_strategy and eval_steps",
    "save_steps": "checkpoints are saved at each evaluation: write eval_steps",
    "save_total_limit": "write keep",
    "save_only_model": "write keep",
    "load_best_model_at_end": 'write keep="best"',
    "metric_for_best_model": "write the sweep's metric",
    "greater_is_better": "the metric defines it",
    "remove_unused_columns": "the task removes columns that are no inputs",
}


class Extra(NamedTuple):
    """Settings of a run that are not in `TrainingArguments`.

    Args:
        augment (`Mapping[str, float]`):
            Random changes of the inputs, with the largest strength of each.
        average (`Mapping[str, Any]`, *optional*):
            Average of the run's weights that is evaluated and saved, as for [`average_of`].
        bagging_fraction (`float`):
            Fraction of the training data that the run uses, drawn without replacement with its seed.
        class_weights (`str`, `Mapping[str, float]` or `Sequence[float]`, *optional*):
            Weights of classes in the loss, as for [`resolve_class_weights`].
        early_stopping_patience (`int`, *optional*):
            Number of evaluations without improvement after which the run stops.
        early_stopping_threshold (`float`, *optional*):
            Smallest change of the score that counts as improvement.
        fold (`int`, *optional*), folds (`int`, *optional*):
            Fold of the examples that the run is scored on, and the number of folds; a sweep sets both.
        layer_decay (`float`, *optional*):
            Factor by which the learning rate decreases from each layer to the one below it.
        loss (`str`, *optional*):
            Name of a loss of sentence-transformers, for the models of that library.
        max_length (`int`, *optional*):
            Number of tokens at which texts are truncated. All runs share it, because the data is encoded once.
        momentum (`float`, *optional*):
            Momentum of `sgd`.
        peft (`Mapping[str, Any]`, *optional*):
            Arguments of PEFT's `LoraConfig` for an adapter that is trained instead of all weights.
        optimizer (`str`, *optional*):
            Name of the optimizer, a key of `OPTIMIZERS`; by default `TrainingArguments.optim` is used.
    """

    augment: Mapping[str, float] = {}
    average: Mapping[str, Any] | None = None
    bagging_fraction: float = 1.0
    class_weights: str | Mapping[str, float] | Sequence[float] | None = None
    early_stopping_patience: int | None = None
    early_stopping_threshold: float | None = None
    fold: int | None = None
    folds: int | None = None
    layer_decay: float | None = None
    loss: str | None = None
    max_length: int | None = None
    momentum: float | None = None
    optimizer: str | None = None
    peft: Mapping[str, Any] | None = None


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the names of `TrainingArguments`.

    Raises:
        [`RecipeError`]: if a setting is given under both of its names.
    """
    renamed: dict[str, Any] = {}
    for short, value in settings.items():
        name = SHORT.get(short, short)
        if name in renamed:
            raise RecipeError(f'"{name}" is given twice, by its name and by a shorter name; leave one out.')
        if hasattr(value, "tolist"):  # numpy arrays, such as class weights
            value = value.tolist()
        renamed[name] = value
    return renamed


def separate(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Extra]:
    """Split settings into fields of `TrainingArguments` and others."""
    fields: dict[str, Any] = {}
    extra_settings: dict[str, Any] = {}
    for name, value in settings.items():
        if name == PEFT or name.startswith(f"{PEFT}."):
            continue
        if name not in Extra._fields:
            fields[name] = value
        elif value is not None:  # None stands for the default, as in `TrainingArguments`
            extra_settings[name] = value
    extra = Extra(**extra_settings, peft=peft_settings(settings))
    if extra.optimizer is not None:
        trainers_name = OPTIMIZERS.get(extra.optimizer)
        if trainers_name is not None:
            fields["optim"] = trainers_name
    return fields, extra


def check_settings(
    settings: Mapping[str, Any],
    task: Task,
    processing_class: Any,
    *,
    evaluates: bool,
    metric: Metric,
    stops_early: bool = False,
) -> None:
    """Raise an error for settings that neither `TrainingArguments` nor the task accepts, before anything is trained.

    Args:
        settings (`Mapping[str, Any]`):
            Settings of one run, including the shared ones.
        task ([`Task`]):
            A file of `hf_soup.tasks`.
        processing_class:
            The tokenizer or image processor.
        evaluates (`bool`):
            Whether there is validation data.
        metric ([`Metric`]):
            Metric that determines the best evaluation.
        stops_early (`bool`, *optional*, defaults to `False`):
            Whether a callback stops runs whose score no longer improves, as `early_stopping_patience` does.

    Raises:
        [`RecipeError`]: if a name is unknown, with the nearest known one, or a value is invalid.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments_class(task)) if field.init}
    known_names = {*fields, *Extra._fields, *SHORT} - set(DECIDED)
    for name, value in settings.items():
        if name.startswith(f"{PEFT}."):
            continue
        if name in DECIDED:
            raise RecipeError(f'"{name}" is set by the sweep itself: {DECIDED[name]}.')
        if name not in known_names:
            raise RecipeError(f'TrainingArguments has no field "{name}"{did_you_mean(name, known_names)}')
        _check_number(name, value)
        # TrainingArguments does not check the types of values
        wants_number = name in fields and type(fields[name].default) in (int, float)
        if wants_number and not isinstance(value, (int, float)):
            raise RecipeError(f'"{name}" is a number, not {value!r}.')
    _check_extra(settings)
    if isinstance(task, SentenceTask):
        check_sentence_settings(settings, task)
    elif settings.get(LOSS) is not None:
        raise RecipeError(f'"{LOSS}" is for models of sentence-transformers; others compute their own.')
    if settings.get("label_smoothing_factor") and task.PIPELINE in WITHOUT_SMOOTHING:
        raise RecipeError(f'"label_smoothing" is not for {task.PIPELINE}, whose models compute their loss themselves.')
    _check_early_stopping(settings, stops_early)
    plain, extra = separate(settings)
    task.check_augment(extra.augment, processing_class)
    training_arguments(
        Path("checked"),  # not created
        plain,
        arguments_class(task),
        metric=metric,
        evaluates=evaluates,
        stops_early=stops_early or extra.early_stopping_patience is not None,
    )


def _check_number(name: str, value: Any) -> None:
    """Raise an error for seeds, counts and epochs that are out of range."""
    if name == "seed" or (name == "data_seed" and value is not None):
        check_seed(value, f'"{name}"')
    if name in AT_LEAST_ONE and not (isinstance(value, int) and value >= 1):
        raise RecipeError(f'"{name}" is a whole number from 1, not {value!r}.')
    if name == "num_train_epochs" and isinstance(value, (int, float)) and value <= 0:
        raise RecipeError(f'"{name}" is a number above 0, not {value!r}.')


def _check_extra(settings: Mapping[str, Any]) -> None:
    """Raise an error for invalid values of settings that are not in `TrainingArguments`."""
    for name in ("bagging_fraction", "layer_decay", "momentum"):
        if settings.get(name) is not None:
            _check_fraction(name, settings[name])
    _check_optimizer(settings)
    check_peft(settings)
    if settings.get("average") is not None:
        average_of(settings["average"])  # made without use, so that a wrong one fails here
    if not isinstance(settings.get("augment") or {}, Mapping):
        raise RecipeError(f'"augment" is a mapping of names to strengths, not {settings["augment"]!r}.')


def _check_fraction(name: str, value: Any) -> None:
    """Raise an error for a value that is not a fraction; only momentum may be 0."""
    takes_zero = name == "momentum"
    is_fraction = isinstance(value, (int, float)) and 0 <= value <= 1
    if is_fraction and (value > 0 or takes_zero):
        return
    range_ = "from 0 to 1" if takes_zero else "above 0, at most 1"
    raise RecipeError(f'"{name}" is a number {range_}, not {value!r}.')


def _check_optimizer(settings: Mapping[str, Any]) -> None:
    """Raise an error for an unknown optimizer, for two of them, and for momentum with an optimizer that has none."""
    optimizer = settings.get("optimizer")
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise RecipeError(
            f'there is no optimizer "{optimizer}"{did_you_mean(optimizer, OPTIMIZERS)}; `optim` has those of Trainer.'
        )
    if optimizer is not None and "optim" in settings:
        raise RecipeError('give either "optimizer" or "optim", and not both.')
    if settings.get("momentum") is not None and optimizer != "sgd":
        raise RecipeError('"momentum" can only be used with the optimizer "sgd".')


def _check_early_stopping(settings: Mapping[str, Any], by_callback: bool) -> None:
    """Raise an error for invalid values of early stopping, or if it is configured in two ways."""
    patience = settings.get("early_stopping_patience")
    threshold = settings.get("early_stopping_threshold")
    if patience is not None and not (is_number(patience, int) and patience >= 1):
        raise RecipeError(f'"early_stopping_patience" is a whole number from 1, not {patience!r}.')
    if threshold is not None and not (is_number(threshold, int, float) and 0 <= threshold < math.inf):
        raise RecipeError(f'"early_stopping_threshold" is a number from 0, not {threshold!r}.')
    if threshold is not None and patience is None:
        raise RecipeError('"early_stopping_threshold" can only be used with "early_stopping_patience".')
    if patience is not None and by_callback:
        raise RecipeError('give either "early_stopping_patience" or an EarlyStoppingCallback, and not both.')


def is_number(value: Any, *types: type) -> bool:
    """Whether a value has one of these types; `True` does not count as a number, although it is one in Python."""
    return isinstance(value, types) and not isinstance(value, bool)


def training_arguments(
    folder: Path,
    fields: Mapping[str, Any],
    class_: type[TrainingArguments],
    *,
    metric: Metric,
    keep: str = "last",
    evaluates: bool = False,
    saves: bool = True,
    stops_early: bool = False,
) -> TrainingArguments:
    """`TrainingArguments` for one run.

    Args:
        folder (`Path`):
            Folder of the run.
        fields (`Mapping[str, Any]`):
            Fields that the user has set.
        class_ (`type`):
            Class of the arguments, as [`arguments_class`] returns it.
        metric ([`Metric`]):
            Metric that determines the best evaluation, by its name in Trainer's logs.
        keep (`str`, *optional*, defaults to `"last"`):
            `"best"`, `"last"` or `"all"`.
        evaluates (`bool`, *optional*, defaults to `False`):
            Whether there is validation data.
        saves (`bool`, *optional*, defaults to `True`):
            Whether checkpoints are saved, from which training can be resumed.
        stops_early (`bool`, *optional*, defaults to `False`):
            Whether the run stops when its score no longer improves, for which Trainer has to track the best score.

    Raises:
        [`RecipeError`]: if transformers rejects a value, or an option needs evaluations and there are none.
    """
    import torch

    defaults = {
        "logging_strategy": _strategy(fields, "logging_steps"),
        "logging_nan_inf_filter": False,  # the filter hides NaN losses, and so divergence
        "report_to": "none",
        "eval_strategy": _strategy(fields, "eval_steps"),
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has waited
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": is_launched() and not torch.accelerator.is_available(),  # else each process would train by itself
    }
    arguments = {**defaults, **fields}
    arguments["disable_tqdm"] = True  # hf_soup has its own progress bar
    arguments["remove_unused_columns"] = False  # the task has done it
    if not evaluates:
        arguments["eval_strategy"] = "no"
    _check_evaluations(arguments["eval_strategy"], keep=keep, evaluates=evaluates, stops_early=stops_early)
    arguments.update(_saving(arguments, keep=keep, saves=saves))
    if keep == "best" or stops_early:
        # not load_best_model_at_end: it loads nothing if names on disk differ from those in memory (ViT, Mixtral)
        arguments["metric_for_best_model"] = metric.name
        arguments["greater_is_better"] = is_better_higher(metric.higher_is_better)
    with as_error(RecipeError, f"TrainingArguments refuses {one_line(dict(fields))}"):
        args = class_(output_dir=str(folder), **arguments)
    if args.n_gpu > 1:  # a run has one GPU: Trainer would share each batch among all, and make it larger
        args._n_gpu = 1
    return args


def _strategy(fields: Mapping[str, Any], steps: str) -> str:
    """Trainer's name of the strategy: after a number of steps if that is given, or else after each epoch."""
    return "steps" if steps in fields else "epoch"


def _saving(arguments: Mapping[str, Any], *, keep: str, saves: bool) -> dict[str, Any]:
    """Arguments that make Trainer save at each evaluation, or else at the end of each epoch."""
    strategy = arguments["eval_strategy"]
    if strategy == "no":
        strategy = "epoch"
    saving: dict[str, Any] = {"save_strategy": strategy if saves else "no"}
    if strategy == "steps":
        # like Trainer's evaluations, which use logging_steps (500 by default) if there are no eval_steps
        saving["save_steps"] = arguments.get("eval_steps") or arguments.get("logging_steps", 500)
    saving["save_total_limit"] = None if keep == "all" else 2  # with 1, Trainer deletes all but the best at the end
    return saving


def _check_evaluations(strategy: Any, *, keep: str, evaluates: bool, stops_early: bool) -> None:
    """Raise an error for options that need evaluations if there are none."""
    if keep == "best" and strategy == "no":
        raise RecipeError('keep="best" needs evaluations: leave eval_strategy out, or write keep="last".')
    if stops_early and not evaluates:
        raise RecipeError("early stopping needs validation data: it uses the score of each evaluation.")
    if stops_early and strategy == "no":
        raise RecipeError("early stopping needs evaluations: leave eval_strategy out.")
