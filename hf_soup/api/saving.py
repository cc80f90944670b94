"""How a soup is saved and pushed: as a model or an adapter, at once or shard by shard, by one process or many."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.adapter import AdapterCheckpoint
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.digest import combined_digest, tensor_digest
from ..checkpoints.output_layout import OutputLayout, lay_out
from ..checkpoints.staging import resumable_folder, staged_folder, temporary_folder
from ..checkpoints.store import is_address
from ..checkpoints.store import target as target_store
from ..checkpoints.targets import as_output_error, refuse_target
from ..checkpoints.writer import write_indexes
from ..errors import OutputError, RecipeError, SoupError
from ..formats.mergekit_config import write_mergekit
from ..formats.recipe_file import RECIPE_FILE, dump_recipe
from ..merging.output import Digested
from ..publishing.adapter_weights import publish_base, refuse_rank, why_no_adapter, write_adapter
from ..publishing.bases import find_bases
from ..publishing.folder import CardOptions, write_companions
from ..publishing.privacy import with_repositories
from ..publishing.push import Target, open_target, push_folder
from ..publishing.redaction import Redaction, find_private, warn_of_redaction
from ..publishing.sharing import ShardMaker, ShardRecord, folder_of_records, key_of, make_by_shard
from ..publishing.store_target import finish_store_target, open_store_target, refuse_lost
from ..publishing.upload import HubUpload, StoreUpload, Upload
from ..publishing.weights import digests_under_adapters, warn_of_another_digest, with_digests, write_weights
from ..ranks import Ranks, join_ranks
from ..types import Recipe
from ..version import versions


if TYPE_CHECKING:
    import torch
    from huggingface_hub import CommitInfo

    from .soup import Soup


@dataclass(frozen=True)
class Form:
    """The form in which the weights of a soup are saved.

    Args:
        is_adapter (`bool`):
            Whether they are saved as an adapter, and not as a whole model.
        rank (`int`, *optional*):
            Largest rank of the adapter.
        max_shard_size (`int` or `str`):
            Maximum size of a weight file.
    """

    is_adapter: bool
    rank: int | None
    max_shard_size: int | str


@dataclass(frozen=True)
class PushRequest:
    """Where a soup is pushed to, and what its card says beside what is known: arguments of [`Soup.push_to_hub`]."""

    repo_id: str
    private: bool | None
    token: str | bool | None
    revision: str | None
    create_pr: bool
    commit_message: str
    commit_description: str | None
    tags: Sequence[str]
    include_plots: bool
    name_private: bool
    license: str | None
    leaderboard: Mapping[str, str]


def form_of(soup: Soup, max_shard_size: int | str, merged: bool | None, rank: int | None) -> Form:
    """The form of a soup's weights, from the arguments of [`Soup.save_pretrained`].

    Raises:
        [`RecipeError`]: if the soup is to be an adapter and is none.
    """
    refuse_rank(rank, merged=merged)
    if merged is None and rank is None and soup.recipe.output is not None:  # as it was made
        merged = soup.recipe.adapter is None
        rank = None if soup.recipe.adapter is None else soup.recipe.adapter.rank
    reason = why_no_adapter(soup.plan, soup.checkpoints)
    if soup.recipe.batchnorm is not None:
        reason = "its BatchNorm statistics were estimated anew, which an adapter does not hold"
    if reason is not None and (merged is False or rank is not None):
        raise RecipeError(f"this soup cannot be saved as an adapter: {reason}. Save it with merged=True.")
    return Form(reason is None and not merged, rank, max_shard_size)


def save(soup: Soup, save_directory: str | os.PathLike[str], form: Form, *, overwrite: bool) -> Path | str:
    """Save a soup in a folder that appears when it is complete; the arguments are those of [`Soup.save_pretrained`].

    Raises:
        [`OutputError`]: if the folder exists, holds an ingredient, or cannot be written.
        [`IngredientError`]: if an ingredient contains NaN, or has changed since the recipe was made.
    """
    inputs = [*soup.candidates, *_read_by(soup)]
    sources = [checkpoint.folder for checkpoint in inputs if checkpoint.folder]
    ranks = _join(soup)
    if is_address(save_directory):
        refuse_lost(
            [*inputs, *(item.base for item in inputs if isinstance(item, AdapterCheckpoint))], str(save_directory)
        )
        _save_to_store(soup, str(save_directory), form, ranks, overwrite=overwrite)
        return str(save_directory)
    target = refuse_target(save_directory, overwrite=overwrite, keep=sources)
    if _is_by_shard(soup, form):
        work = _work(soup, form, ranks)
        with resumable_folder(target, work.key, ranks, overwrite=overwrite) as stage:
            finished = _make_shards(soup, work, stage, ranks)
            with ranks.together():
                if ranks.is_first:
                    _refuse_missing(stage, work.layout)
                    _write_beside(soup, stage, _recipe_of(soup, work, stage, finished), target)
        return target
    with ranks.together():
        if ranks.is_first:
            with staged_folder(target, overwrite=overwrite) as stage:
                _write_beside(soup, stage, _write_at_once(soup, stage, form), target)
    return target


def _save_to_store(soup: Soup, address: str, form: Form, ranks: Ranks, *, overwrite: bool) -> None:
    """Save a soup in a folder of an object store: each weight file as soon as it is complete, the configuration last.

    Raises:
        [`OutputError`]: if the folder is not empty, or the store refuses.
    """
    work = _work(soup, form, ranks, address)
    with ranks.together():
        if ranks.is_first:
            open_store_target(address, work.key, overwrite=overwrite)
    store, records = target_store(address), folder_of_records(work.key)
    with temporary_folder() as stage, as_output_error(stage):
        finished: list[ShardRecord] = []
        if not form.is_adapter:
            finished = _make_shards(soup, work, records, ranks, StoreUpload(store))
        with ranks.together():
            if ranks.is_first:
                recipe = _recipe_of(soup, work, stage, finished) if finished else _write_at_once(soup, stage, form)
                _write_beside(soup, stage, recipe, address)
                finish_store_target(store, stage)
    shutil.rmtree(records, ignore_errors=True)


def _write_beside(soup: Soup, stage: Path, recipe: Recipe, target: Path | str) -> None:
    """Write everything but the weights into the folder of a soup that will be `target`."""
    write_companions(
        stage,
        recipe,
        soup.plan,
        soup.checkpoints,
        bases=find_bases(recipe, soup.checkpoints),
        comparison=soup.comparison,
        analysis=soup.analysis,
    )
    (stage / RECIPE_FILE).write_text(dump_recipe(recipe, target), encoding="utf-8")
    write_mergekit(stage, recipe)


def push(soup: Soup, request: PushRequest, form: Form) -> CommitInfo:
    """Push a soup to the Hub in one commit.

    Raises:
        [`OutputError`]: if the Hub refuses the push; the repository is left unchanged.
    """
    ranks = _join(soup)
    opened = commit = None
    with ranks.together():
        if ranks.is_first:
            opened = _open(request)
    target = next(target for target in ranks.gather(opened) if target is not None)
    records = None
    with temporary_folder() as stage, as_output_error(stage):
        finished: list[ShardRecord] = []
        if _is_by_shard(soup, form):
            upload = HubUpload(target.repo_id, request.token, request.revision, request.create_pr)
            work = _work(soup, form, ranks, target.repo_id, str(request.revision))
            records = folder_of_records(work.key)
            finished = _make_shards(soup, work, records, ranks, upload)
        with ranks.together():
            if ranks.is_first:
                recipe = _recipe_of(soup, work, stage, finished) if finished else _write_at_once(soup, stage, form)
                _write_published(soup, stage, recipe, target, request)
                commit = push_folder(
                    stage,
                    target.repo_id,
                    token=request.token,
                    revision=request.revision,
                    create_pr=request.create_pr,
                    commit_message=request.commit_message,
                    commit_description=request.commit_description,
                    uploaded=[record.uploaded for record in finished if record.uploaded is not None],
                )
    if records is not None:
        shutil.rmtree(records, ignore_errors=True)
    return next(made for made in ranks.gather(commit) if made is not None)


def _join(soup: Soup) -> Ranks:
    """The ranks that make the soup.

    Raises:
        [`SoupError`]: if they have chosen different soups.
    """
    ranks = join_ranks(soup.executor)
    if len(set(ranks.gather(soup.recipe.fingerprint()))) > 1:
        raise SoupError(
            "the ranks have made different recipes: their ingredients differ, or a strategy has chosen differently. "
            "Choose in one process, and let the ranks cook its recipe."
        )
    return ranks


def _open(request: PushRequest) -> Target:
    return open_target(
        request.repo_id,
        private=request.private,
        token=request.token,
        revision=request.revision,
        create_pr=request.create_pr,
    )


def _write_published(soup: Soup, stage: Path, recipe: Recipe, target: Target, request: PushRequest) -> None:
    """Write everything but the weights of a soup that is pushed, without the paths of local folders."""
    recipe = with_repositories(recipe, request.token)
    bases = find_bases(recipe, soup.checkpoints)
    redaction = Redaction()
    if not request.name_private and not target.private:
        redaction = find_private(recipe, soup.candidates, bases, request.token)
        warn_of_redaction(redaction, target.repo_id)
    recipe = redaction.recipe(recipe)
    if recipe.adapter is not None and recipe.base_model is not None:
        publish_base(stage, recipe.base_model, target.repo_id)
    write_companions(
        stage,
        recipe,
        soup.plan,
        soup.checkpoints,
        bases=bases,
        comparison=soup.comparison,
        analysis=soup.analysis,
        redaction=redaction,
        plots=request.include_plots,
        options=CardOptions(target.repo_id, request.tags, request.license),
    )
    (stage / RECIPE_FILE).write_text(dump_recipe(recipe), encoding="utf-8")
    write_mergekit(stage, recipe)
    for name, content in request.leaderboard.items():
        (stage / name).parent.mkdir(exist_ok=True)
        (stage / name).write_text(content, encoding="utf-8")


def _is_by_shard(soup: Soup, form: Form) -> bool:
    """Whether a soup is made shard by shard: by several processes, or from streamed weights, which takes long."""
    if form.is_adapter:
        return False
    return soup.executor != "local" or any(item.is_streamed for item in _read_by(soup))


def _read_by(soup: Soup) -> list[Checkpoint]:
    """What a soup is made from: its ingredients, and the base model if the method reads it."""
    base = soup.plan.base
    return [*soup.checkpoints] if base is None else [*soup.checkpoints, base]


@dataclass(frozen=True)
class Work:
    """What decides the bytes of the shards of a soup.

    Args:
        layout ([`OutputLayout`]):
            The files.
        statistics (`Mapping[str, torch.Tensor]`):
            BatchNorm statistics that replace averages.
        key (`str`):
            Name of the work, by which an interrupted one is found again.
    """

    layout: OutputLayout
    statistics: Mapping[str, torch.Tensor]
    key: str


def _work(soup: Soup, form: Form, ranks: Ranks, *places: str) -> Work:
    """The work of saving a soup, at places such as a repository."""
    statistics: Mapping[str, torch.Tensor] = {}
    with ranks.together():
        if ranks.is_first:  # estimated once, since another machine may round otherwise
            statistics = soup.statistics
    statistics = ranks.gather(statistics)[0]
    layout = lay_out(soup.plan.specs, form.max_shard_size)
    digest = combined_digest({name: tensor_digest(tensor) for name, tensor in statistics.items()})
    return Work(layout, statistics, key_of(soup.recipe, layout, soup.device, digest, *places))


def _make_shards(
    soup: Soup, work: Work, records: Path, ranks: Ranks, upload: Upload | None = None
) -> list[ShardRecord]:
    """Make the weights shard by shard, and return the records of all shards, on each rank.

    Args:
        records (`Path`):
            Folder of the records of finished shards, and of the shards unless they are uploaded.
    """
    for item in _read_by(soup):
        item.read_anew()
    maker = ShardMaker(soup.plan, soup.checkpoints, work.statistics, soup.device, records, upload)
    return make_by_shard(maker, work.layout, executor=soup.executor, ranks=ranks)


def _recipe_of(soup: Soup, work: Work, folder: Path, finished: Sequence[ShardRecord]) -> Recipe:
    """The recipe with what was read and written, when its folder has the indexes and the statistics."""
    recipe = with_digests(
        folder,
        soup.recipe,
        soup.plan,
        soup.checkpoints,
        Digested.together(record.digested for record in finished),
        statistics=work.statistics,
        row_giver=soup.setup.row_giver,
    )
    write_indexes(folder, work.layout)
    soup.warn_of_doubts()
    warn_of_another_digest(soup.recipe, recipe)
    return recipe


def _refuse_missing(folder: Path, layout: OutputLayout) -> None:
    """Refuse a folder without all of its shards, as where ranks or workers do not share it.

    Raises:
        [`OutputError`]: naming the first shard that is missing.
    """
    for shard in layout.shards:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.nbytes:
            raise OutputError(
                f"{shard.file} was made, and is not in {folder}, which not all processes share. Name one on shared "
                "storage, or push without one."
            )


def _write_at_once(soup: Soup, folder: Path, form: Form) -> Recipe:
    """Write the weights, and return the recipe with the digests of the files that were read and written."""
    if form.is_adapter:
        adapter, output = write_adapter(folder, soup.plan, soup.checkpoints, form.rank, soup.recipe.dtype)
        base = soup.recipe.base_model
        if base is not None:
            base = replace(base, files=digests_under_adapters(base, soup.checkpoints))
        recipe = replace(soup.recipe, adapter=adapter, base_model=base, output=output, versions=versions())
    else:
        recipe = write_weights(
            folder,
            soup.recipe,
            soup.plan,
            soup.checkpoints,
            statistics=soup.statistics,
            max_shard_size=form.max_shard_size,
            device=soup.device,
            row_giver=soup.setup.row_giver,
        )
    soup.warn_of_doubts()
    warn_of_another_digest(soup.recipe, recipe)
    return recipe
