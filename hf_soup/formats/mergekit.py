"""Recognition of a mergekit configuration in place of a cook file, and the equivalent command.

Only linear merges of complete models have an equivalent command; `docs/from_mergekit.md` translates other settings.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from ..errors import RecipeError


SIMPLE = {"merge_method", "models", "parameters", "dtype", "out_dtype"}  # the keys that a command can express
TYPES = ("bfloat16", "float16", "float32")


def refuse_mergekit(content: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration of mergekit, and show how to do the same merge.

    Args:
        content (`Mapping[str, Any]`):
            What a YAML file holds.
        where (`str`):
            The file.

    Raises:
        [`RecipeError`]: if it is a configuration of mergekit.
    """
    if "merge_method" not in content:
        return
    command = linear_command(content)
    remedy = "What its settings are called here is in docs/from_mergekit.md"
    if command is not None:
        remedy = f"The same merge is `{command}`; {remedy[0].lower()}{remedy[1:]}"
    raise RecipeError(f"{where} is a configuration of mergekit (it has `merge_method`), not a cook file. {remedy}.")


def linear_command(content: Mapping[str, Any]) -> str | None:
    """The `hf-soup merge` command that is equivalent to a linear merge of mergekit; `None` if there is none."""
    if content.get("merge_method") != "linear" or not set(content) <= SIMPLE:
        return None
    weighted = _weighted_models(content.get("models"))
    options = _options(content)
    if weighted is None or options is None:
        return None
    sources = " ".join(shlex.quote(source) for source in weighted)
    weights = ",".join(str(weight) for weight in weighted.values())
    return " ".join([f"hf-soup merge {sources} --weights {weights}", *options, "-o soup"])


def _weighted_models(models: Any) -> dict[str, Any] | None:
    """Model -> its weight, if each model in the list has a single number; `None` otherwise."""
    if not isinstance(models, list) or not models:
        return None
    weights: dict[str, Any] = {}
    for item in models:
        if not isinstance(item, dict) or set(item) != {"model", "parameters"}:
            return None
        source, parameters = item["model"], item["parameters"]
        if not isinstance(source, str) or source in weights or not isinstance(parameters, dict):
            return None
        weight = parameters.get("weight")
        if set(parameters) != {"weight"} or not _is_number(weight):
            return None
        weights[source] = weight
    return weights


def _is_number(value: Any) -> bool:
    """Whether a value can be written as a weight; `True` is an integer in Python as well."""
    return type(value) in (int, float) and math.isfinite(value)


def _options(content: Mapping[str, Any]) -> list[str] | None:
    """The options of the merge; `None` if one of them is not simple."""
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict) or not set(parameters) <= {"normalize"}:
        return None
    options = []
    if parameters.get("normalize", True) is False:
        options.append("--no-normalize")
    dtype = content.get("out_dtype") or content.get("dtype")
    if dtype is None:
        return options
    if dtype not in TYPES:
        return None
    return [*options, f"--dtype {dtype}"]
