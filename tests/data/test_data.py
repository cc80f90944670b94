"""Loading data from every kind of source, and the errors that name what is wrong with it."""

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_soup import testing
from hf_soup.data.columns import find_column, label_ids, label_names
from hf_soup.data.content import hash_content
from hf_soup.data.load import load_data
from hf_soup.data.text_columns import choose_columns
from hf_soup.errors import DataError, RecipeError
from hf_soup.transforms import TRANSFORMS, apply_transform, shifted_copy


@pytest.fixture
def folder(tmp_path):
    """A folder with a file for each split, and one whose name ends with that of a split."""
    for name, rows in (("train", 20), ("validation", 10), ("test", 10), ("other_test", 5)):
        testing.tiny_texts(rows, seed=rows + len(name)).to_csv(tmp_path / f"{name}.csv")
    return tmp_path


def test_files_are_splits_by_their_whole_name(folder):
    """The split `test` is read from test.csv, not from other_test.csv, and slices follow Hugging Face's syntax."""
    assert len(load_data(str(folder), split="test")) == 10
    assert len(load_data(str(folder), split="other_test")) == 5
    assert load_data(str(folder), split="train[5:8]")["text"] == load_data(str(folder), split="train")["text"][5:8]
    assert len(load_data(str(folder), split="train[:25%]")) == 5


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_formats(tmp_path, form):
    """CSV, JSON Lines and Parquet files give the same rows."""
    data = testing.tiny_texts(10)
    write = {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[form]
    write(tmp_path / f"train.{form}")
    assert load_data(str(tmp_path), split="train")["text"] == data["text"]


def test_functions_and_bunches():
    """A function that returns a scikit-learn Bunch, such as `load_digits`, gives images with ten classes."""
    data = load_data("sklearn.datasets:load_digits", split="train[:100]")
    assert len(data) == 100
    assert label_names(data, "label") == [str(n) for n in range(10)]
    assert data[0]["image"].size == (8, 8)


@pytest.mark.parametrize(
    ("path", "split", "message"),
    [
        ("{folder}", "tests", 'no file .* for the split "tests"; did you mean "test"'),
        ("{folder}", "train[30:]", "is empty"),
        ("{folder}", "train[a:]", "Unrecognized|not a slice"),
        ("no.such:function", "train", "cannot be imported"),
        ("builtins:dict", "train", "without images or texts"),
        ("nobody/nothing-at-all", "train", "could not be loaded"),
    ],
)
def test_data_that_is_not_there(folder, path, split, message):
    """A missing split, function or repository raises a DataError that names it."""
    with pytest.raises(DataError, match=message):
        load_data(path.format(folder=folder), split=split)


def test_columns_are_found_or_asked_for():
    """One or two text columns are chosen automatically; three, or a misspelt one, raise a DataError."""
    pair = datasets.Dataset.from_dict({"a": ["x"], "b": ["y"], "label": [0]})
    assert choose_columns(pair, None, "label") == ["a", "b"]
    three = pair.add_column("c", ["z"])
    with pytest.raises(DataError, match=r"3 text columns \(a, b, c\)"):
        choose_columns(three, None, "label")
    assert choose_columns(three, ["c"], "label") == ["c"]
    with pytest.raises(DataError, match='no label column "labe"; did you mean "label"'):
        find_column(pair, "labe")
    with pytest.raises(DataError, match='no label column "label"'):
        find_column(pair.remove_columns("label"), None)


def test_labels_are_matched_by_name():
    """Labels with names get the model's class of that name; unknown and missing labels raise a DataError."""
    data = testing.tiny_texts(20)
    assert label_ids(data, "label", {0: "negative", 1: "positive"}).tolist() == data["label"]
    assert label_ids(data, "label", {0: "positive", 1: "negative"}).tolist() == [1 - label for label in data["label"]]
    words = data.cast_column("label", datasets.Value("int64")).map(lambda row: {"label": ["no", "yes"][row["label"]]})
    assert label_ids(words, "label", {0: "yes", 1: "no"}).tolist() == [1 - label for label in data["label"]]
    with pytest.raises(DataError, match="the model has none for its classes"):
        label_ids(words, "label", {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(DataError, match='no class "negative"'):
        label_ids(data, "label", {0: "ham", 1: "spam"})
    numbers = datasets.Dataset.from_dict({"label": [0, 1, 2]})
    with pytest.raises(DataError, match="go from 2 to 2, the model has 2 classes"):
        label_ids(numbers, "label", {0: "LABEL_0", 1: "LABEL_1"})
    hidden = data.map(lambda row: {"label": -1})
    for missing in (hidden, datasets.Dataset.from_dict({"label": ["a", ""]}), numbers.add_item({"label": None})):
        with pytest.raises(DataError, match="rows have no label"):
            label_ids(missing, "label", {0: "negative", 1: "positive"})
    with pytest.raises(DataError, match="classes are whole numbers or names"):
        label_ids(datasets.Dataset.from_dict({"label": [0.5]}), "label", {0: "a"})


@pytest.mark.parametrize("make", [testing.tiny_texts, testing.tiny_images])
def test_fingerprint_is_of_the_content(make):
    """The fingerprint ignores the order of rows and changes if a row is removed or replaced."""
    data = make(20)
    hashes = hash_content(data)
    assert hash_content(data.select(range(19, -1, -1))).fingerprint == hashes.fingerprint
    assert hash_content(data.select(range(19))).fingerprint != hashes.fingerprint
    assert hash_content(make(20, seed=1)).fingerprint != hashes.fingerprint
    first_ten = hash_content(data.select(range(10))).row_hashes
    assert len(first_ten & hashes.row_hashes) == len(first_ten)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_change_the_image_and_nothing_else(name):
    """Each transform gives another image of the same size and mode, leaves its input alone, and is repeatable."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8))
    before = np.asarray(image).copy()
    strength = {name: {"rotate": 40, "flip": 1}.get(name, 0.4)}
    one, two = (apply_transform(image, strength, np.random.default_rng(1)) for _ in range(2))
    assert (one.size, one.mode) == (image.size, image.mode)
    assert not np.array_equal(one, before)
    assert np.array_equal(one, two)
    assert np.array_equal(image, before)


def test_images_are_told_apart_by_their_pixels(tmp_path):
    """Images have the same hashes under other file names, and a changed image has another hash."""
    images = testing.tiny_images(4)["image"]
    for split, names in (("train", "abcd"), ("test", "wxyz")):
        for index, name in enumerate(names):
            (tmp_path / split / "odd").mkdir(parents=True, exist_ok=True)
            (tmp_path / split / "even").mkdir(exist_ok=True)
            images[index].save(tmp_path / split / ("even", "odd")[index % 2] / f"{name}.png")
    train, test = (hash_content(load_data(str(tmp_path), split=split)) for split in ("train", "test"))
    assert train == test
    images[3].save(tmp_path / "test" / "even" / "w.png")
    assert hash_content(load_data(str(tmp_path), split="test")) != train


def test_a_shifted_copy_is_always_the_same():
    """Shifting the same data twice gives the same fingerprint, which differs from that of the data."""
    data = testing.tiny_images(10)
    one, two = (hash_content(shifted_copy(data, "image", {"rotate": 30, "noise": 0.2})) for _ in range(2))
    assert one.fingerprint == two.fingerprint != hash_content(data).fingerprint
    with pytest.raises(RecipeError, match='no image transform "rotat"; did you mean "rotate"'):
        shifted_copy(data, "image", {"rotat": 3})
    with pytest.raises(RecipeError, match="a positive number"):
        shifted_copy(data, "image", {"rotate": "much"})


def test_classes_that_are_called_by_numbers():
    """Numbers are class names if the model's classes are numbers; an ambiguous number raises a DataError."""
    stars = {index: str(index + 1) for index in range(5)}
    labels = [datasets.Dataset.from_dict({"label": values}) for values in ([5, 1], [0, 4], [1, 2])]
    assert label_ids(labels[0], "label", stars).tolist() == [4, 0]
    assert label_ids(labels[1], "label", stars).tolist() == [0, 4]
    with pytest.raises(DataError, match="may be names of classes"):
        label_ids(labels[2], "label", stars)
    as_words = dict(enumerate(sorted(map(str, range(12)))))
    ids = label_ids(datasets.Dataset.from_dict({"label": [2, 1, 10]}), "label", as_words)
    assert [as_words[index] for index in ids.tolist()] == ["2", "1", "10"]


def test_fewer_class_names_than_a_model_has_classes():
    """Labels with fewer class names than the model has unnamed classes raise a DataError."""
    features = datasets.Features({"label": datasets.ClassLabel(names=["a", "c"])})
    data = datasets.Dataset.from_dict({"label": [0, 1]}, features=features)
    with pytest.raises(DataError, match="2 classes, and the model has 3 without names"):
        label_ids(data, "label", {index: f"LABEL_{index}" for index in range(3)})


def test_whole_numbers_that_pandas_wrote_as_floats():
    """A label that pandas wrote as 1.0 is class 1, whereas 0.5 raises a DataError."""
    names = {0: "LABEL_0", 1: "LABEL_1"}
    assert label_ids(datasets.Dataset.from_dict({"label": [1.0, 0.0]}), "label", names).tolist() == [1, 0]
    with pytest.raises(DataError, match="whole numbers"):
        label_ids(datasets.Dataset.from_dict({"label": [0.5, 0.0]}), "label", names)
