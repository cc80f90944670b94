"""Tables align numbers to the right and text to the left, and fit the width of the terminal."""

import pytest

from hf_soup.display.blocks import blocks
from hf_soup.display.tables import align, cut_in_the_middle, escape_markup, fitted


LINES = [
    ["run", "accuracy, %", "size", "from", "change", "p"],
    ["run-0", "91.2 [90.0, 92.3]", "1,000", "a/folder", "[-1.2, +3.0]", ""],
    ["run-12", "-", "12 MB", "user/x@1", "[+1.2, +3.0]", "0.04"],
]


@pytest.mark.parametrize("escape", [None, escape_markup])
def test_columns_of_numbers_are_flush_right(escape):
    """Signs, units, intervals and unknown cells count as numbers; the first column is always text."""
    (table,) = blocks(align(LINES, escape))
    assert table.right == [False, True, True, False, True, True]


def test_a_column_with_a_word_is_text():
    """A column with a word among its numbers, or without any value, is text."""
    (table,) = blocks(align([["a", "b", "c"], ["1", "2", ""], ["3", "none", ""]]))
    assert table.right == [False, False, False]


def test_a_table_that_is_too_wide_has_its_texts_cut():
    """In a table that is too wide, long names are cut in the middle; numbers, short texts and paragraphs are not."""
    name = "runs/learning-rate-0.00003-seed-1/checkpoint-4000"
    lines = [["run", "accuracy", "from"], [name, "0.1234", "start"], ["run-1", "0.5", "start"]]
    text = f"{align(lines)}\n\n{'A sentence that is longer than the terminal is wide. ' * 3}"
    table, sentence = fitted(text, 40).split("\n\n")
    assert max(map(len, table.split("\n"))) == 40
    cells = blocks(table)[0].cells
    assert cells[1][1:] == ["0.1234", "start"]
    assert cells[1][0].startswith("runs/")
    assert cells[1][0].endswith("4000")
    assert "…" in cells[1][0]
    assert sentence == text.split("\n\n")[1]
    assert fitted(text, 200) == text


def test_a_bar_in_a_name_survives_the_cut():
    """A vertical bar in a shortened cell is escaped again."""
    lines = [["run", "n"], ["a|b" * 20, "1"]]
    (table,) = blocks(fitted(align(lines), 30))
    assert table.cells[1][0].count("|") > 2


@pytest.mark.parametrize("most", [5, 6, 12])
def test_a_cut_has_the_length_that_was_asked_for(most):
    """A text is cut to exactly the requested length; a shorter one is left as it is."""
    assert len(cut_in_the_middle("abcdefghijklmnop", most)) == most
    assert cut_in_the_middle("abc", most) == "abc"
