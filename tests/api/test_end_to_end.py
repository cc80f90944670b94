"""Tests of `cook` from a file to a compared soup on tiny data, of cooking again, and of invalid values."""

import shutil

import pytest
import transformers
import yaml

import hf_soup
from hf_soup import testing


ARGS = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 3e-3}


@pytest.fixture
def kitchen(tmp_path):
    """A folder with data, a base model and a cook file."""
    for name, rows, seed in (("train", 60, 0), ("validation", 40, 1), ("test", 40, 2), ("odd", 40, 3)):
        testing.tiny_texts(rows, seed=seed).to_csv(tmp_path / f"{name}.csv")
    testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")
    cook_file = {
        "base_model": str(tmp_path / "base"),
        "data": {"path": str(tmp_path), "shifted": {"odd": {"split": "odd"}}},
        "sweep": {"space": {"seed": [0, 1, 2]}, "training_args": ARGS},
        "merge": {"strategy": "greedy"},
        "compare": {},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "cook.yaml").write_text(yaml.safe_dump(cook_file))
    return tmp_path


def times(folder):
    """Modification time of each file in a folder."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_cook_file_makes_a_soup(kitchen):
    """A cook file runs sweep, greedy merge and comparison, and writes a folder that transformers can load."""
    cooked = hf_soup.cook(kitchen / "cook.yaml")
    assert len(cooked.sweep) == 3
    assert list(cooked.comparison.sizes) == ["validation", "test", "odd"]
    assert cooked.folder == kitchen / "out" / "soup"
    names = {path.name for path in cooked.folder.iterdir()}
    assert names >= {"model.safetensors", "comparison.png", "comparison.json", "README.md", "soup_recipe.yaml"}
    assert transformers.pipeline("text-classification", model=str(cooked.folder))("a good film")
    card = (cooked.folder / "README.md").read_text()
    assert "greedy soup" in card
    assert "![Scores of ingredients, soups and ensembles](comparison.png)" in card
    recipe = hf_soup.load_recipe(cooked.folder)
    assert (cooked.folder / recipe.selection.dataset.path).resolve() == kitchen
    assert len(recipe.selection.trials) == 5


def test_cooking_again_repeats_nothing(kitchen):
    """Cooking again trains nothing, writes no file but `sweep.json`, and returns the same result."""
    first = hf_soup.cook(kitchen / "cook.yaml")
    before = times(kitchen / "out")
    second = hf_soup.cook(kitchen / "cook.yaml")
    after = times(kitchen / "out")
    assert {path.name for path in after if after[path] != before.get(path)} <= {"sweep.json"}
    assert second.comparison == first.comparison
    assert second.soup.recipe.names == first.soup.recipe.names
    (kitchen / "out" / "cooked.json").unlink()
    third = hf_soup.cook(kitchen / "cook.yaml")
    assert third.comparison == first.comparison
    assert all(
        times(run.folder) == {p: t for p, t in before.items() if run.folder in p.parents} for run in third.sweep
    )


def test_a_marker_vouches_for_its_own_soup_only(kitchen):
    """A deleted soup is made again, and a later cook that fails leaves the existing soup as it was."""
    first = hf_soup.cook(kitchen / "cook.yaml")
    shutil.rmtree(first.folder)
    again = hf_soup.cook(kitchen / "cook.yaml")
    assert (again.folder / "model.safetensors").is_file()
    with pytest.raises(hf_soup.SoupError):
        hf_soup.cook(kitchen / "cook.yaml", overrides=["merge.dtype=float8_e4m3fn", "compare.metric=f1_macro"])
    third = hf_soup.cook(kitchen / "cook.yaml")
    assert third.comparison == first.comparison


def test_a_sweep_knows_its_base(kitchen):
    """A method that needs a base model gets the start of the runs, with its head."""
    cooked = hf_soup.cook(kitchen / "cook.yaml", overrides=["merge.method=ties", "merge.params={density: 0.5}"])
    recipe = hf_soup.load_recipe(cooked.folder)
    assert recipe.base_model.source == str(kitchen / "out" / "runs" / "start")
    assert not any("lacks" in note for note in cooked.soup.plan.report.notes)


def test_another_merge_keeps_the_runs(kitchen):
    """Cooking with another strategy keeps the runs and makes another soup."""
    first = hf_soup.cook(kitchen / "cook.yaml")
    second = hf_soup.cook(kitchen / "cook.yaml", overrides=["merge.strategy=uniform"])
    assert [run.state for run in second.sweep] == [run.state for run in first.sweep]
    assert second.soup.recipe.names == ("run-0", "run-1", "run-2")
    written = yaml.safe_load((second.folder / "soup_recipe.yaml").read_text())
    assert written["selection"] == {"strategy": "uniform", "params": {}}
    assert {row.name for row in second.comparison.models} >= {"uniform soup", "logit ensemble"}


def test_ingredients_instead_of_a_sweep(kitchen, text_runs):
    """A cook file can list ingredients instead of a sweep, and leave out the comparison."""
    cook_file = {"ingredients": [str(run) for run in text_runs], "merge": {"weights": [1, 2, 3]}, "output_dir": "out2"}
    (kitchen / "merge.yaml").write_text(yaml.safe_dump(cook_file))
    cooked = hf_soup.cook(kitchen / "merge.yaml", output_dir=kitchen / "out2")
    assert cooked.soup.recipe.weights == (1, 2, 3)
    assert cooked.comparison is None
    assert "not evaluated" in (cooked.folder / "README.md").read_text()


def test_a_sweep_alone(kitchen):
    """A cook file without `merge` returns only the sweep."""
    cook_file = yaml.safe_load((kitchen / "cook.yaml").read_text())
    del cook_file["merge"], cook_file["compare"]
    (kitchen / "sweep.yaml").write_text(yaml.safe_dump(cook_file))
    cooked = hf_soup.cook(kitchen / "sweep.yaml")
    assert cooked.soup is None
    assert len(cooked.sweep) == 3


def test_a_pushed_cook(kitchen, hub):
    """`push` puts the compared soup on the Hub, with its scores as metadata."""
    from huggingface_hub import ModelCard

    repo_id = f"{hub.user}/cooked-soup"
    hf_soup.cook(kitchen / "cook.yaml", overrides=[f"push.repo_id={repo_id}"])
    data = ModelCard.load(repo_id).data
    assert {result.dataset_name for result in data.eval_results} == {"test", "odd"}


def test_pretraining_comes_first_and_once(tmp_path):
    """A `pretrain` stage makes the base model, which the sweep starts from unchanged, and is not repeated."""
    text = """
