"""Configurations of mergekit run as they are, with the results of mergekit 0.1.5.

`mergekit/results.json` was written by `benchmarks/against_mergekit.py --values` from the configurations beside it.
"""

import json
from pathlib import Path

import pytest
import tiny_llama
from click.testing import CliRunner

import hf_soup
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.cli import main
from hf_soup.errors import RecipeError
from hf_soup.formats.mergekit import as_cook_file


FOLDER = Path(__file__).parent / "mergekit"
RESULTS = json.loads((FOLDER / "results.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the models of the configurations."""
    folder = tmp_path_factory.mktemp("mergekit")
    with quiet_transformers():
        tiny_llama.make_models(folder / "models")
    return folder


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_results_are_those_of_mergekit(models, tmp_path, monkeypatch, name):
    """`cook` makes the same model of a configuration as mergekit, to the rounding of float32."""
    monkeypatch.chdir(models)
    cooked = hf_soup.cook(FOLDER / f"{name}.yml", output_dir=tmp_path / "out")
    found = tiny_llama.digest(cooked.folder)
    assert set(found) == set(RESULTS[name])
    for tensor, values in RESULTS[name].items():
        assert found[tensor] == pytest.approx(values, abs=5e-7), tensor


def test_every_configuration_has_a_result():
    """No configuration is left out, and there are thirty."""
    assert sorted(RESULTS) == sorted(path.stem for path in FOLDER.glob("*.yml"))
    assert len(RESULTS) == 30


@pytest.mark.parametrize("name", ["ties_readme", "slices_by_depth"])
def test_the_converted_cook_file_does_the_same(models, tmp_path, monkeypatch, name):
    """`convert` prints a cook file that gives the same model."""
    monkeypatch.chdir(models)
    printed = CliRunner().invoke(main, ["convert", str(FOLDER / f"{name}.yml"), "-o", str(tmp_path / "out")])
    assert printed.exit_code == 0, printed.output
    (tmp_path / "cook.yaml").write_text(printed.output)
    cooked = hf_soup.cook(tmp_path / "cook.yaml")
    for tensor, values in RESULTS[name].items():
        assert tiny_llama.digest(cooked.folder)[tensor] == pytest.approx(values, abs=5e-7)


LINEAR = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 2}}, {"model": "b"}]}
SLICES = [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}]}]


