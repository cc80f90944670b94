"""Every recipe that ships loads, and is cooked in a tiny form: its own stages, on made-up data of its own columns."""

from pathlib import Path

import datasets
import pytest
import yaml

import hf_soup
from hf_soup import plugins, testing
from hf_soup.formats.cook_file import load_cook_file


RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_loads(recipe):
    """It is a valid cook file that says in its first line what it is for."""
    assert load_cook_file(recipe).output_dir
    assert recipe.read_text().startswith("# ")


def examples(task, columns, label, rows, seed):
    """Made-up rows of a task, in the columns that a recipe names."""
    if task == "image-classification":
        return testing.tiny_images(rows, seed=seed)
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
    """A tiny base model for a task, with a head for something else."""
    if task == "image-classification":
        return testing.save_image_model(testing.tiny_image_model(0, classes=5), folder)
    return testing.save_model_for(plugins.load_module("task", "text-classification"), folder)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_is_cooked_in_a_tiny_form(recipe, tmp_path):
    """Two steps a run, three runs where it draws them, and every stage that it has: soup, comparison, card."""
    plan = load_cook_file(recipe)
    overrides = ["sweep.training_args.max_steps=2"]
    overrides += ["sweep.n_runs=3"] if plan.sweep.n_runs else []
    if plan.pretrain:
        overrides += ["pretrain.training_args.max_steps=2"]
        overrides += ["data.validation=train[1000:1060]", "data.test=train[1300:1360]"]
    else:
        columns, label = plan.data.text_columns or ["text"], plan.data.label_column or "label"
        splits = {getattr(plan.data, part).split("[")[0] for part in ("train", "validation", "test")}
        for seed, split in enumerate(sorted(splits)):
            rows = examples(plan.task, columns, label, 100, seed)
            (tmp_path / "data").mkdir(exist_ok=True)
            rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
        base = save_base(plan.task, tmp_path / "base")
        overrides += [f"data.path={tmp_path / 'data'}", "data.name=null", f"base_model={base}"]
        overrides += ["sweep.probe_args.max_steps=2"]
    cooked = hf_soup.cook(recipe, output_dir=tmp_path / "out", overrides=overrides)
    sweep = yaml.safe_load(recipe.read_text())["sweep"]
    grid = sweep["space"] if isinstance(sweep["space"], list) else None
    assert len(cooked.sweep) == (len(grid) if grid else 3 if plan.sweep.n_runs else len(cooked.sweep))
    assert not cooked.sweep.failed
    assert len(cooked.sweep) >= 3
    assert {"uniform soup", "logit ensemble"} <= {row.name for row in cooked.comparison.models}
    assert (cooked.folder / "README.md").is_file()
