"""Tests that a target that cannot be written is refused before any work."""

import os
from pathlib import Path

import pytest
from command import run

import hf_soup
import hf_soup.api.cook  # before its functions are replaced
from hf_soup import testing
from hf_soup.checkpoints import targets
from hf_soup.checkpoints.targets import refuse_file, refuse_folder, refuse_target
from hf_soup.errors import OutputError


KINDS = {
    "a file": "a file",
    "below a file": "below .* which is a file",
    "deep below a file": "below .* which is a file",
    "a place without files": "cannot write",
    "a long name": "File name too long",
    "a longer name": "File name too long",
    "a long path": "File name too long",
    "a NUL": "null byte",
    "half a character": "not the path",
    "a user who is none": "home directory",
}
COOK = """
base_model: base
data: {path: data}
sweep: {space: {seed: [0]}}
merge: {strategy: uniform}
output_dir: OUT
"""


def bad_target(kind, folder):
    """A path that cannot be written."""
    (folder / "file").write_text("x")
    if kind == "a place without files" and not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    return {
        "a file": folder / "file",
        "below a file": folder / "file" / "out",
        "deep below a file": folder / "file" / "deep" / "out",
        "a place without files": Path("/proc/hf_soup"),
        "a long name": folder / ("x" * 250),
        "a longer name": folder / ("x" * 300) / "out",
        "a long path": folder.joinpath(*["x" * 200] * 25),
        "a NUL": f"{folder}/a\0b",
        "half a character": f"{folder}/a\ud800b",
        "a user who is none": "~no-such-user-here/out",
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", [refuse_target, refuse_folder])
def test_what_cannot_be_a_folder_is_refused(tmp_path, kind, check):
    """An invalid target folder raises an OutputError with the reason, and the check leaves no files."""
    target = bad_target(kind, tmp_path)
    with pytest.raises(OutputError, match=KINDS[kind]):
        check(target)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a file"])
def test_what_cannot_be_a_file_is_refused(tmp_path, kind):
    """An invalid target file raises an OutputError with the reason, as does a folder."""
    with pytest.raises(OutputError, match=KINDS[kind]):
        refuse_file(bad_target(kind, tmp_path))
    with pytest.raises(OutputError, match="is a folder; name a file"):
        refuse_file(tmp_path)


def test_a_mount_point_cannot_be_replaced(tmp_path, monkeypatch):
    """A mount point cannot be replaced, but folders inside it can be written."""
    place = tmp_path / "a place"
    place.mkdir()
    monkeypatch.setattr(targets, "MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text(f"1 2 8:1 /x {str(place).replace(' ', chr(92) + '040')} rw - ext4 /dev/vda rw\n")
    with pytest.raises(OutputError, match="is a mount point"):
        refuse_target(place, overwrite=True)
    assert refuse_target(place / "in it") == place / "in it"
    assert refuse_folder(place) == place


def test_a_folder_that_is_read_only_is_refused(tmp_path, monkeypatch):
    """`overwrite=True` does not replace a read-only folder."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path / "out")
    with pytest.raises(OutputError, match="read-only"):
        refuse_target(tmp_path / "out", overwrite=True)


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    """If the current folder was deleted, relative targets are refused, and absolute ones are accepted."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(OutputError, match="current folder, which is gone"):
        refuse_target("out")
    assert refuse_target(tmp_path / "out") == tmp_path / "out"


@pytest.mark.parametrize("kind", ["a file", "below a file", "a place without files"])
@pytest.mark.parametrize("verb", ["merge", "sweep", "cook", "cook a recipe", "compare", "analyze", "runs"])
def test_every_command_refuses_before_its_work(tmp_path, monkeypatch, verb, kind):
    """Every command fails with one line and exit code 1 before any data or model is read."""
    target = str(bad_target(kind, tmp_path))
    if verb == "runs":
        target = str(tmp_path) if kind == "a file" else target
    (tmp_path / "cook.yaml").write_text(COOK)
    (tmp_path / "recipe.yaml").write_text("hf_soup_recipe: 1\n")
    commands = {
        "merge": ["merge", "a", "b", "-o", target],
        "sweep": ["sweep", "base", "--data", "data", "--seed", "0,1", "-o", target],
        "cook": ["cook", tmp_path / "cook.yaml", "-o", target],
        "cook a recipe": ["cook", tmp_path / "recipe.yaml", "-o", target],
        "compare": ["compare", "a", "b", "--test", "data", "-o", target],
        "analyze": ["analyze", "a", "b", "--data", "data", "-o", target],
        "runs": ["runs", tmp_path, "--plot", target],
    }

    def work(*_, **__):
        raise AssertionError("work has begun")

    for name in ("merge", "compare", "analyze", "load_sweep"):
        monkeypatch.setattr(hf_soup, name, work)
    for name in ("data.load.load_data", "data.splits.load_training", "api.cook.load_examples", "api.cook.load_recipe"):
        monkeypatch.setattr(f"hf_soup.{name}", work)
    done = run(*commands[verb])
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert target in done.stderr


def test_python_is_refused_before_the_work_as_well(tmp_path):
    """`sweep` refuses the target before it loads data, and `save_pretrained` before it reads tensors."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="below"):
        hf_soup.sweep("no/model", "no/data", space={"seed": [0]}, output_dir=tmp_path / "file" / "runs")
    soup = hf_soup.merge([testing.tiny_text_model(0), testing.tiny_text_model(1)])
    with pytest.raises(OutputError, match="below"):
        soup.save_pretrained(tmp_path / "file" / "soup")


def test_a_picture_of_no_known_format_is_refused(tmp_path):
    """A picture of an unknown format is refused with the list of formats, and existing files are kept."""
    from matplotlib.figure import Figure

    from hf_soup.checkpoints.staging import save_figure

    with pytest.raises(OutputError, match=r"does not end in any of .*png"):
        save_figure(Figure(), tmp_path / "plot.xyz")
    save_figure(Figure(), tmp_path / "plot.png")
    assert os.listdir(tmp_path) == ["plot.png"]
