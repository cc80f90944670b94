"""Files of examples are read as they are written, and errors in them are reported with the line number."""

import contextlib
import os
import shutil
import warnings

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from hf_soup.data import json_files, tables
from hf_soup.data.content import hash_content
from hf_soup.data.load import load_data
from hf_soup.data.missing import tell_missing_texts
from hf_soup.errors import DataError, SoupWarning


WORDS = ["null", "NA", "None", "nan", "NaN", "N/A", "", "True", "inf", "#N/A", "-", "NULL"]


def read(tmp_path, name, content):
    """Load a file with the given text or bytes."""
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_data(str(file), split="train")


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_words_stay_words(tmp_path, name, separator):
    """Words that pandas reads as missing values or numbers stay text, and an empty field is an empty string."""
    lines = [f"{word}{separator}{word or 'x'}" for word in WORDS]
    data = read(tmp_path, name, "\n".join([f"text{separator}label", *lines]) + "\n")
    assert data["text"][:] == WORDS
    assert data["label"][:] == [word or "x" for word in WORDS]


@pytest.mark.parametrize(
    ("written", "kind", "values"),
    [
        (["0", "1", "-2"], "int64", [0, 1, -2]),
        (["1", "", "3"], "int64", [1, None, 3]),
        (["1", "2.5", " 3", "+4"], "float64", [1.0, 2.5, 3.0, 4.0]),
        (["1e-3", ".5", "5."], "float64", [0.001, 0.5, 5.0]),
        (["01", "02"], "large_string", ["01", "02"]),
        (["1", "two"], "large_string", ["1", "two"]),
        (["1_000", "2"], "large_string", ["1_000", "2"]),
        (["99999999999999999999", "1"], "large_string", ["99999999999999999999", "1"]),
        (["", ""], "large_string", ["", ""]),
    ],
)
def test_columns_of_numbers(tmp_path, written, kind, values):
    """A column is numeric if all its values are; leading zeros and numbers beyond 64 bits keep it text."""
    data = read(tmp_path, "a.csv", "id,x\n" + "".join(f"a,{value}\n" for value in written))
    assert data.features["x"].dtype == kind
    assert data["x"][:] == values


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "text,label\nbad,0\ngood film, really,1\n",
            r"line 3: 3 fields, and the header has 2 \(text, label\)",
        ),
        ("a.csv", 'text,label\n"two\nlines",0\nshort\n', "line 4: 1 field,"),
        ("a.csv", 'text,label\n"never closed,0\nb,1\n', "line 2: a quote .* not closed"),
        ("a.csv", 'text,label\n"he said "hi" there",0\n', "line 2: a quote .* Write it twice"),
        ("a.csv", "text,label\na,0\nfilm café,1\n".encode("latin-1"), r"line 3: a byte that is not UTF-8 \(0xe9\)"),
        ("a.csv", b"text,label\na,0\nb\0,1\n", "line 3: a NUL byte"),
        ("a.csv", "text,text,label\na,b,0\n", 'line 1: several columns with the name "text"'),
        ("a.csv", "text;label\na;0\n", "separated by semicolons"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", b"\xef\xbb\xbf\n\n", "a.csv is empty"),
        ("a.csv", "text,label\n", "but no rows"),
        ("a.csv", b"\xff\xfet", "not UTF-16"),
        ("a.tsv", "text\tlabel\na\tb\t0\n", "line 2: 3 fields"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", label: 0}\n', "line 3: not JSON: .* column 15"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"', "line 2: not JSON"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "line 2: a list, where a row is an object"),
        ("a.jsonl", '{"x": 1}\n{"x": "a"}\n', 'line 2: the field "x"'),
        ("a.jsonl", '{"x": 1, "x": 2}\n', 'line 1: an object with two fields "x"'),
        ("a.jsonl", '{"x": 123456789012345678901234567890}\n', 'line 1: the field "x"'),
        ("a.jsonl", '{"x": ' + "1" * 5000 + "}\n", "line 1: Exceeds"),
        ("a.jsonl", '{"x": "\\ud800"}\n', 'line 1: the field "x"'),
        ("a.jsonl", "{}\n{}\n", "line 1: an object without fields"),
        ("a.jsonl", '{"x": "caf\xe9"}\n'.encode("latin-1"), "line 1: a byte that is not UTF-8"),
        ("a.json", '[\n {"x": 1},\n {"x": 2},\n]\n', "line 4: not JSON"),
        ("a.json", '[{"x": 1}, {"x": []}]', 'entry 2 of its list: the field "x"'),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"x":' * 200 + "1" + "}" * 200, "nested more than"),
        ("a.json", "null", "line 1: nothing"),
        ("a.json", "[]", "is empty"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("a.parquet", b"", "cannot be read as Parquet"),
        ("a.txt", b"", "not a file of examples"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, message):
    """An unreadable file raises a DataError that names the file, the line and the problem."""
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, name, content)
    assert name in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "content"), [("a.csv", "text,label\ncafé,1\n"), ("a.json", '{"text": "café"}\n')])
