"""Tests of ingredients whose classes are in another order: refused, or permuted on request and recorded."""

import json
import shutil
from types import SimpleNamespace

import datasets
import pytest
import torch
import transformers
from click.testing import CliRunner
from notes import besides_heads
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.labels import NO_CLASSES, class_names, label_names, label_orders
from hf_soup.checkpoints.modules import class_tensors
from hf_soup.checkpoints.reader import TensorSpec
from hf_soup.cli import main
from hf_soup.errors import IncompatibleError, RecipeError


LABELS = ("no", "maybe", "yes", "never")


@pytest.fixture
def runs(tmp_path):
    """Three classifiers of four classes with one order of labels."""
    return [
        testing.save_text_model(testing.tiny_text_model(seed, labels=LABELS), tmp_path / f"run-{seed}")
        for seed in range(3)
    ]


def permute(folder, order):
    """Permute the classes of a classifier in place."""
    state = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][list(order)].contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels = [LABELS[index] for index in order]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def mixed(tmp_path, runs):
    """The same classifiers, one of them permuted."""
    return [runs[0], permute(shutil.copytree(runs[1], tmp_path / "moved"), (2, 0, 3, 1)), runs[2]]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("method", ["linear", "median"])
def test_aligned_heads_give_the_soup_of_equal_ones(tmp_path, runs, mixed, method, first):
    """With `align_labels` the soup and its config equal those of the unpermuted ingredients, whichever comes first."""
    order = [first, *(index for index in range(3) if index != first)]
    with pytest.raises(IncompatibleError, match=r"moved has the labels in another order.*align_labels=True"):
        hf_soup.merge(mixed)
    soup = hf_soup.merge([mixed[i] for i in order], align_labels=True, method=method)
    folder = soup.save_pretrained(tmp_path / "soup")
    straight = hf_soup.merge([runs[i] for i in order], method=method).save_pretrained(tmp_path / "straight")
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert json.loads((folder / "config.json").read_text()) == json.loads((straight / "config.json").read_text())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert torch.equal(soup.model.classifier.weight, model.classifier.weight)


def test_the_recipe_records_the_order_and_cooks_again(tmp_path, runs, mixed):
    """The recipe records `alignments`, cooks to the same bytes, and has none if no ingredient is permuted."""
    folder = hf_soup.merge(mixed, align_labels=True).save_pretrained(tmp_path / "soup")
    recipe = hf_soup.load_recipe(folder)
    assert recipe.alignments == {"moved": (1, 3, 0, 2)}
    assert "alignments" in (folder / "soup_recipe.yaml").read_text()
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    plain = hf_soup.merge(runs)
    assert plain.recipe.alignments == {}
    assert hf_soup.merge(runs, align_labels=True).recipe == plain.recipe


def test_digests_are_of_the_files(tmp_path, mixed):
    """The recorded digests of an aligned ingredient are those of its files as they are."""
    aligned = hf_soup.merge(mixed, align_labels=True).save_pretrained(tmp_path / "soup")
    alone = hf_soup.merge(mixed[1:2]).save_pretrained(tmp_path / "alone")
    files = [item.files for item in hf_soup.load_recipe(aligned).ingredients if item.name == "moved"]
    assert files == [hf_soup.load_recipe(alone).ingredients[0].files]


def test_greedy_and_the_comparison_see_one_order(tmp_path):
    """Scores, greedy weights and comparison are the same as without the permutation."""
    data = testing.tiny_texts(40)
    runs = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(3)]
    straight = hf_soup.merge(runs, strategy="greedy", evaluator=data)
    moved = shutil.copytree(runs[1], tmp_path / "copy" / "run-1")
    state = load_file(moved / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].flip(0).contiguous()
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((moved / "config.json").read_text())
    config |= {"id2label": {0: "positive", 1: "negative"}, "label2id": {"positive": 0, "negative": 1}}
    (moved / "config.json").write_text(json.dumps(config))
    aligned = hf_soup.merge([runs[0], moved, runs[2]], strategy="greedy", evaluator=data, align_labels=True)
    assert aligned.scores == straight.scores
    assert aligned.recipe.weights == straight.recipe.weights
    test = testing.tiny_texts(50, seed=1)
    tables = [hf_soup.compare(soup, test=test).to_pandas().to_dict("records") for soup in (straight, aligned)]
    assert tables[0] == tables[1]


