"""The settings of a sweep: those that all runs share, those of each run, and those of the linear probe.

`settings.py` checks the settings of one run, and `space.py` expands a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RecipeError
from ..metrics.load import Metric
from ..options import SweepOptions
from .adapters import PEFT
from .folds import with_folds
from .settings import canonical, check_settings
from .space import different_settings, expand_space


if TYPE_CHECKING:
    from ..tasks import Task


class SweepSettings(NamedTuple):
    """The settings of a sweep, with the names of `TrainingArguments`.

    Args:
        shared (`dict[str, Any]`):
            Settings that all runs share.
        runs (`list[dict[str, Any]]`):
            Settings of each run.
        probe (`Mapping[str, Any]`):
            Settings of the linear probe, which take precedence over the shared ones.
    """

    shared: dict[str, Any]
    runs: list[dict[str, Any]]
    probe: Mapping[str, Any]

    def in_folds(self, folds: int, existing: Iterable[Mapping[str, Any]]) -> SweepSettings:
        """The same settings with the fold of each run; the arguments are those of [`with_folds`]."""
        runs = with_folds(self.runs, folds, shared=self.shared, existing=existing)
        return self._replace(shared={**self.shared, "folds": folds}, runs=runs)

    @property
    def of_runs_and_probe(self) -> list[Mapping[str, Any]]:
        """The settings of each run and of the probe, without the shared ones."""
        return [*self.runs, self.probe]

    def values_of(self, name: str) -> list[Any]:
        """The different values that a setting has in the runs."""
        values: list[Any] = []  # not a set, because a value may be a mapping
        for own in self.of_runs_and_probe:
            value = {**self.shared, **own}.get(name)
            if value is not None and value not in values:
                values.append(value)
        return values


def read_settings(options: SweepOptions) -> SweepSettings:
    """Read the settings of a sweep, checked as far as possible without a task.

    Args:
        options ([`SweepOptions`]):
            Options of the sweep; the names in `probe_args` are those of `TrainingArguments`.

    Raises:
        [`RecipeError`]: if the space has no settings, or contains `max_length`.
    """
    runs = expand_space(options.space_or_default, n_runs=options.n_runs, seed=options.seed)
    settings = SweepSettings(
        shared=canonical({**(options.training_args or {}), **({PEFT: options.peft} if options.peft else {})}),
        # compared again, because two settings may be the same under different names
        runs=different_settings([canonical(setting) for setting in runs]),
        probe=options.probe_args or {},
    )
    if any("fold" in own or "folds" in own for own in (settings.shared, *settings.of_runs_and_probe)):
        raise RecipeError('"fold" and "folds" are no settings of runs: pass folds to the sweep.')
    if any("max_length" in own for own in settings.of_runs_and_probe):  # texts are truncated once, before all runs
        raise RecipeError(
            '"max_length" is the same for all runs, because the data is encoded once: give it one value, in '
            "training_args."
        )
    return settings


def check_all_settings(
    settings: SweepSettings,
    task: Task,
    processing_class: Any,
    *,
    evaluates: bool,
    metric: Metric,
    stops_early: bool,
) -> None:
    """Check the settings of every run and of the probe; the arguments are those of [`check_settings`]."""
    for own in settings.of_runs_and_probe:
        check_settings(
            {**settings.shared, **own},
            task,
            processing_class,
            evaluates=evaluates,
            metric=metric,
            stops_early=stops_early,
        )
