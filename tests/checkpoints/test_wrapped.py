"""Tests of wrapped models in memory, and of adapters, which a soup would lose."""

import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import IngredientError


LORA = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """A process group of a single process, as DDP and FSDP need."""
    place = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled_inside(model):
    """Compile only the encoder, which changes names inside the model."""
    model.bert.encoder = torch.compile(model.bert.encoder)
    return model


def checkpointed(model):
    """Wrap each layer for activation checkpointing."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    for index, layer in enumerate(model.bert.encoder.layer):
        model.bert.encoder.layer[index] = checkpoint_wrapper(layer)
    return model


def prepared(model):
    """Prepare the model with accelerate."""
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(model)


WRAPPERS = {
    "torch.compile": torch.compile,
    "compiled inside": compiled_inside,
    "activation checkpointing": checkpointed,
    "DataParallel": torch.nn.DataParallel,
    "DDP": torch.nn.parallel.DistributedDataParallel,
    "DDP, compiled": lambda model: torch.compile(torch.nn.parallel.DistributedDataParallel(model)),
    "accelerate": prepared,
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_model_is_the_model(tmp_path, text_runs, kind):
    """A compiled, distributed or prepared model gives the same bytes as its folder, and its own class."""
    models = [WRAPPERS[kind](testing.tiny_text_model(seed)) for seed in range(2)]
    folder = hf_soup.merge(models).save_pretrained(tmp_path / "soup")
    plain = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "plain")
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert '"BertForSequenceClassification"' in (folder / "config.json").read_text()
    with quiet_transformers():
        _, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]


def added(model):
    """Add an adapter by transformers' own method."""
    model.add_adapter(peft.LoraConfig(**LORA))
    return model


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (added, "has layers of an adapter.*merge_and_unload"),
        (
            lambda model: peft.get_peft_model(model, peft.LoraConfig(**LORA)).get_base_model(),
            "has layers of an adapter",
        ),
        (lambda model: peft.inject_adapter_in_model(peft.LoraConfig(**LORA), model), "has layers of an adapter"),
        (
            lambda model: torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8),
            "is quantised by torch",
        ),
        (lambda model: torch.nn.Linear(2, 2), "Linear is no model of transformers"),
    ],
)
def test_an_adapter_in_memory_is_refused(wrap, message):
    """Models with an adapter, quantised by torch or not of transformers are refused with the reason."""
    models = [wrap(testing.tiny_text_model(seed)) for seed in range(2)]
    with pytest.raises(hf_soup.SoupError, match=message):
        hf_soup.merge(models)


def test_a_merged_adapter_is_an_ingredient(tmp_path):
    """After `merge_and_unload`, as the error advises, the weights include the adapter and can be merged."""
    model = peft.get_peft_model(testing.tiny_text_model(0), peft.LoraConfig(**LORA))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    merged = model.merge_and_unload()
    folder = hf_soup.merge([merged, merged]).save_pretrained(tmp_path / "soup")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(load_file(folder / "model.safetensors")[name], merged.state_dict()[name])
    assert not torch.equal(merged.state_dict()[name], testing.tiny_text_model(0).state_dict()[name])


@pytest.mark.parametrize("role", ["ingredient", "base_model"])
def test_an_adapter_beside_whole_weights_is_refused(tmp_path, text_runs, role):
    """A folder with weights and an adapter is refused, because transformers would apply the adapter on loading."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    peft.get_peft_model(testing.tiny_text_model(0), peft.LoraConfig(**LORA)).save_pretrained(run)
    others = {"method": "ties", "base_model": run} if role == "base_model" else {}
    ingredients = text_runs if role == "base_model" else [run, text_runs[1]]
    with pytest.raises(hf_soup.SoupError, match=r"run holds whole weights and a PEFT adapter.*merge_and_unload"):
        hf_soup.merge(ingredients, **others)


def test_a_state_dict_of_a_compiled_model(tmp_path, text_runs):
    """The state dict of a compiled model is understood, and a note lists the prefix that was removed."""
    model = testing.tiny_text_model(0)
    config = model.config.to_dict() | {"architectures": ["BertForSequenceClassification"]}
    soup = hf_soup.merge([hf_soup.load_ingredient(torch.compile(model).state_dict(), config=config), text_runs[1]])
    plain = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "plain")
    folder = soup.save_pretrained(tmp_path / "soup")
    assert (folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert any("'_orig_mod.', which a wrapper left, was taken off" in note for note in soup.plan.report.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"state_dict": state, "epoch": 1}, "'state_dict' is OrderedDict.*Give what 'state_dict' holds"),
        (lambda state: {**state, "classifier.bias": None}, "'classifier.bias' is NoneType"),
        (lambda state: {**state, "classifier.bias": state["classifier.bias"].numpy()}, "is ndarray"),
        (lambda state: {**state, 3: state["classifier.bias"]}, "3 is Tensor"),
        (lambda state: {**state, "classifier.weight": torch.zeros(3, 32)}, r"has the shape \[3, 32\], and its config"),
        (lambda state: {**state, "classifier.weight": torch.empty(0)}, "is empty. DeepSpeed"),
    ],
)
def test_a_state_dict_of_other_things(change, message):
    """An invalid entry in a state dict, or one of the wrong shape, raises an IngredientError that names it."""
    model = testing.tiny_text_model(0)
    config = model.config.to_dict() | {"architectures": ["BertForSequenceClassification"]}
    with pytest.raises(IngredientError, match=message):
        hf_soup.load_ingredient(change(model.state_dict()), config=config)


def test_a_configuration_in_memory_names_no_code(tmp_path):
    """Names of code in the config of a model in memory are dropped from the soup; `config=` may not be a Hub id."""
    models = [testing.tiny_text_model(seed) for seed in range(2)]
    for model in models:
        model.config.auto_map = {"AutoModel": "somewhere--code.Model"}
    folder = hf_soup.merge(models).save_pretrained(tmp_path / "soup")
    assert "auto_map" not in (folder / "config.json").read_text()
    with pytest.raises(IngredientError, match="`config=` is a configuration"):
        hf_soup.load_ingredient(models[0].state_dict(), config="bert-base-uncased")
