"""What exact early rejection saves in a greedy search, compared with the full search and with plain loops.

python benchmarks/greedy.py DATA SWEEP            # DATA has a validation file, SWEEP is the folder of a sweep
python benchmarks/greedy.py DATA RUN RUN RUN ...  # or single fine-tunes; six MiniLM, 1,000 texts: minutes on two cores

Four searches run in turn, and nothing is cached between them: the package's search; the same search with every trial
run in full, in the same batches, which must find the same soup; the loop of the released code (Wortsman et al.), which
keeps the current soup in memory and reads the candidate; and a loop that reads every model it averages, at every
trial. Both loops keep ties, as the paper and the package do, and run every trial in full in the evaluator's usual
batches. All four need the scores of the single ingredients, which are timed separately.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import hf_soup
from hf_soup.display.tables import align
from hf_soup.evaluation.binding import bind_evaluator
from hf_soup.merging.agreement import Agreement
from hf_soup.merging.setup import set_up
from hf_soup.metrics.predictions import right
from hf_soup.plugins import load_module
from hf_soup.selection.trials import ModelTrials
from hf_soup.strategies.greedy import greedy
from hf_soup.types import Mixture, Rejected, Threshold


if TYPE_CHECKING:
    import torch

    from hf_soup.checkpoints.checkpoint import Checkpoint
    from hf_soup.evaluation.outputs import Outputs
    from hf_soup.types import Score

EARLY, FULL, RELEASED, REREAD = SEARCHES = ("early rejection", "in full", "released loop", "all read again")


class Clocked(hf_soup.Evaluator):
    """An evaluator that keeps the outputs and the duration of each pass."""

    @cached_property
    def passes(self) -> list[tuple[Outputs, float]]:
        """The outputs and the seconds of each pass."""
        return []

    def run(self, model: Any, **options: Any) -> Outputs:
        """Run a model as `Evaluator.run` does, and record the pass."""
        started = time.perf_counter()
        outputs = super().run(model, **options)
        self.passes.append((outputs, time.perf_counter() - started))
        return outputs


class Watched(ModelTrials):
    """Trials that record each threshold and answer."""

    @cached_property
    def answers(self) -> list[tuple[Threshold, Score | Rejected]]:
        """The threshold and the answer of each trial of a search."""
        return []

    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """Score a mixture as `ModelTrials.score` does, and record the answer."""
        answer = super().score(mixture, beat)
        self.answers.append((beat, answer))
        return answer


class Trial(NamedTuple):
    """One soup that was tried: whether it was kept, on how many examples it was run, and how long that took.

    `natural` is the number of examples, in the order of the data, after which a trial that ran in full is known to
    fail.
    """

    kept: bool
    examples: int
    seconds: float
    natural: int | None = None


class Found(NamedTuple):
    """The result of a search: the names and weights of its soup, its seconds, and its trials."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    seconds: float
    trials: list[Trial]


def ours(
    items: Sequence[Checkpoint], evaluator: Clocked, *, stop_early: bool
) -> tuple[Found, dict[str, Score], float]:
    """The package's search, the score of each ingredient alone, and the time those scores took."""
    ingredients = tuple(item.ingredient for item in items)
    with Watched(set_up(items, Agreement()), evaluator, stop_early=stop_early) as trials:
        started = time.perf_counter()
        scores = trials.map([Mixture.equal([item]) for item in ingredients])
        searching = time.perf_counter()
        evaluator.passes.clear()
        mixture = greedy(ingredients, trials).mixture
        seconds = time.perf_counter() - searching
    tried = []
    for (threshold, answer), (outputs, took) in zip(trials.answers, evaluator.passes, strict=True):
        kept, examples = threshold.reached_by(answer), len(outputs.rows)
        assert not isinstance(answer, Rejected) or answer.after <= examples, "a trial ended before it could"
        fails = outputs.whole and not kept
        tried.append(Trial(kept, examples, took, in_natural_order(outputs, threshold) if fails else None))
    evaluator.passes.clear()
    found = Found(mixture.names, mixture.weights, seconds, tried)
    names = [item.name for item in items]
    return found, dict(zip(names, scores, strict=True)), searching - started


def in_natural_order(outputs: Outputs, threshold: Threshold) -> int:
    """The number of examples, taken one by one in the order of the data, after which a trial is known to fail."""
    good = right(outputs.predictions)
    most = len(good) - (~good).cumsum()
    return int((most < threshold.needed(len(good))).argmax()) + 1


def state_of(item: Checkpoint) -> dict[str, torch.Tensor]:
    """A complete checkpoint, read from disk."""
    from safetensors.torch import load_file

    return {name: tensor for file in item.ingredient.files for name, tensor in load_file(item.folder / file).items()}


def mean_of(items: Sequence[Checkpoint]) -> dict[str, torch.Tensor]:
    """The average of complete checkpoints, read one after the other."""
    total = state_of(items[0])
    for item in items[1:]:
        total = {name: total[name] + tensor for name, tensor in state_of(item).items()}
    return {name: tensor / len(items) for name, tensor in total.items()}


