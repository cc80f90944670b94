"""One vocabulary for ingredients whose tokenizers have added tokens: the union of all, or that of one of them.

Each ingredient is given the rows of the common vocabulary: its own where it has the token, and where it lacks a token
those of the models that have it. Everything else then works as for ingredients with equal tokenizers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import IncompatibleError, RecipeError, did_you_mean, listed
from ..untrusted import one_line
from .bounds import modules_for
from .checkpoint import Checkpoint
from .common_rows import CommonVocabulary, Holder, Rows, Run, with_ids
from .companion_files import PROCESSOR, TEMPLATES, TOKENIZER
from .companions import companions_of
from .differences import find_differences
from .layout import fit
from .memory import empty_model, quiet_transformers
from .reader import TensorSpec, widest
from .staging import staged_folder, temporary_folder
from .tokenization import NOTED
from .tokenizer_settings import ADDED, POST_PROCESSOR, ROLE, build_tokenizers


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNION, BASE = "union", "base_model"  # the tokens of all models, or those of the base model
MOST_PADDING = 1024  # of which rows may be padded to a multiple
CALLS = ("is_local", "local_files_only")  # how a tokenizer was loaded, which it saves as well
LOGITS_BIAS = "final_logits_bias"  # a table of BART and its kin that is no parameter


class _Model(NamedTuple):
    """An ingredient or base model with its tokenizer.

    Args:
        holder ([`Holder`]):
            The model and its rows.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
    """

    holder: Holder
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.holder.item.name

    @property
    def added(self) -> Collection[str]:
        """The tokens that were added to its vocabulary, special ones included."""
        return self.tokenizer.added_tokens_encoder.keys()

    @property
    def words(self) -> dict[str, int]:
        """The other tokens, with their ids."""
        return {token: index for token, index in self.tokenizer.get_vocab().items() if token not in self.added}


def with_common_vocabulary(
    items: Sequence[Checkpoint], base: Checkpoint | None, vocabulary: str, *, settings: str | None = None
) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
    """Give ingredients that differ in added tokens the rows of one vocabulary.

    Rows that an ingredient lacks are those of the base model, or else the mean of the ingredients that have the token.
    Ingredients that differ in more than that are returned as they are, for the check to report.

    Args:
        items (`Sequence[Checkpoint]`):
            The ingredients, opened.
        base (`Checkpoint`, *optional*):
            The base model, opened.
        vocabulary (`str`):
            `"union"` for the tokens of all, `"base_model"`, or the name of the ingredient whose tokenizer is kept.
        settings (`str`, *optional*):
            Name of the ingredient that gives the settings, whose ids the union keeps; by default the first.

    Returns:
        `tuple[tuple[Checkpoint, ...], Checkpoint | None]`: the ingredients and the base model with equal tokenizers.

    Raises:
        [`RecipeError`]: if there is no model of this name.
        [`IncompatibleError`]: if the tokenizers differ in more than added tokens, so that the ids of one text would
            change their meaning.
    """
    everything = [*items] if base is None else [*items, base]
    reference = _find_reference(items, base, vocabulary, settings)
    architectures = {item.architecture for item in items}
    if len(architectures) > 1 or _have_equal_vocabularies(everything):
        return tuple(items), base
    tables = {_tables(item) for item in items}
    if len(tables) > 1:  # such as tied and untied embeddings
        return tuple(items), base
    models = _with_tokenizers(everything, next(iter(tables)))
    usual = next(model for model in models if model.holder.item is reference)
    _refuse_other_tokenizers(models, usual)
    _refuse_other_meanings(models, usual)
    folder = _common_tokenizer(usual, models if vocabulary == UNION else [])
    ids = _load(folder).get_vocab()
    holders = [model.holder for model in models]
    size = _row_count(usual.holder, holders, ids)
    rows = Rows(tuple(holders[: len(items)]), None if base is None else holders[-1])
    common = [_in_common(model, usual, ids, size, folder, rows) for model in models]
    _refuse_other_tables(common[0])
    return tuple(common[: len(items)]), None if base is None else common[-1]


def _find_reference(
    items: Sequence[Checkpoint], base: Checkpoint | None, vocabulary: str, settings: str | None
) -> Checkpoint:
    """The model whose ids are kept.

    Raises:
        [`RecipeError`]: if there is no model of the name.
    """
    by_name = {item.name: item for item in items}
    if vocabulary == UNION:
        return by_name.get(settings or "", items[0])
    if vocabulary == BASE and base is not None:
        return base
    if vocabulary not in by_name:
        raise RecipeError(
            f'vocabulary is "{UNION}", "{BASE}" or the name of an ingredient, not {one_line(repr(vocabulary))}'
            f"{did_you_mean(vocabulary, [UNION, BASE, *by_name])}"
        )
    return by_name[vocabulary]


def _have_equal_vocabularies(items: Sequence[Checkpoint]) -> bool:
    """Whether all models have the same tokenizer files, if any, and as many rows."""
    sizes = {
        json.dumps([item.config.get("vocab_size"), item.config.get("text_config")], default=str) for item in items
    }
    files = {companions_of(item, lambda name: bool(TOKENIZER.fullmatch(name))).digests for item in items}
    return len(sizes) == 1 and len(files) == 1


def _tables(item: Checkpoint) -> tuple[str, ...]:
    """The tensors of a model with a row for each token: embeddings, and the weight and bias of its output.

    Raises:
        [`IncompatibleError`]: if the model has no table of token embeddings.
    """
    model: Any = empty_model(item.config, modules_for(len(item.specs)))
    found = []
    for find in (model.get_input_embeddings, model.get_output_embeddings):
        try:
            module = find()
        except NotImplementedError:  # a model with several embeddings, or none
            module = None
        found.append({} if module is None else {id(parameter) for parameter in module.parameters(recurse=False)})
    of_input, of_output = found
    names, has_input = [], False
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in item.specs and (id(parameter) in of_input or id(parameter) in of_output):
            names.append(name)
            has_input = has_input or id(parameter) in of_input
    if not has_input:
        raise IncompatibleError(
            [f"the token embeddings of {item.name} ({item.architecture}) were not found, so a vocabulary has no rows"]
        )
    return (*names, *(name for name in item.specs if name == LOGITS_BIAS))


def _with_tokenizers(items: Sequence[Checkpoint], tables: tuple[str, ...]) -> list[_Model]:
    """The models with their tokenizers.

    Raises:
        [`IncompatibleError`]: if one has none.
    """
    problems, models = [], []
    for item in items:
        own_tables = tuple(table for table in tables if table in item.specs)
        files = [name for name in item.companions if TOKENIZER.fullmatch(name)]
        if not files:
            problems.append(f"a common vocabulary needs the tokenizers of all models, and {item.name} has none")
            continue
        tokenizer = _tokenizer_of(item, files)
        # without tables, a base model gives no rows
        size = max(item.specs[own_tables[0]].shape) if own_tables[:1] == (LOGITS_BIAS,) else 0
        size = size or (item.specs[own_tables[0]].shape[0] if own_tables else 0)
        # a tokenizer may have more tokens than the model has rows
        ids = {token: index for token, index in tokenizer.get_vocab().items() if index < size}
        models.append(_Model(Holder(item, ids, own_tables, size), tokenizer))
    if problems:
        raise IncompatibleError(problems)
    return models


def _tokenizer_of(item: Checkpoint, files: Sequence[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, from its files."""
    with temporary_folder() as folder:
        for name in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(item.companions[name])
        (folder / "config.json").write_text(json.dumps({"model_type": item.config.get("model_type")}))
        try:
            return _load(folder)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Rust panics of tokenizers are not subclasses of `Exception`
            raise IncompatibleError(
                [f"the tokenizer of {item.name} cannot be built: {one_line(error, 200)}"]
            ) from error


