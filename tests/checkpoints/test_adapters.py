"""Adapters as ingredients: each is its base model with its changes, equal to what PEFT merges."""

import copy
import json
import shutil
import warnings
from pathlib import Path

import peft
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import IncompatibleError, IngredientError, RecipeError
from hf_soup.merging.joined import join_adapters
from hf_soup.types import AdapterRecord


DATA = testing.tiny_texts(24, seed=5)
KINDS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]},
    "stabilised": {"r": 2, "lora_alpha": 16, "use_rslora": True, "target_modules": "all-linear"},
    "dora": {"r": 3, "use_dora": True, "target_modules": ["query", "dense"]},
    "patterns": {
        "r": 4,
        "target_modules": ["query", "value", "word_embeddings"],
        "rank_pattern": {"layer.0.attention.self.query": 2},
        "alpha_pattern": {"value": 32},
        "bias": "lora_only",
    },
    "all biases": {"r": 2, "target_modules": ["key"], "bias": "all"},
    "ia3": {"type": "IA3", "target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]},
    "loha": {"type": "LoHa", "r": 2, "alpha": 4, "target_modules": ["query", "dense"], "rank_pattern": {"query": 3}},
    "lokr": {"type": "LoKr", "r": 2, "alpha": 8, "target_modules": ["query", "dense"]},
    "lokr with whole factors": {
        "type": "LoKr",
        "r": 16,
        "alpha": 8,
        "target_modules": ["value"],
        "decompose_both": True,
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A bare BERT with its tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "base"
    testing.save_text_model(testing.tiny_text_model(0), folder)
    testing.tiny_text_model(0).bert.save_pretrained(folder)
    return folder


def train(base, folder, seed, *, labels=3, cls="SequenceClassification", task="SEQ_CLS", **settings):
    """Save an adapter with random changes; its model is returned as PEFT merges it."""
    options = dict(settings)
    with quiet_transformers():
        model = getattr(transformers, f"AutoModelFor{cls}").from_pretrained(
            base, **({} if labels is None else {"num_labels": labels})
        )
    kind = getattr(peft, f"{options.pop('type', 'Lora').replace('LoRA', 'Lora')}Config")
    adapted = adapted_by(model, kind(task_type=task, **options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    save(adapted, folder)
    return adapted


def adapted_by(model, config):
    """The model with a new adapter; PEFT warns of settings that it corrects itself."""
    transformers.set_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)


def save(adapted, folder):
    """Save an adapter; PEFT warns when it stores embeddings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder)


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """An adapter of each kind, and the weights that PEFT makes of them."""
    folder = tmp_path_factory.mktemp("adapters")
    saved, merged = [], []
    for seed, (name, options) in enumerate(KINDS.items()):
        model = train(base, folder / name.replace(" ", "_"), seed, **options)
        saved.append(folder / name.replace(" ", "_"))
        merged.append(model.merge_and_unload().state_dict())
    return saved, merged


def mean(states, weights):
    """The weighted mean of state dicts, in float64."""
    total = sum(weights)
    return {
        name: sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True)) / total
        for name in states[0]
    }


def close(model, expected):
    """Whether a model has the expected weights, rounded once to float32."""
    state = model.state_dict()
    assert set(state) == set(expected)
    for name, tensor in state.items():
        torch.testing.assert_close(tensor.double(), expected[name].double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", range(len(KINDS)), ids=list(KINDS))
def test_an_adapter_is_the_model_that_peft_merges(adapters, place):
    """Ranks, alphas, patterns, DoRA, embeddings, biases and heads."""
    saved, merged = adapters
    close(hf_soup.merge([saved[place]]).model, mean([merged[place]], [1]))


def test_a_soup_of_adapters_is_the_mean_of_what_they_do(adapters, base, tmp_path):
    """Adapters of different kinds, with weights; the recipe pins the base model, and gives the same bits again."""
    saved, merged = adapters
    weights = [1, 2, 3, 0.5, 1, 2, 1, 1, 2]
    soup = hf_soup.merge(saved, weights=weights)
    close(soup.model, mean(merged, weights))
    assert soup.recipe.base_model.source == str(base)
    folder = soup.save_pretrained(tmp_path / "soup")
    again = hf_soup.cook(folder).soup
    assert all(torch.equal(again.model.state_dict()[name], each) for name, each in soup.model.state_dict().items())
    assert hf_soup.verify(folder).ok
    assert "base+plain" in (folder / "mergekit_config.yml").read_text()
    with quiet_transformers():
        _, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    transformers.AutoTokenizer.from_pretrained(folder)  # that of the base model


@pytest.mark.parametrize("method", ["ties", "median", "dare_ties", "karcher", "task_arithmetic"])
def test_methods_work_on_adapters(adapters, method):
    """As on the merged models, with the base model of the adapters as the base."""
    saved, _ = adapters
    whole = [hf_soup.merge([path]) for path in saved[:3]]
    soup = hf_soup.merge(saved[:3], method=method, dtype="float64")
    models = [
        hf_soup.load_ingredient(each.model.double(), name=path.name) for each, path in zip(whole, saved, strict=False)
    ]
    options = {"base_model": soup.plan.base.ingredient.source} if soup.plan.base is not None else {}
    expected = hf_soup.merge(models, method=method, dtype="float64", **options).model.state_dict()
    for name, tensor in soup.model.state_dict().items():
        same = (tensor - expected[name]).abs() < 1e-5
        assert same.float().mean() > 0.95  # at the threshold of a sparse method other elements may be kept


def test_unchanged_tensors_are_read_once(adapters):
    """What no adapter changes is the base model's, and read once for all of them."""
    saved, _ = adapters
    soup = hf_soup.merge(saved[:2])
    inputs = {step.spec.name: len(step.inputs) for step in soup.plan.steps}
    assert inputs["bert.embeddings.word_embeddings.weight"] == 1
    assert inputs["bert.encoder.layer.0.attention.self.query.weight"] == 2
    assert inputs["classifier.weight"] == 2
    plan, checkpoints = join_adapters(soup.plan, soup.checkpoints)
    inputs = {step.spec.name: step.inputs for step in plan.steps}
    assert len(checkpoints) == 3
    assert inputs["bert.encoder.layer.0.attention.self.query.weight"] == (2,)  # both adapters in one
    assert inputs["classifier.weight"] == (0, 1)


def test_adapters_and_whole_fine_tunes(adapters, base, tmp_path):
    """A mixed soup, and a search over both."""
    saved, merged = adapters
    whole = hf_soup.merge([saved[1]]).save_pretrained(tmp_path / "whole", merged=True)
    close(hf_soup.merge([saved[0], whole]).model, mean(merged[:2], [1, 1]))
    both = hf_soup.merge([saved[0], whole, saved[3]], weights=[1, 2, 0.5])
    close(both.model, mean([*merged[:2], merged[3]], [1, 2, 0.5]))
    folder = both.save_pretrained(tmp_path / "both")
    assert hf_soup.verify(folder).ok
    recorded = hf_soup.load_recipe(folder).ingredients[1].files["model.safetensors"]
    assert recorded == hf_soup.load_recipe(tmp_path / "whole").output.digest
    soup = hf_soup.merge([*saved[:2], whole], strategy="greedy", evaluator=_three(DATA))
    assert soup.selection.score is not None
    report = hf_soup.check([*saved[:2], whole])
    assert report.ok, report.problems


def _three(data):
    """Texts for three classes without names."""
    import datasets

    return hf_soup.Evaluator(datasets.Dataset.from_dict({"text": data["text"][:], "label": data["label"][:]}))


def test_types_of_a_soup_are_those_of_the_base_model(base, tmp_path):
    """A base model in bfloat16 with adapters in float32 gives a soup in bfloat16, rounded once."""
    with quiet_transformers():
        half = transformers.AutoModel.from_pretrained(base, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "half")
    model = train(base, tmp_path / "adapter", 1, **KINDS["plain"])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "half")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    soup = hf_soup.merge([tmp_path / "adapter"]).model
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert soup.state_dict()[name].dtype == torch.bfloat16
    change = model.base_model.model.bert.encoder.layer[0].attention.self.query.get_delta_weight("default").double()
    expected = (half.state_dict()[name.removeprefix("bert.")].double() + change).bfloat16()
    assert (soup.state_dict()[name] != expected).float().mean() < 0.01  # the change itself is rounded in float32


def test_language_models_and_stored_layouts(tmp_path):
    """GPT-2 stores its weights as inputs by outputs; a language model has no new head."""
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    transformers.set_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    merged = []
    for seed, options in enumerate(({}, {"use_dora": True})):
        options |= {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "r": 2}
        model = train(
            tmp_path / "gpt2", tmp_path / f"a{seed}", seed, labels=None, cls="CausalLM", task="CAUSAL_LM", **options
        )
        merged.append(model.merge_and_unload().state_dict())
    close(hf_soup.merge([tmp_path / "a0", tmp_path / "a1"]).model, mean(merged, [1, 1]))


def test_a_peft_model_in_memory(base, tmp_path):
    """A loaded model with an adapter is the same ingredient as its folder."""
    model = train(base, tmp_path / "adapter", 0, **KINDS["plain"])
    merged = copy.deepcopy(model).merge_and_unload().state_dict()
    again = torch.compile(model)
    close(hf_soup.merge([model, hf_soup.load_ingredient(again, name="again")]).model, mean([merged], [1]))
    headless = peft.get_peft_model(testing.tiny_text_model(0), peft.LoraConfig(**KINDS["plain"]))
    headless.add_adapter("other", peft.LoraConfig(**KINDS["plain"]))
    headless.base_model.set_adapter(["default", "other"])
    with pytest.raises(IngredientError, match="active adapters default, other"):
        hf_soup.merge([headless])


def test_adapters_on_the_hub(base, tmp_path, hub):
    """Adapter and base model are pinned to their commits, and a soup of them is cooked again."""
    user = hub.user
    for name, folder in (("base", base),):
        HfApi().create_repo(f"{user}/lora-{name}")
        HfApi().upload_folder(repo_id=f"{user}/lora-{name}", folder_path=folder)
    repos = []
    for seed, kind in enumerate(("plain", "dora")):
        train(base, tmp_path / kind, seed, **KINDS[kind])
        path = tmp_path / kind / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": f"{user}/lora-base"}
        path.write_text(json.dumps(config))
        (tmp_path / kind / "README.md").unlink()  # it names the folder of the base model
        repos.append(f"{user}/lora-{kind}")
        HfApi().create_repo(repos[-1])
        HfApi().upload_folder(repo_id=repos[-1], folder_path=tmp_path / kind)
    soup = hf_soup.merge(repos)
    commit = soup.recipe.base_model.revision
    assert len(commit) == 40
    folder = soup.save_pretrained(tmp_path / "soup")
    # another commit of the base model changes nothing
    tensors = {name: 2 * tensor for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    HfApi().upload_file(
        repo_id=f"{user}/lora-base", path_or_fileobj=tmp_path / "model.safetensors", path_in_repo="model.safetensors"
    )
    assert hf_soup.verify(folder).ok
    assert hf_soup.merge(repos).recipe.base_model.revision != commit


def changed(folder, target, **settings):
    """A copy of an adapter with other settings."""
    shutil.copytree(folder, target)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return target


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "VERA"}, "bad is an adapter of the type VERA; those that are read are LORA, IA3, LOHA, LOKR"),
        ({"base_model_name_or_path": None}, "of bad names no base model"),
        ({"base_model_name_or_path": "/nowhere"}, "the base model of the adapter bad cannot be opened: /nowhere"),
        ({"layer_replication": [[0, 1]]}, "LoRA adapter with layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the base model"),
        ({"task_type": "ANYTHING"}, "has the task_type 'ANYTHING'; known are SEQ_CLS"),
        ({"task_type": "CAUSAL_LM"}, "does not fit its base model"),
        ({"use_dora": True}, "has no lora_magnitude_vector of .*query: it is not whole"),
        ({"peft_type": ["LORA"]}, "is an adapter of the type"),
        ({"task_type": ["SEQ_CLS"]}, "has the task_type"),
        ({"modules_to_save": 3}, "has modules_to_save = 3, which is no list of names"),
    ],
)
def test_adapters_that_are_not_read(adapters, tmp_path, settings, message):
    """Other kinds, other bases and other tasks: one error that names the adapter."""
    with pytest.raises(IngredientError, match=message):
        hf_soup.merge([changed(adapters[0][0], tmp_path / "bad", **settings)])


