"""Pushing soups: private names, licences, branches, tags, benchmarks, and runs of a sweep."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, hf_hub_download

import hf_soup
from hf_soup import testing
from hf_soup.errors import DataError, IngredientError, OutputError, RecipeError
from hf_soup.types import Ingredient


pytestmark = pytest.mark.filterwarnings("ignore:the card sets no licence")


def put(hub, name, folder, *, private=False, card=None):
    """Upload a run to the Hub and return its id."""
    repo_id = f"{hub.user}/{name}"
    HfApi().create_repo(repo_id, private=private)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    if card is not None:
        HfApi().upload_file(repo_id=repo_id, path_or_fileobj=card.encode(), path_in_repo="README.md")
    return repo_id


def texts(repo_id):
    """The text files of a repository by name."""
    names = [name for name in HfApi().list_repo_files(repo_id) if re.search(r"\.(md|json|yaml|txt|jinja)$", name)]
    return {name: Path(hf_hub_download(repo_id, name)).read_text() for name in names}


@pytest.fixture
def secret(hub, text_runs, tmp_path):
    """A compared soup chosen among a public and a private run, and the ids of the two."""
    name = tmp_path.name
    ids = [put(hub, f"{name}-open", text_runs[0]), put(hub, f"{name}-secret", text_runs[1], private=True)]
    soup = hf_soup.merge(ids, strategy="greedy", accept=">", evaluator=testing.tiny_texts(20))
    soup.comparison = hf_soup.compare(soup, test=testing.tiny_texts(30, seed=1), validation=testing.tiny_texts(20))
    return soup, ids


def test_private_ingredients_are_not_named_in_public(hub, secret, tmp_path):
    """A public soup does not name a private run in any file, even if the strategy has rejected it."""
    soup, (shown, hidden) = secret
    repo_id = f"{hub.user}/{tmp_path.name}-soup"
    with pytest.warns(UserWarning, match="secret private: what is private is not named"):
        soup.push_to_hub(repo_id)
    found = texts(repo_id)
    word = hidden.rpartition("/")[2]
    assert [name for name, text in found.items() if word in text] == []
    assert "private-1" in found["README.md"]
    assert shown in found["README.md"]
    assert "private-1" in found["comparison.md"]
    recipe = hf_soup.load_recipe(repo_id)
    assert {item.source for item in recipe.ingredients} <= {shown, "private"}
    assert recipe.weights_by_module == soup.recipe.weights_by_module


def test_verifying_what_is_private_names_it(hub, text_runs, tmp_path):
    """A recipe keeps the digests of private weights, and verifying it reports that an ingredient is private."""
    ids = [put(hub, f"{tmp_path.name}-{i}", run, private=i == 1) for i, run in enumerate(text_runs[:2])]
    with pytest.warns(UserWarning, match="is not named"):
        hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup")
    recipe = hf_soup.load_recipe(f"{ids[0]}-soup")
    assert recipe.ingredients[1].name == "private-1"
    assert recipe.ingredients[1].files["model.safetensors"].startswith("sha256:")
    found = hf_soup.verify(f"{ids[0]}-soup")
    assert not found.ok
    assert "'private-1' is private" in found.table()


@pytest.mark.parametrize("how", [{"name_private": True}, {"private": True}])
def test_private_ingredients_are_named_where_asked_or_in_private(hub, text_runs, tmp_path, how):
    """Private ingredients are named with `name_private=True` and in private soups."""
    ids = [put(hub, f"{tmp_path.name}-{i}", run, private=i == 1) for i, run in enumerate(text_runs[:2])]
    hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup", **how)
    assert [item.source for item in hf_soup.load_recipe(f"{ids[0]}-soup").ingredients] == ids
    assert hf_soup.verify(f"{ids[0]}-soup").ok


CARD = "---\nlicense: {}\nlanguage:\n- en\n- de\ndatasets:\n- glue\n{}---\n\n# Run\n"


def test_what_ingredients_agree_on_is_taken_over(hub, text_runs, tmp_path):
    """Licence, languages and data sets common to all cards become those of the soup."""
    cards = [CARD.format("mit", ""), "---\nlicense: mit\nlanguage: en\ndatasets: [glue, imdb]\n---\n"]
    ids = [put(hub, f"{tmp_path.name}-{i}", text_runs[i], card=card) for i, card in enumerate(cards)]
    hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup")
    data = ModelCard.load(f"{ids[0]}-soup").data
    assert (data.license, data.language, data.datasets) == ("mit", ["en"], ["glue"])


@pytest.mark.filterwarnings("default:the card sets no licence")
@pytest.mark.parametrize("other", [CARD.format("apache-2.0", ""), None, "---\nlicense: [1, {a: b}]\n---\n"])
def test_licences_that_differ_are_shown_and_none_is_set(hub, text_runs, tmp_path, other):
    """If licences differ or one is missing or invalid, a warning is given, none is set and the card lists them."""
    ids = [
        put(hub, f"{tmp_path.name}-0", text_runs[0], card=CARD.format("mit", "")),
        put(hub, f"{tmp_path.name}-1", text_runs[1]),
    ]
    if other is not None:  # written past the Hub, which would refuse the last one
        store = hub.store.repositories[ids[1]]
        files = store.resolve("main").files
        files["README.md"] = type(files["config.json"])(other.encode())
    with pytest.warns(UserWarning, match=r"the card sets no licence.*mit \("):
        hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup")
    card = ModelCard.load(f"{ids[0]}-soup")
    assert card.data.license is None
    assert "different licences" in card.text
    assert ("apache-2.0" in card.text) == (other is not None and "apache" in other)


def test_a_licence_of_ones_own(hub, text_runs, tmp_path):
    """A licence `other` is adopted with its name and link if these agree."""
    more = "license_name: soup-1.0\nlicense_link: LICENSE\n"
    ids = [put(hub, f"{tmp_path.name}-{i}", text_runs[i], card=CARD.format("other", more)) for i in range(2)]
    hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup")
    data = ModelCard.load(f"{ids[0]}-soup").data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "soup-1.0", "LICENSE")


def test_a_pull_request(hub, text_runs, tmp_path):
    """`create_pr=True` leaves the branch unchanged and puts the soup into a pull request."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    done = hf_soup.merge(text_runs).push_to_hub(repo_id, create_pr=True, commit_description="Why.")
    assert HfApi().list_repo_files(repo_id) == [".gitattributes"]
    assert "soup_recipe.yaml" in HfApi().list_repo_files(repo_id, revision=done.pr_revision)


