"""Tests of the comparison of processors, pooling, templates and generation settings, wherever they are kept."""

import json
import shutil
from types import SimpleNamespace

import pytest
from notes import besides_heads

import hf_soup
from hf_soup.checkpoints.settings import compare_settings


@pytest.fixture
def pair(tmp_path, image_runs):
    """Copies of two image classifiers, the second to be changed."""
    return [shutil.copytree(run, tmp_path / run.name) for run in image_runs[:2]]


def edit(folder, **fields):
    """Set values in the image processor's file; None removes one."""
    path = folder / "preprocessor_config.json"
    data = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.mark.parametrize(
    "fields",
    [
        {"image_mean": [0.4, 0.4, 0.4]},
        {"image_std": [0.1, 0.2, 0.3]},
        {"size": {"height": 16, "width": 16}},
        {"size": 16},
        {"resample": 3},
        {"do_normalize": False},
        {"do_resize": False},
        {"rescale_factor": 1.0},
        {"crop_size": {"height": 4, "width": 4}},
        {"do_center_crop": True},
        {"image_processor_type": "CLIPImageProcessor"},
    ],
    ids=str,
)
def test_what_changes_images(pair, fields):
    """A setting that changes images is a problem with its name and remedy, and a note once `take_from` is given."""
    edit(pair[1], **fields)
    problems = hf_soup.check(pair).problems
    assert problems
    name = "class" if "image_processor_type" in fields else next(iter(fields))
    assert all(problem.startswith(f"image_processor.{name}") for problem in problems)
    assert all(problem.endswith('Choose with take_from="run-0" (--take-from run-0)') for problem in problems)
    report = hf_soup.check(pair, take_from="run-1")
    assert report.ok
    assert any(note.endswith("the soup takes that of run-1") for note in report.notes)


def as_feature_extractor(folder):
    """Write the image processor as old versions did: an old class name, a number as size and no defaults."""
    old = {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor", "size": 8}
    edit(folder, **old, do_rescale=None, rescale_factor=None)


def as_part_of_a_processor(folder):
    """Move the image processor into `processor_config.json`, which holds all parts of a processor."""
    path = folder / "preprocessor_config.json"
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(path.read_text())}))
    path.unlink()


@pytest.mark.parametrize(
    "change",
    [
        as_feature_extractor,
        as_part_of_a_processor,
        lambda run: edit(run, image_processor_type="ViTImageProcessorFast", data_format="channels_first"),
        lambda run: edit(run, image_processor_type="ViTImageProcessorPil", processor_class="ViTProcessor"),
        lambda run: edit(run, _valid_processor_keys=["images"]),
        lambda run: edit(run, image_processor_type=None),
        lambda run: edit(run, resample="bilinear"),
    ],
)
def test_one_processor_in_other_words(pair, change):
    """Class and file names, and defaults that are left out, are no differences."""
    change(pair[1])
    report = hf_soup.check(pair)
    assert (report.problems, besides_heads(report)) == ((), ())


def test_what_is_unknown_or_missing_is_noted(pair):
    """An unknown field and an ingredient without a processor give notes."""
    edit(pair[1], my_own="x")
    assert besides_heads(hf_soup.check(pair)) == (
        "processor: image_processor.my_own: run-0 has none, run-1 has 'x'; the soup takes that of run-0",
    )
    (pair[1] / "preprocessor_config.json").unlink()
    assert besides_heads(hf_soup.check(pair)) == ("run-1 came without a processor; the soup takes that of run-0",)


def compared(first, second, *, config=None, other_config=None, **options):
    """Problems and notes for two ingredients with these files beside their weights."""
    items = []
    for name, files, own_config in (("a", first, config or {}), ("b", second, other_config or config or {})):
        contents = {}
        for file, content in files.items():
            contents[file] = (content if isinstance(content, str) else json.dumps(content)).encode()
        items.append(Ingredient(name, contents, own_config))
    return compare_settings(items, **options)


class Ingredient(SimpleNamespace):
    """An ingredient with the attributes that a comparison uses."""

    def __init__(self, name, companions, config):
        digests = {file: str(hash(content)) for file, content in companions.items()}
        super().__init__(name=name, config=config, companions=companions, companion_digests=digests)


SPEECH = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}


@pytest.mark.parametrize("fields", [{"sampling_rate": 8000}, {"do_normalize": False}, {"return_attention_mask": True}])
def test_feature_extractors(fields):
    """Sampling rate, normalisation and attention masks of a feature extractor are problems; defaults are not."""
    file = "preprocessor_config.json"
    comparison = compared({file: SPEECH}, {file: {**SPEECH, **fields}})
    assert [problem.partition(":")[0] for problem in comparison.problems] == [
        f"feature_extractor.{next(iter(fields))}"
    ]
    assert compared({file: SPEECH}, {file: {**SPEECH, "padding_side": "right", "feature_size": 1}}) == ([], [])


