"""The choice of the text columns of a dataset: those that the user named, or those that are probably texts.

`column_names.py` classifies the names; here they are combined with the content of the columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DataError, listed
from ..untrusted import one_line
from .column_names import TELLS_LABEL, compared, is_about_texts, is_pair, known_groups, why_no_input
from .columns import find_column, is_list, is_text
from .notes import note_once


if TYPE_CHECKING:
    from datasets import Dataset

REPEATED = 10  # rows per distinct value, on average, of a column with finer classes than the label's
ACCIDENT = 0.05  # probability that a column unrelated to the label appears to determine it
# Codes that identify rows: 17, doc-17, train_3_1, the digits of a hash, a UUID.
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CODE = re.compile(r"[a-z]{0,12}[-_#:/]?\d+([-_]\d+)*|[0-9a-f]{8,}|" + _UUID, re.IGNORECASE)


def choose_columns(
    dataset: Dataset,
    named: Sequence[str] | None,
    label: str | None,
    *,
    most: int = 2,
    of_words: bool = False,
    classes: bool = True,
    usual: Sequence[str] = (),
) -> list[str]:
    """The text columns: those that were named, else those with well-known names, else the only plausible ones.

    Names such as `text`, or `premise` and `hypothesis`, take precedence, in the order of the pair and not of the file.
    Columns that reveal the label and ids are excluded. If other columns exist, a notice names the chosen ones.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        named (`Sequence[str]`, *optional*):
            The columns that the user named.
        label (`str`, *optional*):
            The label column.
        most (`int`, *optional*, defaults to 2):
            Largest number of text columns that the task takes.
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
    if named:
        return _named_columns(dataset, named, label, most, of_words)
    takes_pairs = most > 1
    readable = _readable_columns(dataset, label, of_words)
    excluded = _excluded_by_name(readable)
    candidates = _without(readable, excluded)
    groups = known_groups(candidates, pairs=takes_pairs, usual=usual)
    if classes and label is not None and not is_list(dataset, label):
        # Which columns are suspicious depends on the groups. A pair that loses a column which reveals the label is no
        # longer a pair, so the groups are determined again.
        telling = _label_telling_columns(dataset, groups, candidates, label)
        excluded |= dict.fromkeys(telling, TELLS_LABEL)
        candidates = _without(candidates, telling)
        groups = known_groups(candidates, pairs=takes_pairs, usual=usual)
    chosen = _unambiguous_choice(dataset, groups, candidates, most)
    if not chosen:
        raise DataError(_ambiguity(dataset, candidates, excluded, most, of_words))
    _note_choice(dataset, chosen, _without(readable, chosen), excluded)
    return chosen


