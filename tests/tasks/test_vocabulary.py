"""A token without an embedding in the model raises an error that names it, before the model is run or trained."""

import datasets
import pytest
import transformers

import hf_soup
from hf_soup import testing
from hf_soup.api.sweep import plan_runs
from hf_soup.errors import DataError
from hf_soup.tasks._model_inputs import inputs_of


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
DATA = datasets.Dataset.from_dict({"text": ["good", "bad film"] * 4, "label": [1, 0] * 4})


def tokenizer(*more):
    """A tokenizer with a few words and the given ones."""
    return transformers.BertTokenizer(vocab={word: index for index, word in enumerate([*WORDS, *more])})


def bert(vocabulary=8):
    """A classifier with the given number of token embeddings, by default one per word."""
    return testing.tiny_text_model(0, vocab_size=vocabulary)


def score(data, processing_class, model):
    """The score of a model on some data."""
    return hf_soup.Evaluator(data, cache=False, processing_class=processing_class)(model)


def test_a_token_without_an_embedding():
    """A token without an embedding raises a DataError with its id and row; such tokens not in the data do no harm."""
    larger = tokenizer("plot")
    score(DATA, larger, bert())
    unknown = datasets.Dataset.from_dict({"text": ["good", "bad plot"], "label": [1, 0]})
    message = (
        r"row 1 has the token 'plot' with the id 8, and BertFor.* has 8 token embeddings. BertTokenizer has 9 tokens"
    )
    with pytest.raises(DataError, match=message):
        score(unknown, larger, bert())
    with pytest.raises(DataError, match="row 1 has"):
        list(hf_soup.Evaluator(unknown, cache=False, processing_class=larger).examples.shuffled(bert()))
    encoded = datasets.Dataset.from_dict({"input_ids": [[2, 5], [2, -1]], "label": [1, 0]})
    with pytest.raises(DataError, match="row 1 has a token with the id -1"):
        score(encoded, None, bert())


def test_padding_without_an_embedding():
    """A padding token without an embedding raises a DataError only if rows differ in length."""
    padded = tokenizer("<pad>")
    padded.pad_token = "<pad>"
    model = bert()
    model.config.pad_token_id = None
    with pytest.raises(DataError, match="filled up with the token '<pad>' with the id 8"):
        score(DATA, padded, model)
    score(DATA.select([0, 2, 4]), padded, model)


def test_a_sweep_refuses_before_it_trains(tmp_path):
    """Tokens of the data, or a mask token, without an embedding raise a DataError before training."""
    for name, words in (("small", []), ("large", ["plot"])):
        bert().save_pretrained(tmp_path / name)
        tokenizer(*words).save_pretrained(tmp_path / name)
    data = datasets.Dataset.from_dict({"text": ["good", "bad plot"] * 4, "label": [1, 0] * 4})
    given = {"validation": DATA, "space": {"seed": [0]}, "output_dir": tmp_path / "runs"}
    with pytest.raises(DataError, match="row 1 has the token 'plot'"):
        plan_runs(tmp_path / "large", data, **given)
    masked = tokenizer("<hide>")
    masked.mask_token = "<hide>"
    masked.save_pretrained(tmp_path / "small")
    with pytest.raises(DataError, match="texts are masked with the token '<hide>'"):
        plan_runs(tmp_path / "small", DATA, **given, training_args={"augment": {"mask": 0.2}})
    assert not (tmp_path / "runs").exists()


def test_what_has_no_token_embeddings_has_no_vocabulary():
    """A model of images has no vocabulary."""
    assert inputs_of(testing.tiny_image_model()).vocabulary is None
    assert inputs_of(bert(30)).vocabulary == 30