def plain(model: Any, queue: Sequence[Checkpoint], alone: Score, evaluator: Clocked, *, again: bool) -> Found:
    """A plain loop over candidates, best first; with `again` each trial reads every model it averages."""
    started = time.perf_counter()
    kept, best, flags = [queue[0]], alone, []
    soup = None if again else state_of(queue[0])
    for item in queue[1:]:
        if again:
            tried = mean_of([*kept, item])
        else:
            share = 1 / (len(kept) + 1)
            tried = {name: soup[name] * (1 - share) + tensor * share for name, tensor in state_of(item).items()}
        model.load_state_dict(tried)
        score = evaluator.score(evaluator.predict(model))
        flags.append(score.beats(best, ties=True))
        if flags[-1]:
            kept, best, soup = [*kept, item], score, None if again else tried
    seconds = time.perf_counter() - started
    tried = [
        Trial(flag, len(outputs.rows), took) for flag, (outputs, took) in zip(flags, evaluator.passes, strict=True)
    ]
    evaluator.passes.clear()
    return Found(tuple(item.name for item in kept), (1.0,) * len(kept), seconds, tried)


def turn(items: Sequence[Checkpoint], evaluator: Clocked, model: Any) -> tuple[dict[str, Found], float]:
    """Run each search once; returns their results and the mean time for scoring the single ingredients."""
    early, alone, first = ours(items, evaluator, stop_early=True)
    full, _, second = ours(items, evaluator, stop_early=False)
    assert (early.names, early.weights) == (full.names, full.weights), "the soup is another one in full"
    assert [trial.kept for trial in early.trials] == [trial.kept for trial in full.trials], "a trial went another way"
    queue = sorted(items, key=lambda item: (-alone[item.name].rank_key, item.name))
    loops = [plain(model, queue, alone[queue[0].name], evaluator, again=again) for again in (False, True)]
    return dict(zip(SEARCHES, (early, full, *loops), strict=True)), statistics.mean((first, second))


def failing(found: Found) -> list[Trial]:
    return [trial for trial in found.trials if not trial.kept]


def percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def report(turns: Sequence[dict[str, Found]], alone: float, ingredients: int, n: int) -> None:
    """Print a line for each search, and what early rejection saves."""
    one_pass = statistics.median(trial.seconds for found in turns for trial in found[RELEASED].trials)
    walls = {name: statistics.median(found[name].seconds for found in turns) for name in SEARCHES}
    head = ["search", "trials", "failing", "passes", "a failing trial: examples", "seconds"]
    lines = [[*head, "search, s", "of released loop", "of all read again"]]
    for name in SEARCHES:
        found, fails = turns[0][name], failing(turns[0][name])
        took = [trial.seconds / one_pass for each in turns for trial in failing(each[name])]
        cost = ["-", "-"]
        if fails:
            cost = [percent(statistics.mean(trial.examples for trial in fails) / n), percent(statistics.mean(took))]
        passes = sum(trial.examples for trial in found.trials) / n
        ratios = [f"{walls[name] / walls[other]:.2f}" for other in (RELEASED, REREAD)]
        numbers = [str(len(found.trials)), str(len(fails)), f"{passes:.2f}"]
        lines.append([name, *numbers, *cost, f"{walls[name]:.2f}", *ratios])
    click.echo(align(lines))
    early, full = turns[0][EARLY], turns[0][FULL]
    ran, whole = (sum(trial.examples for trial in found.trials) / n for found in (early, full))
    saved, of_all = 1 - ran / whole, 1 - (ran + ingredients) / (whole + ingredients)
    click.echo(f"\nExamples are shares of the {n} of validation, seconds of a full pass ({one_pass:.2f} s).")
    click.echo(
        f"Early rejection saves {percent(saved)} of the search's forward passes, {percent(of_all)} with the "
        f"{ingredients} of the ingredients alone, which took {alone:.2f} s and are in no search's time."
    )
    if failing(full):
        shares = (
            statistics.mean(trial.examples for trial in failing(early)) / n,
            statistics.mean(trial.natural for trial in failing(full)) / n,
        )
        click.echo(
            "A failing trial is known to fail after {} of validation, batch by batch; in natural order it would be "
            "after {}, one by one.".format(*map(percent, shares))
        )
    for name in SEARCHES:
        click.echo(f"{name}: {' + '.join(turns[0][name].names)}")


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeat", default=3, show_default=True, help="Goes of each, in turn; times are medians.")
def main(data: str, runs: tuple[Path, ...], repeat: int) -> None:
    import transformers

    from hf_soup.checkpoints.source import open_all

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    items = open_all(hf_soup.load_sweep(runs[0]) if len(runs) == 1 else runs)
    if len(items) < 2:
        raise click.UsageError("a search needs two runs or more")
    evaluator = bind_evaluator(Clocked(data, cache=False), items)
    task = load_module("task", evaluator.task)
    model = getattr(transformers, task.AUTO_CLASS).from_pretrained(items[0].folder)
    _ = evaluator.predict(model)  # tokenises, and warms up
    turns, alone = zip(*(turn(items, evaluator, model) for _ in range(repeat)), strict=True)
    report(turns, statistics.median(alone), len(items), len(evaluator.dataset))


if __name__ == "__main__":
    main()
