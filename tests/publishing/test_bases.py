"""A card names the base models of a soup: its ingredients, or the models they were fine-tuned from, if not private."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, hf_hub_download

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.source import open_all
from hf_soup.publishing.bases import find_bases
from hf_soup.types import Ingredient, Recipe


pytestmark = pytest.mark.filterwarnings("ignore:the card sets no licence", "ignore:.*the heads do not look")
COMMIT = "c" * 40


def put(repo_id, folder, *, private=False):
    """Upload a model to the Hub and return its id."""
    HfApi().create_repo(repo_id, private=private)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    return repo_id


def card_of(folder):
    """Metadata and text of the card in a folder."""
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def say(folder, base_model):
    """Write a card with a `base_model` to a folder."""
    (folder / "README.md").write_text(f"---\nbase_model: {json.dumps(base_model)}\n---\n# Run\n")
    return folder


@pytest.fixture
def run(tmp_path, text_runs):
    """A local run without any record of its base model."""
    return shutil.copytree(text_runs[0], tmp_path / "runs" / "run-0")


def found(*folders, base_model=None):
    """The base models found for local runs."""
    checkpoints = open_all(list(folders))
    recipe = Recipe(tuple(item.ingredient for item in checkpoints), (1,) * len(folders), base_model=base_model)
    return find_bases(recipe, checkpoints)


@pytest.mark.parametrize(
    ("named", "bases"),
    [
        ("google-bert/bert-base-uncased", ("google-bert/bert-base-uncased",)),
        (["a/b", "c/d", "a/b"], ("a/b", "c/d")),
        ("distilbert-base-uncased", ("distilbert-base-uncased",)),
        (["gpt2", "gpt2@main", "a/b@main", "a/b"], ("gpt2", "a/b")),
        (["https://huggingface.co/a/b", "https://huggingface.co/gpt2/"], ("a/b", "gpt2")),
        (["/home/me/bert", "./bert", "../bert", "models/a/bert", "checkpoint-7", "a/b.git", "/a", 7, None], ()),
        (["https://example.com/a/b", "https://huggingface.co/a/b/tree/main", "https://huggingface.co"], ()),
        ({"a": "b"}, ()),
        (None, ()),
    ],
)
def test_the_card_of_a_run_says_it(run, named, bases):
    """`base_model` in a run's card counts as one Hub id or a list of them; paths and other values do not count."""
    say(run, named)
    assert found(run) == [bases]


def test_a_path_that_looks_like_an_id_is_none(run, monkeypatch, tmp_path):
    """A name such as `models/bert` is not a Hub id if such a folder exists here, beside the run or above it."""
    say(run, "models/bert")
    assert found(run) == [("models/bert",)]
    for place in (run / "models" / "bert", run.parent / "models" / "bert", tmp_path / "elsewhere" / "models" / "bert"):
        place.mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "elsewhere" if "elsewhere" in place.parts else tmp_path)
        assert found(run) == [()]
        shutil.rmtree(place)