def _load(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _refuse_other_tokenizers(models: Sequence[_Model], usual: _Model) -> None:
    """Raise an error for tokenizers that split texts in another way.

    Raises:
        [`IncompatibleError`]: naming each model and a difference.
    """
    files = [companions_of(model.holder.item, lambda name: bool(TOKENIZER.fullmatch(name))) for model in models]
    built = build_tokenizers(files)
    if built is None:
        raise IncompatibleError([f"a tokenizer of {listed([model.name for model in models])} cannot be built"])
    reference = next(built[own].settings for model, own in zip(models, files, strict=True) if model is usual)
    problems = []
    for model, own in zip(models, files, strict=True):
        for difference in find_differences({"usual": reference, "own": built[own].settings}):
            if _is_decisive(difference.name, difference.values["usual"], difference.values["own"]):
                problems.append(
                    f"{model.name} has another tokenizer than {usual.name}: {difference.name.replace('_', '-')} "
                    "differs, so ids of one text would change their meaning"
                )
                break
    if problems:
        raise IncompatibleError(problems)


def _is_decisive(name: str, usual: Any, own: Any) -> bool:
    """Whether a difference between tokenizers changes how they split texts without added tokens."""
    if name == POST_PROCESSOR:
        return _without_ids(usual) != _without_ids(own)
    if name.startswith(ADDED):  # a flag, or a token that one of them lacks
        return usual is not None and own is not None
    return not ROLE.search(name) and not NOTED.search(name)


def _without_ids(value: Any) -> Any:
    """The content of a post-processor without the ids of its tokens."""
    if isinstance(value, Mapping):
        return {key: _without_ids(each) for key, each in value.items() if key not in ("id", "ids")}
    if isinstance(value, (list, tuple)):
        return [_without_ids(each) for each in value if not isinstance(each, int)]
    return value


def _refuse_other_meanings(models: Sequence[_Model], usual: _Model) -> None:
    """Raise an error for vocabularies whose tokens, without added ones, are others or have other ids.

    Raises:
        [`IncompatibleError`]: naming each model and some tokens.
    """
    problems = []
    for model in models:
        words = {*model.words.items()} ^ {*usual.words.items()}
        if words:
            tokens = sorted({one_line(repr(token), 30) for token, _ in words})
            problems.append(
                f"{model.name} has another vocabulary than {usual.name}: {len(tokens)} tokens that were not added to "
                f"both differ, such as {listed(tokens, 3)}"
            )
    if problems:
        raise IncompatibleError(problems)


def _common_tokenizer(usual: _Model, models: Sequence[_Model]) -> Path:
    """The folder of a tokenizer with the added tokens of others, kept below `HF_HOME`.

    Tokens keep their ids, and those of the others follow. Roles that it lacks, such as a padding token, are those of
    the first other that has them.
    """
    import xxhash
    from huggingface_hub.constants import HF_HOME

    digests = [sorted(model.holder.item.companion_digests.items()) for model in (usual, *models)]
    key = xxhash.xxh3_128_hexdigest(json.dumps(digests).encode())
    folder = Path(HF_HOME) / "hf_soup" / "vocabularies" / key
    if folder.is_dir():
        return folder
    tokenizer = usual.tokenizer
    for model in models:
        special = []
        for _, token in sorted(model.tokenizer.added_tokens_decoder.items()):
            if token.content in tokenizer.get_vocab():
                continue
            tokenizer.add_tokens([token], special_tokens=token.special)
            special += [token] * token.special
        for role, text in model.tokenizer.special_tokens_map.items():
            if isinstance(text, str) and getattr(tokenizer, role, None) is None:
                tokenizer.add_special_tokens({role: text})
        if special:
            tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    with staged_folder(folder, overwrite=True) as stage:
        item = usual.holder.item
        for name, content in item.companions.items():
            if TEMPLATES.fullmatch(name) or PROCESSOR.fullmatch(name):
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).write_bytes(content)
        tokenizer.save_pretrained(stage)
        path = stage / "tokenizer_config.json"
        config = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key not in CALLS}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (stage / "config.json").write_text(json.dumps({"model_type": item.config.get("model_type")}))
    return folder


