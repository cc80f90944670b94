"""Compares what merges record and commands print with texts that are checked in: changed behaviour shows as a diff.

The texts are in `golden/`, one file for each strategy and each group of other cases. They hold recipes with the
digests of the saved weights, which are exact because the checkpoints are (see `golden/checkpoints.py`), model cards,
and the output of commands. Numbers that BLAS computes are compared with a tolerance. After an intended change of
behaviour, `python tests/test_golden.py --write` rewrites the texts; read the diff before you commit it.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_golden.py --write")
    os.environ["HF_SOUP_WRITE_GOLDEN"] = "1"
    sys.exit(pytest.main([__file__]))

import command
import transformers
from golden.checkpoints import save_base, save_image_run, save_run

import hf_soup
from hf_soup import testing


GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("HF_SOUP_WRITE_GOLDEN") == "1"
TITLE = "=== "  # starts the line that names a case
FRACTION = re.compile(r"(?<![\w.-])-?\d+\.\d+(?:e[+-]?\d+)?(?![\w.])")
DIGEST = re.compile(r"\b(xxh3-128|sha256):([0-9a-f]{8})[0-9a-f]+")
MANY_DIGITS = 10  # from this length on a number is rounded, because it was not formatted for a table
ROUNDED_DIGITS = 7  # from this length on numbers may differ in length
RUNS = ("run-1", "run-2", "run-3")
SEEDS = {"run-1": 1, "run-2": 3, "run-3": 4}
METHODS = {
    "linear": {},
    "linear unnormalized": {"normalize": False},
    "median": {"method": "median"},
    "ties": {"method": "ties", "density": 0.5},
}

# strategy -> title of a case -> arguments of merge; every strategy is also run with every method that it accepts
VARIANTS = {
    "uniform": {
        "bfloat16": {"dtype": "bfloat16"},
        "settings of run-3": {"take_from": "run-3"},
    },
    "weighted": {
        "by name": {"weights": {"run-3": 1, "run-1": 3}},
        "by module": {"weights": {"classifier": [1, 0, 0], "encoder.layer.1": [0, 1, 1], "": [2, 1, 1]}},
    },
    "auto": {"another split": {"seed": 1}},
    "bagged_greedy": {"all in a bag": {"fraction": 1.0, "bags": 1}},
    "ensemble_weights": {"one sample": {"bootstraps": 1}},
    "greedy": {
        "ties by loss": {"accept": "loss"},
        "one standard error": {"one_standard_error": True},
        "ties rejected": {"accept": ">"},
        "tolerance": {"tolerance": 0.05},
        "at most two": {"max_ingredients": 2},
        "random order": {"order": "random", "seed": 3},
        "given order": {"order": "given"},
        "prescreen": {"prescreen": "ensemble"},
        "folds": {"folds": 3},
        "holdout": {"holdout": 0.25, "seed": 1},
    },
    "greedy_best_first": {
        "ties accepted": {"accept": ">="},
        "prescreen": {"prescreen": "ensemble"},
        "tolerance": {"tolerance": 0.05},
    },
    "diverse": {"tolerance": {"tolerance": 0.05}, "no diversity": {"diversity": 0.0}},
    "exhaustive": {"folds and holdout": {"folds": 2, "holdout": 0.5}},
    "interpolate": {
        "end best": {"end": "best", "alphas": [0, 0.5, 1, 1.25]},
        "end greedy": {"end": "greedy", "alphas": [0.25, 0.5, 1]},
    },
    "layerwise": {
        "greedy": {"mode": "greedy", "module_order": "bottom_up"},
        "heads": {"mode": "heads"},
        "body": {"mode": "body", "tolerance": 0.05},
        "start greedy": {"start": "greedy", "modules": ["classifier", "encoder.layer.1"]},
    },
    "learned": {"by module": {"by": "module", "epochs": 2, "train_batch_size": 12}},
    "performance": {"proportional": {"scheme": "proportional"}, "rank": {"scheme": "rank"}},
    "pruned": {"tolerance": {"tolerance": 0.05}},
    "search": {"by module": {"by": "module", "budget": 9}},
}
DEFAULTS = {
    "weighted": {"weights": [1, 2, 5]},
    "interpolate": {"alphas": [0, 0.25, 0.5, 0.75, 1]},
    "learned": {"epochs": 2, "train_batch_size": 12},
    "search": {"budget": 9, "seed": 1},
}
LINEAR_ALONE = ("auto", "bagged_greedy", "ensemble_weights", "interpolate", "learned")
UNSCORED = ("uniform", "weighted")
UNNORMALIZED = ("uniform", "weighted", "performance")
FITTED = (
    "auto",
    "ensemble_weights",
    "learned",
    "search",
)  # fitted weights are nearly but not exactly equal on different machines


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base model, its fine-tunes, two image models and data."""
    folder = tmp_path_factory.mktemp("golden")
    save_base(folder / "start")
    for name in RUNS:
        save_run(folder / "runs" / name, SEEDS[name])
    save_run(folder / "runs" / "reversed", 5, ["positive", "negative"])
    for seed in range(2):
        save_image_run(folder / "images" / f"run-{seed}", seed)
    (folder / "data").mkdir()
    for split, seed in {"validation": 1, "test": 2}.items():
        testing.tiny_texts(48, seed=seed).to_csv(folder / "data" / f"{split}.csv")
    return folder


