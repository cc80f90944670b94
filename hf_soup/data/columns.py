"""The columns of a data set: which holds the labels, which the texts, and labels as a model counts them.

It knows nothing of where data comes from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError, did_you_mean
from ..errors import listed as shortened
from ..untrusted import one_line
from .column_names import TELLS_LABEL, compared, is_about_texts, is_pair, known_groups, why_no_input
from .notes import note_once


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

LABEL_COLUMNS = ("label", "labels")
UNSCORED = -100  # the label that transformers' losses leave out
_STRINGS = ("string", "large_string")
REPEATED = 10  # rows for each value, on average, of a column with finer classes than the label's
ACCIDENT = 0.05  # probability that a column which says nothing of the label seems to tell it
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CODE = re.compile(r"[a-z]{0,12}[-_#:/]?\d+([-_]\d+)*|[0-9a-f]{8,}|" + _UUID, re.IGNORECASE)


def find_column(dataset: Dataset, given: str | None, usual: Sequence[str] = LABEL_COLUMNS, what: str = "label") -> str:
    """The column that was named, else the first of the usual ones that is there.

    Raises:
        [`DataError`]: if it is not there.
    """
    for column in [given] if given else usual:
        if column in dataset.column_names:
            return column
    wanted = given or usual[0]
    raise DataError(f'the data has no {what} column "{wanted}"{did_you_mean(wanted, dataset.column_names)}')


def label_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names of the classes in order: those of a `ClassLabel`, sorted strings, or `None` for numbers without names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            With one label a row, or lists of them.

    Raises:
        [`DataError`]: if the labels are neither whole numbers nor strings, or some are missing.
    """
    import datasets

    feature, values = _inner(dataset.features[column]), _flat(dataset, column)
    numbered = isinstance(feature, datasets.ClassLabel)
    hidden = (None, -1) if numbered else (None, "")  # -1: how the Hub hides test labels
    missing = sum(value in hidden for value in values)
    if missing:
        raise DataError(f'{missing} of {len(values)} rows have no label in the column "{column}".')
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if getattr(feature, "dtype", "") in _STRINGS:
        return sorted(set(values))
    kind = str(getattr(feature, "dtype", ""))
    is_whole = kind.startswith("float") and all(float(value).is_integer() for value in values)  # as pandas writes them
    if not is_whole and not kind.startswith(("int", "uint", "bool")):
        raise DataError(f'the label column "{column}" holds {feature}, and classes are whole numbers or names.')
    return None


def label_ids(dataset: Dataset, column: str, id2label: Mapping[int, str]) -> np.ndarray:
    """The class of each label as the model counts them, matched by name where both have names.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Its label column; of lists, all of them one behind the other.
        id2label (`Mapping[int, str]`):
            The model's classes.

    Returns:
        `np.ndarray` of shape `(labels,)`, int64; -100, which marks words without a label, stays.

    Raises:
        [`DataError`]: if a label is no class of the model, or is missing.
    """
    import numpy as np

    ours, values = label_names(dataset, column), _flat(dataset, column)
    theirs = [id2label[index] for index in sorted(id2label)]
    named = theirs != [f"LABEL_{index}" for index in range(len(theirs))]
    if len(values) and isinstance(values[0], str) and not named:
        raise DataError(
            f'the column "{column}" has names such as "{values[0]}", and the model has none for its classes.'
        )
    if ours is None and named:
        values = _numbers_by_name(values, theirs, column)
    if ours is not None and not named and len(ours) != len(theirs):
        raise DataError(
            f'the column "{column}" has {len(ours)} classes, and the model has {len(theirs)} without names, so that '
            "it is not known which is which: set id2label in the model's configuration."
        )
    if ours is not None and named:
        unknown = sorted(set(ours) - set(theirs))
        if unknown:
            raise DataError(
                f'the model has no class "{unknown[0]}" that the data has{did_you_mean(unknown[0], theirs)}'
            )
        names = [ours[value] if not isinstance(value, str) and value != UNSCORED else value for value in values]
        values = [UNSCORED if name == UNSCORED else theirs.index(name) for name in names]
    ids = np.asarray(values, dtype=np.int64)
    wrong = (ids != UNSCORED) & ((ids < 0) | (ids >= len(theirs)))
    if wrong.any():
        raise DataError(
            f'labels in "{column}" go from {ids[wrong].min()} to {ids[wrong].max()}, the model has {len(theirs)} '
            "classes from 0. Is it a model for this data?"
        )
    return ids


