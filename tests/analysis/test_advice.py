"""Tests of advice: it follows from measurements, quotes their numbers, and gives the right reason."""

import json

import numpy as np
import pytest
import torch
import transformers
from command import run
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.analysis.advice import Advice, Commands
from hf_soup.analysis.advice_losses import Losses, barrier_piece
from hf_soup.analysis.advice_scores import half_width, value_of_soups
from hf_soup.analysis.advice_weights import start_pieces
from hf_soup.analysis.advising import decide
from hf_soup.analysis.diversity import Diversity, pair_diversity
from hf_soup.analysis.points import Line, Point
from hf_soup.analysis.similarity import measure_similarity
from hf_soup.checkpoints.source import open_all
from hf_soup.metrics.predictions import Predictions


TEXTS = testing.tiny_texts(60)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A start for good runs: a model that predicts each class about equally often."""
    folder, model = tmp_path_factory.mktemp("start") / "start", testing.tiny_text_model(0)
    testing.save_text_model(model, folder)
    logits = hf_soup.Evaluator(TEXTS).bound(str(folder), "text-classification").predict(model).logits
    with torch.no_grad():
        model.classifier.bias[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    model.save_pretrained(folder)
    return folder


def runs(folder, n, start=None, *, apart=0.02, own_heads=False, seed=0):
    """Models that moved a short way from one start, each in its own direction, optionally with heads of their own."""
    folders = []
    for index in range(n):
        model_class = transformers.AutoModelForSequenceClassification
        model = model_class.from_pretrained(start) if start else testing.tiny_text_model(seed)
        other = dict(testing.tiny_text_model(100 + index).named_parameters())
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if own_heads and name.startswith("classifier"):
                    parameter.copy_(other[name])
                else:
                    size = apart * parameter.std().nan_to_num(0.01)
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
        folders.append(testing.save_text_model(model, folder / f"run-{index}"))
    return folders


def examples(start, rows, noise=0.25):
    """Texts labelled by the start's predictions with noise, so that good runs are above chance and below perfect."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(start)
    predictions = hf_soup.Evaluator(TEXTS).bound(str(start), "text-classification").predict(model)
    labels = predictions.logits.argmax(1)
    labels = np.where(np.random.default_rng(0).random(len(labels)) < noise, 1 - labels, labels)
    return TEXTS.remove_columns("label").add_column("label", labels.tolist()).select(range(rows))


def topics(advice):
    """The topics of the pieces of an advice."""
    return [piece.topic for piece in advice.pieces]


def test_good_runs_may_be_averaged(tmp_path, start):
    """Good runs may be averaged, and advice with examples also states the gain of the soup or the ensemble."""
    advice = hf_soup.advise(runs(tmp_path, 5, start), base_model=start)
    assert advice.ok
    assert "Nothing in the weights speaks against a soup" in advice.verdict
    assert advice.evaluations == 0
    scored = hf_soup.advise(runs(tmp_path / "again", 5, start), examples(start, 30), base_model=start)
    assert scored.ok
    assert "barrier" in topics(scored)
    assert scored.evaluations == 6 + 10
    assert any(topic in topics(scored) for topic in ("soup", "ensemble"))
    assert scored.command.startswith("hf-soup merge")


def test_heads_of_their_own_are_the_reason(tmp_path, start):
    """Models that differ only in their heads are refused for their heads, unrelated models for their start."""
    heads = hf_soup.advise(runs(tmp_path / "heads", 4, start, own_heads=True))
    assert not heads.ok
    assert topics(heads)[0] == "heads"
    assert "heads do not look like fine-tunes of one initial head" in heads.verdict
    assert heads.command.endswith("--weights classifier=1,0,0,0 --weights 1,1,1,1 -o soup")
    strangers = [runs(tmp_path / f"s{i}", 1, seed=i)[0] for i in range(3)]
    apart = hf_soup.advise(strangers)
    assert not apart.ok
    assert topics(apart)[0] == "start"
    assert "bodies do not look like fine-tunes of one model" in apart.verdict


