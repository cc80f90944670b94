"""Tests of the files beside the weights: a soup takes all except other weights, traces of training and the card."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints import companion_files
from hf_soup.checkpoints.companion_files import sort_files
from hf_soup.errors import IncompatibleError, IngredientError


TAKEN = {
    "LICENSE": b"free",
    "words/custom_vocabulary.txt": b"good\nbad\n",
    "prompts.yaml": b"query: q\n",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "sentencepiece.custom": bytes(range(256)),
    "labels/de/names.json": b"{}",
}
LEFT = [
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "rng_state_0.pth",
    "scaler.pt",
    "trainer_state.json",
    "training_args.bin",
    "events.out.tfevents.1.host",
    "train.log",
    "all_results.json",
    "pytorch_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "model_head.pkl",
    "model.fp16.safetensors",
    "run.json",
]
LEFT_FOLDERS = {
    "runs/Jan01/events.out.tfevents.2": "runs/",
    "checkpoint-10/trainer_state.json": "checkpoint-10/",
    "onnx/model.onnx": "onnx/",
    "logs/a.txt": "logs/",
    "another/model.safetensors": "another/",
    "another/config.json": "another/",
    "global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt": "global_step10/",
}
SILENT = [
    "README.md",
    ".gitattributes",
    ".git/config",
    ".cache/huggingface/x",
    "soup_recipe.yaml",
    "comparison.md",
    "plane.png",
]


@pytest.fixture
def crowded(tmp_path, text_runs):
    """A run with all kinds of other files in its folder."""
    run = shutil.copytree(text_runs[0], tmp_path / "crowded")
    for name in [*LEFT, *LEFT_FOLDERS, *SILENT]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"---\ntags:\n- mine\n---\n" if name == "README.md" else b"other")
    for name, content in TAKEN.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    return run


@pytest.fixture
def crowded_source(request, crowded, hub):
    """The same run in a folder or on the Hub."""
    if request.param == "folder":
        return crowded
    repo_id = f"{hub.user}/{crowded.parent.name}"
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=crowded)
    return repo_id


@pytest.mark.parametrize("crowded_source", ["folder", "hub"], indirect=True)
def test_everything_else_goes_along(tmp_path, text_runs, crowded_source):
    """A soup takes every file of the first ingredient, subfolders included, except other weights, traces of training,
    the card and hidden files, and a note lists what it leaves behind."""
    soup = hf_soup.merge([crowded_source, text_runs[1]])
    folder = soup.save_pretrained(tmp_path / "soup")
    for name, content in TAKEN.items():
        assert (folder / name).read_bytes() == content
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    ours = {
        "config.json",
        "model.safetensors",
        "README.md",
        "mergekit_config.yml",
        "soup_recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert there == ours | set(TAKEN)
    (note,) = [note for note in soup.plan.report.notes if "leaves behind" in note]
    assert " and " in note
    assert any(name in note for name in LEFT)


def test_what_stays_behind_is_told_by_name():
    """`sort_files` lists what is left behind, folders by name, but not the card, an earlier recipe or hidden files."""
    sizes = dict.fromkeys(["config.json", "model.safetensors", *LEFT, *LEFT_FOLDERS, *SILENT, *TAKEN], 10)
    sorted_files = sort_files(sizes)
    assert set(sorted_files.left) == {*LEFT, *LEFT_FOLDERS.values()}
    assert set(sorted_files.taken) == set(TAKEN)


def test_a_link_that_nobody_needs_stays_behind(tmp_path, text_runs):
    """A link out of the folder to a file that is not needed is left behind, and the rest is merged."""
    run = shutil.copytree(text_runs[1], tmp_path / "run")
    (run / "latest_log.txt").symlink_to("/etc/hostname")
    soup = hf_soup.merge([run, text_runs[0]])
    assert any("latest_log.txt" in note for note in soup.plan.report.notes)
    assert not (soup.save_pretrained(tmp_path / "soup") / "latest_log.txt").exists()


def test_sizes_have_a_limit(monkeypatch):
    """Files above the size limit are left behind, and if all are too large together, the largest of them."""
    sizes = {"small.json": 5, "large.bin.txt": companion_files.LARGEST + 1}
    assert sort_files(sizes).taken == ("small.json",)
    assert sort_files(sizes).left == ("large.bin.txt",)
    many = {f"{index:02}.txt": companion_files.MOST // 10 + index for index in range(12)}
    sorted_files = sort_files(many)
    assert len(sorted_files.taken) == 9
    assert sorted_files.left == ("09.txt", "10.txt", "11.txt")


STATES = {
    "DeepSpeed": (
        ["global_step10/x_model_states.pt", "latest", "zero_to_fp32.py", "rng_state.pth"],
        "zero_to_fp32.py",
    ),
    "DeepSpeed without its script": (["global_step10/x_model_states.pt", "latest"], "deepspeed.utils.zero_to_fp32"),
    "FSDP": (
        ["pytorch_model_fsdp_0/.metadata", "optimizer_0/__0_0.distcp"],
        "accelerate merge-weights .*pytorch_model_fsdp_0",
    ),
    "distributed checkpoint": ([".metadata", "__0_0.distcp"], "accelerate merge-weights"),
    "FSDP, whole": (["pytorch_model_fsdp.bin", "optimizer.bin"], r"torch\.load\(\"pytorch_model_fsdp\.bin\""),
    "accelerate": (
        ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"],
        "state of training and no weights.*unwrap_model",
    ),
    "accelerate with DeepSpeed": (
        ["pytorch_model/mp_rank_00_model_states.pt", "latest"],
        "deepspeed.utils.zero_to_fp32",
    ),
    "other names of states": (["lr_scheduler.pt", "grad_scaler.pt", "pytorch_optimizer.bin"], "state of training"),
    "a pickle of its own name": (["epoch=1.ckpt", "optimizer.pt"], "epoch=1.ckpt, a pickle under a name of its own"),
    "the pickle that is read": (["ema.pt", "pytorch_model.bin"], r"pytorch_model\.bin, a pickle, which can run code"),
    "checkpoints": (["checkpoint-5/optimizer.pt"], "optimizer|checkpoint"),
    "optimizer alone": (
        ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"],
        "state of training and no weights",
    ),
    "pickle among states": (["optimizer.pt", "rng_state.pth", "pytorch_model.bin"], r"pytorch_model\.bin, a pickle"),
    "TensorFlow": (["tf_model.h5"], "from_tf=True"),
    "GGUF": (["model-q4.gguf"], "exported model"),
}


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("kind", STATES)
def test_states_of_training_are_recognised(hub, tmp_path, text_runs, kind, place):
    """A folder with training state instead of weights is refused, if possible with the command that makes weights of
    it, and optimizers, schedulers, scalers and random states are never offered for conversion."""
    files, message = STATES[kind]
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    (run / "model.safetensors").unlink()
    for name in files:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"state")
    if place == "hub":
        repo_id = f"{hub.user}/{tmp_path.name}"
        HfApi().create_repo(repo_id)
        HfApi().upload_folder(repo_id=repo_id, folder_path=run)
        run = repo_id
    with pytest.raises(IngredientError, match=message) as caught:
        hf_soup.merge([run, text_runs[1]])
    offered = str(caught.value).split("holds ")[1].split(", a pickle")[0]
    if "a pickle" in str(caught.value):
        assert not any(word in offered for word in ("optimizer", "rng_state", "scheduler", "scaler"))


def test_a_state_of_accelerate_with_weights(tmp_path, text_runs):
    """A state saved by accelerate, with weights but without `config.json`, is refused; the error says what to add."""
    run = tmp_path / "state"
    run.mkdir()
    shutil.copy(text_runs[0] / "model.safetensors", run)
    (run / "random_states_0.pkl").write_bytes(b"state")
    with pytest.raises(IngredientError, match=r"state that accelerate saved.*config\.save_pretrained"):
        hf_soup.merge([run, text_runs[1]])


def test_empty_weights_of_zero_3(tmp_path):
    """Empty tensors, DeepSpeed's placeholders, are reported as such."""
    runs = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(2)]
    state = {name: torch.empty(0) for name in testing.tiny_text_model(0).state_dict()}
    save_file(state, runs[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleError, match=r"run-0: .* is empty\. DeepSpeed.*zero_to_fp32"):
        hf_soup.merge(runs)


STALE = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "onnx/model.onnx",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "generation_config.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "quantize_config.json",
    "dict.txt",
]
KEPT = ["notes.md", "training_args.bin", "images/plot.png", "eval/results.txt"]


