"""Commands that torchrun or srun has started several times: they share work out, and only the first one speaks."""

from __future__ import annotations

from ..errors import SoupError
from ..ranks import ALONE, RANKS, find_ranks


def executor_here(executor: str) -> str:
    """The executor of a command: the ranks, if there are several and no other executor was asked for."""
    return RANKS if executor == "local" and find_ranks().size > 1 else executor


def speaks() -> bool:
    """Whether this process shows results, notes and progress bars."""
    try:
        ranks = find_ranks()
    except SoupError:  # commands without ranks ignore the variables
        ranks = ALONE
    return ranks.is_first