def test_evidence_has_its_number(tmp_path, start):
    """Every piece of evidence has a number and a confidence, and the table names the models."""
    advice = hf_soup.advise(runs(tmp_path, 4, start), examples(start, 30), base_model=start)
    for piece in advice.pieces:
        assert any(letter.isdigit() for letter in piece.evidence), piece
        assert piece.confidence in ("high", "medium", "low")
        assert piece.advice.endswith(".")
    assert "run-0" in advice.table()
    assert advice.to_dict()["ok"] == advice.ok


def test_check_compare_and_advice_agree_about_heads(tmp_path, start):
    """`check`, `compare` and `advise` all report heads that started apart, and suggest options that take one head."""
    folders, data = runs(tmp_path, 3, start, own_heads=True), examples(start, 30)
    note = next(note for note in hf_soup.check(folders).notes if "heads" in note)
    assert note.startswith("run-0, run-1, run-2: the heads do not look like fine-tunes of one initial head")
    assert "--weights classifier=1,0,0 --weights 1,1,1 " in note
    assert 'weights={"classifier": [1, 0, 0], "": [1, 1, 1]}' in note
    one_head = hf_soup.merge(folders, weights={"classifier": [1, 0, 0], "": [1, 1, 1]})
    with pytest.warns(UserWarning, match="run-0, run-1, run-2: the heads do not look like") as told:
        hf_soup.compare(one_head, test=data, ensembles=[])
    assert [str(warning.message) for warning in told] == [note]
    assert "heads" in topics(hf_soup.advise(folders, data))
    advice = hf_soup.advise(folders)
    assert advice.pieces[0].topic == "heads"
    assert advice.command.endswith("--weights classifier=1,0,0 --weights 1,1,1 -o soup")
    assert advice.table().splitlines()[2] == f"    {advice.command}"  # one command, below the verdict
    assert advice.table().count("hf-soup merge") == 1
    rises = Losses(advice.names, single=0.4, soup=0.9, lines=[])
    (piece,) = start_pieces(measure_similarity(open_all(folders)), rises, Commands("RUN..."), "run-1")
    assert "--weights classifier=0,1,0 --weights 1,1,1" in piece.command


def test_one_odd_head_is_left_out(tmp_path, start):
    """When most heads are alike, those are averaged and the odd one is left out."""
    folders = [*runs(tmp_path / "alike", 3, start), *runs(tmp_path / "odd", 1, start, own_heads=True)]
    assert "--weights classifier=1,1,1,0 --weights 1,1,1,1" in hf_soup.advise(folders).command


def test_what_was_given_is_not_asked_for_again(tmp_path, start, monkeypatch):
    """Commands repeat the given data, its options and the base model as they were typed, quoted for the shell."""
    monkeypatch.chdir(tmp_path)
    folders = [folder.relative_to(tmp_path) for folder in runs(tmp_path / "my runs", 4, start)]
    examples(start, 30).rename_column("label", "answer").to_csv(tmp_path / "my data.csv")
    arguments = ["advise", *folders, "--data", "my data.csv", "--label-column", "answer", "--base-model", start]
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    commands = [piece["command"] for piece in json.loads(done.stdout)["pieces"]]
    assert not any("DATA" in command for command in commands if "merge" in command)
    poor = run(*arguments, "--budget", "2")
    data = "--data 'my data.csv' --task text-classification --label-column answer"
    expected = " ".join(f"'{folder}'" for folder in folders)
    assert f"    hf-soup advise {expected} {data.replace('--task text-classification ', '')}\n" in poor.stdout
    assert "a budget of 5 models or more would tell" in poor.stdout


def test_commands_read_pickles_where_models_are_pickles(tmp_path, start):
    """Advice on models opened with `allow_pickle` gives commands with `--allow-pickle`, which fail without it."""
    folders = runs(tmp_path, 2, start)
    for folder in folders:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    done = run("advise", *folders, "--allow-pickle", "--quiet")
    assert done.stdout == "soup\n"
    opened = [hf_soup.load_ingredient(folder, allow_pickle=True) for folder in folders]
    assert hf_soup.advise(opened).command.endswith("--allow-pickle --data DATA")


