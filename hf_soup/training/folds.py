"""Fold soups: each run trains on all examples but one fold, and is scored on this fold.

The settings `folds` (shared) and `fold` (of a run) name the fold. Runs of several folds have together seen every
example, so none is left to choose among their averages by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    if options.head == "probe":
        raise RecipeError(
            'head="probe" would train the shared head on all folds, and runs could not be scored on unseen examples: '
            'with folds, write head="new".'
        )


def with_folds(
    runs: Sequence[Mapping[str, Any]], folds: int, existing: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The settings of runs with their folds: run i leaves out fold `i % folds`.

    Args:
        runs (`Sequence[Mapping[str, Any]]`):
            Settings of each run.
        folds (`int`):
            Number of folds.
        existing (`Sequence[Mapping[str, Any]]`, *optional*):
            Settings of the runs that the folder holds, which keep their folds when a space grows.
    """
    known = [(without_fold(own), own["fold"]) for own in existing if "fold" in own]
    placed = []
    number = len(known)
    for own in runs:
        folds_before = [fold for settings, fold in known if settings == plain_settings(own)]
        if folds_before:
            placed.append({**own, "fold": folds_before[0]})
        else:
            placed.append({**own, "fold": number % folds})
            number += 1
    return placed


def without_fold(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without its fold."""
    return {name: value for name, value in settings.items() if name != "fold"}


def pooled(data: TrainingData) -> TrainingData:
    """The same data with the validation examples among the training examples.

    Raises:
        [`DataError`]: if the two have different columns.
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
    """The fold of each row, stratified by the label if there are classes.

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
    labels = encoded.with_format(None).select_columns(["labels"])["labels"][:]
    is_class = all(isinstance(label, int) for label in labels)
    splitter: Any = KFold(folds, shuffle=True, random_state=SEED)
    if is_class and min(Counter(labels).values()) >= folds:  # scikit-learn needs one example for each fold
        splitter = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    fold_of_row = np.empty(len(labels), dtype=int)
    for fold, (_, rows) in enumerate(splitter.split(labels, labels)):
        fold_of_row[rows] = fold
    return fold_of_row
