"""A sweep: one start, many runs. Runs that are whole are not repeated; a new space adds runs beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checkpoints.memory import quiet_transformers
from ..checkpoints.writer import staged_folder
from ..data import hash_rows, label_column, label_ids, label_names
from ..errors import DataError, TrainingError
from ..lookup import load_module
from ..metrics import load_metric
from .run import Bench, Run, check_settings, load_run, train_run, write_json
from .space import expand_space


if TYPE_CHECKING:
    from types import ModuleType

    from datasets import Dataset

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
    settings = expand_space(space, n_runs=n_runs, seed=seed)
    for setting in settings:
        check_settings({**training_args, **setting})
    folder = Path(output_dir).resolve()
    module = load_module("task", task if task != "auto" else _guess_task(train))
    fixed = {
        "base_model": _base_identity(base_model),
        "task": module.__name__.split(".")[-1].replace("_", "-"),
        "train": hash_rows(train).fingerprint,
        "validation": hash_rows(validation).fingerprint if validation is not None else None,
        "head_seed": head_seed,
        "training_args": dict(training_args),
    }
    run_names = _register(folder, fixed, settings)
    start = folder / START
    if not start.is_dir():
        _make_start(base_model, train, start, module, head_seed, label_column)
    bench = _bench(module, start, train, validation, metric, training_args, label_column, text_columns)
    runs: list[Run] = []
    with tqdm(run_names.items(), desc="Sweep", unit="run", leave=False) as bar:
        for name, setting in bar:
            bar.set_postfix_str(f"{name}: {', '.join(f'{key}={value}' for key, value in setting.items())}"[:80])
            runs.append(load_run(folder / name) or train_run(bench, setting, folder / name))
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


def _register(
    folder: Path, fixed: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Give each setting its run's name: the one that it has already, or the next free number."""
    fixed, settings = json.loads(json.dumps([fixed, settings], default=str))
    manifest = _read_manifest(folder) or {"fixed": fixed, "runs": {}}
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
        key = json.dumps(setting, sort_keys=True)
        name = known.setdefault(key, f"run-{len(known)}")
        manifest["runs"][name] = result[name] = setting
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SWEEP_FILE, manifest)
    return result


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TrainingError(f"{folder / SWEEP_FILE} cannot be read: {error}.") from None


def _guess_task(train: Dataset) -> str:
    """Images are classified, and so are texts."""
    import datasets

    images = any(isinstance(feature, datasets.Image) for feature in train.features.values())
    return "image-classification" if images else "text-classification"


def _make_start(
    base_model: str | os.PathLike, train: Dataset, start: Path, task: ModuleType, head_seed: int, given: str | None
) -> None:
    """Load the base model, initialise its head once if it has none that fits, and save what all runs start from."""
    import transformers

    column = label_column(train, given)
    found = label_names(train, column)
    if found is None:
        values = train[column]
        if any(value is None for value in values):
            raise DataError(f'rows of the column "{column}" have no label.')
        found = [f"LABEL_{index}" for index in range(max(values) + 1)]
    if len(found) < 2:
        raise DataError(f'the column "{column}" has one class only; there is nothing to learn.')
    with quiet_transformers():
        processing_class = task.load_processing_class(str(base_model))
        transformers.set_seed(head_seed)
        try:
            model = getattr(transformers, task.AUTO_CLASS).from_pretrained(
                base_model,
                num_labels=len(found),
                id2label=dict(enumerate(found)),
                label2id={name: index for index, name in enumerate(found)},
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError) as error:
            raise TrainingError(f"{base_model} does not load as {task.AUTO_CLASS}: {error}") from None
        with staged_folder(start) as stage:
            model.save_pretrained(stage)
            processing_class.save_pretrained(stage)


def _bench(
    task: ModuleType,
    start: Path,
    train: Dataset,
    validation: Dataset | None,
    metric: str | None,
    training_args: Mapping[str, Any],
    given: str | None,
    text_columns: Sequence[str] | None,
) -> Bench:
    """Encode the data once for all runs."""
    from transformers import AutoConfig

    id2label = AutoConfig.from_pretrained(start).id2label
    processing_class = task.load_processing_class(str(start))
    name = metric or task.METRIC
    measure = load_metric(name)

    def encode(data: Dataset, augment: Mapping[str, Any] | None = None) -> Dataset:
        label = label_column(data, given)
        columns = task.columns(data, text_columns, label)
        return task.encode(data, processing_class, columns, label_ids(data, label, id2label), dict(augment or {}))

    def compute_metrics(outcome: Any) -> dict[str, float]:
        return measure.compute(predictions=outcome.predictions.argmax(axis=-1), references=outcome.label_ids)

    plain = encode(train)
    return Bench(
        task=task,
        start=start,
        processing_class=processing_class,
        encode=lambda augment: encode(train, augment) if augment else plain,
        validation=encode(validation) if validation is not None else None,
        compute_metrics=compute_metrics,
        training_args=training_args,
    )
