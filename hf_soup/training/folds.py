"""Fold soups: each run trains on all examples but one fold, and is scored on this fold.

The settings `folds` (shared) and `fold` (of a run) name the fold. Runs of several folds have together seen every
example, so none is left to choose among their averages by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..data.splits import TrainingData
from ..errors import DataError, RecipeError
from ..options import SweepOptions
from .context import SweepContext
from .records import plain_settings
from .settings import is_number


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

SEED = 0  # of the division into folds, which is the same for all runs


def check_folds(options: SweepOptions) -> None:
    """Raise an error for a wrong number of folds, or for a head that would be trained on all folds.

    Args:
        options ([`SweepOptions`]):
            Options of the sweep.

    Raises:
        [`RecipeError`]: naming the option.
    """
    if options.folds is None:
        return
    if not is_number(options.folds, int) or options.folds < 2:
        raise RecipeError(f"folds is the number of folds, 2 or more, not {options.folds!r}.")
    refine = options.refine
    if isinstance(refine, Mapping) and refine.get("learning_rate", 1) != 1:
        raise RecipeError(
            "folds averages the runs of the best settings, and refine with learning_rate gives every further run "
            "settings of its own: leave one of the two out."
        )
    if options.head == "probe":
        raise RecipeError(
            'head="probe" would train the shared head on all folds, and runs could not be scored on unseen examples: '
            'with folds, write head="new".'
        )


def with_folds(
    runs: Sequence[Mapping[str, Any]],
    folds: int,
    *,
    shared: Mapping[str, Any],
    existing: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """The settings of runs with their folds.

    The runs of the same settings leave out one fold after the other, so that their soup sees all data. The first runs
    of the settings leave out different folds, so that all folds count in the choice among settings.

    Args:
        runs (`Sequence[Mapping[str, Any]]`):
            Settings of each run.
        folds (`int`):
            Number of folds.
        shared (`Mapping[str, Any]`):
            Settings that all runs share.
        existing (`Iterable[Mapping[str, Any]]`, *optional*):
            All settings of each run that there is, shared ones included. Such a run keeps its fold when a space grows.
    """
    numbers: dict[str, int] = {}  # of runs of each setting, in the order in which they were added

    def next_fold(settings: Mapping[str, Any]) -> int:
        key = kind_of(settings)
        numbers[key] = numbers.get(key, len(numbers)) + 1  # the first run of a setting begins with the next fold
        return (numbers[key] - 1) % folds

    known = []
    for each in existing:
        whole = plain_settings(each)
        next_fold(whole)
        known.append((without_fold(whole), whole.get("fold")))
    placed = []
    for own in runs:
        whole = plain_settings({**shared, **own})
        before = [fold for settings, fold in known if settings == without_fold(whole)]
        placed.append({**own, "fold": before[0] if before else next_fold(whole)})
    return placed


def without_fold(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without its fold and the number of folds."""
    return {name: value for name, value in settings.items() if name not in ("fold", "folds")}


def without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that runs of one kind share: all but the seed and the fold."""
    return {name: value for name, value in without_fold(settings).items() if name != "seed"}


def kind_of(settings: Mapping[str, Any]) -> str:
    """A text that is the same for runs that differ in seed and fold alone."""
    return json.dumps(without_seed(settings), sort_keys=True, default=str)


def pooled(data: TrainingData) -> TrainingData:
    """The same data with the validation examples among the training examples.

    Raises:
        [`DataError`]: if the two have different columns.
        [`RecipeError`]: if there is no validation data.
    """
    import datasets

    if data.validation is None:
        raise RecipeError("folds needs validation data, which is joined with the training data.")
    try:
        both = datasets.concatenate_datasets([data.train, data.validation])
    except ValueError as error:
        raise DataError(
            f"folds joins training and validation examples, which have different columns: {error}"
        ) from None
    return replace(data, train=both)


def in_fold(context: SweepContext, settings: Mapping[str, Any]) -> SweepContext:
    """The examples of one run: those of its fold for validation, all others for training.

    Args:
        context ([`SweepContext`]):
            Values that all runs share, with all examples as training examples.
        settings (`Mapping[str, Any]`):
            Settings of the run; without a fold, nothing changes.
    """
    import numpy as np

    fold = settings.get("fold")
    if fold is None:
        return context
    fold_of_row = divide(context.train, context.training_args["folds"])
    train, validation = np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold)
    return replace(context, train=context.train.select(train), validation=context.train.select(validation))


def divide(encoded: Dataset, folds: int) -> np.ndarray:
    """The fold of each row, stratified by the label if there are classes with an example for each fold.

    Args:
        encoded (`datasets.Dataset`):
            Encoded examples.
        folds (`int`):
            Number of folds.

    Raises:
        [`RecipeError`]: if there are fewer examples than folds.
    """
    import numpy as np
    from sklearn.model_selection import KFold, StratifiedKFold

    if len(encoded) < folds:
        raise RecipeError(f"folds={folds}: there are only {len(encoded)} examples.")
    labels: list[Any] = [None] * len(encoded)
    if "labels" in encoded.column_names:
        labels = encoded.with_format(None).select_columns(["labels"])["labels"][:]
    is_class = all(isinstance(label, int) for label in labels)
    splitter: Any = KFold(folds, shuffle=True, random_state=SEED)
    if is_class and min(Counter(labels).values()) >= folds:  # scikit-learn needs one example for each fold
        splitter = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    fold_of_row = np.empty(len(labels), dtype=int)
    for fold, (_, rows) in enumerate(splitter.split(labels, labels)):
        fold_of_row[rows] = fold
    return fold_of_row
