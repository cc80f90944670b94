"""Every method beside mergekit 0.1.5: the largest difference between their results, and the time of a whole process.

python benchmarks/against_mergekit.py                     # six BERT-base by each method, in turn
python benchmarks/against_mergekit.py --method ties -r 3  # one method, the median of three rounds
python benchmarks/against_mergekit.py --values            # writes the expected values of the tests

mergekit gets its own environment, made here. The models are random numbers in the shapes of BERT-base, in float32: a
base model and six models near it. Methods that draw random numbers have no differences; their mean and variance over
many draws are compared instead, on one tensor. The measurements are in `docs/from_mergekit.md`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
from merge_speed import environment


WEIGHTS = [0.5, 1.0, 0.7, 0.3, 0.9, 0.4]


class Case(NamedTuple):
    """One method with its parameters, as mergekit and hf_soup name them.

    Args:
        theirs (`Mapping[str, Any]`):
            Parameters of the whole merge for mergekit.
        ours (`Mapping[str, Any]`):
            Parameters for hf_soup.
        count (`int`, *optional*, defaults to 6):
            Number of models.
        base (`bool`, *optional*, defaults to `True`):
            Whether there is a base model.
        weighted (`bool`, *optional*, defaults to `True`):
            Whether the models have different weights.
        first_is_base (`bool`, *optional*, defaults to `False`):
            Whether mergekit calls the first model its base.
        random (`bool`, *optional*, defaults to `False`):
            Whether the method draws random numbers.
    """

    theirs: Mapping[str, Any]
    ours: Mapping[str, Any]
    count: int = 6
    base: bool = True
    weighted: bool = True
    first_is_base: bool = False
    random: bool = False


CASES = {
    "linear": Case({}, {}, base=False),
    "slerp": Case({"t": 0.3}, {"t": 0.3}, 2, base=False, weighted=False, first_is_base=True),
    "nuslerp": Case({}, {}, 2, base=False),
    "multislerp": Case({}, {}, base=False),
    "karcher": Case({}, {}, base=False, weighted=False),
    "task_arithmetic": Case({"lambda": 0.4}, {"scale": 0.4}),
    "ties": Case({"density": 0.2}, {"density": 0.2}),
    "dare_linear": Case({"density": 0.5}, {"density": 0.5}, random=True),
    "dare_ties": Case({"density": 0.5}, {"density": 0.5}, random=True),
    "breadcrumbs": Case({"density": 0.5}, {"density": 0.5}),
    "breadcrumbs_ties": Case({"density": 0.5}, {"density": 0.5}),
    "della": Case({"density": 0.5}, {"density": 0.5}, random=True),
    "della_linear": Case({"density": 0.5}, {"density": 0.5}, random=True),
    "model_stock": Case({}, {}, weighted=False),
    "sce": Case({"select_topk": 0.3}, {"select_topk": 0.3}, weighted=False),
    "nearswap": Case({"t": 0.001}, {"t": 0.001}, 2, base=False, weighted=False, first_is_base=True),
    "arcee_fusion": Case({}, {}, 1, weighted=False),
    "ram": Case({"epsilon": 0.001}, {"epsilon": 0.001}, weighted=False),
    "ramplus_tl": Case({"epsilon": 0.001}, {"epsilon": 0.001}, weighted=False),
    "passthrough": Case({"scale": 0.5}, {"scale": 0.5}, 1, base=False, weighted=False),
}
# parameters that mergekit takes for each model
OF_MODELS = ("density", "scale", "gamma", "epsilon")


def mergekit_config(name: str, models: list[str], base: str) -> dict[str, Any]:
    """The configuration of a merge for mergekit."""
    case = CASES[name]
    settings: dict[str, Any] = {"merge_method": name, "dtype": "float32", "models": [], "parameters": {}}
    of_model = name not in ("ram", "ramplus_tl")
    for model, weight in zip(models, WEIGHTS[: len(models)], strict=True):
        own = {key: value for key, value in case.theirs.items() if of_model and key in OF_MODELS}
        if case.weighted:
            own["weight"] = weight
        settings["models"].append({"model": model, "parameters": own})
    settings["parameters"] = {k: v for k, v in case.theirs.items() if not (of_model and k in OF_MODELS)}
    if case.base:
        settings["base_model"] = base
    elif case.first_is_base:
        settings["base_model"] = models[0]
    return settings


def merge_theirs(name: str, models: list[str], base: str, out: str) -> None:
    """Merge with mergekit."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(mergekit_config(name, models, base))
    run_merge(config, out, MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))