def test_a_branch_that_is_not_there_is_made(hub, text_runs, tmp_path):
    """`revision` creates a branch if necessary and leaves main unchanged; the soup loads from the branch."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    hf_soup.merge(text_runs).push_to_hub(repo_id, revision="try", tags="mine", include_plots=False)
    assert HfApi().list_repo_files(repo_id) == [".gitattributes"]
    assert "mine" in ModelCard(Path(hf_hub_download(repo_id, "README.md", revision="try")).read_text()).data.tags
    assert hf_soup.load_recipe(f"{repo_id}@try").names


def test_pictures_are_there_unless_left_out(hub, text_runs, tmp_path):
    """Pictures of search and comparison are pushed; `include_plots=False` omits them and deletes earlier ones."""
    repo_id, validation = f"{hub.user}/{tmp_path.name}", testing.tiny_texts(20)
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=validation)
    soup.comparison = hf_soup.compare(soup, test=testing.tiny_texts(30, seed=1), validation=validation)
    soup.push_to_hub(repo_id)
    pictures = {name for name in HfApi().list_repo_files(repo_id) if name.endswith(".png")}
    card = ModelCard.load(repo_id).text
    assert {"selection.png", "comparison.png"} <= pictures
    assert all(f"]({name})" in card for name in pictures)
    soup.push_to_hub(repo_id, include_plots=False)
    assert not [name for name in HfApi().list_repo_files(repo_id) if name.endswith(".png")]
    assert ".png" not in ModelCard.load(repo_id).text


def test_a_benchmark_is_named_by_the_user_alone(hub, text_runs, tmp_path):
    """`benchmark` adds the test score to `.eval_results/`; without a test score or a task a DataError is raised."""
    repo_id, validation = f"{hub.user}/{tmp_path.name}", testing.tiny_texts(20)
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=validation)
    with pytest.raises(DataError, match="no test score"):
        soup.push_to_hub(repo_id, benchmark="nyu-mll/glue:sst2")
    soup.comparison = hf_soup.compare(soup, test=testing.tiny_texts(30, seed=1), validation=validation)
    with pytest.raises(DataError, match="form DATASET:TASK"):
        soup.push_to_hub(repo_id, benchmark="nyu-mll/glue")
    assert repo_id not in hub.store.repositories
    soup.push_to_hub(repo_id)
    assert not [name for name in HfApi().list_repo_files(repo_id) if "eval_results" in name]
    soup.push_to_hub(repo_id, benchmark="nyu-mll/glue:sst2")
    (entry,) = yaml.safe_load(Path(hf_hub_download(repo_id, ".eval_results/hf_soup--nyu-mll--glue.yaml")).read_text())
    row = next(row for row in soup.comparison.models if row.name == "greedy soup")
    assert entry["dataset"] == {"id": "nyu-mll/glue", "task_id": "sst2"}
    assert entry["value"] == pytest.approx(row.scores["test"]["accuracy"].value, abs=1e-6)


def test_a_push_of_a_sweep_points_to_its_repositories(hub, tmp_path, text_runs):
    """Ingredients that are pushed runs of a sweep are named by their repositories, unless their weights differ."""
    data = {"validation": testing.tiny_texts(20, seed=1), "training_args": {"max_steps": 2}}
    given = {"space": {"seed": [0, 1]}, "output_dir": tmp_path / tmp_path.name, **data}
    runs = hf_soup.sweep(text_runs[0], testing.tiny_texts(40), push_runs=True, **given)
    repo_id = f"{hub.user}/{tmp_path.name}-soup"
    soup = hf_soup.merge(runs)
    soup.push_to_hub(repo_id)
    ids = [f"{hub.user}/{tmp_path.name}-run-{seed}" for seed in (0, 1)]
    card = ModelCard.load(repo_id)
    assert card.data.base_model == ids
    assert hf_soup.verify(repo_id).table().startswith("verified: ")
    for name, run_id in zip(("run-0", "run-1"), ids, strict=True):
        run_card = ModelCard.load(run_id)
        assert f"the sweep “{tmp_path.name}”" in run_card.text.replace("\\", "")
        assert "generated_from_trainer" in run_card.data.tags
        assert f"{name} of the sweep" in run_card.text
        assert "seed: " in run_card.text
        assert str(tmp_path) not in "".join(texts(run_id).values())
    assert "start of the sweep" in ModelCard.load(f"{hub.user}/{tmp_path.name}-start").text
    pushed = (runs[1].folder / "pushed.json").read_text()
    (runs[1].folder / "pushed.json").write_text(pushed.replace("run-1", "run-0"))  # run-0 has other weights
    assert [item.source for item in _pushed(soup, f"{repo_id}-2").ingredients] == [ids[0], "elsewhere"]


def _pushed(soup, repo_id):
    soup.push_to_hub(repo_id)
    return hf_soup.load_recipe(repo_id)


def test_a_repository_of_something_else_is_not_overwritten_by_a_run(hub, tmp_path, text_runs):
    """If the repository of a run has other content, an OutputError is raised before any training."""
    put(hub, f"{tmp_path.name}-start", text_runs[1])
    with pytest.raises(OutputError, match=r"has something else than .* push_runs another prefix"):
        hf_soup.sweep(
            text_runs[0],
            testing.tiny_texts(40),
            space={"seed": [0]},
            output_dir=tmp_path / tmp_path.name,
            push_runs=True,
            validation=testing.tiny_texts(20, seed=1),
            training_args={"max_steps": 1},
        )
    assert not (tmp_path / tmp_path.name / "run-0").exists()


def test_what_an_older_soup_left_is_gone(hub, text_runs, image_runs, tmp_path):
    """A push deletes files of an earlier soup, such as its tokenizer, but no other files."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    hf_soup.merge(text_runs).push_to_hub(repo_id)
    HfApi().upload_file(repo_id=repo_id, path_or_fileobj=b"mine", path_in_repo="notes.txt")
    hf_soup.merge(image_runs).push_to_hub(repo_id)
    files = HfApi().list_repo_files(repo_id)
    assert "tokenizer.json" not in files
    assert {"notes.txt", "preprocessor_config.json"} <= set(files)


