"""Examples to score models on: their options, and an evaluator of what the command line calls data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..options import option
from ..plugins import names
from .options import options_of, take_fields


if TYPE_CHECKING:
    from ..evaluation.evaluator import Evaluator


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """How examples are read, as of `hf_soup.Evaluator`."""

    task: str = option("auto", "Read off the model by default.", choices=names("task"))
    label_column: str | None = option(None, "By default label, labels, or what else the task calls it.")
    text_columns: tuple[str, ...] = option((), "By default by well-known names.")
    batch_size: int | None = option(None, "Examples at a time.")
    no_cache: bool = option(False, "Run every model again, and keep nothing.")


example_options = options_of(ExampleOptions)


def take_example_options(values: dict[str, Any]) -> ExampleOptions:
    """Take the values of `example_options` out of those of a command."""
    return ExampleOptions(**take_fields(ExampleOptions, values))


def read_examples(source: str, split: str, options: ExampleOptions, metric: Any = None) -> Evaluator:
    """An evaluator of what the command line calls data.

    Args:
        source (`str`):
            As it was written.
        split (`str`):
            What is taken where it names none.
        options ([`ExampleOptions`]):
            How it is read.
        metric (`str` or `Sequence[str]`, *optional*):
            As of `hf_soup.Evaluator`.
    """
    import hf_soup

    from ..data.load import load_data, split_data_source

    path, name, chosen_split = split_data_source(source, split)
    return hf_soup.Evaluator(
        load_data(path, name=name, split=chosen_split),
        split=chosen_split,
        name=name,
        metric=metric or None,
        path=path,
        task=options.task,
        label_column=options.label_column,
        text_columns=options.text_columns or None,
        batch_size=options.batch_size,
        cache=not options.no_cache,
    )


def read_given_examples(
    source: str | None, split: str, options: ExampleOptions, metric: Any = None
) -> Evaluator | None:
    """The same of an option that may be left out; `None` where it was."""
    return None if source is None else read_examples(source, split, options, metric)
