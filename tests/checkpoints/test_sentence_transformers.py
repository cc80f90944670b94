"""Tests of sentence-transformers folders: every module is kept, and weights in subfolders are averaged too."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.models import Dense, Pooling, Router, StaticEmbedding, Transformer

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import IncompatibleError, IngredientError
from hf_soup.merging.refill import Refill


TEXTS = ["good film", "the plot was very dull and cold"]


def body(folder, seed):
    """A saved BERT without a head, with its tokenizer."""
    transformers.set_seed(seed)
    return testing.save_text_model(transformers.BertModel(transformers.BertConfig(**testing.TINY["bert"])), folder)


def with_dense(folder, seed):
    """A model of a transformer, its pooling and a projection."""
    transformer = Transformer(str(body(folder.with_name(f"{folder.name}-body"), seed)))
    torch.manual_seed(seed)
    return SentenceTransformer(
        modules=[transformer, Pooling(32, "mean"), Dense(32, 8)], prompts={"query": "query: "}, device="cpu"
    )


def with_routes(folder, seed):
    """A model that encodes queries by static embeddings and documents by a transformer."""
    transformer = Transformer(str(body(folder.with_name(f"{folder.name}-body"), seed)))
    torch.manual_seed(seed)
    tokenizer = transformer.tokenizer.backend_tokenizer
    queries = [StaticEmbedding(tokenizer, embedding_dim=32)]
    router = Router.for_query_document(query_modules=queries, document_modules=[transformer, Pooling(32, "mean")])
    return SentenceTransformer(modules=[router, Dense(32, 8)], device="cpu")


def static(folder, seed):
    """A model of an embedding table alone, without a transformers model."""
    transformer = Transformer(str(body(folder.with_name(f"{folder.name}-body"), seed)))
    torch.manual_seed(seed)
    return SentenceTransformer(
        modules=[StaticEmbedding(transformer.tokenizer.backend_tokenizer, embedding_dim=8)], device="cpu"
    )


KINDS = {"dense": with_dense, "router": with_routes, "static": static}


def saved(tmp_path, kind, count=2):
    """Saved runs of one kind."""
    folders = [tmp_path / f"run-{seed}" for seed in range(count)]
    with quiet_transformers():
        for seed, folder in enumerate(folders):
            KINDS[kind](folder, seed).save(str(folder))
    return folders


def embeddings(model, kind):
    """Embeddings of the texts, by the document route and the query route if the model has routes."""
    task = {"task": "document"} if kind == "router" else {}
    vectors = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False, **task)
    if kind == "router":
        queries = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False, task="query")
        vectors = torch.cat([vectors, queries])
    return vectors


@pytest.mark.parametrize("kind", KINDS)
def test_every_module_is_averaged(tmp_path, kind):
    """The soup loads as a SentenceTransformer with the mean of all weights, also those in subfolders, keeps all files,
    and can be cooked again and verified."""
    runs = saved(tmp_path, kind)
    soup = hf_soup.merge(runs)
    folder = soup.save_pretrained(tmp_path / "soup")
    with quiet_transformers():
        models = [SentenceTransformer(str(run), device="cpu") for run in runs]
        loaded = SentenceTransformer(str(folder), device="cpu")
    mean = {}
    for name, tensor in models[0].state_dict().items():
        mean[name] = tensor
        if tensor.is_floating_point():
            second = models[1].state_dict()[name]
            mean[name] = ((tensor.double() + second.double()) / 2).to(tensor.dtype)
    assert all(torch.equal(tensor, mean[name]) for name, tensor in loaded.state_dict().items())
    models[0].load_state_dict(mean)
    assert torch.equal(embeddings(loaded, kind), embeddings(models[0], kind))
    assert loaded.prompts == models[0].prompts
    files = {path.relative_to(runs[0]).as_posix() for path in runs[0].rglob("*") if path.is_file()}
    assert files <= {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    for path in folder.rglob("*.safetensors"):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert hf_soup.verify(folder).ok
    assert hf_soup.verify(folder).identical == sum(len(load_file(path)) for path in folder.rglob("*.safetensors"))


def test_through_the_hub(hub, tmp_path):
    """Repositories give the same bytes as folders, and a soup that is pushed in shards loads from the Hub."""
    from huggingface_hub import HfApi

    runs = saved(tmp_path, "dense")
    ids = []
    for run in runs:
        ids.append(f"{hub.user}/{tmp_path.name}-{run.name}")
        HfApi().create_repo(ids[-1])
        HfApi().upload_folder(repo_id=ids[-1], folder_path=run)
    local = hf_soup.merge(runs).save_pretrained(tmp_path / "local")
    soup = hf_soup.merge(ids)
    folder = soup.save_pretrained(tmp_path / "soup")
    for name in ("model.safetensors", "2_Dense/model.safetensors", "modules.json", "1_Pooling/config.json"):
        assert (folder / name).read_bytes() == (local / name).read_bytes()
    files = hf_soup.load_recipe(folder).ingredients[0].files
    assert set(files) == {"model.safetensors", "2_Dense/model.safetensors"}
    assert all(digest.startswith("sha256:") for digest in files.values())
    soup.push_to_hub(f"{hub.user}/{tmp_path.name}-soup", max_shard_size="20KB")
    with quiet_transformers():
        loaded = SentenceTransformer(f"{hub.user}/{tmp_path.name}-soup", device="cpu")
        right = SentenceTransformer(str(folder), device="cpu")
    assert torch.equal(embeddings(loaded, "dense"), embeddings(right, "dense"))
    assert hf_soup.verify(f"{hub.user}/{tmp_path.name}-soup").ok


def test_weights_by_module(tmp_path):
    """A module in a subfolder can have its own weights, in the folder and in memory."""
    runs = saved(tmp_path, "dense")
    soup = hf_soup.merge(runs, weights={"": [1, 1], "2_Dense": [0, 1]})
    folder = soup.save_pretrained(tmp_path / "soup")
    dense, taken = (load_file(place / "2_Dense" / "model.safetensors") for place in (folder, runs[1]))
    assert all(torch.equal(tensor, taken[name]) for name, tensor in dense.items())
    assert torch.equal(soup.model[2].linear.weight, taken["linear.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_in_memory(tmp_path, kind):
    """It has the class and the bits of the saved soup, and searches refill it where its modules are plain."""
    runs = saved(tmp_path, kind, 3)
    soup = hf_soup.merge(runs[:2])
    with quiet_transformers():
        loaded = SentenceTransformer(str(soup.save_pretrained(tmp_path / "soup")), device="cpu")
    assert type(soup.model) is SentenceTransformer
    assert soup.model.prompts == loaded.prompts
    assert torch.equal(embeddings(soup.model, kind), embeddings(loaded, kind))
    refill = Refill()
    first = refill.fill(soup.plan, soup.checkpoints)
    other = hf_soup.merge(runs[1:], weights=[1, 3])
    second = refill.fill(other.plan, other.checkpoints)
    assert (first is second) == (kind != "router")
    assert torch.equal(embeddings(second, kind), embeddings(other.model, kind))


@pytest.mark.parametrize("kind", [CrossEncoder, SparseEncoder])
def test_other_classes(tmp_path, kind):
    """Cross-encoders and sparse encoders are averaged, and are what they were."""
    config = transformers.BertConfig(**testing.TINY["bert"], num_labels=1)
    with quiet_transformers():
        for seed in range(2):
            transformers.set_seed(seed)
            cls = transformers.BertForSequenceClassification if kind is CrossEncoder else transformers.BertForMaskedLM
            body = testing.save_text_model(cls(config), tmp_path / f"body-{seed}")
            kind(str(body), device="cpu").save_pretrained(str(tmp_path / f"run-{seed}"))
    soup = hf_soup.merge([tmp_path / "run-0", tmp_path / "run-1"])
    with pytest.warns(hf_soup.SoupWarning, match="heads do not look like"):
        model = soup.model
    assert type(model) is kind
    with quiet_transformers():
        loaded = kind(str(soup.save_pretrained(tmp_path / "soup")), device="cpu")
        members = [kind(str(tmp_path / f"run-{seed}"), device="cpu").state_dict() for seed in range(2)]
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
        mean = (members[0][name].double() + members[1][name].double()) / 2
        assert torch.equal(tensor, mean.to(tensor.dtype))
    if kind is CrossEncoder:
        scores = [each.predict([tuple(TEXTS)], show_progress_bar=False) for each in (loaded, model)]
        assert scores[0] == scores[1]


def test_a_class_that_is_not_known(tmp_path):
    """It is named, and a library that is missing gives the pip line."""
    runs = saved(tmp_path, "dense")
    for run in runs:
        settings = json.loads((run / "config_sentence_transformers.json").read_text())
        (run / "config_sentence_transformers.json").write_text(json.dumps({**settings, "model_type": "Other"}))
    with pytest.raises(IngredientError, match="has the model_type 'Other'"):
        hf_soup.merge(runs).model  # noqa: B018


def test_a_module_that_one_lacks(tmp_path):
    """A module that one ingredient lacks or has in another size is named."""
    runs = saved(tmp_path, "dense", 3)
    shutil.rmtree(runs[1] / "2_Dense")
    with quiet_transformers():
        Dense(32, 4).save(str(runs[2] / "2_Dense"))
    with pytest.raises(IncompatibleError) as caught:
        hf_soup.merge(runs)
    problems = "\n".join(caught.value.problems)
    assert "run-1 lacks 2_Dense.linear.bias, 2_Dense.linear.weight" in problems
    assert "run-2: 2_Dense.linear.weight has the shape [4, 32], the others [8, 32]" in problems


def test_a_pickled_module(tmp_path):
    """Pickled weights in subfolders are refused by default, and read with `allow_pickle=True`."""
    runs = saved(tmp_path, "dense")
    right = hf_soup.merge(runs).save_pretrained(tmp_path / "right")
    for run in runs:
        torch.save(load_file(run / "2_Dense" / "model.safetensors"), run / "2_Dense" / "pytorch_model.bin")
        (run / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(IngredientError, match=r"2_Dense has no model\.safetensors.*pytorch_model\.bin, a pickle"):
        hf_soup.merge(runs)
    folder = hf_soup.merge([hf_soup.load_ingredient(run, allow_pickle=True) for run in runs]).save_pretrained(
        tmp_path / "soup"
    )
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        assert (folder / name).read_bytes() == (right / name).read_bytes()
    assert not (folder / "2_Dense" / "pytorch_model.bin").exists()


def test_a_soup_over_another_kind_of_model(hub, tmp_path, text_runs):
    """A plain model pushed over a SentenceTransformer deletes its modules, which would be applied on top of it."""
    from huggingface_hub import HfApi

    repo_id = f"{hub.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=saved(tmp_path, "dense")[0])
    hf_soup.merge(text_runs).push_to_hub(repo_id)
    left = HfApi().list_repo_files(repo_id)
    assert not [name for name in left if "modules.json" in name or "/" in name or "sentence" in name]
    assert transformers.AutoConfig.from_pretrained(repo_id).architectures == ["BertForSequenceClassification"]


def test_a_base_of_a_folder_with_parts(tmp_path):
    """A base model applies to the transformer among the modules, and is refused if there is none."""
    runs = saved(tmp_path, "router")
    base = body(tmp_path / "base", 7)
    soup = hf_soup.merge(runs, method="ties", base_model=base)
    steps = [step for step in soup.plan.steps if step.base]
    assert len(steps) > 30
    assert all("Transformer." in step.spec.name for step in steps)
    tables = saved(tmp_path / "tables", "static")
    with pytest.raises(IngredientError, match="is not a base model of"):
        hf_soup.merge(tables, method="ties", base_model=base)


def test_an_adapter_inside_of_a_part(tmp_path):
    """An adapter in the folder of a module is refused, because transformers would apply it to that module."""
    runs = saved(tmp_path, "router")
    (part,) = [path.parent for path in runs[0].rglob("config.json") if "Transformer" in path.parent.name]
    (part / "adapter_config.json").write_text("{}")
    with pytest.raises(IncompatibleError, match=f"PEFT adapter .{part.name}/adapter_config.json"):
        hf_soup.merge(runs)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_wrapped_module(tmp_path, prefix):
    """Prefixes that wrappers add to names in a module's file are removed."""
    runs = saved(tmp_path, "dense")
    plain = hf_soup.merge(runs).save_pretrained(tmp_path / "plain")
    for run in runs:
        path = run / "2_Dense" / "model.safetensors"
        save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path)
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    name = "2_Dense/model.safetensors"
    assert (folder / name).read_bytes() == (plain / name).read_bytes()
