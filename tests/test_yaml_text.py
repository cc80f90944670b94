"""Untrusted YAML is read within limits, and anything invalid raises one short error."""

import time
import tracemalloc

import pytest

from hf_soup.checkpoints.checkpoint import read_card
from hf_soup.errors import RecipeError
from hf_soup.formats.cook_file import load_cook_file
from hf_soup.formats.recipe_file import load_recipe
from hf_soup.formats.strict_yaml import read_value, read_yaml
from hf_soup.yaml_text import parse_yaml


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}\n" for i in range(1, 60))
DOUBLED = "\n".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 50))
LONG = f"a: &a {'x' * 1000}\nb: &b [{', '.join(['*a'] * 1000)}]\nc: [{', '.join(['*b'] * 100)}]"
WRONG = {
    "bomb": (BOMB, "holds more than"),
    "long bomb": (LONG, "holds more than"),
    "many values": ("a: [" + "1," * 300_000 + "]", "holds more than"),
    "nested lists": ("a: " + "[" * 50_000, "nested too deeply"),
    "nested mappings": ("{a: " * 50_000, "nested too deeply"),
    "nested blocks": ("\n".join(" " * i + "a:" for i in range(2000)), "nested too deeply"),
    "dashes": ("a:\n  " + "- " * 20_000, "nested too deeply"),
    "merges": (DOUBLED, r"\*a0, which"),
    "merges of merges": (f"a0: &a0 {{x: 1}}\n{DOUBLED}", "holds more than"),
    "itself": ("a: &a [*a]", r"\*a, which no anchor before it defines"),
    "unknown alias": ("a: *b", r"\*b"),
    "no mapping to merge": ("a: {<<: 1}", "<< of something that is not a mapping"),
    "int": ("a: !!int x", "!!int"),
    "timestamp": ("a: !!timestamp x", "!!timestamp"),
    "map": ("a: !!map x", "!!map"),
    "set": ("a: !!set {x, y}", "!!set"),
    "binary": ("a: !!binary aGk=", "!!binary"),
    "python": ("a: !!python/object/apply:os.system [touch ran]", "!!python/object"),
    "own tag": ("a: !x y", "!x"),
    "digits": ("a: " + "9" * 5000, "4300 digits"),
    "several": ("a: 1\n---\na: 2", "several documents"),
    "twice": ("a: 1\na: 2", "the key 'a' appears twice"),
    "a list as key": ("? [a]\n: b", "a key is a word, not a list"),
    "control": ("a: \0", "not valid YAML"),
    "unfinished": ("a: [", "not valid YAML"),
    "template": ("a: {{ b }}", "not valid YAML"),
    "empty": ("", "holds nothing"),
    "list": ("- a", "holds list"),
    "surrogate": ('a: "\\ud800"', "not valid YAML"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_one_short_error(tmp_path, kind):
    """Invalid YAML raises a short one-line RecipeError within two seconds and 100 MB."""
    text, message = WRONG[kind]
    path = tmp_path / "cook.yaml"
    path.write_text(text)
    start = time.process_time()
    if "bomb" in kind or "merges" in kind:
        tracemalloc.start()
    with pytest.raises(RecipeError, match=message) as caught:
        read_yaml(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    assert peak < 100e6
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfea\0:\0", "UTF-8"), ("ä: 1".encode("latin-1"), "UTF-8"), (b"a: 1\n" * 3_000_000, "at most 10,000,000")],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    """UTF-16, Latin-1 and very large files raise a RecipeError, whereas a byte order mark is ignored."""
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "missing", "."])
def test_a_path_that_cannot_be_read_is_one_error(tmp_path, name):
    """A path that cannot be read raises a RecipeError, whatever the operating system reports."""
    with pytest.raises(RecipeError):
        read_yaml(f"{tmp_path}/{name}")


def test_values_are_what_they_look_like():
    """Values get the expected types; a time of day stays a string, and merged mappings keep their own values."""
    text = "{a: 1e-5, b: 1:30, c: 2020-01-01, d: yes, e: null, f: 0x10, g: '1', h: =, i: .5, j: 1_000, k: -.inf}"
    assert parse_yaml(text, "x") == {
        "a": 1e-5,
        "b": "1:30",
        "c": "2020-01-01",
        "d": True,
        "e": None,
        "f": 16,
        "g": "1",
        "h": "=",
        "i": 0.5,
        "j": 1000,
        "k": -float("inf"),
    }
    data = parse_yaml("base: &b {x: 1, y: [1]}\nnext: {<<: *b, x: 2}\nlast: {<<: [{x: 3}, *b]}\nsame: *b", "x")
    assert (data["next"], data["last"]["x"]) == ({"x": 2, "y": [1]}, 3)
    data["base"]["y"].append(2)
    assert data["same"]["y"] == data["next"]["y"] == [1]
    assert parse_yaml(MERGES, "x")["a59"]["x"] == 1


def test_messages_are_short(tmp_path):
    """A value, a key or an argument of megabytes does not make the message long."""
    big = "x" * 5_000_000
    path = tmp_path / "a.yaml"
    for text in (f"output_dir: [{big}]", f"{big}: 1", f"output_dir: out\nmerge: {{{big}: 1}}", f"task: {big}"):
        path.write_text(text)
        for read in (load_cook_file, load_recipe):
            with pytest.raises(RecipeError) as caught:
                read(path)
            assert len(str(caught.value)) < 3000
    for act in (lambda: read_value(f"[{big}"), lambda: load_cook_file(path, [big]), lambda: read_yaml(big)):
        with pytest.raises(RecipeError) as caught:
            act()
        assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("kind", [*(kind for kind in WRONG if kind != "many values"), "no text"])
def test_a_card_that_cannot_be_read_is_none(tmp_path, kind):
    """The metadata of a card with invalid YAML gives a dict, possibly empty, and never raises an error."""
    text = WRONG[kind][0].encode("utf-8", "surrogatepass") if kind in WRONG else b"\xff\xfe"
    (tmp_path / "README.md").write_bytes(b"---\n" + text + b"\n---\n# Card\n")
    assert isinstance(read_card(tmp_path), dict)
    if kind in ("bomb", "nested lists", "digits", "no text"):
        assert read_card(tmp_path) == {}


def test_an_ordinary_card_is_read(tmp_path):
    """A card with dates, tags and repeated keys, as real cards have, is read."""
    keys = "license: mit\ndate: 2024-01-01\nlicense: apache-2.0\nbase_model: !x a/b\nlanguage:\n- en"
    text = f"---\n{keys}\n---\ntext\n---\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8-sig")
    expected = {"license": "apache-2.0", "date": "2024-01-01", "base_model": "a/b", "language": ["en"]}
    assert read_card(tmp_path) == expected
