"""The validation split that is made where none exists, and the splits of every kind of data."""

import datasets
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.data.load import load_data
from hf_soup.data.splits import carve, load_training, split_names
from hf_soup.errors import DataError


TEXTS = testing.tiny_texts(200)


def test_a_tenth_is_kept_apart_of_each_class_alike():
    """The carved split is disjoint, stratified, in order, complete and determined by the seed."""
    with pytest.warns(
        UserWarning, match=r"20 of 200 training examples are kept for it \(stratified by label, seed 3\)"
    ):
        train, validation = carve(TEXTS.add_column("id", range(200)), seed=3)
    assert len(validation) == 20
    assert sorted([*train["id"], *validation["id"]]) == list(range(200))
    assert train["id"][:] == sorted(train["id"])
    assert abs(sum(validation["label"]) / 20 - sum(TEXTS["label"]) / 200) <= 0.05
    with pytest.warns(UserWarning, match="no validation split"):
        again, other = (carve(TEXTS.add_column("id", range(200)), seed=seed)[1]["id"][:] for seed in (3, 4))
    assert again == validation["id"][:] != other


@pytest.mark.parametrize("labels", [["a", "b"] * 50, [0.5] * 100, [[0], [1]] * 50, [*range(99), 0]])
def test_labels_of_any_kind(labels):
    """Carving is stratified by class names; for numbers, lists and classes with one example it is not."""
    data = datasets.Dataset.from_dict({"text": ["x"] * 100, "label": labels})
    with pytest.warns(UserWarning, match="stratified" if labels[0] == "a" else r"it \(seed 0\)"):
        train, validation = carve(data)
    assert len(train) + len(validation) == 100


def test_one_example_cannot_be_divided():
    """Carving a validation split from a single example raises a DataError."""
    with pytest.raises(DataError, match="both trained and validated"):
        carve(TEXTS.select([0]))


def test_a_split_that_is_there_is_taken(tmp_path):
    """An existing validation split is used, from a folder, a DatasetDict or a slice of the training split."""
    for name in ("train", "validation"):
        testing.tiny_texts(30, seed=len(name)).to_csv(tmp_path / f"{name}.csv")
    assert sorted(split_names(str(tmp_path))) == ["train", "validation"]
    train, validation = load_training(str(tmp_path))
    assert validation["text"][:] == testing.tiny_texts(30, seed=10)["text"][:]
    both = datasets.DatasetDict(train=train, validation=validation)
    assert load_training(both)[1]["text"][:] == validation["text"][:]
    first, last = load_training(str(tmp_path), train="train[:20]", validation="train[20:]")
    assert (len(first), len(last)) == (20, 10)
    with pytest.raises(DataError, match='no split "test"'):
        load_data(both, split="test")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_folders_of_files(tmp_path, kind):
    """A sweep on a folder of CSV, JSON Lines or Parquet files carves a validation split."""
    getattr(testing.tiny_texts(60), {"jsonl": "to_json"}.get(kind, f"to_{kind}"))(tmp_path / f"train.{kind}")
    base = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base")
    with pytest.warns(UserWarning, match="6 of 60 training examples"):
        runs = hf_soup.sweep(
            base, str(tmp_path), space=[{}], output_dir=tmp_path / "runs", training_args={"max_steps": 1}
        )
    assert runs[0].score.n == 6


@pytest.mark.parametrize("kind", ["parquet", "folders"])
def test_images_in_files(tmp_path, kind):
    """A sweep reads images from Parquet files and from a folder for each class."""
    images = testing.tiny_images(60)
    if kind == "parquet":
        images.to_parquet(tmp_path / "train.parquet")
    else:
        for index, row in enumerate(images):
            folder = tmp_path / "train" / f"class-{row['label']}"
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{index}.png")
    base = testing.save_image_model(testing.tiny_image_model(0, classes=3), tmp_path / "base")
    with pytest.warns(UserWarning, match="6 of 60 training examples"):
        runs = hf_soup.sweep(
            base, str(tmp_path), space=[{}], output_dir=tmp_path / "runs", training_args={"max_steps": 1}
        )
    assert runs[0].score.n == 6
