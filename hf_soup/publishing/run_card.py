"""The model card of one run of a sweep: Trainer's card, with a section on the sweep."""

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

This is {run} of the sweep {sweep}: all runs were fine-tuned from the same weights, head included, so that they can be
averaged. Settings of this run: {own}.

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
    """Render the model card (README.md) of a run.

    Args:
        state (`Mapping[str, Any]`):
            Content of `run.json`.
        history (`Sequence[Mapping[str, Any]]`):
            Records logged by Trainer.
        sweep (`str`):
            Name of the sweep.
        task ([`Task`]):
            Task, a module of `hf_soup.tasks`.
        base (`Mapping[str, Any]`):
            Metadata of the base model's card.

    Returns:
        `str`: the card, with metadata and Markdown.
    """
    from transformers.modelcard import TrainingSummary, parse_log_history

    # The parser makes a table of the records before the first one with `train_runtime`, which here are all.
    records = [dict(record) for record in history]
    _, lines, results = parse_log_history([*records, {"train_runtime": 0.0}])
    hyperparameters = {**state["training_args"], **state["params"]}  # the run's own settings take precedence
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
    # Set last, because the constructor would ask the Hub for a licence if there is none.
    bases = bases_in_card(base)  # for a base model that is a folder, its own base model
    if state["base_commit"]:
        summary.finetuned_from = split_revision(state["base_model"])[0]
    elif len(bases) == 1:
        summary.finetuned_from = bases[0]
    own_settings = ", ".join(f"{name} = {value}" for name, value in state["params"].items()) or "nothing"
    return summary.to_model_card() + SWEEP.format(
        run=escape(state["run"]), sweep=f"“{escape(sweep)}”", own=escape(own_settings)
    )


def _plain(value: Any) -> Any:
    """A value for Trainer's card, escaped if it contains Markdown or HTML."""
    text = str(value)
    if re.fullmatch(r"[\w./:@ +-]*", text):
        return value
    return escape(text)


def render_start_card(*, sweep: str, base_model: str | None, base: Mapping[str, Any]) -> str:
    """Render the model card (README.md) of the start of a sweep.

    Args:
        sweep (`str`):
            Name of the sweep.
        base_model (`str`, *optional*):
            Hub id of the base model; if it is a folder, the card names the base model of the folder.
        base (`Mapping[str, Any]`):
            Metadata of the base model's card.
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
        "the sweep were fine-tuned from, head included. It serves as the base model when these runs are averaged.\n"
    )


def write_card(folder: Path, text: str) -> None:
    """Write a card into a folder."""
    (folder / CARD).write_text(encodable(text), encoding="utf-8")
