"""An ingredient with the rows of a common vocabulary: its own rows in another order, and those that it lacks.

Which rows these are is decided in `vocabularies.py`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .checkpoint import GENERATION, Checkpoint
from .companion_files import TEMPLATES, TOKENIZER, CompanionFiles
from .companions import mapping_of
from .digest import bytes_of, tensor_digest
from .files import OpenFiles
from .remote_files import ByteRange, RemoteFiles


if TYPE_CHECKING:
    import torch

# Settings with ids of tokens, in configurations of models and of generation.
IDS = re.compile(r".*_token_ids?|.*_token_index|(begin_)?suppress_tokens|bad_words_ids|force_words_ids")


class Run(NamedTuple):
    """Consecutive rows of a table that come from one place.

    Args:
        begin (`int`), length (`int`):
            The first row of the common vocabulary, and the number of rows.
        source (`int`):
            The first of the ingredient's own rows, or of those that it lacks.
        is_own (`bool`):
            Whether they are the ingredient's own.
    """

    begin: int
    length: int
    source: int
    is_own: bool


@dataclass(frozen=True, eq=False)
class Holder:
    """A model and the rows of its tokens.

    Args:
        item (`Checkpoint`):
            The model, opened.
        ids (`Mapping[str, int]`):
            Token -> row.
        tables (`tuple[str, ...]`):
            Names of the tensors with a row for each token.
        rows (`int`):
            Number of their rows.
    """

    item: Checkpoint
    ids: Mapping[str, int]
    tables: tuple[str, ...]
    rows: int

    @functools.cached_property
    def padding(self) -> frozenset[int]:
        """Rows without a token."""
        return frozenset(range(self.rows)) - frozenset(self.ids.values())

    def row_of(self, wanted: str | int) -> int | None:
        """The row of a token, or one without a token of a certain number; `None` if it has none."""
        if isinstance(wanted, str):
            return self.ids.get(wanted)
        return wanted if wanted in self.padding else None


class Rows(NamedTuple):
    """All models that may have a row which an ingredient lacks.

    Args:
        holders (`tuple[Holder, ...]`):
            The ingredients.
        base (`Holder`, *optional*):
            The base model, whose rows come before those of the ingredients.
    """

    holders: tuple[Holder, ...]
    base: Holder | None

    def of(self, item: Checkpoint, table: str, width: int, wanted: Sequence[str | int]) -> torch.Tensor:
        """Rows that an ingredient lacks: the base model's, else the mean of those that have it, else its mean row.

        Args:
            item (`Checkpoint`):
                The ingredient.
            table (`str`), width (`int`):
                Name of the tensor, and numbers in a row.
            wanted (`Sequence[str | int]`):
                Token of each row, or the number of a row without a token.

        Returns:
            `torch.Tensor` of shape `(rows, width)`, float64
        """
        import torch

        sums = torch.zeros(len(wanted), width, dtype=torch.float64)
        counts = torch.zeros(len(wanted), 1, dtype=torch.float64)
        for holder, places in self._places(table, wanted):
            rows = [holder.row_of(wanted[place]) for place in places]
            sums[places] += _read_rows(holder.item, table, width, [row for row in rows if row is not None])
            counts[places] += 1
        if not counts.all():
            mean_row = item.read(table).double().reshape(-1, width).mean(0)
            sums = torch.where(counts == 0, mean_row, sums)
        return sums / counts.clamp(min=1)

    def _places(self, table: str, wanted: Sequence[str | int]) -> list[tuple[Holder, list[int]]]:
        """The models to read, each with the places of the rows that it gives."""
        left = list(range(len(wanted)))
        found: list[tuple[Holder, list[int]]] = []
        if self.base is not None and table in self.base.tables:
            of_base = [place for place in left if isinstance(wanted[place], str) and wanted[place] in self.base.ids]
            found.append((self.base, of_base))
            left = [place for place in left if place not in set(of_base)]
        for holder in self.holders:
            places = [place for place in left if holder.row_of(wanted[place]) is not None]
            found.append((holder, places))
        return [(holder, places) for holder, places in found if places and table in holder.tables]


def _read_rows(item: Checkpoint, table: str, width: int, rows: Sequence[int]) -> torch.Tensor:
    """Some rows of a table, in float64."""
    import torch

    tensor = torch.empty(len(rows), width, dtype=getattr(torch, item.specs[table].dtype))
    with OpenFiles() as files:
        for place, row in enumerate(rows):
            item.read_into(files, table, row * width, bytes_of(tensor[place]))
    return tensor.double()


@dataclass(frozen=True, kw_only=True)
class CommonVocabulary(Checkpoint):
    """An ingredient with the rows of a common vocabulary; it is read like any other.

    Args:
        own (`Checkpoint`):
            The ingredient as it was opened.
        tables (`tuple[str, ...]`):
            Names of the tensors with a row for each token.
        runs (`tuple[Run, ...]`):
            Where their rows come from, in order.
        wanted (`tuple[str | int, ...]`):
            The rows that it lacks, by token or by number.
        rows_before (`int`):
            Number of rows of its own tables.
        rows ([`Rows`]):
            The models that may have them.
        tokenizer (`Path`):
            Folder of the common tokenizer.
        defaults (`Mapping[str, Any]`):
            Settings of the model whose ids are kept, for tokens that were dropped.
    """

    own: Checkpoint
    tables: tuple[str, ...]
    runs: tuple[Run, ...]
    wanted: tuple[str | int, ...]
    rows_before: int
    rows: Rows = field(compare=False, repr=False)
    tokenizer: Path
    defaults: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def processing_folder(self) -> Path:
        """The folder of the common tokenizer."""
        return self.tokenizer

    @functools.cached_property
    def companions(self) -> Mapping[str, bytes]:
        """The companion files, with the common tokenizer and its templates in place of its own."""
        files: dict[str, bytes] = {}
        for name, content in self.own.companions.items():
            if not _is_of_tokenizer(name):
                files[name] = content
        if GENERATION in files:
            settings = with_ids(mapping_of(files, GENERATION), self.new_ids, self.defaults)
            files[GENERATION] = json.dumps(settings, indent=2).encode()
        names = [path.relative_to(self.tokenizer).as_posix() for path in self.tokenizer.rglob("*") if path.is_file()]
        of_tokenizer = tuple(sorted(filter(_is_of_tokenizer, names)))
        return {**files, **CompanionFiles(self.tokenizer, of_tokenizer)}

    @functools.cached_property
    def new_ids(self) -> dict[int, int | None]:
        """Own row -> row of the common vocabulary; `None` if it was dropped."""
        ids: dict[int, int | None] = dict.fromkeys(range(self.rows_before))
        for run in self.runs:
            if run.is_own:
                ids |= {run.source + place: run.begin + place for place in range(run.length)}
        return ids

    @functools.cached_property
    def lacking(self) -> dict[str, torch.Tensor]:
        """Table -> the rows that the ingredient lacks, flat; they are read when they are first needed."""
        import torch

        lacking = {}
        for table in self.tables:
            width = self.own.specs[table].numel // self.rows_before
            rows = self.rows.of(self.own, table, width, self.wanted)
            lacking[table] = rows.to(getattr(torch, self.specs[table].dtype)).reshape(-1)
        return lacking

    @property
    def unequal_twins(self) -> tuple[tuple[str, str], ...]:
        """Tied weights that the files store twice with different values."""
        return self.own.unequal_twins

    def byte_ranges(self, name: str) -> Iterator[tuple[RemoteFiles, ByteRange]]:
        """The bytes of the own tensor on servers; single rows of others are read when they are needed."""
        yield from self.own.byte_ranges(name)

    def prepare(self) -> None:
        """Read the rows that it lacks."""
        _ = self.lacking

    def digests_apart(self) -> dict[str, str]:
        """Digests of the tables as they are stored."""
        return {name: tensor_digest(self.own.read(name)) for name in self.tables}

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor on the CPU."""
        import torch

        if name not in self.tables:
            return self.own.read(name)
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
        with OpenFiles() as files:
            self.read_into(files, name, 0, bytes_of(tensor))
        return tensor

    def read_into(self, files: OpenFiles, name: str, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of one tensor."""
        if name not in self.tables:
            self.own.read_into(files, name, start, into)
            return
        spec = self.specs[name]
        width = math.prod(spec.shape) // sum(run.length for run in self.runs)
        stop = start + len(into) // spec.itemsize
        for run in self.runs:
            first, last = max(start, run.begin * width), min(stop, (run.begin + run.length) * width)
            if first >= last:
                continue
            part = into[(first - start) * spec.itemsize : (last - start) * spec.itemsize]
            source = first + (run.source - run.begin) * width
            if run.is_own:
                self._read_own(files, name, source, part)
            else:
                part[:] = bytes_of(self.lacking[name][source : source + last - first])

    def _read_own(self, files: OpenFiles, name: str, start: int, into: memoryview) -> None:
        """Copy own elements, in the type of the common vocabulary."""
        import torch

        spec, own = self.specs[name], self.own.specs[name]
        if spec.dtype == own.dtype:
            self.own.read_into(files, name, start, into)
            return
        narrow = torch.empty(len(into) // spec.itemsize, dtype=getattr(torch, own.dtype))
        self.own.read_into(files, name, start, bytes_of(narrow))
        into[:] = bytes_of(narrow.to(getattr(torch, spec.dtype)))

    def read_row(self, files: OpenFiles, names: Sequence[str], into: memoryview) -> None:
        """Copy the bytes of complete tensors, one after the other."""
        if set(self.tables).isdisjoint(names):
            self.own.read_row(files, names, into)
            return
        place = 0
        for name in names:
            size = self.specs[name].nbytes
            self.read_into(files, name, 0, into[place : place + size])
            place += size


def _is_of_tokenizer(name: str) -> bool:
    return TOKENIZER.fullmatch(name) is not None or TEMPLATES.fullmatch(name) is not None


def with_ids(
    settings: Mapping[str, Any], ids: Mapping[int, int | None], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings with the ids of tokens (`pad_token_id`, `eos_token_id` ...) in the common vocabulary.

    Args:
        settings (`Mapping[str, Any]`):
            Content of `config.json` or `generation_config.json`.
        ids (`Mapping[int, int | None]`):
            Own row -> row of the common vocabulary; `None` if it was dropped. Other numbers are no ids.
        defaults (`Mapping[str, Any]`):
            Settings of the model whose ids are kept: their values stand for those of dropped tokens.
    """
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        own_defaults = defaults.get(key)
        if isinstance(value, Mapping):
            changed[key] = with_ids(value, ids, own_defaults if isinstance(own_defaults, Mapping) else {})
        elif IDS.fullmatch(key):
            new = _new_ids(value, ids)
            changed[key] = own_defaults if new is None else new
        else:
            changed[key] = value
    return changed


def _new_ids(value: Any, ids: Mapping[int, int | None]) -> Any:
    """An id, or ids in lists, in the common vocabulary; `None` for a dropped one, which lists leave out."""
    if isinstance(value, bool) or not isinstance(value, (int, list)):
        return value
    if isinstance(value, int):
        return ids.get(value, value)
    new = [_new_ids(each, ids) for each in value]
    return [each for each in new if each is not None]
