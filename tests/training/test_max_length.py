"""`max_length` truncates texts in the same way in training, in evaluation and in later evaluations of soups."""

import json

import datasets
import pytest
import transformers

import hf_soup
from hf_soup import plugins, testing
from hf_soup.api.sweep import plan_runs
from hf_soup.data.splits import TrainingData
from hf_soup.errors import RecipeError, TrainingError
from hf_soup.metrics.predictions import losses as example_losses
from hf_soup.options import SweepOptions
from hf_soup.training.planning import plan_sweep


DATA = testing.tiny_texts(32), testing.tiny_texts(16, seed=1)
SHARED = {"max_steps": 1, "batch_size": 16, "max_length": 6}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier that accepts 32 tokens."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, space=({},), shared=SHARED, **options):
    """A small sweep."""
    given = {"validation": DATA[1], **options}
    return hf_soup.sweep(base, DATA[0], space=space, training_args=shared, output_dir=folder, **given)


def longest(encoded):
    """The number of tokens in the longest row."""
    return max(len(ids) for ids in encoded["input_ids"])


def test_training_and_validation_are_cut(base, tmp_path):
    """With `max_length` training and validation texts are truncated, and without it they are not."""
    plan = plan_runs(base, DATA[0], validation=DATA[1], space=[{}], training_args=SHARED, output_dir=tmp_path / "runs")
    assert longest(plan.context.train) == longest(plan.context.validation) == 6
    plain = plan_runs(base, DATA[0], validation=DATA[1], space=[{}], output_dir=tmp_path / "runs")
    assert longest(plain.context.train) > 6


def test_the_length_is_saved(base, tmp_path):
    """The length is saved with the start, the runs and a soup, and they are evaluated on truncated texts."""
    runs = sweep(base, tmp_path / "runs", [{"seed": 0}, {"seed": 1}])
    soup = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    for folder in (tmp_path / "runs" / "start", runs[0].folder, soup):
        assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 6
    tokenizer = plugins.load_module("task", "text-classification").load_processing_class(str(soup))
    cut = []
    for text in DATA[1]["text"]:
        words = tokenizer(text, truncation=True)["input_ids"][1:-1]
        cut.append({"text": tokenizer.decode(words)})
    cut = datasets.Dataset.from_list(cut).add_column("label", DATA[1]["label"][:])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(soup)
    one, two = (evaluator(rows, soup).predict(model).logits for rows in (DATA[1], cut))
    assert (one == two).all()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(runs[0].folder)
    losses = [float(loss) for loss in example_losses(evaluator(cut, soup).predict(model))]
    assert runs[0].state["metrics"]["eval_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def evaluator(rows, folder):
    """An evaluator of rows with the tokenizer in a folder."""
    tokenizer = plugins.load_module("task", "text-classification").load_processing_class(str(folder))
    return hf_soup.Evaluator(rows, task="text-classification", processing_class=tokenizer, cache=False)


def test_another_length_is_another_sweep(base, tmp_path):
    """Changing `max_length` for an existing folder raises a TrainingError; the same length continues the sweep."""
    sweep(base, tmp_path)
    assert len(sweep(base, tmp_path, [{"seed": 1}])) == 1
    for other in ({**SHARED, "max_length": 8}, {"max_steps": 1, "batch_size": 16}):
        with pytest.raises(TrainingError, match="max_length was 6 and is"):
            sweep(base, tmp_path, shared=other)


@pytest.mark.filterwarnings("ignore:1 words have no token among the 4")
@pytest.mark.parametrize("name", ["token-classification", "text2text-generation", "text-generation"])
def test_each_task_of_texts(tmp_path, name):
    """Every text task truncates its inputs and labels."""
    task = plugins.load_module("task", name)
    base = testing.save_model_for(task, tmp_path / "base")
    options = SweepOptions(space=[{}], training_args={"max_length": 4}, keep="last")
    data = TrainingData(testing.example_of(task), None)
    plan = plan_sweep(base, data, options, output_dir=tmp_path / "runs", task=name)
    assert longest(plan.context.train) == 4
    assert max(len(row) for row in plan.context.train["labels"]) == 4


@pytest.mark.parametrize(
    ("shared", "options", "message"),
    [
        ({"max_length": 33}, {}, '"max_length" is 33, and the model takes 32 tokens'),
        ({"max_length": 3}, {}, "3 tokens mark where texts begin and end"),
        ({"max_length": 8.0}, {}, "a whole number of tokens, not 8.0"),
        ({"max_length": "8"}, {}, "a whole number of tokens, not '8'"),
        ({}, {"space": {"max_length": [6, 8]}}, "same for all runs, because the data is encoded once"),
        ({}, {"space": [{"max_length": 6}]}, "same for all runs, because the data is encoded once"),
        ({}, {"probe_args": {"max_length": 6}}, "same for all runs, because the data is encoded once"),
    ],
)
def test_bad_lengths(base, tmp_path, shared, options, message):
    """Invalid lengths raise a RecipeError before anything is written."""
    with pytest.raises(RecipeError, match=message):
        sweep(base, tmp_path / "runs", shared=shared, **options)
    assert not (tmp_path / "runs").exists()


def test_images_have_no_length(tmp_path):
    """`max_length` for an image model raises a RecipeError."""
    base = testing.save_image_model(testing.tiny_image_model(0), tmp_path / "base")
    with pytest.raises(RecipeError, match='"max_length" is for texts'):
        hf_soup.sweep(
            base,
            testing.tiny_images(20),
            validation=testing.tiny_images(10, seed=1),
            space=[{}],
            training_args={"max_length": 6},
            output_dir=tmp_path / "runs",
        )
    assert not (tmp_path / "runs").exists()
