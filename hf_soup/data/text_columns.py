"""Which columns of a data set a model reads: those that the user named, or those that can be meant by texts.

Names are judged by `column_names.py`; here they are put together with what the columns hold.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError, listed
from ..untrusted import one_line
from .column_names import TELLS_LABEL, compared, is_about_texts, is_pair, known_groups, why_no_input
from .columns import find_column, is_list, is_text
from .notes import note_once


if TYPE_CHECKING:
    from datasets import Dataset

REPEATED = 10  # rows for each value, on average, of a column with finer classes than the label's
ACCIDENT = 0.05  # probability that a column which says nothing of the label seems to tell it
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CODE = re.compile(r"[a-z]{0,12}[-_#:/]?\d+([-_]\d+)*|[0-9a-f]{8,}|" + _UUID, re.IGNORECASE)


def choose_columns(
    dataset: Dataset,
    given: Sequence[str] | None,
    label: str | None,
    *,
    most: int = 2,
    of_words: bool = False,
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
        of_words (`bool`, *optional*, defaults to `False`):
            Columns of lists of strings (words) instead.
        classes (`bool`, *optional*, defaults to `True`):
            Whether the label is a class of the whole row, so that no input may tell it.
        usual (`Sequence[str]`, *optional*):
            Further names that the task knows as those of texts.

    Raises:
        [`DataError`]: if a named column is not there, is the label or holds something else, or it is not plain which
            ones are meant.
    """
    if given:
        columns = [given] if isinstance(given, str) else list(given)
        _check_named_columns(dataset, columns, label, most, of_words)
        return columns
    readable = [name for name in dataset.column_names if name != label and is_text(dataset, name, listed=of_words)]
    excluded = _excluded_by_name(readable)
    candidates = [name for name in readable if name not in excluded]
    groups = known_groups(candidates, pairs=most > 1, usual=usual)
    if classes and label is not None and not is_list(dataset, label):
        telling = _label_telling_columns(dataset, groups, candidates, label)
        excluded |= dict.fromkeys(telling, TELLS_LABEL)
        candidates = [name for name in candidates if name not in telling]
        groups = known_groups(candidates, pairs=most > 1, usual=usual)
    chosen: list[str] = []
    if len(groups) == 1:
        chosen = list(groups[0])
    elif not groups:
        chosen = _only_columns(dataset, candidates, most)
    if not chosen:
        raise DataError(_ambiguity(dataset, candidates, excluded, most, of_words))
    _note_choice(dataset, chosen, [name for name in readable if name not in chosen], excluded)
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
    pairs = zip(dataset[column][:], dataset[label][:], strict=True)
    rows = [(text, value) for text, value in pairs if text is not None and value is not None]
    label_counts = Counter(value for _, value in rows)
    most_values = len(label_counts)
    if finer:
        most_values = max(most_values, len(rows) // REPEATED)
    label_of: dict[str, Any] = {}
    for text, value in rows:
        if label_of.setdefault(text, value) != value or len(label_of) > most_values:
            return False
    if len(label_counts) < 2:
        return False
    # Two labels drawn at random are equal with the probability `same`. Each row whose value came before is one chance
    # to contradict it, so that by accident all of them agree with the probability same ** repetitions.
    same = sum((count / len(rows)) ** 2 for count in label_counts.values())
    repetitions = len(rows) - len(label_of)
    return same**repetitions < ACCIDENT


def _excluded_by_name(columns: Sequence[str]) -> dict[str, str]:
    """Column -> why its name says that it is no input."""
    reasons = {name: why_no_input(name) for name in columns}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _label_telling_columns(
    dataset: Dataset, groups: Sequence[tuple[str, ...]], candidates: Sequence[str], label: str
) -> list[str]:
    """Columns that tell the label: of a pair at most one, and of a column with a known name its name says enough."""
    if not groups:
        finer = len(candidates) > 1
        return [name for name in candidates if tells_label(dataset, name, label, finer=finer)]
    columns: list[str] = []
    for group in groups:
        telling = [name for name in group if len(group) == 2 and tells_label(dataset, name, label)]
        if len(telling) == 1:
            columns += telling
    return columns


def _only_columns(dataset: Dataset, candidates: Sequence[str], most: int) -> list[str]:
    """Of columns with unknown names the only one, or two whose names are a pair; without what is told about texts."""
    if len(candidates) > 1:
        candidates = [name for name in candidates if not is_about_texts(name)]
    if len(candidates) > 1:
        candidates = [name for name in candidates if not _holds_codes(dataset, name)]
    chosen = sorted(candidates, key=compared)
    is_plain = len(chosen) == 1 or (len(chosen) == 2 and most > 1 and is_pair(*chosen))
    return chosen if is_plain else []


def _holds_codes(dataset: Dataset, column: str) -> bool:
    """Whether a column of strings numbers the rows, each with another code, or has the same value in all."""
    values = dataset[column][:]
    if len(values) < 2 or is_list(dataset, column):
        return False
    distinct = set(values)
    if len(distinct) == 1:
        return True
    return len(distinct) == len(values) and all(value is not None and CODE.fullmatch(value) for value in values)


def _check_named_columns(
    dataset: Dataset, columns: Sequence[str], label: str | None, most: int, of_words: bool
) -> None:
    """Refuse columns that the user named if they cannot be read."""
    content = "lists of words" if of_words else "text"
    for column in columns:
        find_column(dataset, column, role="text")
        if column == label:
            raise DataError(f'"{column}" is the label column, and `text_columns` names what a model reads.')
        if not is_text(dataset, column, listed=of_words):
            raise DataError(f'the column "{column}" holds {dataset.features[column]}, and {content} is needed.')
    if len(columns) > most or len(set(columns)) < len(columns):
        taken = "one or two different ones" if most > 1 else "one"
        raise DataError(
            f"`text_columns` has {len(columns)} columns ({', '.join(columns)}), and the task takes {taken}."
        )


def _ambiguity(
    dataset: Dataset, candidates: Sequence[str], excluded: Mapping[str, str], most: int, of_words: bool
) -> str:
    """The error that names what can be chosen."""
    content = "columns of lists of words" if of_words else "text columns"
    names = one_line(listed(candidates)) or "none"
    message = f"the data has {len(candidates)} {content} ({names}): name them in `text_columns`"
    if candidates:
        how_many = "one or two of them" if most > 1 else "one of them"
        message += f", {how_many}, as in text_columns=[{one_line(repr(candidates[0]))}] (--text-column)"
    message += "."
    if excluded:
        reasons = [f'"{name}" ({reason})' for name, reason in excluded.items()]
        message += f" Left out: {one_line(listed(reasons))}."
    elif not candidates:
        message += f" Known: {one_line(listed(dataset.column_names))}"
    return message


def _note_choice(dataset: Dataset, chosen: Sequence[str], others: Sequence[str], excluded: Mapping[str, str]) -> None:
    if not others:
        return
    unread = []
    for name in others:
        reason = f" ({excluded[name]})" if name in excluded else ""
        unread.append(f'"{name}"{reason}')
    names = " and ".join(f'"{name}"' for name in chosen)
    message = f"models read {names}, and not {listed(unread)}; `text_columns` names others."
    note_once(dataset, one_line(message, most=1000))