def test_a_push_takes_away_what_would_be_loaded_instead(hub, tmp_path, text_runs):
    """A push deletes stale weights, adapters, shards and tokenizer files in the same commit, whose description names
    them, and keeps other files."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    (tmp_path / "old").mkdir()
    for name in [*STALE, *KEPT]:
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / name).write_text("{}")
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=tmp_path / "old")
    hf_soup.merge(text_runs).push_to_hub(repo_id, commit_description="Our soup.")
    files = HfApi().list_repo_files(repo_id)
    assert not set(STALE) & set(files)
    assert set(KEPT) <= set(files)
    newest, *_ = HfApi().list_repo_commits(repo_id)
    assert newest.message.startswith("Our soup.")
    assert all(name in newest.message for name in STALE)


TYPES = {
    "float8_e4m3fnuz": True,
    "float8_e5m2fnuz": True,
    "float8_e8m0fnu": False,
    "uint16": False,
    "uint32": False,
    "uint64": False,
    "complex64": False,
}


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_safetensors(tmp_path, dtype):
    """Types that torch can add are averaged; other types are copied if equal and reported if not."""
    from merging.test_blend import checkpoint

    from hf_soup.checkpoints.check import check_checkpoints

    values = [torch.tensor([1.0, 2.0, 4.0]).to(getattr(torch, dtype)) for _ in range(2)]
    assert check_checkpoints([checkpoint(index, x=value) for index, value in enumerate(values)]).ok
    values[1] = torch.tensor([2.0, 2.0, 4.0]).to(getattr(torch, dtype))
    report = check_checkpoints([checkpoint(index, x=value) for index, value in enumerate(values)])
    assert report.ok == TYPES[dtype]
    if not report.ok:
        assert f"the {dtype} buffer x differs" in report.problems[0]


@pytest.mark.parametrize(("code", "size"), [("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3), ("F3_NEW", 4)])
def test_a_type_that_torch_cannot_add_up_is_not_corrupt(tmp_path, text_runs, code, size):
    """Packed and unknown types are reported by their code, not as a corrupt file."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    header = {"x": {"dtype": code, "shape": [4], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    (run / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with pytest.raises(IngredientError, match=rf"tensor 'x' has the type '?{code}") as caught:
        hf_soup.merge([run, text_runs[1]])
    assert "corrupt" not in str(caught.value)


