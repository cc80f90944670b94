"""Sounds: files, arrays and other rates are decoded alike, and soups of models of sounds are chosen by them."""

import io
import math
from dataclasses import replace

import datasets
import jiwer
import numpy as np
import pytest
import soundfile
import torch
import transformers

import hf_soup
from hf_soup import plugins, testing
from hf_soup.data.audio import decode_audio
from hf_soup.errors import DataError, EvaluationError, RecipeError
from hf_soup.metrics.load import load_metrics
from hf_soup.metrics.predictions import Predictions
from hf_soup.metrics.statistics import metric_sums


RATE = 16_000
TONE = np.sin(np.arange(1600) * 0.05).astype(np.float32)


def tones(rows, seed=0):
    """Noisy tones of two heights and of different lengths."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows).tolist()
    sounds = []
    for label in labels:
        steps = np.arange(rng.integers(300, 500))
        sounds.append((np.sin(steps * (0.1 + label)) + 0.1 * rng.normal(size=len(steps))).tolist())
    return datasets.Dataset.from_dict({"audio": sounds, "label": labels})


def wav(samples, rate=RATE):
    """The bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_all_forms_of_a_sound_decode_alike(tmp_path):
    """Samples, an array, bytes, a file, and two channels."""
    (tmp_path / "tone.wav").write_bytes(wav(TONE))
    forms = [
        TONE.tolist(),
        {"array": TONE, "sampling_rate": RATE},
        {"bytes": wav(TONE), "path": None},
        {"bytes": None, "path": str(tmp_path / "tone.wav")},
        {"bytes": wav(np.stack([2 * TONE, 0 * TONE], axis=1)), "path": None},
        {"array": np.stack([2 * TONE, 0 * TONE]), "sampling_rate": RATE},
    ]
    for form in forms:
        np.testing.assert_allclose(decode_audio(form, RATE), TONE, atol=1e-6)


def test_another_rate_is_resampled():
    """A tone of 8 kHz is the same tone at 16 kHz."""
    slow = np.sin(np.arange(800) * 0.1)
    found = decode_audio({"bytes": wav(slow, RATE // 2), "path": None}, RATE)
    assert len(found) == 1600
    np.testing.assert_allclose(found[100:-100], TONE[100:-100], atol=0.01)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (None, "there is no sound"),
        ([], "the sound is empty"),
        ([0.0, math.nan], "the sound is empty, or holds NaN or infinity"),
        ({"bytes": b"RIFF....", "path": None}, "the sound does not decode"),
    ],
)
def test_what_does_not_decode(encoded, message):
    """A DataError says why, and an evaluator which row."""
    with pytest.raises(DataError, match=message):
        decode_audio(encoded, RATE)
    if isinstance(encoded, dict):
        return
    model, extractor = testing.model_for(plugins.load_module("task", "audio-classification"))
    features = datasets.Features({"audio": datasets.List(datasets.Value("float32")), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"audio": [TONE.tolist(), encoded], "label": [0, 1]}, features=features)
    with pytest.raises(DataError, match=f"row 1: {message}" if encoded is not None else "row 1"):
        hf_soup.Evaluator(data, processing_class=extractor)(model)


def test_files_of_a_data_set(tmp_path):
    """A column of the type Audio is read without decoding by datasets, and gives the logits of the samples."""
    model, extractor = testing.model_for(plugins.load_module("task", "audio-classification"))
    samples = testing.example_of(plugins.load_module("task", "audio-classification"))
    files = [{"bytes": wav(np.asarray(sound)), "path": None} for sound in samples["audio"]]
    data = datasets.Dataset.from_dict({"audio": files, "label": samples["label"]})
    data = data.cast_column("audio", datasets.Audio())
    found, expected = (hf_soup.Evaluator(each, processing_class=extractor).predict(model) for each in (data, samples))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)


def test_models_that_padding_disturbs(tmp_path):
    """Wav2Vec2 with normalisation over time sees padding: each sound is scored as by itself."""
    module = plugins.load_module("task", "audio-classification")
    _, extractor = testing.model_for(module)
    config = transformers.AutoConfig.for_model(
        "wav2vec2", **{**testing.tiny.TINY["wav2vec2"], "feat_extract_norm": "group"}
    )
    transformers.set_seed(0)
    model = transformers.Wav2Vec2ForSequenceClassification(config).eval()
    data = tones(12)
    together, alone = (
        hf_soup.Evaluator(data, processing_class=extractor, batch_size=size).predict(model) for size in (6, 1)
    )
    np.testing.assert_allclose(together.logits, alone.logits, atol=1e-5)