def merge_ours(name: str, models: list[str], base: str, out: str) -> None:
    """Merge with hf_soup."""
    import hf_soup

    case = CASES[name]
    options = dict(case.ours)
    if case.weighted:
        options["weights"] = WEIGHTS[: case.count]
    if case.base:
        options["base_model"] = base
    hf_soup.merge(models, method=name, **options).save_pretrained(out)


def make_models(folder: Path) -> list[str]:
    """A base model and six models near it, in the shapes of BERT-base; the base model first."""
    import torch
    import transformers

    if not (folder / "whole").exists():
        config = transformers.BertConfig(num_labels=2)
        transformers.set_seed(0)
        model = transformers.BertForSequenceClassification(config)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        model.save_pretrained(folder / "base")
        for number in range(6):
            transformers.set_seed(number + 1)
            changed = {name: value + 0.002 * torch.randn_like(value) for name, value in start.items()}
            model.load_state_dict(changed)
            model.save_pretrained(folder / f"model-{number}")
        (folder / "whole").touch()
    return [str(folder / "base"), *(str(folder / f"model-{number}") for number in range(6))]


def timed(python: str, tool: str, name: str, models: list[str], out: Path) -> float:
    """The time of a process that merges, in seconds."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    command = [python, __file__, "--inside", tool, name, str(out), *models]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tool} failed with {name}:\n{done.stderr[-1500:]}")
    return time.perf_counter() - start


def largest_difference(one: Path, other: Path) -> float:
    """The largest absolute difference between two merged models."""
    from safetensors.torch import load_file

    first, second = ({}, {})
    for tensors, folder in ((first, one), (second, other)):
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(path)
    return max(float((first[name] - second[name]).abs().max()) for name in second)


# Small tensors


def small_tensors() -> list[list[list[float]]]:
    """A base model's tensor and those of three models, (3, 7) each, the same on every machine."""
    tensors = []
    for number in range(4):
        rows = []
        for row in range(3):
            rows.append([((7 * row + column + 1) * (11 + 6 * number) * 37 % 101 - 50) / 100 for column in range(7)])
        tensors.append(rows)
    base = tensors[0]
    near = [
        [[b + 0.2 * x for b, x in zip(*pair, strict=True)] for pair in zip(base, t, strict=True)] for t in tensors[1:]
    ]
    return [base, *near]


def small_values() -> dict[str, Any]:
    """mergekit's results for small tensors with what they are made from; called in its environment."""
    import torch
    from mergekit.merge_methods.api import merge_tensors

    tensors = small_tensors()
    base, *models = (torch.tensor(rows, dtype=torch.float32) for rows in tensors)
    cases = []
    for name, case in CASES.items():
        if case.random:
            continue
        given = models[: case.count]
        weights = WEIGHTS[: len(given)] if case.weighted else [1.0] * len(given)
        parameters = {**case.theirs, "weight": weights} if case.weighted else dict(case.theirs)
        index = 0 if case.base or case.first_is_base else None
        merged = merge_tensors([base, *given] if case.base else given, name, parameters=parameters, base_index=index)
        own = {"method": name, "params": case.ours, "weights": weights, "base": case.base, "merged": merged.tolist()}
        cases.append(own)
    return {"tensors": tensors, "cases": cases}


CONFIGURATIONS = Path(__file__).parents[1] / "tests" / "formats" / "mergekit"