def tells_label(dataset: Dataset, column: str, label: str, *, finer: bool = True) -> bool:
    """Whether a column is the label in another form: it has few values, each of which has a single label.

    Texts that are all different have a single label each as well, which means nothing. Values have to be repeated, and
    their labels have to agree so often that it is unlikely to be chance.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            Column of strings.
        label (`str`):
            The label column, with one label a row.
        finer (`bool`, *optional*, defaults to `True`):
            Whether the column may have more values than there are labels, as subclasses have.
    """
    import datasets

    if not isinstance(dataset.features[label], (datasets.Value, datasets.ClassLabel)):
        return False
    rows = [row for row in zip(dataset[column][:], dataset[label][:], strict=True) if None not in row]
    label_counts = Counter(label_value for _, label_value in rows)
    if len(label_counts) < 2:  # if all rows have one label, every column would determine it
        return False
    most_values = len(label_counts)
    if finer:
        most_values = max(most_values, len(rows) // REPEATED)
    label_of: dict[str, Any] = {}  # value of the column -> the label of its rows
    for text, label_value in rows:
        if label_of.setdefault(text, label_value) != label_value or len(label_of) > most_values:
            return False
    # Two labels drawn at random are equal with probability `same`. Each row with a repeated value could contradict the
    # previous one, so by chance all of them agree with probability same ** repetitions.
    same = sum((count / len(rows)) ** 2 for count in label_counts.values())
    repetitions = len(rows) - len(label_of)
    return same**repetitions < ACCIDENT


def _readable_columns(dataset: Dataset, label: str | None, of_words: bool) -> list[str]:
    """The columns, except the label, that hold texts or lists of words."""
    return [name for name in dataset.column_names if name != label and is_text(dataset, name, listed=of_words)]


def _without(names: Sequence[str], left_out: Container[str]) -> list[str]:
    return [name for name in names if name not in left_out]


def _excluded_by_name(columns: Sequence[str]) -> dict[str, str]:
    """Column -> why it is not an input, according to its name."""
    reasons = {name: why_no_input(name) for name in columns}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _label_telling_columns(
    dataset: Dataset, groups: Sequence[tuple[str, ...]], candidates: Sequence[str], label: str
) -> list[str]:
    """The columns that reveal the label: at most one of a pair, and no single column with a well-known name."""
    if not groups:
        finer = len(candidates) > 1
        return [name for name in candidates if tells_label(dataset, name, label, finer=finer)]
    columns: list[str] = []
    for group in groups:
        if len(group) != 2:  # a single column with a well-known name is a text in any case
            continue
        telling = [name for name in group if tells_label(dataset, name, label)]
        if len(telling) == 1:
            columns += telling
    return columns


def _unambiguous_choice(
    dataset: Dataset, groups: Sequence[tuple[str, ...]], candidates: Sequence[str], most: int
) -> list[str]:
    """The only group of known names, or else the only plausible columns; empty if several are plausible."""
    if len(groups) > 1:
        return []
    if groups:
        return list(groups[0])
    return _only_columns(dataset, candidates, most)


def _only_columns(dataset: Dataset, candidates: Sequence[str], most: int) -> list[str]:
    """The only column, or the only pair by name, among columns with unknown names, without properties of texts."""
    if len(candidates) > 1:
        candidates = [name for name in candidates if not is_about_texts(name)]
    if len(candidates) > 1:  # names are checked first, because the other check reads values
        candidates = [name for name in candidates if not _holds_codes(dataset, name)]
    chosen = sorted(candidates, key=compared)  # the first of a pair before the second
    if len(chosen) == 1:
        return chosen
    if len(chosen) == 2 and most > 1 and is_pair(*chosen):
        return chosen
    return []


def _holds_codes(dataset: Dataset, column: str) -> bool:
    """Whether a column of strings identifies rows by distinct codes, or has the same value in all rows."""
    values = dataset[column][:]
    if len(values) < 2 or is_list(dataset, column):
        return False
    distinct = set(values)
    if len(distinct) == 1:
        return True
    if len(distinct) < len(values) or None in distinct:
        return False
    return all(CODE.fullmatch(value) for value in values)


def _named_columns(dataset: Dataset, named: Sequence[str], label: str | None, most: int, of_words: bool) -> list[str]:
    """The columns that the user named; a single one may be given as a string.

    Raises:
        [`DataError`]: if they cannot be read, or are more than the task takes.
    """
    columns = [named] if isinstance(named, str) else list(named)
    content = "lists of words" if of_words else "text"
    for column in columns:
        find_column(dataset, column, role="text")
        if column == label:
            raise DataError(f'"{column}" is the label column, and `text_columns` names what a model reads.')
        if not is_text(dataset, column, listed=of_words):
            raise DataError(f'the column "{column}" holds {dataset.features[column]}, but {content} is needed.')
    if len(columns) > most or len(set(columns)) < len(columns):
        allowed = "one or two different ones" if most > 1 else "one"
        raise DataError(
            f"`text_columns` has {len(columns)} columns ({', '.join(columns)}), and the task takes {allowed}."
        )
    return columns


def _ambiguity(
    dataset: Dataset, candidates: Sequence[str], excluded: Mapping[str, str], most: int, of_words: bool
) -> str:
    """The error that lists the possible columns."""
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
    """Report which columns were chosen, if there were others, and why some of those were excluded."""
    if not others:
        return
    unread = []
    for name in others:
        reason = f" ({excluded[name]})" if name in excluded else ""
        unread.append(f'"{name}"{reason}')
    names = " and ".join(f'"{name}"' for name in chosen)
    message = f"models read {names}, and not {listed(unread)}; `text_columns` names others."
    note_once(dataset, one_line(message, most=1000))