@pytest.mark.filterwarnings("ignore:.*lacks classes")
def test_aligned_heads_are_analysed_as_equal_ones(runs, mixed):
    """An analysis of a permuted ingredient equals that of the unpermuted one."""
    data = testing.tiny_texts(20)
    data = data.cast_column("label", datasets.ClassLabel(names=list(LABELS[:2])))
    parts = ["similarity", "diversity", "landscape", "plane", "advice"]
    straight = hf_soup.analyze(runs, evaluator=data, parts=parts, points=3)
    aligned = hf_soup.analyze(mixed, evaluator=data, parts=parts, points=3, align_labels=True)
    for part in ("similarity", "diversity", "landscape", "plane"):
        assert getattr(aligned, part).table() == getattr(straight, part).table().replace("run-1", "moved")
    pieces = [[piece.evidence for piece in found.advice.pieces] for found in (straight, aligned)]
    assert pieces[1] == [evidence.replace("run-1", "moved") for evidence in pieces[0]]
    assert "--align-labels" in hf_soup.advise(mixed, align_labels=True).command


def test_what_cannot_be_aligned(tmp_path, runs, mixed):
    """Other labels, square heads, and invalid alignments in a recipe are refused even with `align_labels`."""
    other = testing.save_text_model(testing.tiny_text_model(0, labels=("a", "b", "c", "d")), tmp_path / "other")
    with pytest.raises(IncompatibleError, match="other has the labels"):
        hf_soup.merge([*mixed, other], align_labels=True)
    square = [
        testing.save_text_model(
            testing.tiny_text_model(0, labels=order, hidden_size=4, num_attention_heads=2), tmp_path / f"square-{i}"
        )
        for i, order in enumerate((LABELS, LABELS[::-1]))
    ]
    with pytest.raises(RecipeError, match=r"classifier\.weight is square"):
        hf_soup.merge(square, align_labels=True)
    for alignments in ({"b": (0, 1)}, {"a": (0, 0, 1)}, {"a": (1, 2)}):
        with pytest.raises(RecipeError, match="permutes the classes of an ingredient"):
            hf_soup.Recipe((hf_soup.Ingredient("a", "a"),), (1,), alignments=alignments)


def test_without_a_head_that_can_be_told(runs):
    """If no tensor of the head has one row for each class, permuting raises a RecipeError."""
    names = ("conv1.weight", "layer1.0.weight", "layer2.0.weight", "fc.weight", "fc.bias")
    specs = {name: TensorSpec(name, (4, 2), "float32") for name in names}
    with pytest.raises(RecipeError, match="no tensor of the head has 4 rows"):
        class_tensors(specs, 4)


def test_a_base_with_its_labels_in_another_order(tmp_path, runs):
    """A base model with its labels in another order is refused, because it would be subtracted crosswise."""
    base = permute(shutil.copytree(runs[2], tmp_path / "base"), (1, 0, 2, 3))
    with pytest.raises(IncompatibleError, match="base has the labels in another order"):
        hf_soup.merge(runs[:2], method="ties", base_model=base)


