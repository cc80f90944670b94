"""The start of all runs: the origin of its head, which all runs share, and the effect on a soup."""

import warnings

import datasets
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import plugins, testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import DataError, RecipeError, TrainingError


TEXTS = testing.tiny_texts(64), testing.tiny_texts(32, seed=1)
ARGS = {"max_steps": 2, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A pretrained body without a head."""
    folder = tmp_path_factory.mktemp("body") / "base"
    testing.save_text_model(testing.tiny_text_model(5), folder)
    with quiet_transformers():
        transformers.AutoModel.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier with a head for the same labels."""
    return testing.save_text_model(testing.tiny_text_model(6), tmp_path_factory.mktemp("full") / "base")


def sweep(base, folder, space=({"seed": 0},), data=TEXTS, **options):
    """A short sweep."""
    given = {"validation": data[1], "space": list(space), "training_args": ARGS, **options}
    return hf_soup.sweep(base, data[0], output_dir=folder, **given)


def start_of(runs):
    """The weights that all runs start from."""
    return load_file(runs.base_model / "model.safetensors")


def test_the_head_of_the_checkpoint_is_kept_or_not(classifier, tmp_path):
    """`auto` and `checkpoint` keep a head for the same labels, `new` draws one from its seed; the body stays."""
    own = load_file(classifier / "model.safetensors")
    found = {
        name: start_of(sweep(classifier, tmp_path / name, **options))
        for name, options in {
            "auto": {},
            "checkpoint": {"head": "checkpoint"},
            "new": {"head": "new"},
            "other": {"head": "new", "init_seed": 1},
        }.items()
    }
    for name, start in found.items():
        kept = name in ("auto", "checkpoint")
        assert torch.equal(start["classifier.weight"], own["classifier.weight"]) == kept, name
        assert all(torch.equal(start[key], own[key]) for key in own if key.startswith("bert.")), name
    assert not torch.equal(found["new"]["classifier.weight"], found["other"]["classifier.weight"])


def test_a_new_head_does_not_depend_on_what_was_there(body, classifier, tmp_path):
    """The same `init_seed` gives the same head for a bare body and for a classifier."""
    heads = [start_of(sweep(base, tmp_path / base.parent.name, head="new")) for base in (body, classifier)]
    assert torch.equal(heads[0]["classifier.weight"], heads[1]["classifier.weight"])


def test_auto_takes_no_head_for_other_labels(classifier, tmp_path):
    """`auto` keeps no head for classes with other names; for the same names in another order it keeps the head."""
    names = datasets.ClassLabel(names=["spam", "mail"])
    other = tuple(part.cast_column("label", names) for part in TEXTS)
    start = sweep(classifier, tmp_path / "other", data=other)
    own = load_file(classifier / "model.safetensors")
    assert not torch.equal(start_of(start)["classifier.weight"], own["classifier.weight"])
    swapped = datasets.ClassLabel(names=["positive", "negative"])
    turned = tuple(
        part.map(lambda row: {"label": 1 - row["label"]}, keep_in_memory=True).cast_column("label", swapped)
        for part in TEXTS
    )
    runs = sweep(classifier, tmp_path / "turned", data=turned)
    straight = sweep(classifier, tmp_path / "straight")
    assert runs[0].state["metrics"] == straight[0].state["metrics"]
    one, two = (load_file(found[0].folder / "model.safetensors") for found in (runs, straight))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_probe_trains_the_head_alone(body, tmp_path):
    """A probe leaves the body unchanged, and its head has a lower loss than a new one."""
    texts = testing.tiny_texts(200), testing.tiny_texts(100, seed=1)
    options = {"data": texts, "probe_args": {"max_steps": 150, "learning_rate": 0.1}}
    probed, fresh = (sweep(body, tmp_path / head, head=head, **options) for head in ("probe", "new"))
    own = load_file(body / "model.safetensors")
    start = start_of(probed)
    assert all(torch.equal(start[f"bert.{key}"], own[key]) for key in own)
    scores = []
    for runs in (probed, fresh):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(runs.base_model)
        scores.append(hf_soup.Evaluator(texts[0], metric="loss")(model).value)
    assert scores[0] < scores[1] - 0.003  # only a little, because the body is not trained


def test_a_probe_leaves_batchnorm_alone(tmp_path):
    """A probe leaves the running statistics of the frozen body unchanged."""
    processor = testing.model_for(plugins.load_module("task", "image-classification"))[1]
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.set_seed(0)
    with quiet_transformers():
        transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "base")
        processor.save_pretrained(tmp_path / "base")
    images = testing.tiny_images(24), testing.tiny_images(12, seed=1)
    start = start_of(sweep(tmp_path / "base", tmp_path / "runs", data=images, head="probe"))
    own = load_file(tmp_path / "base" / "model.safetensors")
    statistics = [name for name in own if "running" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(start[name], own[name]) for name in statistics)
    assert not torch.equal(start["classifier.1.weight"], own["classifier.1.weight"])


