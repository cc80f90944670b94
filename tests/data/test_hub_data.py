"""Data sets on the Hub are read from the Hub only."""

import pytest
from huggingface_hub import HfApi

from hf_soup import testing
from hf_soup.data.load import load_data
from hf_soup.data.splits import load_training, split_names
from hf_soup.errors import DataError


@pytest.fixture
def upload(hub, tmp_path, monkeypatch):
    """A function that uploads a data set of the given files and returns its id."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def make(files):
        name = f"{hub.user}/{tmp_path.name}"
        for path, content in files.items():
            (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        HfApi().create_repo(name, repo_type="dataset")
        HfApi().upload_folder(repo_id=name, folder_path=tmp_path / "files", repo_type="dataset")
        return name

    return make


def test_words_of_the_hub_stay_words(upload):
    """Words such as `null` in CSV files stay text, a split named `dev` is used for validation, and hf:// ids work."""
    rows = "text,label\nnull,None\nNA,x\n"
    name = upload({"data/train.csv": rows, "data/dev.csv": rows})
    train, validation = load_training(f"hf://datasets/{name}")
    assert train["text"][:] == validation["text"][:] == ["null", "NA"]
    assert train["label"][:] == ["None", "x"]
    with pytest.raises(DataError, match="could not be loaded"):
        load_data(name, split="nothing")


def test_parquet_of_the_hub(upload, tmp_path):
    """A Parquet data set has the rows and class names of its files."""
    testing.tiny_texts(9).to_parquet(tmp_path / "files" / "data" / "train-00000-of-00001.parquet")
    data = load_data(upload({"README.md": "---\nlicense: mit\n---\n# Data"}), split="train")
    assert data["text"][:] == testing.tiny_texts(9)["text"][:]
    assert data.features["label"].names == ["negative", "positive"]


@pytest.mark.parametrize("file", ["/etc/hostname", "file:///etc/hostname", "../../../../../../etc/hostname"])
def test_files_that_a_card_names_elsewhere(upload, file):
    """A card that refers to data files on the local machine raises a DataError."""
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {file}\n---\n"
    name = upload({"README.md": card, "train.csv": "text,label\na,0\n"})
    for ask in (lambda: load_data(name, split="train"), lambda: split_names(name)):
        with pytest.raises(DataError):
            ask()