MADE_UP = ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, ("no", "yes")),
        ({"id2label": {1: "yes", 0: "no"}}, ("no", "yes")),
        ({"id2label": {str(i): f"c{i}" for i in range(11)}}, tuple(f"c{i}" for i in range(11))),
        ({"id2label": {"0": 3, "1": 4}}, ("3", "4")),
        ({"id2label": {"0": "a", "2": "c"}}, ("a", "LABEL_1", "c")),
        ({"id2label": {"0": "a", "99999999999": "c"}}, ("a", "c")),
        ({"label2id": {"no": 0, "yes": 1}}, MADE_UP),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({}, MADE_UP),
        ({"id2label": None}, MADE_UP),
        ({"model_type": "timm_wrapper", "label_names": ["cat", "dog"]}, ("cat", "dog")),
        ({"model_type": "timm_wrapper", "pretrained_cfg": {"label_names": ["cat", "dog"]}}, ("cat", "dog")),
        ({"model_type": "timm_wrapper", "label_names": ["a"], "id2label": {"0": "b"}}, ("a",)),
        ({"model_type": "timm_wrapper", "num_classes": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"text_config": {"id2label": {"0": "no", "1": "yes"}}}, ("no", "yes")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "x": {"id2label": {"0": "no", "1": "yes"}}}, ("no", "yes")),
        ({"id2label": {"0": "a", "1": "b"}, "x": {"id2label": {"0": "no", "1": "yes"}}}, ("a", "b")),
    ],
    ids=str,
)
def test_labels_are_read_as_transformers_reads_them(config, names):
    """Labels are read as in transformers: by index, from nested configs or timm's list, or made up."""
    assert class_names(config) == names
    assert label_names(config) == (() if names[0].startswith("LABEL_") else names)


@pytest.mark.parametrize("config", [{}, {"num_labels": 3}, {"label2id": {"a": 0, "b": 1, "c": 2}}])
def test_transformers_agrees_about_made_up_names(config):
    """Made-up class names equal those of transformers for the same configuration."""
    read = transformers.BertConfig.from_dict(dict(config))
    assert class_names(config) == tuple(read.id2label[index] for index in range(read.num_labels))


def two(tmp_path, one, other):
    """Two classifiers with the given labels."""
    folders = []
    for name, labels in (("one", one), ("other", other)):
        model = testing.tiny_text_model(len(folders), labels=labels)
        folders.append(testing.save_text_model(model, tmp_path / name))
    return folders


@pytest.mark.parametrize(
    ("other", "found", "way_out"),
    [
        (("yes", "no"), "in another order: class 0 is 'yes', where the others have 'no'", "Pass align_labels=True"),
        (
            ("NO", "Yes"),
            "['NO', 'Yes'], the others have ['no', 'yes']: only upper and lower case",
            "align_labels=True",
        ),
        (("YES", "No"), "in another order and in other letter case: class 0 is 'YES'", "align_labels=True"),
        (MADE_UP, "has the made-up labels ['LABEL_0', 'LABEL_1'], one ['no', 'yes']", 'take_from="one"'),
        (("ham", "spam"), "['ham', 'spam'], the others have ['no', 'yes']", "copy id2label and label2id"),
        (("no", "never"), "['no', 'never'], the others have ['no', 'yes']", "Fine-tune on the same labels"),
        (("no", "yes", "maybe"), "3 classes and 2", "Fine-tune on the same labels"),
    ],
    ids=str,
)
def test_each_kind_of_difference_has_its_own_message(tmp_path, other, found, way_out):
    """Each kind of difference between labels has its own message, with both lists and its own remedy."""
    problems = hf_soup.check(two(tmp_path, ("no", "yes"), other)).problems
    (problem,) = [problem for problem in problems if "labels" in problem]
    assert found in problem
    assert way_out in problem
    assert "[]" not in problem


def test_given_names_go_before_made_up_ones(tmp_path):
    """If classifiers with made-up names meet one with real names, they are the problem, with `take_from` as remedy."""
    runs = [*two(tmp_path, MADE_UP, ("no", "yes")), *two(tmp_path / "more", MADE_UP, MADE_UP)[:1]]
    report = hf_soup.check([runs[0], runs[1], runs[2].rename(tmp_path / "third")])
    assert report.labels == ("no", "yes")
    assert [problem.partition(" has the made-up")[0] for problem in report.problems] == ["one", "third"]
    assert all('pass take_from="other"' in problem for problem in report.problems)


