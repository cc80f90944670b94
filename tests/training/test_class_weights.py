"""Class weights agree with scikit-learn, their loss with torch, and gradient accumulation does not change it."""

import datasets
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import RecipeError
from hf_soup.training.class_weights import WeightedLoss, resolve_class_weights, scored_labels
from hf_soup.training.space import expand_space


CLASSES = ["negative", "positive"]
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def uneven(rows, seed=0):
    """Sentences of which one in four is positive, in random order."""
    texts = testing.tiny_texts(4 * rows, seed)
    negative = [index for index, label in enumerate(texts["label"]) if label == 0]
    positive = [index for index, label in enumerate(texts["label"]) if label == 1]
    chosen = negative[: rows - rows // 4] + positive[: rows // 4]
    return texts.select(np.random.default_rng(seed).permutation(chosen))


DATA = uneven(32), uneven(16, seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier without dropout, so that a training step can be computed by a formula."""
    folder = tmp_path_factory.mktemp("base") / "base"
    return testing.save_text_model(testing.tiny_text_model(5, **STILL), folder)


def sweep(base, folder, *settings, data=DATA, **options):
    """A sweep whose runs take one plain SGD step by default."""
    shared = {"optimizer": "sgd", "scheduler": "constant", "learning_rate": 0.1, "max_grad_norm": 0, "max_steps": 1}
    shared |= {"batch_size": 32, "seed": 0, **options.pop("training_args", {})}
    given = {"validation": data[1], "output_dir": folder, "training_args": shared, "on_error": "raise", **options}
    return hf_soup.sweep(base, data[0], space=list(settings), **given)


def weights(folder):
    """The weights in a folder by name."""
    return load_file(folder / "model.safetensors")


def outputs(logits):
    """Logits as the output of a transformers model."""
    return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(7,), (4, 6)], ids=["rows", "words"])
def test_the_loss_is_the_weighted_mean(shape, smoothing):
    """The loss is the sum of weight times loss divided by the sum of weights, without unscored labels; torch agrees
    with a float64 computation by hand.
    """
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(*shape, 3)) * 3, rng.integers(3, size=shape)
    labels[..., 2] = -100
    weight = np.array([0.5, 2.0, 7.0])
    flat, ids = logits.reshape(-1, 3)[labels.reshape(-1) != -100], labels[labels != -100]
    log = flat - np.log(np.exp(flat).sum(axis=1, keepdims=True))
    right = weight[ids] * -log[np.arange(len(ids)), ids]
    every = (weight * -log).sum(axis=1) / 3
    by_hand = ((1 - smoothing) * right + smoothing * every).sum() / weight[ids].sum()
    by_torch = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, 3),
        torch.tensor(labels).reshape(-1),
        weight=torch.tensor(weight),
        label_smoothing=smoothing,
    )
    assert float(by_torch) == pytest.approx(by_hand, rel=1e-12)
    loss = WeightedLoss(weight.tolist(), smoothing)
    single = torch.tensor(logits, dtype=torch.float32)
    assert float(loss(outputs(single), torch.tensor(labels))) == pytest.approx(by_hand, rel=1e-6)
    scored = torch.tensor(int((labels != -100).sum()))
    assert float(loss(outputs(single), torch.tensor(labels), scored)) == pytest.approx(by_hand, rel=1e-6)


def test_a_batch_without_labels_has_no_loss():
    """The loss of a batch without labels is 0 instead of NaN."""
    logits = torch.randn(3, 2, requires_grad=True)
    loss = WeightedLoss([1.0, 2.0])(outputs(logits), torch.full((3,), -100))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_goes_down_the_weighted_loss(base, tmp_path, smoothing):
    """One SGD step over all rows is the learning rate times the gradient of torch's weighted cross entropy."""
    shared = {"label_smoothing": smoothing, "class_weights": {"positive": 5.0}}
    (run,) = sweep(base, tmp_path, {}, training_args=shared)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "start")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    batch = tokenizer(DATA[0]["text"][:], padding=True, return_tensors="pt")
    logits, labels = model(**batch).logits, torch.tensor(DATA[0]["label"][:])
    weight = torch.tensor([1.0, 5.0])
    loss = torch.nn.functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    loss.backward()
    after = weights(run.folder)
    for name, parameter in model.named_parameters():
        assert torch.allclose(after[name], parameter - 0.1 * parameter.grad, atol=1e-6), name
    assert run.state["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_accumulation_is_one_large_batch(base, tmp_path, task):
    """Accumulating four batches of 8 rows gives the same steps as a batch of 32, although their weights differ."""
    data, folder = DATA, base
    if task == "token-classification":
        rng = np.random.default_rng(0)
        tags = [(rng.random(rng.integers(2, 9)) < 0.2).astype(int).tolist() for _ in range(32)]
        rows = datasets.Dataset.from_dict({"tokens": [["good"] * len(row) for row in tags], "tags": tags})
        data, folder = (rows, rows), tmp_path / "base"
        config = transformers.BertConfig(**testing.TINY["bert"], **STILL, num_labels=2)
        testing.save_text_model(transformers.BertForTokenClassification(config), folder)
    shared = {"class_weights": [1.0, 20.0], "max_steps": 3, "weight_decay": 0.0}
    one = {"batch_size": 32, "gradient_accumulation_steps": 1}
    four = {"batch_size": 8, "gradient_accumulation_steps": 4}
    runs = sweep(folder, tmp_path / "runs", one, four, data=data, training_args=shared)
    whole, parts = (weights(run.folder) for run in runs)
    start = weights(runs.base_model)
    head = "classifier.weight"
    assert (whole[head] - start[head]).abs().max() > 1e-3
    for name, tensor in whole.items():
        assert torch.allclose(tensor, parts[name], atol=1e-6), name
    assert runs[0].state["train_loss"] == pytest.approx(runs[1].state["train_loss"], rel=1e-5)


def test_equal_weights_are_the_plain_loss(base, tmp_path):
    """Equal class weights of any size give the plain loss."""
    plain, alike = sweep(base, tmp_path, {}, {"class_weights": [3.0, 3.0]})
    one, two = weights(plain.folder), weights(alike.folder)
    assert all(torch.allclose(one[name], two[name], atol=1e-7) for name in one)


def test_balanced_is_the_formula():
    """Weights for "balanced" are the number of labels over classes times labels of the class, as in scikit-learn."""
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [2])
    found = resolve_class_weights("balanced", ["a", "b", "c"], labels)
    assert found == pytest.approx([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)])
    assert found == compute_class_weight("balanced", classes=np.arange(3), y=labels).tolist()


