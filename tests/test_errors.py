"""The suggestions in errors about unknown names, and the lines that warnings point to."""

import datasets
import pytest

from hf_soup.data.missing import tell_missing_texts
from hf_soup.errors import SoupWarning, did_you_mean, warn


MANY = ("early_stopping_patience", "early_stopping_threshold", *(f"setting_{index}" for index in range(98)))


def test_a_short_list_is_told_whole():
    """Up to twenty known names are all listed, with a similar one first if there is one."""
    assert did_you_mean("gredy", ["uniform", "greedy"]) == '; did you mean "greedy"? Known: greedy, uniform'
    assert did_you_mean("x", ["uniform", "greedy"]) == ". Known: greedy, uniform"
    assert did_you_mean("x", []) == ". Known: none"
    twenty = [f"name{index:02}" for index in range(20)]
    assert did_you_mean("x", twenty).endswith(", ".join(twenty))


def test_of_many_names_the_nearest_three_are_told():
    """Of more than twenty known names, the error lists the nearest three and the total number."""
    many = [f"name{index:02}" for index in range(21)]
    text = did_you_mean("name03", many)
    assert text.startswith('; did you mean "name03"? The nearest of 21 known names: name03, ')
    assert text.count("name") == 5
    assert did_you_mean("qqq", MANY).startswith(". The nearest of 100 known names: ")


@pytest.mark.parametrize("word", ["early_stopping_patince", "early_stopping", "patience", "stopping_patience"])
def test_a_part_of_a_name_is_near_to_it(word):
    """A name is suggested for one of its parts between underscores, even if most of its letters are missing."""
    assert did_you_mean(word, MANY).startswith('; did you mean "early_stopping_patience"?')


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("a", "b"),
        ("a", "ab"),
        ("run-3", "run-2"),
        ("vit-sst2", "bert-sst2"),
        ("encoder.layer.12", "encoder.layer.1"),
        ("my_layers", "num_layers"),
    ],
)
def test_names_that_are_not_near_are_not_proposed(word, name):
    """Short words, and names that share only a beginning or an end, are not suggested for each other."""
    assert did_you_mean(word, [name]) == f". Known: {name}"
    assert "did you mean" not in did_you_mean(word, [name, *(f"zzzz{index}" for index in range(30))])


def test_a_warning_points_at_the_line_of_the_user():
    """A warning names the user's file that called the package, however deep in the package it is issued."""
    data = datasets.Dataset.from_dict({"text": ["good film", ""]})
    with pytest.warns(SoupWarning, match="1 of 2 rows have no text") as records:
        tell_missing_texts(data, ["text"])
    assert records[0].filename == __file__
    with pytest.warns(SoupWarning, match="something") as records:
        warn("something")
    assert records[0].filename == __file__