def test_the_best_model_is_never_to_be_left_out():
    """When the barriers are those of the best model, the advice is a search, not to leave that model out."""

    def line(one, other, height):
        ends = Point(0.4, 0.8)
        return Line(one, other, (0.0, 0.5, 1.0), (ends, Point(0.4 + height, 0.8), ends))

    high = Losses(("a", "b", "c"), 0.4, 0.5, [line("a", "b", 0.3), line("a", "c", 0.3), line("b", "c", 0.0)])
    commands = Commands("a b c")
    assert barrier_piece(high, commands, "b").advice.startswith("Leave a out")
    piece = barrier_piece(high, commands, "a")
    assert piece.advice.startswith("Let a search choose")
    assert piece.command == commands.greedy


@pytest.mark.parametrize(("own_heads", "topic"), [(True, "heads"), (False, "start")])
def test_a_rule_is_told_apart_from_what_was_measured(tmp_path, start, own_heads, topic):
    """Without examples the evidence has no loss, with examples it has the soup's; the general rule is separate."""
    strangers = [runs(tmp_path / f"s{index}", 1, seed=index)[0] for index in range(3)]
    folders = runs(tmp_path, 3, start, own_heads=True) if own_heads else strangers
    checkpoints = open_all(folders)
    names = tuple(checkpoint.name for checkpoint in checkpoints)
    measured = {
        "unseen": None,
        "rises": Losses(names, single=0.4, soup=0.9, lines=[]),
        "flat": Losses(names, single=0.4, soup=0.41, lines=[]),
    }
    similarity = measure_similarity(checkpoints)
    pieces = {name: start_pieces(similarity, losses, Commands("RUN..."))[0] for name, losses in measured.items()}
    assert {piece.topic for piece in pieces.values()} == {topic}
    assert "loss" not in pieces["unseen"].evidence
    assert "the soup's loss is 0.900, its models' 0.400 on average" in pieces["rises"].evidence
    assert "the soup's loss is 0.410, its models' 0.400 on average" in pieces["flat"].evidence
    for piece in pieces.values():
        assert "cosine" in piece.evidence
        assert "above 0.5" in piece.general  # the rule appears only here
        assert "0.5" not in piece.advice.replace("0.500", "") + piece.evidence
        table = Advice(("a", "b"), "verdict", "", (piece,)).table()
        assert f"In general, not measured here ({topic}): {piece.general}" in table.splitlines()
    if topic == "heads":
        assert "The soup's loss is 0.500 above its models'" in pieces["rises"].advice
        assert "not clearly above" in pieces["flat"].advice
        assert [pieces[name].stops for name in ("unseen", "rises", "flat")] == [True, True, False]
    else:
        assert [pieces[name].confidence for name in ("unseen", "rises", "flat")] == ["high", "high", "medium"]


def test_no_pair_is_no_measurement(tmp_path, start):
    """When the budget covers only the models and their soup, the advice makes no claim about pairs."""
    advice = hf_soup.advise(runs(tmp_path, 5, start), examples(start, 30), base_model=start, budget=6)
    (piece,) = [piece for piece in advice.pieces if piece.topic == "barrier"]
    assert "no pair was looked at" in piece.advice
    assert piece.confidence == "low"
    assert "pairs" not in piece.evidence


def test_where_nothing_is_left_to_gain_the_best_model_is_the_only_advice(tmp_path, start):
    """With a perfect model no pair is scored, and no remark from the examples contradicts the advice to take it."""
    folders = runs(tmp_path, 4, start)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folders[0])
    with torch.no_grad():
        model.classifier.bias[1] += 100.0
    model.save_pretrained(folders[0])
    best = testing.save_text_model(
        transformers.AutoModelForSequenceClassification.from_pretrained(start), tmp_path / "best"
    )
    advice = hf_soup.advise([*folders, best], examples(start, 60, noise=0.0))
    assert advice.verdict.startswith("Take the best model, best: 0.0% is all")
    assert advice.evaluations == 6  # the five models and their soup
    assert not {"barrier", "quality", "soup", "ensemble", "validation"} & set(topics(advice))


