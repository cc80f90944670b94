"""A sweep: one start, many runs. Runs that are whole are not repeated; a new space adds runs beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checkpoints.memory import quiet_transformers
from ..checkpoints.writer import staged_folder
from ..data import LABEL_COLUMNS, UNSCORED, hash_rows, is_list, is_text
from ..errors import TrainingError
from ..lookup import load_module
from ..metrics import Metric, load_metrics
from ..outputs import Predictions
from .run import Bench, Run, check_settings, load_run, train_run, write_json
from .space import expand_space


if TYPE_CHECKING:
    from types import ModuleType

    from datasets import Dataset
    from transformers import PreTrainedModel

SWEEP_FILE = "sweep.json"
START = "start"


@dataclass(frozen=True)
class Sweep(Sequence[Run]):
    """Runs that share their start; a sequence that [`merge`] takes as it is.

    Args:
        base_model (`Path`):
            What all runs started from, head included.
        runs (`tuple[Run, ...]`):
            In the order of the space.
    """

    base_model: Path
    runs: tuple[Run, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


def load_sweep(folder: str | os.PathLike) -> Sweep:
    """The whole runs of a sweep's folder.

    Args:
        folder (`str` or `os.PathLike`):
            The `output_dir` of [`sweep`].

    Returns:
        [`Sweep`]

    Raises:
        [`TrainingError`]: if it is no folder of a sweep.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest is None:
        raise TrainingError(f"{folder} is no folder of a sweep: it has no {SWEEP_FILE}.")
    return Sweep(folder / START, tuple(filter(None, (load_run(folder / name) for name in manifest["runs"]))))


def run_sweep(
    base_model: str | os.PathLike,
    train: Dataset,
    *,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    output_dir: str | os.PathLike,
    task: str = "auto",
    validation: Dataset | None = None,
    metric: str | None = None,
    n_runs: int | None = None,
    seed: int = 0,
    head_seed: int = 0,
    training_args: Mapping[str, Any],
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
) -> Sweep:
    """What [`hf_soup.sweep`] does, on data sets that are loaded; the arguments are described there."""
    folder = Path(output_dir).resolve()
    module = load_module("task", task if task != "auto" else guess_task(train))
    settings = expand_space(space, n_runs=n_runs, seed=seed)
    for setting in settings:
        check_settings({**training_args, **setting}, module)
    (chosen,) = load_metrics(metric or module.METRIC)
    label = module.label_column(train, label_column)
    head = module.head(train, label)
    encoders = {
        name: _encoder(module, data, label, text_columns, head)
        for name, data in {"train": train, "validation": validation}.items()
        if data is not None
    }
    start = folder / START
    base_name, _, revision = (str(base_model), "", "") if os.path.isdir(base_model) else str(base_model).partition("@")
    source = (str(start), None) if start.is_dir() else (base_name, revision or None)
    processing_class = module.load_processing_class(*source)
    fixed = {
        "base_model": _base_identity(base_model),
        "task": module.__name__.split(".")[-1].replace("_", "-"),
        "train": hash_rows(train).fingerprint,
        "validation": hash_rows(validation).fingerprint if validation is not None else None,
        "label_column": label,
        "classes": list(head["label2id"]) if "label2id" in head else None,
        "text_columns": text_columns,
        "head_seed": head_seed,
        "training_args": dict(training_args),
    }
    manifest, run_names = _manifest(folder, fixed, settings)
    model = None if start.is_dir() else _initialise(base_name, revision or None, module, head, head_seed)
    if model is not None and head and getattr(model.config, "pad_token_id", 0) is None:  # batches need one
        pad = getattr(processing_class, "pad_token_id", None)
        model.config.pad_token_id = getattr(processing_class, "eos_token_id", None) if pad is None else pad
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SWEEP_FILE, manifest)
    if model is not None:
        with quiet_transformers(), staged_folder(start) as stage:
            model.save_pretrained(stage)
            processing_class.save_pretrained(stage)
    plain = encoders["train"](processing_class, {})
    bench = Bench(
        task=module,
        start=start,
        processing_class=processing_class,
        encode=lambda augment: encoders["train"](processing_class, augment) if augment else plain,
        validation=encoders["validation"](processing_class, {}) if validation is not None else None,
        compute_metrics=_compute_metrics(chosen, module.KIND),
        training_args=training_args,
    )
    runs: list[Run] = []
    with tqdm(run_names.items(), desc="Sweep", unit="run", leave=False) as bar:
        for name, setting in bar:
            bar.set_postfix_str(f"{name}: {', '.join(f'{key}={value}' for key, value in setting.items())}"[:80])
            run = load_run(folder / name)
            runs.append(run if run and run.params == setting else train_run(bench, setting, folder / name))
    return Sweep(start, tuple(runs))