def test_a_sweep_and_a_soup_of_sounds(tmp_path):
    """Runs learn two tones, and their greedy soup is saved with the feature extractor."""
    module = plugins.load_module("task", "audio-classification")
    base = testing.save_model_for(module, tmp_path / "base")
    options = {"task": "audio-classification", "space": {"seed": [0, 1]}, "head": "new", "on_error": "raise"}
    args = {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3}
    runs = hf_soup.sweep(
        base, tones(48), validation=tones(16, seed=1), output_dir=tmp_path / "runs", training_args=args, **options
    )
    assert max(run.score.value for run in runs) > 0.8
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=tones(16, seed=1))
    folder = soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(folder).ok
    assert (folder / "preprocessor_config.json").exists()
    with pytest.raises(RecipeError, match="sounds have no augmentation"):
        hf_soup.sweep(
            base,
            tones(8),
            validation=tones(8),
            output_dir=tmp_path / "more",
            training_args={"augment": {"mask": 0.1}},
            **options,
        )


SPEECH = plugins.load_module("task", "automatic-speech-recognition")
LETTERS = {"A": 0.15, "B": 0.5, " ": 0.0}


def spoken(texts, seed=0):
    """Each letter is a tone of its own height; a blank is silence."""
    rng = np.random.default_rng(seed)
    sounds = []
    for text in texts:
        parts = [np.sin(np.arange(80) * LETTERS[letter]) for letter in text]
        sounds.append((np.concatenate(parts) + 0.02 * rng.normal(size=80 * len(text))).tolist())
    return datasets.Dataset.from_dict({"audio": sounds, "text": texts})


def words(rows, seed):
    """Texts of a few letters."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(rows):
        letters = rng.choice(["A", "B", " "], size=rng.integers(3, 7), p=[0.4, 0.4, 0.2])
        texts.append("".join(letters).strip() or "A")
    return texts


def test_what_is_heard_is_what_the_pipeline_hears():
    """Each text alone and in a batch, and the probability is the model's own loss."""
    model, processor = testing.model_for(SPEECH)
    data = testing.example_of(SPEECH)
    predicted = hf_soup.Evaluator(data, processing_class=processor, generate=True, metric=["wer", "cer"]).predict(
        model
    )
    pipeline = transformers.pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    heard = [pipeline(np.asarray(sound, dtype=np.float32))["text"] for sound in data["audio"]]
    assert list(predicted.texts) == heard
    assert predicted.references == tuple(data["text"])
    for row, (sound, text) in enumerate(zip(data["audio"], data["text"], strict=True)):
        inputs = processor(np.asarray(sound), sampling_rate=RATE, return_tensors="pt")
        labels = torch.tensor([processor.tokenizer(text)["input_ids"]])
        assert float(model(**inputs, labels=labels).loss.detach()) == pytest.approx(-predicted.logits[row], abs=1e-4)


def test_error_rates_and_their_intervals():
    """Those of jiwer; the sums over texts give the rate of all, and of any resample."""
    said, heard = ("A B", "B", "A A A"), ("A", "B B", "A B A")
    predicted = Predictions(np.zeros(3), np.zeros(3), np.arange(3), "tokens", texts=heard, references=said)
    for name in ("wer", "cer"):
        (metric,) = load_metrics(name)
        value = metric.compute(predicted)[name]
        assert value == pytest.approx(getattr(jiwer, name)(list(said), list(heard)))
        sums = metric_sums(name, predicted)
        assert sums.value(sums.columns.sum(axis=0)) == pytest.approx(value)
        drawn = np.array([2, 2, 0])
        again = metric.compute(predicted.take(drawn))[name]
        assert sums.value(sums.columns[drawn].sum(axis=0)) == pytest.approx(again)
    assert metric.higher_is_better is False