def test_what_a_configuration_becomes():
    """Models, weights, the type and the names of parameters are translated; what changes nothing is left out."""
    ties = {
        "merge_method": "ties",
        "base_model": {"model": {"path": "me/base", "revision": "abc"}},
        "models": [{"model": "me/base@abc"}, {"model": "a", "parameters": {"weight": 0.5, "density": 0.3}}],
        "parameters": {"int8_mask": True, "lambda": 0.7},
        "dtype": "float32",
        "out_dtype": "bfloat16",
        "tokenizer": {"source": "base"},
        "chat_template": "auto",
    }
    assert as_cook_file(ties, "merge.yml") == {
        "ingredients": ["a"],
        "base_model": "me/base@abc",
        "merge": {
            "method": "ties",
            "weights": [0.5],
            "dtype": "bfloat16",
            "vocabulary": "base_model",
            "params": {"density": 0.3, "scale": 0.7},
        },
    }
    assert as_cook_file(LINEAR, "merge.yml")["merge"]["weights"] == [2, 1.0]
    adapters = [{"model": "a+b"}, {"model": {"model": {"path": "a"}, "lora": {"path": "c", "revision": "d"}}}]
    assert as_cook_file({**LINEAR, "models": adapters}, "merge.yml")["ingredients"] == ["b", "c@d"]
    based = as_cook_file({**LINEAR, "tokenizer_source": "union", "base_model": "a"}, "merge.yml")
    assert based["base_model"] == "a"  # whose rows come first
    assert based["merge"]["vocabulary"] == "union"
    assert as_cook_file({**LINEAR, "tokenizer_source": "base"}, "merge.yml")["merge"]["vocabulary"] == "a"
    assert as_cook_file({**LINEAR, "tokenizer_source": "b"}, "merge.yml")["merge"]["vocabulary"] == "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_method": "tias"}, r'merge_method: tias of mergekit has no equivalent here; did you mean "ties"'),
        ({"modules": {}}, "`modules` of mergekit has no equivalent"),
        ({"tokenizer_source": "other"}, "tokenizer_source: other of mergekit has no equivalent here: it is one of"),
        (
            {"tokenizer": {"pad_to_multiple_of": 8}},
            "`pad_to_multiple_of` of `tokenizer` of mergekit has no equivalent",
        ),
        ({"chat_template": [1]}, r"chat_template: \[1\] of mergekit has no equivalent here: give its text"),
        ({"tokenizer": {"tokens": {"<a>": {}}}}, "`tokens` of `tokenizer` of mergekit has no equivalent"),
        ({"chat_template": "alpaca"}, "chat_template: alpaca of mergekit has no equivalent here: give its text"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "a model that is listed twice"),
        ({"models": []}, "`models` is a list of models, and is missing or empty"),
        ({"models": [{"model": 3}]}, "a model is a path or a Hub id, not 3"),
        ({"models": [{"model": "a", "parameters": {"weight": ["x"]}}]}, "`weight` is a number or a list of numbers"),
        (
            {"parameters": {"lamda": 0.5}},
            '`lamda` of linear of mergekit has no equivalent here; did you mean "lambda"',
        ),
        ({"merge_method": "ties", "base_model": "c", "parameters": {"rescale": True}}, "`rescale` of ties"),
        ({"merge_method": "multislerp", "parameters": {"normalize_weights": False}}, "`normalize_weights` of multi"),
        ({"slices": SLICES}, "`models` beside `slices`"),
        ({"models": None, "slices": [{**SLICES[0], "residual_weight": 0.1}]}, "`residual_weight` of a slice"),
        ({"models": None, "slices": [{"sources": ["a", "b"]}]}, "a slice without `sources`"),
        ({"models": None, "slices": [{"sources": [{"model": "a", "layer_range": 3}]}]}, "without a `layer_range`"),
        ({"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [0, "x"]}]}]}, "a `layer_range` such"),
        ({"merge_method": ["linear"]}, "merge_method"),
        ({"tokenizer": "union"}, "`tokenizer` is a mapping"),
        (
            {"merge_method": "slerp", "base_model": "a", "parameters": {"t": [{"filter": "x", "value": 1}]}},
            "no value for",
        ),
        ({"models": [{"model": "a", "parameters": [1]}]}, r"`parameters` is a mapping, not \[1\]"),
        ({"merge_method": "slerp", "base_model": "c"}, "`base_model` of slerp is one of its two models"),
        (
            {"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [2, 4]}]}]},
            "layer 2 in place 0 of mergekit has no equivalent here: stack layers with mergekit",
        ),
        (
            {
                "models": None,
                "slices": [
                    {"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [1, 3]}]}
                ],
            },
            "a slice of different layers",
        ),
        ({"models": None, "slices": [*SLICES, {"sources": [{"model": "c", "layer_range": [2, 3]}]}]}, "other models"),
        ({"models": None, "slices": [{"sources": [{"model": "a"}]}]}, "a slice without a `layer_range` such as"),
        ({"models": None, "slices": [{"sources": []}]}, "a slice without `sources`"),
        (
            {
                "merge_method": "della",
                "base_model": "c",
                "models": [{"model": "a", "parameters": {"epsilon": 0.1}}, {"model": "b"}],
            },
            "`epsilon` with different values for the models",
        ),
    ],
)
def test_settings_without_an_equivalent_are_named(changes, message):
    """What cannot be expressed raises a RecipeError that names it."""
    content = {key: value for key, value in {**LINEAR, **changes}.items() if value is not None}
    with pytest.raises(RecipeError, match=message):
        as_cook_file(content, "merge.yml")


def test_models_are_named_as_by_merge():
    """Weights by name use the names that the ingredients have: of checkpoints, and of Hub ids with a revision."""
    filtered = {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 1}]}
    models = [{"model": "runs/a/checkpoint-10", "parameters": filtered}, {"model": "me/model@abc"}]
    weights = as_cook_file({"merge_method": "linear", "models": models}, "merge.yml")["merge"]["weights"]
    assert weights == {"a/checkpoint-10": {"*mlp*": 0.5, "": 1}, "model": 1.0}


def test_gaps_of_a_slice_take_the_value_of_the_whole():
    """Where the filters of a slice leave a gap, the value of the whole merge counts, and filters count outside too."""
    parts = [
        {"sources": [{"model": "a", "layer_range": [n, n + 1]}, {"model": "b", "layer_range": [n, n + 1]}]}
        for n in (0, 1)
    ]
    parts[0]["parameters"] = {"t": [{"filter": "self_attn", "value": 0.2}]}
    parts[1]["parameters"] = {"t": [{"filter": "lm_head", "value": 0.9}]}
    content = {"merge_method": "slerp", "base_model": "a", "slices": parts, "parameters": {"t": 0.5}}
    assert as_cook_file(content, "merge.yml")["merge"]["params"]["t"] == {
        "*.[0-9]*self_attn*": [0.2, 0.5],
        "*.[0-9]*lm_head*": [0.5, 0.9],
        "*.[0-9]*": [0.5, 0.5],
        "*self_attn*": 0.5,
        "*lm_head*": 0.9,
        "*embed*": 0.5,
        "": 0.5,
    }