task: image-classification
data:
  path: sklearn.datasets:load_digits
  train: train[100:160]
  validation: train[160:200]
  test: train[200:240]
  shifted: {rotated: {transform: {rotate: 45}}}
pretrain:
  config: {model_type: vit, image_size: 8, patch_size: 4, hidden_size: 16, intermediate_size: 16,
           num_hidden_layers: 1, num_attention_heads: 2}
  processor: {image_processor_type: ViTImageProcessor, size: {height: 8, width: 8}}
  data: train[:100]
  transform: {rotate: 10}
  training_args: {num_train_epochs: 1}
sweep: {space: {seed: [0, 1]}, training_args: {num_train_epochs: 1}}
merge: {strategy: uniform}
compare: {}
output_dir: out
"""
    (tmp_path / "cook.yaml").write_text(text)
    cooked = hf_soup.cook(tmp_path / "cook.yaml", output_dir=tmp_path / "out")
    assert list(cooked.comparison.sizes) == ["validation", "test", "rotated"]
    weights = [tmp_path / "out" / name / "model.safetensors" for name in ("pretrained/runs/run-0", "runs/start")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    before = times(tmp_path / "out" / "pretrained")
    hf_soup.cook(tmp_path / "cook.yaml", output_dir=tmp_path / "out", overrides=["sweep.space.seed=[0, 1, 2]"])
    assert {p.name for p, t in times(tmp_path / "out" / "pretrained").items() if before.get(p) != t} <= {"sweep.json"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.label_column=lable", 'no label column "lable"'),
        ("data.test=tset", 'no file .* for the split "tset"; did you mean "test"'),
        ("merge.metric=accurracy", 'no metric "accurracy"'),
        ("merge.params={acept: '>'}", 'a parameter "acept"; did you mean "accept"'),
        ("merge.strategy=gredy", 'no strategy called "gredy"'),
        ("merge.dtype=float12", 'no floating-point type "float12"'),
        ("merge={weights: [1, 2]}", "are 2 .* for 3 ingredients"),
        ("merge.params={accept: '=='}", "is one of '>=', '>'"),
        ("sweep.space.seed=[]", "space is empty"),
        ("sweep.keep=bst", 'keep is one of .* did you mean "best"'),
        ("sweep.on_error=stop", "on_error is one of"),
        ("sweep.executor=rai", 'no executor "rai"; did you mean "ray"'),
        ("sweep.head=prob", 'did you mean "probe"'),
        ("data.text_columns=[txt]", 'no text column "txt"'),
        ("base_model=/nowhere/at/all", "does not exist, and is not a Hub id"),
    ],
)
def test_bad_values_are_told_before_anything_is_trained(kitchen, override, message):
    """An invalid value in any stage of the file raises an error before the first run is trained."""
    with pytest.raises(hf_soup.SoupError, match=message):
        hf_soup.cook(kitchen / "cook.yaml", overrides=[override])
    assert not (kitchen / "out").exists()
