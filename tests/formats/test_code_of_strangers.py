"""Untrusted recipes and cook files cannot run code of their own, only what the package contains or the user allows."""

import contextlib
import sys

import pytest
import yaml
from command import run

import hf_soup
from hf_soup import plugins, testing
from hf_soup.data.functions import BUNDLED, is_function
from hf_soup.data.load import load_data
from hf_soup.data.splits import split_names
from hf_soup.errors import DataError, RecipeError
from hf_soup.formats.cook_file import load_cook_file


EVIL = """
from pathlib import Path
import sys

Path(__file__).with_name("ran").touch()


def median(tensors, weights):
    Path(__file__).with_name("called").touch()
    return list(tensors)[0]


def leave():
    sys.exit(3)


def interrupt():
    raise BaseException("of no known class")


def need(argument):
    return argument


def number():
    return 7


def texts():
    import datasets

    return datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})


value = 3
"""
COOK = {"base_model": "some/model", "output_dir": "out", "data": {"path": "some/data"}}
SWEEP = {"space": {"learning_rate": [1e-5]}}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder with a module that leaves one trace when it is imported and another when its function is called."""
    (tmp_path / "evil_of_a_stranger.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("evil_of_a_stranger", None)


def cook_file(folder, **parts):
    """Write a cook file."""
    path = folder / "cook.yaml"
    path.write_text(yaml.safe_dump({**COOK, **parts}))
    return path


@pytest.fixture
def soup(evil, text_runs):
    """The folder of a soup whose recipe gives a function of the module beside it as its method."""
    folder = hf_soup.merge(text_runs[:2], method="median").save_pretrained(evil / "soup")
    (folder / "evil_of_a_stranger.py").write_text(EVIL)
    recipe = folder / "soup_recipe.yaml"
    recipe.write_text(recipe.read_text().replace("method: median", "method: evil_of_a_stranger:median"))
    return folder


def traces(folder):
    """The names of the trace files that the module has left."""
    return sorted(path.name for path in folder.rglob("*") if path.name in ("ran", "called"))


def test_nothing_of_a_downloaded_folder_runs(soup, evil, text_runs):
    """Functions and commands that read a soup's recipe either refuse its code or do not call it."""
    for verb in (hf_soup.load_recipe, hf_soup.verify, hf_soup.cook):
        with pytest.raises(RecipeError, match=r"`method` is .* which is code from elsewhere.*allow_code=True"):
            verb(soup)
    with pytest.raises(RecipeError, match="code from elsewhere"):
        hf_soup.cook(soup, overrides=["seed=1"], drop=[text_runs[0].name])
    assert hf_soup.lineage(soup).note == "uniform soup, evil_of_a_stranger:median"
    assert hf_soup.compare(soup, test=testing.tiny_texts(6)).table()
    hf_soup.merge([soup, text_runs[2]]).save_pretrained(evil / "other")
    for command in (["plan", soup], ["verify", soup], ["cook", soup, "-o", evil / "again"]):
        result = run(*command, cwd=soup)
        assert (result.returncode, "code from elsewhere" in result.stderr) == (1, True)
    for command in (["lineage", soup], ["card", soup], ["check", soup, text_runs[0]]):
        assert run(*command, cwd=soup).returncode == 0
    assert traces(evil) == []


