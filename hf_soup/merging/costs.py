"""What a streamed merge will take: bytes to read and to send, disk, memory and time, from headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.output_layout import OutputLayout
from ..checkpoints.pieces import MAX_THREADS, PIECE
from ..checkpoints.remote_files import RemoteFiles, at_once, window_size
from ..display.tables import align
from ..ranks import Ranks
from .budget import bytes_at_once, read_size
from .buffer import WIDEST
from .joined import join_adapters
from .plan import Plan
from .read_ahead import BASE
from .sums import AT_ONCE


BUFFERS = AT_ONCE // 2 + 2  # of one thread, with the widest elements; inputs that are summed are half as wide
ON_DISK = 2  # shards of a process that are on the disk: one is uploaded while the next is made


class Costs(NamedTuple):
    """The costs of a merge, for each process where there are several.

    Args:
        processes (`int`):
            Number of processes.
        read (`int`):
            Bytes that are requested from servers, by all processes together.
        read_locally (`int`):
            Bytes that are read from disks, by all processes together.
        sent (`int`):
            Bytes of the weights of the soup.
        shards (`int`):
            Number of weight files.
        disk (`int`):
            Largest number of bytes on the disk of a process if the soup is pushed.
        memory (`int`):
            Bytes of memory of a process, beside the libraries and the headers.
        seconds (`float`, *optional*):
            Duration with a given bandwidth; unknown without one.
    """

    processes: int
    read: int
    read_locally: int
    sent: int
    shards: int
    disk: int
    memory: int
    seconds: float | None

    def table(self) -> str:
        """The costs as text."""
        of_process = "" if self.processes == 1 else " of each process"
        lines = [
            ["", "size"],
            ["read from servers", _size(self.read)],
            ["read from disks", _size(self.read_locally)],
            [f"weights of the soup, in {self.shards:,} files", _size(self.sent)],
            [f"disk{of_process} for a push", _size(self.disk)],
            ["disk for a folder", _size(self.sent)],
            [f"memory{of_process}, beside torch", _size(self.memory)],
        ]
        text = align(lines)
        if self.processes > 1:
            text += f"\n\n{self.processes} processes share out the files by their sizes."
        if self.seconds is not None:
            text += f"\n\nAbout {_duration(self.seconds)}, if the bandwidth is the limit."
        return text


def costs_of(
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    layout: OutputLayout,
    *,
    processes: int = 1,
    bandwidth: float | None = None,
) -> Costs:
    """The costs of a merge whose weights are streamed and pushed.

    Args:
        plan ([`Plan`]), checkpoints (`Sequence[Checkpoint]`):
            Plan of the merge, and its ingredients, opened.
        layout ([`OutputLayout`]):
            Files of the soup.
        processes (`int`, *optional*, defaults to 1):
            Number of processes that share the files.
        bandwidth (`float`, *optional*):
            Bytes a second of each process, in each direction.
    """
    joined, items = join_adapters(plan, checkpoints)  # as adapters of one base model are read
    steps = {step.spec.name: step for step in joined.steps}
    remotes: set[RemoteFiles] = set()
    of_shard: list[tuple[int, int]] = []  # bytes read from servers, and from disks
    if plan.base is not None:
        items.append(plan.base)
    for shard in layout.shards:
        from_servers = from_disks = 0
        for name in shard.specs:
            step = steps[name]
            for index in (*step.inputs, BASE) if step.base else step.inputs:
                ranges = list(items[index].byte_ranges(name))
                remotes.update(remote for remote, _ in ranges)
                from_servers += sum(byte_range.stop - byte_range.start for _, byte_range in ranges)
                if not ranges and not items[index].in_memory:
                    from_disks += items[index].specs[name].nbytes
        of_shard.append((from_servers, from_disks))
    sizes = [shard.nbytes for shard in layout.shards]
    seconds = 0.0
    for rank in range(processes):
        own = Ranks(rank, processes).share(sizes)
        seconds = max(seconds, _duration_of([(of_shard[place][0], sizes[place]) for place in own], bandwidth or 1.0))
    whole = max(map(bytes_at_once, plan.steps), default=0)
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    return Costs(
        processes,
        read=sum(read for read, _ in of_shard),
        read_locally=sum(read for _, read in of_shard),
        sent=sum(sizes),
        shards=len(sizes),
        disk=sum(sorted(sizes)[-ON_DISK:]),
        memory=_windows(len(remotes)) + threads * BUFFERS * PIECE * WIDEST + min(whole, read_size(plan.max_memory)),
        seconds=None if bandwidth is None else seconds,
    )


def _windows(n_remotes: int) -> int:
    """The memory of requests in advance."""
    return n_remotes * (at_once(n_remotes) + 2) * window_size(n_remotes) if n_remotes else 0


def _duration_of(shards: Sequence[tuple[int, int]], bandwidth: float) -> float:
    """The seconds that one process takes for shards: each is sent while the next one is read.

    Args:
        shards (`Sequence[tuple[int, int]]`):
            Bytes that are read for a shard, and that are sent.
        bandwidth (`float`):
            Bytes a second, in each direction.
    """
    read_until = sent_until = 0.0
    for read, sent in shards:
        read_until += read / bandwidth
        sent_until = read_until = max(read_until, sent_until)  # the next shard waits until the one before is sent
        sent_until += sent / bandwidth
    return sent_until


def _size(size: int) -> str:
    """A number of bytes for people."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1000:,.1f} kB"


def _duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
