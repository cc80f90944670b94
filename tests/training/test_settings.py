"""Settings of a run: fields, short names, optimizers, layer-wise learning rates, subsets and augmentation."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import TrainingArguments

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import RecipeError
from hf_soup.metrics.load import load_metrics
from hf_soup.tasks._model_inputs import inputs_of
from hf_soup.training.optimizer import layer_groups, module_heights
from hf_soup.training.settings import canonical, separate, training_arguments


TEXTS = testing.tiny_texts(48), testing.tiny_texts(24, seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def train(base, folder, *settings, **options):
    """A sweep with one run per setting, of two steps by default."""
    shared = {"max_steps": 2, "per_device_train_batch_size": 8, **options.pop("training_args", {})}
    given = {"validation": TEXTS[1], "output_dir": folder, "training_args": shared, **options}
    return hf_soup.sweep(base, TEXTS[0], space=list(settings), **given)


def weights(run):
    """The weights of a run by their names on disk."""
    return load_file(run.folder / "model.safetensors")


def same(one, two):
    """Whether two runs have the same weights."""
    one, two = weights(one), weights(two)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_short_names_are_the_long_ones():
    """A short name stands for a field of TrainingArguments, and giving both raises a RecipeError."""
    short = {"epochs": 2, "batch_size": 4, "scheduler": "cosine", "warmup": 0.1, "label_smoothing": 0.1}
    long = canonical(short)
    assert training_arguments_of(long).num_train_epochs == 2
    assert set(long) <= set(vars(transformers.TrainingArguments("x")))
    with pytest.raises(RecipeError, match='"num_train_epochs" is given twice'):
        canonical({"epochs": 2, "num_train_epochs": 3})


def training_arguments_of(settings):
    """The TrainingArguments of a run with these settings."""
    from pathlib import Path

    return training_arguments(
        Path("nowhere"), separate(settings)[0], TrainingArguments, metric=load_metrics("accuracy")[0]
    )


def test_a_rhythm_that_is_given_in_steps_is_one_of_steps():
    """`logging_steps` and `eval_steps` alone set their strategies to "steps", and checkpoints follow evaluations."""
    from pathlib import Path

    (metric,) = load_metrics("accuracy")
    args = training_arguments(
        Path("x"), {"logging_steps": 3, "eval_steps": 5}, TrainingArguments, metric=metric, evaluates=True
    )
    assert (args.logging_strategy, args.logging_steps) == ("steps", 3)
    assert (args.eval_strategy, args.eval_steps, args.save_strategy, args.save_steps) == ("steps", 5, "steps", 5)
    plain = training_arguments(Path("x"), {}, TrainingArguments, metric=metric, evaluates=True)
    assert (plain.logging_strategy, plain.eval_strategy, plain.save_strategy) == ("epoch", "epoch", "epoch")


@pytest.mark.parametrize(
    ("settings", "kind", "group"),
    [
        ({"optimizer": "adamw"}, "AdamW", {"betas": (0.9, 0.999)}),
        ({"optimizer": "adam", "adam_beta2": 0.95}, "Adam", {"betas": (0.9, 0.95)}),
        ({"optimizer": "sgd", "momentum": 0.9}, "SGD", {"momentum": 0.9}),
        ({"optimizer": "sgd"}, "SGD", {"momentum": 0.0}),
        ({"optimizer": "adafactor"}, "Adafactor", {"scale_parameter": False}),
        ({"optim": "adagrad"}, "Adagrad", {}),
    ],
)
def test_optimizers(base, tmp_path, monkeypatch, settings, kind, group):
    """Each name selects its optimizer, with its own arguments and the run's learning rate and weight decay."""
    seen = []
    step = transformers.trainer_callback.DefaultFlowCallback.on_step_end

    def look(self, args, state, control, optimizer=None, **kwargs):
        seen.append(getattr(optimizer, "optimizer", optimizer))
        return step(self, args, state, control, **kwargs)

    monkeypatch.setattr(transformers.trainer_callback.DefaultFlowCallback, "on_step_end", look)
    rest = {"learning_rate": 1e-3, "weight_decay": 0.1, "scheduler": "constant"}
    train(base, tmp_path, {**settings, **rest}, on_error="raise")
    assert type(seen[0]).__name__ == kind
    decayed = [one for one in seen[0].param_groups if one["weight_decay"]]
    assert {one["weight_decay"] for one in decayed} == {0.1}
    assert {one["lr"] for one in seen[0].param_groups} == {1e-3}
    assert group.items() <= seen[0].param_groups[0].items()


def test_plain_sgd_is_the_formula(tmp_path, base):
    """One SGD step changes each weight by the gradient times the learning rate, scaled per layer by `layer_decay`."""
    shared = {"optimizer": "sgd", "scheduler": "constant", "max_grad_norm": 0, "learning_rate": 0.1}
    runs = train(base, tmp_path, {}, {"layer_decay": 0.5}, training_args={**shared, "max_steps": 1, "seed": 3})
    start = load_file(runs.base_model / "model.safetensors")
    plain, decayed = ({name: tensor - start[name] for name, tensor in weights(run).items()} for run in runs)
    shares = {"classifier": 1, "bert.pooler": 1, "encoder.layer.1": 0.5, "encoder.layer.0": 0.25, "embeddings": 0.125}
    for part, share in shares.items():
        name = next(key for key in start if part in key and key.endswith("weight") and plain[key].abs().max() > 1e-6)
        assert torch.allclose(decayed[name], share * plain[name], rtol=1e-2, atol=1e-7), part


