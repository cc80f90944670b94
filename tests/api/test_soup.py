"""Tests of `merge` and the soups it makes: weights, complete folders, and recipes that can be cooked again."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.digest import combined_digest, tensor_digest
from hf_soup.errors import EvaluationError, IngredientError, OutputError, RecipeError
from hf_soup.merging.refill import Refill
from hf_soup.types import OutputRecord


def mean_by_hand(runs, weights=None):
    """The float64 mean of saved tensors, rounded to float32."""
    states = [load_file(run / "model.safetensors") for run in runs]
    weights = weights or [1] * len(runs)
    return {
        name: (sum(w * state[name].double() for w, state in zip(weights, states, strict=True)) / sum(weights)).float()
        for name in states[0]
    }


def same(state, other):
    """Whether two state dicts have the same names and the same bits."""
    return set(state) == set(other) and all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("weights", [None, [2, 1, 1], (0.5, 0.3, 0.2)])
def test_saved_soup_is_the_mean(tmp_path, text_runs, weights):
    """The saved soup is the float64 mean of the files, rounded once, and loads without missing or unexpected keys."""
    soup = hf_soup.merge(text_runs, weights=weights)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert same(load_file(folder / "model.safetensors"), mean_by_hand(text_runs, weights))
    _, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_model_in_memory_is_the_saved_one(request, tmp_path, kind):
    """The model in memory has the same bits as the saved one, also if transformers renames tensors on loading."""
    soup = hf_soup.merge(request.getfixturevalue(f"{kind}_runs"), weights=[3, 2, 1])
    folder = soup.save_pretrained(tmp_path / "soup")
    saved = type(soup.model).from_pretrained(folder)
    assert same(soup.model.state_dict(), saved.state_dict())
    assert soup.model is soup.model
    assert not soup.model.training


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_another_type(tmp_path, text_runs, dtype):
    """`dtype` casts the soup in memory and on disk, and is recorded in its config."""
    soup = hf_soup.merge(text_runs, dtype=dtype)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    assert same(soup.model.state_dict(), type(soup.model).from_pretrained(folder).state_dict())


def test_float8_is_for_files(tmp_path, text_runs):
    """A soup can be saved in float8; in memory and when loaded it is bfloat16, as torch does not compute in float8."""
    soup = hf_soup.merge(text_runs, dtype="float8_e4m3fn")
    folder = soup.save_pretrained(tmp_path / "soup")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float8_e4m3fn}
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.dtype == soup.model.dtype == torch.bfloat16
    assert same(soup.model.state_dict(), loaded.state_dict())
    exact = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(soup.model.classifier.weight.float(), exact.float())
    assert hf_soup.merge([folder, text_runs[0]], dtype="float32").model.dtype == torch.float32


def test_soups_of_bfloat16_checkpoints(tmp_path):
    """Soups of bfloat16 ingredients are bfloat16, and within half a rounding step of the exact mean."""
    runs = [testing.tiny_text_model(seed).to(torch.bfloat16) for seed in range(5)]
    paths = [testing.save_text_model(model, tmp_path / f"run-{i}") for i, model in enumerate(runs)]
    soup = load_file(hf_soup.merge(paths).save_pretrained(tmp_path / "soup") / "model.safetensors")
    for name, reference in mean_by_hand(paths).items():
        assert soup[name].dtype == torch.bfloat16
        assert torch.allclose(soup[name].double(), reference.double(), rtol=2**-8 * 1.01, atol=1e-7), name


def test_weights_by_module(tmp_path, text_runs):
    """Weights can be given by module, and the most specific prefix decides."""
    soup = hf_soup.merge(text_runs[:2], weights={"classifier": [1, 0], "": [1, 1], "encoder.layer.1": [0, 1]})
    state = load_file(soup.save_pretrained(tmp_path / "soup") / "model.safetensors")
    first, second = (load_file(run / "model.safetensors") for run in text_runs[:2])
    for name, tensor in state.items():
        if name.startswith("classifier"):
            reference = first[name]
        elif name.startswith("bert.encoder.layer.1."):
            reference = second[name]
        else:
            reference = ((first[name].double() + second[name]) / 2).float()
        assert torch.equal(tensor, reference), name


def test_models_and_state_dicts_give_the_bytes_of_folders(tmp_path, image_runs):
    """Ingredients in memory and on disk, mixed, give the same file as folders alone."""
    models = [testing.tiny_image_model(seed) for seed in range(3)]
    config = {**models[0].config.to_dict(), "architectures": ["ViTForImageClassification"]}
    mixed = hf_soup.merge([models[0], hf_soup.load_ingredient(models[1].state_dict(), config=config), image_runs[2]])
    saved = [hf_soup.merge(image_runs), mixed]
    one, two = (soup.save_pretrained(tmp_path / str(i)) for i, soup in enumerate(saved))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_model_that_changes_under_a_soup_is_noticed(tmp_path):
    """A model in memory that changes between `merge` and saving raises an IngredientError, and nothing is written."""
    models = [testing.tiny_text_model(seed) for seed in range(2)]
    soup = hf_soup.merge(models)
    with torch.no_grad():
        models[1].classifier.bias.add_(1)
    with pytest.raises(IngredientError, match="are not those that the recipe was made from"):
        soup.save_pretrained(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_ingredients_are_not_changed(tmp_path):
    """Models given as ingredients keep their weights, their mode and their configuration."""
    models = [testing.tiny_text_model(seed).train() for seed in range(2)]
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    configs = [model.config.to_dict() for model in models]
    soup = hf_soup.merge(models)
    soup.save_pretrained(tmp_path / "soup")
    with torch.no_grad():
        soup.model.classifier.bias.add_(1)
    assert all(same(model.state_dict(), state) for model, state in zip(models, before, strict=True))
    assert all(model.training for model in models)
    assert [model.config.to_dict() for model in models] == configs


def test_the_folder_is_complete(tmp_path, text_runs):
    """The folder holds weights, config, tokenizer, recipe and card, and a pipeline runs from it."""
    folder = hf_soup.merge(text_runs).save_pretrained(tmp_path / "soup")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.safetensors", "config.json", "soup_recipe.yaml", "README.md"}
    assert names >= {"tokenizer.json", "tokenizer_config.json"}
    answer = transformers.pipeline("text-classification", model=str(folder))("the film was good")
    assert answer[0]["label"] in ("negative", "positive")


def test_logits_are_those_of_averaging_by_hand(tmp_path, text_runs):
    """The saved soup has the logits of the model whose state is the float64 mean."""
    folder = hf_soup.merge(text_runs).save_pretrained(tmp_path / "soup")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    by_hand = testing.tiny_text_model(0)
    by_hand.load_state_dict(mean_by_hand(text_runs))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(["a good film", "the plot was bad"], return_tensors="pt", padding=True)
    with torch.no_grad():
        assert torch.equal(model(**tokens).logits, by_hand(**tokens).logits)


def test_image_processor_and_generation_config_travel(tmp_path, image_runs):
    """The image processor, and the generation config of a generative model from disk or memory, are kept in soups."""
    folder = hf_soup.merge(image_runs).save_pretrained(tmp_path / "image")
    name = "preprocessor_config.json"
    assert (folder / name).read_bytes() == (image_runs[0] / name).read_bytes()
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    models = [transformers.GPT2LMHeadModel(config) for _ in range(2)]
    models[0].generation_config.max_length = 7
    for index, model in enumerate(models):
        model.save_pretrained(tmp_path / f"gpt-{index}")
    sources = {"disk": [tmp_path / "gpt-0", tmp_path / "gpt-1"], "memory": models}
    for name, ingredients in sources.items():
        soup = hf_soup.merge(ingredients)
        folder = soup.save_pretrained(tmp_path / name)
        assert transformers.GenerationConfig.from_pretrained(folder).max_length == 7
        assert soup.model.generation_config.max_length == 7
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")  # tied, so saved once


@pytest.mark.parametrize("giver", [None, "run-1"])
def test_the_generation_config_is_that_of_the_saved_soup(tmp_path, giver):
    """The generation config is that of the ingredient that gives the settings, in memory and on disk."""
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    folders = [tmp_path / "run-0", tmp_path / "run-1"]
    for folder, beams in zip(folders, (4, 3), strict=True):
        model = transformers.GPT2LMHeadModel(config)
        model.generation_config.num_beams = beams
        model.save_pretrained(folder)
    soup = hf_soup.merge(folders, take_from=giver)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(soup.save_pretrained(tmp_path / "soup"))
    assert soup.model.generation_config.num_beams == loaded.generation_config.num_beams == (3 if giver else 4)
    refill = Refill()
    for folder, beams in zip(folders, (4, 3), strict=True):
        one = hf_soup.merge([folder])
        assert refill.fill(one.plan, one.checkpoints).generation_config.num_beams == beams


def test_cooked_again_gives_the_same_bytes(tmp_path, text_runs):
    """The recipe of a soup reproduces its weight file byte for byte, and records the same digests."""
    folder = hf_soup.merge(text_runs, weights={"": [3, 1, 1], "pooler": [1, 0, 2]}).save_pretrained(tmp_path / "soup")
    again = hf_soup.cook(folder / "soup_recipe.yaml", output_dir=tmp_path / "deeper" / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    one, two = hf_soup.load_recipe(folder), hf_soup.load_recipe(again)
    assert one == two
    state = load_file(folder / "model.safetensors")
    digest = combined_digest({name: tensor_digest(tensor) for name, tensor in state.items()})
    assert one.output == OutputRecord(len(state), digest)


def test_sharding_changes_no_digest(tmp_path, text_runs):
    """The output's digest is over tensors, so it does not depend on sharding."""
    recipes = [
        hf_soup.load_recipe(hf_soup.merge(text_runs).save_pretrained(tmp_path / size, max_shard_size=size))
        for size in ("50GB", "20KB")
    ]
    assert (tmp_path / "20KB" / "model.safetensors.index.json").exists()
    assert recipes[0].output == recipes[1].output


