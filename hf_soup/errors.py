"""The errors for users: each is a `SoupError` that states the problem, the names involved, and what to do.

SoupError
├── IngredientError      a checkpoint that cannot be read: absent, empty, corrupt, pickled, changed
├── IncompatibleError    checkpoints that cannot be averaged with each other; `.problems` lists all of them
├── RecipeError          a recipe, a cook file or an argument that is wrong: a key, a type, a value, a name
├── DataError            a data set that lacks something the task needs
├── EvaluationError      a model or a metric that gives no usable score
├── TrainingError        a run that cannot be trained, or does not belong to the sweep in its folder
├── OutputError          a target that exists already or cannot be written
└── MissingExtraError    an optional library that is not installed (also an `ImportError`)
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from types import FrameType

LISTED = 20  # names that an error lists at most; if there are more, such as all settings of Trainer, only the nearest
NEAREST = 3
LINE = 1000  # characters of a line about one problem, whose names and values come from untrusted files
ALIKE = 0.6  # similarity from which a known name is suggested
LONGEST = 100  # characters of a name that are compared
SHORTEST = 3  # minimum number of letters for a comparison of two words
WORD_WEIGHT = 0.8  # weight of the similarity to a part of a name, compared with 1 for the complete name
_SEPARATORS = re.compile(r"[-_./:\s]+")  # between the words of a name
# Names that other libraries, or habit, use for an argument or setting -> the names here, the most likely first
SYNONYMS = {
    "base": ("base_model",),
    "bs": ("batch_size",),
    "checkpoints": ("ingredients",),
    "compute_metrics": ("metric", "evaluator", "test"),
    "config_name": ("name",),
    "data": ("dataset", "evaluator", "test"),
    "dataset": ("evaluator", "test"),
    "early_stopping": ("early_stopping_patience",),
    "epochs": ("training_args",),
    "eval_dataset": ("validation", "evaluator", "dataset"),
    "feature_extractor": ("processing_class",),
    "greater_is_better": ("higher_is_better", "evaluator"),
    "higher_is_better": ("evaluator", "test"),
    "image_processor": ("processing_class",),
    "learning_rate": ("training_args",),
    "lr": ("learning_rate", "training_args"),
    "max_seq_length": ("max_length",),
    "metric_for_best_model": ("metric", "select_by"),
    "metric": ("evaluator", "test"),
    "metrics": ("metric", "evaluator", "test"),
    "model": ("ingredients", "base_model", "soups"),
    "models": ("ingredients", "soups"),
    "num_train_epochs": ("training_args",),
    "output": ("output_dir",),
    "output_folder": ("output_dir",),
    "patience": ("early_stopping_patience",),
    "processor": ("processing_class",),
    "save_dir": ("save_directory", "output_dir"),
    "soup": ("soups",),
    "tokenizer": ("processing_class",),
    "torch_dtype": ("dtype",),
    "train_dataset": ("dataset", "batchnorm_data"),
    "warmup_ratio": ("warmup",),
    "wd": ("weight_decay",),
}
# Files whose frames are not the caller's: this package, and the wrappers of the standard library between its functions
# (`functools.cached_property`, functions decorated with a context manager).
_OWN_FILES = (os.path.join(os.path.dirname(__file__), ""), functools.__file__, contextlib.__file__)


class SoupError(Exception):
    """Base class of every error that hf_soup raises for something that a user can put right."""


class SoupWarning(UserWarning):
    """Category of every warning of hf_soup, for problems that do not stop the work."""


class IngredientError(SoupError):
    """A checkpoint cannot be read: it is absent, empty, corrupt, pickled or has changed since the recipe was made."""


class IncompatibleError(SoupError):
    """Checkpoints cannot be averaged with each other.

    Args:
        problems (`Iterable[str]`):
            One line for each problem, which names the ingredient that has it.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(_shortened(line) for line in problems)
        super().__init__("these ingredients cannot be averaged:\n" + "\n".join(f"- {line}" for line in self.problems))

    def __reduce__(self) -> tuple[type[IncompatibleError], tuple[tuple[str, ...]]]:
        # by default, pickle would call the class with the message, whose characters would become `problems`
        return type(self), (self.problems,)


class RecipeError(SoupError):
    """A recipe, a cook file or an argument is wrong."""


class DataError(SoupError):
    """A data set lacks what the task needs."""


