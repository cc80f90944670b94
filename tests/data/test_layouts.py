"""The usual layouts of data folders, and names for which no data exists."""

import json
import os
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from hf_soup import testing
from hf_soup.data.content import hash_content
from hf_soup.data.load import load_data, split_data_source
from hf_soup.data.splits import load_training, split_names
from hf_soup.errors import DataError, SoupWarning


TEXTS = testing.tiny_texts(20)
PARTS = datasets.DatasetDict(train=TEXTS.select(range(12)), validation=TEXTS.select(range(12, 20)))


def put(folder, files):
    """Write files, given as text or as data sets, to a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            {".csv": content.to_csv, ".jsonl": content.to_json, ".parquet": content.to_parquet}[path.suffix](path)
    return str(folder)


def shards(split, ending="parquet", folder="data"):
    """Two files for one split, named as on the Hub."""
    half = len(PARTS[split]) // 2
    rows = [PARTS[split].select(range(half)), PARTS[split].select(range(half, len(PARTS[split])))]
    return {f"{folder}/{split}-0000{n}-of-00002.{ending}": part for n, part in enumerate(rows)}


LAYOUTS = {
    "shards in data/": shards("train") | shards("validation"),
    "shards in the root": shards("train", "csv", ".") | {"validation.csv": PARTS["validation"]},
    "hashes in names": {
        "data/train-00000-of-00001-0123abcd.parquet": PARTS["train"],
        "data/valid.parquet": PARTS["validation"],
    },
    "one file in data/": {"data/train.jsonl": PARTS["train"], "data/val.jsonl": PARTS["validation"]},
    "dev": {"train.csv": PARTS["train"], "dev.csv": PARTS["validation"], "dev_notes.csv": "a,b\n1,2\n"},
    "a folder each": {"train/0000.parquet": PARTS["train"], "validation/a.parquet": PARTS["validation"]},
    "capitals": {"train.CSV": "", "validation.parquet": PARTS["validation"]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_hub(tmp_path, layout):
    """In each layout, each split has exactly its rows, in order."""
    files = dict(LAYOUTS[layout])
    folder = put(tmp_path, files | {"README.md": "---\nconfigs:\n- data_files: /etc/passwd\n---\n", "run.py": "1/0"})
    if layout == "capitals":
        PARTS["train"].to_csv(tmp_path / "train.CSV")
    train, validation = load_training(folder)
    assert (train["text"][:], validation["text"][:]) == (PARTS["train"]["text"][:], PARTS["validation"]["text"][:])
    assert len(load_data(folder, split="train[2:5]")) == 3


@pytest.mark.parametrize("splits", [True, False])
def test_what_save_to_disk_wrote(tmp_path, splits):
    """`save_to_disk` folders are read anew each time, with or without splits, and nothing is written to them."""
    data = PARTS if splits else PARTS["train"]
    for part in (data, data.map(lambda row: {"text": row["text"].upper()})):
        part.save_to_disk(tmp_path / "saved")
        assert split_names(str(tmp_path / "saved")) == (list(PARTS) if splits else [])
        loaded = load_data(str(tmp_path / "saved"), split="train")
        wanted = part["train"] if splits else part
        assert loaded.to_dict() == wanted.to_dict()
        assert loaded.features == wanted.features
        before = sorted(tmp_path.rglob("*"))
        loaded.map(lambda row: row)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("state.json", lambda state: state["_data_files"][0].update(filename="../../outside.arrow"), "file of its"),
        ("state.json", lambda state: state["_data_files"][0].update(filename="gone.arrow"), "file of its folder"),
        ("state.json", lambda state: state["_data_files"][0].update(filename=5), "file of its folder"),
        ("state.json", lambda state: state.update(_data_files=3), "cannot be read"),
        ("state.json", lambda state: state.clear(), "cannot be read"),
        ("dataset_info.json", lambda info: info.update(features={"text": {"_type": "os.system"}}), "cannot be read"),
        ("dataset_info.json", lambda info: info.update(features={"other": {"_type": "Value"}}), "cannot be read"),
        ("dataset_info.json", lambda info: info.update(features=[1]), "cannot be read"),
    ],
)
def test_a_saved_folder_of_a_stranger(tmp_path, file, change, message):
    """A tampered `save_to_disk` folder with outside files, unknown kinds or wrong types raises a DataError."""
    TEXTS.save_to_disk(tmp_path / "saved")
    TEXTS.save_to_disk(tmp_path / "other")
    os.rename(tmp_path / "other" / "data-00000-of-00001.arrow", tmp_path / "outside.arrow")
    content = json.loads((tmp_path / "saved" / file).read_text())
    change(content)
    (tmp_path / "saved" / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "saved"), split="train")


def test_damaged_arrow_files_are_an_error(tmp_path):
    """Arrow files with a changed byte or a cut give rows or a DataError, and never crash the process."""
    TEXTS.save_to_disk(tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    whole = file.read_bytes()
    file.unlink()
    for at in range(0, len(whole), 41):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            file.unlink(missing_ok=True)  # data that an earlier data set has mapped stays unchanged
            file.write_bytes(content)
            try:
                hash_content(load_data(str(tmp_path), split="train"))
            except DataError:
                continue


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({"train.csv": TEXTS, "train.jsonl": TEXTS}, "train", "several sources .* train.csv, train.jsonl"),
        ({"dev.csv": TEXTS, "val.csv": TEXTS}, "validation", "but val, dev: name one of them"),
        ({"data/train-00001-of-00003.csv": TEXTS}, "train", 'has 1 of the 3 files of "train"'),
        ({"train.csv.gz": "", "dev.csv": TEXTS}, "train", "train.csv.gz: compressed files are not read"),
        ({"en/train.csv": TEXTS, "de/train.csv": TEXTS}, "train", "configurations, give one as name"),
        ({"train/notes.txt": ""}, "train", "neither tables of examples nor images"),
        ({"train/a.csv": TEXTS, "train/b.jsonl": TEXTS}, "train", "files of several kinds"),
        ({"train/a.csv": TEXTS, "train/b.csv": "a,b\n1,2\n"}, "train", "b.csv has other columns than"),
    ],
)
def test_folders_that_are_not_plain(tmp_path, files, split, message):
    """Ambiguous, incomplete, compressed or mixed files raise a DataError that names them."""
    with pytest.raises(DataError, match=message):
        load_data(put(tmp_path, files), split=split)


def test_a_folder_for_each_configuration(tmp_path):
    """`name` chooses one of several configurations; a misspelt one raises a DataError that lists them."""
    folder = put(tmp_path, {"en/train.csv": PARTS["train"], "de/data/train.csv": PARTS["validation"]})
    assert len(load_data(folder, split="train", name="de")) == len(PARTS["validation"])
    assert split_names(folder, "en") == ["train"]
    with pytest.raises(DataError, match=r'configuration "eng"\. Known: de, en'):
        load_data(folder, split="train", name="eng")


def test_links_out_of_a_folder_are_refused(tmp_path, monkeypatch):
    """Links out of a data folder are refused; links within it, and those in the Hub's cache, are followed."""
    outside = tmp_path / "outside"
    put(outside, {"train.csv": TEXTS})
    testing.tiny_images(1)[0]["image"].save(outside / "a.png")
    for target, link in (("train.csv", "train.csv"), ("", "train"), ("", "data"), ("a.png", "train/a.png")):
        folder = tmp_path / f"folder-{link.replace('/', '-')}"
        (folder / link).parent.mkdir(parents=True)
        (folder / link).symlink_to(outside / target)
        with pytest.raises(DataError, match="is a link out of"):
            load_data(str(folder), split="train")
    put(tmp_path / "own", {"rows.csv": TEXTS})
    (tmp_path / "own" / "train.csv").symlink_to("rows.csv")
    assert len(load_data(str(tmp_path / "own"), split="train")) == 20
    snapshot = tmp_path / "hub" / "datasets--a--b" / "snapshots" / "1"
    put(snapshot / ".." / ".." / "blobs", {"c.csv": TEXTS})
    (snapshot / "train.csv").symlink_to("../../blobs/c.csv")
    with pytest.raises(DataError, match="is a link out of"):
        load_data(str(snapshot), split="train")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert len(load_data(str(snapshot), split="train")) == 20


