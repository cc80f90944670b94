"""The model card, from a recipe and a comparison. It says what happened, also when nothing was gained."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.checkpoint import MEMORY, PRIVATE
from ..checkpoints.files_beside import CARD
from ..checkpoints.hub import fetch, resolve, split_revision, split_source
from ..checkpoints.labels import label_names
from ..errors import DataError, IngredientError
from ..evaluation.comparison import SHARES, SHIFTS, TEST, VALIDATION, Comparison, Difference, Row
from ..lookup import load_module
from ..recipes import dump_recipe
from ..tables import align, escape
from ..tasks import task_of
from ..types import Ingredient, Recipe
from ..untrusted import as_error, encodable, one_line, printable, read_file
from .facts import Facts


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TAGS = ("merge", "model-soup", "hf_soup")
OUT_OF_REACH = (MEMORY, PRIVATE)  # sources that nobody can fetch
HERE = "FOLDER_OR_HUB_ID"  # what code in a card says for a soup that is not on the Hub
SHOWN = 12  # labels
USE = """
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{{model}}")
"""


def render_card(
    recipe: Recipe,
    config: Mapping[str, Any],
    comparison: Comparison | None = None,
    *,
    pictures: Mapping[str, str] | None = None,
    facts: Facts | None = None,
    findings: Sequence[str] = (),
    bases: Sequence[Sequence[str]] = (),
    repo_id: str | None = None,
    tags: Sequence[str] = (),
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
        facts ([`Facts`], *optional*):
            What the cards of its ingredients say.
        findings (`Sequence[str]`, *optional*):
            What an analysis found; `analysis.md` beside the card has the rest.
        bases (`Sequence[Sequence[str]]`, *optional*):
            For each ingredient the repositories that it was fine-tuned from, which stand for it where it is not on the
            Hub itself; `"private"` for one that is not named.
        repo_id (`str`, *optional*):
            Where on the Hub it will be.
        tags (`Sequence[str]`, *optional*):
            More tags for its metadata.

    Returns:
        `str`: metadata and Markdown.
    """
    from huggingface_hub import ModelCard

    facts = facts or Facts()
    if _architecture(config) is None:  # or no list of names at all
        config = {key: value for key, value in config.items() if key != "architectures"}
    lineage = _lineage(recipe, bases)
    needed = [*recipe.ingredients, *([recipe.base_model] if recipe.base_model and not recipe.base_inside else [])]
    data = recipe.batchnorm.get("dataset")
    row = _own_row(recipe, comparison)
    selection = recipe.selection
    if selection is not None:  # the trials have a table of their own
        selection = replace(selection, trials=())
    text = dump_recipe(replace(recipe, selection=selection))
    card = str(
        ModelCard.from_template(
            card_data=_metadata(recipe, config, comparison, row, facts, lineage, repo_id, tags),
            template_str=_template(),
            recipe=recipe,
            recipe_yaml=text,
            fence=_fence(text),
            architecture=_architecture(config) or "a model",
            labels=label_names(config),
            shown=SHOWN,
            comparison=comparison,
            row=row,
            test=row and row.scores.get(TEST, {}).get(comparison.metric),
            difference=comparison.differences.get(row.name, {}).get(TEST, {}).get("single") if row else None,
            lines=comparison.summary.split("\n") if comparison else [],
            own_line=next((line for line in comparison.summary.split("\n") if row.name in line), "") if row else "",
            pictures=pictures or {},
            selection=recipe.selection,
            batchnorm_rows=data.get("rows") if isinstance(data, Mapping) else None,
            code=_code,
            use=_use(config).format(model=repo_id or HERE).strip(),
            repo_id=repo_id,
            here=HERE,
            facts=facts,
            lineage=lineage,
            findings=findings,
            tuned=[item for item in recipe.ingredients if item.name != recipe.base_inside],
            local=[item.name for item in needed if not item.revision and item.source not in OUT_OF_REACH],
            in_memory=[item.name for item in needed if item.source == MEMORY],
            hidden=[item.name for item in needed if item.source == PRIVATE],
            link=_link,
            commit=_commit,
            repository=_repository,
            share=lambda score: _score(comparison.metric, score),
            points=_half_width,
            table=partial(align, escape=escape),
            md=escape,
        )
    )
    return encodable(card)


