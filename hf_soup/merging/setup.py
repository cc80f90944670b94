"""Opened and checked ingredients, with everything about a merge that is settled before weights are chosen.

A mixture becomes a recipe or a plan from here without reading headers or configurations again, since a search makes
hundreds of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..checkpoints.check import CheckReport
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.common_rows import CommonVocabulary
from ..checkpoints.companions import in_order
from ..checkpoints.importance import Importance
from ..checkpoints.labels import base_order_problem
from ..checkpoints.settings import base_notes
from ..errors import IncompatibleError
from ..types import Ingredient, Mixture, Recipe, Selection, StatisticsRecord
from .agreement import Agreement
from .averaging import Averaging, bind_averaging
from .plan import Plan, make_plan


@dataclass(frozen=True)
class MergeSetup:
    """Everything about a merge except the mixture.

    Args:
        candidates (`tuple[Checkpoint, ...]`):
            The ingredients that may be mixed, opened.
        agreement ([`Agreement`]):
            How ingredients that differ are brought to one order of classes and one ingredient's settings.
        report ([`CheckReport`]):
            Report of the check of all ingredients, which found no problem.
        averaging ([`Averaging`]):
            How the tensors of one name become one.
        method (`str`), params (`Mapping`):
            The method as recipes name it.
        base ([`Ingredient`], *optional*):
            The base model, as recipes name it.
        base_candidate (`Checkpoint`, *optional*):
            The base model as one more ingredient, for a strategy that mixes it in.
        batchnorm ([`StatisticsRecord`], *optional*):
            Record of the data on which the running statistics of BatchNorm are estimated again, as it goes into
            recipes.
        vocabulary (`str`, *optional*):
            Vocabulary that the candidates were brought to, as in recipes.
        chat_template (`str`, *optional*):
            Chat template of the soup.
        row_giver (`Checkpoint`, *optional*):
            The base model, if rows of the common vocabulary come from it.
    """

    candidates: tuple[Checkpoint, ...]
    agreement: Agreement
    report: CheckReport
    averaging: Averaging
    method: str
    params: Mapping[str, Any]
    base: Ingredient | None = None
    base_candidate: Checkpoint | None = None
    batchnorm: StatisticsRecord | None = None
    vocabulary: str | None = None
    chat_template: str | None = None
    row_giver: Checkpoint | None = None

    @cached_property
    def by_name(self) -> dict[str, Checkpoint]:
        """Every checkpoint that a mixture may name."""
        checkpoints = {item.name: item for item in self.candidates}
        if self.base_candidate is not None:
            checkpoints[self.base_candidate.name] = self.base_candidate
        return checkpoints

    @property
    def settings_first(self) -> list[Checkpoint]:
        """The candidates, starting with the one that gives the soup its settings."""
        return in_order(self.candidates, self.agreement.settings)

    def without_settings(self) -> MergeSetup:
        """The same ingredients, each with its own settings when it is alone."""
        agreement = self.agreement._replace(settings=None)
        return replace(self, agreement=agreement, averaging=replace(self.averaging, settings=None))

    def checkpoints_of(self, mixture: Mixture) -> list[Checkpoint]:
        """The opened ingredients of a mixture, in its order."""
        return [self.by_name[name] for name in mixture.names]

    def recipe(self, mixture: Mixture, selection: Selection | None = None) -> Recipe:
        """The recipe of a mixture."""
        alignments = self.agreement.of(mixture.names)
        labels = self.agreement.labels if alignments else ()
        # the statistics of a single ingredient fit its weights
        batchnorm = self.batchnorm if len(mixture.used) > 1 else None
        return Recipe(
            mixture.ingredients,
            mixture.weights,
            method=self.method,
            params={**self.params, **mixture.params},
            base_model=self.base,
            dtype=self.averaging.dtype,
            seed=self.averaging.seed,
            alignments=alignments,
            labels=labels,
            take_from=self.agreement.take_from,
            vocabulary=self.vocabulary,
            chat_template=self.chat_template,
            batchnorm=batchnorm,
            importance=self._importance_records(mixture),
            selection=selection,
        )

    def _importance_records(self, mixture: Mixture) -> dict[str, StatisticsRecord]:
        """The records of the statistics that the ingredients of a mixture are averaged by."""
        importance = self.averaging.importance
        return {name: importance[name].record for name in mixture.used if name in importance}

    def plan(self, mixture: Mixture) -> Plan:
        """The plan of a mixture: its operations, tensor by tensor.

        Raises:
            [`RecipeError`]: if its weights make no mean, or are of a module that is not there.
        """
        base_inside = None
        if self.base_candidate is not None:
            base_inside = self.base_candidate.name
        averaging = self.averaging.with_params(mixture.params)
        return make_plan(mixture, self.checkpoints_of(mixture), averaging, self.report, base_inside=base_inside)


def set_up(
    candidates: Sequence[Checkpoint],
    agreement: Agreement,
    *,
    method: str = "linear",
    params: Mapping[str, Any] | None = None,
    base: Checkpoint | None = None,
    base_candidate: Checkpoint | None = None,
    dtype: str = "auto",
    seed: int = 0,
    batchnorm: StatisticsRecord | None = None,
    report: CheckReport | None = None,
    max_memory: int | str | None = None,
    importance: Mapping[str, Importance] | None = None,
    vocabulary: str | None = None,
    chat_template: str | None = None,
) -> MergeSetup:
    """Check the ingredients once, and bind the options of a merge.

    Args:
        candidates (`Sequence[Checkpoint]`):
            The ingredients that may be mixed, opened.
        agreement ([`Agreement`]):
            How ingredients that differ are taken for like ones.
        method (`str`, *optional*), params (`Mapping`, *optional*), dtype (`str`, *optional*), seed (`int`,
            *optional*):
            As of [`Recipe`].
        base (`Checkpoint`, *optional*):
            The base model, opened, for methods that need it.
        base_candidate (`Checkpoint`, *optional*):
            The base model as one more ingredient.
        batchnorm ([`StatisticsRecord`], *optional*):
            Record of the data for BatchNorm, as in [`MergeSetup`].
        report ([`CheckReport`], *optional*):
            Report of the check, where the caller has checked the same ingredients already.
        max_memory (`int` or `str`, *optional*):
            Memory for tensors that are combined whole, as for [`merge`].
        importance (`Mapping[str, Importance]`, *optional*):
            Ingredient -> statistics of its weights, for methods that need them.
        vocabulary (`str`, *optional*), chat_template (`str`, *optional*):
            As of [`MergeSetup`].

    Raises:
        [`IncompatibleError`]: if the ingredients cannot be averaged, with every offender.
        [`RecipeError`]: if the method, its parameters or the type are wrong.
    """
    averaging = bind_averaging(
        method,
        params or {},
        dtype=dtype,
        seed=seed,
        alignments=agreement.alignments,
        base=base,
        settings=agreement.settings,
        max_memory=max_memory,
        candidates=tuple(item.name for item in candidates),
        importance=importance,
    )
    report = report or agreement.check(candidates, base_candidate)
    report.raise_for_problems()
    if averaging.base is not None:
        problem = base_order_problem(averaging.base, report.labels)
        if problem:  # it would be subtracted from other classes
            raise IncompatibleError([problem])
        report = replace(report, notes=(*report.notes, *base_notes(averaging.base, candidates[0])))
    return MergeSetup(
        candidates=tuple(candidates),
        agreement=agreement,
        report=report,
        averaging=averaging,
        method=method,
        params=params or {},
        base=None if base is None else base.ingredient,
        base_candidate=base_candidate,
        batchnorm=batchnorm,
        vocabulary=vocabulary,
        chat_template=chat_template,
        row_giver=base if isinstance(base, CommonVocabulary) else None,
    )
