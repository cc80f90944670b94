"""Soup: a recipe bound to opened checkpoints. Cheap to make; the work happens in `.model` and `.save_pretrained`."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints.check import BATCHNORM_NOTE, is_statistic
from .checkpoints.checkpoint import Checkpoint
from .checkpoints.companions import TakenFiles, in_order, taken_files
from .checkpoints.digest import combined_digest, tensor_digest
from .checkpoints.memory import tensors_on_disk
from .checkpoints.modules import head_names
from .checkpoints.relation import unrelated_heads
from .checkpoints.staging import staged_folder, temporary_folder
from .checkpoints.targets import as_output_error, refuse_target
from .checkpoints.writer import weight_files
from .errors import IngredientError, warn
from .evaluation.comparison import Comparison
from .evaluation.tasting import estimate_again
from .hub.bases import find_bases
from .hub.beside import write_beside
from .hub.card import evaluation_results
from .hub.origins import Veil, is_private, on_hub, private_ones, with_repositories
from .hub.push import open_target, push_folder
from .merging.blend import BASE, blend, file_digests
from .merging.in_memory import cook_in_memory, output_config
from .merging.plan import Plan, make_plan
from .recipes import BATCHNORM_FILE, RECIPE_FILE, dump_recipe
from .selection import Selection
from .types import Recipe, Score
from .untrusted import as_error, one_line
from .version import versions


if TYPE_CHECKING:
    import torch
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel

    from .analyzing import Analysis
    from .evaluation.evaluator import Evaluator


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
        batchnorm ([`Evaluator`], *optional*):
            The training data of a recipe that estimates BatchNorm again; a recipe that was read has the result.

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
        batchnorm: Evaluator | None = None,
    ):
        self.device = device
        self.batchnorm = batchnorm
        self.recipe = recipe
        self.checkpoints = tuple(checkpoints)
        self.candidates = tuple(candidates or checkpoints)
        self.comparison = comparison
        self.analysis: Analysis | None = None
        self._warned = False
        self.plan: Plan = make_plan(recipe, self.checkpoints, base)

    def __repr__(self) -> str:
        parts = ", ".join(self.recipe.names)
        return f"Soup({self.recipe.method} of {len(self.recipe.ingredients)}: {parts})"

    @cached_property
    def model(self) -> PreTrainedModel:
        """The averaged model, built in memory on first use, in evaluation mode."""
        return self.build_model()

    def build_model(self) -> PreTrainedModel:
        """The averaged model, built anew and not kept: for those who need it once."""
        self._warn()
        return cook_in_memory(self.plan, self.checkpoints, device=self.device, statistics=self.statistics)

    @cached_property
    def statistics(self) -> dict[str, torch.Tensor]:
        """The running statistics of BatchNorm by their names on disk, where the recipe says that they are no averages.

        Raises:
            [`IngredientError`]: if the file that holds them is not there or was changed.
        """
        import torch

        if not self.recipe.batchnorm:
            return {}
        if self.batchnorm is not None:
            model = cook_in_memory(self.plan, self.checkpoints, device=self.device)
            state = tensors_on_disk(estimate_again(model, self.recipe, self.batchnorm))
            specs = [spec for spec in self.plan.specs if is_statistic(spec.name)]
            return {spec.name: state[spec.name].to("cpu", getattr(torch, spec.dtype)) for spec in specs}
        from safetensors.torch import load_file

        path = self.recipe.batchnorm.get("file")
        with as_error(IngredientError, f"the recipe estimates BatchNorm on data, and its file cannot be read: {path}"):
            if path is None or not os.path.isfile(path):  # a pipe would be waited for
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            found = load_file(path)
        names = {spec.name for spec in self.plan.specs if is_statistic(spec.name)}
        if set(found) != names or _digest(found) != self.recipe.batchnorm.get("digest"):
            raise IngredientError(f"{path} does not hold the running statistics that the recipe was made with.")
        return found

    @property
    def selection(self) -> Selection | None:
        """How it was chosen: a row for each trial, `.table()`, `.plot()`; `None` where nobody chose."""
        return Selection.of(self.recipe)

    @property
    def scores(self) -> dict[str, Score]:
        """Validation score of each candidate alone, where a strategy has scored them."""
        return self.selection.scores if self.selection else {}

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
        inputs = [*self.candidates, *self.checkpoints, *([self.plan.base] if self.plan.base else [])]
        sources = [item.folder for item in inputs if item.folder]
        target = refuse_target(save_directory, overwrite=overwrite, keep=sources)
        with staged_folder(target, overwrite=overwrite) as stage:
            recipe = self._write_weights(stage, max_shard_size)
            self._write_rest(stage, recipe, bases=find_bases(recipe, self.checkpoints))
            (stage / RECIPE_FILE).write_text(dump_recipe(recipe, target), encoding="utf-8")
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
        tags: Sequence[str] | str = (),
        include_plots: bool = True,
        name_private: bool = False,
        license: str | None = None,
        benchmark: str | None = None,
    ) -> CommitInfo:
        """Put the soup on the Hub in one commit: what `save_pretrained` writes, without the paths of local folders.

        Runs that a sweep has pushed (`push_runs`) are named by their repositories. Called again after an interruption,
        it does not send what is there already, and clears what the interrupted call left on the disk.

        Args:
            repo_id (`str`):
                Such as `"user/bert-soup"`; made where it is missing.
            private (`bool`, *optional*):
                Whether a new repository is private.
            token (`str` or `bool`, *optional*):
                By default the one that `hf auth login` stored.
            revision (`str`, *optional*):
                The branch; made where it is missing.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request instead.
            commit_message (`str`, *optional*):
                `"Upload soup"` by default.
            commit_description (`str`, *optional*):
                Of the commit.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
                As in transformers.
            tags (`Sequence[str]` or `str`, *optional*):
                More tags for the card.
            include_plots (`bool`, *optional*, defaults to `True`):
                Whether the card has pictures, where matplotlib is installed.
            name_private (`bool`, *optional*, defaults to `False`):
                Whether a public soup names ingredients that are private. Otherwise they are called `private-1` ...,
                and only those who have them can cook it again.
            license (`str`, *optional*):
                Of the card, such as `"mit"`; by default that of the ingredients, where all of them state the same.
            benchmark (`str`, *optional*):
                Data set and task of a benchmark that the test set is, such as `"nyu-mll/glue:sst2"`: the test score
                goes to its leaderboard (`.eval_results/`).

        Returns:
            `huggingface_hub.CommitInfo`

        Raises:
            [`OutputError`]: if the Hub refuses; what is in the repository is as it was.
            [`DataError`]: if a benchmark is named and there is no test score.
        """
        extra = {}
        if benchmark is not None:  # wrong names are told before anything is sent
            name = f".eval_results/hf_soup--{benchmark.partition(':')[0].replace('/', '--')}.yaml"
            extra[name] = evaluation_results(self.comparison, self.recipe, benchmark)
        target = open_target(repo_id, private=private, token=token, revision=revision, create_pr=create_pr)
        with temporary_folder() as stage, as_output_error(stage):
            recipe = with_repositories(self._write_weights(stage, max_shard_size), token)
            bases = find_bases(recipe, self.checkpoints)
            veil = None if name_private or target.private else self._veil(recipe, bases, token)
            if veil and veil.aliases:
                names = ", ".join(name for name, _ in veil.aliases)
                warn(
                    f"{target.repo_id} is public and {names} private: what is private is not named, so only those who "
                    "have it can cook the soup again. name_private=True names it."
                )
            if veil and veil.bases:
                warn(
                    f"{target.repo_id} is public and {', '.join(veil.bases)}, which ingredients were fine-tuned from, "
                    "private or gone: it is not named. name_private=True names it."
                )
            if veil:
                recipe = veil.recipe(recipe)
            more = {
                "bases": bases,
                "repo_id": target.repo_id,
                "tags": [tags] if isinstance(tags, str) else tags,
                "license": license,
            }
            self._write_rest(stage, recipe, veil=veil, plots=include_plots, **more)
            (stage / RECIPE_FILE).write_text(dump_recipe(recipe), encoding="utf-8")
            for name, content in extra.items():
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

    def _warn(self) -> None:
        """At the first pour: say if BatchNorm will not fit, or heads do not look like fine-tunes of one."""
        if self._warned:
            return
        self._warned = True
        averaged = any(is_statistic(step.spec.name) and len(step.inputs) > 1 for step in self.plan.steps)
        if averaged and not self.recipe.batchnorm:
            warn(f"{BATCHNORM_NOTE}.")
        heads = head_names(step.spec.name for step in self.plan.steps)
        used = {index for step in self.plan.steps if step.spec.name in heads for index in step.inputs}
        for note in unrelated_heads([self.checkpoints[index] for index in sorted(used)], self.recipe.alignments):
            warn(note)

    def _write_weights(self, folder: Path, max_shard_size: int | str) -> Recipe:
        """Pour, and return the recipe with the digests of what went in and what came out."""
        statistics = self.statistics

        def sink(name: str, start: int, elements: torch.Tensor) -> None:
            if name not in statistics:
                files.write(name, start, elements)

        with weight_files(folder, self.plan.specs, max_shard_size=max_shard_size) as files:
            read = blend(self.plan, self.checkpoints, sink, digests=True, device=self.device)
            for name, tensor in statistics.items():
                files.write(name, 0, tensor.reshape(-1))
        self._warn()
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
            warn(
                f"the soup's digest is {output['digest']}, the recipe says {expected}: it was changed, or made with "
                f"other versions ({one_line(self.recipe.versions)})."
            )
        batchnorm = self.recipe.batchnorm
        if statistics:
            from safetensors.torch import save_file

            save_file(statistics, folder / BATCHNORM_FILE)
            batchnorm = {**batchnorm, "file": BATCHNORM_FILE, "digest": _digest(statistics)}
        made = {"ingredients": poured, "base_model": base, "batchnorm": batchnorm, "output": output}
        return replace(self.recipe, **made, versions=versions())

    def _veil(self, recipe: Recipe, bases: Sequence[Sequence[str]], token: str | bool | None) -> Veil | None:
        """What hides private ingredients, what they were fine-tuned from, and candidates that were not taken, if there
        are any.
        """
        known = {item.name for item in recipe.ingredients}
        others = [on_hub(item.ingredient, token) for item in self.candidates if item.name not in known]
        named = [*recipe.ingredients, *filter(None, [recipe.base_model]), *others]
        private = private_ones(named, token)
        told = [
            base
            for item, found in zip(recipe.ingredients, bases, strict=True)
            if not item.revision or item in private
            for base in found
        ]
        hidden = [base for base in dict.fromkeys(told) if is_private(base, token=token)]
        if not private and not hidden:
            return None
        return Veil(private, [item for item in named if item not in private], bases=hidden)

    def _write_rest(self, folder: Path, recipe: Recipe, **options: Any) -> None:
        config = output_config(self.plan)
        known = {"analysis": self.analysis, **options}
        write_beside(folder, recipe, config, self._companions(), self.comparison, self.checkpoints, **known)

    def _companions(self) -> TakenFiles:
        """All that goes along of the ingredient whose settings are taken, else of the first."""
        return taken_files(in_order(self.checkpoints, self.plan.settings))


def _digest(statistics: Mapping[str, torch.Tensor]) -> str:
    return combined_digest({name: tensor_digest(tensor) for name, tensor in statistics.items()})
