"""The model card of one run of a sweep: Trainer's own, and where the run belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.companion_files import CARD
from ..checkpoints.hub import split_revision
from ..display.tables import escape
from ..untrusted import encodable
from .bases import bases_in_card
from .card import TAGS
from .facts import gather_facts


if TYPE_CHECKING:
    from ..tasks import Task

SWEEP = """
## A run of a sweep

This is {run} of the sweep {sweep}: fine-tunes of one model that all started from the same weights, head included, so
that their averages can be good. What it has of its own: {own}.

```python
import hf_soup

soup = hf_soup.merge(["USER/RUN_0", "USER/RUN_1"])  # the repositories of this sweep that you want in a soup
```
"""


def render_run_card(
    state: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    sweep: str,
    task: Task,
    base: Mapping[str, Any],
) -> str:
    """The README.md of a run.

    Args:
        state (`Mapping[str, Any]`):
            What its `run.json` holds.
        history (`Sequence[Mapping[str, Any]]`):
            What Trainer logged.
        sweep (`str`):
            Name of the sweep.
        task ([`Task`]):
            Of `hf_soup.tasks`.
        base (`Mapping[str, Any]`):
            The metadata of the card of its base model.

    Returns:
        `str`: metadata and Markdown.
    """
    from transformers.modelcard import TrainingSummary, parse_log_history

    # The parser makes the table of the records before the first that has `train_runtime`, here of all.
    records = [dict(record) for record in history]
    _, lines, results = parse_log_history([*records, {"train_runtime": 0.0}])
    hyperparameters = {**state["training_args"], **state["params"]}  # what the run has of its own counts
    facts = gather_facts({"base": base})
    data = state["data"].get("path")
    summary = TrainingSummary(
        model_name=_plain(f"{sweep}-{state['run']}"),
        language=list(facts.language) or None,
        license=facts.license.id,
        tags=[*TAGS[1:], "generated_from_trainer"],
        tasks=task.PIPELINE,
        dataset=_plain(data) if data else data,
        dataset_tags=data,
        eval_results=results,
        eval_lines=lines,
        hyperparameters={name: _plain(value) for name, value in hyperparameters.items()},
    )
    # Set after the rest: when it is given to the constructor without a licence, that asks the Hub for one.
    bases = bases_in_card(base)  # of a base model that is a folder, what that was fine-tuned from
    if state["base_commit"]:
        summary.finetuned_from = split_revision(state["base_model"])[0]
    elif len(bases) == 1:
        summary.finetuned_from = bases[0]
    own_settings = ", ".join(f"{name} = {value}" for name, value in state["params"].items()) or "nothing"
    return summary.to_model_card() + SWEEP.format(
        run=escape(state["run"]), sweep=f"“{escape(sweep)}”", own=escape(own_settings)
    )


def _plain(value: Any) -> Any:
    """A value that Trainer's card shows as it stands: escaped where Markdown or HTML would read something in it."""
    text = str(value)
    if re.fullmatch(r"[\w./:@ +-]*", text):
        return value
    return escape(text)


def render_start_card(*, sweep: str, base_model: str | None, base: Mapping[str, Any]) -> str:
    """The README.md of what all runs of a sweep start from.

    Args:
        sweep (`str`):
            Name of the sweep.
        base_model (`str`, *optional*):
            The Hub id that it was made of; of a folder, what the folder was fine-tuned from is named.
        base (`Mapping[str, Any]`):
            The metadata of the card of its base model.
    """
    from huggingface_hub import ModelCardData

    facts = gather_facts({"base": base})
    data = ModelCardData(
        license=facts.license.id,
        license_name=facts.license.name,
        license_link=facts.license.link,
        language=list(facts.language) or None,
        library_name="transformers",
        tags=list(TAGS[1:]),
        base_model=base_model or list(bases_in_card(base)) or None,
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\n# The start of the sweep “{escape(sweep)}”\n\nThe weights that all runs of "
        "the sweep were fine-tuned from, head included. It is of use to whoever averages these runs.\n"
    )


def write_card(folder: Path, text: str) -> None:
    """Put a card into a folder."""
    (folder / CARD).write_text(encodable(text), encoding="utf-8")