def test_a_tokenizer_comes_whole_and_notes_say_whose_files_there_are(tmp_path, text_runs):
    """If the first ingredient has no tokenizer, all tokenizer files of the next are taken; other files are those of
    the first, and notes say so."""
    first, second = (shutil.copytree(run, tmp_path / run.name) for run in text_runs[:2])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (first / name).unlink()
    (first / "train.csv").write_text("a,b")
    (second / "prompts.json").write_text("{}")
    (second / "dict.txt").write_text("good 1")
    soup = hf_soup.merge([first, second])
    folder = soup.save_pretrained(tmp_path / "soup")
    assert {"train.csv", "tokenizer.json", "tokenizer_config.json", "dict.txt"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "prompts.json").exists()
    notes = soup.plan.report.notes
    assert "train.csv differs between the ingredients; the soup takes that of run-0" in notes
    assert "prompts.json differs between the ingredients; the soup has none" in notes


def test_what_is_left_behind_is_said_once_for_all(tmp_path, text_runs):
    """Files left behind by several runs are listed in one note."""
    folders = []
    for run in text_runs:
        folders.append(tmp_path / run.name)
        shutil.copytree(run, folders[-1])
        (folders[-1] / "model_head.pkl").write_bytes(b"x")
        (folders[-1] / "training_args.bin").write_bytes(b"x")  # every run of Trainer has it, so it needs no note
    (note,) = [note for note in hf_soup.check(folders).notes if "leaves behind" in note]
    assert note == "of the files of run-0, run-1, run-2 a soup leaves behind model_head.pkl"