def _forge(soup, old, new):
    """Replace text in the recipe of a soup on the Hub."""
    text = Path(hf_hub_download(soup, "soup_recipe.yaml")).read_text()
    assert old in text
    forged = text.replace(old, new).encode()
    HfApi().upload_file(repo_id=soup, path_or_fileobj=forged, path_in_repo="soup_recipe.yaml")


@pytest.mark.parametrize("source", ["../../x", "/etc", "~", "models/prod", "run-0"])
def test_a_recipe_of_a_stranger_names_no_files_of_ours(hub, text_runs, tmp_path, monkeypatch, source):
    """A published recipe whose source is a path does not read local files, even if the path exists."""
    repo_id = f"{hub.user}/{tmp_path.name}"[:90]
    hf_soup.merge(text_runs).push_to_hub(repo_id)
    _forge(repo_id, "source: run-0", f"source: '{source}'")
    monkeypatch.chdir(tmp_path)
    for name in ("models/prod", "run-0"):
        shutil.copytree(text_runs[0], tmp_path / name)
    assert hf_soup.load_recipe(repo_id).ingredients[0].source == "elsewhere"
    with pytest.raises(IngredientError, match="'run-0' was a folder on the machine that published the soup"):
        hf_soup.cook(repo_id)
    assert hf_soup.lineage(repo_id).children[0].note == "a folder elsewhere"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: linear", "method: 'antigravity:f'", "which is code from elsewhere"),
        ("revision: ", "revision: 'x) [evil](javascript:alert(1)' #", "which is not a commit"),
        ("params: {}", "params: &a {}\nalignments: *a", "aliases"),
        ("params: {}", "params: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("hf_soup_recipe: 1", "hf_soup_recipe: true", "has recipe format True"),
    ],
)
def test_a_recipe_of_a_stranger_runs_nothing(hub, text_runs, tmp_path, old, new, message):
    """Code, invalid revisions and YAML bombs in a published recipe raise a RecipeError."""
    run = put(hub, f"{tmp_path.name}-run", text_runs[0])
    hf_soup.merge([run]).push_to_hub(f"{run}-soup")
    _forge(f"{run}-soup", old, new)
    for act in (hf_soup.load_recipe, hf_soup.verify, hf_soup.cook):
        with pytest.raises(RecipeError, match=message):
            act(f"{run}-soup")


