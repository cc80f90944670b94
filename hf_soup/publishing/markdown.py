"""Names, repositories and code from elsewhere as the Markdown of a card: none of them can break out of its place."""

from __future__ import annotations

import re

from ..checkpoints.checkpoint import MEMORY, PRIVATE
from ..checkpoints.hub import split_source
from ..checkpoints.hub_answers import is_commit
from ..display.tables import escape
from ..types import Ingredient, Trial
from ..untrusted import printable


def repository_link(repo_id: str) -> str:
    """A repository with a link to it; what cannot be one is plain text."""
    from huggingface_hub import constants

    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo_id, re.ASCII) is None:
        return escape(repo_id)
    return f"[{escape(repo_id)}]({constants.ENDPOINT}/{repo_id})"


def ingredient_link(item: Ingredient) -> str:
    """An ingredient as a table shows it; one of the Hub with a link to the commit."""
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
    """What the column of commits says of an ingredient."""
    if item.revision and is_commit(item.revision):
        return item.revision[:7]
    if item.revision:  # a recipe of a stranger may say anything
        return escape(item.revision)
    return {PRIVATE: "private", MEMORY: "in memory"}.get(item.source, "local")


def trial_row(trial: Trial) -> str:
    """A row of the table of all trials; what is not known of a trial is an empty cell."""
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
    """Text between backticks, which it cannot leave."""
    return "`" + re.sub(r"[`|<>\s]+", " ", printable(str(text))).strip() + "`"


def fence_for(text: str) -> str:
    """A fence around a block of code that nothing in the block can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)