def _numbers_by_name(values: list[Any], theirs: Sequence[str], column: str) -> list[Any]:
    """Numbers as classes of a model that calls its classes by numbers, such as stars from 1 to 5.

    Raises:
        [`DataError`]: if they may be names of classes as well as their places.
    """
    if not all(re.fullmatch(r"-?\d+", name) for name in theirs):
        return values
    place = {int(name): position for position, name in enumerate(theirs)}
    found = set(values) - {UNSCORED}
    if not found <= set(place):
        return values
    if set(place) != set(range(len(theirs))) and found <= set(range(len(theirs))):
        raise DataError(
            f'the labels in "{column}" may be names of classes ({theirs[0]} to {theirs[-1]}) or their places (0 to '
            f"{len(theirs) - 1}): write them as text to mean names, or cast the column to a ClassLabel."
        )
    return [value if value == UNSCORED else place[value] for value in values]


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column of numbers, or of lists of them one behind the other, as float64.

    Raises:
        [`DataError`]: if it holds something else, or a number is missing or not finite.
    """
    import numpy as np

    feature, values = _inner(dataset.features[column]), _flat(dataset, column)
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint", "float", "bool")):
        example = f", such as {values[0]!r}" if values else ""
        raise DataError(f'the column "{column}" holds {feature}{example}, and numbers are needed.')
    found = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
    if not np.isfinite(found).all():
        missing = (~np.isfinite(found)).sum()
        raise DataError(f'{missing} of {len(found)} values in "{column}" are missing or not finite.')
    return found


def split_like(ids: np.ndarray, lists: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Cut what was put one behind the other into parts as long as `lists`."""
    import numpy as np

    return np.split(ids, np.cumsum([len(item or ()) for item in lists])[:-1])


def is_list(dataset: Dataset, column: str) -> bool:
    """Whether a column holds lists."""
    return hasattr(dataset.features[column], "feature")


def is_text(dataset: Dataset, column: str, *, listed: bool = False) -> bool:
    """Whether a column holds strings, or with `listed=True` lists of them."""
    feature = dataset.features[column]
    return listed == is_list(dataset, column) and getattr(_inner(feature), "dtype", "") in _STRINGS


def choose_columns(
    dataset: Dataset,
    given: Sequence[str] | None,
    label: str | None,
    *,
    most: int = 2,
    listed: bool = False,
    classes: bool = True,
    usual: Sequence[str] = (),
) -> list[str]:
    """The text columns: those that were named, else those with well-known names, else the only ones that can be meant.

    Names such as `text`, or `premise` and `hypothesis`, go before others, in the order of the pair and not of the
    file. Columns that tell the label and ids are left out. A note says what was chosen where there were others.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        given (`Sequence[str]`, *optional*):
            What the user named.
        label (`str`, *optional*):
            The label column.
        most (`int`, *optional*, defaults to 2):
            How many the task takes.
        listed (`bool`, *optional*, defaults to `False`):
            Columns of lists of strings (words) instead.
        classes (`bool`, *optional*, defaults to `True`):
            Whether the label is told of the whole row, so that no input may tell it.
        usual (`Sequence[str]`, *optional*):
            Further names that the task knows as those of texts.

    Raises:
        [`DataError`]: if a named column is not there, is the label or holds something else, or it is not plain which
            ones are meant.
    """
    if given:
        return _named_columns(dataset, [given] if isinstance(given, str) else list(given), label, most, listed)
    found = [name for name in dataset.column_names if name != label and is_text(dataset, name, listed=listed)]
    left_out = {name: why for name in found if (why := why_no_input(name))}
    possible = [name for name in found if name not in left_out]
    groups = known_groups(possible, pairs=most > 1, usual=usual)
    told = label if classes and label is not None and not is_list(dataset, label) else None
    if told is not None:
        telling = _telling(dataset, groups, possible, told)
        left_out |= dict.fromkeys(telling, TELLS_LABEL)
        possible = [name for name in possible if name not in telling]
        groups = known_groups(possible, pairs=most > 1, usual=usual)
    chosen = list(groups[0]) if len(groups) == 1 else []
    if not groups:
        chosen = _only_columns(dataset, possible, most)
    if not chosen:
        raise DataError(_not_plain(dataset, possible, left_out, most, listed))
    _say_choice(dataset, chosen, [name for name in found if name not in chosen], left_out)
    return chosen