def test_a_folder_of_the_name_of_a_model_is_none(run, monkeypatch, tmp_path):
    """A name without an owner is not a Hub id if a folder of that name lies beside the run."""
    say(run, "gpt2")
    assert found(run) == [("gpt2",)]
    (run.parent / "gpt2").mkdir()
    assert found(run) == [()]


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("bert-base-uncased", ("bert-base-uncased",)),
        ("gpt2", ("gpt2",)),
        ("t5-small", ("t5-small",)),
        ("a/b@v1", ("a/b",)),
        ("run-1", ()),
        ("my-bert", ()),
        ("output", ()),
    ],
)
def test_a_configuration_says_it(run, name, bases):
    """A name without an owner in a configuration counts if the Hub has a model family with such names."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "_name_or_path": name}))
    assert found(run) == [bases]


@pytest.mark.parametrize(
    ("record", "bases"),
    [
        ({"base_model": "a/b", "base_commit": COMMIT}, ("a/b",)),
        ({"base_model": "a/b@v1", "base_commit": COMMIT}, ("a/b",)),
        ({"base_model": "a/b/folder@v1", "base_commit": COMMIT}, ("a/b",)),
        ({"base_model": "gpt2", "base_commit": COMMIT}, ("gpt2",)),
        ({"base_model": "a/b", "base_commit": None}, ()),  # name of a folder
        ({}, ()),
        ([1], ()),
    ],
)
def test_the_record_of_a_run_says_it(run, record, bases):
    """A `run.json` with a commit, beside the weights or one folder above a checkpoint, names the base model."""
    (run / "run.json").write_text(json.dumps(record))
    checkpoint = shutil.copytree(run, run / "checkpoint-7", ignore=shutil.ignore_patterns("run.json"))
    assert found(run, checkpoint) == [bases, bases]
    other = shutil.copytree(checkpoint, run / "other")
    assert found(other) == [()]


def test_the_card_comes_before_the_record(run):
    """The order of precedence is card, record, start of the sweep, recipe, configuration."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "_name_or_path": "from/config"}))
    assert found(run) == [("from/config",)]
    base = Ingredient("base", "from/recipe/folder", COMMIT)
    assert found(run, base_model=base) == [("from/recipe",)]
    start = shutil.copytree(run, run.parent / "start")
    say(start, "from/start")
    assert found(run, base_model=Ingredient("start", str(start))) == [("from/start",)]
    assert found(run) == [("from/config",)]  # a folder named `start` alone does not make a sweep
    (run / "run.json").write_text(json.dumps({"base_model": "run-9", "base_commit": None}))
    assert found(run, base_model=base) == [("from/start",)]
    (run / "run.json").write_text(json.dumps({"base_model": "from/record", "base_commit": COMMIT}))
    assert found(run, base_model=base) == [("from/record",)]
    say(run, "from/card")
    assert found(run, base_model=base) == [("from/card",)]


def test_where_nothing_is_known_the_card_says_so(tmp_path, run):
    """For ingredients of unknown origin, the card has no `base_model` and says that it is not known."""
    folder = hf_soup.merge([run, testing.tiny_text_model(1)]).save_pretrained(tmp_path / "soup")
    data, body = card_of(folder)
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert re.search(r"The base model of run-0, \S+ is not known\.", body)