def test_letter_case_is_matched_when_asked(tmp_path):
    """With `align_labels`, names are matched regardless of case, and the soup has the most frequent labels."""
    runs = two(tmp_path, ("no", "yes"), ("YES", "No"))
    runs.append(testing.save_text_model(testing.tiny_text_model(2, labels=("NO", "YES")), tmp_path / "third"))
    soup = hf_soup.merge(runs, align_labels=True)
    assert soup.recipe.alignments == {"other": (1, 0), "third": (0, 1)}
    folder = soup.save_pretrained(tmp_path / "soup")
    heads = [load_file(run / "model.safetensors")["classifier.bias"].double() for run in runs]
    expected = (heads[0] + heads[1].flip(0) + heads[2]) / 3
    assert torch.allclose(load_file(folder / "model.safetensors")["classifier.bias"].double(), expected, atol=1e-7)
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}
    assert hf_soup.verify(folder).ok


def in_other_case(tmp_path):
    """Three classifiers, the first with the labels of the others in reverse order and in capitals."""
    runs = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"run-{seed}") for seed in range(3)]
    for run, labels in zip(runs, (("POSITIVE", "NEGATIVE"), *[("negative", "positive")] * 2), strict=True):
        config = json.loads((run / "config.json").read_text())
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        (run / "config.json").write_text(json.dumps(config))
    return runs


@pytest.mark.parametrize(
    "strategy",
    ["greedy", "performance", "layerwise", "pruned", "diverse", "exhaustive", "greedy_best_first", "learned"],
)
def test_trials_of_ingredients_in_other_case(tmp_path, strategy):
    """Every trial of a strategy uses the labels of all candidates, whichever ingredients it contains."""
    runs, data = in_other_case(tmp_path), testing.tiny_texts(20)
    soup = hf_soup.merge(runs, align_labels=True, strategy=strategy, evaluator=data)
    assert soup.plan.report.labels == ("negative", "positive")


def test_a_function_scores_ingredients_in_other_case(tmp_path):
    """The model passed to a scoring function has the labels of all candidates."""
    seen = []
    hf_soup.merge(
        in_other_case(tmp_path),
        align_labels=True,
        strategy="exhaustive",
        evaluator=lambda model: seen.append(tuple(model.config.id2label.values())) or 0.5,
    )
    assert set(seen) == {("negative", "positive")}


def test_one_ingredient_in_other_case_has_the_labels_of_all(tmp_path):
    """A recipe records labels that differ from those of its only ingredient, and cooks to equal bytes."""
    runs = in_other_case(tmp_path)

    def prefers_first(model):
        return -(model.classifier.weight - rows).abs().sum().item()

    rows = load_file(runs[0] / "model.safetensors")["classifier.weight"].flip(0)
    soup = hf_soup.merge(runs, align_labels=True, strategy="greedy", evaluator=prefers_first)
    assert soup.recipe.names == ("run-0",)
    folder = soup.save_pretrained(tmp_path / "soup")
    assert hf_soup.load_recipe(folder).labels == ("negative", "positive")
    assert hf_soup.verify(folder).ok
    again = tmp_path / "again"
    hf_soup.cook(folder, output_dir=again)
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    test = testing.tiny_texts(20, seed=1)
    for given in (soup, folder):
        assert "run-0" in hf_soup.compare(given, test=test).table()


@pytest.mark.parametrize("name", [None, "run-0", "run-1"])
def test_ingredients_in_other_case_are_compared(tmp_path, name):
    """Single ingredients are compared with the labels of the soup: the usual ones, or those of `take_from`."""
    soup = hf_soup.merge(in_other_case(tmp_path), align_labels=True, take_from=name)
    capitals = name == "run-0"
    test = testing.tiny_texts(20, seed=1)
    if capitals:
        names = test.features["label"].names
        test = test.cast_column("label", datasets.ClassLabel(names=[label.upper() for label in names]))
    folder = soup.save_pretrained(tmp_path / "soup")
    tables = [hf_soup.compare({"uniform soup": given}, test=test).to_pandas() for given in (soup, folder)]
    assert tables[0]["value"].tolist() == tables[1]["value"].tolist()


