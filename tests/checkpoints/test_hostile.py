"""Tests of untrusted files: whatever they contain, they are read as they are or raise a `SoupError`."""

import json
import os
import pickle
import random
import shutil
import tracemalloc

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.errors import IncompatibleError, IngredientError


@pytest.fixture
def run(tmp_path, text_runs):
    """A valid checkpoint in one file, to be damaged."""
    return shutil.copytree(text_runs[0], tmp_path / "run")


@pytest.fixture
def sharded(tmp_path, run):
    """The same checkpoint in shards."""
    (run / "model.safetensors").unlink()
    testing.tiny_text_model(0).save_pretrained(run, max_shard_size="30KB")
    return run


def spoil_header(header, rng):
    """Make one random change to the header of a valid file."""
    name, other = rng.sample([key for key in header if key != "__metadata__"], 2)
    entry = header[name]
    begin, end = entry["data_offsets"]
    number = rng.choice([-1, 0, 1, 7, 2**31, 2**63, 2**70, -(2**70), 0.5, "1", None, [], True, 1e400])
    kind = rng.randrange(10)
    if kind == 0:
        entry["data_offsets"] = [begin + rng.choice([-4, 4, 8]), end]
    elif kind == 1:
        entry["data_offsets"] = [begin, number]
    elif kind == 2:
        entry["data_offsets"] = header[other]["data_offsets"]
    elif kind == 3:
        entry["shape"] = [*entry["shape"], rng.choice([2, number])]
    elif kind == 4:
        entry["shape"] = rng.choice([number, [number], {"a": 1}])
    elif kind == 5:
        entry["dtype"] = rng.choice(["F64", "I8", "BF16", "F4", "f32", number])
    elif kind == 6:
        del entry[rng.choice(list(entry))]
    elif kind == 7:
        header[name] = number
    elif kind == 8:
        del header[name]
    else:
        header[rng.choice(["", "\0", "x" * 1000, "../x"])] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize("seed", range(100))