def test_scores_are_in_the_evidence(tmp_path, start):
    """A model far below the best, or no better than the most frequent class, is named with its score."""
    folders = runs(tmp_path, 4, start)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folders[0])
    with torch.no_grad():
        model.classifier.bias[1] += 100.0
    model.save_pretrained(folders[0])
    texts = examples(start, 60, noise=0.1)
    pieces = [piece for piece in hf_soup.advise(folders, texts).pieces if piece.topic == "quality"]
    ones = np.mean(texts["label"])
    assert any(f"run-0 {ones:.1%}" in piece.evidence for piece in pieces)
    assert any("points of accuracy below run-" in piece.evidence for piece in pieces)


def test_models_of_which_none_is_of_use_are_not_left_out(tmp_path, start):
    """When every model is no better than the most frequent class, the advice is not to leave all of them out."""
    folders = runs(tmp_path, 3, start)
    for folder in folders:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        with torch.no_grad():
            model.classifier.bias[1] += 100.0
        model.save_pretrained(folder)
    advice = hf_soup.advise(folders, examples(start, 60, noise=0.1))
    advices = [piece.advice for piece in advice.pieces if piece.topic == "quality"]
    assert any(
        "each of these models is no better than always saying the most frequent class" in text for text in advices
    )
    assert not any(text.startswith("Leave") for text in advices)


def test_one_and_few_models(tmp_path, start):
    """For one model the advice is to interpolate; for two models there is advice about their number."""
    advice = hf_soup.advise(runs(tmp_path, 1, start))
    assert not advice.ok
    assert "interpolate" in advice.command
    assert "number" in topics(hf_soup.advise(runs(tmp_path / "two", 2, start)))


def test_models_that_do_not_fit(tmp_path, text_runs, image_runs):
    """Advice on models that cannot be merged is about compatibility alone, and suggests `hf-soup check`."""
    advice = hf_soup.advise([text_runs[0], image_runs[0]])
    assert not advice.ok
    assert topics(advice) == ["compatibility"]
    assert advice.command.startswith("hf-soup check")


def test_nearly_one_model(tmp_path, start):
    """Changes that all point in the same direction are reported as a lack of diversity."""
    folders = []
    for index, factor in enumerate((1.0, 1.01, 0.99, 1.02)):
        model = testing.tiny_text_model(0)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.002 * factor)
        folders.append(testing.save_text_model(model, tmp_path / f"run-{index}"))
    advice = hf_soup.advise(folders, base_model=start)
    assert any("changed in nearly the same way" in piece.advice for piece in advice.pieces)


def test_a_budget_is_kept_to(tmp_path, start):
    """`advise` scores no more models than its budget, and none if the budget is too small."""
    folders = runs(tmp_path, 5, start)
    assert hf_soup.advise(folders, examples(start, 30), budget=8).evaluations == 8
    assert hf_soup.advise(folders, examples(start, 30), budget=3).evaluations == 0


def test_batchnorm_and_generation_ask_for_care(tmp_path):
    """Running statistics add advice to give data for BatchNorm; text generation has its own advice."""
    options = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    transformers.set_seed(0)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**options))
    folders = [testing.save_image_model(model, tmp_path / f"image-{index}") for index in range(2)]
    advice = hf_soup.advise(folders)
    assert "BatchNorm" in topics(advice)
    assert all("--batchnorm-data DATA" in p.command for p in advice.pieces if p.command.startswith("hf-soup merge"))
    from hf_soup.plugins import load_module

    causal, tokenizer = testing.model_for(load_module("task", "text-generation"))
    folders = []
    for index in range(2):
        folders.append(tmp_path / f"text-{index}")
        causal.save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    assert "generation" in topics(hf_soup.advise(folders))


def test_half_width_is_that_of_a_paired_interval():
    """`half_width` is half a 95 % interval of the difference of two accuracies, as the bootstrap gives it."""
    rng = np.random.default_rng(0)
    n, labels = 800, np.zeros(800, dtype=np.int64)

    def says(wrong):
        logits = np.zeros((n, 2), dtype=np.float32)
        logits[np.arange(n), wrong.astype(int)] = 1
        return Predictions(logits, labels, np.arange(n))

    a = rng.random(n) < 0.1
    b = np.where(rng.random(n) < 0.1, ~a, a)
    half = half_width({"a": says(a), "b": says(b)})
    draws = rng.integers(0, n, (4000, n))
    low, high = np.quantile((b[draws].astype(float) - a[draws]).mean(1), [0.025, 0.975])
    assert half == pytest.approx((high - low) / 2, rel=0.1)