def _base_identity(base_model: str | os.PathLike) -> str:
    """A Hub id as it is; a folder by the content of its weights, wherever it lies."""
    import xxhash

    if not os.path.isdir(base_model):
        return str(base_model)
    digest = xxhash.xxh3_128()
    for path in sorted(Path(base_model).glob("*")):
        if path.suffix in (".safetensors", ".bin"):
            digest.update(path.name.encode() + path.read_bytes())
    return "xxh3-128:" + digest.hexdigest()


def _manifest(
    folder: Path, fixed: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What `sweep.json` will hold, and each run's name: the one that its setting has already, or the next number."""
    fixed, settings = json.loads(json.dumps([fixed, settings], default=str))
    manifest = _read_manifest(folder)
    if manifest is None:
        strangers = [path.name for path in (*folder.glob(START), *folder.glob("run-*"))]
        if strangers:
            raise TrainingError(
                f"{folder} holds {strangers[0]} but no {SWEEP_FILE}: no sweep made it. Use another folder."
            )
        manifest = {"fixed": fixed, "runs": {}}
    changed = [key for key in fixed if manifest["fixed"].get(key) != fixed[key]]
    if changed:
        raise TrainingError(
            f"{folder} holds runs with another {', '.join(changed)} ({changed[0]} was "
            f"{manifest['fixed'].get(changed[0])!r} and is {fixed[changed[0]]!r} now). Use another output_dir, or "
            "delete that one."
        )
    known = {json.dumps(params, sort_keys=True): name for name, params in manifest["runs"].items()}
    result = {}
    for setting in settings:
        name = known.setdefault(json.dumps(setting, sort_keys=True), f"run-{len(known)}")
        manifest["runs"][name] = result[name] = setting
    return manifest, result


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TrainingError(f"{folder / SWEEP_FILE} cannot be read: {error}.") from None


def guess_task(train: Dataset) -> str:
    """Images are classified, and so are texts; words have classes of their own, and numbers are regressed to."""
    import datasets

    if any(isinstance(feature, datasets.Image) for feature in train.features.values()):
        return "image-classification"
    if any(is_text(train, column, listed=True) for column in train.column_names if column not in LABEL_COLUMNS):
        return "token-classification"
    label = next((column for column in LABEL_COLUMNS if column in train.column_names), None)
    if label is not None and is_list(train, label):
        return "multi-label-classification"
    floats = label is not None and str(getattr(train.features[label], "dtype", "")).startswith("float")
    return "regression" if floats else "text-classification"


def _encoder(
    task: ModuleType, data: Dataset, label: str | None, text_columns: Sequence[str] | None, head: Mapping[str, Any]
) -> Callable[[Any, Mapping[str, Any]], Dataset]:
    """A function of processing class and augmentation; columns and labels are checked at once."""
    columns, right = check_examples(task, data, label, text_columns, head)
    return lambda processing_class, augment: task.encode(data, processing_class, columns, right, dict(augment))


def check_examples(
    task: ModuleType, data: Dataset, label: str | None, text_columns: Sequence[str] | None, head: Mapping[str, Any]
) -> tuple[list[str], Any]:
    """The columns of the inputs and what is right for each row, as a model with this head counts it.

    Raises:
        [`DataError`]: if a column is missing, or a label is none that the head has.
    """
    from transformers import PretrainedConfig

    label = task.label_column(data, label)
    return task.columns(data, text_columns, label), task.labels(data, label, PretrainedConfig(**head))


def _compute_metrics(metric: Metric, kind: str) -> Callable[[Any], dict[str, float]] | None:
    """What Trainer calls after each evaluation; of language models it is told the loss alone."""
    import numpy as np

    if kind == "tokens":
        return None

    def compute(said: Any) -> dict[str, float]:
        labels = said.label_ids
        words = kind == "classes" and labels.ndim == 2
        scored = labels != UNSCORED if words or labels.ndim == 1 else np.ones(len(labels), dtype=bool)
        rows = np.nonzero(scored)[0]
        logits = said.predictions[0] if isinstance(said.predictions, tuple) else said.predictions  # others follow
        logits = logits[:, 0] if kind == "values" else logits
        return metric.compute(Predictions(logits[scored], labels[scored], rows, kind))

    return compute


def _initialise(
    base_model: str, revision: str | None, task: ModuleType, head: Mapping[str, Any], head_seed: int
) -> PreTrainedModel:
    """Load the base model; its head is initialised, once for all runs, if it has none that fits."""
    import transformers
    from safetensors import SafetensorError

    with quiet_transformers():
        transformers.set_seed(head_seed)
        try:
            return getattr(transformers, task.AUTO_CLASS).from_pretrained(
                base_model,
                revision=revision or "main",
                **head,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise TrainingError(f"{base_model} does not load as {task.AUTO_CLASS}: {error}") from None