def test_marks_of_byte_order(tmp_path, encoding, name, content):
    """A byte-order mark is not part of the first column name, and UTF-16 with a mark is decoded."""
    data = read(tmp_path, name, content.encode(encoding))
    assert data.column_names[0] == "text"
    assert data["text"][:] == ["café"]


def test_blank_lines_are_told(tmp_path):
    """Blank lines between rows are skipped and counted in a warning; those at the end are ignored."""
    with pytest.warns(SoupWarning, match="2 blank lines between its rows, which are no rows: line 3, 5"):
        data = read(tmp_path, "a.csv", "text,label\na,0\n\nb,1\n\t\nc,0\n\n\n")
    assert data["text"][:] == ["a", "b", "c"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, "b.csv", 'text\n""\na\n\n')["text"][:] == ["", "a"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tlabel\n"Great film\t1\nsays "no"\t0\n', ['"Great film', 'says "no"']),
        ('text\tlabel\n"All of it"\t1\n', ['"All of it"']),
        ('"text"\t"label"\n"All of it"\t"1"\n', ["All of it"]),
        ('text\tlabel\n"begins\t1\nends"\t0\n', ['"begins', 'ends"']),
        ('text\tlabel\r\n"two\nlines"\t1\r\n', ["two\nlines"]),
        ('text\tlabel\n"a ""word"" of\ttwo\nlines"\t1\nplain\t0\n', ['a "word" of\ttwo\nlines', "plain"]),
    ],
)
def test_quotes_of_tsv(tmp_path, content, texts):
    """Quotes are part of a TSV text, unless the header is quoted or the file is consistent with a quoting writer."""
    assert read(tmp_path, "a.tsv", content)["text"][:] == texts


def test_line_ends_and_long_values(tmp_path):
    """Line ends of every system are accepted, kept inside quotes, and values may exceed the limit of `csv`."""
    long = "x" * 200_000
    data = read(tmp_path, "a.csv", f'text,label\r\n"a\r\nb",0\r\n{long},1')
    assert data["text"][:] == ["a\r\nb", long]
    assert read(tmp_path, "b.csv", "text,label\ra,0\rb,1\r")["text"][:] == ["a", "b"]


def test_json_is_read_in_its_forms(tmp_path, monkeypatch):
    """JSON may be lines, a list or an object with one list of objects; a field absent from a row is missing."""
    rows = '{"text": "a", "n": 1}\n{"text": "2020-01-01", "n": 2.5}\n{"n": null, "more": [{"x": 1}]}\n'
    listed = "[" + ", ".join(rows.splitlines()) + "]"
    wanted = [
        {"text": "a", "n": 1.0, "more": None},
        {"text": "2020-01-01", "n": 2.5, "more": None},
        {"text": None, "n": None, "more": [{"x": 1}]},
    ]
    monkeypatch.setattr(json_files, "ROWS", 1)  # reading row by row must give the same result
    for content in (rows, listed, f'{{\n"version": "1",\n\n"data": {listed}}}', rows.replace("\n", "\r\n\r\n")):
        assert read(tmp_path, "a.json", content).to_list() == wanted
    rows = read(tmp_path, "a.jsonl", '{"id": 1, "found": [{"x": 1}, {"x": 2}]}\n')
    assert rows.to_list() == [{"id": 1, "found": [{"x": 1}, {"x": 2}]}]  # in a .jsonl file a line is a row