def results_of_configurations() -> dict[str, Any]:
    """mergekit's results for the configurations of tests/formats, as digests; called in its environment."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    sys.path.append(str(CONFIGURATIONS.parent))
    from tiny_llama import digest, make_models

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_models("models")
        for path in sorted(CONFIGURATIONS.glob("*.yml")):
            for content in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                name = content.pop("name", "result")  # run_merge has single configurations: stages are folders
                shutil.rmtree(name, ignore_errors=True)
                options = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
                run_merge(MergeConfiguration.model_validate(content), name, options)
            found[path.stem] = digest("result")
    return found


def moments(tool: str, draws: int = 4000) -> dict[str, list[float]]:
    """Mean and standard deviation of the merged change over many draws, averaged over the elements of one tensor."""
    import torch

    base, *models = (torch.tensor(rows, dtype=torch.float32) for rows in small_tensors())
    found = {}
    for name, case in CASES.items():
        if not case.random:
            continue
        results = []
        for draw in range(draws):
            if tool == "mergekit":
                from mergekit.merge_methods.api import merge_tensors

                torch.manual_seed(draw)
                parameters = {**case.theirs, "weight": WEIGHTS[:3]}
                results.append(merge_tensors([base, *models], name, parameters=parameters, base_index=0) - base)
            else:
                from hf_soup.plugins import load_function

                rng = torch.Generator().manual_seed(draw)
                merged = load_function("method", name)(models, WEIGHTS[:3], base=base, rng=rng, **case.ours)
                results.append(merged - base)
        stacked = torch.stack(results)
        found[name] = [*stacked.mean(0).flatten().tolist(), *stacked.std(0).flatten().tolist()]
    return found


def compare_moments(python: str) -> None:
    """Print how far means and standard deviations of the random methods differ."""
    theirs = json.loads(
        subprocess.run([python, __file__, "--inside", "moments"], capture_output=True, text=True, check=True).stdout
    )
    for name, values in moments("hf_soup").items():
        half = len(values) // 2
        gaps = [abs(one - other) for one, other in zip(values, theirs[name], strict=True)]
        spread = statistics.fmean(values[half:])
        click.echo(
            f"{name:<18} mean {max(gaps[:half]) / spread:.3f}, deviation {max(gaps[half:]) / spread:.3f} deviations"
        )


@click.command(help=__doc__)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(CASES)))
@click.option("-r", "--rounds", default=1, show_default=True)
@click.option("--values", is_flag=True, help="Write the expected values of the tests, and stop.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "merge_speed", show_default=True
)
def main(methods: tuple[str, ...], rounds: int, values: bool, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    python = environment(work)
    if values:
        tests = CONFIGURATIONS.parents[1]
        for what, path in (
            ("values", tests / "methods" / "mergekit_values.json"),
            ("configurations", CONFIGURATIONS / "results.json"),
        ):
            made = subprocess.run([python, __file__, "--inside", what], capture_output=True, text=True)
            if made.returncode:
                raise SystemExit(made.stderr[-2000:])
            path.write_text(made.stdout.splitlines()[-1] + "\n", encoding="utf-8")
        return
    compare_moments(python)
    models = make_models(work / "against")
    click.echo(f"{'method':<18}{'difference':>12}{'mergekit':>10}{'hf_soup':>10}")
    for name in methods or CASES:
        times: dict[str, list[float]] = {"mergekit": [], "hf_soup": []}
        given = [models[0], *models[1 : 1 + CASES[name].count]]
        for _ in range(rounds):
            times["mergekit"].append(timed(python, "mergekit", name, given, work / "theirs"))
            times["hf_soup"].append(timed(sys.executable, "hf_soup", name, given, work / "ours"))
        theirs, ours = (statistics.median(times[tool]) for tool in ("mergekit", "hf_soup"))
        gap = "random" if CASES[name].random else f"{largest_difference(work / 'ours', work / 'theirs'):.1e}"
        click.echo(f"{name:<18}{gap:>12}{theirs:>9.1f}s{ours:>9.1f}s")


def inside(tool: str, *arguments: str) -> None:
    """The part of a process that this script has started."""
    if tool == "values":
        print(json.dumps(small_values()))
    elif tool == "configurations":
        print(json.dumps(results_of_configurations()))
    elif tool == "moments":
        print(json.dumps(moments("mergekit")))
    else:
        name, out, base, *models = arguments
        (merge_theirs if tool == "mergekit" else merge_ours)(name, models, base, out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(*sys.argv[2:])
    else:
        main()
