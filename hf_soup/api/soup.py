"""`Soup`: a recipe bound to opened checkpoints. Averaging happens in `.model` and `.save_pretrained` only.

It holds values and calls functions in order: `merging/` averages and writes, `publishing/` redacts and publishes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.relation import unrelated_heads
from ..checkpoints.check import BATCHNORM_NOTE, is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.modules import head_names
from ..checkpoints.staging import staged_folder, temporary_folder
from ..checkpoints.targets import as_output_error, refuse_target
from ..comparison.comparison import Comparison
from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, warn
from ..evaluation.running_statistics import running_statistics
from ..formats.mergekit_config import write_mergekit
from ..formats.recipe_file import RECIPE_FILE, dump_recipe
from ..merging.in_memory import cook_in_memory
from ..merging.plan import Plan
from ..merging.setup import MergeSetup
from ..options import answers_keywords
from ..publishing.adapter_weights import publish_base, refuse_rank, why_no_adapter, write_adapter
from ..publishing.bases import find_bases
from ..publishing.folder import CardOptions, write_companions
from ..publishing.privacy import with_repositories
from ..publishing.push import open_target, push_folder
from ..publishing.redaction import Redaction, find_private, warn_of_redaction
from ..publishing.results import evaluation_results, leaderboard_path
from ..publishing.weights import digests_under_adapters, warn_of_another_digest, write_weights
from ..types import Recipe, Score, Selection
from ..version import versions


if TYPE_CHECKING:
    import torch
    from huggingface_hub import CommitInfo
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

    from ..analysis.result import Analysis
    from ..evaluation.evaluator import Evaluator


class Soup(Result):
    """A model averaged from several checkpoints. Nothing is averaged until the model is used or saved.

    [`merge`], [`cook`] and [`load`] return it. The model that `.model` builds and the one that `.save_pretrained`
    writes are identical, bit for bit.

    Args:
        recipe ([`Recipe`]):
            Ingredients, weights and method.
        setup ([`MergeSetup`]):
            The ingredients, opened and checked, and how they are averaged.
        candidates (`Sequence[Checkpoint]`, *optional*):
            Models that a strategy chose from; those of the setup by default.
        comparison ([`Comparison`], *optional*):
            Scores of the soup on test sets, which the card shows.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        batchnorm ([`Evaluator`], *optional*):
            Training data on which BatchNorm statistics are estimated again, if the recipe says so; a saved recipe has
            the statistics.

    Raises:
        [`RecipeError`]: if the recipe's weights do not define a mean, or name a module that does not exist.
    """

    def __init__(
        self,
        recipe: Recipe,
        setup: MergeSetup,
        *,
        candidates: Sequence[Checkpoint] | None = None,
        comparison: Comparison | None = None,
        device: str = "cpu",
        batchnorm: Evaluator | None = None,
    ):
        self.device = device
        self.batchnorm = batchnorm
        self.recipe = recipe
        self.setup = setup
        self.checkpoints = tuple(setup.checkpoints_of(recipe.mixture))
        self.candidates = tuple(candidates or setup.candidates)
        self.comparison = comparison
        self.analysis: Analysis | None = None
        self.saved_as: str | None = None  # the folder or repository that holds its weights
        self._has_warned = False
        self.plan: Plan = setup.plan(recipe.mixture)

    def __repr__(self) -> str:
        names = ", ".join(self.recipe.names)
        return f"Soup({self.recipe.method} of {len(self.recipe.ingredients)}: {names})"

    def table(self) -> str:
        """The trials and why each was kept or not, and the weight of each ingredient if the weights differ."""
        weights = self.recipe.weights_by_module
        if self.recipe.selection is None or not self.recipe.selection.trials:
            return self._weight_table()
        are_equal = len({weight for of_module in weights.values() for weight in of_module}) == 1
        trials = self.recipe.selection.table()
        return trials if are_equal else f"{trials}\n\n{self._weight_table()}"

    def _weight_table(self) -> str:
        """A row for each ingredient, and a column for each module with its own weights."""
        weights = self.recipe.weights_by_module
        heads = ["weight"]
        if len(weights) > 1:
            heads = [f"weight of {module or 'the rest'}" for module in weights]
        lines = [["ingredient", *heads]]
        for index, name in enumerate(self.recipe.names):
            lines.append([name, *(f"{of_module[index]:.4g}" for of_module in weights.values())])
        return align(lines)

    def _picture(self) -> Figure | None:
        """A picture of the strategy's trials, if there were any."""
        selection = self.recipe.selection
        return None if selection is None or not selection.trials else selection.plot()

    @cached_property
    def model(self) -> PreTrainedModel:
        """The averaged model, built in memory on first use, in evaluation mode."""
        return self.build_model()

    def build_model(self) -> PreTrainedModel:
        """Build the averaged model without keeping it, for a single use."""
        self.warn_of_doubts()
        return cook_in_memory(self.plan, self.checkpoints, device=self.device, statistics=self.statistics)

    @cached_property
    def statistics(self) -> dict[str, torch.Tensor]:
        """BatchNorm running statistics by tensor name, if they were estimated again instead of averaged.

        Raises:
            [`IngredientError`]: if the file with the statistics is missing or was changed.
        """
        return running_statistics(self.recipe, self.plan, self.checkpoints, data=self.batchnorm, device=self.device)

    @property
    def selection(self) -> Selection:
        """How the soup was chosen: `.trials`, `.table()`, `.plot()`; without a strategy if the weights were given."""
        return self.recipe.selection or Selection("")

    @property
    def scores(self) -> dict[str, Score]:
        """Validation score of each candidate alone, where a strategy has scored them."""
        return self.selection.scores

    @answers_keywords
    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "50GB",
        overwrite: bool = False,
        merged: bool | None = None,
        rank: int | None = None,
    ) -> Path:
        """Save the soup: weights, config, tokenizer or processor, generation config, recipe and card.

        The folder only appears when it is complete. Weights are averaged and written piece by piece, so memory use
        stays small.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to create.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
                Maximum size of a weight file, as in transformers.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether an existing folder may be replaced.
            merged (`bool`, *optional*):
                Whether a soup of adapters is saved as a whole model (`True`) or as an adapter (`False`); by default as
                an adapter, if the mean of its ingredients is one.
            rank (`int`, *optional*):
                Largest rank of that adapter, by truncated singular value decomposition, whose error the recipe and the
                card state; by default the sum of the ranks, which is exact.

        Returns:
            `Path`: the folder of the saved soup.

        Raises:
            [`RecipeError`]: if the soup is to be an adapter and is none.
            [`OutputError`]: if the folder exists, holds an ingredient, or cannot be written.
            [`IngredientError`]: if an ingredient contains NaN, or has changed since the recipe was made.
        """
        inputs = [*self.candidates, *self.checkpoints]
        if self.plan.base is not None:
            inputs.append(self.plan.base)
        sources = [checkpoint.folder for checkpoint in inputs if checkpoint.folder]
        target = refuse_target(save_directory, overwrite=overwrite, keep=sources)
        with staged_folder(target, overwrite=overwrite) as stage:
            recipe = self._write_weights(stage, max_shard_size, merged, rank)
            write_companions(
                stage,
                recipe,
                self.plan,
                self.checkpoints,
                bases=find_bases(recipe, self.checkpoints),
                comparison=self.comparison,
                analysis=self.analysis,
            )
            (stage / RECIPE_FILE).write_text(dump_recipe(recipe, target), encoding="utf-8")
            write_mergekit(stage, recipe)
        self.saved_as = str(target)
        return target

    @answers_keywords
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        commit_description: str | None = None,
        max_shard_size: int | str = "50GB",
        tags: Sequence[str] | str = (),
        include_plots: bool = True,
        name_private: bool = False,
        license: str | None = None,
        benchmark: str | None = None,
        merged: bool | None = None,
        rank: int | None = None,
    ) -> CommitInfo:
        """Push the soup to the Hub in one commit: the files of `save_pretrained`, without the paths of local folders.

        Runs that a sweep has pushed (`push_runs`) are named by their repositories. After an interruption, the same
        call resumes: files that were uploaded are not sent again, and temporary files of the interrupted call are
        removed.

        Args:
            repo_id (`str`):
                Repository to push to, such as `"user/bert-soup"`; it is created if it does not exist.
            private (`bool`, *optional*):
                Whether a new repository is private.
            token (`str` or `bool`, *optional*):
                Access token for the Hub; by default the one stored by `hf auth login`.
            revision (`str`, *optional*):
                Branch to push to; it is created if it does not exist.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request instead of pushing to the branch.
            commit_message (`str`, *optional*):
                Message of the commit; `"Upload soup"` by default.
            commit_description (`str`, *optional*):
                Description of the commit.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
                Maximum size of a weight file, as in transformers.
            tags (`Sequence[str]` or `str`, *optional*):
                Additional tags for the card.
            include_plots (`bool`, *optional*, defaults to `True`):
                Whether the card includes pictures, which need matplotlib.
            name_private (`bool`, *optional*, defaults to `False`):
                Whether a public soup names its private ingredients. By default they are called `private-1` ..., and
                only users who have these ingredients can cook the soup again.
            license (`str`, *optional*):
                Licence on the card, such as `"mit"`; by default that of the ingredients, if all of them have the same.
            benchmark (`str`, *optional*):
                Data set and task of the benchmark that the test set belongs to, such as `"nyu-mll/glue:sst2"`. The
                test score is added to its leaderboard (`.eval_results/`).
            merged (`bool`, *optional*), rank (`int`, *optional*):
                Whether a soup of adapters is pushed as a whole model, and the rank of an adapter, as for
                `save_pretrained`.

        Returns:
            `huggingface_hub.CommitInfo`

        Raises:
            [`OutputError`]: if the Hub refuses the push; the repository is left unchanged.
            [`DataError`]: if a benchmark is named and there is no test score.
        """
        leaderboard: dict[str, str] = {}
        if benchmark is not None:  # a wrong name is reported before anything is sent
            leaderboard[leaderboard_path(benchmark)] = evaluation_results(self.comparison, self.recipe, benchmark)
        target = open_target(repo_id, private=private, token=token, revision=revision, create_pr=create_pr)
        with temporary_folder() as stage, as_output_error(stage):
            recipe = with_repositories(self._write_weights(stage, max_shard_size, merged, rank), token)
            bases = find_bases(recipe, self.checkpoints)
            redaction = Redaction()
            if not name_private and not target.private:
                redaction = find_private(recipe, self.candidates, bases, token)
                warn_of_redaction(redaction, target.repo_id)
            recipe = redaction.recipe(recipe)
            if recipe.adapter is not None and recipe.base_model is not None:
                publish_base(stage, recipe.base_model, target.repo_id)
            write_companions(
                stage,
                recipe,
                self.plan,
                self.checkpoints,
                bases=bases,
                comparison=self.comparison,
                analysis=self.analysis,
                redaction=redaction,
                plots=include_plots,
                options=CardOptions(target.repo_id, (tags,) if isinstance(tags, str) else tags, license),
            )
            (stage / RECIPE_FILE).write_text(dump_recipe(recipe), encoding="utf-8")
            write_mergekit(stage, recipe)
            for name, content in leaderboard.items():
                (stage / name).parent.mkdir(exist_ok=True)
                (stage / name).write_text(content, encoding="utf-8")
            return push_folder(
                stage,
                target.repo_id,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or "Upload soup",
                commit_description=commit_description,
            )

    def _write_weights(self, folder: Path, max_shard_size: int | str, merged: bool | None, rank: int | None) -> Recipe:
        """Write the weights, and return the recipe with the digests of the files that were read and written."""
        refuse_rank(rank, merged=merged)
        if merged is None and rank is None and self.recipe.output is not None:  # as it was made
            merged = self.recipe.adapter is None
            rank = None if self.recipe.adapter is None else self.recipe.adapter.rank
        reason = why_no_adapter(self.plan, self.checkpoints)
        if self.recipe.batchnorm is not None:
            reason = "its BatchNorm statistics were estimated anew, which an adapter does not hold"
        if reason is not None and (merged is False or rank is not None):
            raise RecipeError(f"this soup cannot be saved as an adapter: {reason}. Save it with merged=True.")
        if reason is None and not merged:
            adapter, output = write_adapter(folder, self.plan, self.checkpoints, rank, self.recipe.dtype)
            base = self.recipe.base_model
            if base is not None:
                base = replace(base, files=digests_under_adapters(base, self.checkpoints))
            written = replace(self.recipe, adapter=adapter, base_model=base, output=output, versions=versions())
            self.warn_of_doubts()
            warn_of_another_digest(self.recipe, written)
            return written
        recipe = write_weights(
            folder,
            self.recipe,
            self.plan,
            self.checkpoints,
            statistics=self.statistics,
            max_shard_size=max_shard_size,
            device=self.device,
            row_giver=self.setup.row_giver,
        )
        self.warn_of_doubts()
        warn_of_another_digest(self.recipe, recipe)
        return recipe

    def warn_of_doubts(self, *, heads: bool = True) -> None:
        """Warn about reasons why the average may not work, the first time that it is computed; about heads only if
        that was not done before.
        """
        if self._has_warned:
            return
        self._has_warned = True
        for note in _doubts_of_statistics(self.recipe, self.plan):
            warn(note)
        if heads:
            for note in _doubts_of_heads(self.recipe, self.plan, self.checkpoints):
                warn(note)


def _doubts_of_statistics(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Warnings about averaged BatchNorm statistics, which match no model."""
    are_averaged = any(is_statistic(step.spec.name) and len(step.inputs) > 1 for step in plan.steps)
    if are_averaged and not recipe.batchnorm:
        yield f"{BATCHNORM_NOTE}."


def _doubts_of_heads(recipe: Recipe, plan: Plan, checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Warnings about averaged heads that do not look like fine-tunes of one."""
    heads = head_names(step.spec.name for step in plan.steps)
    places: set[int] = set()
    for step in plan.steps:
        if step.spec.name in heads:
            places.update(step.inputs)
    yield from unrelated_heads([checkpoints[place] for place in sorted(places)], recipe.alignments)