COOK = """
import sys, torch, hf_soup
out, threads, size, *folders = sys.argv[1:]
torch.set_num_threads(int(threads))
for number, folder in enumerate(folders):
    hf_soup.cook(folder).soup.save_pretrained(f"{out}/{number}", max_shard_size=size)
"""


def test_any_process_makes_the_same_bytes(tmp_path, text_runs):
    """A recipe gives the same tensors in other processes, with other numbers of threads, and in shards or not."""
    folders = []
    for method in ("linear", "median", "ties"):
        base = text_runs[2] if method == "ties" else None
        soup = hf_soup.merge(text_runs, weights=[0.2, 1.7, 1], method=method, base_model=base)
        folders.append(soup.save_pretrained(tmp_path / method))
    for threads, size in (("1", "1GB"), ("7", "20KB")):
        subprocess.run([sys.executable, "-c", COOK, str(tmp_path / threads), threads, size, *folders], check=True)
        for number, folder in enumerate(folders):
            out = tmp_path / threads / str(number)
            state = {name: tensor for path in out.glob("*.safetensors") for name, tensor in load_file(path).items()}
            assert same(state, load_file(folder / "model.safetensors"))
            assert hf_soup.load_recipe(out).output == hf_soup.load_recipe(folder).output
    for number, folder in enumerate(folders):
        one_file = tmp_path / "1" / str(number) / "model.safetensors"
        assert one_file.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_an_ingredient_that_changed_is_refused(tmp_path, text_runs):
    """Cooking a recipe whose ingredient has other weights by now raises an IngredientError that names it."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs]
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    shutil.copy(runs[0] / "model.safetensors", runs[1] / "model.safetensors")
    with pytest.raises(IngredientError, match="'run-1' are not those that the recipe was made from"):
        hf_soup.cook(folder, output_dir=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_existing_folders_are_kept(tmp_path, text_runs):
    """An existing folder is kept unless `overwrite=True`, which replaces it completely."""
    soup = hf_soup.merge(text_runs)
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        soup.save_pretrained(tmp_path / "soup")
    assert (tmp_path / "soup" / "mine.txt").exists()
    soup.save_pretrained(tmp_path / "soup", overwrite=True)
    assert not (tmp_path / "soup" / "mine.txt").exists()


def test_a_run_that_is_replaced_is_noticed(tmp_path, text_runs):
    """Weights replaced between `merge` and saving are an error, because the soup would differ from the scored one."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs[:2]]
    soup = hf_soup.merge(runs)
    shutil.copy(text_runs[2] / "model.safetensors", runs[1] / "model.safetensors")
    with pytest.raises(IngredientError, match="has changed since 'run-1' was opened"):
        soup.save_pretrained(tmp_path / "soup")
    with pytest.raises(IngredientError, match="has changed since"):
        soup.model  # noqa: B018