def _row_count(usual: Holder, holders: Sequence[Holder], ids: Mapping[str, int]) -> int:
    """The number of rows: one for each token, padded to a multiple where a model's rows are.

    The multiple is the largest power of two that divides the rows of all.
    """
    needed = max(ids.values()) + 1
    with_rows = [holder for holder in holders if holder.rows]
    if not any(holder.padding for holder in with_rows):
        return needed
    multiple = math.gcd(MOST_PADDING, *(holder.rows for holder in with_rows))
    return max(-(-needed // multiple) * multiple, usual.rows)


def _in_common(
    model: _Model, usual: _Model, ids: Mapping[str, int], size: int, folder: Path, rows: Rows
) -> CommonVocabulary:
    """A model with the rows of the common vocabulary."""
    holder, item = model.holder, model.holder.item
    token_of = {index: token for token, index in ids.items()}
    keys: list[str | int] = [token_of.get(index, index) for index in range(size)]
    own_rows = [holder.row_of(key) for key in keys]
    wanted = tuple(key for key, own in zip(keys, own_rows, strict=True) if own is None)
    specs = dict(item.specs)
    for table in holder.tables:
        types = [each.item.specs[table].dtype for each in rows.holders if table in each.tables]
        specs[table] = _resized(specs[table], holder.rows, size)._replace(dtype=widest(types))
    lacking = [one_line(repr(token), 30) for token in wanted if isinstance(token, str)]
    notes = list(item.notes)
    if lacking:
        shown = listed(lacking, 5)
        notes.append(f"{item.name} lacks {len(lacking)} tokens, whose rows come from those that have them: {shown}")
    notes += _notes_of_roles(model, usual)
    fitted = item.fitted
    if fitted is not None and fitted.expected is not None:
        shapes = {table: specs[table].shape for table in holder.tables}
        fitted = fitted._replace(expected={**fitted.expected, **shapes})
    own_fields = {name: getattr(item, name) for name in Checkpoint.__dataclass_fields__}
    own_fields |= {"specs": specs, "fitted": fitted, "notes": tuple(notes)}
    common = CommonVocabulary(
        **own_fields,
        own=item,
        tables=holder.tables,
        runs=_runs(own_rows),
        wanted=wanted,
        rows_before=holder.rows,
        rows=rows,
        tokenizer=folder,
        defaults=usual.holder.item.config,
    )
    if not holder.tables:
        return common
    config = with_ids(item.config, common.new_ids, usual.holder.item.config)
    return replace(common, config=_with_size(config, holder.rows, size))


def _resized(spec: TensorSpec, before: int, after: int) -> TensorSpec:
    """A table with another number of rows; the tokens of a bias of logits are on its second axis."""
    axis = spec.shape.index(before)
    return spec._replace(shape=(*spec.shape[:axis], after, *spec.shape[axis + 1 :]))


def _with_size(config: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    """A configuration with another size of the vocabulary, wherever it stands."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            changed[key] = _with_size(value, before, after)
        else:
            changed[key] = after if key == "vocab_size" and value == before else value
    return changed


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


def _notes_of_roles(model: _Model, usual: _Model) -> list[str]:
    """Notes on tokens with a role that is another token in the common tokenizer."""
    notes = []
    for role, token in model.tokenizer.special_tokens_map.items():
        taken = usual.tokenizer.special_tokens_map.get(role)
        if isinstance(token, str) and isinstance(taken, str) and taken != token:
            notes.append(
                f"the {role} of {model.name} is {one_line(repr(token), 30)}, and the soup takes that of {usual.name}, "
                f"{one_line(repr(taken), 30)}"
            )
    return notes


def _refuse_other_tables(item: CommonVocabulary) -> None:
    """Raise an error for a model with further tensors whose size depends on the vocabulary.

    Raises:
        [`IncompatibleError`]: naming them.
    """
    expected = fit(item.config, item.specs).expected or {}
    others = [name for name, spec in item.specs.items() if expected.get(name, spec.shape) != spec.shape]
    if others:
        raise IncompatibleError(
            [
                f"{item.architecture} has tensors of the size of the vocabulary other than its embeddings and output: "
                f"{listed(others, 3)}, so its vocabulary cannot be changed"
            ]
        )
