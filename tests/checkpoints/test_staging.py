"""Tests of writing: output appears complete, replaces old output at once, is flushed, and leaves no other files."""

import contextlib
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import staging
from hf_soup.checkpoints.staging import clear_files_aside, staged_files, staged_folder, temporary_folder, write_json
from hf_soup.errors import OutputError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def steps(monkeypatch):
    """The steps of flushing and exchanging in order, by the last part of the name."""
    steps = []

    def flush(descriptor):
        steps.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name.rpartition('.')[2]}")

    def exchange(first, second):
        steps.append("exchange")
        return real(first, second)

    real = staging.exchange
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(staging, "exchange", exchange)
    return steps


def names(folder):
    """The names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def old_folder(path):
    """An existing folder with one file."""
    path.mkdir(parents=True)
    (path / "old").write_text("old")
    return path


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@linux
def test_files_are_on_the_disk_before_the_name_is_taken(tmp_path, steps):
    """Files are flushed first, then their folders, then the folders are exchanged, then the parent is flushed."""
    out = old_folder(tmp_path / "place" / "out")
    with staged_folder(out, overwrite=True) as stage:
        (stage / "one").write_text("1")
        (stage / "deep").mkdir()
        (stage / "deep" / "two").write_text("2")
    assert steps == ["flush two", "flush deep", "flush one", "flush partial", "exchange", "flush place"]


@linux
def test_the_name_is_never_empty_while_it_is_overwritten(tmp_path, monkeypatch):
    """An existing folder is replaced by exchanging two names, without a rename that would leave its name unused."""

    def refuse(*_):
        raise AssertionError("renamed")

    out = old_folder(tmp_path / "out")
    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with staged_folder(out, overwrite=True) as stage:
        (stage / "new").write_text("new")
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


def test_two_renames_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    """Without an exchange, two renames replace the folder, and if the second fails the old one is restored."""
    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    out = old_folder(tmp_path / "out")
    with staged_folder(out, overwrite=True) as stage:
        (stage / "new").write_text("new")
    assert names(out) == ["new"]
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(staged_folder(out, overwrite=True))
        monkeypatch.setattr(Path, "rename", failing_rename(stage))
        with pytest.raises(OutputError, match="Input/output error"):
            stack.close()
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


def failing_rename(stage):
    """A `Path.rename` that fails for one folder."""
    real = Path.rename

    def rename(path, target):
        if path == stage:
            raise OSError(5, "Input/output error")
        return real(path, target)

    return rename


def test_a_link_to_nothing_is_made_where_it_leads(tmp_path):
    """A link to a missing folder is followed; a link to itself is refused."""
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    with staged_folder(tmp_path / "out") as stage:
        (stage / "new").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "disk" / "real") == ["new"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="leads to itself"), staged_folder(tmp_path / "loop", overwrite=True):
        pass


def test_the_next_temporary_folder_clears_what_a_killed_process_left(place):
    """A new temporary folder deletes those of killed processes, but not those in use or of other programs."""
    (place / ".hf_soup.abc12345.partial" / "deep").mkdir(parents=True)
    (place / ".other.abc12345.partial").mkdir()
    with temporary_folder() as first, temporary_folder() as second:
        assert names(place) == sorted([".other.abc12345.partial", first.name, second.name])
    assert names(place) == [".other.abc12345.partial"]


def test_files_that_a_killed_process_left_aside_are_cleared(tmp_path):
    """A write deletes old temporary files of killed processes in its folder; recent and other files are kept."""
    old, young = tmp_path / ".one.1-1.partial.json", tmp_path / ".two.1-2.partial.json"
    others = tmp_path / ".notes.partial.json"
    for path in (old, young, others):
        path.touch()
    for path in (old, others):
        os.utime(path, (0, 0))
    write_json(tmp_path / "new.json", {})
    assert names(tmp_path) == sorted([others.name, young.name, "new.json"])
    clear_files_aside(tmp_path.rglob("*"))
    assert names(tmp_path) == sorted([others.name, "new.json"])


def test_a_merge_clears_what_a_killed_push_left(tmp_path, place):
    """Staging a folder deletes temporary folders of killed processes, but not those in use."""
    (place / ".hf_soup.abc12345.partial").mkdir()
    with temporary_folder() as at_work, staged_folder(tmp_path / "out"):
        assert names(place) == [at_work.name]


def test_a_push_clears_what_a_killed_push_left(hub, text_runs, tmp_path, place):
    """A push deletes the temporary folder that an interrupted push left behind."""
    left = place / ".hf_soup.abc12345.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(1000))
    hf_soup.merge(text_runs[:2]).push_to_hub(f"{hub.user}/{tmp_path.name}")
    assert names(place) == []


def test_reports_appear_whole(tmp_path):
    """A report appears with all its files, keeps other files in its folder, and keeps the old report on failure."""
    with staged_files(tmp_path / "report") as stage:
        (stage / "one").write_text("1")
        assert not (tmp_path / "report").exists()
    (tmp_path / "report" / "notes").write_text("mine")
    with pytest.raises(OutputError, match="No such file"), staged_files(tmp_path / "report") as stage:
        (stage / "one").rename(stage / "two")
    assert (tmp_path / "report" / "one").read_text() == "1"
    with staged_files(tmp_path / "report") as stage:
        (stage / "one").write_text("2")
        assert (tmp_path / "report" / "one").read_text() == "1"
    assert (tmp_path / "report" / "one").read_text() == "2"
    assert names(tmp_path / "report") == ["notes", "one"]


def test_half_a_comparison_or_analysis_is_never_seen(tmp_path, text_runs, monkeypatch):
    """If the last file cannot be written, no folder of the report appears."""
    from matplotlib.figure import Figure

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    comparison = hf_soup.compare(hf_soup.merge(text_runs[:2]), test=testing.tiny_texts(8))
    analysis = hf_soup.analyze(text_runs[:2])
    monkeypatch.setattr(Figure, "savefig", fail)
    for number, result in enumerate((comparison, analysis)):
        with pytest.raises(OutputError, match="No space left"):
            result.save(tmp_path / str(number))
    assert names(tmp_path) == []


def test_several_threads_write_one_file(tmp_path):
    """Threads that write the same file use separate temporary names, and the file is complete."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: write_json(tmp_path / "a.json", {"number": number}), range(60)))
    assert "number" in json.loads((tmp_path / "a.json").read_text())
    assert names(tmp_path) == ["a.json"]