def test_overwriting_never_takes_an_ingredient(tmp_path, text_runs, monkeypatch):
    """A target that is or contains an ingredient or the working directory is refused, also with `overwrite=True`."""
    runs = [shutil.copytree(run, tmp_path / "runs" / run.name) for run in text_runs]
    soup = hf_soup.merge(runs)
    monkeypatch.chdir(tmp_path / "runs")
    for target in (runs[0], tmp_path / "runs", tmp_path, "."):
        with pytest.raises(OutputError, match="would be lost"):
            soup.save_pretrained(target, overwrite=True)
    assert all((run / "model.safetensors").is_file() for run in runs)


def test_default_labels_in_memory_and_on_disk_are_the_same(tmp_path):
    """Default label names, present in memory but absent from the file, do not prevent a merge."""
    import transformers

    labels = ("LABEL_0", "LABEL_1")
    model = testing.tiny_text_model(0, labels=labels)
    folder = testing.save_text_model(testing.tiny_text_model(1, labels=labels), tmp_path / "run")
    assert "id2label" not in json.loads((folder / "config.json").read_text())
    assert isinstance(hf_soup.merge([model, folder]).model, transformers.BertForSequenceClassification)


def test_state_dicts_of_mixed_types_lose_nothing(tmp_path):
    """A state dict with bfloat16 and float32 tensors is converted to float32, without loss."""
    model = testing.tiny_text_model(0)
    config = {**model.config.to_dict(), "architectures": ["BertForSequenceClassification"]}
    state = {k: v.bfloat16() if "embeddings" in k else v for k, v in model.state_dict().items()}
    soup = hf_soup.merge([hf_soup.load_ingredient(state, config=config)]).model.state_dict()
    assert all(torch.equal(soup[name], state[name].float()) for name in state)