def damage(folder, change):
    """Change the tensors of an adapter."""
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_damaged_adapters_are_refused(adapters, base, tmp_path):
    """NaN, a missing factor, factors that do not fit, a missing head, a pickle, and a rank above the matrix."""
    first = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"

    def nan(tensors):
        tensors[first][0, 0] = torch.nan

    def lose(tensors):
        del tensors[first]

    def narrow(tensors):
        tensors[first] = tensors[first][:2].contiguous()

    def behead(tensors):
        del tensors["base_model.model.classifier.weight"], tensors["base_model.model.classifier.bias"]

    def grow(tensors):
        tensors[first] = torch.zeros(40, 32)
        tensors[first.replace("lora_A", "lora_B")] = torch.zeros(32, 40)

    cases = {
        "holds NaN or infinity in .*lora_A": nan,
        "has no lora_A of .*query: it is not whole": lose,
        r"have the shapes \[2, 32\] and \[32, 4\]": narrow,
        "neither it nor its base model has classifier.bias, classifier.weight": behead,
        "has the rank 40, which is larger than the matrix": grow,
    }
    for number, (message, change) in enumerate(cases.items()):
        bad = damage(shutil.copytree(adapters[0][0], tmp_path / f"bad-{number}"), change)
        with pytest.raises(IngredientError, match=message):
            hf_soup.merge([bad])
    pickled = shutil.copytree(adapters[0][0], tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(IngredientError, match=r"pickled is an adapter without .*adapter_model\.bin, a pickle"):
        hf_soup.merge([pickled])


def test_adapters_of_different_base_models(adapters, base, tmp_path):
    """Their changes have no mean, and the error names both."""
    other = shutil.copytree(base, tmp_path / "other")
    moved = changed(adapters[0][0], tmp_path / "moved", base_model_name_or_path=str(other))
    with pytest.raises(IncompatibleError, match=r"moved is an adapter of .*other, and plain of .*base"):
        hf_soup.merge([adapters[0][0], moved])


def delta(folder):
    """The change of each weight that an adapter makes, in float64."""
    item = hf_soup.load_ingredient(folder)
    return {name: item.read(name) - item.base.read(name).double() for name in item.changes}


@pytest.fixture(scope="module")
def soup(adapters, tmp_path_factory):
    """A soup of adapters of different ranks, targets and scalings, saved as an adapter."""
    saved, _ = adapters
    chosen = [saved[place] for place in (0, 1, 3, 4)]
    soup = hf_soup.merge(chosen, weights=[1, 2, 3, 0.5])
    return soup, soup.save_pretrained(tmp_path_factory.mktemp("soups") / "soup")


def test_a_soup_of_adapters_is_an_adapter(soup):
    """It has the sum of the ranks, PEFT and transformers load it, and the logits are those of the whole soup."""
    made, folder = soup
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert not (folder / "config.json").exists()  # transformers would look for whole weights beside it
    with quiet_transformers():
        loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        direct = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    inputs = torch.randint(5, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    expected = made.model(inputs).logits
    torch.testing.assert_close(loaded(inputs).logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(direct(inputs).logits, expected, rtol=1e-5, atol=1e-6)
    ranks = loaded.peft_config["default"]
    assert ranks.r == 4 + 2 + 4  # value: plain, stabilised and patterns
    assert ranks.rank_pattern["bert.encoder.layer.0.attention.self.query"] == 4 + 2 + 2
    merged = loaded.merge_and_unload().state_dict()
    assert all(torch.allclose(merged[name], each, atol=1e-6) for name, each in made.model.state_dict().items())


def test_an_adapter_of_adapters_is_cooked_again_and_verified(soup, tmp_path):
    """The recipe says that it is exact; cooking makes the same file, and a changed one is noticed."""
    _, folder = soup
    assert hf_soup.load_recipe(folder).adapter == AdapterRecord(None, 0)
    hf_soup.cook(folder, output_dir=tmp_path / "again")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (folder / weights).read_bytes()
    assert hf_soup.verify(folder).ok
    other = shutil.copytree(folder, tmp_path / "other")
    first = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"

    def touch(tensors):
        tensors[first][0, 0] += 1

    damage(other, touch)
    assert [difference.name for difference in hf_soup.verify(other).different] == [first]
    # it is an ingredient itself
    state = hf_soup.merge([folder]).model.state_dict()
    assert all(torch.allclose(state[name], each, atol=1e-6) for name, each in soup[0].model.state_dict().items())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_smaller_rank_is_the_nearest(soup, tmp_path, rank):
    """Against the singular values of the full matrices: the same product, and the error that the recipe states."""
    made, folder = soup
    small = made.save_pretrained(tmp_path / "small", rank=rank)
    whole, found = delta(folder), delta(small)
    lost = total = 0.0
    for name, change in whole.items():
        u, values, v = torch.linalg.svd(change)
        nearest = u[:, :rank] @ values[:rank].diag() @ v[:rank]
        torch.testing.assert_close(found[name], nearest, rtol=1e-4, atol=1e-5)
        lost, total = lost + float(values[rank:].square().sum()), total + float(values.square().sum())
    record = hf_soup.load_recipe(small).adapter
    assert record.rank == rank
    assert record.error == pytest.approx((lost / total) ** 0.5, abs=1e-5)
    assert f"rank {rank}" in (small / "README.md").read_text()
    assert hf_soup.verify(small).ok


def test_a_soup_of_adapters_as_a_whole_model(soup, adapters, tmp_path):
    """`merged=True` writes all weights; what is no adapter says why."""
    made, _ = soup
    saved, _ = adapters
    folder = made.save_pretrained(tmp_path / "whole", merged=True)
    assert (folder / "model.safetensors").exists()
    assert hf_soup.load_recipe(folder).base_model.files["model.safetensors"].startswith("xxh3-128:")
    assert hf_soup.verify(folder).ok
    cases = {
        "dora is a DoRA adapter": hf_soup.merge([saved[0], saved[2]]),
        "the method is not linear": hf_soup.merge(saved[:2], method="ties"),
        "the weights are factors": hf_soup.merge(saved[:2], normalize=False),
        "the adapters are of different kinds": hf_soup.merge([saved[0], saved[5]]),
        "loha is a LOHA adapter": hf_soup.merge(saved[6:7]),
    }
    for message, other in cases.items():
        with pytest.raises(RecipeError, match=f"cannot be saved as an adapter: {message}"):
            other.save_pretrained(tmp_path / "none", merged=False, overwrite=True)
        assert (other.save_pretrained(tmp_path / "none", overwrite=True) / "model.safetensors").exists()
    with pytest.raises(RecipeError, match="rank is a whole number from 1, not 0"):
        made.save_pretrained(tmp_path / "none", rank=0, overwrite=True)


def test_layouts_of_weights_in_an_adapter(tmp_path):
    """GPT-2 stores inputs by outputs, convolutions have four axes; PEFT loads both."""
    transformers.set_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    tied = {"target_modules": ["wte"], "r": 2}
    train(tmp_path / "gpt2", tmp_path / "tied", 0, labels=None, cls="CausalLM", task="CAUSAL_LM", **tied)
    with pytest.raises(IngredientError, match=r"it changes transformer\.wte\.weight, which is tied to other weights"):
        hf_soup.merge([tmp_path / "tied"])
    options = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "r": 2}
    for seed in range(2):
        train(tmp_path / "gpt2", tmp_path / f"a{seed}", seed, labels=None, cls="CausalLM", task="CAUSAL_LM", **options)
    made = hf_soup.merge([tmp_path / "a0", tmp_path / "a1"])
    folder = made.save_pretrained(tmp_path / "soup")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(6)[None]
    torch.testing.assert_close(loaded(ids).logits, made.model(ids).logits, rtol=1e-5, atol=1e-6)
    transformers.set_seed(0)
    sizes = {"hidden_sizes": [8, 8], "embedding_size": 8, "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    for seed in range(2):
        options = {"target_modules": ["convolution"], "r": 2, "modules_to_save": ["classifier"]}
        train(
            tmp_path / "resnet",
            tmp_path / f"c{seed}",
            seed,
            labels=None,
            cls="ImageClassification",
            task=None,
            **options,
        )
    made = hf_soup.merge([tmp_path / "c0", tmp_path / "c1"])
    folder = made.save_pretrained(tmp_path / "images")
    with quiet_transformers():
        model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "resnet")
    loaded = peft.PeftModel.from_pretrained(model, folder).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(pixels).logits, made.model(pixels).logits, rtol=1e-4, atol=1e-5)


def test_a_soup_of_ia3_adapters_is_one(base, tmp_path):
    """The mean of their vectors, where an adapter that leaves a module scales by 1; also in the layout of GPT-2."""
    options = [
        KINDS["ia3"],
        {"type": "IA3", "target_modules": ["key", "query"], "feedforward_modules": []},
    ]
    merged = []
    for seed, own in enumerate(options):
        merged.append(train(base, tmp_path / f"a{seed}", seed, **own).merge_and_unload().state_dict())
    made = hf_soup.merge([tmp_path / "a0", tmp_path / "a1"], weights=[1, 3])
    close(made.model, mean(merged, [1, 3]))
    folder = made.save_pretrained(tmp_path / "soup")
    with quiet_transformers():
        loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    ids = torch.arange(5, 12)[None]
    torch.testing.assert_close(loaded(ids).logits, made.model(ids).logits, rtol=1e-5, atol=1e-6)
    assert hf_soup.verify(folder).ok
    with pytest.raises(RecipeError, match="rank=2 is for LoRA"):
        made.save_pretrained(tmp_path / "soup", rank=2, overwrite=True)
    turned = {"type": "IA3", "target_modules": ["key", "query"], "feedforward_modules": ["key"]}
    train(base, tmp_path / "turned", 2, **turned)
    with pytest.raises(RecipeError, match=r"key\.weight is scaled by its inputs in one adapter"):
        hf_soup.merge([tmp_path / "a0", tmp_path / "turned"]).save_pretrained(tmp_path / "none", merged=False)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    own = {
        "type": "IA3",
        "target_modules": ["c_attn", "c_fc"],
        "feedforward_modules": ["c_fc"],
        "fan_in_fan_out": True,
    }
    for seed in range(2):
        train(tmp_path / "gpt2", tmp_path / f"g{seed}", seed, labels=None, cls="CausalLM", task="CAUSAL_LM", **own)
    made = hf_soup.merge([tmp_path / "g0", tmp_path / "g1"])
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(made.save_pretrained(tmp_path / "texts"))
    torch.testing.assert_close(loaded(ids).logits, made.model(ids).logits, rtol=1e-5, atol=1e-6)


def test_a_pushed_adapter(base, tmp_path, hub):
    """On the Hub it is an adapter of its base model, which it names by its id; a folder is not named."""
    user = hub.user
    HfApi().create_repo(f"{user}/lora-start")
    HfApi().upload_folder(repo_id=f"{user}/lora-start", folder_path=base)
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"a{seed}")
        train(base, paths[-1], seed, **KINDS["plain"])
    local = hf_soup.merge(paths)
    with pytest.warns(hf_soup.SoupWarning, match="is an adapter of base, which is not a repository"):
        local.push_to_hub(f"{user}/lora-local")
    for path in paths:
        config = json.loads((path / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"{user}/lora-start"
        (path / "adapter_config.json").write_text(json.dumps(config))
    hf_soup.merge(paths).push_to_hub(f"{user}/lora-soup", rank=2)
    for name, expected in (("lora-local", "base"), ("lora-soup", f"{user}/lora-start")):
        path = HfApi().hf_hub_download(f"{user}/{name}", "adapter_config.json")
        config = json.loads(Path(path).read_text())
        assert config["base_model_name_or_path"] == expected
    assert hf_soup.load_recipe(f"{user}/lora-soup").adapter.rank == 2
    hf_soup.merge(paths).push_to_hub(f"{user}/lora-soup", merged=True)
    assert HfApi().file_exists(f"{user}/lora-soup", "config.json")
    hf_soup.merge(paths).push_to_hub(f"{user}/lora-soup", rank=2)
    assert not HfApi().file_exists(f"{user}/lora-soup", "config.json")  # of the whole model that was there
    data = HfApi().model_info(f"{user}/lora-soup").card_data
    assert (data.base_model, data.base_model_relation, data.library_name) == (
        [f"{user}/lora-start"],
        "adapter",
        "peft",
    )
    with quiet_transformers():
        peft.AutoPeftModelForSequenceClassification.from_pretrained(f"{user}/lora-soup", num_labels=3)


def test_a_quantised_base_model(adapters, base, tmp_path):
    """The changes are added to the model that it was made from, which its card names; the check says so."""
    packed = changed_base(base, tmp_path / "packed")
    moved = changed(adapters[0][0], tmp_path / "moved", base_model_name_or_path=str(packed))
    with pytest.raises(IngredientError, match=r"packed is quantised\. Name the model that it was made from"):
        hf_soup.merge([moved])
    (packed / "README.md").write_text(f"---\nbase_model: [{base}]\nbase_model_relation: quantized\n---\n")
    close(hf_soup.merge([moved]).model, hf_soup.merge([adapters[0][0]]).model.state_dict())
    report = hf_soup.check([moved, adapters[0][3]])
    assert any("moved was trained on" in note and "which is quantised" in note for note in report.notes)
    folder = hf_soup.merge([moved]).save_pretrained(tmp_path / "soup")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert hf_soup.verify(folder).ok


def changed_base(base, target):
    """A copy of a base model whose configuration says that it is quantised."""
    shutil.copytree(base, target)
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (target / "config.json").write_text(json.dumps(config))
    return target


def language_model(folder, *, tied, kind="llama"):
    """Save a tiny Llama or GPT-2 whose output is tied to its embeddings, or not."""
    transformers.set_seed(0)
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 16}
        config = transformers.GPT2Config(**sizes, tie_word_embeddings=tied)
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.LlamaConfig(vocab_size=40, **sizes, tie_word_embeddings=tied)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


IDS = torch.arange(6)[None]
LANGUAGE = {"labels": None, "cls": "CausalLM", "task": "CAUSAL_LM", "r": 2}


@pytest.mark.parametrize("targets", [["attn.c_proj", "lm_head"], ["lm_head"], ["c_attn"]], ids=" ".join)
@pytest.mark.parametrize("kind", ["LoRA", "IA3"])
def test_the_module_tells_how_a_weight_is_stored(tmp_path, targets, kind):
    """PEFT writes one `fan_in_fan_out` for layers of both layouts, which is wrong for one of them."""
    folder = language_model(tmp_path / "gpt2", tied=False, kind="gpt2")
    options = {**LANGUAGE, "target_modules": targets}
    if kind == "IA3":
        del options["r"]
        options |= {"type": "IA3", "feedforward_modules": targets[:1]}
    models = [train(folder, tmp_path / f"a{seed}", seed, **options) for seed in range(2)]
    made = hf_soup.merge([tmp_path / "a0"])
    torch.testing.assert_close(made.model(IDS).logits, models[0](IDS).logits, rtol=1e-4, atol=1e-5)
    both = hf_soup.merge([tmp_path / "a0", tmp_path / "a1"])
    saved = both.save_pretrained(tmp_path / "soup")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.AutoPeftModelForCausalLM.from_pretrained(saved)
    torch.testing.assert_close(loaded(IDS).logits, both.model(IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_stored_copy_of_the_base_model_is_no_change(tmp_path, module):
    """PEFT stores the weight below a changed head or embedding, too; a resized one is what is changed."""
    folder = language_model(tmp_path / "llama", tied=False)
    model = train(folder, tmp_path / "a", 1, **LANGUAGE, target_modules=["q_proj", module])
    assert any(".base_layer." in name for name in load_file(tmp_path / "a" / "adapter_model.safetensors"))
    made = hf_soup.merge([tmp_path / "a"])
    torch.testing.assert_close(made.model(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)
    assert (made.save_pretrained(tmp_path / "soup") / "adapter_model.safetensors").exists()

    def double(tensors):
        for name, tensor in tensors.items():
            tensors[name] = 2 * tensor if ".base_layer." in name else tensor

    damage(tmp_path / "a", double)
    made = hf_soup.merge([tmp_path / "a"])
    expected = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a")
    torch.testing.assert_close(made.model(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(RecipeError, match=r"weight is stored whole, and changed as well"):
        made.save_pretrained(tmp_path / "none", merged=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["lm_head"]}, r"changes lm_head\.weight, which is tied"),
        ({"target_modules": ["embed_tokens"]}, r"changes model\.embed_tokens\.weight, which is tied"),
        ({"modules_to_save": ["embed_tokens"]}, r"holds model\.embed_tokens\.weight, which is tied to lm_head"),
        ({"modules_to_save": ["lm_head"]}, r"holds lm_head\.weight, which is tied to model\.embed_tokens"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "which is tied to"),
    ],
)
def test_one_of_two_tied_weights_is_refused(tmp_path, options, message):
    """PEFT changes one of them, so that the model has two tables and a soup of its class one."""
    folder = language_model(tmp_path / "llama", tied=True)
    train(folder, tmp_path / "a", 1, **{"target_modules": ["q_proj"], **LANGUAGE, **options})
    with pytest.raises(IngredientError, match=message):
        hf_soup.merge([tmp_path / "a"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_vocabulary(tmp_path, tied):
    """Both tables are stored with more rows than the base model has; the soup is an adapter again."""
    folder = language_model(tmp_path / "llama", tied=tied)
    expected = []
    for seed in range(2):
        with quiet_transformers():
            model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        transformers.set_seed(5)
        model.resize_token_embeddings(43)
        adapted = adapted_by(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
        torch.manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
        save(adapted, tmp_path / f"a{seed}")
        expected.append(adapted.merge_and_unload().state_dict())
    made = hf_soup.merge([tmp_path / "a0", tmp_path / "a1"])
    close(made.model, mean(expected, [1, 1]))
    saved = made.save_pretrained(tmp_path / "soup")
    with quiet_transformers():
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(43)
    loaded = peft.PeftModel.from_pretrained(base, saved)
    torch.testing.assert_close(loaded(IDS).logits, made.model(IDS).logits, rtol=1e-5, atol=1e-6)
    assert hf_soup.verify(saved).ok


@pytest.mark.parametrize("kind", ["Roberta", "Electra"])
def test_heads_of_several_layers(tmp_path, kind):
    """PEFT names the whole head in `modules_to_save`, and so does the soup."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.set_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, max_position_embeddings=20, **sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / "base")
    options = {"r": 2, "target_modules": ["query", "dense"]}
    merged = []
    for seed in range(2):
        merged.append(train(tmp_path / "base", tmp_path / f"a{seed}", seed, **options).merge_and_unload().state_dict())
    made = hf_soup.merge([tmp_path / "a0", tmp_path / "a1"])
    close(made.model, mean(merged, [1, 1]))
    folder = made.save_pretrained(tmp_path / "soup")
    assert json.loads((folder / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    with quiet_transformers():
        loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    torch.testing.assert_close(loaded(IDS).logits, made.model(IDS).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cls", "task"),
    [("QuestionAnswering", "QUESTION_ANS"), ("TokenClassification", "TOKEN_CLS"), ("SequenceClassification", None)],
)
def test_tasks_of_adapters(base, tmp_path, cls, task):
    """Each class with its head, from a bare base model; without a task type, on a base model of the same class."""
    options = {"labels": 3, "cls": cls, "task": task, "r": 2, "target_modules": ["query"]}
    if task is None:
        base = tmp_path / "base"
        testing.save_text_model(testing.tiny_text_model(0, labels="abc"), base)
        options |= {"labels": None, "modules_to_save": ["classifier"]}
    elif cls == "QuestionAnswering":
        options["labels"] = None
    model = train(base, tmp_path / "a", 1, **options)
    made = hf_soup.merge([tmp_path / "a"])
    vocabulary = model.config.vocab_size
    close(made.model, mean([model.merge_and_unload().state_dict()], [1]))
    assert made.model.config.vocab_size == vocabulary


def test_ranks_above_the_matrix_are_cut_off(base, tmp_path):
    """The sum of the ranks may be larger than a matrix; the soup is exact with the rank of the matrix."""
    merged = []
    for seed in range(3):
        options = {"r": 12, "target_modules": ["query"]}
        merged.append(train(base, tmp_path / f"a{seed}", seed, **options).merge_and_unload().state_dict())
    made = hf_soup.merge([tmp_path / f"a{seed}" for seed in range(3)])
    folder = made.save_pretrained(tmp_path / "soup")
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 32
    assert hf_soup.load_recipe(folder).adapter.error == pytest.approx(0, abs=1e-7)
    assert hf_soup.verify(folder).ok
    again = hf_soup.merge([folder]).model.state_dict()
    expected = mean(merged, [1, 1, 1])
    assert all(torch.allclose(again[name].double(), each, atol=1e-6) for name, each in expected.items())


def test_the_base_model_is_an_adapter_that_changes_nothing(tmp_path):
    """A soup of adapters and their base model has the same form as one of adapters alone."""
    testing.save_text_model(testing.tiny_text_model(0, labels="abc"), tmp_path / "base")
    for seed in range(2):
        train(tmp_path / "base", tmp_path / f"a{seed}", seed, **KINDS["plain"])
    made = hf_soup.merge([tmp_path / "a0", tmp_path / "base", tmp_path / "a1"], weights=[1, 3, 1])
    folder = made.save_pretrained(tmp_path / "soup", merged=False)
    with quiet_transformers():
        loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    torch.testing.assert_close(loaded(IDS).logits, made.model(IDS).logits, rtol=1e-5, atol=1e-6)
    assert hf_soup.verify(folder).ok


def test_what_an_adapter_cannot_hold(base, tmp_path):
    """Estimated BatchNorm statistics, and factors of a head whose classes have another order."""
    transformers.set_seed(0)
    sizes = {"hidden_sizes": [8, 8], "embedding_size": 8, "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    resnet = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))
    testing.save_image_model(resnet, tmp_path / "resnet")
    options = {"target_modules": ["convolution"], "r": 2, "modules_to_save": ["classifier"]}
    options |= {"labels": None, "cls": "ImageClassification", "task": None}
    for seed in range(2):
        train(tmp_path / "resnet", tmp_path / f"c{seed}", seed, **options)
    made = hf_soup.merge([tmp_path / "c0", tmp_path / "c1"], batchnorm_data=testing.tiny_images(12))
    with pytest.raises(RecipeError, match="its BatchNorm statistics were estimated anew"):
        made.save_pretrained(tmp_path / "none", merged=False)
    testing.save_text_model(testing.tiny_text_model(0), tmp_path / "whole")
    paths = []
    for seed, names in enumerate((["bad", "good"], ["good", "bad"])):
        paths.append(tmp_path / f"o{seed}")
        model = train(tmp_path / "whole", paths[-1], seed, labels=None, task=None, r=2, target_modules=["classifier"])
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
        config = {**model.config.to_dict(), **labels, "architectures": ["BertForSequenceClassification"]}
        (paths[-1] / "config.json").write_text(json.dumps(config))
    made = hf_soup.merge(paths, align_labels=True)
    with pytest.raises(RecipeError, match=r"classifier\.weight is changed by factors, and the classes have another"):
        made.save_pretrained(tmp_path / "none", merged=False)


def changed_in_place(folder, **settings):
    """Change the settings of an adapter."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


def test_base_models_that_are_refused(adapters, base, tmp_path):
    """Another one than that of the adapters, an adapter, the adapter itself, and one that has changed."""
    saved, _ = adapters
    other = tmp_path / "other"
    testing.save_text_model(testing.tiny_text_model(9), other)
    with pytest.raises(IncompatibleError, match=r"plain is an adapter of .*base, and base_model is .*other: leave"):
        hf_soup.merge(saved[:2], method="ties", base_model=other)
    assert hf_soup.merge(saved[:2], base_model=base).recipe.base_model.source == str(base)
    nested = changed(saved[0], tmp_path / "nested", base_model_name_or_path=str(saved[1]))
    with pytest.raises(IngredientError, match=r"it is an adapter itself, of .*base\. Merge it into that first"):
        hf_soup.merge([nested])
    looped = changed_in_place(shutil.copytree(saved[0], tmp_path / "looped"), base_model_name_or_path="looped")
    changed_in_place(looped, base_model_name_or_path=str(looped))
    with pytest.raises(IngredientError, match="of looped names the adapter itself as its base model"):
        hf_soup.merge([looped])
    copied = shutil.copytree(base, tmp_path / "copied")
    moved = [changed(path, tmp_path / path.name, base_model_name_or_path=str(copied)) for path in saved[:2]]
    made = hf_soup.merge(moved)
    folders = [made.save_pretrained(tmp_path / f"s{merged}", merged=merged) for merged in (True, False)]
    tensors = {name: 2 * tensor for name, tensor in load_file(copied / "model.safetensors").items()}
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    for folder in folders:
        assert "the weights of 'copied' are not those" in hf_soup.verify(folder).table()


def test_a_recipe_opens_adapters_on_the_pinned_base_model(adapters, base, tmp_path, monkeypatch):
    """Whatever their own configurations lead to now, such as a relative path in another folder."""
    saved, _ = adapters
    moved = [changed(path, tmp_path / path.name, base_model_name_or_path=base.name) for path in saved[:2]]
    monkeypatch.chdir(base.parent)
    folder = hf_soup.merge(moved).save_pretrained(tmp_path / "soup")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IngredientError, match="base model of the adapter plain cannot be opened"):
        hf_soup.merge(moved)
    assert hf_soup.verify(folder).ok


def test_peft_models_in_memory_that_differ_in_their_heads(base):
    """A new head is random in each, and is no difference of base models; a merged adapter would count twice."""
    models = []
    for seed in range(2):
        transformers.set_seed(100 + seed)
        with quiet_transformers():
            model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        models.append(peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **KINDS["plain"])))
    assert hf_soup.merge(models).recipe.names
    models[0].merge_adapter()
    with pytest.raises(IngredientError, match=r"is merged into the weights .*unmerge_adapter"):
        hf_soup.merge(models)


def test_an_adapter_that_changes_after_it_was_opened(tmp_path):
    """Its factors are read when the soup is saved, and the digests of its files are those of before."""
    folder = language_model(tmp_path / "llama", tied=False)
    for seed in range(2):
        train(folder, tmp_path / f"a{seed}", seed, **LANGUAGE, target_modules=["q_proj"])
    made = hf_soup.merge([tmp_path / "a0", tmp_path / "a1"])

    def grow(tensors):
        tensors.update({name: tensor + 1 for name, tensor in tensors.items()})

    damage(tmp_path / "a0", grow)
    with pytest.raises(IngredientError, match=r"adapter_model\.safetensors has changed since 'a0' was opened"):
        made.save_pretrained(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
    save_file({}, tmp_path / "a0" / "adapter_model.safetensors")
    with pytest.raises(IngredientError, match="a0 holds no tensor, and so no change of its base model"):
        hf_soup.merge([tmp_path / "a0"])


def test_a_soup_of_adapters_without_a_task_type(tmp_path):
    """It names the class, as PEFT does, so that it loads by itself."""
    testing.save_text_model(testing.tiny_text_model(0, labels="abc"), tmp_path / "base")
    models = []
    for seed in range(2):
        with quiet_transformers():
            model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        config = peft.LoraConfig(
            r=2, target_modules=["query"], modules_to_save=["classifier"], init_lora_weights=False
        )
        torch.manual_seed(seed)
        models.append(adapted_by(model, config))
    made = hf_soup.merge(models)
    folder = made.save_pretrained(tmp_path / "soup")
    assert json.loads((folder / "adapter_config.json").read_text())["auto_mapping"] == {
        "base_model_class": "BertForSequenceClassification",
        "parent_library": "transformers.models.bert.modeling_bert",
    }
    with quiet_transformers():
        loaded = peft.AutoPeftModel.from_pretrained(folder)
    torch.testing.assert_close(loaded(IDS).logits, made.model(IDS).logits, rtol=1e-5, atol=1e-6)
    close(hf_soup.merge([folder]).model, made.model.state_dict())


@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", None])
def test_classes_that_a_task_type_does_not_name(tmp_path, task):
    """Speech models have no class for the task type that people give them; that of the base model is right."""
    transformers.set_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config = transformers.WhisperConfig(
        vocab_size=40, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, **sizes
    )
    config.decoder_start_token_id, config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 1, 2
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(tmp_path / "base")
    adapted = adapted_by(
        model, peft.LoraConfig(task_type=task, r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "a")
    close(hf_soup.merge([tmp_path / "a"]).model, mean([adapted.merge_and_unload().state_dict()], [1]))


def test_a_whole_soup_of_adapters_is_cooked_as_one(adapters, tmp_path):
    """And a saved adapter that names another base model is noticed."""
    made = hf_soup.merge(adapters[0][:2])
    whole = made.save_pretrained(tmp_path / "whole", merged=True)
    again = hf_soup.cook(whole, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    large = made.save_pretrained(tmp_path / "large", rank=100)
    assert hf_soup.load_recipe(large).adapter.rank is None  # nothing was cut off
    assert not (made.save_pretrained(tmp_path / "small", rank=1) / "mergekit_config.yml").exists()
    card = (large / "README.md").read_text()
    assert "num_labels=3" in card
    assert "is not known" not in card
    named = json.loads((large / "adapter_config.json").read_text())["base_model_name_or_path"]
    other = shutil.copytree(named, tmp_path / "other")
    changed_in_place(large, base_model_name_or_path=str(other))
    assert f"names the base model {str(other)[:60]}, and the recipe" in hf_soup.verify(large).table()
    recipe = (large / "soup_recipe.yaml").read_text().replace("rank: null", "rank: -1")
    (large / "soup_recipe.yaml").write_text(recipe)
    with pytest.raises(RecipeError, match="the rank of the adapter is -1"):
        hf_soup.load_recipe(large)


def test_a_head_here_and_none_there(tmp_path):
    """The base model has a head of its own, which is no fine-tune; for language models it is."""
    testing.save_text_model(testing.tiny_text_model(0, labels="abc"), tmp_path / "base")
    train(tmp_path / "base", tmp_path / "with", 0, **KINDS["plain"])
    train(tmp_path / "base", tmp_path / "without", 1, task=None, **KINDS["plain"])
    with pytest.raises(IncompatibleError, match=r"without holds no head, and with one of its own \(classifier\.bias"):
        hf_soup.merge([tmp_path / "with", tmp_path / "without"])
    assert hf_soup.merge([tmp_path / "without"]).model is not None
    folder = language_model(tmp_path / "llama", tied=False)
    for seed, own in enumerate((None, ["lm_head"])):
        train(folder, tmp_path / f"a{seed}", seed, **LANGUAGE, target_modules=["q_proj"], modules_to_save=own)
    assert hf_soup.check([tmp_path / "a0", tmp_path / "a1"]).ok


def test_the_check_says_what_differs_between_adapters(adapters, base, tmp_path):
    """Other target modules and other starts are notes, other base models problems."""
    saved, _ = adapters
    report = hf_soup.check(saved[:2])
    assert any("stabilised and plain change different weights, such as bert.encoder" in note for note in report.notes)
    testing.save_text_model(testing.tiny_text_model(0), tmp_path / "whole")
    for seed in range(2):
        model = testing.tiny_text_model(0)
        transformers.set_seed(100 + seed)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **KINDS["plain"]))
        adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "whole")
        adapted.save_pretrained(tmp_path / f"a{seed}")
    report = hf_soup.check([tmp_path / "a0", tmp_path / "a1"])
    assert any("a1 did not start from the factors of a0" in note for note in report.notes)
    twin = shutil.copytree(tmp_path / "a0", tmp_path / "twin")
    assert not any("did not start" in note for note in hf_soup.check([tmp_path / "a0", twin]).notes)
    other = shutil.copytree(base, tmp_path / "other")
    moved = changed(saved[0], tmp_path / "moved", base_model_name_or_path=str(other))
    report = hf_soup.check([saved[0], moved])
    assert any("moved is an adapter of" in problem for problem in report.problems)