@pytest.fixture(scope="module")
def evaluator():
    """An evaluator without a cache, so that every case runs its models."""
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(testing.WORDS)})
    return hf_soup.Evaluator(testing.tiny_texts(48, seed=1), processing_class=tokenizer, cache=False)


def merged(place, evaluator, strategy, **arguments):
    """The recipe of a merge, with the digest of the saved weights, as text."""
    if arguments.get("method") == "ties" or strategy == "interpolate":
        arguments["base_model"] = place / "start"
    if strategy not in UNSCORED:
        arguments["evaluator"] = evaluator
    soup = hf_soup.merge([place / "runs" / name for name in RUNS], strategy=strategy, **arguments)
    return saved_recipe(soup, place)


def saved_recipe(soup, place, **options):
    """Save a soup and return the text of its recipe file."""
    folder = soup.save_pretrained(place / "soups" / f"soup-{len(list((place / 'soups').glob('*')))}", **options)
    return (folder / "soup_recipe.yaml").read_text()


def masked(text, place):
    """Mask what depends on a machine or a version in a text, shorten digests and round fractions to six digits."""
    text = text.replace(str(place), "PLACE")
    text = re.sub(r"soups/soup-\d+", "soups/SOUP", text)
    for name, version in hf_soup.version.versions().items():
        written = name.replace("_", r"\\?_")  # Markdown escapes it
        text = re.sub(rf"(\b{written}(?:_version)?\W+){re.escape(version)}", r"\1VERSION", text)
    text = DIGEST.sub(r"\1:\2", text)
    text = re.sub(r"\bstat:[0-9a-f]+", "stat:TIMES", text)  # record of a file that a merge did not have to read
    return FRACTION.sub(lambda match: rounded(match[0]), text)


def rounded(fraction):
    """Round a fraction to six significant digits, unless it has few digits, as in a table."""
    if len(fraction) < MANY_DIGITS:
        return fraction
    short = f"{float(fraction):.6g}"
    return short if "." in short or "e" in short else f"{short}.0"


def like(text, golden, tolerance):
    """The text, with each fraction written as in the golden text if the two are nearly equal.

    Fractions in a table must also have the same number of digits.
    """
    golden_fractions = FRACTION.findall(golden)
    if len(golden_fractions) != len(FRACTION.findall(text)):
        return text
    remaining = iter(golden_fractions)

    def as_in_golden(match):
        expected, actual = next(remaining), match[0]
        is_near = abs(float(actual) - float(expected)) <= tolerance
        same_form = len(actual) == len(expected) or max(len(actual), len(expected)) >= ROUNDED_DIGITS
        return expected if is_near and same_form else actual

    return FRACTION.sub(as_in_golden, text)


def without_times(text):
    """Remove or mask measured times in a text: the `latency` fields and the last column of cost tables."""
    lines, in_costs = [], False
    for line in text.splitlines():
        in_costs = line.endswith("ms/example |") or (in_costs and line.startswith("|"))
        if in_costs:
            line = re.sub(r"\d+\.\d+ \|$", "TIME |", line)
        lines.append(re.sub(r"\blatency: [\d.e-]+(, )?", "", line))
    return "\n".join(lines)