class EvaluationError(SoupError):
    """A model or a metric gives no usable score."""


class TrainingError(SoupError):
    """A run cannot be trained, or a folder holds runs of another sweep."""


class OutputError(SoupError):
    """A target exists already or cannot be written."""


class MissingExtraError(SoupError, ImportError):
    """An optional library is not installed; the message contains the pip command."""


def warn(message: str) -> None:
    """Give a [`SoupWarning`] that points to the calling line outside this package.

    From Python 3.12 on, `warnings.warn` can do this itself (`skip_file_prefixes`).

    Args:
        message (`str`):
            What the user should know, as a sentence.
    """
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_OWN_FILES):
        frame = frame.f_back
        level += 1
    warnings.warn(message, SoupWarning, stacklevel=level)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of an error about an unknown name: a suggestion followed by all known names, or by the nearest three if
    there are many. The suggestion is the equivalent of another library's name, or else the name with the most similar
    spelling.

    Args:
        word (`str`):
            Name that was written.
        choices (`Iterable[str]`):
            Names that are known.

    Returns:
        `str`: such as `; did you mean "greedy"? Known: greedy, uniform`.
    """
    word, names = str(word)[:LONGEST], sorted(set(map(str, choices)))
    ranked = sorted(names, key=lambda name: _likeness(word, name), reverse=True)  # ties keep their order
    nearest = _nearest(word, names, ranked)
    if len(names) <= LISTED:
        listing = f"Known: {', '.join(names) or 'none'}"
    else:
        first = list(dict.fromkeys([*nearest, *ranked]))[:NEAREST]
        listing = f"The nearest of {len(names)} known names: {', '.join(first)}"
    if not nearest:
        return f". {listing}"
    return f'; did you mean "{nearest[0]}"? {listing}'


def _nearest(word: str, names: Sequence[str], ranked: Sequence[str]) -> list[str]:
    """The suggested name in a list, a synonym from other libraries or a similar spelling; empty if there is none."""
    meant = [name for name in SYNONYMS.get(word, ()) if name in names]
    if meant:
        return meant[:1]
    if len(names) <= LISTED:
        near = [name for name in names if is_near(word, name)]
        return difflib.get_close_matches(word, near, n=1, cutoff=ALIKE)
    return [name for name in ranked if is_near(word, name) and _likeness(word, name)[0] >= ALIKE][:1]


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a sentence, in their order: all of them, or the first ones and the number of further ones.

    Args:
        names (`Iterable[str]`):
            Names to list.
        most (`int`, *optional*, defaults to 12):
            Number of names to list at most.
    """
    all_names = list(names)
    text = ", ".join(all_names[:most])
    more = len(all_names) - most
    if more > 0:
        text += f" and {more} more"
    return text


def _shortened(line: str) -> str:
    """A line about one problem, cut to the maximum length."""
    if len(line) <= LINE:
        return line
    return f"{line[:LINE]}..."


def is_near(word: str, name: str) -> bool:
    """Whether one name may be a misspelling of the other, judged by their differences after removing common words at
    both ends.

    So `run-3` is not near to `run-2`, nor `num_layers` to `my_layers`, however many letters they share; a name is near
    to one that contains it.

    Args:
        word (`str`), name (`str`):
            What was written, and what would have been understood.
    """
    words, names = _SEPARATORS.split(word.lower()), _SEPARATORS.split(name.lower())
    while words and names and words[0] == names[0]:
        words, names = words[1:], names[1:]
    while words and names and words[-1] == names[-1]:
        words, names = words[:-1], names[:-1]
    if not words or not names:
        return True
    left, right = "_".join(words), "_".join(names)
    if min(len(left), len(right)) < SHORTEST:
        return False
    return left in names or difflib.SequenceMatcher(None, left, right).ratio() >= ALIKE


def _likeness(word: str, name: str) -> tuple[float, float]:
    """The similarity of two names, from 0 to 1: by the best of the parts between underscores, and as a whole.

    So `patience` is near to `early_stopping_patience`, although most letters differ.
    """
    whole = difflib.SequenceMatcher(None, word, name).ratio()
    best, words = whole, name.split("_")
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            words_joined = "_".join(words[first:last])
            best = max(best, WORD_WEIGHT * difflib.SequenceMatcher(None, word, words_joined).ratio())
    return best, whole
