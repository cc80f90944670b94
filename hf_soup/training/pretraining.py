"""Pre-training of a model from a configuration, if there is no checkpoint to start a sweep from.

It is a sweep of one run whose base model has random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.memory import quiet_transformers
from ..checkpoints.staging import staged_folder, write_json
from ..data.splits import TrainingData
from ..errors import RecipeError, SoupError
from ..options import SweepOptions
from ..plugins import load_module
from ..tasks._model_inputs import auto_class
from ..untrusted import as_error, one_line, read_json
from .planning import plan_sweep
from .running import run_plan


if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

BLANK_FILE = "made_from.json"  # beside a model with random weights: its `Blank`


@dataclass(frozen=True)
class Blank:
    """The configurations of a model with random weights.

    Args:
        config (`Mapping[str, Any]`):
            Configuration for transformers, with `model_type`.
        processor (`Mapping[str, Any]`):
            Configuration of the image processor.
    """

    config: Mapping[str, Any]
    processor: Mapping[str, Any]


def pretrain(
    blank: Blank,
    data: Dataset,
    folder: Path,
    *,
    transform: Mapping[str, Any],
    training_args: Mapping[str, Any],
    task: str = "auto",
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
) -> Path:
    """Train a model from random weights, unless it exists already.

    Args:
        blank ([`Blank`]):
            Configurations of the model.
        data (`datasets.Dataset`):
            Training examples.
        folder (`Path`):
            Folder for all files.
        transform (`Mapping[str, Any]`):
            Random changes of the images, as for `augment`.
        training_args (`Mapping[str, Any]`):
            Settings of the run.
        task (`str`, *optional*, defaults to `"auto"`), label_column (`str`, *optional*), text_columns
            (`Sequence[str]`, *optional*):
            Task and columns, as for [`hf_soup.sweep`].

    Returns:
        `Path`: the folder of the trained model.

    Raises:
        [`RecipeError`]: if the configuration is invalid, or the folder holds a model of another configuration.
        [`TrainingError`]: if training fails.
    """
    start = folder / "blank"
    if not start.is_dir():
        _make_blank(blank, data, start, task, label_column)
    if not _was_made_from(start, blank):
        raise RecipeError(
            f"{start} was made from another `pretrain` section. Use another output_dir, or delete {folder}."
        )
    setting = {"augment": transform} if transform else {}  # the settings of the only run
    plan = plan_sweep(
        start,
        TrainingData(data, None),
        SweepOptions(space=[setting], training_args=training_args, keep="last"),
        output_dir=folder / "runs",
        task=task,
        label_column=label_column,
        text_columns=text_columns,
    )
    run = run_plan(plan)[0]
    return run.folder


def _make_blank(blank: Blank, data: Dataset, folder: Path, task: str, label_column: str | None) -> None:
    """Save a model with random weights, and its processor."""
    import transformers

    settings = dict(blank.config)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise RecipeError(
            f"`pretrain.config.model_type` is {one_line(repr(model_type))}; transformers knows no such model."
        )
    module = load_module("task", task if task != "auto" else "image-classification")
    head = module.head(data, module.label_column(data, label_column))
    with quiet_transformers(), staged_folder(folder) as stage:
        transformers.set_seed(0)  # the same weights every time that the file is cooked
        with as_error(RecipeError, "`pretrain.config` makes no model"):
            config = transformers.AutoConfig.for_model(model_type, **{**settings, **head})
            model = auto_class(module.AUTO_CLASS, config).from_config(config)
        model.save_pretrained(stage)
        write_json(stage / "preprocessor_config.json", blank.processor)
        write_json(stage / BLANK_FILE, asdict(blank))


def _was_made_from(folder: Path, blank: Blank) -> bool:
    """Whether the model in a folder was built from these configurations."""
    try:
        return bool(read_json(folder / BLANK_FILE) == asdict(blank))
    except (OSError, SoupError):  # missing or damaged
        return False
