"""The model card, from a recipe and a comparison. It says what happened, also when nothing was gained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..checkpoints.checkpoint import MEMORY
from ..checkpoints.hub import split_source
from ..errors import DataError
from ..evaluation.comparison import SHIFTS, VALIDATION, Comparison
from ..lookup import load_module
from ..recipes import dump_recipe
from ..selection import Selection
from ..tasks import task_of
from ..types import Recipe


NO_PIPELINE = ("text2text-generation",)  # which the Hub knows, and transformers 5 does not run


def render_card(
    recipe: Recipe,
    config: Mapping[str, Any],
    comparison: Comparison | None = None,
    *,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """The README.md of a soup.

    Args:
        recipe ([`Recipe`]):
            As it was poured.
        config (`Mapping`):
            Of the soup's model.
        comparison ([`Comparison`], *optional*):
            Its scores; without them the card says that it was not evaluated.
        pictures (`Mapping[str, str]`, *optional*):
            What is drawn -> the file beside the card that shows it.

    Returns:
        `str`: metadata and Markdown.
    """
    from huggingface_hub import ModelCard

    architecture = (config.get("architectures") or ["a model"])[0]
    pipeline = _pipeline(config)
    return str(
        ModelCard.from_template(
            card_data=_metadata(recipe, config, comparison),
            template_str=_template(),
            recipe=recipe,
            recipe_yaml=dump_recipe(recipe),
            architecture=architecture,
            comparison=comparison,
            pictures=pictures or {},
            selection=Selection.of(recipe),
            pipeline=pipeline if pipeline not in NO_PIPELINE else None,
            auto_class=_auto_class(config),
            in_memory=[item.name for item in recipe.ingredients if item.source == MEMORY],
            md=escape,
        )
    )


def escape(text: object) -> str:
    """Text from elsewhere (names, labels) as plain text in Markdown: no link, no HTML, no table cell of its own."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("://", ":\\//")


def _metadata(recipe: Recipe, config: Mapping[str, Any], comparison: Comparison | None) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = _pipeline(config)
    hub_ids = list(dict.fromkeys(split_source(item.source)[0] for item in recipe.ingredients if item.revision))
    results = [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type=name,
            dataset_name=name,
            dataset_split=name,
            metric_type=metric,
            metric_value=round(row.scores[name][metric].value, 6),
        )
        for row in (comparison.rows if comparison else ())
        if row.kind == "soup"
        for name in comparison.sizes
        if name not in (VALIDATION, SHIFTS)
        for metric in row.scores.get(name, {})
    ]
    relation = {"base_model_relation": "merge"} if hub_ids else {}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["merge", "model-soup", "hf_soup"],
        base_model=hub_ids or None,
        metrics=list(comparison.metrics) if comparison else None,
        model_name="soup" if results else None,
        eval_results=results or None,
        **relation,
    )


def _auto_class(config: Mapping[str, Any]) -> str:
    try:
        return load_module("task", task_of(config)).AUTO_CLASS
    except DataError:
        return "AutoModel"


def _pipeline(config: Mapping[str, Any]) -> str | None:
    try:
        return load_module("task", task_of(config)).PIPELINE
    except DataError:
        return None


def _template() -> str:
    from importlib.resources import files

    return (files("hf_soup.hub") / "templates" / "card.md").read_text(encoding="utf-8")
