"""`AverageWeights`: averages within a run, against float64 references, in loops, Trainers and sweeps."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.callbacks import STATE, AverageWeights
from hf_soup.errors import RecipeError, TrainingError


STEPS = 7


def walk():
    """A module and the weights that it passes through, in float64."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    history = [module.weight.detach().double().clone()]
    for _ in range(STEPS):
        with torch.no_grad():
            module.weight += torch.randn_like(module.weight)
        history.append(module.weight.detach().double().clone())
        yield module, history


def reference(kind, history):
    """The average after all steps, written out: `history[0]` is the start, which only bema knows."""
    seen = history[1:]
    if kind == "swa":
        return sum(seen) / len(seen)
    if kind == "last":
        return sum(seen[-3:]) / 3
    average = seen[0]
    for update, weight in enumerate(seen[1:], start=2):
        if kind == "bema":
            share = (10 + update) ** -0.5
        else:
            share = 1 - min(0.9, 1 - update ** (-2 / 3))
        average = (1 - share) * average + share * weight
    if kind == "bema":
        return (10 + len(seen)) ** -0.2 * (seen[-1] - seen[0]) + average
    return average


@pytest.mark.parametrize("kind", ["last", "ema", "bema", "swa"])
def test_the_average_is_that_of_its_definition(kind):
    """In a loop of one's own the averaged weights are those of the formula, and the model gets its own back."""
    average = AverageWeights(kind, decay=0.9)
    for module, weights in walk():
        average.update(module)
        history = list(weights)
    torch.testing.assert_close(
        average.averaged(module)["weight"].double(), reference(kind, history), rtol=1e-5, atol=1e-6
    )
    own = module.weight.detach().clone()
    with average.applied(module):
        torch.testing.assert_close(module.weight.double(), reference(kind, history), rtol=1e-5, atol=1e-6)
    assert torch.equal(module.weight, own)


def test_a_half_life_halves():
    """After so many updates of one new value, half of the old one is left."""
    average = AverageWeights("ema", half_life=5, warmup=False)
    module = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
        average.update(module)
        module.weight.fill_(0.0)
        for _ in range(5):
            average.update(module)
    assert average.averaged(module)["weight"].item() == pytest.approx(0.5)


def test_weights_of_16_bits_are_averaged_in_32():
    """The mean of many bfloat16 weights does not stop moving, as a running mean in bfloat16 would."""
    average = AverageWeights("swa", start=0.0)
    module = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    for value in range(1000):
        with torch.no_grad():
            module.weight.fill_(float(value % 2))
        average.update(module)
    assert average.averaged(module)["weight"].dtype == torch.float32
    assert average.averaged(module)["weight"].item() == pytest.approx(0.5, abs=1e-3)


# With Trainer


class History(transformers.TrainerCallback):
    """Records the weights after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Keep a copy."""
        self.weights.append({name: tensor.detach().double().clone() for name, tensor in model.named_parameters()})


def train(folder, average=None, *, epochs=2, resume=None, **arguments):
    """Train a tiny text classifier for some epochs of three steps; return the Trainer and its history."""
    transformers.set_seed(0)
    model = testing.tiny_text_model(3)
    rows = testing.tiny_texts(24)
    data = rows.map(lambda row: TOKENIZER(row["text"], padding="max_length", max_length=12, truncation=True))
    history = History()
    callbacks = [history] if average is None else [history, average]
    args = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        save_strategy="epoch",
        eval_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        seed=0,
        **arguments,
    )
    trainer = transformers.Trainer(model, args, train_dataset=data, eval_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, history


@pytest.fixture(scope="module", autouse=True)
def tokenizer(tmp_path_factory):
    """The tokenizer of tiny texts."""
    global TOKENIZER
    folder = testing.save_text_model(testing.tiny_text_model(3), tmp_path_factory.mktemp("tokenizer") / "base")
    TOKENIZER = transformers.AutoTokenizer.from_pretrained(folder)


def assert_same(folder, expected):
    """A checkpoint has these weights."""
    state = load_file(Path(folder) / "model.safetensors")
    for name, tensor in expected.items():
        if name in state:
            torch.testing.assert_close(state[name].double(), tensor, rtol=1e-5, atol=1e-6)


def test_checkpoints_and_the_model_have_the_average(tmp_path):
    """Each checkpoint has the average up to its step, the model that of all steps; training itself is not changed."""
    trainer, history = train(tmp_path / "averaged", AverageWeights("swa", start=0.0))
    plain, _ = train(tmp_path / "plain")
    for step in (3, 6):
        mean = {name: sum(state[name] for state in history.weights[:step]) / step for name in history.weights[0]}
        assert_same(tmp_path / "averaged" / f"checkpoint-{step}", mean)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), mean[name], rtol=1e-5, atol=1e-6)
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(parameter.detach().double(), history.weights[-1][name])


