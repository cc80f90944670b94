"""Options of examples to score models on, and evaluators of the data that the command line names."""

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
    """How examples are read; the fields are parameters of `hf_soup.Evaluator`."""

    task: str = option("auto", "Task of the models; by default inferred from the model.", choices=names("task"))
    label_column: str | None = option(None, "Name of the label column; by default label, labels or that of the task.")
    text_columns: tuple[str, ...] = option((), "Name of a text column; may be repeated. By default inferred.")
    batch_size: int | None = option(None, "Number of examples in a batch.")
    no_cache: bool = option(False, "Run every model again, and keep no scores or predictions.")


example_options = options_of(ExampleOptions)


def take_example_options(values: dict[str, Any]) -> ExampleOptions:
    """Remove the values of `example_options` from those of a command, and return them."""
    return ExampleOptions(**take_fields(ExampleOptions, values))


def read_examples(source: str, split: str, options: ExampleOptions, metric: Any = None) -> Evaluator:
    """An evaluator of the data that an option names.

    Args:
        source (`str`):
            Value of the option, as it was typed.
        split (`str`):
            Split to use if the value names none.
        options ([`ExampleOptions`]):
            How the examples are read.
        metric (`str` or `Sequence[str]`, *optional*):
            Metric or metrics, as for `hf_soup.Evaluator`.
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
    """An evaluator of the data that an option names; `None` if the option was not given."""
    return None if source is None else read_examples(source, split, options, metric)