class Lineage(NamedTuple):
    """Where a soup stands in the Hub's model tree.

    Args:
        parents (`tuple[str, ...]`):
            Repositories that it comes from: ingredients, and what those were fine-tuned from that are not on the Hub.
        bases (`tuple[str, ...]`):
            The latter alone.
        withheld (`tuple[str, ...]`):
            Names of ingredients that were fine-tuned from something private.
        unknown (`tuple[str, ...]`):
            Names of ingredients that are not on the Hub, and of which nothing is known.
    """

    parents: tuple[str, ...]
    bases: tuple[str, ...]
    withheld: tuple[str, ...]
    unknown: tuple[str, ...]


def _lineage(recipe: Recipe, bases: Sequence[Sequence[str]]) -> Lineage:
    parents: list[str] = []
    followed: list[str] = []
    withheld, unknown = [], []
    for place, item in enumerate(recipe.ingredients):
        found = bases[place] if bases else ()
        source = split_source(item.source) if item.revision else None
        if source is not None:
            parents.append(source[0])
            continue
        named = [base for base in found if base != PRIVATE]
        parents += named
        followed += named
        if len(named) < len(found):
            withheld.append(item.name)
        elif not found:
            unknown.append(item.name)
    return Lineage(_unique(parents), _unique(followed), tuple(withheld), tuple(unknown))


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def load_card(soup: str | os.PathLike) -> str:
    """The card of a saved or published soup.

    Args:
        soup (`str` or `os.PathLike`):
            Its folder, or its Hub id (`user/soup`, `user/soup@v1`).

    Raises:
        [`IngredientError`]: if it is not there, or has no card.
    """
    folder, (repo_id, revision) = Path(soup), split_revision(soup)
    if not folder.is_dir() and split_source(repo_id):
        folder = fetch(repo_id, resolve(repo_id, revision), [CARD])
    problem = f"{one_line(soup)} has no model card ({CARD}) that can be read"
    with as_error(IngredientError, problem):
        return read_file(folder / CARD).decode("utf-8")


def evaluation_results(comparison: Comparison | None, recipe: Recipe, benchmark: str) -> str:
    """The file in `.eval_results/` that puts the score on the test set onto a benchmark's leaderboard.

    Args:
        comparison ([`Comparison`], *optional*), recipe ([`Recipe`]):
            Of the soup.
        benchmark (`str`):
            The benchmark's data set and the task in it, such as `"nyu-mll/glue:sst2"`.

    Raises:
        [`DataError`]: if nothing was scored on a test set, or the benchmark is written otherwise.
    """
    import yaml
    from huggingface_hub import EvalResultEntry
    from huggingface_hub import eval_result_entries_to_yaml as as_data

    row = _own_row(recipe, comparison)
    score = row and row.scores.get(TEST, {}).get(comparison.metric)
    if score is None:
        raise DataError(f"there is no test score for the benchmark {benchmark!r}: set soup.comparison before.")
    dataset_id, colon, task_id = benchmark.partition(":")
    if not colon or not task_id or split_source(dataset_id) is None:
        raise DataError(f"the benchmark {benchmark!r} is no DATASET:TASK, such as nyu-mll/glue:sst2.")
    note = f"{comparison.metric} on {comparison.sizes[TEST]} examples"
    entry = EvalResultEntry(dataset_id, task_id, round(score.value, 6), notes=note)
    return yaml.safe_dump(as_data([entry]), sort_keys=False)


def _own_row(recipe: Recipe, comparison: Comparison | None) -> Row | None:
    """The line of a comparison that is about this soup."""
    rows = [row for row in comparison.rows if row.kind in ("soup", "uniform")] if comparison else []
    called = [row for row in rows if row.name == recipe.title]
    soups = [row for row in rows if row.kind == "soup"]
    return next(iter(called or (soups if len(soups) == 1 else [])), None)