def test_kinds_that_change_late_are_named(tmp_path, monkeypatch):
    """A value of another type is reported with its line, even if it is in a later chunk of the file."""
    monkeypatch.setattr(json_files, "ROWS", 2)
    with pytest.raises(DataError, match="line 3: values of another kind"):
        read(tmp_path, "a.jsonl", '{"x": 1}\n{"x": 2}\n{"x": "a"}\n')


def test_nothing_old_is_read(tmp_path):
    """A file replaced by another of the same size and time is read anew."""
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("text,label\nold,0\n")
    second.write_text("text,label\nnew,1\n")
    os.utime(second, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    assert load_data(str(first), split="train")["text"][:] == ["old"]
    shutil.copy2(second, first)
    assert load_data(str(first), split="train")["text"][:] == ["new"]


@pytest.mark.parametrize("large", [False, True])
def test_parquet(tmp_path, monkeypatch, large):
    """Dictionary-encoded columns are text, features are kept, and changed contents of large files are noticed."""
    monkeypatch.setattr(tables, "LARGE", 0 if large else tables.LARGE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for word in ("old", "new"):
        table = pa.table({"text": pa.array([word, "NA"]).dictionary_encode(), "label": [0, None]})
        pa.parquet.write_table(table, tmp_path / "a.parquet")
        os.utime(tmp_path / "a.parquet", (0, 0))
        data = load_data(str(tmp_path / "a.parquet"), split="train")
        assert data.to_dict() == {"text": [word, "NA"], "label": [0, None]}
    data = datasets.Dataset.from_dict({"x": [0]}, datasets.Features({"x": datasets.ClassLabel(names=["a"])}))
    data.to_parquet(tmp_path / "b.parquet")
    assert load_data(str(tmp_path / "b.parquet"), split="train").features == data.features


def test_damaged_parquet_is_an_error(tmp_path):
    """Parquet files with a changed byte or a cut give rows or a DataError, never another exception."""
    datasets.Dataset.from_dict({"text": ["word"] * 50, "label": [1] * 50}).to_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for at in range(0, len(whole), 37):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            with contextlib.suppress(DataError):
                hash_content(read(tmp_path, "b.parquet", content))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_not_waited_for(tmp_path):
    """A pipe with the name of a split's file raises a DataError without being waited for."""
    os.mkfifo(tmp_path / "train.csv")
    for path in (tmp_path, tmp_path / "train.csv"):
        with pytest.raises(DataError, match=r"train.csv is (not a regular file|neither a file nor a folder)"):
            load_data(str(path), split="train")


@pytest.mark.parametrize("missing", [None, "", " "])
def test_missing_texts_are_counted(missing):
    """Some missing texts cause one warning with their number; a column without any text raises a DataError."""
    data = datasets.Dataset.from_dict({"text": ["a", missing, "b", missing]})
    with pytest.warns(SoupWarning, match=r'2 of 4 rows have no text in the column "text", first row 1'):
        tell_missing_texts(data, ["text"])
    with pytest.raises(DataError, match='none of the 2 rows has a text in the column "text"'):
        tell_missing_texts(data.select([1, 3]), ["text"])


@pytest.mark.parametrize(
    "content", ['{"text": ["a", "b"], "label": [1, 0]}', '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}']
)
def test_json_with_a_list_for_each_column(tmp_path, content):
    """JSON with one list or one object per column, as pandas and `to_dict` give, is read as rows."""
    assert read(tmp_path, "a.json", content).to_list() == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
