"""A warning is given if data lacks classes, as a slice of sorted data does, but not if this may be due to chance."""

import datasets
import numpy as np
import pytest
import torch
import transformers

import hf_soup
from hf_soup import testing
from hf_soup.api.sweep import plan_runs
from hf_soup.data.classes import missing_classes, subset_of
from hf_soup.data.load import load_data
from hf_soup.data.splits import carve
from hf_soup.errors import DataError, EvaluationError, SoupWarning


LETTERS = "abcdefg"
NAMES = dict(enumerate(LETTERS))


def rows(labels, names=LETTERS):
    """Examples with the given classes."""
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=list(names)))
    return datasets.Dataset.from_dict({"text": ["good film"] * len(labels), "label": labels}, features=features)


SORTED = rows(np.repeat(np.arange(7), 60).tolist())


def test_the_first_rows_of_sorted_data_lack_classes():
    """A slice of sorted data is reported with the names of its missing classes, from the model or the uncut data."""
    missing = missing_classes(SORTED.select(range(240)), "label", NAMES)
    assert missing == (("e", "f", "g"), 7, 240)
    assert "4 of 7 classes and none of e, f, g, which 240 rows taken at random would have" in missing.message("train")
    cut = load_data(SORTED, split="train[:240]")
    assert missing_classes(cut, "label", NAMES) == missing
    words = SORTED.map(lambda row: {"name": LETTERS[row["label"]]}).remove_columns("label")
    assert missing_classes(load_data(words, split="train[:240]"), "name", {}) == missing
    assert missing_classes(load_data(cut, split="train[:100]"), "label", NAMES).names == ("c", "d", "e", "f", "g")


@pytest.mark.parametrize("n", [3, 10, 40, 420])
def test_rows_at_random_are_no_such_slice(n):
    """Randomly drawn rows, however few, are almost never reported."""
    parts = [SORTED.shuffle(seed=seed).select(range(n)) for seed in range(20)]
    assert sum(missing_classes(part, "label", NAMES) is not None for part in parts) <= 1


def test_classes_that_were_chosen_are_no_slice():
    """Shuffled data that holds only some classes, as for a model that learns the others later, is not reported."""
    chosen = SORTED.shuffle(seed=0).filter(lambda row: row["label"] < 3)
    assert missing_classes(chosen, "label", NAMES) is None
    assert missing_classes(chosen.sort("label"), "label", NAMES).names == ("d", "e", "f", "g")


def test_rare_classes_may_be_missing():
    """Missing classes are not reported if they are known to be rare, or if there are too few rows to tell."""
    rare = rows([0] * 500 + [1] * 500 + [2, 3]).shuffle(seed=0)
    part = rare.filter(lambda row: row["label"] < 2).select(range(300)).sort("label")
    assert missing_classes(part, "label", NAMES) is not None
    assert missing_classes(subset_of(part.select(range(299)), rare), "label", NAMES) is None
    assert missing_classes(rows([1] * 9, "ab"), "label", {0: "a", 1: "b"}) is None
    assert missing_classes(rows([1] * 10, "ab"), "label", {0: "a", 1: "b"}) == (("a",), 2, 10)
    assert missing_classes(load_data(SORTED, split="train[:4]"), "label", NAMES).names == tuple("bcdefg")


def test_validation_data_that_is_kept_apart_is_compared_with_the_whole():
    """After a slice is split into training and validation data, the missing classes of both parts are reported."""
    with pytest.warns(SoupWarning, match="kept for it"):
        train, validation = carve(load_data(SORTED, split="train[:240]"))
    assert missing_classes(train, "label", NAMES).names == ("e", "f", "g")
    assert missing_classes(validation, "label", NAMES) is not None


def test_an_evaluator_says_it_once(tmp_path):
    """An evaluator warns about missing classes once for each set of examples."""
    model = testing.tiny_text_model(0, labels=list(LETTERS))
    folder = str(testing.save_text_model(model, tmp_path / "model"))
    evaluator = hf_soup.Evaluator(SORTED.select(range(120)), cache=False).bound(folder, "text-classification")
    with pytest.warns(SoupWarning, match="validation has examples of 2 of 7 classes") as notes:
        evaluator(model)
    assert len(notes) == 1
    evaluator(model)


def test_a_sweep_says_it_of_both_sets(tmp_path):
    """A sweep warns about classes that are missing from the training data or from the validation data."""
    base = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")
    given = {"space": {"seed": [0]}, "output_dir": tmp_path / "runs"}
    with pytest.warns(SoupWarning) as notes:
        plan_runs(base, SORTED.select(range(120)), validation=SORTED.select(range(120, 420)), **given)
    assert [str(note.message).split(" classes")[0] for note in notes] == [
        "train has examples of 2 of 7",
        "validation has examples of 5 of 7",
    ]


def test_a_sweep_of_named_labels_says_why_one_is_unknown(tmp_path):
    """If training data lacks classes named by strings, a warning precedes the error about unknown labels."""
    words = SORTED.map(lambda row: {"name": LETTERS[row["label"]]}).remove_columns("label")
    train, validation = load_data(words, split="train[:120]"), words.shuffle(seed=0).select(range(50))
    base = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")
    given = {"space": {"seed": [0]}, "output_dir": tmp_path / "runs", "label_column": "name"}
    with (
        pytest.warns(SoupWarning, match="train has examples of 2 of 7 classes and none of c, d, e, f, g"),
        pytest.raises(DataError, match='no class "c"'),
    ):
        plan_runs(base, train, validation=validation, **given)


def test_batchnorm_says_it():
    """Missing classes are reported for BatchNorm batches with labels; a batch the model cannot take is an error."""
    small = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic", "num_labels": 7}
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**small))
    batch = {"pixel_values": torch.randn(16, 3, 8, 8), "labels": torch.arange(16) % 2}
    with pytest.warns(SoupWarning, match="data for BatchNorm has examples of 2 of 7 classes"):
        hf_soup.update_batchnorm(model, [batch])
    hf_soup.update_batchnorm(model, [{**batch, "labels": torch.arange(16) % 7}])
    hf_soup.update_batchnorm(model, [batch["pixel_values"]])
    with pytest.raises(EvaluationError, match="fails on a batch for BatchNorm"):
        hf_soup.update_batchnorm(model, [torch.randn(2, 5, 3, 3)])