def _metadata(
    recipe: Recipe,
    config: Mapping[str, Any],
    comparison: Comparison | None,
    row: Row | None,
    facts: Facts,
    lineage: Lineage,
    repo_id: str | None,
    tags: Sequence[str],
) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = _pipeline(config)
    results = [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type=comparison.sources.get(name, name),
            dataset_name=name,
            dataset_split=name,
            metric_type=metric,
            metric_value=round(score.value, 6),
        )
        for name in (comparison.sizes if row else ())
        if name not in (VALIDATION, SHIFTS)
        for metric, score in row.scores.get(name, {}).items()
    ]
    return ModelCardData(
        **facts.license,
        language=list(facts.language) or None,
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=list(dict.fromkeys([*TAGS, *tags])),
        base_model=list(lineage.parents) or None,
        **({"base_model_relation": "merge"} if lineage.parents else {}),
        datasets=list(facts.datasets) or None,
        metrics=list(comparison.metrics) if row else None,
        model_name=(repo_id or "soup").rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def _architecture(config: Mapping[str, Any]) -> str | None:
    """The class that a config names first."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def _use(config: Mapping[str, Any]) -> str:
    """The code that runs such a model."""
    try:
        return load_module("task", task_of(config)).USE
    except DataError:
        import transformers

        name = _architecture(config) or "AutoModel"
        return USE.format(auto_class=name if hasattr(transformers, name) else "AutoModel")


def _pipeline(config: Mapping[str, Any]) -> str | None:
    """What the Hub calls what such a model does."""
    try:
        return load_module("task", task_of(config)).PIPELINE
    except DataError:
        from transformers.modelcard import TASK_MAPPING

        name = _architecture(config)
        return next((task for task, models in TASK_MAPPING.items() if name in models.values()), None)


def _repository(repo_id: str) -> str:
    """A repository with a link to it."""
    from huggingface_hub import constants

    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo_id, re.ASCII) is None:
        return escape(repo_id)
    return f"[{escape(repo_id)}]({constants.ENDPOINT}/{repo_id})"


def _link(item: Ingredient) -> str:
    """An ingredient as a table shows it; one of the Hub with a link to the commit."""
    if not item.revision:
        return escape(item.name)
    from huggingface_hub import constants

    if not _is_commit(item.revision) or split_source(item.source) is None:
        return escape(item.source)
    repo_id, subfolder = split_source(item.source)  # only letters, digits, dots, dashes and underscores
    place = f"{constants.ENDPOINT}/{repo_id}/tree/{item.revision}/{subfolder}".rstrip("/")
    return f"[{escape(item.source)}]({place})"


def _is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def _commit(item: Ingredient) -> str:
    """What the column of commits says of an ingredient."""
    if item.revision:
        return item.revision[:7] if _is_commit(item.revision) else escape(item.revision)
    return {PRIVATE: "private", MEMORY: "in memory"}.get(item.source, "local")


def _score(metric: str, score: Any) -> str:
    """A score with its interval, in percent where the metric is a share."""
    shares = metric in SHARES
    value, *ends = (
        None if end is None else f"{end * 100:.1f}" if shares else f"{end:.4f}"
        for end in (score.value, score.low, score.high)
    )
    unit = " %" if shares else ""
    return f"{value}{unit}" + (f" [{', '.join(ends)}]" if None not in ends else "")


def _half_width(metric: str, found: Difference) -> str:
    """How large a difference has to be to be seen."""
    half = (found.high - found.low) / 2
    return f"{100 * half:.1f} points" if metric in SHARES else f"{half:.4f}"


def _code(text: object) -> str:
    """Text from elsewhere between backticks, which it cannot leave."""
    return "`" + re.sub(r"[`|<>\s]+", " ", printable(str(text))).strip() + "`"


def _fence(text: str) -> str:
    """A fence that nothing in a block of code can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def _template() -> str:
    from importlib.resources import files

    return (files("hf_soup.hub") / "templates" / "card.md").read_text(encoding="utf-8")
