"""Running statistics of BatchNorm, estimated again: against torch's own, on the batches that Hugging Face has."""

import copy

import pytest
import torch
import transformers
from torch.optim.swa_utils import update_bn

import hf_soup
from hf_soup import testing
from hf_soup.errors import DataError


@pytest.fixture
def model():
    """A small ResNet in evaluation mode."""
    transformers.set_seed(0)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return transformers.ResNetForImageClassification(config).eval()


def batches(count=5):
    """Images of different brightness, in batches of different size."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 16, 16, generator=generator) * size + size for size in range(3, 3 + count)]


def buffers(model):
    """All running statistics."""
    return {name: tensor for name, tensor in model.state_dict().items() if "running" in name or "batches" in name}


@pytest.mark.parametrize("kind", ["mapping", "with labels", "tensor", "tuple"])
def test_statistics_are_those_of_torch(model, kind):
    """They equal `torch.optim.swa_utils.update_bn` on the same batches, whatever form these have."""
    reference = copy.deepcopy(model)
    update_bn(batches(), reference)
    forms = {
        "mapping": lambda x: {"pixel_values": x},
        "with labels": lambda x: {"pixel_values": x, "labels": torch.full((len(x),), 99)},  # no class of the model
        "tensor": lambda x: x,
        "tuple": lambda x: (x, torch.zeros(len(x))),
    }
    before = buffers(copy.deepcopy(model))
    assert hf_soup.update_batchnorm(model, map(forms[kind], batches())) is model
    found, wanted = buffers(model), buffers(reference)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-5) for name in wanted)
    assert not all(torch.equal(found[name], before[name]) for name in wanted)


def test_modes_momenta_and_weights_are_as_before(model):
    """Nothing but the statistics changes, also when the data breaks in the middle."""
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
    """Only BatchNorm is put into training mode: what comes before it is as when the model is used."""
    net = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.BatchNorm1d(3, affine=False))
    net.device = torch.device("cpu")
    hf_soup.update_batchnorm(net, [torch.ones(50, 3)])
    assert torch.allclose(net[1].running_mean, torch.ones(3))


def test_models_without_it_are_left_alone():
    """The data is not even read."""

    def untouched():
        raise AssertionError("was read")
        yield

    model = testing.tiny_text_model(0)
    assert hf_soup.update_batchnorm(model, untouched()) is model


def test_no_data(model):
    """Without a batch there is nothing to estimate, and the old statistics stay."""
    before = {name: tensor.clone() for name, tensor in buffers(model).items()}
    with pytest.raises(DataError, match="there was no batch"):
        hf_soup.update_batchnorm(model, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in buffers(model).items())