def test_names_that_differ_in_case_alone_are_not_guessed():
    """Labels of one ingredient that differ only in case are matched exactly or not at all."""
    one = SimpleNamespace(name="one", config={"id2label": {"0": "a", "1": "A"}})
    moved = SimpleNamespace(name="moved", config={"id2label": {"0": "A", "1": "a"}})
    other = SimpleNamespace(name="other", config={"id2label": {"0": "A", "1": "A"}})
    assert label_orders([one, moved], class_names(one.config)) == {"moved": (1, 0)}
    assert label_orders([one, other], class_names(one.config)) == {}
    assert label_orders([one, other], class_names(other.config)) == {}


@pytest.mark.parametrize("name", ["one", "other"])
def test_names_can_be_taken_from_one(tmp_path, name):
    """`take_from` chooses the ingredient that gives the names, and a note says so."""
    for kind, other in (("made", MADE_UP), ("case", ("NO", "YES"))):
        runs = two(tmp_path / kind, ("no", "yes"), other)
        soup = hf_soup.merge(runs, take_from=name)
        assert any(f"the soup has the names of {name}" in note for note in soup.plan.report.notes)
        names = {"one": ("no", "yes"), "other": other}[name]
        assert tuple(soup.model.config.id2label.values()) == names


def test_an_order_is_no_matter_of_choice(tmp_path):
    """`take_from` decides the order of the classes, and the other ingredients must be permuted to it."""
    runs = two(tmp_path, ("no", "yes"), ("yes", "no"))
    with pytest.raises(IncompatibleError, match="class 0 is 'no', where other has 'yes'"):
        hf_soup.merge(runs, take_from="other")
    soup = hf_soup.merge(runs, take_from="other", align_labels=True)
    assert soup.recipe.alignments == {"one": (1, 0)}
    assert soup.model.config.id2label == {0: "yes", 1: "no"}


def test_a_check_says_what_would_be_permuted(tmp_path, runs, mixed):
    """With `align_labels`, `check` passes if only the order differs and notes the permutation; a square head fails."""
    assert not hf_soup.check(mixed).ok
    report = hf_soup.check(mixed, align_labels=True)
    assert report.ok
    assert "the classes of moved are permuted: the soup's classes 0, 1, ... are its 1, 3, 0, 2" in report.notes
    done = CliRunner().invoke(main, ["check", *map(str, mixed), "--align-labels"])
    assert done.exit_code == 0, done.output
    square = [
        testing.save_text_model(
            testing.tiny_text_model(0, labels=order, hidden_size=4, num_attention_heads=2), tmp_path / f"square-{i}"
        )
        for i, order in enumerate((LABELS, LABELS[::-1]))
    ]
    assert "classifier.weight is square" in hf_soup.check(square, align_labels=True).problems[0]


