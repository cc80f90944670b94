"""Links out of a folder, pipes, and files too large for their name are neither followed nor copied."""

import os
import shutil
import tracemalloc

import pytest
from safetensors.torch import load_file

import hf_soup
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.errors import IngredientError


COMMIT, BLOB = "a" * 40, "b" * 40
READ = ["config.json", "README.md", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def run(tmp_path, text_runs):
    """A valid checkpoint with a card and a licence, to be damaged."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    (run / "README.md").write_text("---\ntags:\n- mine\n---\n")
    (run / "LICENSE").write_text("free")
    return run


def move_out(path, to):
    """Move a file or folder elsewhere and leave a link in its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    path.rename(to)
    path.symlink_to(to)


@pytest.mark.parametrize("name", READ)
def test_link_out_of_the_folder_is_refused(tmp_path, run, text_runs, name):
    """A file that links out of the folder is refused when it is read."""
    move_out(run / name, tmp_path / "elsewhere" / name)
    with pytest.raises(IngredientError, match="is a link out of its folder"):
        hf_soup.merge([run, text_runs[1]])


def test_link_within_the_folder_and_to_the_folder_are_followed(tmp_path, run, text_runs):
    """Links within the folder, and a link to the folder itself, are followed."""
    move_out(run / "config.json", run / "real.json")
    (tmp_path / "named").symlink_to(run)
    assert hf_soup.check([tmp_path / "named", text_runs[1]]).ok


def test_file_that_is_not_needed_stays_behind(tmp_path, run, text_runs):
    """A licence or folder that links out is left behind, and a note says so."""
    move_out(run / "LICENSE", tmp_path / "elsewhere" / "LICENSE")
    (run / "notes").symlink_to(tmp_path / "elsewhere")
    soup = hf_soup.merge([run, text_runs[1]])
    (note,) = [note for note in soup.plan.report.notes if "leaves behind" in note]
    assert "LICENSE" in note
    assert "notes/" in note
    folder = soup.save_pretrained(tmp_path / "soup")
    assert not {"LICENSE", "notes"} & set(os.listdir(folder))


def test_checkpoint_of_a_trainer_that_is_a_link_is_refused(tmp_path, run):
    """A `checkpoint-1` that links out of its folder is refused."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint-1").symlink_to(run)
    with pytest.raises(IngredientError, match="checkpoint-1 is a link out of its folder"):
        open_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("module", ["1_Pooling", "2_Dense"])
def test_module_that_is_a_link_is_refused(tmp_path, run, module):
    """A module of a SentenceTransformer that links out of its folder is refused."""
    (run / "modules.json").write_text("[]")
    (run / module).mkdir()
    (run / module / "config.json").write_text("{}")
    move_out(run / module, tmp_path / "elsewhere" / module)
    with pytest.raises(IngredientError, match=f"{module} is a link out of its folder"):
        open_checkpoint(run)


def cached(root, run, name, snapshot=f"models--x--y/snapshots/{COMMIT}"):
    """A folder like the Hub's cache, in which one file is a link to a blob."""
    folder = root / snapshot
    folder.parent.mkdir(parents=True)
    shutil.copytree(run, folder)
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    (folder / name).rename(blobs / BLOB)
    (folder / name).symlink_to(os.path.relpath(blobs / BLOB, folder))
    return folder, blobs


@pytest.mark.parametrize("name", READ)
def test_blobs_of_the_same_repository_are_followed(tmp_path, run, name):
    """Links to blobs of the same repository in the Hub's cache are followed."""
    folder, _ = cached(tmp_path, run, name)
    assert open_checkpoint(folder).specs


@pytest.mark.parametrize("snapshot", ["snapshots/run", f"x/snapshots/{COMMIT}", "models--x--y/snapshots/main"])
def test_folder_called_snapshots_is_no_cache(tmp_path, run, snapshot):
    """Folders that only resemble the Hub's cache may not link to `../blobs`."""
    folder, _ = cached(tmp_path, run, "config.json", snapshot)
    with pytest.raises(IngredientError, match="is a link out of its folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("linked", ["blob", "blobs"])
def test_blob_that_leads_elsewhere_is_refused(tmp_path, run, linked):
    """A folder in the form of the cache, whose blobs are links out of it, is refused."""
    folder, blobs = cached(tmp_path, run, "config.json")
    move_out(blobs / BLOB if linked == "blob" else blobs, tmp_path / "elsewhere" / BLOB)
    with pytest.raises(IngredientError, match="is a link out of its folder"):
        open_checkpoint(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", [*READ, "generation_config.json", "trainer_state.json", "modules.json"])
def test_pipes_are_never_waited_for(tmp_path, run, text_runs, name):
    """A pipe in the place of a file that a model needs raises an error at once; other pipes are left behind."""
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    if name == "trainer_state.json":
        assert hf_soup.merge([run, text_runs[1]]).save_pretrained(tmp_path / "soup")
        return
    with pytest.raises(IngredientError, match="not a regular file"):
        hf_soup.merge([run, text_runs[1]])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipe_in_the_place_of_weights_does_not_hang_a_merge(tmp_path, run, text_runs):
    """Weights that are replaced by a pipe after they were opened raise an IngredientError."""
    soup = hf_soup.merge([run, text_runs[1]])
    (run / "model.safetensors").unlink()
    os.mkfifo(run / "model.safetensors")
    with pytest.raises(IngredientError):
        soup.save_pretrained(tmp_path / "soup")


@pytest.mark.parametrize("name", ["README.md", "tokenizer.model", "LICENSE"])
def test_sparse_files_of_gigabytes_cost_nothing(tmp_path, run, text_runs, name):
    """A file too large for its name is neither read nor copied."""
    with (run / name).open("ab") as file:
        file.truncate(4 * 2**30)
    tracemalloc.start()
    try:
        folder = hf_soup.merge([run, text_runs[1]]).save_pretrained(tmp_path / "soup")
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert name == "README.md" or not (folder / name).exists()


def test_files_that_go_along_are_copied_in_pieces(tmp_path, run, text_runs):
    """Copying a large file into a soup takes little memory."""
    with (run / "words.txt").open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        folder = hf_soup.merge([run, text_runs[1]]).save_pretrained(tmp_path / "soup")
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert (folder / "words.txt").stat().st_size == 64 * 2**20
    assert load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["x\udcff.txt", "a\nb.txt", "a\x1b[31m.txt", "\u202etxt"])
def test_names_that_cannot_be_shown_stay_behind(tmp_path, run, text_runs, name):
    """A file whose name is not valid UTF-8 or has control characters is not copied and does not stop a merge."""
    (run / name).write_text("x")
    soup = hf_soup.merge([run, text_runs[1]])
    assert soup.plan.report.table().isprintable() is False  # because of its line breaks
    assert not [line for line in soup.plan.report.table().splitlines() if not line.isprintable()]
    assert name not in os.listdir(soup.save_pretrained(tmp_path / "soup"))


@pytest.mark.parametrize(
    "path", ["a\0b", "x" * 300, "y/" * 3000, "\ud800", "~\0", b"\xff", "a\x1b[31m/b", "~nobody0/x"]
)
def test_impossible_paths_are_one_error(path):
    """An impossible path raises an IngredientError with one printable line."""
    with pytest.raises(IngredientError) as raised:
        open_checkpoint(path)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000
