"""Code that an ingredient names or contains is not copied into a soup, nor run for a base model."""

import json
import shutil

import pytest
import transformers

import hf_soup
from hf_soup.checkpoints.named_code import forget_code, without_code
from hf_soup.training.start import _read_config


CODE = {
    "auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Tokenizer", None]},
    "attn_implementation": "evil/kernel",
    "_attn_implementation": "evil/kernel",
    "custom_pipelines": {"evil": {"impl": "evil.Pipeline"}},
}
FILES = [
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "other/tokenizer_config.json",
]


@pytest.fixture
def run(tmp_path, text_runs):
    """A checkpoint whose files all name code, at the top level, nested and in lists."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    for name in FILES:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        content = json.loads(path.read_text()) if path.exists() else {}
        nested = {"text_config": {**CODE, "kept": 1}, "parts": [CODE, [CODE]]}
        path.write_text(json.dumps({**content, **CODE, **nested}).replace('"auto_map"', '"auto\\u005fmap"', 1))
    return run


def names_in(value):
    """All keys in nested settings."""
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


def test_soup_carries_no_names_of_code(tmp_path, run, text_runs):
    """Names of code are removed from all files of the soup, at any depth, and other settings are kept."""
    soup = hf_soup.merge([run, text_runs[1]], take_from="run")
    folder = soup.save_pretrained(tmp_path / "soup")
    for name in FILES:
        saved = json.loads((folder / name).read_text())
        assert not names_in(saved) & set(CODE)
        assert saved["text_config"] == {"kept": 1}
    assert soup.model.config._attn_implementation in ("sdpa", "eager")


def test_vocabulary_may_have_such_words(tmp_path, text_runs):
    """Words in a vocabulary are not settings, and files that name no code are copied unchanged."""
    runs = [shutil.copytree(run, tmp_path / run.name) for run in text_runs[:2]]
    for run in runs:
        (run / "vocab.json").write_text('{"auto_map": 0}')
        (run / "other.json").write_text('{ "a":1}')
    folder = hf_soup.merge(runs).save_pretrained(tmp_path / "soup")
    assert (folder / "vocab.json").read_text() == '{"auto_map": 0}'
    assert (folder / "other.json").read_text() == '{ "a":1}'


@pytest.mark.parametrize("name", ["modeling.py", "custom_generate/generate.py", "native.so", "setup.sh", "Setup.EXE"])
def test_programs_stay_behind(tmp_path, text_runs, name):
    """Programs of an ingredient are left behind, with a note."""
    run = shutil.copytree(text_runs[0], tmp_path / "run")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("raise SystemExit('this ran')")
    soup = hf_soup.merge([run, text_runs[1]])
    assert any(name in note for note in soup.plan.report.notes)
    assert not (soup.save_pretrained(tmp_path / "soup") / name).exists()


def test_base_model_is_opened_without_code_that_it_names(run):
    """The configuration of a base model is opened without the classes and kernels it names."""
    config = _read_config(str(run), None, {"num_labels": 3})
    assert config.num_labels == 3
    assert config._attn_implementation is None
    assert not names_in(config.to_dict()) & set(CODE)


def test_tokenizer_forgets_code(tmp_path, run):
    """A tokenizer that named code is saved without these names."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(run, trust_remote_code=False)
    forget_code(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert not names_in(json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())) & set(CODE)


def test_settings_without_code_are_equal():
    """`without_code` removes nothing else."""
    settings = {"a": [1, {"b": None}], "auto": "map", "attn": {"implementation": "x"}}
    assert without_code(settings) == settings