def test_a_corpus_of_headers(run, seed):
    """A header with one invalid change raises a SoupError."""
    rng = random.Random(seed)
    content = (run / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    spoil_header(header, rng)
    text = json.dumps(header).encode()
    size = len(text) if rng.random() < 0.9 else rng.choice([0, 1, len(text) - 1, 2**40, 2**63, 2**64 - 1])
    (run / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(hf_soup.SoupError):
        open_checkpoint(run)


def spoil_index(folder, index, rng):
    """Make one random change to an index of shards or to a shard."""
    weight_map = index["weight_map"]
    name, other = rng.sample(sorted(weight_map), 2)
    shards = sorted(set(weight_map.values()))
    path = rng.choice(
        ["../out.safetensors", str(folder.parent / "out.safetensors"), "sub/x.safetensors", "..", "", "."]
    )
    kind = rng.randrange(10)
    if kind == 0:
        weight_map[name] = path
    elif kind == 1:
        weight_map[name] = rng.choice([1, None, [], {}, "config.json", "model-9.safetensors", "x\0.safetensors"])
    elif kind == 2:
        weight_map[name] = next(shard for shard in shards if shard != weight_map[name])
    elif kind == 3:
        del weight_map[name]
    elif kind == 4:
        weight_map["not.there"] = weight_map[other]
    elif kind == 5:
        index["weight_map"] = rng.choice([[], {}, None, "x", 3, [["a", "b"]], [1, 2]])
    elif kind == 6:
        del index["weight_map"]
    elif kind == 7:
        (folder / shards[0]).unlink()
    elif kind == 8:
        shutil.copy(folder / shards[0], folder / shards[1])
    else:
        extra = {**load_file(folder / shards[0]), "extra": torch.zeros(2)}
        save_file(extra, folder / shards[0])


@pytest.mark.parametrize("seed", range(100))
def test_a_corpus_of_indexes(sharded, seed):
    """An index with one invalid change, or with shards that do not match it, raises a SoupError."""
    path = sharded / "model.safetensors.index.json"
    save_file({"classifier.bias": torch.zeros(2)}, sharded.parent / "out.safetensors")
    index = json.loads(path.read_text())
    spoil_index(sharded, index, random.Random(seed))
    path.write_text(json.dumps(index))
    with pytest.raises(hf_soup.SoupError):
        open_checkpoint(sharded)


def test_a_link_out_of_the_folder(sharded):
    """A shard that links out of its folder is refused; a link inside the folder is followed."""
    shard = sorted(sharded.glob("*.safetensors"))[0]
    inside = sharded / "real.bin"
    shard.rename(inside)
    shard.symlink_to(inside.name)
    open_checkpoint(sharded)
    shard.unlink()
    outside = inside.rename(sharded.parent / "outside")
    shard.symlink_to(outside)
    with pytest.raises(IngredientError, match="a link out of its folder"):
        open_checkpoint(sharded)


def test_an_enormous_header_costs_nothing(run):
    """A header of 100 MB is refused by its length, without being read."""
    with (run / "model.safetensors").open("wb") as file:
        file.write((100_000_000).to_bytes(8, "little"))
        file.truncate(8 + 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(IngredientError, match="100,000,000 bytes, which no model needs"):
            open_checkpoint(run)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_remote_code_is_never_asked_for(tmp_path, run, text_runs):
    """Code from a repository is removed from the soup's config, and refused if the model needs it."""
    auto_map = {"AutoConfig": "modeling.Evil", "AutoModelForSequenceClassification": "modeling.Evil"}
    config = json.loads((run / "config.json").read_text()) | {
        "auto_map": auto_map,
        "attn_implementation": "evil/kernel",
    }
    (run / "config.json").write_text(json.dumps(config))
    (run / "modeling.py").write_text("raise SystemExit('this ran')")
    soup = hf_soup.merge([run, text_runs[1]])
    saved = json.loads((soup.save_pretrained(tmp_path / "soup") / "config.json").read_text())
    assert not {"auto_map", "attn_implementation"} & set(saved)
    assert soup.model
    (run / "config.json").write_text(json.dumps(config | {"architectures": ["EvilForSequenceClassification"]}))
    with pytest.raises(IngredientError, match="code from a repository is not run"):
        hf_soup.merge([run, text_runs[1]])


@pytest.fixture
def pickled(run):
    """A checkpoint with a pickle of its weights, as older ones have."""
    torch.save(load_file(run / "model.safetensors"), run / "pytorch_model.bin")
    (run / "model.safetensors").unlink()
    return run


def test_pickles_are_read_when_allowed(tmp_path, pickled, text_runs):
    """Allowed pickles, in one file or in shards, give the same soup as safetensors; cooking also needs permission."""
    with pytest.raises(IngredientError, match="allow_pickle=True"):
        hf_soup.merge([pickled, text_runs[1]])
    opened = hf_soup.load_ingredient(pickled, allow_pickle=True)
    folder = hf_soup.merge([opened, text_runs[1]]).save_pretrained(tmp_path / "soup")
    direct = hf_soup.merge(text_runs[:2]).save_pretrained(tmp_path / "direct")
    assert (folder / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()
    recorded = hf_soup.load_recipe(folder).ingredients[0]
    assert recorded.source == str(pickled)
    assert recorded.files["pytorch_model.bin"].startswith("xxh3-128:")
    with pytest.raises(IngredientError, match="allow_pickle=True"):
        hf_soup.cook(folder, output_dir=tmp_path / "again")
    again = hf_soup.cook(folder, output_dir=tmp_path / "again", allow_pickle=True).folder
    assert (again / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()
    assert hf_soup.check([hf_soup.load_ingredient(pickled, allow_pickle=True), text_runs[1]]).ok

    state = torch.load(pickled / "pytorch_model.bin")
    names = sorted(state)
    (pickled / "pytorch_model.bin").unlink()
    weight_map = {name: f"pytorch_model-{index > 8}.bin" for index, name in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({name: state[name] for name in names if weight_map[name] == file}, pickled / file)
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    opened = hf_soup.load_ingredient(pickled, allow_pickle=True)
    sharded = hf_soup.merge([opened, text_runs[1]]).save_pretrained(tmp_path / "sharded")
    assert (sharded / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()


def test_a_pickle_that_changed_is_noticed(tmp_path, pickled, text_runs):
    """A pickle that has changed is noticed when the recipe is cooked again."""
    opened = hf_soup.load_ingredient(pickled, allow_pickle=True)
    folder = hf_soup.merge([opened, text_runs[1]]).save_pretrained(tmp_path / "soup")
    state = torch.load(pickled / "pytorch_model.bin")
    state["classifier.bias"] += 1
    torch.save(state, pickled / "pytorch_model.bin")
    with pytest.raises(IngredientError, match="has changed"):
        hf_soup.cook(folder, output_dir=tmp_path / "again", allow_pickle=True)


class Attack:
    """An object that runs a command when it is unpickled unsafely."""

    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("content", ["attack", "attack in a tensor's place", "list", "nested", "noise", "empty"])
def test_a_pickle_is_tensors_or_nothing(pickled, content, monkeypatch):
    """A pickle with more than tensors is refused, and no code runs."""
    monkeypatch.chdir(pickled)
    path = pickled / "pytorch_model.bin"
    state = torch.load(path)
    if content == "attack":
        path.write_bytes(pickle.dumps(Attack(), protocol=2))
    elif content == "attack in a tensor's place":
        torch.save(state | {"x": Attack()}, path)
    elif content == "list":
        torch.save([1, 2], path)
    elif content == "nested":
        torch.save({"state_dict": state}, path)
    else:
        path.write_bytes(b"noise" if content == "noise" else b"")
    with pytest.raises(IngredientError, match=r"as tensors alone|something other than tensors"):
        open_checkpoint(pickled, allow_pickle=True)
    assert not (pickled / "attacked").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": 5},
        {"architectures": "BertForSequenceClassification"},
        {"architectures": {"a": 1}},
        {"architectures": [["x"]]},
        {"model_type": ["bert"]},
        {"id2label": ["a", "b"]},
        {"id2label": {"x": "a"}},
        {"id2label": 5},
        {"quantization_config": "gptq"},
        {"quantization_config": ["awq"]},
        {"hidden_size": "x"},
        {"num_hidden_layers": 10**9, "hidden_act": 3},
    ],
)
def test_odd_configurations(run, text_runs, change):
    """An invalid configuration raises a SoupError, at the latest when the model is built."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(hf_soup.SoupError):
        _ = hf_soup.merge([run, run]).model


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "model.safetensors.index.json", "tokenizer_config.json"]
)
def test_nested_without_end(sharded, file):
    """JSON nested deeper than Python's recursion limit raises a SoupError."""
    (sharded / file).write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(hf_soup.SoupError):
        hf_soup.check([sharded])


@pytest.mark.parametrize(
    "state", [[1], {"best_model_checkpoint": 5}, {"best_model_checkpoint": "x/.."}, {"best_model_checkpoint": None}]
)
def test_odd_trainer_states(tmp_path, run, state):
    """An invalid Trainer state is ignored, and the last checkpoint in the folder is used."""
    shutil.copytree(run, tmp_path / "out" / "checkpoint-10")
    (tmp_path / "out" / "checkpoint-²").mkdir()
    (tmp_path / "out" / "checkpoint-10" / "trainer_state.json").write_text(json.dumps(state))
    assert open_checkpoint(tmp_path / "out").folder.name == "checkpoint-10"


def test_a_link_to_a_secret_does_not_travel(tmp_path, run, text_runs):
    """A tokenizer file that links out of the folder is refused, because its target would be copied into the soup."""
    (tmp_path / "secret").write_text("token")
    (run / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(IngredientError, match="is a link out of its folder"):
        hf_soup.merge([run, text_runs[1]])


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_older_quantised_checkpoints(run, file):
    """Quantised checkpoints that keep their settings in a separate file, as GPTQ and AWQ once did, are refused."""
    (run / file).write_text(json.dumps({"quant_method": "gptq", "bits": 4}))
    with pytest.raises(IngredientError, match=r"quantised \(gptq\)"):
        open_checkpoint(run)


def test_names_of_bitsandbytes(run):
    """A bitsandbytes checkpoint is recognised although its settings do not name the method."""
    config = json.loads((run / "config.json").read_text()) | {"quantization_config": {"load_in_8bit": True}}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(IngredientError, match=r"quantised \(bitsandbytes\)"):
        open_checkpoint(run)


def test_whole_numbers_and_others_do_not_mix(run, text_runs):
    """A tensor that is integer in one ingredient and floating-point in another is named, whatever the order."""
    state = load_file(run / "model.safetensors")
    state["classifier.bias"] = torch.ones(2, dtype=torch.int64)
    save_file(state, run / "model.safetensors", metadata={"format": "pt"})
    for order in ([run, *text_runs[1:]], [*text_runs[1:], run]):
        with pytest.raises(IncompatibleError, match=r"run: classifier\.bias is int64, of the others it is float"):
            hf_soup.merge(order)


ODD_FILES = {
    "tokenizer_config.json": [
        '{"chat_template": [5]}',
        '{"added_tokens_decoder": {"x": 5}}',
        "[1]",
        "\udcff",
        "1e400",
    ],
    "tokenizer.json": [
        '{"model": {"vocab": {"a": [1]}}}',
        '{"model": {"vocab": {}}, "post_processor": {"cls": [[]]}}',
    ],
    "special_tokens_map.json": ['{"pad_token": {"content": null}}', "9" * 5000],
    "preprocessor_config.json": ['{"image_processor_type": {}}', '{"a.b": 5, "a": {"b": {"c.d": 1}}}', "null"],
    "modules.json": ["5", '[{"path": "../../etc", "idx": [1]}]', '[{"path": "\\u0000"}]'],
    "chat_template.json": ['{"chat_template": [{"name": {"a": 1}, "template": "b"}]}', '"x"'],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, contents in ODD_FILES.items() for content in contents]
)
def test_odd_companion_files_the_weights(tmp_path, run, text_runs, name, content):
    """Odd tokenizer, processor or module files are copied as they are or raise one short SoupError."""
    (run / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    message = ""
    try:
        hf_soup.merge([run, text_runs[1]], take_from="run").save_pretrained(tmp_path / "soup")
    except IncompatibleError as error:
        message = " ".join(error.problems)
    except hf_soup.SoupError as error:
        message = str(error)
    assert len(message) < 2000
    assert "\n" not in message


@pytest.mark.parametrize(
    "settings", ['{"max_length": "x"}', '{"eos_token_id": {}}', '{"watermarking_config": 5}', "[1]"]
)
def test_odd_generation_settings(tmp_path, settings):
    """Odd generation settings raise at most one short SoupError when the model is built."""
    runs = []
    for seed in range(2):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8))
        model.save_pretrained(tmp_path / f"run-{seed}")
        runs.append(tmp_path / f"run-{seed}")
        (runs[-1] / "generation_config.json").write_text(settings)
    message = ""
    try:
        assert hf_soup.merge(runs).model
    except hf_soup.SoupError as error:
        message = str(error)
    assert len(message) < 1000


@pytest.mark.parametrize(
    "modules",
    ['[{"path": "", "type": "evil.Evil"}]', '[{"path": "../x", "type": "sentence_transformers.models.Dense"}]'],
)
def test_modules_of_others_do_not_go_along(run, text_runs, modules):
    """A `modules.json` with a class of the repository, or with a folder outside of it, is refused."""
    (run / "modules.json").write_text(modules)
    with pytest.raises(IngredientError, match=r"a class of its own|not a folder below it"):
        hf_soup.merge([run, text_runs[1]])


def test_many_more_tensors_than_the_model_has(run):
    """A file with many unknown tensors is refused by their number, without a search for similar names."""
    save_file({f"x.{index}": torch.zeros(1) for index in range(4000)}, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(IncompatibleError, match=r"it holds 4,000 tensors"):
        hf_soup.merge([run, run])