def test_independent_heads_differ(body, tmp_path):
    """With `head="independent"` each run draws its own head, and a warning says that averages are rarely good."""
    space = [{"seed": 0, "learning_rate": 1e-9}, {"seed": 1, "learning_rate": 1e-9}]
    with pytest.warns(UserWarning, match="independent.* averages"):
        runs = sweep(body, tmp_path, space, head="independent")
    heads = [load_file(run.folder / "model.safetensors")["classifier.weight"] for run in runs]
    start = start_of(runs)
    assert abs(torch.cosine_similarity(heads[0].flatten(), heads[1].flatten(), dim=0)) < 0.9
    one, two = (load_file(run.folder / "model.safetensors") for run in runs)
    assert all(torch.allclose(one[key], start[key], atol=1e-6) for key in one if key.startswith("bert."))
    assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in one if key.startswith("bert."))


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        ("checkpoint", TrainingError, 'no head for this task: write head="new"'),
        ("prob", RecipeError, 'head is one of .* did you mean "probe"'),
    ],
)
def test_heads_that_cannot_be(body, tmp_path, head, error, message):
    """A head that the checkpoint lacks, or an unknown value of `head`, raises an error."""
    with pytest.raises(error, match=message):
        sweep(body, tmp_path / "runs", head=head)
    assert not (tmp_path / "runs").exists()


def test_more_labels_than_the_head(classifier, tmp_path):
    """Data with a class that the checkpoint's head lacks raises a DataError that names it."""
    names = datasets.ClassLabel(names=["negative", "positive", "neutral"])
    more = tuple(part.cast_column("label", names) for part in TEXTS)
    with pytest.raises(DataError, match='no class "neutral"'):
        sweep(classifier, tmp_path / "runs", data=more, head="checkpoint")


def test_a_language_model_has_no_head_of_its_own(tmp_path):
    """A probe of a language model, which has no separate head, raises a RecipeError."""
    task = plugins.load_module("task", "text-generation")
    base = testing.save_model_for(task, tmp_path / "base")
    data = testing.example_of(task)
    with pytest.raises(RecipeError, match="have no separate head"):
        sweep(base, tmp_path / "runs", data=(data, data), task="text-generation", head="probe")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A small ViT trained on half of the digits, with a training set and a test set of all digits."""
    from hf_soup.data.load import load_data

    folder = tmp_path_factory.mktemp("digits")
    train, new, test = (
        load_data("sklearn.datasets:load_digits", split=part)
        for part in ("train[:800]", "train[800:1100]", "train[1100:]")
    )
    base = testing.save_image_model(
        testing.tiny_image_model(0, classes=10, hidden_size=48, intermediate_size=96), folder / "base"
    )
    low = train.filter(lambda label: label < 5, input_columns="label", keep_in_memory=True)
    args = {"epochs": 30, "batch_size": 32, "learning_rate": 2e-3}
    # no checkpoint is selected by score, but each epoch evaluates on the validation data
    options = {"validation": low.select(range(20)), "keep": "last", "training_args": args, "head": "checkpoint"}
    pretrained = hf_soup.sweep(base, low, space=[{}], output_dir=folder / "runs", **options)
    return pretrained[0].folder, new, test


def load_image_processor(runs):
    """The image processor that all runs share."""
    return plugins.load_module("task", "image-classification").load_processing_class(runs.base_model)


def test_shared_heads_make_a_soup_and_independent_ones_do_not(digits, tmp_path):
    """Averaging runs with a shared head costs little accuracy on digits; with independent heads it costs much."""
    base, train, test = digits
    losses = {}
    for head in ("new", "probe", "independent"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message='.*"independent".*')
            runs = hf_soup.sweep(
                base,
                train,
                validation=test.select(range(20)),
                space={"seed": range(3)},
                head=head,
                keep="last",
                output_dir=tmp_path / head,
                training_args={"epochs": 8, "batch_size": 32, "learning_rate": 2e-3},
            )
        soup = hf_soup.merge(runs)
        score = hf_soup.Evaluator(test, processing_class=load_image_processor(runs))
        alone = [score(hf_soup.merge([run]).model).value for run in runs]
        losses[head] = np.mean(alone) - score(soup.model).value
    assert max(losses["new"], losses["probe"]) < 0.05  # measured: 0.01 and 0
    assert losses["independent"] > 0.12  # measured: 0.19