def test_a_private_candidate_that_was_left_out_is_not_named(hub, text_runs, tmp_path):
    """A private candidate that was rejected is not named, even if it is a pushed run with a local folder."""
    folders = [shutil.copytree(run, tmp_path / f"mine-{index}") for index, run in enumerate(text_runs)]
    ids = [put(hub, f"{tmp_path.name}-mine-{i}", f, private=i == 2) for i, f in enumerate(folders)]
    for repo_id, folder in zip(ids, folders, strict=True):
        pushed = {"repo_id": repo_id, "revision": HfApi().model_info(repo_id).sha}
        (folder / "pushed.json").write_text(json.dumps(pushed))

    def score(model):
        return float(sum(p.detach().double().sum() for p in model.parameters()))

    soup = hf_soup.merge(folders, strategy="greedy", max_ingredients=1, evaluator=score)
    worst = next(item for item in soup.candidates if item.name == "mine-2")
    assert worst.name not in soup.recipe.names or pytest.skip("the private one is the best")
    with pytest.warns(UserWarning, match="mine-2 private"):
        soup.push_to_hub(f"{ids[0]}-soup")
    assert [name for name, text in texts(f"{ids[0]}-soup").items() if "mine-2" in text] == []


def test_redaction_hides_ids_wherever_they_are():
    """Redaction removes ids in paths, addresses, class references and sentences; keys of a comparison stay."""
    from hf_soup.comparison.comparison import Comparison, Difference, ModelScores
    from hf_soup.metrics.statistics import Interval
    from hf_soup.publishing.facts import License, gather_facts
    from hf_soup.publishing.redaction import Redaction

    private = [Ingredient("single", "acme/secret-bert/checkpoint-9", "c" * 40), Ingredient("test", "acme/x", "d" * 40)]
    open_ = [Ingredient("private-1", "me/open", "e" * 40)]
    redaction = Redaction(private, open_)
    assert sorted(redaction.aliases.values()) == ["private-2", "private-3"]
    content = b'{"a": "acme/secret-bert--tok.Tok", "b": "https://huggingface.co/acme/secret-bert/x", "c": "/d/acme/x"}'
    assert b"acme" not in redaction.file(content)
    assert "acme" not in redaction.text("see acme/secret-bert, acme/secret-bert/checkpoint-9, and acme/x.")
    scores = {part: {"accuracy": Interval(0.5)} for part in ("validation", "test")}
    models = tuple(
        ModelScores(name, role, scores, 1, 1) for name, role in (("single", "ingredient"), ("greedy soup", "soup"))
    )
    differences = {"greedy soup": {"test": {"single": Difference(0.1)}}}
    comparison = Comparison({"accuracy": True}, {"test": 9}, models, differences, "It beats single.", {"single": {}})
    hidden = redaction.comparison(comparison)
    assert hidden.models[0].name == "private-2"
    assert hidden.summary == "It beats private-2."
    assert hidden.differences == differences
    assert hidden.sizes == {"test": 9}
    assert "single" not in hidden.curves
    link = {
        "license": "other",
        "license_name": "own",
        "license_link": "https://huggingface.co/acme/secret-bert/LICENSE",
    }
    assert gather_facts({"a": link}, hidden=True).license == License("other", "own")


