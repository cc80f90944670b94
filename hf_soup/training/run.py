"""One fine-tune: settings -> a folder. This file alone calls `transformers.Trainer`; nobody subclasses it."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..checkpoints.memory import quiet_transformers
from ..errors import RecipeError, TrainingError, did_you_mean
from ..types import Ingredient
from ..version import versions


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

RUN_FILE = "run.json"  # written last: a folder without it is no whole run
OURS = ("augment",)  # settings besides the fields of TrainingArguments
OUR_FIELDS = ("output_dir", "report_to", "push_to_hub")  # fields that a sweep sets itself


@dataclass(frozen=True)
class Run:
    """One fine-tune that is whole.

    Args:
        params (`Mapping[str, Any]`):
            What this run has of its own: learning rate, seed ...
        seed (`int`):
            Of data order and dropout.
        folder (`Path`):
            A checkpoint that loads with `from_pretrained`, with `run.json` and `trainer_state.json`.
        state (`Mapping[str, Any]`):
            What `run.json` holds: metrics, versions, seconds.
    """

    params: Mapping[str, Any]
    seed: int
    folder: Path
    state: Mapping[str, Any]

    def as_ingredient(self) -> Ingredient:
        """The reference that a soup takes."""
        return Ingredient(self.folder.name, str(self.folder))


@dataclass(frozen=True)
class Bench:
    """What all runs of a sweep share.

    Args:
        task (`ModuleType`):
            A file of `hf_soup.tasks`.
        start (`Path`):
            The folder that every run starts from.
        processing_class:
            Its tokenizer or image processor.
        encode (`Callable[[dict], Dataset]`):
            Augmentation -> training examples as model inputs.
        validation (`Dataset`, *optional*):
            Encoded as well.
        compute_metrics (`Callable`, *optional*):
            As Trainer takes it.
        training_args (`Mapping`):
            Shared fields of `TrainingArguments`.
    """

    task: ModuleType
    start: Path
    processing_class: Any
    encode: Callable[[dict[str, Any]], Dataset]
    validation: Dataset | None
    compute_metrics: Callable[[Any], dict[str, float]] | None
    training_args: Mapping[str, Any]


def check_settings(settings: Mapping[str, Any], task: ModuleType) -> None:
    """Refuse what neither `TrainingArguments` nor the task knows or takes, before anything is trained.

    Raises:
        [`RecipeError`]: with the nearest known name.
    """
    import dataclasses

    from transformers import TrainingArguments

    fields = {field.name for field in dataclasses.fields(TrainingArguments) if field.init} - set(OUR_FIELDS)
    for name in settings:
        if name in OUR_FIELDS:
            raise RecipeError(f'"{name}" is set by the sweep itself; leave it out.')
        if name not in fields | set(OURS):
            raise RecipeError(f'TrainingArguments has no field "{name}"{did_you_mean(name, fields | set(OURS))}'[:600])
    settings = dict(settings)
    task.check_augment(settings.pop("augment", None) or {})
    for field in dataclasses.fields(TrainingArguments):  # which checks the types of its values nowhere
        number = type(field.default) in (int, float) and field.name in settings
        if number and not isinstance(settings[field.name], (int, float)):
            raise RecipeError(f'"{field.name}" is a number, not {settings[field.name]!r}.')
    _arguments(Path("checked"), settings)  # which makes no folder


def load_run(folder: Path) -> Run | None:
    """The run in a folder, or `None` if it is not whole."""
    try:
        state = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Run(state["params"], state["seed"], folder, state)


def train_run(bench: Bench, params: Mapping[str, Any], folder: Path) -> Run:
    """Train one run from the shared start; what an interrupted one left in the folder is deleted.

    Args:
        bench ([`Bench`]):
            What all runs share.
        params (`Mapping[str, Any]`):
            What is this run's own.
        folder (`Path`):
            Where it goes.

    Returns:
        [`Run`]

    Raises:
        [`RecipeError`]: if `TrainingArguments` refuses a value.
        [`TrainingError`]: if the loss is no number at the end.
    """
    import transformers
    from transformers.trainer_callback import PrinterCallback

    shutil.rmtree(folder, ignore_errors=True)
    settings = {**bench.training_args, **params}
    augment = settings.pop("augment", None) or {}
    started = time.perf_counter()
    with quiet_transformers():
        args = _arguments(folder, settings)
        transformers.set_seed(args.seed)
        model = getattr(transformers, bench.task.AUTO_CLASS).from_pretrained(bench.start)
        trainer = transformers.Trainer(
            model=model,
            args=args,
            train_dataset=bench.encode(augment),
            eval_dataset=bench.validation,
            data_collator=bench.task.collator(bench.processing_class, model.config),
            processing_class=bench.processing_class,
            compute_metrics=bench.compute_metrics,
        )
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
        _refuse_divergence(folder.name, result.training_loss, model)
        metrics = trainer.evaluate() if bench.validation is not None else {}
        trainer.save_model(str(folder))
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs: run.json says it all
    state = {
        "params": dict(params),
        "seed": args.seed,
        "training_args": dict(bench.training_args),
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, (int, float))},
        "train_loss": result.training_loss,
        "steps": result.global_step,
        "seconds": round(time.perf_counter() - started, 2),
        "versions": versions(),
    }
    write_json(folder / RUN_FILE, state)
    return Run(dict(params), args.seed, folder, state)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a small file so that it is there whole or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(aside, path)


def _refuse_divergence(name: str, loss: float, model: PreTrainedModel) -> None:
    finite = math.isfinite(loss) and all(bool(weight.isfinite().all()) for weight in model.parameters())
    if not finite:
        raise TrainingError(f"{name} diverged: its loss is {loss} or a weight is not finite. Lower the learning rate.")


def _arguments(folder: Path, settings: Mapping[str, Any]) -> Any:
    import torch
    from transformers import TrainingArguments

    quiet = {
        "disable_tqdm": True,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
    }
    ours = {"remove_unused_columns": False, "dataloader_pin_memory": torch.cuda.is_available()}
    try:
        return TrainingArguments(output_dir=str(folder), **{**quiet, **ours, **settings})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TrainingArguments refuses {dict(settings)}: {error}") from None