def test_mappings_and_lists():
    """A class missing from a mapping has the weight 1, and a list is in the order of the classes."""
    labels = np.array([0, 1])
    assert resolve_class_weights({"positive": 3}, CLASSES, labels) == [1.0, 3.0]
    assert resolve_class_weights([2, 3.5], CLASSES, labels) == [2.0, 3.5]


def test_classes_that_are_numbers():
    """Classes without names can be given by their numbers, classes with names cannot."""
    labels = np.array([0, 1])
    nameless = ["LABEL_0", "LABEL_1"]
    for key in (1, "1", "LABEL_1"):
        assert resolve_class_weights({key: 3}, nameless, labels) == [1.0, 3.0]
    assert resolve_class_weights({5: 3}, ["1", "5"], labels) == [1.0, 3.0]
    with pytest.raises(RecipeError, match='no class "1"'):
        resolve_class_weights({1: 3}, CLASSES, labels)


def test_balanced_in_a_sweep(base, tmp_path):
    """With "balanced" the weights come from the training data, so spelling them out gives the same bits."""
    written = {"negative": 32 / (2 * 24), "positive": 32 / (2 * 8)}
    one, two = sweep(base, tmp_path, {"class_weights": "balanced"}, {"class_weights": written})
    one, two = weights(one.folder), weights(two.folder)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["image-classification", "token-classification", "text-classification"])
def test_each_task_with_classes(tmp_path, name):
    """Class weights change the training of image, text and token classifiers."""
    task = plugins.load_module("task", name)
    base = testing.save_model_for(task, tmp_path / "base")
    rows = testing.example_of(task)
    space = [{}, {"class_weights": "balanced"}]
    plain, weighted = sweep(base, tmp_path / "runs", *space, data=(rows, rows), task=name)
    one, two = weights(plain.folder), weights(weighted.folder)
    assert not torch.equal(one["classifier.weight"], two["classifier.weight"])


def test_words_are_counted_once():
    """A word of several tokens counts once, and unscored tokens are not counted."""
    rows = datasets.Dataset.from_dict({"labels": [[-100, 0, -100, 1], [1], [-100]]})
    assert scored_labels(rows).tolist() == [0, 1, 1]
    assert scored_labels(rows.with_transform(lambda batch: {})).tolist() == [0, 1, 1]
    assert scored_labels(datasets.Dataset.from_dict({"labels": [0, -100, 2]})).tolist() == [0, 2]


