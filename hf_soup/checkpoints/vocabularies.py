"""One vocabulary for ingredients whose tokenizers have added tokens: the union of all, or that of one of them.

Each ingredient is given the rows of the common vocabulary: its own where it has the token, and where it lacks a token
those of the ingredients that have it. Everything else then works as for ingredients with equal tokenizers.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import IncompatibleError, RecipeError, did_you_mean, listed
from ..untrusted import one_line
from .checkpoint import GENERATION, Checkpoint
from .companion_files import PROCESSOR, TEMPLATES, TOKENIZER, CompanionFiles
from .companions import companions_of, mapping_of
from .differences import find_differences
from .digest import bytes_of, tensor_digest
from .files import OpenFiles
from .memory import architecture, quiet_transformers
from .staging import staged_folder, temporary_folder
from .tokenization import NOTED
from .tokenizer_settings import ADDED, POST_PROCESSOR, ROLE, build_tokenizers


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

UNION = "union"
MOST_PADDING = 1024  # of which rows may be padded to a multiple


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


@dataclass(frozen=True, kw_only=True)
class CommonVocabulary(Checkpoint):
    """An ingredient with the rows of a common vocabulary; it is read like any other.

    Args:
        own (`Checkpoint`):
            The ingredient as it was opened.
        runs (`tuple[Run, ...]`):
            Where the rows of its tables come from, in order.
        lacking (`Mapping[str, torch.Tensor]`):
            Table -> the rows that the ingredient lacks, in its own type.
        tokenizer (`Path`):
            Folder of the common tokenizer.
    """

    own: Checkpoint
    runs: tuple[Run, ...]
    lacking: Mapping[str, torch.Tensor] = field(compare=False)
    tokenizer: Path

    @property
    def processing_folder(self) -> Path:
        """The folder of the common tokenizer."""
        return self.tokenizer

    @functools.cached_property
    def companions(self) -> Mapping[str, bytes]:
        """The companion files, with those of the common tokenizer in place of its own."""
        files: dict[str, bytes] = {}
        for name, content in self.own.companions.items():
            if not TOKENIZER.fullmatch(name):
                files[name] = content
        if GENERATION in files:
            own = mapping_of(files, GENERATION)
            files[GENERATION] = json.dumps(_with_ids(own, self._ids), indent=2).encode()
        names = tuple(sorted(path.name for path in self.tokenizer.iterdir() if TOKENIZER.fullmatch(path.name)))
        return {**files, **CompanionFiles(self.tokenizer, names)}

    @functools.cached_property
    def _ids(self) -> dict[int, int]:
        """Own row -> row of the common vocabulary."""
        ids: dict[int, int] = {}
        for run in self.runs:
            if run.is_own:
                ids |= {run.source + place: run.begin + place for place in range(run.length)}
        return ids

    @property
    def unequal_twins(self) -> tuple[tuple[str, str], ...]:
        """Tied weights that the files store twice with different values."""
        return self.own.unequal_twins

    def digests_apart(self) -> dict[str, str]:
        """Digests of the tables as they are stored."""
        return {name: tensor_digest(self.own.read(name)) for name in self.lacking}

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor on the CPU."""
        import torch

        if name not in self.lacking:
            return self.own.read(name)
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
        with OpenFiles() as files:
            self.read_into(files, name, 0, bytes_of(tensor))
        return tensor

    def read_into(self, files: OpenFiles, name: str, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of one tensor."""
        if name not in self.lacking:
            self.own.read_into(files, name, start, into)
            return
        spec, lacking = self.specs[name], self.lacking[name].reshape(-1)
        width = math.prod(spec.shape[1:])
        stop = start + len(into) // spec.itemsize
        for run in self.runs:
            first, last = max(start, run.begin * width), min(stop, (run.begin + run.length) * width)
            if first >= last:
                continue
            part = into[(first - start) * spec.itemsize : (last - start) * spec.itemsize]
            source = first + (run.source - run.begin) * width
            if run.is_own:
                self.own.read_into(files, name, source, part)
            else:
                part[:] = bytes_of(lacking[source : source + last - first])

    def read_row(self, files: OpenFiles, names: Sequence[str], into: memoryview) -> None:
        """Copy the bytes of complete tensors, one after the other."""
        if self.lacking.keys().isdisjoint(names):
            self.own.read_row(files, names, into)
            return
        place = 0
        for name in names:
            size = self.specs[name].nbytes
            self.read_into(files, name, 0, into[place : place + size])
            place += size


class _Tokens(NamedTuple):
    """The tokenizer of an ingredient and its tables.

    Args:
        item (`Checkpoint`):
            The ingredient.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        ids (`dict[str, int]`):
            Token -> id.
        tables (`tuple[str, ...]`):
            Names of the tensors with a row for each token.
        rows (`int`):
            Number of their rows.
    """

    item: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    ids: dict[str, int]
    tables: tuple[str, ...]
    rows: int

    @property
    def padding(self) -> set[int]:
        """Rows without a token."""
        return set(range(self.rows)) - set(self.ids.values())


def with_common_vocabulary(
    items: Sequence[Checkpoint], base: Checkpoint | None, vocabulary: str, *, settings: str | None = None
) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
    """Give ingredients that differ in added tokens the rows of one vocabulary.

    Rows that an ingredient lacks are those of the base model, or else the mean of the ingredients that have the token.

    Args:
        items (`Sequence[Checkpoint]`):
            The ingredients, opened.
        base (`Checkpoint`, *optional*):
            The base model, opened.
        vocabulary (`str`):
            `"union"` for the tokens of all, or the name of the ingredient or base model whose tokenizer is kept.
        settings (`str`, *optional*):
            Name of the ingredient that gives the settings, whose ids the union keeps; by default the first by name,
            since a strategy may change the order.

    Returns:
        `tuple[tuple[Checkpoint, ...], Checkpoint | None]`: the ingredients and the base model with equal tokenizers.

    Raises:
        [`RecipeError`]: if there is no model of this name.
        [`IncompatibleError`]: if the tokenizers differ in more than added tokens, so that the ids of one text would
            change their meaning.
    """
    everything = [*items] if base is None else [*items, base]
    names = [item.name for item in everything]
    reference_name = settings or min(item.name for item in items)
    if vocabulary != UNION:
        reference_name = vocabulary
    if reference_name not in names:
        raise RecipeError(
            f'vocabulary is "{UNION}" or the name of a model, not {one_line(repr(vocabulary))}'
            f"{did_you_mean(vocabulary, [UNION, *names])}"
        )
    if _have_equal_vocabularies(everything):
        return tuple(items), base
    _refuse_other_tokenizers(everything, reference_name)
    of_items = {item.name: _tokens_of(item) for item in sorted(items, key=lambda item: item.name)}
    of_base = None if base is None else _tokens_of(base)
    tokens = list(of_items.values()) if of_base is None else [*of_items.values(), of_base]
    reference = next(each for each in tokens if each.item.name == reference_name)
    _refuse_other_meanings(tokens, reference)
    folder = _common_tokenizer(reference, tokens if vocabulary == UNION else [])
    ids = _load(folder).get_vocab()
    rows = _row_count(reference, tokens, ids)
    source = _Rows(list(of_items.values()), of_base)
    common = tuple(_in_common(of_items[item.name], ids, rows, folder, source) for item in items)
    return common, None if of_base is None else _in_common(of_base, ids, rows, folder, source)


def _have_equal_vocabularies(items: Sequence[Checkpoint]) -> bool:
    """Whether all ingredients have the same tokenizer files, if any, and as many rows."""
    sizes = {
        json.dumps([item.config.get("vocab_size"), item.config.get("text_config")], default=str) for item in items
    }
    files = {companions_of(item, lambda name: bool(TOKENIZER.fullmatch(name))) for item in items}
    return len(sizes) == 1 and len(files) == 1


def _refuse_other_tokenizers(items: Sequence[Checkpoint], reference: str) -> None:
    """Raise an error for tokenizers that differ in more than added tokens.

    Raises:
        [`IncompatibleError`]: naming each ingredient and a difference.
    """
    files = {item.name: companions_of(item, lambda name: bool(TOKENIZER.fullmatch(name))) for item in items}
    without = [name for name, own in files.items() if not own.digests]
    built = build_tokenizers(own for own in files.values() if own.digests)
    if without or built is None:
        which = listed(without) if without else listed(files)
        raise IncompatibleError([f"a common vocabulary needs the tokenizers of all ingredients, and {which} has none"])
    problems = []
    usual = dict(built[files[reference]].settings)
    for name, own in files.items():
        settings = built[own].settings
        for difference in find_differences({reference: usual, name: settings}):
            value, usual_value = difference.values[name], difference.values[reference]
            is_absent = value is None or usual_value is None
            if is_absent and (difference.name.startswith(ADDED) or ROLE.search(difference.name)):
                continue  # a token that one of them lacks
            if NOTED.search(difference.name) or _is_list_of_tokens(difference.name):
                continue
            what = "the post-processor" if difference.name == POST_PROCESSOR else difference.name
            problems.append(
                f"{name} has another tokenizer than {reference}: {what} differs, so ids of one text would change "
                "their meaning"
            )
            break
    if problems:
        raise IncompatibleError(problems)


def _is_list_of_tokens(name: str) -> bool:
    return name.startswith(("additional_special_tokens", "extra_special_tokens"))


def _refuse_other_meanings(tokens: Iterable[_Tokens], reference: _Tokens) -> None:
    """Raise an error for vocabularies whose tokens, without added ones, have other ids than those of the reference.

    Raises:
        [`IncompatibleError`]: naming each ingredient and some tokens.
    """
    problems = []
    for each in tokens:
        moved = []
        for token, index in each.ids.items():
            is_added = (
                token in each.tokenizer.added_tokens_encoder or token in reference.tokenizer.added_tokens_encoder
            )
            if not is_added and reference.ids.get(token) != index:
                moved.append(one_line(repr(token), 30))
        if moved:
            problems.append(
                f"{each.item.name} has another vocabulary than {reference.item.name}: {len(moved)} tokens that were "
                f"not added have other ids, such as {listed(sorted(moved), 3)}"
            )
    if problems:
        raise IncompatibleError(problems)


def _tokens_of(item: Checkpoint) -> _Tokens:
    """The tokenizer and the tables of an ingredient."""
    with temporary_folder() as folder:
        for name, content in item.companions.items():
            if TOKENIZER.fullmatch(name) and "/" not in name:
                (folder / name).write_bytes(content)
        (folder / "config.json").write_text(json.dumps({"model_type": item.config.get("model_type")}))
        tokenizer = _load(folder)
    tables = _tables(item)
    return _Tokens(item, tokenizer, tokenizer.get_vocab(), tables, item.specs[tables[0]].shape[0])


def _load(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _tables(item: Checkpoint) -> tuple[str, ...]:
    """The tensors of a model with a row for each token: embeddings, and the weight and bias of its output.

    Raises:
        [`IncompatibleError`]: if the model has none.
    """
    import torch
    from transformers import CONFIG_MAPPING

    _, cls = architecture(item.config)
    with torch.device("meta"), quiet_transformers():
        model: Any = cls(CONFIG_MAPPING[item.config["model_type"]].from_dict(dict(item.config)))
    tables = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            tables |= set(map(id, module.parameters(recurse=False)))
    names = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in tables and name in item.specs:
            names.append(name)
    if not names:
        raise IncompatibleError([f"{item.name} has no table of token embeddings, so it has no vocabulary"])
    return tuple(names)


def _common_tokenizer(reference: _Tokens, others: Sequence[_Tokens]) -> Path:
    """The folder of the reference's tokenizer with the added tokens of the others, kept below `HF_HOME`.

    Tokens keep the ids of the reference, and those of the others follow. Roles that it lacks, such as a padding token,
    are those of the first other that has them.
    """
    import xxhash
    from huggingface_hub.constants import HF_HOME

    digests = [sorted(each.item.companion_digests.items()) for each in (reference, *others)]
    key = xxhash.xxh3_128_hexdigest(json.dumps(digests).encode())
    folder = Path(HF_HOME) / "hf_soup" / "vocabularies" / key
    if folder.is_dir():
        return folder
    tokenizer = reference.tokenizer
    for other in others:
        for _, token in sorted(other.tokenizer.added_tokens_decoder.items()):
            if token.content not in tokenizer.get_vocab():
                tokenizer.add_tokens([token], special_tokens=token.special)
        for role, text in other.tokenizer.special_tokens_map.items():
            if isinstance(text, str) and getattr(tokenizer, role, None) is None:
                tokenizer.add_special_tokens({role: text})
    with staged_folder(folder, overwrite=True) as stage:
        for name, content in reference.item.companions.items():
            if (TEMPLATES.fullmatch(name) or PROCESSOR.fullmatch(name)) and "/" not in name:
                (stage / name).write_bytes(content)
        tokenizer.save_pretrained(stage)
        (stage / "config.json").write_text(json.dumps({"model_type": reference.item.config.get("model_type")}))
    return folder


def _row_count(reference: _Tokens, tokens: Sequence[_Tokens], ids: Mapping[str, int]) -> int:
    """The number of rows: one for each token, padded to a multiple where an ingredient's rows are.

    The multiple is the largest power of two that divides the rows of all.
    """
    needed = max(ids.values()) + 1
    if not any(each.padding for each in tokens):
        return needed
    multiple = math.gcd(MOST_PADDING, *(each.rows for each in tokens))
    return max(-(-needed // multiple) * multiple, reference.rows)


class _Rows:
    """The rows that an ingredient lacks, from those that have them.

    Args:
        tokens (`Sequence[_Tokens]`):
            The ingredients.
        base (`_Tokens`, *optional*):
            The base model, whose rows come first.
    """

    def __init__(self, tokens: Sequence[_Tokens], base: _Tokens | None):
        self._tokens, self._base = tokens, base
        self._made: dict[tuple[str, str | int], torch.Tensor] = {}

    def of_token(self, table: str, token: str) -> torch.Tensor:
        """The row of a token: the base model's, or the mean of all that have it, in float64."""
        if (table, token) not in self._made:
            holders = [each for each in self._tokens if token in each.ids]
            if self._base is not None and token in self._base.ids and table in self._base.tables:
                holders = [self._base]
            self._made[table, token] = _mean([_row(each.item, table, each.ids[token]) for each in holders])
        return self._made[table, token]

    def of_padding(self, each: _Tokens, table: str, index: int) -> torch.Tensor:
        """A row without a token: the mean of those that pad there as well, or else of all rows of the ingredient."""
        holders = [other for other in self._tokens if index in other.padding]
        if holders:
            return _mean([_row(other.item, table, index) for other in holders])
        if (table, each.item.name) not in self._made:
            self._made[table, each.item.name] = each.item.read(table).double().mean(0)
        return self._made[table, each.item.name]


def _row(item: Checkpoint, table: str, index: int) -> torch.Tensor:
    """One row of a table, in float64."""
    import torch

    spec = item.specs[table]
    row = torch.empty(spec.shape[1:], dtype=getattr(torch, spec.dtype))
    with OpenFiles() as files:
        item.read_into(files, table, index * math.prod(spec.shape[1:]), bytes_of(row))
    return row.double()


def _mean(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(list(rows)).mean(0)


def _in_common(each: _Tokens, ids: Mapping[str, int], rows: int, folder: Path, source: _Rows) -> CommonVocabulary:
    """An ingredient with the rows of the common vocabulary."""
    import torch

    token_of = {index: token for token, index in ids.items()}
    padding = each.padding
    own_rows: list[int | None] = []  # of each row of the common vocabulary
    for index in range(rows):
        if index in token_of:
            own_rows.append(each.ids.get(token_of[index]))
        else:
            own_rows.append(index if index in padding else None)
    lacking: dict[str, torch.Tensor] = {}
    absent = [index for index, own in enumerate(own_rows) if own is None]
    specs = dict(each.item.specs)
    for table in each.tables:
        made = []
        for index in absent:
            token = token_of.get(index)
            made.append(source.of_padding(each, table, index) if token is None else source.of_token(table, token))
        spec = specs[table]
        shape = (rows, *spec.shape[1:])
        dtype = getattr(torch, spec.dtype)
        lacking[table] = torch.stack(made).to(dtype) if made else torch.empty(0, *shape[1:], dtype=dtype)
        specs[table] = spec._replace(shape=shape)
    item = each.item
    fitted = item.fitted
    if fitted is not None and fitted.expected is not None:
        shapes = {table: specs[table].shape for table in each.tables}
        fitted = fitted._replace(expected={**fitted.expected, **shapes})
    own_fields = {name: getattr(item, name) for name in Checkpoint.__dataclass_fields__}
    common = CommonVocabulary(
        **{**own_fields, "specs": specs, "fitted": fitted},
        own=item,
        runs=_runs(own_rows),
        lacking=lacking,
        tokenizer=folder,
    )
    config = _with_ids(item.config, common._ids) | {"vocab_size": rows}
    new = sorted(token_of[index] for index in absent if index in token_of)
    notes = item.notes
    if new:
        shown = listed([one_line(repr(token), 30) for token in new], 5)
        notes = (*notes, f"{item.name} lacks {len(new)} tokens, whose rows come from those that have them: {shown}")
    return replace(common, config=config, notes=notes)


def _runs(own_rows: Sequence[int | None]) -> tuple[Run, ...]:
    """The rows of a table as runs of consecutive ones."""
    runs: list[Run] = []
    lacking = 0
    for index, own in enumerate(own_rows):
        source, is_own = (lacking, False) if own is None else (own, True)
        lacking += own is None
        last = runs[-1] if runs else None
        if last is not None and last.is_own == is_own and last.source + last.length == source:
            runs[-1] = last._replace(length=last.length + 1)
        else:
            runs.append(Run(index, 1, source, is_own))
    return tuple(runs)


def _with_ids(settings: Mapping[str, Any], ids: Mapping[int, int]) -> dict[str, Any]:
    """Settings with the ids of tokens (`pad_token_id`, `eos_token_id` ...) in the common vocabulary."""
    changed = dict(settings)
    for key, value in settings.items():
        if key.endswith("_token_id") and isinstance(value, int):
            changed[key] = ids.get(value, value)
        elif key.endswith("_token_id") and isinstance(value, list):
            changed[key] = [ids.get(each, each) for each in value]
    return changed
