"""Tests of `take_from`, which names the ingredient that gives a soup its settings where ingredients differ."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.cli import main
from hf_soup.errors import IncompatibleError, RecipeError


@pytest.fixture
def runs(tmp_path, text_runs):
    """Copies of three runs; the second has another activation, another tokenizer and a generation configuration."""
    copies = [shutil.copytree(run, tmp_path / run.name) for run in text_runs]
    change(copies[1] / "config.json", hidden_act="relu")
    change(copies[1] / "tokenizer_config.json", do_lower_case=False)
    (copies[1] / "generation_config.json").write_text('{"max_length": 7}')
    return copies


def change(path, **fields):
    """Set values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_changes_the_meaning_has_to_be_decided(runs):
    """Without `take_from` a difference that matters is an error that suggests the option; with it, a note."""
    with pytest.raises(IncompatibleError) as caught:
        hf_soup.merge(runs)
    activation, tokenizer = caught.value.problems
    assert activation == (
        "hidden_act: run-0, run-2 have 'gelu', run-1 has 'relu'. The same weights compute different results with "
        'each. Choose with take_from="run-0" (--take-from run-0)'
    )
    assert tokenizer.startswith("run-1 has another tokenizer than run-0: normalizer.lowercase is False against True.")
    notes = hf_soup.merge(runs, take_from="run-1").plan.report.notes
    assert "config.json: hidden_act: run-0, run-2 have 'gelu', run-1 has 'relu'; the soup takes that of run-1" in notes
    assert any("lowercase is False against True; the soup takes that of run-1" in note for note in notes)
    assert "run-0, run-2 came without a generation config; the soup takes that of run-1" in notes


def test_every_verb_takes_the_decision(runs):
    """`analyze`, `advise` and `compare` accept `take_from`, and the commands accept `--take-from`."""
    data = testing.tiny_texts(20)
    for verb in (hf_soup.analyze, hf_soup.advise):
        assert verb(runs, evaluator=data, take_from="run-1").to_dict()
    advice = hf_soup.advise(runs, take_from="run-1")
    assert "do not fit" not in advice.verdict
    assert "--take-from run-1" in advice.command
    soup = hf_soup.merge(runs[:1])
    assert "uniform soup" in hf_soup.compare(soup, ingredients=runs[1:], test=data, take_from="run-1").table()
    for command in (["analyze"], ["advise"]):
        done = CliRunner().invoke(main, [*command, *map(str, runs), "--take-from", "run-1"])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["run-0", "run-1"])
def test_the_soup_has_the_settings_of_the_named_ingredient(tmp_path, runs, name):
    """Configuration, tokenizer and generation settings are those of one ingredient, in memory and in the folder."""
    soup = hf_soup.merge(runs, take_from=name)
    folder = soup.save_pretrained(tmp_path / "soup")
    activation, lower = {"run-0": ("gelu", True), "run-1": ("relu", False)}[name]
    assert soup.model.config.hidden_act == activation
    assert json.loads((folder / "config.json").read_text())["hidden_act"] == activation
    assert json.loads((folder / "tokenizer_config.json").read_text())["do_lower_case"] is lower
    assert (folder / "generation_config.json").read_text() == '{"max_length": 7}'  # no other ingredient has one


def test_it_is_cooked_again_as_it_was(tmp_path, runs):
    """The recipe records `take_from`, cooking it gives the same files, and `verify` reports a changed setting."""
    folder = hf_soup.merge(runs, take_from="run-1").save_pretrained(tmp_path / "soup")
    assert yaml.safe_load((folder / "soup_recipe.yaml").read_text())["take_from"] == "run-1"
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert hf_soup.verify(folder).ok
    change(folder / "config.json", hidden_act="gelu")
    assert "hidden_act" in hf_soup.verify(folder).table()


def test_the_choice_is_part_of_the_fingerprint_and_no_choice_is_not(text_runs):
    """`take_from` changes the fingerprint of a recipe; without it the fingerprint is that of older versions."""
    items = [hf_soup.Ingredient("a", "a"), hf_soup.Ingredient("b", "b")]
    prints = {hf_soup.Recipe(items, (1, 1), take_from=name).fingerprint() for name in (None, "a", "b")}
    assert len(prints) == 3
    assert hf_soup.Recipe(items, (1, 1)).fingerprint() == "042dc18c6b5594a2beaa40aacf3839a4"


def test_an_ingredient_that_is_left_out_gives_settings_at_weight_zero(tmp_path, runs):
    """An ingredient that a strategy leaves out can still give its settings, and has weight 0 in the recipe."""
    first = load_file(runs[0] / "model.safetensors")["classifier.weight"]
    seen = set()

    def nearness(model):
        seen.add(model.config.hidden_act)
        return -(model.classifier.weight.detach() - first).abs().sum().item()

    soup = hf_soup.merge(runs, strategy="greedy", evaluator=nearness, take_from="run-1")
    assert seen == {"relu"}
    assert dict(zip(soup.recipe.names, soup.recipe.weights, strict=True)) == {"run-0": 1, "run-1": 0}
    folder = soup.save_pretrained(tmp_path / "soup")
    assert json.loads((folder / "config.json").read_text())["hidden_act"] == "relu"
    assert hf_soup.verify(folder).ok
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert hf_soup.compare(folder, test=testing.tiny_texts(20)).table()