def test_a_soup_of_models_that_hear(tmp_path):
    """Runs learn to hear tones as letters; a greedy soup by word error rate is saved with its processor."""
    base = testing.save_model_for(SPEECH, tmp_path / "base")
    train, validation = spoken(words(128, 1), 1), spoken(words(24, 2), 2)
    options = {"task": "automatic-speech-recognition", "validation": validation, "on_error": "raise"}
    args = {"epochs": 16, "batch_size": 8, "learning_rate": 5e-3}
    runs = hf_soup.sweep(
        base, train, space={"seed": [0, 1]}, output_dir=tmp_path / "runs", training_args=args, **options
    )
    processor = transformers.AutoProcessor.from_pretrained(base)
    evaluator = hf_soup.Evaluator(validation, processing_class=processor, cache=False)
    before = evaluator(hf_soup.merge([runs.base_model]).model).value
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=evaluator)
    assert soup.selection.score < min(before, 0.9)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(folder).ok
    assert transformers.AutoProcessor.from_pretrained(folder).tokenizer is not None
    with pytest.raises(EvaluationError, match="generate nothing step by step: leave max_new_tokens out"):
        replace(evaluator, generate={"max_new_tokens": 3})(soup.model)


@pytest.fixture
def whisper():
    """A Whisper model of one second, and its processor."""
    vocabulary = {letter: place for place, letter in enumerate([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "Ġ"])}
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    vocabulary |= {token: len(vocabulary) + place for place, token in enumerate(special)}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=8,
        d_model=32,
        encoder_ffn_dim=37,
        decoder_ffn_dim=37,
        max_source_positions=50,
        max_target_positions=24,
        pad_token_id=vocabulary["<|endoftext|>"],
        bos_token_id=vocabulary["<|endoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
        suppress_tokens=[],
        begin_suppress_tokens=[],
        **small,
    )
    transformers.set_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    return model, transformers.WhisperProcessor(extractor, tokenizer)


def test_a_decoder_writes_what_generate_writes(whisper):
    """Texts are those of `generate`, and each probability that of the model's own loss, without the first token."""
    model, processor = whisper
    data = spoken(words(5, 1), 1)
    options = {"max_new_tokens": 6}
    evaluator = hf_soup.Evaluator(data, processing_class=processor, generate=options, batch_size=2)
    predicted = evaluator.predict(model)
    assert evaluator.for_model(model).task == "automatic-speech-recognition"
    for row, example in enumerate(data):
        sound = np.asarray(example["audio"], dtype=np.float32)
        features = processor(sound, sampling_rate=RATE, return_tensors="pt").input_features
        written = processor.batch_decode(model.generate(input_features=features, **options), skip_special_tokens=True)
        assert predicted.texts[row] == written[0]
        ids = processor.tokenizer(example["text"])["input_ids"]
        assert ids[0] == model.config.decoder_start_token_id
        loss = float(model(input_features=features, labels=torch.tensor([ids[1:]])).loss.detach())
        assert loss == pytest.approx(-predicted.logits[predicted.rows == row].mean(), abs=1e-4)
    rate = jiwer.wer(list(data["text"]), list(predicted.texts))
    assert evaluator(model).value == pytest.approx(rate)


def test_sounds_that_are_longer_than_the_model_hears(whisper):
    """A warning says how many are cut; the others are filled up."""
    model, processor = whisper
    data = datasets.Dataset.from_dict({"audio": [[0.1] * 17_000, [0.1] * 900], "text": ["A", "B"]})
    with pytest.warns(hf_soup.SoupWarning, match="1 of 2 sounds are longer than 1 seconds"):
        hf_soup.Evaluator(data, processing_class=processor, metric="loss")(model)


def test_sweeps_and_soups_of_decoders(whisper, tmp_path):
    """Runs train with Trainer; learned weights and a greedy soup work, and the soup verifies."""
    for part in whisper:
        part.save_pretrained(tmp_path / "base")
    data = spoken(words(8, 1), 1)
    options = {"task": "automatic-speech-recognition", "validation": data, "on_error": "raise"}
    args = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2}
    runs = hf_soup.sweep(
        tmp_path / "base", data, space={"seed": [0, 1]}, output_dir=tmp_path / "runs", training_args=args, **options
    )
    soup = hf_soup.merge(runs, strategy="learned", evaluator=hf_soup.Evaluator(data, metric="loss"))
    folder = soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.verify(folder).ok
    evaluator = hf_soup.Evaluator(data, generate={"max_new_tokens": 6})
    assert hf_soup.merge(runs, strategy="greedy", evaluator=evaluator).selection.metric == "wer"