def test_a_bad_shard_size(tmp_path, text_runs):
    """An invalid shard size raises an OutputError, and nothing is written."""
    with pytest.raises(OutputError, match="max_shard_size='huge'"):
        hf_soup.merge(text_runs).save_pretrained(tmp_path / "soup", max_shard_size="huge")
    assert list(tmp_path.iterdir()) == []


def test_a_nan_leaves_nothing_written(tmp_path, text_runs):
    """An ingredient with NaN raises an error that names it and the tensor, and no folder is left."""
    model = testing.tiny_text_model(0)
    with torch.no_grad():
        model.bert.pooler.dense.bias[3] = math.nan
    soup = hf_soup.merge([text_runs[0], model])
    with pytest.raises(IngredientError, match=r"BertForSequenceClassification.* bert\.pooler\.dense\.bias"):
        soup.save_pretrained(tmp_path / "soup")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1, 2]}, "are 2 .* for 3 ingredients"),
        ({"weights": [1, -1, 0]}, "sum to zero"),
        ({"weights": [0, 0, 0]}, "all zero"),
        ({"method": "linaer"}, 'no method called "linaer"; did you mean "linear"'),
        ({"method": "greedy"}, 'write strategy="greedy"'),
        ({"strategy": "best"}, 'no strategy called "best"'),
        ({"dtype": "float12"}, 'no floating-point type "float12"'),
        ({"dtype": "int8"}, 'no floating-point type "int8"'),
        ({"normalise": False}, 'a parameter "normalise"; did you mean "normalize"'),
        ({"strategy": "greedy"}, "pass evaluator="),
        ({"strategy": "greedy", "weights": [1, 1, 1]}, "either weights or a strategy"),
        ({"evaluator": len}, "for a strategy that chooses"),
        ({"strategy": "greedy", "evaluator": 3}, "an evaluator is"),
        ({"strategy": "greedy", "accept": "=="}, "\"accept\" is one of '>=', '>', 'loss', not '=='"),
    ],
)
def test_bad_arguments(text_runs, options, message):
    """Each invalid argument of `merge` raises a RecipeError."""
    with pytest.raises(RecipeError, match=message):
        hf_soup.merge(text_runs, **options)


def test_any_function_of_a_model_can_steer(text_runs):
    """A function of a model that returns a number can be an evaluator; other results and NaN are EvaluationErrors."""
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=lambda model: 0.5)
    assert soup.recipe.names == ("run-0", "run-1", "run-2")  # all have equal scores
    with pytest.raises(EvaluationError, match="a Score, a number, or a dict of numbers"):
        hf_soup.merge(text_runs, strategy="greedy", evaluator=lambda model: "good")
    with pytest.raises(EvaluationError, match="NaN"):
        hf_soup.merge(text_runs, strategy="greedy", evaluator=lambda model: math.nan)


def test_greedy_scores_the_soup_that_is_saved(tmp_path, text_runs):
    """The score in the recipe equals that of the saved folder, loaded by transformers alone."""
    data = testing.tiny_texts(50, seed=3)
    soup = hf_soup.merge(text_runs, strategy="greedy", evaluator=data)
    folder = soup.save_pretrained(tmp_path / "soup")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(list(data["text"]), return_tensors="pt", padding=True)).logits
    accuracy = float((logits.argmax(-1).numpy() == np.array(data["label"])).mean())
    selection = soup.recipe.selection
    assert selection.score == accuracy
    assert set(soup.scores) == {"run-0", "run-1", "run-2"}
    assert (selection.strategy, selection.metric, selection.split) == ("greedy", "accuracy", "validation")
    assert selection.dataset.rows == 50


