"""Re-estimated running statistics of BatchNorm equal torch's own, for every form of batch."""

import copy

import datasets
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import update_bn

import hf_soup
from hf_soup import testing
from hf_soup.data.content import hash_content
from hf_soup.errors import DataError, IngredientError, RecipeError


@pytest.fixture
def model():
    """A small ResNet in evaluation mode."""
    transformers.set_seed(0)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return transformers.ResNetForImageClassification(config).eval()


def batches(count=5):
    """Images of different brightness, in batches of different sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 16, 16, generator=generator) * size + size for size in range(3, 3 + count)]


def buffers(model):
    """All running statistics and batch counts of a model."""
    return {name: tensor for name, tensor in model.state_dict().items() if "running" in name or "batches" in name}


@pytest.mark.parametrize("kind", ["mapping", "with labels", "tensor", "tuple"])
def test_statistics_are_those_of_torch(model, kind):
    """The statistics equal those of `torch.optim.swa_utils.update_bn` on the same batches, in every form of batch."""
    reference = copy.deepcopy(model)
    update_bn(batches(), reference)
    forms = {
        "mapping": lambda x: {"pixel_values": x},
        "with labels": lambda x: {"pixel_values": x, "labels": torch.full((len(x),), 99)},  # not a class of the model
        "tensor": lambda x: x,
        "tuple": lambda x: (x, torch.zeros(len(x))),
    }
    before = buffers(copy.deepcopy(model))
    assert hf_soup.update_batchnorm(model, map(forms[kind], batches())) is model
    found, wanted = buffers(model), buffers(reference)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-5) for name in wanted)
    assert not all(torch.equal(found[name], before[name]) for name in wanted)


def test_modes_momenta_and_weights_are_as_before(model):
    """Only the statistics change; training modes, momenta and weights stay, even if the data raises an error."""
    model.resnet.encoder.train()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    layers[0].momentum = 0.3
    modes = {name: module.training for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}

    def broken():
        yield batches()[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hf_soup.update_batchnorm(model, broken())
    hf_soup.update_batchnorm(model, batches())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [layer.momentum for layer in layers] == [0.3, *[0.1] * (len(layers) - 1)]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())


def test_dropout_stays_out():
    """Only BatchNorm is put into training mode, so dropout before it has no effect."""
    net = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.BatchNorm1d(3, affine=False))
    net.device = torch.device("cpu")
    hf_soup.update_batchnorm(net, [torch.ones(50, 3)])
    assert torch.allclose(net[1].running_mean, torch.ones(3))


def test_models_without_it_are_left_alone():
    """A model without BatchNorm is returned without the data being read."""

    def untouched():
        raise AssertionError("was read")
        yield

    model = testing.tiny_text_model(0)
    assert hf_soup.update_batchnorm(model, untouched()) is model


def test_no_data(model):
    """Without any batch a DataError is raised, and the old statistics are kept."""
    before = {name: tensor.clone() for name, tensor in buffers(model).items()}
    with pytest.raises(DataError, match="there was no batch"):
        hf_soup.update_batchnorm(model, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in buffers(model).items())


RESNET = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three ResNets with different statistics, each saved with an image processor."""
    folder = tmp_path_factory.mktemp("resnet")
    for seed in range(3):
        transformers.set_seed(seed)
        net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**RESNET, num_labels=3))
        for _ in range(3):
            net.train()(pixel_values=torch.randn(4, 3, 8, 8) * (seed + 1) + seed)
        testing.save_image_model(net.eval(), folder / f"run-{seed}")
    return sorted(folder.iterdir())


TRAIN = testing.tiny_images(70, seed=1)


def reference(model, folder):
    """The statistics that torch's own function computes on all images, in the evaluator's batches."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    evaluator = hf_soup.Evaluator(TRAIN, split="train", processing_class=processor)
    plain = copy.deepcopy(model)
    update_bn([batch["pixel_values"] for batch in evaluator.examples.shuffled(model)], plain)
    return buffers(plain)


def test_a_soup_estimates_its_statistics_again(runs, tmp_path):
    """A soup has torch's statistics of the averaged weights, in memory, on disk and rebuilt from the recipe."""
    soup = hf_soup.merge(runs, batchnorm_data=TRAIN)
    folder = soup.save_pretrained(tmp_path / "soup")
    with pytest.warns(UserWarning, match="the model has BatchNorm"):
        averaged = hf_soup.merge(runs).model
    expected = reference(averaged, runs[0])
    loaded = transformers.ResNetForImageClassification.from_pretrained(folder)
    for model in (soup.model, loaded):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected.get(name, averaged.state_dict()[name])), name
    assert not torch.equal(buffers(averaged)[next(iter(expected))], next(iter(expected.values())))
    recipe = hf_soup.load_recipe(folder)
    assert recipe.batchnorm.dataset.fingerprint == hash_content(TRAIN).fingerprint
    assert "estimated again on 70 training examples" in (folder / "README.md").read_text()
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder  # without the data
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_statistics_that_were_changed_or_lost_are_refused(runs, tmp_path):
    """A soup is not rebuilt if the statistics file beside its recipe has changed or is missing."""
    folder = hf_soup.merge(runs, batchnorm_data=TRAIN).save_pretrained(tmp_path / "soup")
    path = folder / "soup_batchnorm.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: tensors[name] + 1}, path)
    with pytest.raises(IngredientError, match="does not hold the running statistics"):
        _ = hf_soup.cook(folder).soup.model
    path.unlink()
    with pytest.raises(IngredientError, match="cannot be read"):
        _ = hf_soup.cook(folder).soup.model
    recipe = folder / "soup_recipe.yaml"
    recipe.write_text(recipe.read_text().replace("soup_batchnorm.safetensors", "../run.safetensors"))
    with pytest.raises(RecipeError, match="a safetensors file beside the recipe"):
        hf_soup.load_recipe(folder)


