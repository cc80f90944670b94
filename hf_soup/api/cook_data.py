"""The data sets that the stages of a cook file need: loaded, and checked against the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..comparison.comparison import TEST, VALIDATION
from ..data.load import load_data
from ..data.splits import Source, load_training_data
from ..errors import DataError
from ..evaluation.evaluator import Evaluator
from ..formats.cook_file import CookFile, Data, ShiftedData
from ..plugins import chooses, load_module
from ..training.examples import check_examples, guess_task
from ..transforms import shifted_copy


if TYPE_CHECKING:
    from datasets import Dataset

    from ..metrics.load import Given

PRETRAIN, TRAIN = "pretrain", "train"  # data sets that no model is scored on


@dataclass(frozen=True)
class Examples:
    """The data sets of a cook file, and how they are read.

    Args:
        plan ([`CookFile`]):
            The cook file.
        sets (`Mapping[str, datasets.Dataset]`):
            Data sets that a stage needs, by name: `"pretrain"`, `"train"`, `"validation"`, `"test"` and the names of
            shifted test sets.
    """

    plan: CookFile
    sets: Mapping[str, Dataset]

    @property
    def scored(self) -> dict[str, Dataset]:
        """The data sets that models are scored on."""
        return {name: data for name, data in self.sets.items() if name not in (PRETRAIN, TRAIN)}

    def evaluator(self, name: str, metric: Given | Sequence[Given] | None) -> Evaluator:
        """An evaluator of one data set."""
        section = self.plan.examples
        return Evaluator(
            self.sets[name],
            split=name,
            metric=metric,
            path=section.path,
            task=self.plan.task,
            label_column=section.label_column,
            text_columns=section.text_columns,
        )

    def without_validation(self) -> Examples:
        """Leave out the validation data, because models were trained on it."""
        return Examples(self.plan, {name: data for name, data in self.sets.items() if name != VALIDATION})

    def with_training(self) -> Examples:
        """Add the training data, if it can be loaded."""
        section = self.plan.data
        if section is None or TRAIN in self.sets:
            return self
        try:
            train = load_data(section.path, name=section.name, split=section.train)
        except DataError:
            return self
        return Examples(self.plan, {**self.sets, TRAIN: train})


def load_examples(plan: CookFile) -> Examples:
    """Load every data set that a stage needs; none if the file has no `data` section.

    Raises:
        [`DataError`]: if a data set is missing, or does not fit a model trained on the training data.
    """
    if plan.data is None:
        return Examples(plan, {})
    section = plan.data
    sets: dict[str, Dataset] = {}
    if plan.pretrain is not None:
        sets[PRETRAIN] = load_data(section.path, name=section.name, split=plan.pretrain.data)
    if plan.sweep is not None:
        source = Source(section.path, section.name, section.train)
        training = load_training_data(
            source, section.validation, label_column=section.label_column, seed=plan.sweep.seed
        )
        sets[TRAIN] = training.train
        if training.validation is not None:
            sets[VALIDATION] = training.validation
    elif _needs_validation(plan):
        sets[VALIDATION] = load_data(section.path, name=section.name, split=section.validation)
    if plan.compare is not None:
        sets |= _load_tests(section)
    if TRAIN in sets:
        _check_sets(plan, {name: data for name, data in sets.items() if name != PRETRAIN})
    return Examples(plan, sets)


def _needs_validation(plan: CookFile) -> bool:
    """Whether a stage after training uses the validation set."""
    chooses_soup = plan.merge is not None and chooses(plan.merge.strategy)
    return chooses_soup or plan.compare is not None


def _load_tests(section: Data) -> dict[str, Dataset]:
    """The test set and the shifted test sets, by name."""
    sets = {TEST: load_data(section.path, name=section.name, split=section.test)}
    for name, shifted in section.shifted.items():
        sets[name] = _load_shifted(section, shifted)
    return sets


def _load_shifted(section: Data, shifted: ShiftedData) -> Dataset:
    """A shifted test set: other data, or a random perturbation of the test set."""
    # a configuration belongs to one data set: another path does not have it
    name = shifted.name if shifted.path or shifted.name else section.name
    data = load_data(shifted.path or section.path, name=name, split=shifted.split or section.test)
    if not shifted.transform:
        return data
    (column,) = load_module("task", "image-classification").columns(data, None, section.label_column)
    return shifted_copy(data, column, shifted.transform)


def _check_sets(plan: CookFile, sets: Mapping[str, Dataset]) -> None:
    """Raise an error for columns and labels that do not fit the training data, before anything is trained."""
    from transformers import PretrainedConfig

    section, train = plan.examples, sets[TRAIN]
    task = load_module("task", plan.task if plan.task != "auto" else guess_task(train))
    head = PretrainedConfig(**task.head(train, task.label_column(train, section.label_column)))

    def read_columns(name: str) -> list[str]:
        try:
            columns, _ = check_examples(task, sets[name], section.label_column, section.text_columns, head, name)
        except DataError as error:
            raise DataError(f"{name}, for a model of the training data: {error}") from None
        return columns

    trained_on = read_columns(TRAIN)
    for name in sets:
        columns = read_columns(name) if name != TRAIN else trained_on
        if columns != trained_on and set(trained_on) <= set(sets[name].column_names):
            raise DataError(
                f"the texts of {name} would be {', '.join(columns)}, and those of {TRAIN} {', '.join(trained_on)}: "
                "name the columns in `data.text_columns`."
            )