@pytest.fixture
def large_runs(tmp_path):
    """Two checkpoints with tensors of more than one chunk, one of them in shards."""
    folders = []
    for seed, size in ((0, "50GB"), (1, "1MB")):
        model = testing.tiny_text_model(seed, vocab_size=9001)  # 288,032 numbers in the embeddings
        folders.append(testing.save_text_model(model, tmp_path / f"large-{seed}"))
        if seed:
            (folders[1] / "model.safetensors").unlink()
            model.save_pretrained(folders[1], max_shard_size=size)
    return folders


@pytest.mark.parametrize("size", ["50GB", "500KB"])
def test_large_tensors_from_disk_to_disk(tmp_path, large_runs, size):
    """Tensors of several chunks are averaged exactly from and to single files and shards."""
    soup = hf_soup.merge(large_runs, weights=[1, 3])
    folder = soup.save_pretrained(tmp_path / "soup", max_shard_size=size)
    states = [
        {name: tensor for path in run.glob("*.safetensors") for name, tensor in load_file(path).items()}
        for run in (*large_runs, folder)
    ]
    for name, tensor in states[2].items():
        assert torch.equal(tensor, ((states[0][name].double() + states[1][name].double() * 3) / 4).float()), name
    digests = {name: tensor_digest(tensor) for name, tensor in states[2].items()}
    assert hf_soup.load_recipe(folder).output.digest == combined_digest(digests)
    assert same(soup.model.state_dict(), states[2])


def test_models_in_memory_of_any_layout(tmp_path, text_runs):
    """Transposed and expanded tensors of a model in memory are read by their values, not by their storage."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs[0])
    layer = model.bert.pooler.dense
    layer.weight.data = layer.weight.data.T.contiguous().T
    layer.bias.data = torch.zeros(1).expand(32)
    expected = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs[0])
    expected.bert.pooler.dense.bias.data.zero_()
    soup = hf_soup.merge([model, text_runs[1]]).model.state_dict()
    assert same(soup, hf_soup.merge([expected, text_runs[1]]).model.state_dict())


def test_a_part_of_an_ingredient_has_a_digest_of_its_own(tmp_path, text_runs):
    """The digest of an ingredient with tensors left out is marked as partial and compared only with such digests."""
    whole = hf_soup.load_recipe(hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "whole"))
    rows = {"": [1, 1], "classifier": [1, 0]}
    part = hf_soup.load_recipe(hf_soup.merge(text_runs[:2], weights=rows).save_pretrained(tmp_path / "part"))
    found = [item.files["model.safetensors"].split(":")[0] for item in part.ingredients]
    assert found[0] == "xxh3-128"
    assert found[1].startswith("xxh3-128/")
    again = hf_soup.merge(whole.ingredients, weights=rows).save_pretrained(tmp_path / "again")
    assert hf_soup.load_recipe(again).ingredients == whole.ingredients
    assert hf_soup.cook(tmp_path / "part", output_dir=tmp_path / "cooked").folder
    state = load_file(text_runs[2] / "model.safetensors")
    shutil.copytree(text_runs[1], tmp_path / "changed")
    save_file(state, tmp_path / "changed" / "model.safetensors", metadata={"format": "pt"})
    other = [part.ingredients[0], replace(part.ingredients[1], source=str(tmp_path / "changed"))]
    with pytest.raises(IngredientError, match="has changed"):
        hf_soup.merge(other, weights=rows).save_pretrained(tmp_path / "wrong")


def test_a_base_is_never_overwritten(tmp_path, text_runs):
    """A soup may not overwrite its base model."""
    base = shutil.copytree(text_runs[2], tmp_path / "base")
    with pytest.raises(OutputError, match="would be lost"):
        hf_soup.merge(text_runs[:2], method="ties", base_model=base).save_pretrained(base, overwrite=True)
    assert (base / "model.safetensors").is_file()


def test_an_unknown_device(text_runs):
    """An unavailable device raises a RecipeError."""
    with pytest.raises(RecipeError, match="device='cuda:99'"):
        hf_soup.merge(text_runs, device="cuda:99")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["linear", "median", "ties"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_gpu_makes_the_same_bytes(tmp_path, large_runs, method, dtype):
    """Averaging on a GPU gives the same bytes as on the CPU."""
    options = {"method": method, "dtype": dtype, "weights": [0.3, 1.7]}
    options |= {"base_model": large_runs[0]} if method == "ties" else {}
    here = hf_soup.merge(large_runs, **options).save_pretrained(tmp_path / "cpu")
    there = hf_soup.merge(large_runs, device="cuda", **options).save_pretrained(tmp_path / "cuda")
    assert (here / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()