def test_heights_of_modules():
    """Embeddings have height 0, layers count up, and everything above the layers shares the top height."""
    model = testing.tiny_text_model()
    names = [name for name, _ in model.named_parameters()]
    expected = {"embeddings": 0, "encoder.layer.0": 1, "encoder.layer.1": 2, "pooler": 3, "classifier": 3}
    assert module_heights(names) == expected
    assert module_heights(["linear.weight", "linear.bias"]) == {"linear": 0}


def test_every_parameter_is_in_one_group():
    """Layer-wise groups contain each trained parameter once, with biases and norms exempt from weight decay."""
    model = testing.tiny_text_model()
    model.bert.embeddings.requires_grad_(False)
    decayed = [name for name, _ in model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    groups = layer_groups(model, decayed, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    without = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in without}
    assert names == {n for n, p in model.named_parameters() if p.requires_grad and n not in decayed}


def test_a_subset_is_the_seeds(base, tmp_path):
    """`bagging_fraction` trains on that share of the rows, which the seed selects, with fewer steps."""
    runs = train(
        base,
        tmp_path,
        {"bagging_fraction": 0.5, "data_seed": 1, "seed": 0},
        {"bagging_fraction": 0.5, "data_seed": 1, "seed": 1},
        {"bagging_fraction": 1.0, "data_seed": 1, "seed": 0},
        training_args={"max_steps": -1, "num_train_epochs": 1},
    )
    assert [run.state["steps"] for run in runs] == [3, 3, 6]
    from hf_soup.training.trainer import _draw_rows

    part = _draw_rows(TEXTS[0], 0.5, 0)
    assert len(part) == 24
    assert part["text"][:] == _draw_rows(TEXTS[0], 0.5, 0)["text"][:]
    assert part["text"][:] != _draw_rows(TEXTS[0], 0.5, 1)["text"][:]


def test_masks_are_drawn_anew_and_leave_special_tokens():
    """Masking hides about the given share of ordinary tokens, anew each time, and spares special tokens and labels."""
    task = plugins.load_module("task", "text-classification")
    model, tokenizer = testing.model_for(task)
    plain = task.encode(TEXTS[0], tokenizer, ["text"], np.zeros(48, dtype=int), inputs_of(model))
    masked = task.augmented(plain, {"mask": 0.3}, tokenizer)
    np.random.seed(0)
    once, again = masked[:]["input_ids"], masked[:]["input_ids"]
    assert once != again
    ordinary = hidden = 0
    for before, after in zip(plain[:]["input_ids"], once, strict=True):
        for old, new in zip(before, after, strict=True):
            assert new == old or (new == tokenizer.mask_token_id and old not in tokenizer.all_special_ids)
            ordinary += old not in tokenizer.all_special_ids
            hidden += new != old
    assert abs(hidden / ordinary - 0.3) < 0.06
    assert masked[:]["labels"] == plain[:]["labels"]


def test_augmentation_makes_a_difference(base, tmp_path):
    """Masking tokens changes a run."""
    runs = train(base, tmp_path, {"seed": 0}, {"seed": 0, "augment": {"mask": 0.5}}, training_args={"max_steps": 6})
    assert not same(*runs)


def test_label_smoothing_and_schedulers_reach_trainer(base, tmp_path):
    """Label smoothing and schedulers change the run and are recorded in run.json."""
    plain, smoothed, constant = train(
        base, tmp_path, {"seed": 0}, {"seed": 0, "label_smoothing": 0.3}, {"seed": 0, "scheduler": "constant"}
    )
    assert not same(plain, smoothed)
    assert not same(plain, constant)
    state = json.loads((smoothed.folder / "run.json").read_text())
    assert state["params"] == {"seed": 0, "label_smoothing_factor": 0.3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimizer": "admw"}, 'no optimizer "admw"; did you mean "adamw"'),
        ({"optimizer": "sgd", "optim": "sgd"}, 'either "optimizer" or "optim"'),
        ({"momentum": 0.9}, 'can only be used with the optimizer "sgd"'),
        ({"optimizer": "sgd", "momentum": 2}, '"momentum" is a number from 0 to 1'),
        ({"layer_decay": 0}, '"layer_decay" is a number above 0'),
        ({"bagging_fraction": "half"}, '"bagging_fraction" is a number above 0'),
        ({"save_strategy": "steps"}, "set by the sweep itself: checkpoints are saved at each evaluation"),
        ({"load_best_model_at_end": True}, 'write keep="best"'),
        ({"augment": {"mask": 2}}, "the share of tokens"),
        ({"augment": {"flip": 0.5}}, 'texts have no augmentation "flip"'),
        ({"augment": 3}, "a mapping of names to strengths"),
        ({"eval_strategy": "no"}, 'keep="best" needs evaluations'),
        ({"layer_deca": 0.5}, 'no field "layer_deca"; did you mean "layer_decay"'),
    ],
)
def test_bad_settings(base, tmp_path, setting, message):
    """Invalid settings raise a RecipeError before anything is written."""
    with pytest.raises(RecipeError, match=message):
        train(base, tmp_path / "runs", setting)
    assert not (tmp_path / "runs").exists()


def test_masking_needs_a_mask(tmp_path):
    """Masking with a tokenizer without a mask token raises a RecipeError."""
    task = plugins.load_module("task", "text-generation")
    _model, tokenizer = testing.model_for(task)
    tokenizer.mask_token = None
    with pytest.raises(RecipeError, match="has no mask token"):
        task.check_augment({"mask": 0.1}, tokenizer)
