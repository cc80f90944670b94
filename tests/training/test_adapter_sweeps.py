"""Sweeps of adapters: one start for all, folders that are ingredients, resumed and pushed as whole runs are."""

import json
import shutil

import peft
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import HfApi
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.cli.commands import main
from hf_soup.errors import RecipeError, SoupError
from hf_soup.training.resume import newest_whole_checkpoint


TRAIN, VALIDATION = testing.tiny_texts(32), testing.tiny_texts(16, seed=1)
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}
OPTIONS = {
    "validation": VALIDATION,
    "training_args": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
    "peft": LORA,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def sweep(base, tmp_path_factory):
    """Two ranks with two seeds."""
    space = {"peft.r": [2, 4], "seed": [0, 1]}
    return hf_soup.sweep(base, TRAIN, space=space, output_dir=tmp_path_factory.mktemp("sweep") / "runs", **OPTIONS)


def test_runs_are_adapters_of_the_start(sweep):
    """Each run holds an adapter of its rank and the head, and PEFT loads it on the start."""
    assert [run.params["peft.r"] for run in sweep] == [2, 2, 4, 4]
    for run in sweep:
        assert not (run.folder / "model.safetensors").exists()
        config = json.loads((run.folder / "adapter_config.json").read_text())
        assert config["r"] == run.params["peft.r"]
        assert config["base_model_name_or_path"] == str(sweep.base_model)
        state = load_file(run.folder / "adapter_model.safetensors")
        assert "base_model.model.classifier.weight" in state
        assert any(tensor.abs().max() > 0 for name, tensor in state.items() if "lora_B" in name)
        with quiet_transformers():
            model = peft.AutoPeftModelForSequenceClassification.from_pretrained(run.folder)
        score = hf_soup.Evaluator(VALIDATION, metric="accuracy")(model.merge_and_unload())
        assert score.value == run.score.value


def test_all_runs_start_from_the_same_factors(base, tmp_path):
    """Without training steps, the factors of two seeds are equal; `init_seed` draws others."""
    options = {**OPTIONS, "training_args": {"max_steps": 1, "learning_rate": 0.0}, "validation": None, "keep": "last"}
    factors = []
    for number, own in enumerate(({}, {"init_seed": 3})):
        runs = hf_soup.sweep(
            base,
            TRAIN,
            space={"seed": [0, 1]},
            output_dir=tmp_path / f"runs-{number}",
            **{**options, "peft": {**LORA, **own}, "validation": VALIDATION},
        )
        factors += [load_file(run.folder / "adapter_model.safetensors") for run in runs]
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
    assert torch.equal(factors[0][name], factors[1][name])
    assert not torch.equal(factors[0][name], factors[2][name])


def test_other_ranks_and_targets_share_what_they_have_in_common(base, tmp_path):
    """A module starts from the same rows, whatever the rank and the other modules; the check compares them."""
    options = {**OPTIONS, "training_args": {"max_steps": 1, "learning_rate": 0.0}}
    space = [{"peft": {"r": 2, "target_modules": ["query"]}}, {"peft": {"r": 4, "target_modules": ["query", "value"]}}]
    options.pop("peft")
    runs = hf_soup.sweep(base, TRAIN, space=space, output_dir=tmp_path / "runs", **options)
    small, large = (load_file(run.folder / "adapter_model.safetensors") for run in runs)
    names = [name for name in small if "query.lora_A" in name]
    assert len(names) == 2
    for name in names:
        assert torch.equal(small[name], large[name][:2])
        assert large[name].abs().max() <= 1 / 32**0.5  # as PEFT starts them
    assert not torch.equal(small[names[0]], small[names[1]])
    assert not any("did not start" in note for note in hf_soup.check(runs).notes)


def test_a_soup_of_a_sweep_is_an_adapter_of_its_start(sweep, tmp_path):
    """Greedy among the runs, saved as an adapter, with the start as its base model."""
    soup = hf_soup.merge(sweep, strategy="greedy", evaluator=VALIDATION)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert (folder / "adapter_model.safetensors").exists()
    assert soup.recipe.base_model.source == str(sweep.base_model)
    uniform = hf_soup.merge(sweep)
    ties = hf_soup.merge(sweep, method="ties")
    assert uniform.plan.is_linear
    assert ties.recipe.base_model == uniform.recipe.base_model


def test_an_interrupted_run_goes_on(base, sweep, tmp_path):
    """A run that has lost its end resumes from its checkpoint, with the same bits."""
    options = {**OPTIONS, "keep": "all"}
    whole = hf_soup.sweep(base, TRAIN, space={"seed": [0]}, output_dir=tmp_path / "whole", **options)
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut") / "run-0"

    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 6:
                raise KeyboardInterrupt

    shutil.rmtree(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        hf_soup.sweep(
            base, TRAIN, space={"seed": [0]}, output_dir=tmp_path / "cut", callbacks=[Interrupt()], **options
        )
    assert newest_whole_checkpoint(cut).name == "checkpoint-4"
    again = hf_soup.sweep(base, TRAIN, space={"seed": [0]}, output_dir=tmp_path / "cut", **options)
    assert again[-1].state["resumed_from"] == 4
    first, second = (load_file(runs[-1].folder / "adapter_model.safetensors") for runs in (whole, again))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_pushed_runs_name_the_pushed_start(base, tmp_path, hub):
    """On the Hub an adapter's base model is the repository of the start, at its commit; here it stays the folder."""
    sweep = hf_soup.sweep(
        base, TRAIN, space={"seed": [0]}, output_dir=tmp_path / "lora", push_runs=f"{hub.user}/tuned", **OPTIONS
    )
    path = HfApi().hf_hub_download(f"{hub.user}/tuned-run-0", "adapter_config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    assert config["base_model_name_or_path"] == f"{hub.user}/tuned-start"
    assert len(config["revision"]) == 40
    own = json.loads((sweep[0].folder / "adapter_config.json").read_text())
    assert own["base_model_name_or_path"] == str(tmp_path / "lora" / "start")
    soup = hf_soup.merge([f"{hub.user}/tuned-run-0"])
    assert soup.recipe.base_model.source == f"{hub.user}/tuned-start"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"peft": {"rank": 4}}, 'LoraConfig has no setting "rank"; did you mean'),
        ({"peft": 8}, '"peft" is a mapping of settings of LoRA'),
        ({"peft": {**LORA, "use_dora": 1, "task_type": "CAUSAL_LM"}}, 'LoraConfig has no setting "task_type"'),
        ({"space": {"peft.rank": [1, 2]}}, 'LoraConfig has no setting "rank"'),
        ({"peft": {"r": 0}}, '"peft.r", the rank, is a whole number from 1, not 0'),
        ({"peft": {**LORA, "init_lora_weights": "pissa"}}, "init_lora_weights='pissa', which changes the base model"),
        ({"peft": {**LORA, "trainable_token_indices": [1]}}, "LoRA adapter with trainable_token_indices"),
        ({"peft": {**LORA, "target_modules": ["nothing"]}}, "no adapter can be put on BertForSequenceClassification"),
        ({"peft": {**LORA, "r": 33}}, r"the rank 33 is larger than bert\..*query, of the shape \[32, 32\]: at most"),
        ({"space": {"peft.r": [4, 64]}}, "the rank 64 is larger than"),
    ],
)
def test_wrong_settings_are_told_before_training(base, tmp_path, own, message):
    """Unknown names and values of adapters are errors, and nothing is written."""
    options = {**OPTIONS, "space": {"seed": [0]}, **own}
    with pytest.raises(SoupError, match=message):
        hf_soup.sweep(base, TRAIN, output_dir=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


def test_an_adapter_is_one_setting_of_the_shell(base, tmp_path):
    """`--set 'peft={...}'` is a mapping for all runs, and no distribution."""
    TRAIN.to_json(tmp_path / "train.jsonl")
    VALIDATION.to_json(tmp_path / "validation.jsonl")
    command = ["sweep", str(base), "--data", str(tmp_path), "--seed", "0,1", "--epochs", "1", "--batch-size", "16"]
    command += ["--set", "peft={r: 2, target_modules: all-linear}", "-o", str(tmp_path / "runs")]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for number in range(2):
        config = json.loads((tmp_path / "runs" / f"run-{number}" / "adapter_config.json").read_text())
        assert config["r"] == 2
        assert config["target_modules"] == sorted(config["target_modules"])
    plan = {"ingredients": [str(tmp_path / "runs" / f"run-{number}") for number in range(2)], "merge": {}}
    wrong = {
        "rank is a whole number from 1, not 0": {"save": {"rank": 0}},
        "rank=1 is of an adapter, and merged=True": {"save": {"rank": 1, "merged": True}},
        "a soup by the method ties is no adapter": {"save": {"rank": 1}, "merge": {"method": "ties"}},
        "`save` is about the soup of a `merge` section": {"save": {"rank": 1}, "merge": None},
    }
    for message, own in wrong.items():
        file = tmp_path / "wrong.yaml"
        file.write_text(json.dumps({**plan, **own, "output_dir": str(tmp_path / "wrong")}))
        with pytest.raises(RecipeError, match=message):
            hf_soup.cook(file)
    for name, save in (("small", {"rank": 1}), ("whole", {"merged": True})):
        file = tmp_path / f"{name}.yaml"
        file.write_text(json.dumps({**plan, "save": save, "output_dir": str(tmp_path / name)}))
        folder = hf_soup.cook(file).folder
        assert hf_soup.verify(folder).ok
        assert (folder / "model.safetensors").exists() == (name == "whole")


def test_images_and_dora(tmp_path):
    """An image classifier has no task of PEFT; its head is trained all the same, and DoRA works."""
    base = testing.save_image_model(testing.tiny_image_model(0), tmp_path / "base")
    runs = hf_soup.sweep(
        base,
        testing.tiny_images(24),
        validation=testing.tiny_images(12, seed=1),
        space={"seed": [0, 1]},
        output_dir=tmp_path / "runs",
        training_args={"epochs": 1, "batch_size": 8, "learning_rate": 1e-2},
        peft={"r": 2, "use_dora": True, "target_modules": ["query", "value", "q_proj", "v_proj"]},
    )
    assert "base_model.model.classifier.weight" in load_file(runs[0].folder / "adapter_model.safetensors")
    soup = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    assert (soup / "model.safetensors").exists()  # the mean of DoRA adapters is none