def test_a_comparison_takes_the_same_settings(runs):
    """The uniform soup in a comparison has the settings of the compared soup."""
    soup = hf_soup.merge(runs, take_from="run-1", weights=[2, 1, 1])
    comparison = hf_soup.compare(soup, test=testing.tiny_texts(20))
    assert "uniform soup" in [row.name for row in comparison.models]


def test_a_name_that_is_not_there(tmp_path, runs):
    """An unknown name raises a RecipeError, with the nearest name as a hint, in `merge`, `check` and `cook`."""
    for verb in (hf_soup.merge, hf_soup.check):
        with pytest.raises(
            RecipeError,
            match='take_from="run1": there is no ingredient of that name; did you mean "run-1"',
        ):
            verb(runs, take_from="run1")
    folder = hf_soup.merge(runs, take_from="run-1").save_pretrained(tmp_path / "soup")
    recipe = folder / "soup_recipe.yaml"
    recipe.write_text(recipe.read_text().replace("take_from: run-1", "take_from: run-7"))
    with pytest.raises(RecipeError, match='take_from="run-7"'):
        hf_soup.cook(folder, output_dir=tmp_path / "again")


def test_a_changed_recipe_keeps_the_choice_while_it_can(tmp_path, runs):
    """Dropping another ingredient keeps `take_from`, dropping the named one removes it, and an override sets it."""
    folder = hf_soup.merge(runs, take_from="run-1").save_pretrained(tmp_path / "soup")
    assert hf_soup.cook(folder, drop=["run-2"]).soup.recipe.take_from == "run-1"
    assert hf_soup.cook(folder, drop=["run-1"]).soup.recipe.take_from is None
    assert hf_soup.cook(folder, overrides=["take_from=run-0"]).soup.recipe.take_from == "run-0"


def test_a_cook_file_says_it(tmp_path, runs):
    """A cook file passes on `merge.take_from`."""
    path = tmp_path / "cook.yaml"
    path.write_text(
        yaml.safe_dump({"ingredients": list(map(str, runs)), "merge": {"take_from": "run-1"}, "output_dir": "out"})
    )
    assert hf_soup.cook(path, output_dir=tmp_path / "out").soup.recipe.take_from == "run-1"


def test_the_command_line_has_it(tmp_path, runs):
    """`check` and `merge` take `--take-from`, and `check` exits with code 1 without it."""
    names = list(map(str, runs))
    assert CliRunner().invoke(main, ["check", *names]).exit_code == 1
    done = CliRunner().invoke(main, ["check", *names, "--take-from", "run-1"])
    assert done.exit_code == 0, done.output
    assert "the soup takes that of run-1" in done.output
    done = CliRunner().invoke(main, ["merge", *names, "--take-from", "run-1", "-o", str(tmp_path / "soup")])
    assert done.exit_code == 0, done.output
    assert hf_soup.load_recipe(tmp_path / "soup").take_from == "run-1"


def test_vocabularies_and_orders_of_labels_are_not_for_choosing(tmp_path, text_runs):
    """Different vocabularies and orders of labels remain problems with `take_from`."""
    copies = [shutil.copytree(run, tmp_path / "copies" / run.name) for run in text_runs[:2]]
    path = copies[1] / "tokenizer.json"
    path.write_text(path.read_text().replace('"good"', '"goodly"'))
    change(copies[1] / "config.json", id2label={"0": "positive", "1": "negative"})
    problems = hf_soup.check(copies, take_from="run-0").problems
    assert [("order" in problem, "tokens differ" in problem) for problem in problems] == [(True, False), (False, True)]


def test_a_private_ingredient_is_not_named(hub, tmp_path, runs):
    """In a published recipe, `take_from` names a private ingredient by its placeholder."""
    from huggingface_hub import HfApi

    names = []
    for index, run in enumerate(runs[:2]):
        names.append(f"{hub.user}/{tmp_path.name}-{index}")
        HfApi().create_repo(names[-1], private=index == 1)
        HfApi().upload_folder(repo_id=names[-1], folder_path=run)
    soup = hf_soup.merge(names, take_from=f"{tmp_path.name}-1")
    with pytest.warns(UserWarning, match="private"):
        soup.push_to_hub(f"{hub.user}/{tmp_path.name}-soup")
    recipe = hf_soup.load_recipe(f"{hub.user}/{tmp_path.name}-soup")
    assert recipe.take_from == "private-1"
    assert recipe.take_from in recipe.names