def test_an_empty_redaction_changes_nothing(text_runs):
    """An empty redaction leaves recipes, comparisons, files and sentences unchanged."""
    from hf_soup.comparison.comparison import Comparison, ModelScores
    from hf_soup.metrics.statistics import Interval
    from hf_soup.publishing.redaction import Redaction

    redaction = Redaction()
    recipe = hf_soup.merge(text_runs, strategy="greedy", evaluator=testing.tiny_texts(20)).recipe
    models = (ModelScores("run-0", "ingredient", {"test": {"accuracy": Interval(0.5)}}, 1, 1),)
    comparison = Comparison({"accuracy": True}, {"test": 9}, models, {}, "It is run-0.", {"run-0": {}})
    assert redaction.is_empty
    assert redaction.recipe(recipe) == recipe
    assert redaction.comparison(comparison) == comparison
    assert redaction.file(b"a/b") == b"a/b"
    assert redaction.text("a/b, and more") == "a/b, and more"
    assert redaction.base("a/b") == "a/b"


def test_a_licence_can_be_set(hub, text_runs, tmp_path):
    """`license=` overrides the licences of the ingredients, and metadata that the Hub would refuse is omitted."""
    odd = "---\nlicense: MIT\nlanguage: English\ndatasets: ['my data / x']\n---\n"
    ids = [put(hub, f"{tmp_path.name}-{i}", text_runs[i]) for i in range(2)]
    for repo_id in ids:
        files = hub.store.repositories[repo_id].resolve("main").files
        files["README.md"] = type(files["config.json"])(odd.encode())
    hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup")
    data = ModelCard.load(f"{ids[0]}-soup").data
    assert (data.license, data.language, data.datasets) == ("mit", None, None)
    hf_soup.merge(ids).push_to_hub(f"{ids[0]}-soup", license="apache-2.0")
    assert ModelCard.load(f"{ids[0]}-soup").data.license == "apache-2.0"


