"""Every strategy on the same fine-tunes: what it chooses, its gain on test and shifted sets, and its cost.

python benchmarks/strategies.py DATA RUNS -o report       # a quarter of an hour on two cores for eight MiniLM

DATA is a folder with train, validation and test files, and shifted test sets called ood_*; RUNS is the folder of a
sweep. Each strategy is timed separately, and nothing is cached between them; `exhaustive` takes the first six runs.
All soups are then scored on the same examples, with the same resamples. The measurements are in `docs/strategies.md`.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import click

import hf_soup
from hf_soup.display.tables import align


# name in the table -> strategy, its parameters, number of runs (None for all)
ALL = {
    "uniform": ("uniform", {}, None),
    "performance": ("performance", {}, None),
    "greedy": ("greedy", {}, None),
    "greedy, >": ("greedy", {"accept": ">"}, None),
    "greedy_best_first": ("greedy_best_first", {}, None),
    "pruned": ("pruned", {}, None),
    "exhaustive (6 runs)": ("exhaustive", {}, 6),
    "diverse": ("diverse", {}, None),
    "learned by model": ("learned", {}, None),
    "learned by module": ("learned", {"by": "module"}, None),
    "layerwise selective": ("layerwise", {}, None),
    "layerwise greedy": ("layerwise", {"mode": "greedy"}, None),
    "layerwise heads": ("layerwise", {"mode": "heads"}, None),
    "layerwise body": ("layerwise", {"mode": "body"}, None),
    "interpolate to uniform": ("interpolate", {}, None),
    "interpolate to greedy": ("interpolate", {"end": "greedy"}, None),
    "search by model": ("search", {"budget": 30}, None),
    "search by module": ("search", {"budget": 30, "by": "module"}, None),
}


class Counting(hf_soup.Evaluator):
    """An evaluator that counts the examples it has run."""

    counted: list[int] = []  # noqa: RUF012

    def run(self, model: Any, **options: Any) -> Any:
        """Run a model as `Evaluator.run` does, and count its examples."""
        outputs = super().run(model, **options)
        self.counted.append(len(outputs.rows))
        return outputs


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("runs", type=click.Path(exists=True, file_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Tables and pictures go here.")
@click.option("--shifted", is_flag=True, help="Score the soups on the ood_* files as well.")
@click.option("--only", multiple=True, help="A strategy of the table; repeat for several.")
def main(data: Path, runs: str, output: Path, shifted: bool, only: tuple[str, ...]) -> None:
    warnings.simplefilter("ignore")
    sweep = hf_soup.load_sweep(runs)
    soups, costs = {}, {}
    for name in only or ALL:
        strategy, params, first = ALL[name]
        chosen = sweep if first is None else list(sweep)[:first]
        evaluator = Counting(data, cache=False)
        asked = {} if strategy == "uniform" else {"evaluator": evaluator}
        Counting.counted.clear()
        started = time.perf_counter()
        base = {"base_model": sweep.base_model} if strategy == "interpolate" else {}
        soups[name] = hf_soup.merge(chosen, strategy=strategy, **asked, **base, **params)
        seconds = time.perf_counter() - started
        costs[name] = sum(Counting.counted) / len(evaluator.dataset), seconds
        click.echo(f"{name}: {costs[name][0]:.1f} passes, {seconds:.0f} s, {soups[name].recipe.names}", err=True)
    others = {
        path.stem.removeprefix("ood_").removesuffix("_test"): hf_soup.Evaluator(path, split="test")
        for path in sorted(data.glob("ood_*") if shifted else [])
    }
    comparison = hf_soup.compare(
        soups,
        test=hf_soup.Evaluator(data, split="test"),
        shifted=others,
        validation=hf_soup.Evaluator(data),
        ingredients=sweep,
        ensembles=["logits"],
    )
    comparison.save(output)
    (output / "table.md").write_text(table(soups, costs, comparison) + "\n", encoding="utf-8")
    (output / "costs.json").write_text(json.dumps(costs, indent=1), encoding="utf-8")
    for name, soup in soups.items():
        if soup.selection.trials:
            soup.selection.plot().savefig(output / f"search {name}.png")
            (output / f"search {name}.md").write_text(soup.selection.table() + "\n", encoding="utf-8")
    click.echo((output / "table.md").read_text(encoding="utf-8"))


def table(soups: dict[str, hf_soup.Soup], costs: dict[str, tuple[float, float]], comparison: Any) -> str:
    """A line for each model: accuracy in percent, difference from the run that is best on validation, and cost."""
    metric = comparison.metric
    wide = "mean of shifts" in comparison.models[0].scores
    head = ["", "in it", "validation", "test [95 %]", "less the best run"]
    head += ["mean of shifts [95 %]"] if wide else []
    lines = [[*head, "passes", "seconds"]]
    for row in comparison.models:
        if row.role == "ingredient":
            continue
        soup = soups.get(row.name)
        difference = comparison.differences.get(row.name, {}).get("test", {}).get("single")
        cells = [row.name, str(len(soup.recipe.ingredients)) if soup else ""]
        cells += [shown(row.scores.get("validation", {}).get(metric), False), shown(row.scores["test"].get(metric))]
        cells += [shown(difference, signed=True)]
        cells += [shown(row.scores["mean of shifts"].get(metric))] if wide else []
        cost = costs.get(row.name)
        lines.append([*cells, *(["", ""] if cost is None else [f"{cost[0]:.1f}", f"{cost[1]:.0f}"])])
    return align(lines)


def shown(value: Any, limits: bool = True, *, signed: bool = False) -> str:
    """A value in percent with its interval."""
    if value is None:
        return ""
    form = "+.1f" if signed else ".1f"
    text = format(100 * value.value, form)
    return text if not limits or value.low is None else f"{text} [{100 * value.low:{form}}, {100 * value.high:{form}}]"


if __name__ == "__main__":
    main()