def test_a_feature_extractor_without_its_class():
    """If a file names no class, the model type determines it."""
    file, kind = "preprocessor_config.json", {"model_type": "wav2vec2"}
    old = {key: value for key, value in SPEECH.items() if key != "feature_extractor_type"}
    assert compared({file: SPEECH}, {file: old}, config=kind) == ([], [])
    whisper = {**SPEECH, "feature_extractor_type": "WhisperFeatureExtractor"}
    assert "feature_extractor.class" in compared({file: whisper}, {file: old}, config=kind).problems[0]


@pytest.mark.parametrize("fields", [{"num_beams": 6}, {"forced_bos_token_id": 2}])
def test_generation_in_a_configuration(fields):
    """Generation settings in `config.json` are noted, unless there is a generation configuration."""
    bart = {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "num_beams": 5}
    comparison = compared({}, {}, config=bart, other_config={**bart, **fields})
    name, value = next(iter(fields.items()))
    first = bart.get(name, "none")
    expected = f"config.json: {name}: a has {first}, b has {value}; the soup takes that of a"
    assert comparison == ([], [expected])
    beside = {"generation_config.json": {}}
    assert compared(beside, beside, config=bart, other_config={**bart, **fields}) == ([], [])


OLD_POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
SENTENCE = {"modules.json": MODULES, "1_Pooling/config.json": OLD_POOLING}


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("1_Pooling/config.json", {**OLD_POOLING, "pooling_mode_mean_tokens": False}, "1_Pooling.pooling_mode_mean"),
        ("1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": "cls"}, "1_Pooling.pooling_mode_cls"),
        ("modules.json", MODULES[:1], "module 1"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "sentence_bert_config.do_lower_case"),
    ],
)
def test_pooling_of_sentences(file, content, name):
    """Different pooling or module settings are problems."""
    comparison = compared(SENTENCE, {**SENTENCE, file: content})
    assert any(problem.startswith(f"sentence-transformers: {name}") for problem in comparison.problems)


def test_pooling_in_old_and_new_words():
    """Pooling flags may be omitted if off or replaced by the name of a mode."""
    new = {"1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}}
    types = [{**module, "type": module["type"].replace("models", "base.modules")} for module in MODULES]
    assert compared(SENTENCE, {**SENTENCE, **new, "modules.json": types}) == ([], [])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            {"generation_config.json": {"max_length": 3, "transformers_version": "4"}},
            {"generation_config.json": {"max_length": 5, "transformers_version": "5"}},
            "generation config: max_length: a has 3, b has 5; the soup takes that of a",
        ),
        (
            {"config_sentence_transformers.json": {"prompts": {"query": "q: "}}},
            {"config_sentence_transformers.json": {"prompts": {"query": ""}}},
            "sentence-transformers: config_sentence_transformers.prompts.query: a has 'q: ', b has ''",
        ),
        (
            {"chat_template.jinja": "{{ one }}"},
            {"chat_template.jinja": "{{ other }}"},
            "chat template: default: a has '{{ one }}', b has '{{ other }}'; the soup takes that of a",
        ),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "x"}]}},
            {"additional_chat_templates/rag.jinja": "y"},
            "chat template: rag: a has 'x', b has 'y'; the soup takes that of a",
        ),
        (
            {"words.csv": "a"},
            {"words.csv": "b"},
            "words.csv differs between the ingredients; the soup takes that of a",
        ),
        ({"words.csv": "a"}, {"other.csv": "b"}, "other.csv differs between the ingredients; the soup has none"),
    ],
)
def test_what_is_noted(first, second, expected):
    """Differences in generation, templates and unknown files give a note that says which ingredient the soup takes."""
    comparison = compared(first, second)
    assert comparison.problems == []
    assert any(note.startswith(expected) for note in comparison.notes), comparison.notes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"chat_template.jinja": "x\n"}, {"tokenizer_config.json": {"chat_template": "x"}}),
        ({"chat_template.json": {"chat_template": "x"}}, {"processor_config.json": {"chat_template": "x"}}),
        (
            {"generation_config.json": {"max_length": 3, "transformers_version": "4"}},
            {"generation_config.json": {"max_length": 3, "_from_model_config": True}},
        ),
        ({"README.md": "x"}, {"README.md": "y"}),
    ],
)
def test_what_is_the_same_elsewhere(first, second):
    """A chat template is the same wherever it is kept, and who wrote a generation config does not matter."""
    assert compared(first, second) == ([], [])


def test_a_file_that_is_no_json_is_only_noted():
    """A processor file that is invalid JSON does not stop a merge."""
    comparison = compared({"preprocessor_config.json": "{"}, {"preprocessor_config.json": {"size": 8}})
    assert comparison.problems == []
