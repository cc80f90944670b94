"""`Soup`: a recipe bound to opened checkpoints. Averaging happens in `.model` and `.save_pretrained` only.

It holds values and calls functions in order: `merging/` averages and writes, `publishing/` redacts and publishes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.relation import unrelated_heads
from ..checkpoints.check import BATCHNORM_NOTE, is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.modules import head_names
from ..comparison.comparison import Comparison
from ..display.results import Result
from ..display.tables import align
from ..errors import warn
from ..evaluation.running_statistics import running_statistics
from ..merging.in_memory import cook_in_memory
from ..merging.plan import Plan
from ..merging.setup import MergeSetup
from ..options import answers_keywords
from ..publishing.results import evaluation_results, leaderboard_path
from ..types import Recipe, Score, Selection
from .saving import PushRequest, form_of, push, save


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
        executor (`str`, *optional*, defaults to `"local"`):
            Where the shards of the soup are made when it is saved or pushed, as for [`merge`].

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
        executor: str = "local",
    ):
        self.device = device
        self.executor = executor
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
    ) -> Path | str:
        """Save the soup: weights, config, tokenizer or processor, generation config, recipe and card.

        The folder only appears when it is complete. Weights are averaged and written piece by piece, so memory use
        stays small. If weights are streamed or several processes make the soup, finished shards are kept after an
        interruption, and the same call goes on with them.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to create: a path, or the address of a folder on an object store, such as `s3://bucket/soup`.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
                Maximum size of a weight file, as in transformers.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether an existing folder may be replaced. On an object store its files are deleted first.
            merged (`bool`, *optional*):
                Whether a soup of adapters is saved as a whole model (`True`) or as an adapter (`False`); by default as
                an adapter, if the mean of its ingredients is one.
            rank (`int`, *optional*):
                Largest rank of that adapter, by truncated singular value decomposition, whose error the recipe and the
                card state; by default the sum of the ranks, which is exact.

        Returns:
            `Path`: the folder of the saved soup; its address as a `str` on an object store.

        Raises:
            [`RecipeError`]: if the soup is to be an adapter and is none.
            [`OutputError`]: if the folder exists, holds an ingredient, or cannot be written.
            [`IngredientError`]: if an ingredient contains NaN, or has changed since the recipe was made.
        """
        form = form_of(self, max_shard_size, merged, rank)
        target = save(self, save_directory, form, overwrite=overwrite)
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
        removed. If weights are streamed or several processes make the soup, each weight file is uploaded as soon as it
        is complete and then deleted, so that the disk holds two of them at most (`max_shard_size`).

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
        request = PushRequest(
            repo_id,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or "Upload soup",
            commit_description=commit_description,
            tags=(tags,) if isinstance(tags, str) else tags,
            include_plots=include_plots,
            name_private=name_private,
            license=license,
            leaderboard=leaderboard,
        )
        return push(self, request, form_of(self, max_shard_size, merged, rank))

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
