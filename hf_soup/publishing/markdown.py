"""Untrusted names, repositories and code as Markdown of a card, escaped so that they cannot break out."""

from __future__ import annotations

import re

from ..checkpoints.checkpoint import MEMORY, PRIVATE
from ..checkpoints.hub import split_source
from ..checkpoints.hub_answers import is_commit
from ..display.tables import escape
from ..types import Ingredient, Trial
from ..untrusted import printable


def repository_link(repo_id: str) -> str:
    """A link to a repository; plain text if the name cannot be a repository."""
    from huggingface_hub import constants

    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo_id, re.ASCII) is None:
        return escape(repo_id)
    return f"[{escape(repo_id)}]({constants.ENDPOINT}/{repo_id})"


def ingredient_link(item: Ingredient) -> str:
    """An ingredient in a table, with a link to the commit if it is on the Hub."""
    if not item.revision:
        return escape(item.name)
    from huggingface_hub import constants

    source = split_source(item.source)
    if source is None or not is_commit(item.revision):
        return escape(item.source)
    repo_id, subfolder = source  # only letters, digits, dots, dashes and underscores, so the address needs no escapes
    address = f"{constants.ENDPOINT}/{repo_id}/tree/{item.revision}/{subfolder}".rstrip("/")
    return f"[{escape(item.source)}]({address})"


def commit_cell(item: Ingredient) -> str:
    """The cell of an ingredient in the column of commits."""
    if item.revision and is_commit(item.revision):
        return item.revision[:7]
    if item.revision:  # an untrusted recipe may contain anything
        return escape(item.revision)
    return {PRIVATE: "private", MEMORY: "in memory"}.get(item.source, "local")


def trial_row(trial: Trial) -> str:
    """A row of the table of all trials; unknown values are empty cells."""
    score, difference, interval = "", "", ""
    if trial.score is not None:
        score = f"{trial.score:.4f}"
    if trial.difference is not None:
        difference = f"{trial.difference:+.4f}"
    if trial.low is not None and trial.high is not None:
        interval = f"{trial.low:+.4f} to {trial.high:+.4f}"
    kept = "yes" if trial.kept else "no"
    cells = [escape(trial.tried), score, difference, interval, kept, escape(trial.why)]
    return f"| {' | '.join(cells)} |"


def inline_code(text: object) -> str:
    """Text as inline code, with a fence of backticks that the text cannot close."""
    return "`" + re.sub(r"[`|<>\s]+", " ", printable(str(text))).strip() + "`"


def fence_for(text: str) -> str:
    """A fence for a block of code that the block cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