def save_timm(folder, names, **config):
    """Write a folder in the layout of transformers' timm wrapper."""
    folder.mkdir(parents=True)
    fields = {"architecture": "resnet10t", "model_type": "timm_wrapper", "label_names": names, **config}
    architectures = ["TimmWrapperForImageClassification"]
    (folder / "config.json").write_text(json.dumps({**fields, "architectures": architectures, "num_classes": 2}))
    rows = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    rows = rows if names[0].lower() == "cat" else rows.flip(0)
    module = config.get("pretrained_cfg", {}).get("classifier", "fc")
    state = {"timm_model.conv1.weight": torch.ones(2, 3), f"timm_model.{module}.weight": rows}
    save_file({**state, f"timm_model.{module}.bias": rows[:, 0].contiguous()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("other", [["dog", "cat"], ["Dog", "CAT"]])
@pytest.mark.parametrize("config", [{}, {"pretrained_cfg": {"classifier": "last"}}])
def test_classes_of_timm_are_compared_and_permuted(tmp_path, other, config):
    """`label_names` is treated like `id2label`: the head is permuted, and the soup keeps timm's layout."""
    runs = [save_timm(tmp_path / "one", ["cat", "dog"], **config), save_timm(tmp_path / "two", other, **config)]
    assert any("order" in problem for problem in hf_soup.check(runs).problems)
    folder = hf_soup.merge(runs, align_labels=True).save_pretrained(tmp_path / "soup")
    assert (folder / "model.safetensors").exists()
    soup, one = (load_file(path / "model.safetensors") for path in (folder, runs[0]))
    assert all(torch.equal(soup[name], one[name]) for name in one)
    written = json.loads((folder / "config.json").read_text())
    assert written["label_names"] == ["cat", "dog"]
    assert "id2label" not in written


@pytest.mark.parametrize(
    ("head", "has_classes"),
    [
        ("ForQuestionAnswering", False),
        ("ForMultipleChoice", False),
        ("ForNextSentencePrediction", False),
        ("ForPreTraining", False),
        ("LMHeadModel", False),
        ("ForTokenClassification", True),
    ],
)
def test_heads_without_classes(tmp_path, head, has_classes):
    """Different class names are a problem if the head has classes, and a note otherwise."""
    for name, labels in (("one", MADE_UP), ("other", ("b", "a"))):
        transformers.set_seed(0)
        config = transformers.BertConfig(**testing.TINY["bert"], id2label=dict(enumerate(labels)))
        getattr(transformers, f"Bert{head}")(config).save_pretrained(tmp_path / name)
    report = hf_soup.check([tmp_path / "one", tmp_path / "other"])
    assert report.ok is not has_classes
    assert any("uses none" in note for note in report.notes) is not has_classes


@pytest.mark.parametrize(
    ("architecture", "has_classes"),
    [
        ("Wav2Vec2ForCTC", False),
        ("SpeechSeq2Seq", False),
        ("ElectraForPreTraining", False),
        ("ViltForQuestionAnswering", True),
        ("VisualBertForQuestionAnswering", True),
        ("ViTForImageClassification", True),
        ("Wav2Vec2ForXVector", True),
    ],
)
def test_which_heads_have_classes(architecture, has_classes):
    """Heads for speech to text and spans have no classes; heads for questions on images have."""
    assert bool(NO_CLASSES.search(architecture)) is not has_classes


def test_one_class_has_one_order(tmp_path):
    """The names of the only output of a regression may differ."""
    report = hf_soup.check(two(tmp_path, ("LABEL_0",), ("score",)))
    assert (report.problems, besides_heads(report)) == ((), ())


@pytest.mark.parametrize("names", [["cat", "fox"], list(MADE_UP)])
def test_where_timm_keeps_names(tmp_path, names):
    """For timm models the advice names `label_names`, not `id2label`."""
    runs = [save_timm(tmp_path / "one", ["cat", "dog"]), save_timm(tmp_path / "two", names)]
    problems = [problem for problem in hf_soup.check(runs).problems if "labels" in problem]
    assert len(problems) == 1
    assert "copy label_names " in problems[0]
    assert "id2label" not in problems[0]


def test_models_without_classes_have_no_labels_to_differ(tmp_path):
    """Different class names in the configuration of a language model give a note and no problem."""
    for name, labels in (("one", {0: "a", 1: "b"}), ("other", {0: "b", 1: "a"})):
        transformers.set_seed(0)
        config = transformers.BertConfig(**testing.TINY["bert"], id2label=labels)
        transformers.BertForMaskedLM(config).save_pretrained(tmp_path / name)
    report = hf_soup.check([tmp_path / "one", tmp_path / "other"])
    assert report.ok
    assert any("a BertForMaskedLM uses none; the soup has those of one" in note for note in report.notes)


def test_a_base_with_its_labels_in_another_order_and_case(tmp_path, runs):
    """A base model with labels in another order and case is refused by `merge` and noted by `check`."""
    base = permute(shutil.copytree(runs[2], tmp_path / "base"), (1, 0, 2, 3))
    path = base / "config.json"
    path.write_text(path.read_text().replace('"no"', '"NO"'))
    expected = r"base has the labels in another order.*Give the base model whose label2id"
    with pytest.raises(IncompatibleError, match=expected):
        hf_soup.merge(runs[:2], method="ties", base_model=base)
    report = hf_soup.check(runs[:2], base)
    assert report.ok
    (note,) = besides_heads(report)
    assert note.startswith("base has the labels in another order than the ingredients: ['maybe', 'NO', ")
