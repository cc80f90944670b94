"""Tests of the comparison of tokenizers, which compares their behaviour and not the layout of their files."""

import dataclasses
import json
import shutil

import pytest
import transformers
from notes import besides_heads

import hf_soup
from hf_soup.checkpoints.source import open_checkpoint
from hf_soup.checkpoints.tokenization import compare_tokenizers


@pytest.fixture
def pair(tmp_path, text_runs):
    """Copies of two runs, the second to be changed."""
    return [shutil.copytree(run, tmp_path / run.name) for run in text_runs[:2]]


@pytest.fixture
def generic(pair):
    """The same runs with a tokenizer class that uses the file as it is."""
    for run in pair:
        edit(run, "tokenizer_config.json", lambda data: data.update(tokenizer_class="PreTrainedTokenizerFast"))
    return pair


def edit(folder, name, change):
    """Change a JSON file, and create it if missing."""
    path = folder / name
    data = json.loads(path.read_text()) if path.exists() else {}
    change(data)
    path.write_text(json.dumps(data))


def as_slow(folder):
    """Write the same tokenizer as older versions did: a word list, and special tokens in a separate file."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocab, key=vocab.get)))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]", "cls_token": {"content": "[CLS]"}}')


def without_special(folder):
    """Move the special tokens into a separate file, one of them with its flags."""
    special = {}
    edit(
        folder,
        "tokenizer_config.json",
        lambda data: [special.update({k: data.pop(k)}) for k in [*data] if "_token" in k],
    )
    (folder / "special_tokens_map.json").write_text(json.dumps({**special, "mask_token": {"content": "[MASK]"}}))


def with_carriage_returns(folder):
    """Write the word list with Windows line ends."""
    as_slow(folder)
    path = folder / "vocab.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    "change",
    [
        as_slow,
        without_special,
        with_carriage_returns,
        lambda run: edit(run, "tokenizer.json", lambda data: data.update(truncation=TRUNCATION)),
        lambda run: edit(run, "tokenizer_config.json", lambda data: data.update(name_or_path="x", max_length=8)),
        lambda run: edit(
            run, "tokenizer_config.json", lambda data: data.update(do_lower_case=True, strip_accents=None)
        ),
        lambda run: edit(run, "tokenizer_config.json", lambda data: data.pop("pad_token")),
        lambda run: edit(run, "special_tokens_map.json", lambda data: data.update(pad_token="[PAD]")),
        lambda run: edit(run, "tokenizer_config.json", lambda data: data.update(tokenizer_class="BertTokenizerFast")),
    ],
)
def test_one_tokenizer_in_other_files(pair, change):
    """Different file layouts, explicit defaults and truncation settings of Trainer give no problem and no note."""
    change(pair[1])
    report = hf_soup.check(pair)
    assert report.ok, report.problems
    assert not any("tokenizer" in note for note in report.notes)


NEW = {"id": 18, "content": "film", "special": False, "lstrip": False, "rstrip": False, "normalized": False}
TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["normalizer"].update(lowercase=False), "normalizer.lowercase is False against True"),
        (lambda data: data["normalizer"].update(strip_accents=True), "normalizer.strip_accents is True against none"),
        (lambda data: data.update(normalizer=None), "normalizer.type is none against 'BertNormalizer'"),
        (lambda data: data.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer.type is 'Whitespace'"),
        (
            lambda data: data.update(post_processor=None),
            "the post-processor differs: it adds no token against '[CLS]', '[SEP]'",
        ),
        (
            lambda data: data["post_processor"]["single"].pop(0),
            "the post-processor differs: it adds '[CLS]', '[SEP]' in another way",
        ),
        (lambda data: data["added_tokens"].append(NEW), "run-0: it has the added token 'film'"),
        (lambda data: data["model"].update(continuing_subword_prefix="@@"), "continuing_subword_prefix is '@@'"),
        (lambda data: data["model"].update(unk_token="[PAD]"), "model.unk_token is '[PAD]' against '[UNK]'"),
        (
            lambda data: data["added_tokens"][4].update(lstrip=True),
            "added token '[MASK]': lstrip is True against False",
        ),
        (lambda data: data["added_tokens"][4].update(normalized=True), "added token '[MASK]': normalized is True"),
    ],
)
def test_what_a_tokenizer_does_otherwise(generic, change, message):
    """Different normalisation, splitting or special tokens are a problem, and a note with `take_from`."""
    edit(generic[1], "tokenizer.json", change)
    (problem,) = hf_soup.check(generic).problems
    assert problem.startswith("run-1 has another tokenizer than run-0: ")
    assert message in problem
    assert problem.endswith('The same texts become different ids. Choose with take_from="run-0" (--take-from run-0)')
    report = hf_soup.check(generic, take_from="run-1")
    assert report.ok
    assert any(message in note and note.endswith("the soup takes that of run-1") for note in report.notes)


@pytest.mark.parametrize("layout", [lambda run: None, as_slow])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_lower_case": False}, "normalizer.lowercase is False against True"),
        ({"strip_accents": True}, "normalizer.strip_accents is True against none"),
        ({"tokenize_chinese_chars": False}, "normalizer.handle_chinese_chars is False against True"),
        ({"pad_token": "[MASK]"}, "the pad_token is '[MASK]' against '[PAD]'"),
    ],
)
def test_what_a_class_is_told(pair, layout, settings, message):
    """Settings that the tokenizer class turns into behaviour are compared in every layout."""
    layout(pair[1])
    (pair[1] / "special_tokens_map.json").unlink(missing_ok=True)
    edit(pair[1], "tokenizer_config.json", lambda data: data.update(settings))
    (problem,) = hf_soup.check(pair).problems
    assert message in problem


@pytest.mark.parametrize(
    ("name", "value"), [("model_max_length", 128), ("padding_side", "left"), ("truncation_side", "left")]
)
def test_what_leaves_short_texts_as_they_are(pair, name, value):
    """The maximum length and the sides of padding and truncation give a note about whose value the soup takes."""
    edit(pair[1], "tokenizer_config.json", lambda data: data.update({name: value}))
    report = hf_soup.check(pair)
    assert report.ok
    (note,) = besides_heads(report)
    assert note.startswith(f"tokenizer: {name}: run-0 has ")
    assert note.endswith(f"run-1 has {value!r}; the soup takes that of run-0")


def test_what_other_programs_may_read(pair):
    """A difference in `tokenizer.json` that transformers ignores is noted, because other programs read it."""
    edit(pair[1], "tokenizer.json", lambda data: data["normalizer"].update(lowercase=False))
    report = hf_soup.check(pair)
    assert report.ok
    assert any("other programs may not" in note and "normalizer.lowercase" in note for note in report.notes)


def test_other_words_in_another_layout(pair):
    """Ids with different words are found across layouts, and cannot be resolved by `take_from`."""
    as_slow(pair[1])
    path = pair[1] / "vocab.txt"
    path.write_text(path.read_text().replace("good\n", "goodly\n"))
    for options in ({}, {"take_from": "run-0"}):
        problems = hf_soup.check(pair, **options).problems
        assert any("1 tokens differ: 5 is 'goodly' against 'good'" in problem for problem in problems)


def test_tokens_that_were_added(pair):
    """A token added in the settings of a word-list tokenizer makes another vocabulary."""
    for run in pair:
        as_slow(run)
    added = {"25": {"content": "<new>", "special": True}}
    edit(pair[1], "tokenizer_config.json", lambda data: data.update(added_tokens_decoder=added))
    problems = hf_soup.check(pair).problems
    assert any("25 is '<new>' against None" in problem for problem in problems)


def test_tokens_that_a_class_adds(pair):
    """A special token named only in the settings gets its id when the tokenizer is built, so layouts agree."""
    as_slow(pair[1])
    edit(pair[1], "special_tokens_map.json", lambda data: data.update(additional_special_tokens=["<new>"]))
    transformers.AutoTokenizer.from_pretrained(pair[1]).save_pretrained(pair[0])
    assert "<new>" in (pair[0] / "tokenizer.json").read_text()
    report = hf_soup.check(pair)
    assert report.ok, report.problems


def test_a_tokenizer_that_cannot_be_built(generic):
    """If transformers cannot build a tokenizer, the files are compared."""
    for run in generic:
        edit(run, "tokenizer.json", lambda data: data["model"].update(type="SomethingNew"))
    edit(generic[1], "tokenizer.json", lambda data: data["normalizer"].update(lowercase=False))
    assert "normalizer.lowercase is False against True" in hf_soup.check(generic).problems[0]


@pytest.mark.parametrize(
    ("architecture", "first", "decisive"),
    [
        ("BertForSequenceClassification", None, False),
        ("BertForSequenceClassification", "[MASK]", True),
        ("GPT2LMHeadModel", "[MASK]", False),
        ("LlamaForCausalLM", None, False),
    ],
)
def test_a_token_for_padding(generic, architecture, first, decisive):
    """A different padding token is a problem only for a model that uses it, and only if both tokenizers have one."""
    edit(generic[0], "tokenizer_config.json", lambda data: data.update(pad_token=first))
    edit(generic[1], "tokenizer_config.json", lambda data: data.update(pad_token="[SEP]"))
    items = [dataclasses.replace(open_checkpoint(run), config={"architectures": [architecture]}) for run in generic]
    problems, noted, _ = compare_tokenizers(items)
    assert bool(problems) is decisive
    assert [difference.name for difference in noted] == ([] if decisive else ["pad_token"])


def test_an_added_token_of_the_others(generic):
    """A token that only one ingredient lacks is reported as missing from that one."""
    edit(generic[1], "tokenizer.json", lambda data: data["added_tokens"].pop(4))
    edit(generic[1], "tokenizer_config.json", lambda data: data.pop("mask_token", None))
    assert "it has no added token '[MASK]'" in hf_soup.check(generic).problems[0]


def test_those_who_share_a_tokenizer_stand_together(tmp_path, text_runs):
    """Ingredients that share another tokenizer are reported in one line."""
    runs = [shutil.copytree(run, tmp_path / str(copy) / run.name) for copy in range(2) for run in text_runs]
    for run in runs[4:]:
        edit(run, "tokenizer_config.json", lambda data: data.update(do_lower_case=False))
    (problem,) = hf_soup.check(runs).problems
    assert problem.startswith("1/run-1, 1/run-2 have another tokenizer than 0/run-0: ")
