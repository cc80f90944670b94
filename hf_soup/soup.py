"""Soup: a recipe bound to opened checkpoints. Cheap to make; the work happens in `.model` and `.save_pretrained`."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoints.checkpoint import GENERATION, Checkpoint
from .checkpoints.digest import combined_digest
from .checkpoints.modules import head_names
from .checkpoints.relation import unrelated_heads
from .checkpoints.writer import as_output_error, refuse_target, staged_folder, weight_files
from .evaluation.compare import PICTURE, Comparison
from .evaluation.trials import cook_in_memory, output_config
from .hub.card import render_card
from .hub.push import push_folder
from .merging.blend import BASE, blend, file_digests
from .merging.plan import Plan, make_plan
from .recipes import RECIPE_FILE, dump_recipe
from .types import Recipe, Score
from .version import versions


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel


class Soup:
    """One model made of several, not averaged before it is asked for.

    [`merge`] makes it. The model that `.model` builds and the one that `.save_pretrained` writes have the same bits.

    Args:
        recipe ([`Recipe`]):
            Who goes in and how.
        checkpoints (`Sequence[Checkpoint]`):
            Its ingredients, opened, in recipe order.
        base (`Checkpoint`, *optional*):
            The base model, opened, for methods that need it.
        candidates (`Sequence[Checkpoint]`, *optional*):
            All that a strategy chose from; the ingredients by default.
        comparison ([`Comparison`], *optional*):
            What is known of its scores; the card shows it.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.

    Raises:
        [`IncompatibleError`]: if the ingredients cannot be averaged.
        [`RecipeError`]: if the recipe's method, parameters, type or module prefixes are wrong.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoints: Sequence[Checkpoint],
        *,
        base: Checkpoint | None = None,
        candidates: Sequence[Checkpoint] | None = None,
        comparison: Comparison | None = None,
        device: str = "cpu",
    ):
        self.device = device
        self.recipe = recipe
        self.checkpoints = tuple(checkpoints)
        self.candidates = tuple(candidates or checkpoints)
        self.comparison = comparison
        self._heads_seen = False
        self.plan: Plan = make_plan(recipe, self.checkpoints, base)

    def __repr__(self) -> str:
        parts = ", ".join(self.recipe.names)
        return f"Soup({self.recipe.method} of {len(self.recipe.ingredients)}: {parts})"

    @cached_property
    def model(self) -> PreTrainedModel:
        """The averaged model, built in memory on first use, in evaluation mode."""
        self._warn_of_heads()
        return cook_in_memory(self.plan, self.checkpoints, device=self.device)

    @property
    def scores(self) -> dict[str, Score]:
        """Validation score of each candidate alone, where a strategy has scored them."""
        selection = self.recipe.selection
        return {
            trial["candidate"]: Score(
                selection["metric"], trial["alone"], selection.get("higher_is_better", True), selection["split"]
            )
            for trial in selection.get("trials", [])
        }

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, max_shard_size: int | str = "50GB", overwrite: bool = False
    ) -> Path:
        """Stream the soup to disk: weights, config, tokenizer or processor, generation config, recipe and card.

        The folder appears when it is whole, never half.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder to make.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
                As in transformers.
            overwrite (`bool`, *optional*, defaults to `False`):
                Whether a folder that is there may be replaced.

        Returns:
            `Path`: the folder.

        Raises:
            [`OutputError`]: if the folder exists, holds an ingredient, or cannot be written.
            [`IngredientError`]: if an ingredient holds NaN, or is not what the recipe was made from.
        """
        inputs = [*self.candidates, *([self.plan.base] if self.plan.base else [])]
        sources = [item.folder for item in inputs if item.folder]
        target = refuse_target(save_directory, overwrite=overwrite, keep=sources)
        with staged_folder(target, overwrite=overwrite) as stage:
            recipe = self._write_weights(stage, max_shard_size)
            self._write_rest(stage, recipe, dump_recipe(recipe, target))
        return target

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
    ) -> CommitInfo:
        """Put the soup on the Hub in one commit: what `save_pretrained` writes, without the paths of local folders.

        Args:
            repo_id (`str`):
                Such as `"user/bert-soup"`; made where it is missing.
            private (`bool`, *optional*):
                Whether a new repository is private.
            token (`str` or `bool`, *optional*):
                By default the one that `hf auth login` stored.
            revision (`str`, *optional*):
                The branch.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request instead.
            commit_message (`str`, *optional*):
                `"Upload soup"` by default.
            commit_description (`str`, *optional*):
                Of the commit.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
                As in transformers.

        Returns:
            `huggingface_hub.CommitInfo`
        """
        with as_output_error(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
            stage = Path(folder)
            recipe = self._write_weights(stage, max_shard_size)
            self._write_rest(stage, recipe, dump_recipe(recipe))
            return push_folder(
                stage,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or "Upload soup",
                commit_description=commit_description,
            )

    def _warn_of_heads(self) -> None:
        """At the first pour: say if the heads that go in do not look like fine-tunes of one."""
        if self._heads_seen:
            return
        self._heads_seen = True
        heads = head_names(step.spec.name for step in self.plan.steps)
        used = {index for step in self.plan.steps if step.spec.name in heads for index in step.inputs}
        for note in unrelated_heads([self.checkpoints[index] for index in sorted(used)], self.recipe.alignments):
            warnings.warn(note, stacklevel=4)

    def _write_weights(self, folder: Path, max_shard_size: int | str) -> Recipe:
        """Pour, and return the recipe with the digests of what went in and what came out."""
        with weight_files(folder, self.plan.specs, max_shard_size=max_shard_size) as files:
            read = blend(self.plan, self.checkpoints, files.write, digests=True, device=self.device)
        self._warn_of_heads()
        written = files.digests()
        poured = tuple(
            replace(item.ingredient, files=file_digests(item, digests))
            for item, digests in zip(self.checkpoints, read[:BASE], strict=True)
        )
        base = self.recipe.base_model
        if self.plan.base is not None:
            base = replace(base, files=file_digests(self.plan.base, read[BASE]))
        output = {"tensors": len(written), "digest": combined_digest(written)}
        expected = self.recipe.output.get("digest")
        if expected and expected != output["digest"]:
            warnings.warn(
                f"the soup's digest is {output['digest']}, the recipe says {expected}: it was changed, or made with "
                f"other versions ({self.recipe.versions}).",
                stacklevel=3,
            )
        return replace(self.recipe, ingredients=poured, base_model=base, output=output, versions=versions())

    def _write_rest(self, folder: Path, recipe: Recipe, recipe_text: str) -> None:
        config = output_config(self.plan, self.checkpoints[0])
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name, content in self._companions().items():
            (folder / name).write_bytes(content)
        if self.comparison is not None:
            self.comparison.save(folder)
        picture = PICTURE if (folder / PICTURE).exists() else None
        card = render_card(recipe, config, self.comparison, picture=picture)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / RECIPE_FILE).write_text(recipe_text, encoding="utf-8")

    def _companions(self) -> dict[str, bytes]:
        """Tokenizer or processor of the first ingredient that has one, and the first generation config."""
        found = [item.companions for item in self.checkpoints]
        generation = [{GENERATION: files[GENERATION]} for files in found if GENERATION in files]
        others = [{name: files[name] for name in files if name != GENERATION} for files in found]
        return next(filter(None, others), {}) | next(iter(generation), {})