def test_validation_that_is_too_small_is_told():
    """When two models differ on 8 of 40 examples, four each way, differences below 13.9 points are undetectable."""
    labels, wrong = np.zeros(40, dtype=np.int64), {"a": range(4), "b": range(4, 8)}

    def says(items):
        logits = np.tile(np.array([1, 0], dtype=np.float32), (40, 1))
        logits[list(items)] = [0, 1]
        return Predictions(logits, labels, np.arange(40))

    predictions = {name: says(items) for name, items in wrong.items()}
    pair = pair_diversity("a", "b", predictions)
    diversity = Diversity("accuracy", True, "validation", 40, {"a": 0.9, "b": 0.9}, (pair,), 0.9, 0.925)
    piece = value_of_soups(diversity, predictions, Commands("a b"))
    assert piece.topic == "validation"
    assert "less than 13.9 points cannot be seen on 40 examples" in piece.evidence
    assert "the models differ by 0.0, the uniform soup from the best by +0.0, the ensemble by +2.5" in piece.evidence


@pytest.mark.parametrize(
    ("scores", "soup", "ensemble", "verdict"),
    [
        ({"a": 0.85, "b": 0.70}, 0.60, 0.95, "let a search choose. The ensemble is above the best"),
        ({"a": 0.85, "b": 0.70}, 0.90, 0.90, "Make a soup. The uniform soup is as good as the best"),
        ({"a": 0.85, "b": 0.849}, 0.848, 0.85, "Make a soup. Validation cannot tell"),
    ],
)
def test_the_verdict_follows_its_evidence(scores, soup, ensemble, verdict):
    """The verdict favours a useful ensemble or a good soup, and says when validation cannot tell."""
    labels, rng = np.zeros(300, dtype=np.int64), np.random.default_rng(0)
    predictions = {}
    for name, score in scores.items():
        wrong = rng.random(300) > score
        predictions[name] = Predictions(np.eye(2, dtype=np.float32)[wrong.astype(int)], labels, np.arange(300))
    pair = pair_diversity("a", "b", predictions)
    diversity = Diversity("accuracy", True, "validation", 300, scores, (pair,), soup, ensemble)
    commands = Commands("a b")
    piece = value_of_soups(diversity, predictions, commands)
    assert verdict in decide([piece], commands, scored=True)[0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two models with BatchNorm, and images of seven classes, sorted by class."""
    folder = tmp_path_factory.mktemp("pictures")
    small = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic", "num_labels": 7}
    transformers.set_seed(0)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**small))
    for name in ("run-0", "run-1"):
        testing.save_image_model(model, folder / name)
        with torch.no_grad():
            model.classifier[1].weight.mul_(1.1)
    data = testing.tiny_images(140, classes=7)
    return [folder / "run-0", folder / "run-1"], data.sort("label")


@pytest.mark.filterwarnings("ignore:.*classes and none of")
@pytest.mark.parametrize("part", ["validation", "the data for BatchNorm"])
def test_a_slice_without_some_classes_decides_nothing(pictures, part):
    """If validation or the data for BatchNorm lack classes, the verdict says so, and confidence in evidence is low."""
    models, data = pictures
    whole, cut = data.shuffle(seed=0), data.select(range(60))
    sets = (cut, whole) if part == "validation" else (whole, cut)
    advice = hf_soup.advise(models, sets[0], batchnorm_data=sets[1])
    assert advice.verdict == f"These examples cannot tell whether to average: classes are missing in {part}."
    (piece,) = [piece for piece in advice.pieces if piece.topic == "classes"]
    assert "classes have none of 60 examples" in piece.evidence
    assert "shuffle(seed=0)" in piece.advice
    assert advice.ok
    sure = {piece.topic for piece in advice.pieces if piece.confidence != "low"}
    assert sure <= {"classes", "BatchNorm", "number"}
    good = hf_soup.advise(models, whole, batchnorm_data=whole)
    assert "classes" not in topics(good)
    assert "cannot tell whether" not in good.verdict
