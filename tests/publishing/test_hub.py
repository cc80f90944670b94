"""Ingredients from the Hub and soups pushed to it, with the real client and a local server."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import HfApi, create_repo, upload_folder
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import EvaluationError, IncompatibleError, IngredientError, OutputError, RecipeError


@pytest.fixture
def published(hub, text_runs, tmp_path):
    """Two runs on the Hub with ids of this test; a tag of the second keeps its weights, which main has replaced."""
    ids = [f"{hub.user}/{tmp_path.name}-{index}" for index in range(2)]
    for repo_id, run in zip(ids, text_runs[:2], strict=True):
        create_repo(repo_id)
        upload_folder(repo_id=repo_id, folder_path=run)
    HfApi().create_tag(ids[1], tag="v1")
    upload_folder(repo_id=ids[1], folder_path=text_runs[2])
    return ids


def whole_downloads(exchanges):
    """The weight files that the CDN served completely."""
    return [e for e in exchanges if (e.origin, e.method, e.range) == ("cdn", "GET", None) and e.sent > 50_000]


def test_hub_ids_give_the_soup_of_the_folders(tmp_path, hub, published, text_runs):
    """A merge of `user/run` and `user/run@tag` equals that of the pushed folders, and records commits and digests."""
    soup = hf_soup.merge([published[0], f"{published[1]}@v1"])
    folder = soup.save_pretrained(tmp_path / "soup")
    local = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "local")
    assert (folder / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    assert (folder / "tokenizer.json").is_file()
    for item, repo_id in zip(hf_soup.load_recipe(folder).ingredients, published, strict=True):
        assert item.source == repo_id
        assert len(item.revision) == 40
        assert item.files["model.safetensors"].startswith("sha256:")


def test_weights_are_fetched_when_they_are_needed(hub, published, text_runs, tmp_path):
    """Checks and merges read headers by range requests, and weights are downloaded only when they are needed."""
    for index, repo_id in enumerate(published):  # content that no other test has put into the cache
        state = testing.tiny_text_model(100 + index)
        upload_folder(repo_id=repo_id, folder_path=testing.save_text_model(state, tmp_path / str(index)))
    before = len(hub.log)
    hf_soup.check(published)
    soup = hf_soup.merge(published)
    with pytest.raises(RecipeError):
        hf_soup.merge(published, weights={"": [1, 1], "no_such_module": [1, 0]})
    assert whole_downloads(hub.log[before:]) == []
    soup.model  # noqa: B018
    assert len(whole_downloads(hub.log[before:])) == 2


def test_integer_buffers_of_the_hub_are_compared_when_they_are_here(hub, bros_runs, tmp_path):
    """Integer buffers that differ raise an error when they are read, because the check has only read headers."""
    ids = []
    for index in range(2):
        folder = shutil.copytree(bros_runs[index], tmp_path / f"run-{index}")
        tensors, buffer = load_file(folder / "model.safetensors"), "bros.embeddings.position_ids"
        tensors[buffer] = tensors[buffer] + index
        save_file(tensors, folder / "model.safetensors")
        ids.append(f"{hub.user}/buffers-{index}")
        create_repo(ids[-1])
        upload_folder(repo_id=ids[-1], folder_path=folder)
    soup = hf_soup.merge(ids)
    with pytest.raises(IncompatibleError, match=r"the int64 buffer .*position_ids differs"):
        soup.save_pretrained(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


@pytest.fixture
def nested(hub, text_runs, tmp_path):
    """A repository with two runs in subfolders, the second in shards, and a tag at which only the first exists."""
    repo_id = f"{hub.user}/{tmp_path.name}-nested"
    create_repo(repo_id)
    upload_folder(repo_id=repo_id, folder_path=text_runs[0], path_in_repo="runs/a")
    HfApi().create_tag(repo_id, tag="first")
    shards = shutil.copytree(text_runs[1], tmp_path / "shards")
    (shards / "model.safetensors").unlink()
    transformers.AutoModelForSequenceClassification.from_pretrained(text_runs[1]).save_pretrained(
        shards, max_shard_size="30KB"
    )
    upload_folder(repo_id=repo_id, folder_path=shards, path_in_repo="runs/b")
    return repo_id


def test_subfolders_of_a_repository(tmp_path, nested, text_runs):
    """Subfolders of a repository can be merged, with tags and shards, and the recipe can be rebuilt, even offline."""
    soup = hf_soup.merge([f"{nested}/runs/a@first", f"{nested}/runs/b"])
    folder = soup.save_pretrained(tmp_path / "soup")
    local = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "local")
    assert (folder / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    assert (folder / "tokenizer.json").is_file()
    first, second = hf_soup.load_recipe(folder).ingredients
    assert (first.name, first.source) == ("a", f"{nested}/runs/a")
    assert first.revision != second.revision
    assert len(second.files) > 1
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    card = (folder / "README.md").read_text()
    assert f"- {nested}\n" in card.split("---")[1]  # the Hub lists repositories, not folders in them
    with pytest.raises(IngredientError, match="runs/b does not exist at first"):
        hf_soup.merge([f"{nested}/runs/b@first"])
    code = "import sys, hf_soup; hf_soup.cook(sys.argv[1], output_dir=sys.argv[2])"
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "offline")]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert (tmp_path / "offline" / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_a_trainers_repository_is_its_best_or_last_checkpoint(tmp_path, hub, text_runs):
    """A repository with only Trainer checkpoints is resolved to the best or last one, also offline."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    create_repo(repo_id)
    for step, run in zip((2, 10), text_runs[:2], strict=True):
        upload_folder(repo_id=repo_id, folder_path=run, path_in_repo=f"checkpoint-{step}")
    last = hf_soup.check([repo_id])
    assert f"{tmp_path.name} is checkpoint-10, the last one" in last.notes
    state = {"best_model_checkpoint": "elsewhere/out/checkpoint-2", "best_metric": 0.9}
    HfApi().upload_file(
        repo_id=repo_id, path_in_repo="checkpoint-10/trainer_state.json", path_or_fileobj=json.dumps(state).encode()
    )
    soup = hf_soup.merge([repo_id, text_runs[1]])
    (best, _) = soup.recipe.ingredients
    assert (best.name, best.source) == (tmp_path.name, f"{repo_id}/checkpoint-2")
    assert f"{tmp_path.name} is checkpoint-2, the best one (metric 0.9)" in hf_soup.check([repo_id]).notes
    folder = soup.save_pretrained(tmp_path / "soup")
    local = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "local")
    assert (folder / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    code = "import sys, hf_soup; hf_soup.cook(sys.argv[1]); print(*hf_soup.check([sys.argv[2]]).notes)"
    command = [sys.executable, "-c", code, str(folder), repo_id]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert "is checkpoint-2, the best one" in done.stdout


def test_pickles_on_the_hub(tmp_path, hub, text_runs):
    """A repository with only pickles is refused, or read with `allow_pickle=True` and recorded with its digest."""
    folder = shutil.copytree(text_runs[0], tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    repo_id = f"{hub.user}/{tmp_path.name}-old"
    create_repo(repo_id)
    upload_folder(repo_id=repo_id, folder_path=folder)
    before = len(hub.log)
    with pytest.raises(IngredientError, match=r"a pickle.*allow_pickle=True"):
        hf_soup.merge([repo_id, text_runs[1]])
    assert whole_downloads(hub.log[before:]) == []
    soup = hf_soup.merge([hf_soup.load_ingredient(repo_id, allow_pickle=True), text_runs[1]]).save_pretrained(
        tmp_path / "soup"
    )
    local = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "local")
    assert (soup / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    assert hf_soup.load_recipe(soup).ingredients[0].files["pytorch_model.bin"].startswith("sha256:")
    again = hf_soup.cook(soup, output_dir=tmp_path / "again", allow_pickle=True).folder
    assert (again / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "header",
    [
        b"[1]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": ["ab", 10000000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": 4}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"1" * 5000 + b'], "data_offsets": [0, 4]}}',
        b"[" * 90_000,
        b"{}",
    ],
)
def test_a_hostile_repository(hub, text_runs, tmp_path, header):
    """A malicious safetensors header on the Hub raises an IngredientError."""
    folder = shutil.copytree(text_runs[0], tmp_path / "run")
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    repo_id = f"{hub.user}/{tmp_path.name}"[:90]
    create_repo(repo_id, exist_ok=True)
    upload_folder(repo_id=repo_id, folder_path=folder)
    with pytest.raises(IngredientError):
        hf_soup.check([repo_id])


def test_a_long_header_on_the_hub(hub, text_runs, tmp_path):
    """A header longer than the first request is read with a second one."""
    folder = shutil.copytree(text_runs[0], tmp_path / "run")
    state = {f"{'x' * 900}.{index}": torch.zeros(2) for index in range(200)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    repo_id = f"{hub.user}/{tmp_path.name}-long"
    create_repo(repo_id)
    upload_folder(repo_id=repo_id, folder_path=folder)
    assert hf_soup.check([repo_id, repo_id]).tensors == 200


def test_a_deep_check_fetches(hub, published):
    """A deep check of repositories downloads their weights and compares them."""
    relation = hf_soup.check(published, deep=True).relation
    assert abs(relation.body) < 0.2


def test_without_network_the_cache_is_enough(tmp_path, published):
    """Ingredients in the cache are merged offline to the same bytes and with the same commits."""
    folder = hf_soup.merge(published).save_pretrained(tmp_path / "soup")
    code = "import sys, hf_soup; hf_soup.merge(sys.argv[2:]).save_pretrained(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "offline"), *published]
    subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}, check=True)
    assert (tmp_path / "offline" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    one, two = hf_soup.load_recipe(folder), hf_soup.load_recipe(tmp_path / "offline")
    assert one.ingredients == two.ingredients


def test_a_recipe_of_the_hub_cooks_again(tmp_path, published):
    """A recipe pins commits, so a later commit to an ingredient does not change the rebuilt soup."""
    folder = hf_soup.merge(published).save_pretrained(tmp_path / "soup")
    HfApi().upload_file(repo_id=published[0], path_or_fileobj=b"new", path_in_repo="notes.txt")
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{user}/nothing-here", "neither a folder here nor a model on the Hub"),
        ("{run}@v9", "has no revision 'v9'"),
        ("a/b/c", "neither a folder here nor a model on the Hub"),
        ("{run}/no/folder", "/no/folder does not exist at main"),
        ("{run}/../x", "does not exist, and is not a Hub id"),
        ("./nowhere", "does not exist"),
    ],
)
def test_what_is_not_there_is_said(hub, published, name, message):
    """Missing repositories, revisions and folders raise different IngredientErrors."""
    with pytest.raises(IngredientError, match=message):
        hf_soup.merge([name.format(user=hub.user, run=published[0])])


def test_a_soup_on_the_hub_is_compared_by_its_recipe(hub, published):
    """A soup on the Hub is compared with its ingredients; data used for its selection is refused as a test set."""
    repo_id, validation = f"{published[0]}-soup", testing.tiny_texts(20)
    soup = hf_soup.merge(published, strategy="greedy", evaluator=validation)
    soup.push_to_hub(repo_id)
    found = hf_soup.compare({"pushed": repo_id}, test=testing.tiny_texts(20, seed=1))
    single = [row.name for row in found.models if row.role in ("ingredient", "chosen")]
    assert sorted(single) == sorted(soup.recipe.names)
    with pytest.raises(EvaluationError, match="used for selection"):
        hf_soup.compare({"pushed": repo_id}, test=validation)


def test_push_is_one_commit_without_paths(tmp_path, hub, text_runs):
    """A pushed soup loads by its id, is a single commit and contains no local paths or tokens."""
    repo_id = f"{hub.user}/pushed-soup"
    testing.tiny_texts(20).to_csv(tmp_path / "validation.csv")
    evaluator = hf_soup.Evaluator(str(tmp_path))
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=evaluator)
    soup.push_to_hub(repo_id, private=True, commit_message="First soup")
    titles = [commit.title for commit in hub.store.repositories[repo_id].commits.values()]
    assert titles.count("First soup") == 1
    assert len(titles) == 2  # the other is the initial commit of the repository
    files = HfApi().list_repo_files(repo_id)
    assert {"model.safetensors", "config.json", "soup_recipe.yaml", "README.md", "tokenizer.json"} <= set(files)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(repo_id)
    reference = soup.model.state_dict()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in model.state_dict().items())
    for name in ("soup_recipe.yaml", "README.md"):
        text = Path(HfApi().hf_hub_download(repo_id, name)).read_text()
        assert str(text_runs[0].parent) not in text
        assert str(tmp_path.parent) not in text
        assert hub.token not in text