@pytest.mark.parametrize(
    "name", ["regression", "multi-label-classification", "text-generation", "text2text-generation"]
)
def test_other_tasks_refuse_them(tmp_path, name):
    """Class weights in a task without one class per row or word raise a RecipeError that names the task."""
    task = plugins.load_module("task", name)
    base = testing.save_model_for(task, tmp_path / "base")
    rows = testing.example_of(task)
    with pytest.raises(RecipeError, match=f"text, image and token classification, and this is {name}"):
        sweep(base, tmp_path / "runs", {"class_weights": "balanced"}, data=(rows, rows), task=name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positiv": 2}, r'no class "positiv"; did you mean "positive"\? Known: negative, positive'),
        ({"positive": 0}, 'the weight of "positive" is a number above 0, not 0'),
        ({"positive": "many"}, 'the weight of "positive" is a number above 0'),
        ({"negative": float("inf")}, 'the weight of "negative" is a number above 0'),
        ([1.0], r"has 1 weights for 2 classes \(negative, positive\)"),
        ("balance", '"class_weights" is "balanced", a mapping of classes to weights, or a list'),
        (2.0, "in a space, write a list in a list"),
    ],
)
@pytest.mark.parametrize("place", ["space", "training_args", "probe_args"])
def test_bad_weights(base, tmp_path, given, message, place):
    """Invalid class weights raise a RecipeError before anything is written, wherever they are given."""
    setting, options = {}, {}
    if place == "space":
        setting = {"class_weights": given}
    else:
        options = {place: {"class_weights": given}}
    with pytest.raises(RecipeError, match=message):
        sweep(base, tmp_path / "runs", setting, **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["space", "list", "training_args"])
def test_weights_as_an_array(base, tmp_path, place):
    """A numpy array of weights, as scikit-learn returns, is equivalent to a list."""
    weights = np.array([1.0, 5.0])
    if place == "training_args":
        (run,) = sweep(base, tmp_path / "runs", {}, training_args={"max_steps": 1, "class_weights": weights})
        (same,) = sweep(base, tmp_path / "same", {}, training_args={"max_steps": 1, "class_weights": [1.0, 5.0]})
    else:
        found = []
        for name, value in (("runs", weights), ("same", [1.0, 5.0])):
            space = {"class_weights": [value]} if place == "space" else [{"class_weights": value}]
            options = {"validation": DATA[1], "training_args": {"max_steps": 1}}
            found += hf_soup.sweep(base, DATA[0], space=space, output_dir=tmp_path / name, **options)
        run, same = found
    one, two = (load_file(item.folder / "model.safetensors") for item in (run, same))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_arrays_in_a_space():
    """Two different arrays in a space are two settings."""
    assert len(expand_space({"class_weights": [np.array([1.0, 5.0]), np.array([1.0, 2.0])]})) == 2


def test_a_class_without_examples(base, tmp_path):
    """A class without examples raises a RecipeError for "balanced", but not for a mapping."""
    labels = datasets.ClassLabel(names=["negative", "positive", "mixed"])
    data = [part.cast_column("label", labels) for part in DATA]
    with pytest.raises(RecipeError, match=r"there are none of mixed\. Write a mapping"):
        sweep(base, tmp_path / "runs", {"class_weights": "balanced"}, data=data)
    assert not (tmp_path / "runs").exists()
    assert len(sweep(base, tmp_path / "runs", {"class_weights": {"mixed": 2.0}}, data=data)) == 1


def test_a_list_for_classes_in_another_order(base, tmp_path):
    """A list of weights raises a RecipeError if data and model have different class orders; a mapping works."""
    names = datasets.ClassLabel(names=["positive", "negative"])
    data = [
        datasets.Dataset.from_dict(
            {"text": part["text"][:], "label": [1 - label for label in part["label"]]},
            features=datasets.Features({"text": datasets.Value("string"), "label": names}),
        )
        for part in DATA
    ]
    with pytest.raises(RecipeError, match="positive, negative in the data and negative, positive in the model"):
        sweep(base, tmp_path / "runs", {"class_weights": [1.0, 5.0]}, data=data)
    (named,) = sweep(base, tmp_path / "named", {"class_weights": {"positive": 5.0}}, data=data)
    (listed,) = sweep(base, tmp_path / "listed", {"class_weights": [1.0, 5.0]})
    one, two = weights(named.folder), weights(listed.folder)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_in_a_grid(base, tmp_path):
    """A mapping is a single value in a grid, a list holds several values, and table and picture can show them."""
    one = hf_soup.sweep(
        base,
        DATA[0],
        validation=DATA[1],
        space={"class_weights": {"positive": 2.0}},
        training_args={"max_steps": 1},
        output_dir=tmp_path / "one",
    )
    assert [run.params for run in one] == [{"class_weights": {"positive": 2.0}}]
    more = hf_soup.sweep(
        base,
        DATA[0],
        validation=DATA[1],
        space={"class_weights": [None, "balanced", [1.0, 2.0], {"positive": 2.0}]},
        training_args={"max_steps": 1},
        output_dir=tmp_path / "more",
    )
    assert len(more) == 4
    assert "balanced" in more.table()
    more.plot()