def recipe_cases():
    """Yield the strategy, title and arguments of each merge."""
    for strategy, variants in VARIANTS.items():
        cases = {"linear": {}} if strategy in LINEAR_ALONE else dict(METHODS)
        if strategy not in UNNORMALIZED:
            cases.pop("linear unnormalized", None)
        for title, arguments in {**cases, **variants}.items():
            yield strategy, title, {**DEFAULTS.get(strategy, {}), **arguments}


def merge_case(strategy, arguments, place, evaluator):
    """The recipe of a merge; the digest is masked if the weights were fitted, as it then depends on the machine."""
    text = merged(place, evaluator, strategy, **arguments)
    softmax = strategy == "performance" and "scheme" not in arguments
    return re.sub(r"(output: .*xxh3-128:)\w+", r"\1FITTED", text) if strategy in FITTED or softmax else text


def aligned(place):
    """A merge of models whose classes are in different orders, with a method that needs the base model."""
    soup = hf_soup.merge(
        [place / "runs" / name for name in ("run-1", "reversed")],
        align_labels=True,
        method="ties",
        density=0.5,
        base_model=place / "start",
    )
    return saved_recipe(soup, place)


def of_bfloat16(place):
    """A merge of bfloat16 ingredients summed and saved in float32; only such sums reveal the order of summation."""
    runs = [save_run(place / "half" / name, SEEDS[name], dtype="bfloat16") for name in RUNS]
    return saved_recipe(hf_soup.merge(runs, weights=[0.3, 0.2, 0.7], dtype="float32"), place)


def with_batchnorm(place):
    """A merge with re-estimated running statistics; its digest is masked because BLAS has computed them."""
    images = [place / "images" / f"run-{seed}" for seed in range(2)]
    soup = hf_soup.merge(images, batchnorm_data=testing.tiny_images(24))
    return re.sub(r"(digest: .?xxh3-128:)\w+", r"\1ESTIMATED", saved_recipe(soup, place))


