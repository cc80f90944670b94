"""Processes that `torchrun` or `srun` has started together, on one machine or many, and what they tell each other.

What they work on is unknown here.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from .errors import RecipeError, SoupError


# Variables for the number of a process and of all processes: those of torchrun, then those of srun. The script of a
# batch job, which is a single process, has SLURM_NTASKS as well, but not the last one.
VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
PLACE = ("MASTER_ADDR", "MASTER_PORT")  # where the first process listens
MEET = datetime.timedelta(minutes=30)  # until all processes have opened their ingredients
LONGEST = datetime.timedelta(days=7)  # that a process waits for the others, unless one of them dies
OFTEN = 0.5  # seconds between two looks for a signal
RANKS = "ranks"  # the executor that shares work out among them
T = TypeVar("T")


class Ranks(NamedTuple):
    """The number of this process, and how many there are.

    Args:
        rank (`int`):
            Number of this process, from 0.
        size (`int`):
            Number of processes.
    """

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes what there is one of."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their numbers.

        Raises:
            [`SoupError`]: if another process has died.
        """
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        group = _group_beside(dist.group.WORLD)
        values: list[Any] = [None] * self.size
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                dist.all_gather_object(values, value, group=group)
            except BaseException as error:  # also of a value that cannot be sent
                errors.append(error)

        # Not in this thread, which would not notice Ctrl-C or the end of the job while it waits.
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(OFTEN)
        if errors:
            reason = str(errors[0]).splitlines() or [type(errors[0]).__name__]
            raise SoupError(
                f"rank {self.rank} lost the connection to another rank, which has probably died: {reason[0]} Run the "
                "same command again: finished shards are kept."
            )
        return values

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raise an error of one process in all of them at the end of the block, so that none waits for it.

        Raises:
            [`SoupError`]: on the ranks that had no error themselves.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        if self.size > 1:
            errors = self.gather(None if own is None else f"{own}")
            others = [f"rank {rank}: {text}" for rank, text in enumerate(errors) if text is not None]
            if own is None and others:
                raise SoupError(others[0])
        if own is not None:
            raise own

    def share(self, sizes: Sequence[int]) -> list[int]:
        """The places of the items of this process: consecutive ones, of about the same size as those of the others.

        Args:
            sizes (`Sequence[int]`):
                Size of each item.
        """
        total, before = sum(sizes), 0
        own = []
        for place, size in enumerate(sizes):
            middle = before + size / 2
            if total and min(int(middle * self.size / total), self.size - 1) == self.rank:
                own.append(place)
            before += size
        if not total and self.is_first:
            return list(range(len(sizes)))
        return own


ALONE = Ranks(0, 1)


@functools.lru_cache(maxsize=1)
def _group_beside(world: object) -> Any:
    """A group of all processes that sends values of Python, with a longer time limit than that of a script."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=LONGEST)


def find_ranks() -> Ranks:
    """The ranks that the environment describes; a single one if it describes none.

    Raises:
        [`RecipeError`]: if the variables hold no numbers.
    """
    for rank, size in VARIABLES:
        if rank in os.environ and size in os.environ:
            try:
                found = Ranks(int(os.environ[rank]), int(os.environ[size]))
            except ValueError:
                found = Ranks(-1, 0)
            if not 0 <= found.rank < found.size:
                raise RecipeError(f"{rank}={os.environ[rank]} and {size}={os.environ[size]} are no ranks.")
            return found
    return ALONE


def join_ranks(executor: str) -> Ranks:
    """The ranks of this process, connected to each other until it ends; a single rank for other executors.

    A process group that exists already is used.

    Args:
        executor (`str`):
            `"ranks"`, or another one.

    Raises:
        [`RecipeError`]: if the environment does not say where the first process listens.
        [`SoupError`]: if the ranks do not meet there.
    """
    ranks = find_ranks() if executor == RANKS else ALONE
    if ranks.size == 1:
        return ranks
    import torch.distributed as dist

    if dist.is_initialized():
        return ranks
    missing = [name for name in PLACE if name not in os.environ]
    if missing:
        raise RecipeError(
            f"{' and '.join(missing)} is not set, where the ranks meet. torchrun sets it; with srun, export "
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) and MASTER_PORT=29500.'
        )
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", ranks.rank, ranks.size, timeout=MEET))
        dist.init_process_group("gloo", store=store, rank=ranks.rank, world_size=ranks.size, timeout=LONGEST)
    except RuntimeError as error:
        place = ":".join(os.environ[name] for name in PLACE)
        raise SoupError(f"the ranks do not meet at {place}: {str(error).splitlines()[0]}") from None
    return ranks