def test_a_soup_of_soups_from_the_hub(tmp_path, hub, text_runs):
    """A pushed soup can be an ingredient of another soup."""
    repo_id = f"{hub.user}/inner-soup"
    hf_soup.merge(text_runs[:2]).push_to_hub(repo_id)
    folder = hf_soup.merge([repo_id, text_runs[2]], weights=[2, 1]).save_pretrained(tmp_path / "soup")
    direct = hf_soup.merge(text_runs).save_pretrained(tmp_path / "direct")
    one, two = (load_file(path / "model.safetensors") for path in (folder, direct))
    assert all(torch.allclose(one[name], two[name], atol=1e-7) for name in one)


def test_a_second_push_leaves_nothing_of_the_first(hub, text_runs):
    """Shards replace the single weight file of an earlier push, which transformers would load otherwise."""
    repo_id = f"{hub.user}/twice"
    hf_soup.merge(text_runs).push_to_hub(repo_id)
    hf_soup.merge(text_runs[:2]).push_to_hub(repo_id, max_shard_size="20KB")
    files = HfApi().list_repo_files(repo_id)
    assert "model.safetensors" not in files
    assert "model.safetensors.index.json" in files
    model = transformers.AutoModelForSequenceClassification.from_pretrained(repo_id)
    reference = hf_soup.merge(text_runs[:2]).model.state_dict()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in model.state_dict().items())
    assert hf_soup.merge([repo_id]).model  # shards can be merged like a single file