def image_folder(folder, names):
    """Save images with the given names, each in a different colour."""
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (place, 0, 0)).save(folder / name)


def test_each_image_of_a_split_is_a_row(tmp_path):
    """Classes and image files may have the names of splits, and hidden files are skipped."""
    names = ["train/test/train-1.png", "train/val/a.PNG", "train/val/test_2.png", "train/val/.hidden.png"]
    image_folder(tmp_path, names)
    data = load_data(str(tmp_path), split="train")
    assert data.features["label"].names == ["test", "val"]
    assert data["label"][:] == [0, 1, 1]
    assert [image.getpixel((0, 0))[0] for image in data["image"]] == [0, 1, 2]


def test_metadata_of_images(tmp_path):
    """Rows follow the metadata file; images missing from it cause a warning, and outside paths an error."""
    image_folder(tmp_path / "train", ["a.png", "in/b.png", "c.png"])
    file = tmp_path / "train" / "metadata.csv"
    file.write_text("file_name,label\nin/b.png,NA\na.png,None\n")
    with pytest.warns(SoupWarning, match=r"1 of 3 images .* in no metadata file and left out: c.png"):
        data = load_data(str(tmp_path), split="train")
    assert data["label"][:] == ["NA", "None"]
    assert [image.getpixel((0, 0))[0] for image in data["image"]] == [1, 0]
    for name, message in (("../x.png", "not a path below"), ("/etc/x.png", "not a path below"), ("d.png", "no file")):
        file.write_text(f"file_name,label\n{name},0\n")
        with pytest.raises(DataError, match=f"row 0.*{message}"):
            load_data(str(tmp_path), split="train")