def sharded(place):
    """A soup saved in several files: its recipe, its index and the size of each file."""
    soup = hf_soup.merge([place / "runs" / name for name in RUNS])
    folder = soup.save_pretrained(place / "soups" / "sharded", max_shard_size="4KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
    recipe = (folder / "soup_recipe.yaml").read_text()
    return recipe + yaml.safe_dump({"index": index, "sizes": sizes})


def folder_of_a_soup(place):
    """The file names of a saved soup, and its configuration."""
    folder = hf_soup.merge([place / "runs" / name for name in RUNS]).save_pretrained(place / "soups" / "plain")
    config = json.loads((folder / "config.json").read_text())
    return yaml.safe_dump({"files": sorted(path.name for path in folder.iterdir()), "config": config})


def card(place, evaluator):
    """The model card of a soup without scores."""
    soup = hf_soup.merge([place / "runs" / name for name in RUNS], weights=[2, 1, 1])
    return (soup.save_pretrained(place / "soups" / "carded") / "README.md").read_text()


def compared_card(place, evaluator):
    """The model card of a greedy soup that was compared on test data."""
    soup = hf_soup.merge([place / "runs" / name for name in RUNS], strategy="greedy", evaluator=evaluator)
    test = hf_soup.Evaluator(testing.tiny_texts(48, seed=2), cache=False)
    soup.comparison = hf_soup.compare(soup, test=test, validation=evaluator)
    return (soup.save_pretrained(place / "soups" / "compared") / "README.md").read_text()


SAVING = (aligned, of_bfloat16, with_batchnorm, sharded, folder_of_a_soup)
CARDS = (card, compared_card)
INGREDIENTS = [f"runs/{name}" for name in RUNS]
SCORED = ["--data", "data", "--no-cache", "--base-model", "start"]
COMMANDS = {
    "check": ["check", *INGREDIENTS],
    "check deep": ["check", *INGREDIENTS, "--base-model", "start", "--deep"],
    "check of what does not go together": ["check", "runs/run-1", "runs/reversed", "images/run-0"],
    "modules": ["modules", "runs/run-1"],
    "plan": ["plan", "soups/by-module"],
    "verify": ["verify", "soups/by-module"],
    "compare": ["compare", "--soup", "soups/by-module", "--test", "data", "--validation", "data", "--no-cache"],
    "analyze": ["analyze", *INGREDIENTS, *SCORED, "--points", "5"],
    "analyze the other parts": [
        *("analyze", *INGREDIENTS, *SCORED, "--points", "3"),
        *("--part", "plane", "--part", "contribution", "--part", "modules"),
    ],
    "advise": ["advise", *INGREDIENTS, *SCORED],
    "advise without data": ["advise", *INGREDIENTS],
}


@pytest.fixture(scope="module")
def soup_by_module(place):
    """A saved soup for the commands that take one as an argument."""
    rows = {"classifier": [1, 0, 0], "": [2, 1, 1]}
    soup = hf_soup.merge([place / "runs" / name for name in RUNS], weights=rows)
    return soup.save_pretrained(place / "soups" / "by-module")


def called(place, arguments):
    """The output of a command as a table, its exit code, and its JSON output written as YAML."""
    shown = command.run(*arguments, cwd=place)
    values = command.run(*arguments, "--json", cwd=place)
    data = yaml.safe_dump(json.loads(values.stdout), sort_keys=False, default_flow_style=None, width=1_000_000)
    text = f"$ hf-soup {' '.join(arguments)}\n{shown.stdout}exit code {shown.returncode}\n\n{data}"
    return without_times(text)


def golden_texts(file):
    """Title -> text of a golden file; empty if the file does not exist yet."""
    path = GOLDEN / f"{file}.txt"
    if not path.exists():
        return {}
    sections = path.read_text().split(f"\n{TITLE}")
    return dict(section.removeprefix(TITLE).split("\n", 1) for section in sections)


def compare_or_write(file, title, text, place, tolerance=1e-5):
    """Compare a text with the golden one, or write it if `HF_SOUP_WRITE_GOLDEN` is set."""
    text = masked(text, place).rstrip("\n") + "\n"
    golden = golden_texts(file)
    if WRITE:
        golden[title] = text
        sections = [f"{TITLE}{name}\n{content}" for name, content in golden.items()]
        (GOLDEN / f"{file}.txt").write_text("\n".join(sections))
        return
    assert title in golden, f"there is no golden text {title!r}: python tests/test_golden.py --write"
    expected = golden[title].rstrip("\n") + "\n"
    assert like(text, expected, tolerance) == expected


RECIPES = {(strategy, title): arguments for strategy, title, arguments in recipe_cases()}


@pytest.mark.parametrize(("strategy", "title"), RECIPES)
def test_recipes_of_strategies(place, evaluator, strategy, title):
    """Each strategy, with each method and each variant, records what the golden file holds, including the digest."""
    text = merge_case(strategy, RECIPES[strategy, title], place, evaluator)
    compare_or_write(strategy, title, text, place, tolerance=5e-4 if strategy in FITTED else 1e-5)


@pytest.mark.parametrize("make", SAVING, ids=lambda make: make.__name__)
def test_what_is_saved(place, make):
    """Saved soups match the golden texts: aligned labels, summation order, BatchNorm, shards and the configuration."""
    compare_or_write("saving", make.__name__, make(place), place)


@pytest.mark.parametrize("make", CARDS, ids=lambda make: make.__name__)
def test_cards(place, evaluator, make):
    """The model cards of a soup with scores and of one without match the golden texts."""
    compare_or_write("cards", make.__name__, without_times(make(place, evaluator)), place)


@pytest.mark.parametrize("title", COMMANDS)
def test_what_commands_print(place, soup_by_module, title):
    """The tables and the JSON that commands print match the golden texts."""
    compare_or_write("commands", title, called(place, COMMANDS[title]), place, tolerance=2e-4)


def test_every_golden_text_has_a_case():
    """Every golden text belongs to a case, and every case has one."""
    cases = {}
    for strategy, title in RECIPES:
        cases.setdefault(strategy, set()).add(title)
    cases["saving"] = {make.__name__ for make in SAVING}
    cases["cards"] = {make.__name__ for make in CARDS}
    cases["commands"] = set(COMMANDS)
    assert {path.stem: set(golden_texts(path.stem)) for path in GOLDEN.glob("*.txt")} == cases
