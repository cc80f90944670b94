"""Every shipped recipe loads, and can be cooked in a tiny form: all its stages, on made-up data with its columns."""

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from command import run
from PIL import Image

import hf_soup
from hf_soup import plugins, testing
from hf_soup.api.cook_plan import plan_cook
from hf_soup.errors import RecipeError
from hf_soup.evaluation.ensemble import FITTING
from hf_soup.formats.cook_file import load_cook_file


ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_loads(recipe):
    """A shipped recipe is a valid cook file that starts with a comment."""
    assert load_cook_file(recipe).output_dir
    assert recipe.read_text().startswith("# ")


def sounds(rows, seed):
    """Sounds of different lengths."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=rng.integers(300, 600)).tolist() for _ in range(rows)]


def texts(rows, seed):
    """Texts with one good or bad word."""
    return testing.tiny_texts(rows, seed=seed)["text"][:]


def images(rows, seed):
    """Images of noise with a brighter band."""
    return testing.tiny_images(rows, seed=seed)["image"][:]


def mask(row):
    """A mask with two classes."""
    return Image.fromarray(np.repeat(np.arange(8) > row % 8, 8).reshape(8, 8).astype(np.uint8))


MADE_UP = {  # task -> columns of a number of rows with a seed
    "sentence-similarity": lambda rows, seed: {
        "sentence1": texts(rows, seed),
        "sentence2": texts(rows, seed + 9),
        "score": (np.arange(rows) / rows).tolist(),
    },
    "reranking": lambda rows, seed: {
        "query": texts(rows, seed),
        "positive": [[text] for text in texts(rows, seed + 9)],
        "negative": [[text] for text in texts(rows, seed + 8)],
    },
    "question-answering": lambda rows, seed: {
        "question": ["the film"] * rows,
        "context": texts(rows, seed),
        "answers": [{"text": [text.split()[0]], "answer_start": [0]} for text in texts(rows, seed)],
    },
    "automatic-speech-recognition": lambda rows, seed: {
        "audio": sounds(rows, seed),
        "text": ["GOOD", "A BAD"] * (rows // 2),
    },
    "audio-classification": lambda rows, seed: {"audio": sounds(rows, seed), "intent_class": [0, 1] * (rows // 2)},
    "fill-mask": lambda rows, seed: {"text": texts(rows, seed)},
    "text-generation": lambda rows, seed: {"text": texts(rows, seed)},
    "multiple-choice": lambda rows, seed: {
        "question": texts(rows, seed),
        "choices": [["good", "bad"]] * rows,
        "label": [0, 1] * (rows // 2),
    },
    "zero-shot-image-classification": lambda rows, seed: {
        "image": images(rows, seed),
        "label": ["good", "bad"] * (rows // 2),
    },
    "object-detection": lambda rows, seed: {
        "image": images(rows, seed),
        "objects": [{"bbox": [[1.0, 1.0, 4.0, 4.0]], "category": [row % 2]} for row in range(rows)],
    },
    "semantic-segmentation": lambda rows, seed: {
        "image": images(rows, seed),
        "mask": [mask(row) for row in range(rows)],
    },
}


def examples(task, columns, label, rows, seed):
    """Made-up rows of a task, with the columns that a recipe names."""
    if task == "image-classification":
        return testing.tiny_images(rows, seed=seed)
    if task in MADE_UP:
        made = datasets.Dataset.from_dict(MADE_UP[task](rows // 5, seed))
        return made.rename_column("mask", label) if task == "semantic-segmentation" else made
    texts = testing.tiny_texts(rows, seed=seed)
    if task == "token-classification":
        words = [text.split() for text in texts["text"]]
        tags = [[(len(word) + seed) % len(TAGS) for word in row] for row in words]
        features = {columns[0]: datasets.List(datasets.Value("string"))}
        features[label] = datasets.List(datasets.ClassLabel(names=TAGS))
        return datasets.Dataset.from_dict({columns[0]: words, label: tags}, features=datasets.Features(features))
    first, *more = columns
    for column in more:
        texts = texts.add_column(column, texts["text"][::-1])
    return texts.rename_column("text", first) if first != "text" else texts


def save_base(task, folder):
    """Save a tiny base model for a task, with a head for other classes."""
    if task == "image-classification":
        return testing.save_image_model(testing.tiny_image_model(0, classes=5), folder)
    if task in MADE_UP:
        return testing.save_model_for(plugins.load_module("task", task), folder)
    return testing.save_model_for(plugins.load_module("task", "text-classification"), folder)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_is_cooked_in_a_tiny_form(recipe, tmp_path):
    """A recipe limited to a few runs of two steps goes through all its stages: runs, soup, comparison and card."""
    plan = load_cook_file(recipe)
    overrides = ["sweep.training_args.max_steps=2"]
    overrides += ["sweep.n_runs=3"] if plan.sweep.n_runs else []
    if plan.pretrain:
        overrides += ["pretrain.training_args.max_steps=2"]
        overrides += ["data.validation=train[1000:1060]", "data.test=train[1300:1360]"]
    else:
        columns, label = plan.data.text_columns or ["text"], plan.data.label_column or "label"
        parts = ("train", "validation", "test")
        splits = set(parts) if plan.task in MADE_UP else {getattr(plan.data, part).split("[")[0] for part in parts}
        for seed, split in enumerate(sorted(splits)):
            rows = examples(plan.task, columns, label, 100, seed)
            (tmp_path / "data").mkdir(exist_ok=True)
            rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
        if plan.task in MADE_UP:
            overrides += [f"data.{part}={part}" for part in parts]
        base = save_base(plan.task, tmp_path / "base")
        overrides += [f"data.path={tmp_path / 'data'}", "data.name=null", f"base_model={base}"]
        overrides += ["sweep.probe_args.max_steps=2"]
    cooked = hf_soup.cook(recipe, output_dir=tmp_path / "out", overrides=overrides)
    sweep = yaml.safe_load(recipe.read_text())["sweep"]
    grid = sweep["space"] if isinstance(sweep["space"], list) else None
    assert len(cooked.sweep) == (len(grid) if grid else 3 if plan.sweep.n_runs else len(cooked.sweep))
    assert not cooked.sweep.failed
    assert len(cooked.sweep) >= 3
    kind = plugins.load_module("task", plan.task).KIND
    averages = {"uniform soup", *(["logit ensemble"] if "logits" in FITTING[kind] else [])}
    assert averages <= {row.name for row in cooked.comparison.models}
    assert (cooked.folder / "README.md").is_file()


def test_they_are_listed_and_printed():
    """`hf-soup recipes` lists all recipes and prints one; an unknown name is an error with the nearest name."""
    listing = run("recipes")
    for recipe in RECIPES:
        assert recipe.stem in listing.stdout
    assert "A first soup on scikit-learn's 1,797 handwritten digits" in listing.stdout
    printed = run("recipes", "digits-vit")
    assert yaml.safe_load(printed.stdout) == yaml.safe_load((ROOT / "recipes" / "digits-vit.yaml").read_text())
    unknown = run("recipes", "digit-vit")
    assert unknown.returncode == 1
    assert 'did you mean "digits-vit"?' in unknown.stderr


def test_one_is_cooked_by_its_name(tmp_path, monkeypatch, text_runs):
    """A shipped recipe is cooked by its name, unless the current folder has a file or folder of that name."""
    monkeypatch.chdir(tmp_path)
    assert [stage.name for stage in plan_cook("digits-vit", output_dir="out").stages][:2] == ["pretrain", "sweep"]
    assert run("cook", "digits-vit", "-o", "out", "--dry-run").returncode == 0
    with pytest.raises(RecipeError, match='nor a shipped recipe; did you mean "digits-vit"'):
        hf_soup.cook("digits-vits")
    hf_soup.merge(text_runs[:2]).save_pretrained("digits-vit")
    assert hf_soup.cook("digits-vit").soup.recipe.names == ("run-0", "run-1")


def test_a_built_package_has_them(tmp_path):
    """A built package contains every recipe, and finds it in its own folder."""
    pytest.importorskip("setuptools")
    command = ["setup.py", "-q", "egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    built = tmp_path / "hf_soup" / "recipes"
    assert sorted(path.name for path in built.iterdir()) == [path.name for path in RECIPES]
    show = "from hf_soup.formats.shipped_recipes import shipped_recipes as s; print(s()['digits-vit'])"
    found = subprocess.run([sys.executable, "-c", show], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == built / "digits-vit.yaml"