def test_a_score_of_an_older_soup_is_gone(hub, text_runs, tmp_path):
    """A push without a benchmark deletes the leaderboard file of an earlier soup."""
    repo_id, validation = f"{hub.user}/{tmp_path.name}", testing.tiny_texts(20)
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=validation)
    soup.comparison = hf_soup.compare(soup, test=testing.tiny_texts(30, seed=1), validation=validation)
    soup.push_to_hub(repo_id, benchmark="nyu-mll/glue:sst2")
    hf_soup.merge(text_runs).push_to_hub(repo_id)
    assert not [name for name in HfApi().list_repo_files(repo_id) if "eval_results" in name]


def test_a_pull_request_is_against_main(hub, text_runs, tmp_path):
    """`create_pr=True` with a revision raises an OutputError before a repository is created."""
    with pytest.raises(OutputError, match="either create_pr=True or a revision"):
        hf_soup.merge(text_runs).push_to_hub(f"{hub.user}/{tmp_path.name}", create_pr=True, revision="dev")
    assert f"{hub.user}/{tmp_path.name}" not in hub.store.repositories


def test_runs_of_a_private_base_are_private(hub, text_runs, tmp_path):
    """Pushed runs of a private base model, which their cards name, are private unless `private=False`."""
    base = put(hub, f"{tmp_path.name}-base", text_runs[0], private=True)
    given = {"space": {"seed": [0]}, "push_runs": True, "training_args": {"max_steps": 1}}
    given["validation"] = testing.tiny_texts(20, seed=1)
    with pytest.warns(UserWarning, match="is private, so the runs are private too"):
        hf_soup.sweep(base, testing.tiny_texts(40), output_dir=tmp_path / f"{tmp_path.name}-a", **given)
    assert HfApi().model_info(f"{hub.user}/{tmp_path.name}-a-run-0").private
    with pytest.warns(UserWarning, match="which are public, name it"):
        hf_soup.sweep(base, testing.tiny_texts(40), output_dir=tmp_path / f"{tmp_path.name}-b", private=False, **given)
    assert not HfApi().model_info(f"{hub.user}/{tmp_path.name}-b-run-0").private


def test_an_analysis_goes_with_the_card(hub, text_runs, tmp_path):
    """An analysis is pushed with the card, deleted by a push without one, and omitted if it names private models."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    soup = hf_soup.merge(text_runs)
    soup.analysis = hf_soup.analyze(text_runs)
    soup.push_to_hub(repo_id)
    files = set(HfApi().list_repo_files(repo_id))
    assert {"analysis.md", "analysis.json", "similarity-runs.png"} <= files
    assert "index.html" not in files
    assert soup.analysis.findings[0].split(":")[0] in ModelCard.load(repo_id).text
    hf_soup.merge(text_runs).push_to_hub(repo_id)
    files = set(HfApi().list_repo_files(repo_id))
    assert not [name for name in files if name.startswith(("analysis", "similarity"))]
    hidden = put(hub, f"{tmp_path.name}-secret", text_runs[0], private=True)
    secret = hf_soup.merge([hidden, text_runs[1]])
    secret.analysis = hf_soup.analyze([hidden, text_runs[1]])
    with pytest.warns(UserWarning, match="is not named"):
        secret.push_to_hub(f"{repo_id}-2")
    assert "analysis.md" not in HfApi().list_repo_files(f"{repo_id}-2")
