"""Each option of a public function is declared once; signatures, cook files and the command line follow from it."""

import dataclasses
import inspect

import pytest
from click.shell_completion import ShellComplete

import hf_soup
from hf_soup import options, plugins
from hf_soup.api import sweep as sweep_module
from hf_soup.cli import main
from hf_soup.errors import RecipeError
from hf_soup.evaluation.ensemble import ENSEMBLES
from hf_soup.formats.cook_file import CookFile
from hf_soup.formats.strict_yaml import build
from hf_soup.metrics.built_in import BUILT_IN


COMMANDS = {
    "sweep": options.SweepOptions,
    "merge": options.MergeOptions,
    "compare": options.CompareOptions,
    "analyze": options.AnalyzeOptions,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_has_the_options(command):
    """Each field with a help text is an option of the command, with the same help and the same default."""
    given = {option.name: option for option in main.commands[command].params}
    for field in dataclasses.fields(COMMANDS[command]):
        if "text" in field.metadata:
            option = given["draw_seed" if (command, field.name) == ("sweep", "seed") else field.name]
            assert option.help == field.metadata["text"]
            assert option.default == (() if option.multiple else field.default)


def test_a_sweep_is_called_with_its_options():
    """The signature of `sweep` has the defaults of its dataclass, and starts with `base_model` and `dataset`."""
    signature = inspect.signature(hf_soup.sweep)
    for field in dataclasses.fields(sweep_module.SweepArguments):
        if field.name != "_":
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            assert signature.parameters[field.name].default is default
    assert list(signature.parameters)[:2] == ["base_model", "dataset"]
    assert signature.return_annotation == "Sweep"


@pytest.mark.parametrize(
    ("cls", "verb"),
    [
        (options.MergeOptions, hf_soup.merge),
        (options.CompareOptions, hf_soup.compare),
        (options.AnalyzeOptions, hf_soup.analyze),
        (options.SaveOptions, hf_soup.Soup.save_pretrained),
        (options.PushOptions, hf_soup.Soup.push_to_hub),
    ],
)
def test_verbs_take_their_options(cls, verb):
    """Each option of a cook file is a parameter of the corresponding function, with the same default."""
    parameters = inspect.signature(verb).parameters
    for field in dataclasses.fields(cls):
        name = field.name
        if name in ("metric", "metrics"):  # belongs to the evaluator
            assert name not in parameters
        elif name == "params":  # belongs to methods and strategies
            assert name in parameters
        elif field.default is dataclasses.MISSING:
            assert parameters[name].default in (inspect.Parameter.empty, ())
        else:
            assert parameters[name].default == field.default, name


def test_choices_are_checked():
    """A value that is no valid choice raises an error with the nearest one; values checked elsewhere are accepted."""
    with pytest.raises(RecipeError, match=r"head is one of auto, new, .*; did you mean \"probe\"\?"):
        options.check_choices(options.SweepOptions(space=[], head="prob"))
    options.check_choices(options.MergeOptions(method="mine:method", executor="nowhere"))


def test_the_same_choices_everywhere():
    """The declared choices of `ensemble` are exactly the implemented ones, which are not imported for them."""
    assert tuple(ENSEMBLES) == options.ENSEMBLES


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep", "--head"], {"auto", "new", "probe", "checkpoint", "independent"}),
        (["sweep", "--keep"], {"best", "last", "all"}),
        (["merge", "--method"], set(plugins.names("method"))),
        (["merge", "--executor"], {"local", "ray", "jobs"}),
        (["compare", "--ensemble"], {"logits", "probabilities", "vote", "mixture"}),
        (["merge", "--metric"], set(BUILT_IN)),
        (["sweep", "--metric"], set(BUILT_IN)),
    ],
)
def test_choices_are_completed(words, expected):
    """Shell completion offers the choices of an option."""
    complete = ShellComplete(main, {}, "hf-soup", "_HF_SOUP_COMPLETE")
    assert {item.value for item in complete.get_completions(words, "")} == expected


def test_a_section_of_a_cook_file_is_the_options():
    """A section of a cook file becomes options with their defaults; an unknown key raises an error."""
    content = {"output_dir": "out", "base_model": "base", "data": {"path": "data"}, "sweep": {"space": {"seed": [0]}}}
    assert build(CookFile, content, "file").sweep == options.SweepOptions(space={"seed": [0]})
    with pytest.raises(RecipeError, match='unknown key `n_run` in `sweep`; did you mean "n_runs"'):
        build(CookFile, {**content, "sweep": {"space": {}, "n_run": 1}}, "file")
    default = build(CookFile, {**content, "sweep": {}}, "file").sweep
    assert default.space_or_default["learning_rate"] == [2e-5, 5e-5, 1e-4, 2e-4]
    assert default.refine_or_default == 4
    assert options.SweepOptions(refine=0).refine_or_default == 0
    assert options.SweepOptions(space={"seed": [0]}).refine_or_default is None