def tells_label(dataset: Dataset, column: str, label: str, *, finer: bool = True) -> bool:
    """Whether a column is the label in other words: it has few values, and each has one label.

    Texts that are all different have one label each as well, and that says nothing. Values have to come again, and
    with the same label so often that it is no accident.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Of strings.
        label (`str`):
            The label column, with one label a row.
        finer (`bool`, *optional*, defaults to `True`):
            Whether it may have more values than there are labels, as classes of classes have.
    """
    import datasets

    if not isinstance(dataset.features[label], (datasets.Value, datasets.ClassLabel)):
        return False
    rows = [row for row in zip(dataset[column][:], dataset[label][:], strict=True) if None not in row]
    labels = Counter(value for _, value in rows)
    most = max(len(labels), len(rows) // REPEATED if finer else 0)
    label_of: dict[str, Any] = {}
    for text, value in rows:
        if label_of.setdefault(text, value) != value or len(label_of) > most:
            return False
    alike = sum((count / len(rows)) ** 2 for count in labels.values())  # of two labels by accident
    return len(labels) > 1 and alike ** (len(rows) - len(label_of)) < ACCIDENT


def _telling(dataset: Dataset, groups: Sequence[tuple[str, ...]], possible: Sequence[str], label: str) -> list[str]:
    """Columns that tell the label: of a pair at most one, and of a column with a known name its name says enough."""
    if groups:
        pairs = [[name for name in pair if tells_label(dataset, name, label)] for pair in groups if len(pair) == 2]
        return [name for telling in pairs if len(telling) == 1 for name in telling]
    return [name for name in possible if tells_label(dataset, name, label, finer=len(possible) > 1)]


def _only_columns(dataset: Dataset, possible: Sequence[str], most: int) -> list[str]:
    """Of columns with unknown names the only one, or two whose names are a pair; without what is told about texts."""
    if len(possible) > 1:
        possible = [name for name in possible if not is_about_texts(name)]
    if len(possible) > 1:
        possible = [name for name in possible if not _holds_codes(dataset, name)]
    chosen = sorted(possible, key=compared)
    plain = len(chosen) == 1 or (len(chosen) == 2 and most > 1 and is_pair(*chosen))
    return chosen if plain else []


def _holds_codes(dataset: Dataset, column: str) -> bool:
    """Whether a column of strings numbers the rows, each with another code, or has the same value in all."""
    values = dataset[column][:]
    if len(values) < 2 or is_list(dataset, column):
        return False
    different = set(values)
    codes = len(different) == len(values) and all(value is not None and CODE.fullmatch(value) for value in values)
    return codes or len(different) == 1


def _named_columns(dataset: Dataset, given: Sequence[str], label: str | None, most: int, listed: bool) -> list[str]:
    """What the user named, if it can be read."""
    what = "lists of words" if listed else "text"
    for column in given:
        find_column(dataset, column, what="text")
        if column == label:
            raise DataError(f'"{column}" is the label column, and `text_columns` names what a model reads.')
        if not is_text(dataset, column, listed=listed):
            raise DataError(f'the column "{column}" holds {dataset.features[column]}, and {what} is needed.')
    if len(given) > most or len(set(given)) < len(given):
        taken = "one or two different ones" if most > 1 else "one"
        raise DataError(f"`text_columns` has {len(given)} columns ({', '.join(given)}), and the task takes {taken}.")
    return list(given)


def _not_plain(dataset: Dataset, possible: Sequence[str], left_out: Mapping[str, str], most: int, listed: bool) -> str:
    """The error that names what can be chosen."""
    kind = "columns of lists of words" if listed else "text columns"
    never = [f'"{name}" ({why})' for name, why in left_out.items()]
    without = f" Left out: {one_line(shortened(never))}." if never else ""
    if not possible and not left_out:
        without = f" Known: {one_line(shortened(dataset.column_names))}"
    many = "one or two of them" if most > 1 else "one of them"
    which = f", {many}, as in text_columns=[{one_line(repr(possible[0]))}] (--text-column)" if possible else ""
    names = one_line(shortened(possible)) or "none"
    return f"the data has {len(possible)} {kind} ({names}): name them in `text_columns`{which}.{without}"


def _say_choice(dataset: Dataset, chosen: Sequence[str], others: Sequence[str], left_out: Mapping[str, str]) -> None:
    if not others:
        return
    because = {name: f" ({why})" for name, why in left_out.items()}
    unread = shortened(f'"{name}"{because.get(name, "")}' for name in others)
    names = " and ".join(f'"{name}"' for name in chosen)
    note_once(dataset, one_line(f"models read {names}, and not {unread}; `text_columns` names others.", most=1000))


def _inner(feature: Any) -> Any:
    return getattr(feature, "feature", feature)


def _flat(dataset: Dataset, column: str) -> list[Any]:
    values = dataset[column]
    return [item for row in values for item in row or ()] if is_list(dataset, column) else values[:]