def test_the_average_lies_beside_the_model(tmp_path):
    """With `save="beside"` checkpoints and the model have the weights of training, and `average/` loads."""
    trainer, history = train(tmp_path, AverageWeights("last", k=2, every=1, save="beside"))
    assert_same(tmp_path / "checkpoint-6", history.weights[-1])
    mean = {name: (history.weights[-1][name] + history.weights[-2][name]) / 2 for name in history.weights[0]}
    assert_same(tmp_path / "checkpoint-6" / "average", mean)
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6" / "average")
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter.detach().double(), history.weights[-1][name])


@pytest.mark.parametrize(("kind", "every"), [("last", 1), ("last", None), ("ema", None), ("bema", 2), ("swa", 1)])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, kind, every):
    """Training that goes on from a checkpoint has the weights and the average of training without a break."""
    options = {"k": 2, "start": 0.0, "every": every}
    train(tmp_path / "whole", AverageWeights(kind, **options), epochs=3)
    checkpoint = shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "broken" / "checkpoint-3")
    train(
        tmp_path / "broken",
        AverageWeights(kind, **options),
        epochs=3,
        resume=str(checkpoint),
    )
    for name in ("model.safetensors", STATE):
        first, second = (load_file(tmp_path / run / "checkpoint-9" / name) for run in ("whole", "broken"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_checkpoint_without_the_average_is_refused(tmp_path):
    """Going on with another kind, or without the file, is an error that names the checkpoint."""
    train(tmp_path, AverageWeights("ema"), epochs=1)
    with pytest.raises(TrainingError, match="checkpoint-3 holds no state of an average of the kind 'swa'"):
        train(tmp_path, AverageWeights("swa"), resume=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharded_training_is_refused_by_name(name):
    """Where no process has all weights, the error names the reason."""
    args = SimpleNamespace(**{"fsdp": None, "deepspeed": None, name: "on"})
    with pytest.raises(RecipeError, match=f"does not work with {name} yet"):
        AverageWeights().on_train_begin(args, None, None, model=None)


def test_batchnorm_is_estimated_again():
    """Within the block the statistics are those of the averaged weights, and after it those of training."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    batches = [torch.randn(16, 3) for _ in range(4)]
    average = AverageWeights("swa", start=0.0)
    for batch in batches:
        module(batch)  # moves the running statistics
        with torch.no_grad():
            module[0].weight += torch.randn_like(module[0].weight)
        average.update(module)
    own = copy.deepcopy(module.state_dict())
    with average.applied(_with_device(module), batches):
        inside = module[1].running_mean.clone()
        outputs = torch.stack([module[0](batch).mean(0) for batch in batches]).mean(0)
        torch.testing.assert_close(inside, outputs)
    assert all(torch.equal(own[name], tensor) for name, tensor in module.state_dict().items())


def _with_device(module):
    """A module with the attribute `device` of transformers' models."""
    module.device = torch.device("cpu")
    return module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "emma"}, 'did you mean "ema"'),
        ({"decay": 1.0}, "from 0 to below 1"),
        ({"start": -0.1}, "from 0 to below 1"),
        ({"k": 0}, "whole numbers from 1"),
        ({"k": 2.5}, "whole numbers from 1"),
        ({"every": 0}, "whole numbers from 1"),
        ({"half_life": 0}, "above 0"),
        ({"save": "aside"}, '"instead" or "beside"'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    """The error says what the argument may be."""
    with pytest.raises(RecipeError, match=message):
        AverageWeights(**options)


def test_the_average_of_a_model_with_batchnorm_leaves_training_as_it_is(tmp_path):
    """Estimating statistics for each evaluation draws no random numbers of training and changes no weights."""
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    images = [{"pixel_values": torch.randn(3, 16, 16), "labels": index % 2} for index in range(16)]
    weights = {}
    for name, average in (("averaged", AverageWeights("ema", save="beside")), ("plain", None)):
        transformers.set_seed(0)
        args = transformers.TrainingArguments(
            str(tmp_path / name),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            save_strategy="epoch",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        model = transformers.ResNetForImageClassification(config)
        callbacks = [average] if average else []
        transformers.Trainer(model, args, train_dataset=images, callbacks=callbacks).train()
        weights[name] = model.state_dict()
    assert all(torch.equal(weights["averaged"][name], tensor) for name, tensor in weights["plain"].items())
    saved = load_file(tmp_path / "averaged" / "checkpoint-8" / "average" / "model.safetensors")
    means = [name for name in saved if name.endswith("running_mean")]
    assert means
    assert any(not torch.equal(saved[name], weights["plain"][name]) for name in means)


def test_a_second_training_begins_anew(tmp_path):
    """A callback that has averaged one training has nothing of it in the next."""
    average = AverageWeights("swa", start=0.0)
    train(tmp_path / "first", average)
    _, history = train(tmp_path / "second", average)
    mean = {name: sum(state[name] for state in history.weights) / 6 for name in history.weights[0]}
    assert_same(tmp_path / "second" / "checkpoint-6", mean)


# In sweeps


def test_a_sweep_varies_the_average(tmp_path):
    """`average` is a setting, also in the space: a run has the averaged weights, and is a plain model."""
    base = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base")
    sweep = hf_soup.sweep(
        base,
        testing.tiny_texts(48),
        validation=testing.tiny_texts(24, seed=1),
        space={"average": [{"last": {"k": 2, "every": 1}}, {"ema": 0.5}, None], "seed": [0]},
        output_dir=tmp_path / "runs",
        training_args={"epochs": 1, "batch_size": 16, "learning_rate": 1e-2},
        keep="last",
    )
    assert [run.params["average"] for run in sweep] == [{"last": {"k": 2, "every": 1}}, {"ema": 0.5}, None]
    states = [load_file(run.folder / "model.safetensors") for run in sweep]
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])
    assert not torch.equal(states[1]["classifier.weight"], states[2]["classifier.weight"])
    assert not list((tmp_path / "runs").rglob(STATE))


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ({"lasst": 3}, 'did you mean "last"'),
        ({"last": 3, "ema": 0.9}, "one kind with its argument"),
        ("ema", "one kind with its argument"),
        ({"ema": {"dekay": 0.9}}, 'no "dekay"; did you mean "decay"'),
        ({"ema": "slow"}, "wrong type"),
    ],
)
def test_a_wrong_setting_is_refused_before_training(tmp_path, average, message):
    """The error names the setting, and no folder is made."""
    base = testing.save_text_model(testing.tiny_text_model(5), tmp_path / "base")
    with pytest.raises(RecipeError, match=message):
        hf_soup.sweep(
            base,
            testing.tiny_texts(48),
            validation=testing.tiny_texts(24, seed=1),
            space={"seed": [0]},
            output_dir=tmp_path / "runs",
            training_args={"average": average},
        )
    assert not (tmp_path / "runs").exists()
