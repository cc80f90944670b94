"""A soup made shard by shard: shared out among processes, finished shards kept until all are, or uploaded at once.

Each shard that is whole has a record, from which an interrupted merge goes on. The bits do not depend on who makes a
shard, nor on how often the work was interrupted.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.output_layout import OutputLayout, OutputShard
from ..checkpoints.remote_files import OtherContentsError
from ..checkpoints.staging import flush_folder, temporary_folder, write_json
from ..checkpoints.targets import as_output_error
from ..errors import SoupError
from ..merging.output import Digested, make_shards
from ..merging.plan import Plan
from ..parallel import run_all
from ..plugins import load_function
from ..ranks import Ranks
from ..threads import submit
from ..types import Recipe
from ..untrusted import read_json
from ..version import versions
from .upload import Upload, Uploaded


if TYPE_CHECKING:
    import torch

RECORDS = ".finished"  # folder of the records of finished shards, in that of the shards
OLD = 30 * 86400.0  # seconds after which the records of an interrupted push are deleted


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard.

    Args:
        digested ([`Digested`]):
            What was read and written for it.
        uploaded ([`Uploaded`], *optional*):
            What the Hub knows it by, if it was uploaded; it is not on the disk then.
    """

    digested: Digested
    uploaded: Uploaded | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON."""
        verified = [sorted(files) for files in self.digested.verified]
        uploaded = None if self.uploaded is None else asdict(self.uploaded)
        return {
            "written": self.digested.written,
            "read": self.digested.read,
            "verified": verified,
            "uploaded": uploaded,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ShardRecord:
        """The record that JSON describes."""
        verified = tuple(frozenset(files) for files in content["verified"])
        digested = Digested(dict(content["written"]), tuple(map(dict, content["read"])), verified)
        uploaded = None if content["uploaded"] is None else Uploaded(**content["uploaded"])
        return cls(digested, uploaded)


@dataclass(frozen=True)
class ShardMaker:
    """Makes any shard of a soup, in any process.

    Args:
        plan ([`Plan`]), checkpoints (`tuple[Checkpoint, ...]`):
            Plan of the soup, and its ingredients.
        statistics (`Mapping[str, torch.Tensor]`):
            Tensors that replace averages.
        device (`str`):
            Device on which tensors are averaged.
        folder (`Path`):
            Folder of the records; also of the shards, unless they are uploaded.
        upload ([`Upload`], *optional*):
            Where shards are uploaded to.
    """

    plan: Plan
    checkpoints: tuple[Checkpoint, ...]
    statistics: Mapping[str, torch.Tensor]
    device: str
    folder: Path
    upload: Upload | None = None

    def finished(self, shard: OutputShard) -> ShardRecord | None:
        """The record of a shard that is whole: on the disk, or on the Hub."""
        try:
            record = ShardRecord.from_dict(read_json(self._record_of(shard)))
            if self.upload is not None:
                is_there = record.uploaded is not None and self.upload.has(record.uploaded)
            else:
                is_there = (self.folder / shard.file).stat().st_size == shard.nbytes
        except (OSError, SoupError, TypeError, KeyError, ValueError, AttributeError):
            return None  # missing or damaged: it is made again
        return record if is_there else None

    def make(self, shard: OutputShard, aside: Path) -> Digested:
        """Average the tensors of a shard, and write them to a folder aside."""
        return make_shards(aside, [shard], self.plan, self.checkpoints, statistics=self.statistics, device=self.device)

    def finish(self, shard: OutputShard, aside: Path, digested: Digested) -> ShardRecord:
        """Upload a shard that was written aside, or give it its name, and record it."""
        path = aside / shard.file
        if self.upload is not None:
            uploaded = self.upload.send(path, shard.file)
            path.unlink()
            record = ShardRecord(digested, uploaded)
        else:
            flush_folder(path.parent)
            place = self.folder / shard.file
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
            record = ShardRecord(digested)
        write_json(self._record_of(shard), record.as_dict())
        return record

    def _record_of(self, shard: OutputShard) -> Path:
        return self.folder / RECORDS / f"{shard.file}.json"

    def make_all(self, shards: Sequence[OutputShard]) -> Iterator[ShardRecord]:
        """Several shards one after the other, each of which is uploaded while the next one is made."""
        with self._folder_aside() as aside, ThreadPoolExecutor(1) as pool:
            last: Future[ShardRecord] | None = None
            for shard in shards:
                record = self.finished(shard)
                if record is not None:
                    yield record
                    continue
                digested = self.make(shard, aside)
                if last is not None:  # so that two shards are on the disk at most
                    yield last.result()
                last = submit(pool, self.finish, shard, aside, digested)
                if last is None:  # the system provides no threads
                    yield self.finish(shard, aside, digested)
            if last is not None:
                yield last.result()

    @contextlib.contextmanager
    def _folder_aside(self) -> Iterator[Path]:
        """A folder for the shards under way, on the disk of their future place."""
        if self.upload is not None:
            with temporary_folder() as folder:
                yield folder
            return
        # Processes of several machines share the folder, so that none may clear what another one has left.
        with tempfile.TemporaryDirectory(prefix=".aside-", dir=self.folder) as aside:
            yield Path(aside)


def make_by_shard(maker: ShardMaker, layout: OutputLayout, *, executor: str, ranks: Ranks) -> list[ShardRecord]:
    """Make all shards that are not finished yet.

    Args:
        maker ([`ShardMaker`]):
            Makes one of them.
        layout ([`OutputLayout`]):
            All of them.
        executor (`str`):
            Where they are made: `"local"`, one after the other; `"ranks"`, shared out by their sizes; or `"ray"`.
        ranks ([`Ranks`]):
            The ranks, for that executor.

    Returns:
        `list[ShardRecord]`: the records of all shards, on each rank.

    Raises:
        [`SoupError`]: if an ingredient cannot be read, or another rank has died.
    """
    records: list[ShardRecord] = []
    with ranks.together(), as_output_error(maker.folder):
        (maker.folder / RECORDS).mkdir(parents=True, exist_ok=True)
        try:
            if executor == "ray":
                by_place = dict(run_all(partial(_make_one, maker), layout.shards, executor=executor))
                return [by_place[place] for place in range(len(layout.shards))]
            own = [layout.shards[place] for place in ranks.share([shard.nbytes for shard in layout.shards])]
            records = list(maker.make_all(own))
        except OtherContentsError:  # shards that are finished may have been made from the same file
            shutil.rmtree(maker.folder / RECORDS, ignore_errors=True)
            raise
    return [record for of_rank in ranks.gather(records) for record in of_rank]


def _make_one(maker: ShardMaker, shard: OutputShard) -> ShardRecord:
    (record,) = maker.make_all([shard])
    return record


def key_of(recipe: Recipe, layout: OutputLayout, *further: str) -> str:
    """A name for everything that decides the bytes of the shards, so that only the same work goes on with them.

    Args:
        recipe ([`Recipe`]), layout ([`OutputLayout`]):
            The soup and its files.
        *further (`str`):
            The device, the digest of statistics, and where the soup goes.
    """
    import xxhash

    files = [[shard.file, shard.nbytes] for shard in layout.shards]
    method = _code_of(recipe.method)
    content = json.dumps([recipe.fingerprint(), files, versions(), method, further], sort_keys=True)
    return xxhash.xxh3_64_hexdigest(content.encode())


def _code_of(method: str) -> str:
    """The source of the file that holds a method, which users write and correct; empty if there is none."""
    try:
        return Path(inspect.getfile(load_function("method", method))).read_text(encoding="utf-8")
    except (OSError, TypeError, ValueError):
        return ""


def folder_of_records(key: str) -> Path:
    """The folder of the records of a push, which is deleted when it has succeeded; old ones are deleted here."""
    from huggingface_hub.constants import HF_HOME

    place = Path(HF_HOME) / "hf_soup" / "unfinished"
    with as_output_error(place):
        place.mkdir(parents=True, exist_ok=True)
        for folder in place.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
                if time.time() - folder.stat().st_mtime > OLD:
                    shutil.rmtree(folder, ignore_errors=True)
    return place / key
