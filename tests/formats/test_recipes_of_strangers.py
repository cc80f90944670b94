"""Malicious or nonsensical recipes raise one clear error, or are read and shown as plain text."""

import contextlib
import time

import pytest
import yaml
from command import run

import hf_soup
from hf_soup import testing
from hf_soup.errors import OutputError, RecipeError
from hf_soup.formats.records import read_selection
from hf_soup.publishing import lineage as family


ITEM = {"name": "a", "source": "a"}
ESCAPES = "\x1b[31m\x1b]0;title\x07 <img src=x onerror=alert(1)> $$x$$ \u202e"


@pytest.fixture(scope="module")
def made(text_runs, tmp_path_factory):
    """A soup of two runs."""
    return hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path_factory.mktemp("strangers") / "soup")


@contextlib.contextmanager
def forged(folder, change):
    """Change values of a soup's recipe within the block."""
    path = folder / "soup_recipe.yaml"
    text = path.read_text()
    path.write_text(yaml.safe_dump({**yaml.safe_load(text), **change}))
    try:
        yield folder
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        {"ingredients": [{"name": "a\nb", "source": "a"}]},
        {"ingredients": [{"name": "\x1b[31m", "source": "a"}]},
        {"ingredients": [{"name": "a", "source": "a\0b"}]},
        {"ingredients": [{"name": "x" * 400, "source": "a"}]},
        {"ingredients": [{"name": "a", "source": "x" * 5000}]},
        {"ingredients": [{**ITEM, "files": {"../../etc/passwd": "sha256:0"}}]},
        {"ingredients": [{**ITEM, "files": {"/etc/passwd": "sha256:0"}}]},
        {"ingredients": [{**ITEM, "files": {"a//b": "sha256:0"}}]},
        {"ingredients": [{**ITEM, "files": {"a": "sha256:\x1b"}}]},
        {"ingredients": {"a": 1}},
        {"weights": [float("nan"), 1]},
        {"weights": [float("inf"), 1]},
        {"weights": {"": [1, 1], "x": "11"}},
        {"batchnorm": {"file": "../x.safetensors"}},
        {"batchnorm": {"dataset": [1]}},
        {"selection": {"dataset": "x"}},
        {"selection": {"dataset": {"fingerprint": [1]}}},
        {"selection": {"dataset": {"path": {"a": 1}}}},
        {"seed": 1e400},
        {"versions": [1]},
        {"hf_soup_recipe": "x" * 5000},
        {"hf_soup_recipe": [1]},
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(made, change):
    """Control characters, paths outside an ingredient and values of wrong types raise a short RecipeError."""
    with forged(made, change), pytest.raises(RecipeError) as caught:
        hf_soup.load_recipe(made)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "change",
    [
        {"method": "no_such"},
        {"method": "../../x"},
        {"params": {"normalize": "x"}},
        {"params": {"no": 1}},
        {"method": "ties", "params": {"density": "x"}},
        {"method": "ties", "params": {"density": float("nan")}},
        {"method": "ties", "params": {"election": [1]}},
        {"dtype": "x" * 5000},
        {"dtype": "__class__"},
        {"weights": [1e308, 1e308]},
        {"weights": [5e-324, 5e-324]},
        {"weights": [1e-320, 0]},
        {"weights": [1, -1]},
        {"take_from": "x" * 5000},
        {"alignments": {"run-0": [1, 0, 2, 3, 4, 5, 6]}},
        {"batchnorm": {"x": 1}},
    ],
)
def test_a_recipe_that_cannot_be_cooked_is_told(made, change, tmp_path):
    """`cook` raises a short error for a recipe that cannot be merged, and `verify` reports a problem or an error."""
    with forged(made, change):
        with pytest.raises(hf_soup.SoupError) as caught:
            hf_soup.cook(made, output_dir=tmp_path / "again")
        assert len(str(caught.value)) < 3000
        with contextlib.suppress(hf_soup.SoupError):
            assert not hf_soup.verify(made).ok
        assert run("verify", made).returncode == 1


def test_what_a_recipe_says_stays_text(made):
    """Control characters and markup in displayed values do not reach the terminal and do not break any function."""
    trial = {"tried": ESCAPES, "kept": True, "why": ESCAPES, "score": 0.5, "ingredient": ESCAPES}
    folds = {"k": ESCAPES, "mean": [1], "optimism": 2}
    selection = {"strategy": ESCAPES, "metric": ESCAPES, "why": ESCAPES, "trials": [trial, 7], "folds": folds}
    selection |= {
        "reference": {ESCAPES: 0.5, "b": "c"},
        "score": 0.5,
        "holdout": {"rows": [1], "score": 1, "optimism": 2},
    }
    with forged(made, {"selection": selection, "versions": {ESCAPES: ESCAPES}}):
        soup = hf_soup.cook(made).soup
        assert "\x1b" not in soup.selection.table().split("\n")[2]
        assert soup.selection.plot().get_axes()
        for command in (["plan", made], ["verify", made], ["lineage", made], ["lineage", made, "--json"]):
            result = run(*command)
            assert result.returncode == 0
            assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout + result.stderr)
        assert hf_soup.compare(made, test=testing.tiny_texts(6)).table()


