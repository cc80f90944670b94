"""The records in a recipe about its origin (selection, BatchNorm and output), which are parsed leniently.

The rest of a recipe is parsed strictly, in `recipe_file.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import RecipeError
from ..types import DataDescription, Folds, Holdout, Selection, StatisticsRecord, Trial
from ..untrusted import one_line


# Keys of `selection` that are present if anything was scored, whatever their values.
WHERE_SCORED = ("metric", "higher_is_better", "split", "dataset", "score", "trials")
T = TypeVar("T")


def take_record(content: dict[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """Remove and return a part of a recipe that only records its origin, which is parsed more leniently than the rest.

    Raises:
        [`RecipeError`]: if it is no mapping, or describes a data set by something else than texts.
    """
    record = content.pop(key, {})
    if not isinstance(record, Mapping):
        raise RecipeError(f"{one_line(path)}: `{key}`: input should be an object, found {one_line(repr(record))}")
    # A comparison relies on the fingerprints to detect data that was used for selection.
    dataset = record.get("dataset") or {}
    text_keys = ("path", "fingerprint", "inputs")
    if not isinstance(dataset, Mapping) or not all(isinstance(dataset.get(text) or "", str) for text in text_keys):
        raise RecipeError(f"{one_line(path)}: `{key}.dataset` does not describe a data set by its fingerprint.")
    return record


def read_batchnorm(content: Mapping[str, Any], path: Path) -> StatisticsRecord | None:
    """The origin of the BatchNorm statistics, whose file is next to the recipe."""
    if not content:
        return None
    flat = {key: value for key, value in content.items() if key != "dataset"}
    record = read_leniently(StatisticsRecord, flat) or StatisticsRecord()
    dataset = read_leniently(DataDescription, content.get("dataset") or {}) or DataDescription()
    file = None
    if "file" in content:
        file = str(_file_in_recipe_folder(path, content["file"]))
    return replace(record, dataset=dataset, file=file)


def read_importance(content: Mapping[str, Any], path: Path) -> dict[str, StatisticsRecord]:
    """The origin of the statistics of each ingredient's weights."""
    records = {}
    for name in content:
        record = take_record(dict(content), name, path)
        flat = {key: value for key, value in record.items() if key in ("batches", "digest")}
        dataset = read_leniently(DataDescription, record.get("dataset") or {}) or DataDescription()
        records[name] = replace(read_leniently(StatisticsRecord, flat) or StatisticsRecord(), dataset=dataset)
    return records


def selection_as_dict(selection: Selection | None) -> dict[str, Any]:
    """A selection in the form stored in the recipe file, without unknown values.

    Args:
        selection ([`Selection`], *optional*):
            Selection of the recipe; without one the result is empty.
    """
    if selection is None:
        return {}
    content = asdict(selection)
    content["trials"] = [_without_none(trial) for trial in content["trials"]]
    content["dataset"] = {}
    if selection.dataset is not None:
        content["dataset"] = selection.dataset.as_dict()
    was_scored = selection.score is not None or bool(selection.trials)
    written = {}
    for key, value in content.items():
        if key in WHERE_SCORED:
            is_written = was_scored
        else:
            is_written = key == "params" or value not in (None, "", {})
        if is_written:
            written[key] = value
    return written


def _without_none(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with known values."""
    return {key: value for key, value in content.items() if value is not None}


def read_selection(content: Mapping[str, Any]) -> Selection | None:
    """The selection of a recipe, from its file; anything not in this version's format is ignored.

    A selection has no effect when a recipe is cooked again, so unknown content from another version or an untrusted
    source is not an error.

    Args:
        content (`Mapping`):
            Content of the file under `selection`.
    """
    if not isinstance(content.get("strategy"), str):
        return None
    # Each record is parsed separately, so that an invalid one does not affect the others.
    trials = []
    records = content.get("trials")
    if isinstance(records, list):
        for record in records:
            trial = read_leniently(Trial, record)
            if trial is not None:
                trials.append(trial)
    flat = {key: value for key, value in content.items() if key not in ("dataset", "trials", "folds", "holdout")}
    selection = read_leniently(Selection, flat)
    if selection is None:
        return None
    return replace(
        selection,
        dataset=read_leniently(DataDescription, content.get("dataset") or None),
        trials=tuple(trials),
        folds=read_leniently(Folds, content.get("folds")),
        holdout=read_leniently(Holdout, content.get("holdout")),
    )


def read_leniently(cls: type[T], content: Any) -> T | None:
    """A value from a file: fields with invalid types are ignored; `None` if a required field is missing."""
    import pydantic

    if not isinstance(content, Mapping):
        return None
    readable = {}
    for name, hint in typing.get_type_hints(cls).items():
        # through JSON, where strict types still accept a list for a tuple and 1 for 1.0
        with contextlib.suppress(KeyError, TypeError, ValueError, pydantic.ValidationError):
            value = pydantic.TypeAdapter(hint).validate_json(json.dumps(content[name], allow_nan=False), strict=True)
            readable[name] = value
    with contextlib.suppress(TypeError):  # a field without a default is missing
        return cls(**readable)
    return None


def _file_in_recipe_folder(recipe: Path, name: Any) -> Path:
    """The path of a file in the recipe's own folder; recipes are untrusted, so other folders are refused."""
    if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(".safetensors"):
        raise RecipeError(
            f"{recipe}: `batchnorm.file` is a safetensors file beside the recipe, not {one_line(repr(name))}."
        )
    return recipe.parent.absolute() / name