def test_a_sweep_of_a_folder_says_what_that_was_fine_tuned_from(tmp_path, run):
    """A sweep of a folder keeps its `_name_or_path` in the cards, since transformers drops it from configurations."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "_name_or_path": "google/bert-y"}))
    options = {"space": {"seed": [0, 1]}, "training_args": {"max_steps": 1}, "validation": testing.tiny_texts(10)}
    runs = hf_soup.sweep(run, testing.tiny_texts(20), output_dir=tmp_path / "sweep", **options)
    assert card_of(runs.base_model)[0]["base_model"] == ["google/bert-y"]
    assert found(*[item.folder for item in runs]) == [("google/bert-y",)] * 2
    data, _ = card_of(hf_soup.merge(runs).save_pretrained(tmp_path / "soup"))
    assert data["base_model"] == ["google/bert-y"]


@pytest.fixture
def swept(hub, tmp_path, text_runs):
    """A base model on the Hub, and a local sweep of it."""
    base = put(f"{hub.user}/{tmp_path.name}-base", text_runs[0])
    data = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 1}}
    given = {"space": {"seed": [0, 1]}, "output_dir": tmp_path / "sweep", **data}
    return base, hf_soup.sweep(base, testing.tiny_texts(30), **given)


def test_a_soup_of_local_runs_stands_below_their_base(hub, tmp_path, swept):
    """A soup of local runs, saved or pushed, names their base model on the Hub in metadata and text."""
    base, runs = swept
    for number, options in enumerate(({}, {"method": "ties"})):
        soup = hf_soup.merge(runs, **options)
        folder = soup.save_pretrained(tmp_path / f"soup-{number}")
        repo_id = f"{base}-soup-{number}"
        soup.push_to_hub(repo_id)
        published = ModelCard.load(repo_id)
        for data, body in (card_of(folder), (published.data.to_dict(), published.text)):
            assert data["base_model"] == [base]
            assert data["base_model_relation"] == "merge"
            assert "Ingredients that are not on the Hub were fine-tuned from [" in body
            assert f"({hub.url}/{base})." in body
            assert "not known" not in body
            assert str(tmp_path) not in body


def test_a_sweep_of_local_weights_keeps_their_base(tmp_path, text_runs):
    """A sweep that starts from a folder with a base model in its card passes it on to runs, start and soup."""
    mine = say(shutil.copytree(text_runs[0], tmp_path / "mine"), "a/base")
    data = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 1}}
    runs = hf_soup.sweep(mine, testing.tiny_texts(30), space={"seed": [0]}, output_dir=tmp_path / "sweep", **data)
    for folder in (runs[0].folder, tmp_path / "sweep" / "start"):
        named = card_of(folder)[0]["base_model"]
        assert named in ("a/base", ["a/base"])
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    assert card_of(folder)[0]["base_model"] == ["a/base"]
    more = hf_soup.sweep(folder, testing.tiny_texts(30), space={"seed": [0]}, output_dir=tmp_path / "again", **data)
    assert card_of(hf_soup.merge(more).save_pretrained(tmp_path / "third"))[0]["base_model"] == ["a/base"]


def test_runs_of_a_folder_do_not_name_a_private_base(hub, tmp_path, text_runs):
    """If a sweep starts from a folder with a private base model, the pushed runs are private too."""
    secret = put(f"{hub.user}/{tmp_path.name}-secret", text_runs[2], private=True)
    mine = say(shutil.copytree(text_runs[0], tmp_path / "mine"), secret)
    data = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 1}, "space": {"seed": [0]}}
    given = {"output_dir": tmp_path / tmp_path.name, "push_runs": True, **data}
    with pytest.warns(hf_soup.SoupWarning, match=f"{secret} is private, so the runs are private too"):
        hf_soup.sweep(mine, testing.tiny_texts(30), **given)
    assert HfApi().model_info(f"{hub.user}/{tmp_path.name}-run-0").private


def test_local_and_published_ingredients(hub, tmp_path, text_runs, run):
    """Published ingredients are listed as they are, local ones by their base models, in order and only once."""
    other = put(f"{hub.user}/{tmp_path.name}-other", text_runs[1])
    base = put(f"{hub.user}/{tmp_path.name}-base", text_runs[2])
    say(run, [base, other])
    unknown = shutil.copytree(text_runs[2], tmp_path / "unknown")
    hf_soup.merge([run, other, unknown]).push_to_hub(f"{base}-soup")
    card = ModelCard.load(f"{base}-soup")
    assert card.data.base_model == [base, other]
    assert "The base model of unknown is not known." in card.text


def test_a_private_base_is_not_named_in_public(hub, tmp_path, text_runs, run):
    """No file of a public soup names a private base model unless requested; private soups and local folders do."""
    secret = put(f"{hub.user}/{tmp_path.name}-secret", text_runs[2], private=True)
    base = put(f"{hub.user}/{tmp_path.name}-base", text_runs[1])
    say(run, [secret, base])
    config = json.loads((run / "tokenizer_config.json").read_text())
    (run / "tokenizer_config.json").write_text(json.dumps({**config, "name_or_path": secret}))
    soup = hf_soup.merge([run])
    with pytest.warns(hf_soup.SoupWarning, match=f"{secret}, which ingredients were fine-tuned from, private or gone"):
        soup.push_to_hub(f"{base}-soup")
    names = [name for name in HfApi().list_repo_files(f"{base}-soup") if not name.endswith(".safetensors")]
    texts = {name: Path(hf_hub_download(f"{base}-soup", name)).read_bytes().decode(errors="replace") for name in names}
    assert [name for name, text in texts.items() if secret in text] == []
    card = ModelCard.load(f"{base}-soup")
    assert card.data.base_model == [base]
    assert "The base model of run-0 is private and not named." in card.text
    for number, options in enumerate(({"name_private": True}, {"private": True})):
        soup.push_to_hub(f"{base}-soup-{number}", **options)
        assert ModelCard.load(f"{base}-soup-{number}").data.base_model == [secret, base]
    assert card_of(soup.save_pretrained(tmp_path / "soup"))[0]["base_model"] == [secret, base]


def test_a_private_ingredient_is_followed_to_a_public_base(hub, tmp_path, text_runs, run):
    """A private ingredient is not named, but its public base model is; an unknown base model is not named either."""
    base = put(f"{hub.user}/{tmp_path.name}-base", text_runs[1])
    hidden = put(f"{hub.user}/{tmp_path.name}-hidden", say(run, [base, "nobody/knows-it"]), private=True)
    with pytest.warns(hf_soup.SoupWarning, match="is not named"):
        hf_soup.merge([hidden]).push_to_hub(f"{base}-soup")
    card = ModelCard.load(f"{base}-soup")
    assert card.data.base_model == [base]
    assert "nobody/knows-it" not in card.content
    assert "hidden" not in card.content
