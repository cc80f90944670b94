"""Processes that make soups together, as torchrun starts them; `test_sharing.py` looks at what they left.

They are forked from one process, because each import of torch takes seconds. Usage: RUNS... OUT, the runs being Hub
ids, and OUT a folder.
"""

import json
import os
import socket
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed  # noqa: F401
import transformers  # noqa: F401

import hf_soup
from hf_soup.publishing import sharing


SIZE = "8KB"
runs, out = sys.argv[1:-1], Path(sys.argv[-1])
warnings.simplefilter("ignore")
finish = sharing.ShardMaker.finish


def together(name, n, work):
    """Call `work(rank)` in n processes, and write what each returns, or its error, to a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        child = os.fork()
        if not child:
            place = {"RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in place.items()})
            try:
                result = work(rank)
            except hf_soup.errors.SoupError as error:
                result = {"error": str(error)}
            except BaseException:
                result = {"crash": traceback.format_exc()}
            (out / f"{name}-{rank}.json").write_text(json.dumps(result))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def save(target, *, dies=None, sources=runs, **options):
    """Save a soup by ranks; a rank dies instead of finishing its second shard. Returns the shards that each made."""

    def work(rank):
        made = []

        def counted(self, shard, aside, digested):
            if rank == dies and made:
                os._exit(9)
            made.append(shard.file)
            return finish(self, shard, aside, digested)

        sharing.ShardMaker.finish = counted
        if callable(options.get("weights")):
            options["weights"] = options["weights"](rank)
        soup = hf_soup.merge(sources, executor="ranks", **options)
        place = target(rank) if callable(target) else target
        soup.save_pretrained(place, max_shard_size=SIZE)
        return made

    return work


def fail_once(rank):
    """Save a soup of which one rank cannot write a shard, and then once more."""

    def failing(self, shard, aside, digested):
        if rank == 1:
            raise OSError(28, "No space left on device")
        return finish(self, shard, aside, digested)

    soup = hf_soup.merge(runs, executor="ranks")
    sharing.ShardMaker.finish = failing
    try:
        soup.save_pretrained(out / "fails", max_shard_size=SIZE)
        result = {}
    except hf_soup.errors.SoupError as error:
        result = {"error": str(error)}
    sharing.ShardMaker.finish = finish
    soup.save_pretrained(out / "fails", max_shard_size=SIZE)
    return result


def push(rank):
    """Push a soup of streamed weights by ranks."""
    soup = hf_soup.merge(runs, executor="ranks", stream=True)
    commit = soup.push_to_hub("by-ranks", max_shard_size=SIZE)
    return {"commit": commit.oid}


for count in (1, 2, 3, 7):
    together(f"save-{count}", count, save(out / f"soup-{count}", stream=True))
together("push", 3, push)
together("fails", 3, fail_once)
together("dies", 3, save(out / "resumed", dies=1))
(out / "after-death").write_text(json.dumps([(out / "resumed").exists(), os.listdir(out)]))
together("resumed", 2, save(out / "resumed"))
together("blind", 2, save(lambda rank: out / f"disk-{rank}" / "soup"))
together("differ", 2, save(out / "differ", weights=lambda rank: [1, 1, 1 + rank]))