def test_code_runs_where_the_user_allows_it(soup, evil):
    """With `allow_code=True` or `--allow-code` the method is imported from the Python path and called."""
    assert run("plan", soup, "--allow-code").returncode == 0
    assert traces(evil) == ["ran"]
    assert not hf_soup.verify(soup, allow_code=True).ok
    assert traces(evil) == ["called", "ran"]
    assert hf_soup.cook(soup, allow_code=True).soup.recipe.method == "evil_of_a_stranger:median"
    assert run("cook", soup, "-o", evil / "again", "--allow-code").returncode == 0
    assert hf_soup.load_recipe(evil / "again", allow_code=True).method == "evil_of_a_stranger:median"


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"ingredients": ["a"], "merge": {"method": "evil_of_a_stranger:median"}}, "merge.method"),
        ({"ingredients": ["a"], "merge": {"strategy": "evil_of_a_stranger:median"}}, "merge.strategy"),
        ({"ingredients": ["a"], "merge": {"strategy": "greedy", "metric": "./evil_of_a_stranger.py"}}, "merge.metric"),
        ({"ingredients": ["a"], "merge": {"strategy": "greedy", "metric": "user/metric"}}, "merge.metric"),
        ({"ingredients": ["a"], "merge": {}, "compare": {"metrics": ["accuracy", "rouge"]}}, "compare.metrics"),
        ({"sweep": SWEEP, "data": {"path": "evil_of_a_stranger:texts"}}, "data.path"),
        ({"sweep": SWEEP, "data": {"path": "sys:exit"}}, "data.path"),
        ({"sweep": SWEEP, "data": {"path": "sklearn.datasets:fetch_20newsgroups"}}, "data.path"),
        (
            {"sweep": SWEEP, "data": {"path": "a", "shifted": {"x": {"path": "evil_of_a_stranger:texts"}}}},
            "data.shifted.x.path",
        ),
    ],
)
def test_no_code_of_a_cook_file_runs(evil, parts, key):
    """Methods, strategies, metrics and data functions are refused before any import, with the name of the key."""
    path = cook_file(evil, **parts)
    if "sweep" not in parts:
        path = cook_file(evil, **{**parts, "base_model": None})
    with pytest.raises(RecipeError, match=f"`{key}`.* code from elsewhere"):
        hf_soup.cook(path)
    result = run("cook", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "--allow-code" in result.stderr
    assert traces(evil) == []


def test_what_is_set_from_outside_needs_the_same_word(evil, text_runs):
    """A value from `--set` or `overrides` needs the same permission as one in the file."""
    path = cook_file(evil, sweep=SWEEP)
    with pytest.raises(RecipeError, match="code from elsewhere"):
        load_cook_file(path, ["data.path=evil_of_a_stranger:texts"])
    assert load_cook_file(path, ["data.path=evil_of_a_stranger:texts"], allow_code=True).data.path.endswith("texts")
    soup = hf_soup.merge(text_runs[:2]).save_pretrained(evil / "soup")
    for change in (
        "method=evil_of_a_stranger:median",
        "strategy=sys:exit",
        "evaluator=sys:exit",
        "metric=[./evil.py]",
    ):
        with pytest.raises(RecipeError, match="code from elsewhere"):
            hf_soup.cook(soup, overrides=[change])
    assert traces(evil) == []


def test_bundled_data_needs_no_word(evil):
    """Data sets bundled with scikit-learn need no permission, and paths with colons are not taken for functions."""
    for path in sorted(BUNDLED):
        assert load_cook_file(cook_file(evil, sweep=SWEEP, data={"path": path})).data.path == path
    assert len(load_data("sklearn.datasets:load_digits", split="train[:9]")) == 9
    for path in ("https://host/data.csv", "C:\\data", "a:b:c", ":x", "a:", "a b:c", "../x:y", "hf://datasets/x"):
        assert not is_function(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leave", r"ends the process \(SystemExit\(3\)\)"),
        ("interrupt", "of no known class"),
        ("need", "missing 1 required positional argument"),
        ("number", "returned int"),
        ("value", "is a int, not a function"),
        ("nothing", "cannot be imported"),
    ],
)
def test_whatever_a_data_function_does_is_one_error(evil, name, message):
    """A data function that exits, raises, needs arguments or returns something else raises a DataError."""
    for read in (lambda path: load_data(path, split="train"), split_names):
        with (
            contextlib.nullcontext()
            if (read, name) == (split_names, "number")
            else pytest.raises(DataError, match=message)
        ):
            read(f"evil_of_a_stranger:{name}")


def test_a_module_that_ends_the_process_is_one_error(evil):
    """A module that exits or fails while it is imported raises a RecipeError."""
    for text, message in (
        ("import sys; sys.exit(4)", r"SystemExit\(4\)"),
        ("a b", "invalid syntax"),
        ("1/0", "division"),
    ):
        (evil / "evil_of_a_stranger.py").write_text(text)
        with pytest.raises(RecipeError, match=message):
            plugins.load_function("method", "evil_of_a_stranger:f")


@pytest.mark.parametrize(
    "section",
    [
        {"config": {"model_type": "vit", "auto_map": {"AutoModel": "user/code--model.Model"}}},
        {"config": {"model_type": "vit", "vision_config": {"attn_implementation": "user/kernels"}}},
        {"config": {"model_type": "vit", "_attn_implementation": ["user/kernels"]}},
        {"config": {"model_type": "vit"}, "processor": {"auto_map": {"AutoProcessor": "user/code--p.P"}}},
        {"config": {"model_type": "vit", "parts": [{"trust_remote_code": True}]}},
    ],
)
def test_a_model_from_a_config_has_no_code_of_repositories(evil, section):
    """A `pretrain` section that asks for a repository's code raises a RecipeError, even if code is allowed."""
    path = cook_file(evil, base_model=None, sweep=SWEEP, pretrain=section)
    with pytest.raises(RecipeError, match="asks for code of a repository"):
        load_cook_file(path, allow_code=True)


@pytest.mark.parametrize("text", ['"a\\0b"', '"\\e[31m"', '["\\x9b"]', '{"\\a": 1}'])
def test_a_cook_file_holds_no_control_characters(evil, text):
    """A control character anywhere in a cook file raises a RecipeError."""
    (evil / "cook.yaml").write_text(f"output_dir: {text}\ningredients: [a]\n")
    with pytest.raises(RecipeError, match="holds control characters"):
        load_cook_file(evil / "cook.yaml")


def test_what_the_user_names_is_called(evil, text_runs):
    """A method that the user names in a Python call is imported and called without further permission."""
    assert hf_soup.merge(text_runs[:2], method="evil_of_a_stranger:median").model
    assert traces(evil) == ["called", "ran"]


@pytest.mark.parametrize("name", ["trackio_space_id", "hub_revision", "use_liger_kernel"])
def test_settings_that_send_a_run_elsewhere_need_the_same_word(evil, name):
    """Training arguments that upload a run or fetch foreign kernels need the same permission in a cook file."""
    sweep = {"space": {"learning_rate": [1e-5]}, "training_args": {name: "stranger/place"}}
    path = cook_file(evil, data={"path": "data"}, sweep=sweep, base_model="base")
    with pytest.raises(RecipeError, match=f"training_args.{name}` sends a run elsewhere"):
        load_cook_file(path)