@pytest.mark.parametrize(
    "found", [{"folds": {"k": 2, "mean": "x", "optimism": 1}}, {"holdout": {"rows": 1, "score": [1]}}]
)
def test_summary_of_nonsense(found):
    """The summary of a selection leaves out values that are not numbers."""
    selection = read_selection({"strategy": "greedy", "score": 0.5, **found})
    assert selection.summary == "score 0.5000 on validation."


def chain(folder, name, members):
    """Write a recipe of a soup whose ingredients are other folders."""
    (folder / name).mkdir()
    ingredients = [{"name": f"{name}-{place}", "source": f"../{member}"} for place, member in enumerate(members)]
    recipe = {"hf_soup_recipe": 1, "ingredients": ingredients, "weights": [1] * len(members)}
    (folder / name / "soup_recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_a_tree_tells_each_model_once(tmp_path):
    """A tree in which every model has ten ingredients lists each name once, within seconds."""
    for level in range(12):
        for place in range(10):
            chain(tmp_path, f"l{level}-{place}", [f"l{level + 1}-{other}" for other in range(10)])
    start = time.process_time()
    found = hf_soup.lineage(tmp_path / "l0-0")
    lines = found.table().split("\n")
    assert len(lines) < 1500
    assert lines[1].startswith("├── l0-0-0  weight 1  soup  uniform soup, linear")
    assert "see above" in found.table()
    assert len(str(found.to_dict())) < 500_000
    assert time.process_time() - start < 5


def test_a_tree_ends(tmp_path, monkeypatch):
    """A tree ends at cycles, and at its limits of depth and number of models."""
    chain(tmp_path, "odd", ["../<img src=x>", "x" * 300])
    assert {child.note for child in hf_soup.lineage(tmp_path / "odd").children} == {
        "cannot be read: the folder does not exist"
    }
    path = tmp_path / "odd" / "soup_recipe.yaml"
    path.write_text(path.read_text().replace("source:", "revision: x\n  source:"))
    assert "nor a Hub id" in hf_soup.lineage(tmp_path / "odd").table()
    chain(tmp_path, "circle", ["circle", "circle"])
    assert [child.note for child in hf_soup.lineage(tmp_path / "circle").children] == ["already listed above"] * 2
    for place in range(30):
        chain(tmp_path, f"link-{place}", [f"link-{place + 1}"])
    assert "not read: the limit is 20 levels" in hf_soup.lineage(tmp_path / "link-0").table()
    monkeypatch.setattr(family, "MOST", 5)
    for place in range(10):
        chain(tmp_path, f"leaf-{place}", ["circle"])
    chain(tmp_path, "wide", [f"leaf-{place}" for place in range(10)])
    assert "not read: the limit is 5 models" in hf_soup.lineage(tmp_path / "wide").table()


@pytest.mark.parametrize(
    "size", ["-5GB", "0", "0GB", "nanGB", "infGB", "1e400GB", "GB", "", "5", "5XB", "\u0665GB", "9" * 99 + "x"]
)
def test_a_size_that_is_none_is_refused(size, text_runs, tmp_path):
    """An invalid `max_shard_size` raises an OutputError before anything is written, also on the command line."""
    with pytest.raises(OutputError, match=r"max_shard_size=.* is not a number of bytes"):
        hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "soup", max_shard_size=size)
    result = run("merge", *text_runs[:2], "-o", tmp_path / "soup", "--max-shard-size", size)
    assert (result.returncode, "is not a number of bytes" in result.stderr) == (1, True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, -1, 1.5, float("nan"), True, None, b"5GB", [5]])
def test_a_number_that_is_no_size_is_refused(size, text_runs, tmp_path):
    """A `max_shard_size` that is not a positive integer or a string raises an OutputError."""
    with pytest.raises(OutputError, match="is not a number of bytes"):
        hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "soup", max_shard_size=size)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1e308, 1e308], "are too large to be summed.*divide all of them by 1e.308"),
        ([-1e308, 0], "too large"),
        ([5e-324, 5e-324], "are too small to be summed"),
        ([1, -1], "sum to zero"),
        ([10**400, 1], "a sequence of numbers"),
        ("12", "a sequence of numbers"),
        ({"": "12"}, "a sequence of numbers"),
        ({1: [1, 1]}, "a sequence of numbers"),
        ([float("nan"), 1], "not finite"),
    ],
)
def test_weights_that_cannot_be_summed(weights, message, text_runs):
    """Weights that cannot be summed raise a RecipeError that gives the reason."""
    with pytest.raises(RecipeError, match=message) as caught:
        hf_soup.merge(text_runs[:2], weights=weights)
    assert len(str(caught.value)) < 500


def test_weights_are_relative_within_bounds(text_runs):
    """Large, small and negative weights give the same soup if their ratios are the same."""
    plain = hf_soup.merge(text_runs[:2], weights=[1, 3]).model.state_dict()
    for weights in ([2**60, 3 * 2**60], [2**-60, 3 * 2**-60], [-1, -3]):
        for name, tensor in hf_soup.merge(text_runs[:2], weights=weights).model.state_dict().items():
            assert tensor.equal(plain[name])