def test_images_that_a_file_names_are_not_opened(tmp_path):
    """A Parquet file that refers to images elsewhere raises a DataError; images stored in it are read."""
    image_folder(tmp_path, ["a.png"])
    for path in (str(tmp_path / "a.png"), "https://example.com/a.png"):
        data = datasets.Dataset.from_dict({"image": [path]}, datasets.Features({"image": datasets.Image()}))
        pa.parquet.write_table(data.data.table, tmp_path / "train.parquet")
        with pytest.raises(DataError, match="does not hold the images"):
            load_data(str(tmp_path), split="train")
    data = datasets.Dataset.from_dict(
        {"image": [Image.new("L", (2, 2))]}, datasets.Features({"image": datasets.Image()})
    )
    data.to_parquet(tmp_path / "train.parquet")
    assert load_data(str(tmp_path), split="train")[0]["image"].size == (2, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_dat", 'no "my_dat".*did you mean "my_data"'),
        ("MY_DATA", 'did you mean "my_data"'),
        ("mydata", 'did you mean "my_data"'),
        ("./my_dat", 'no "my_dat".*did you mean "my_data"'),
        ("my_data/trian", 'no "trian" in my_data.*did you mean "my_data/train"'),
        ("my_data/valdation.csv", 'no "valdation.csv" in my_data.*did you mean "validation.csv"'),
        ("my_data/train/x/y", 'no "x" in my_data/train'),
        ("/no/such/folder", 'no "no" in /'),
        ("~/no-such-folder-here", 'no "no-such-folder-here"'),
        ("missing.parquet", 'no "missing.parquet"'),
        ("broken", "neither a file nor a folder"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_at_once(tmp_path, monkeypatch, name, message):
    """A path that does not exist raises a DataError that suggests the nearest name, without asking the Hub."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "my_data", {"train/a.csv": TEXTS, "validation.csv": TEXTS})
    (tmp_path / "broken").symlink_to("nothing")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: pytest.fail("the Hub was asked"))
    start = time.process_time()
    for ask in (lambda: load_data(name, split="train"), lambda: split_names(name)):
        with pytest.raises(DataError, match=message):
            ask()
    assert time.process_time() - start < 1


def test_names_of_the_hub_are_asked_for_there(tmp_path, monkeypatch):
    """A name that resembles no local one, or begins with hf://datasets/, is looked up on the Hub."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path, {"squad2/train.csv": TEXTS, "owner/glue/train.csv": TEXTS})
    asked = []

    def builder(path, name):
        asked.append(path)
        raise OSError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    for name in ("imdb", "owner/other", "hf://datasets/squad", "hf://datasets/owner/glu"):
        with pytest.raises(DataError, match="could not be loaded as a data set of the Hub: no network"):
            load_data(name, split="train")
    assert asked == ["imdb", "owner/other", "squad", "owner/glu"]


def test_home_is_expanded(tmp_path, monkeypatch):
    """`~` is expanded in paths, which may be `Path` objects; anything but a path raises a DataError."""
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "mine", {"train.csv": TEXTS})
    assert len(load_data("~/mine", split="train")) == len(load_data(Path("~/mine"), split="train")) == 20
    assert split_data_source("~/mine#dev", "train") == (str(tmp_path / "mine"), None, "dev")
    with pytest.raises(DataError, match="not int"):
        load_data(3, split="train")
    with pytest.raises(DataError, match="not NoneType"):
        split_names(None)