def test_the_model_that_was_scored_is_the_model_that_is_saved(runs):
    """A greedy search scores averages with re-estimated statistics, and single models with their own."""
    seen = {}

    def score(model):
        seen[len(seen)] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return 0.5

    soup = hf_soup.merge(runs, strategy="greedy", evaluator=score, batchnorm_data=TRAIN)
    assert len(seen) == 5
    alone = transformers.ResNetForImageClassification.from_pretrained(runs[0]).state_dict()
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in alone.items())
    assert all(torch.equal(tensor, seen[4][name]) for name, tensor in soup.model.state_dict().items())


def test_comparison_treats_all_averages_alike(runs, tmp_path):
    """The uniform soup that a comparison adds is re-estimated in the same way as the given soup."""
    soup = hf_soup.merge(runs, batchnorm_data=TRAIN)
    test = hf_soup.Evaluator(testing.tiny_images(40, seed=2), split="test", metric="loss")
    found = hf_soup.compare({"mine": soup}, test=test)
    mine, uniform = (next(row for row in found.models if row.name == name) for name in ("mine", "uniform soup"))
    assert mine.scores == uniform.scores
    saved = soup.save_pretrained(tmp_path / "soup")  # saved, so its data is no longer at hand
    options = {"ingredients": runs, "test": test}
    again = hf_soup.compare({"mine": saved}, **options, batchnorm_data=TRAIN)
    assert [row.scores for row in again.models] == [row.scores for row in found.models]


def test_models_without_batchnorm_do_not_ask_for_data(text_runs):
    """For a model without BatchNorm the training data is not read and the recipe does not mention it."""
    data = testing.tiny_texts(5).remove_columns("text")
    assert hf_soup.merge(text_runs, batchnorm_data=data).recipe.batchnorm is None


def test_one_ingredient_keeps_its_statistics(runs):
    """A soup of a single ingredient keeps that ingredient's statistics."""
    for options in ({}, {"batchnorm_data": TRAIN}):
        soup = hf_soup.merge(runs[:1], **options)
        assert soup.recipe.batchnorm is None
        expected = transformers.ResNetForImageClassification.from_pretrained(runs[0]).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in soup.model.state_dict().items())


def test_batches_are_shuffled_and_of_one_size(runs):
    """The data is shuffled into batches of similar size: batches of a single class would distort the statistics."""
    processor = transformers.AutoImageProcessor.from_pretrained(runs[0], backend="pil")
    net = transformers.ResNetForImageClassification.from_pretrained(runs[0])
    evaluator = hf_soup.Evaluator(TRAIN, processing_class=processor, batch_size=32)
    first, again = (list(evaluator.examples.shuffled(net)) for _ in range(2))
    assert [len(batch["pixel_values"]) for batch in first] == [24, 23, 23]
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(first, again, strict=True))
    images = torch.cat([batch["pixel_values"] for batch in first])
    in_order = processor(list(TRAIN["image"]), return_tensors="pt")["pixel_values"]
    assert not torch.equal(images[:24], in_order[:24])
    assert torch.allclose(images.sum(dim=0), in_order.sum(dim=0), atol=1e-4)  # every image occurs once


def test_images_that_do_not_decode_leave_no_trace(runs):
    """Placeholders for images that cannot be decoded do not take part in the statistics."""
    images = TRAIN.cast_column("image", datasets.Image(decode=False))
    broken = [{"bytes": b"no image", "path": None} if at == 3 else image for at, image in enumerate(images["image"])]
    data = datasets.Dataset.from_dict({"image": broken, "label": TRAIN["label"][:]}, TRAIN.features)
    processor = transformers.AutoImageProcessor.from_pretrained(runs[0], backend="pil")
    net = transformers.ResNetForImageClassification.from_pretrained(runs[0])
    batches = list(hf_soup.Evaluator(data, processing_class=processor).examples.shuffled(net))
    assert sum(len(batch["pixel_values"]) for batch in batches) == 69
    assert all(set(batch) == {"pixel_values"} for batch in batches)


def test_statistics_come_from_examples(runs):
    """A function as `batchnorm_data` raises a RecipeError."""
    with pytest.raises(RecipeError, match="give a data set as batchnorm_data"):
        hf_soup.merge(runs, batchnorm_data=lambda model: 1.0)
