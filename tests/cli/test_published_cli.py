"""Tests of commands for published soups, of `hf soup`, and that no token is written or printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import run
from hub import environment
from huggingface_hub import HfApi

import hf_soup
from hf_soup import testing


BIN = Path(sys.executable).parent


def process(*args, **variables):
    """Run an installed command."""
    environ = {**os.environ, **variables}
    command = [BIN / args[0], *map(str, args[1:])]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


@pytest.fixture(scope="module")
def runs(hub, text_runs, tmp_path_factory):
    """Three runs on the Hub."""
    ids = [f"{hub.user}/cli-run-{index}" for index in range(3)]
    for repo_id, folder in zip(ids, text_runs, strict=True):
        HfApi().create_repo(repo_id)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    return ids


@pytest.fixture(scope="module")
def soup(hub, runs):
    """The soup of these runs on the Hub."""
    hf_soup.merge(runs).push_to_hub(f"{hub.user}/cli-soup")
    return f"{hub.user}/cli-soup"


def test_verify_card_and_tree(hub, runs, soup, tmp_path):
    """`verify` exits with 0 for a correct soup and 1 for a changed one; `card` and `lineage` print card and tree."""
    good = run("verify", soup)
    assert (good.returncode, good.stdout) == (0, "verified: 41 tensors identical\n"), good.stderr
    card = run("card", soup)
    assert card.returncode == 0, card.stderr
    assert "# Model soup of 3 BertForSequenceClassification models" in card.stdout
    assert "It was not evaluated." in card.stdout
    assert f"hf-soup verify {soup}" in card.stdout
    lineage = run("lineage", soup, "--json")
    assert [child["name"] for child in json.loads(lineage.stdout)["children"]] == runs
    HfApi().create_repo(f"{soup}-bad")
    HfApi().upload_folder(repo_id=f"{soup}-bad", folder_path=_other(soup, tmp_path))
    bad = run("verify", f"{soup}-bad", "--json")
    answer = json.loads(bad.stdout)
    assert bad.returncode == 1
    assert answer["ok"] is False
    assert {item["name"] for item in answer["different"]} >= {"classifier.weight"}
    absent = run("verify", f"{hub.user}/cli-soop")
    assert absent.returncode == 1
    assert f"did you mean {soup}" in absent.stderr
    assert "Traceback" not in absent.stderr
    no_card = run("card", runs[0])
    assert no_card.returncode == 1
    assert "has no model card" in no_card.stderr


def _other(soup, folder):
    """A folder with the recipe of a soup and other weights."""
    hf_soup.merge([testing.tiny_text_model(9)]).save_pretrained(folder / "other")
    recipe = HfApi().hf_hub_download(soup, "soup_recipe.yaml")
    (folder / "other" / "soup_recipe.yaml").write_text(Path(recipe).read_text())
    return folder / "other"


def test_cook_with_changes(runs, soup, tmp_path):
    """`--set`, `--add` and `--drop` change what is cooked, and `cook` of a soup without `-o` is a wrong call."""
    done = run(
        *("cook", soup, "--set", "strategy=uniform", "--drop", runs[1], "--add", runs[1]),
        *("-o", tmp_path / "other", "-q"),
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "other"
    assert [item.source for item in hf_soup.load_recipe(tmp_path / "other").ingredients] == [*runs[::2], runs[1]]
    assert run("cook", soup).returncode == 2


def test_hf_soup_is_a_command_of_hf(runs, tmp_path):
    """After `install-extension`, `hf soup` runs commands and passes on exit codes; `--remove` uninstalls it."""
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    assert process("hf", "soup", "--version", **home).returncode != 0
    done = process("hf-soup", "install-extension", **home)
    assert done.returncode == 0, done.stderr
    listed = process("hf", "extensions", "list", **home)
    assert "soup" in listed.stdout
    merged = process("hf", "soup", "merge", *runs, "-o", tmp_path / "soup", "-q", **home)
    assert merged.returncode == 0, merged.stderr
    assert Path(merged.stdout.strip()) == tmp_path / "soup"
    assert process("hf", "soup", "merge", "nobody/nothing", "-o", tmp_path / "x", **home).returncode == 1
    assert process("hf", "soup", "merge", **home).returncode == 2
    assert "is gone" in process("hf-soup", "install-extension", "--remove", **home).stdout
    assert process("hf", "soup", "--version", **home).returncode != 0
    assert "nothing to remove" in process("hf-soup", "install-extension", "--remove", **home).stdout
    assert not (tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-soup").exists()


SCRIPT = """
import logging, sys, warnings
logging.basicConfig(level=logging.DEBUG)
import datasets, hf_soup
from hf_soup import testing
user, base, folder, token = sys.argv[1:]
data = {"validation": testing.tiny_texts(12, seed=1), "training_args": {"max_steps": 1}}
data |= {"space": {"seed": [0, 1]}, "output_dir": f"{folder}/kept", "push_runs": True}
runs = hf_soup.sweep(base, testing.tiny_texts(20), **data)
for given in ({}, {"token": token}):
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=testing.tiny_texts(12))
    soup.comparison = hf_soup.compare(soup, test=testing.tiny_texts(12, seed=2), validation=testing.tiny_texts(12))
    soup.push_to_hub(f"{user}/kept-soup", **given)
soup.save_pretrained(f"{folder}/saved")
print(hf_soup.verify(f"{user}/kept-soup").table(), hf_soup.lineage(f"{user}/kept-soup").table())
acts = [lambda: soup.push_to_hub("other/x"), lambda: hf_soup.merge(["other/x"])]
acts += [lambda: soup.push_to_hub(f"{user}/y", token="hf_wrongsecret")]
for act in acts:
    try:
        act()
    except hf_soup.SoupError as error:
        print(error)
"""


def test_no_token_is_written_or_printed(hub, tmp_path, text_runs):
    """Tokens, from the environment or given, are in no file of the run, the caches or the Hub, and not in the
    output at the most verbose level."""
    home = tmp_path / "home"
    variables = {**environment(hub, home), "HF_HUB_VERBOSITY": "debug"}
    command = [sys.executable, "-c", SCRIPT, hub.user, str(text_runs[0]), str(tmp_path), hub.token]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **variables, "HF_DEBUG": "0"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "verified: 41 tensors identical" in done.stdout
    secrets = (hub.token, "hf_wrongsecret")
    assert not [secret for secret in secrets if secret in done.stdout or secret in done.stderr]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(written) > 30
    leaks = [path for path in written for secret in secrets if secret.encode() in path.read_bytes()]
    assert leaks == []
    kept = hub.store.repositories.items()
    published = [(name, path) for name, repo in kept for path in repo.resolve("main").files if "kept" in name]
    assert len(published) > 20
    for name, path in published:
        content = hub.store.repositories[name].resolve("main").files[path].content
        assert not any(secret.encode() in content for secret in secrets), (name, path)