def test_errors_name_the_line(tmp_path):
    """The error has the line of the setting, and nothing is written."""
    path = tmp_path / "merge.yml"
    path.write_text("merge_method: linear\nmodels:\n  - model: a\n  - model: b\nchat_template: alpaca\n")
    with pytest.raises(RecipeError, match=r"merge\.yml, line 5: chat_template: alpaca of mergekit"):
        hf_soup.cook(path, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stages_need_names_and_a_folder(tmp_path):
    """Several configurations need an output folder and names; overrides and other documents are refused."""
    path = tmp_path / "merge.yml"
    one = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"
    path.write_text(f"{one}---\n{one}")
    with pytest.raises(RecipeError, match="needs a folder for its results"):
        hf_soup.cook(path)
    with pytest.raises(RecipeError, match="every configuration but the last needs a `name`"):
        hf_soup.cook(path, output_dir=tmp_path / "out")
    with pytest.raises(RecipeError, match="overrides have no place"):
        hf_soup.cook(path, output_dir=tmp_path / "out", overrides=["merge.dtype=float16"])
    path.write_text(f"{one}---\ningredients: [a]\n")
    with pytest.raises(RecipeError, match="document 2 has no `merge_method`"):
        hf_soup.cook(path, output_dir=tmp_path / "out")


def test_slices_of_a_part_are_refused(models, tmp_path, monkeypatch):
    """Slices that end before the last layer would make a smaller model, and raise a RecipeError."""
    monkeypatch.chdir(models)
    path = tmp_path / "merge.yml"
    path.write_text((FOLDER / "slerp_of_slices.yml").read_text().replace("[0, 3]", "[0, 2]"))
    with pytest.raises(RecipeError, match="the slices end after 2 layers, and models/a has 3"):
        hf_soup.cook(path, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_converted(tmp_path):
    """`convert` says that a file is missing, is no configuration of mergekit, or holds several."""
    missing = CliRunner().invoke(main, ["convert", str(tmp_path / "none.yml")])
    assert "No such file" in missing.output
    several = CliRunner().invoke(main, ["convert", str(FOLDER / "stages.yml")])
    assert "holds several configurations" in several.output
    (tmp_path / "cook.yaml").write_text("ingredients: [a]\n")
    done = CliRunner().invoke(main, ["convert", str(tmp_path / "cook.yaml")])
    assert done.exit_code == 2
    assert "is no configuration of mergekit" in done.output


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("abc", {"weights": [0.5, 1, 0.25]}),
        ("ab", {"method": "slerp", "weights": [1, 3]}),
        ("ab", {"method": "ties", "base_model": "base", "weights": [0.4, 0.6], "density": 0.4, "scale": 0.9}),
        ("ab", {"method": "ties", "base_model": "base"}),
        ("abc", {"method": "model_stock", "base_model": "base"}),
        ("ab", {"weights": [1, 2], "dtype": "bfloat16"}),
        ("abc", {"method": "slerp", "weights": [1, 1, 0]}),
        ("ab", {"method": "nuslerp", "base_model": "base"}),
    ],
)
def test_a_soup_says_how_mergekit_makes_it(models, tmp_path, monkeypatch, names, options):
    """The `mergekit_config.yml` of a saved soup gives the same model again, and has names instead of paths."""
    monkeypatch.chdir(models / "models")
    soup = hf_soup.merge(list(names), **options)
    soup.save_pretrained(tmp_path / "soup")
    text = (tmp_path / "soup" / "mergekit_config.yml").read_text()
    assert str(models) not in text
    cooked = hf_soup.cook(tmp_path / "soup" / "mergekit_config.yml", output_dir=tmp_path / "again")
    first, again = tiny_llama.digest(tmp_path / "soup"), tiny_llama.digest(cooked.folder)
    for tensor, values in first.items():
        assert again[tensor] == pytest.approx(values, abs=1e-7), tensor


@pytest.mark.parametrize(
    "options",
    [
        {"method": "median"},
        {"weights": {"lm_head": [1, 0], "": [1, 1]}},
        {"method": "iso_c", "base_model": "base"},
        {"method": "ties", "base_model": "base", "election": "unweighted"},
        {"method": "nuslerp", "per": "row"},
        {"method": "karcher", "weights": [1, 2]},
        {"method": "dare_ties", "base_model": "base", "density": 0.5},
    ],
)
def test_what_mergekit_cannot_make_has_no_file(models, tmp_path, monkeypatch, options):
    """A soup that mergekit cannot make has no `mergekit_config.yml`."""
    monkeypatch.chdir(models / "models")
    hf_soup.merge(["a", "b"], **options).save_pretrained(tmp_path / "soup")
    assert not (tmp_path / "soup" / "mergekit_config.yml").exists()