def test_a_reference_without_revision_is_pinned(tmp_path, published):
    """An `Ingredient`, or a hand-written recipe, with a Hub id but no revision is pinned to a commit."""
    soup = hf_soup.merge([hf_soup.Ingredient("one", published[0]), hf_soup.Ingredient("two", published[1])])
    assert soup.recipe.names == ("one", "two")
    assert all(len(item.revision) == 40 for item in soup.recipe.ingredients)
    text = "hf_soup_recipe: 1\nweights: [1, 1]\ningredients:\n" + "".join(
        f"- {{name: {name}, source: {repo_id}}}\n" for name, repo_id in zip(("one", "two"), published, strict=True)
    )
    (tmp_path / "soup_recipe.yaml").write_text(text)
    cooked = hf_soup.cook(tmp_path / "soup_recipe.yaml", output_dir=tmp_path / "cooked").folder
    reference = soup.save_pretrained(tmp_path / "soup")
    assert (cooked / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()


def test_a_hub_that_does_not_answer_is_told(tmp_path, text_runs):
    """An unreachable Hub raises an IngredientError for a merge and an OutputError for a push."""
    code = """
import sys, hf_soup
for act in (lambda: hf_soup.merge(["nobody/model"]), lambda: hf_soup.merge(sys.argv[1:]).push_to_hub("nobody/model")):
    try:
        act()
    except hf_soup.SoupError as error:
        print(type(error).__name__)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, *map(str, text_runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["IngredientError", "OutputError"]


def test_a_push_without_rights_is_told(hub, text_runs):
    """A push without permission raises an OutputError that suggests logging in."""
    with pytest.raises(OutputError, match="hf auth login"):
        hf_soup.merge(text_runs).push_to_hub(f"{hub.user}/x", token="hf_wrong")


def test_card_metadata_names_the_ingredients(tmp_path, published):
    """The metadata of a card follows the conventions for merged models and lists the ingredients' ids."""
    from huggingface_hub import ModelCard

    folder = hf_soup.merge(published).save_pretrained(tmp_path / "soup")
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    assert data["base_model"] == published
    assert data["base_model_relation"] == "merge"
    assert set(data["tags"]) >= {"merge", "model-soup", "hf_soup"}
    assert json.dumps(data)


def test_many_runs_are_asked_for_once_and_fetched_below_one_bar(hub, tmp_path, capfd):
    """Each revision is resolved once, no file is fetched twice or needlessly, and one bar shows all weights."""
    ids = []
    for seed in range(6):
        folder = testing.save_text_model(testing.tiny_text_model(300 + seed), tmp_path / f"run-{seed}")
        torch.save({}, folder / "training_args.bin")
        (folder / "trainer_state.json").write_text("{}")
        ids.append(f"{hub.user}/{tmp_path.name}-{seed}")
        create_repo(ids[-1])
        upload_folder(repo_id=ids[-1], folder_path=folder)
    capfd.readouterr()
    before = len(hub.log)
    soup = hf_soup.merge(ids)
    soup.save_pretrained(tmp_path / "soup")
    log = hub.log[before:]
    resolved = [line.path for line in log if re.fullmatch(r"/api/models/[^/]+/[^/]+(/revision/main)?", line.path)]
    assert sorted(path.split("/")[4] for path in resolved) == [repo_id.split("/")[1] for repo_id in ids]
    files = [line for line in log if "/resolve/" in line.path or line.origin == "cdn"]
    fetched = [line.path for line in files if line.method == "GET" and line.range is None and line.status == 200]
    assert len(fetched) > 20
    assert len(fetched) == len(set(fetched))
    assert not [path for path in fetched if "trainer_state" in path or "training_args" in path]
    assert len(whole_downloads(log)) == 6
    shown = capfd.readouterr().err.replace("\r", "\n").split("\n")
    assert {line.split(":")[0] for line in shown if ":" in line} <= {"Fetching weights", "Merging"}


def test_a_repository_that_cannot_be_averaged_costs_no_weights(hub, tmp_path, text_runs, image_runs):
    """Repositories that cannot be averaged are rejected before any weights are downloaded."""
    ids = [f"{hub.user}/{tmp_path.name}-{index}" for index in range(2)]
    for repo_id, folder in zip(ids, (text_runs[0], image_runs[0]), strict=True):
        create_repo(repo_id)
        upload_folder(repo_id=repo_id, folder_path=folder)
    before = len(hub.log)
    with pytest.raises(IncompatibleError, match="ViTForImageClassification"):
        hf_soup.merge(ids)
    assert whole_downloads(hub.log[before:]) == []
