"""The settings of a sweep: those that all runs share, those that each has of its own, and those of the linear probe.

What one run may be set to is in `settings.py`, and how a space is expanded in `space.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RecipeError
from ..metrics.load import Metric
from ..options import SweepOptions
from .settings import canonical, check_settings
from .space import different_settings, expand_space


if TYPE_CHECKING:
    from ..tasks import Task


class SweepSettings(NamedTuple):
    """The settings of a sweep, under the names that `TrainingArguments` has.

    Args:
        shared (`dict[str, Any]`):
            Those that all runs share.
        runs (`list[dict[str, Any]]`):
            Those that each run has of its own.
        probe (`Mapping[str, Any]`):
            Those of the linear probe, over the shared ones.
    """

    shared: dict[str, Any]
    runs: list[dict[str, Any]]
    probe: Mapping[str, Any]

    @property
    def of_runs_and_probe(self) -> list[Mapping[str, Any]]:
        """The settings that are trained with, each without the shared ones."""
        return [*self.runs, self.probe]

    def values_of(self, name: str) -> list[Any]:
        """The values that a setting has in some run, each once, where it has one."""
        values: list[Any] = []  # no set: a value may be a mapping
        for own in self.of_runs_and_probe:
            value = {**self.shared, **own}.get(name)
            if value is not None and value not in values:
                values.append(value)
        return values


def read_settings(options: SweepOptions) -> SweepSettings:
    """The settings that a user asked for, so far as they can be checked without a task.

    Args:
        options ([`SweepOptions`]):
            Of the sweep, `probe_args` with the names that `TrainingArguments` has.

    Raises:
        [`RecipeError`]: if the space holds no settings, or `max_length`.
    """
    runs = expand_space(options.space, n_runs=options.n_runs, seed=options.seed)
    settings = SweepSettings(
        shared=canonical(options.training_args or {}),
        # compared once more: two settings may be one under different names
        runs=different_settings([canonical(setting) for setting in runs]),
        probe=options.probe_args or {},
    )
    if any("max_length" in own for own in settings.of_runs_and_probe):  # texts are cut once, before the first run
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
    """Check the settings of every run, and of the probe; arguments as of [`check_settings`]."""
    for own in settings.of_runs_and_probe:
        check_settings(
            {**settings.shared, **own},
            task,
            processing_class,
            evaluates=evaluates,
            metric=metric,
            stops_early=stops_early,
        )
