"""Sweeps through the real Trainer: one start for all, whole runs kept, and a soup of them that works."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import lookup, testing
from hf_soup.checkpoints.memory import quiet_transformers


ARGS = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
SPACE = {"learning_rate": [1e-3, 3e-3], "seed": [0, 1]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pre-trained body without a head."""
    folder = tmp_path_factory.mktemp("base") / "base"
    testing.save_text_model(testing.tiny_text_model(5), folder)
    body = transformers.AutoModel.from_pretrained(folder)
    body.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data():
    """Training and validation examples."""
    return testing.tiny_texts(80), testing.tiny_texts(40, seed=1)


def run_sweep(base, data, folder, space=SPACE, **options):
    """A small sweep."""
    return hf_soup.sweep(
        base, data[0], validation=data[1], space=space, output_dir=folder, **{"training_args": ARGS, **options}
    )


@pytest.fixture(scope="module")
def sweep(base, data, tmp_path_factory):
    """Four runs over learning rate and seed."""
    return run_sweep(base, data, tmp_path_factory.mktemp("sweep"))


def test_a_run_is_a_folder_that_loads(sweep):
    """Each run has safetensors, its settings and scores, the tokenizer, and no pickle."""
    assert len(sweep) == 4
    for run in sweep:
        names = {path.name for path in run.folder.iterdir()}
        assert names >= {"model.safetensors", "config.json", "run.json", "trainer_state.json", "tokenizer.json"}
        assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(run.folder)
        assert model.config.id2label == {0: "negative", 1: "positive"}
        state = json.loads((run.folder / "run.json").read_text())
        assert state["params"] == run.params
        assert 0 <= state["metrics"]["eval_accuracy"] <= 1
    assert [(run.params["learning_rate"], run.seed) for run in sweep] == [(1e-3, 0), (1e-3, 1), (3e-3, 0), (3e-3, 1)]


def test_runs_share_their_start_and_differ_in_the_end(sweep, base):
    """All runs start from the pre-trained body and one head; learning rate and seed make them different."""
    start = load_file(sweep.base_model / "model.safetensors")
    body = load_file(base / "model.safetensors")
    assert all(torch.equal(start[f"bert.{name}"], tensor) for name, tensor in body.items())
    heads = [load_file(run.folder / "model.safetensors")["classifier.weight"] for run in sweep]
    for index, head in enumerate(heads):
        assert not any(torch.equal(head, other) for other in heads[index + 1 :])
        assert torch.cosine_similarity(head.flatten(), start["classifier.weight"].flatten(), dim=0) > 0.5


def test_the_head_has_a_seed_of_its_own(base, data, tmp_path):
    """`init_seed` decides the head that all runs share."""
    heads = [
        load_file(
            run_sweep(base, data, tmp_path / str(i), [{"max_steps": 1}], init_seed=seed).base_model
            / "model.safetensors"
        )["classifier.weight"]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_whole_runs_are_not_repeated(sweep, base, data):
    """A second call trains nothing, a larger space adds runs, and a run without its last file is made again."""
    folder = sweep.base_model.parent
    before = {run.folder.name: (run.folder / "model.safetensors").stat().st_mtime_ns for run in sweep}
    weights = (sweep[1].folder / "model.safetensors").read_bytes()
    (sweep[1].folder / "run.json").unlink()
    assert len(hf_soup.load_sweep(folder)) == 3
    larger = run_sweep(base, data, folder, {**SPACE, "seed": [0, 1, 2]})
    assert [run.folder.name for run in larger] == ["run-0", "run-1", "run-4", "run-2", "run-3", "run-5"]
    after = {run.folder.name: (run.folder / "model.safetensors").stat().st_mtime_ns for run in larger}
    assert {name for name in before if before[name] == after[name]} == {"run-0", "run-2", "run-3"}
    assert (sweep[1].folder / "model.safetensors").read_bytes() == weights


def test_another_sweep_in_the_same_folder_is_refused(sweep, base, data):
    """Other data, another base model or other arguments under an existing folder are an error that says which."""
    folder = sweep.base_model.parent
    with pytest.raises(hf_soup.TrainingError, match="another train"):
        run_sweep(base, (testing.tiny_texts(80, seed=9), data[1]), folder)
    with pytest.raises(hf_soup.TrainingError, match="another training_args"):
        run_sweep(base, data, folder, training_args={**ARGS, "weight_decay": 0.5})
    with pytest.raises(hf_soup.TrainingError, match="another base_model"):
        run_sweep(folder / "start", data, folder)


def test_a_sweep_is_a_list_of_ingredients(sweep, data):
    """`merge` takes a sweep as it is, and the soup of real fine-tunes is at least as good as the mean of its runs."""
    soup = hf_soup.merge(sweep, strategy="greedy", evaluator=data[1])
    scores = [score.value for score in soup.scores.values()]
    assert soup.recipe.selection["score"] >= max(scores)
    assert hf_soup.merge(sweep).recipe.names == tuple(run.folder.name for run in sweep)


def test_images(tmp_path):
    """Image classifiers are swept alike, with augmentation as one of the settings, which makes a difference."""
    folder = testing.save_image_model(testing.tiny_image_model(0, classes=3), tmp_path / "base")
    space = [{"seed": 0}, {"seed": 0, "augment": {"rotate": 20, "noise": 0.1}}]
    runs = hf_soup.sweep(
        folder,
        testing.tiny_images(40),
        validation=testing.tiny_images(20, seed=1),
        space=space,
        output_dir=tmp_path / "runs",
        training_args={**ARGS, "learning_rate": 1e-3},
    )
    one, two = (load_file(run.folder / "model.safetensors") for run in runs)
    assert not torch.equal(one["classifier.weight"], two["classifier.weight"])
    assert (runs[0].folder / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"space": {"learning_rat": [1e-3]}}, hf_soup.RecipeError, '"learning_rat"; did you mean "learning_rate"'),
        ({"space": {"output_dir": ["x"]}}, hf_soup.RecipeError, "set by the sweep itself"),
        ({"space": {"learning_rate": ["fast"]}}, hf_soup.RecipeError, "\"learning_rate\" is a number, not 'fast'"),
        ({"space": {"learning_rate": []}}, hf_soup.RecipeError, "space is empty"),
        ({"space": {"lr_scheduler_type": ["cosin"]}}, hf_soup.RecipeError, "TrainingArguments refuses"),
        ({"metric": "acuracy"}, hf_soup.RecipeError, 'no metric "acuracy"'),
        ({"label_column": "lable"}, hf_soup.DataError, 'no label column "lable"; did you mean "label"'),
        ({"text_columns": ["txt"]}, hf_soup.DataError, 'no text column "txt"; did you mean "text"'),
        ({"task": "image-clasification"}, hf_soup.RecipeError, 'no task called "image-clasification"'),
        ({"space": [{"augment": {"rotate": 3}}]}, hf_soup.RecipeError, "texts have no augmentation"),
    ],
)
def test_bad_input(base, data, tmp_path, options, error, message):
    """Wrong fields, columns and tasks are told, with the nearest name, before anything is trained."""
    with pytest.raises(error, match=message):
        run_sweep(base, data, tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


def test_a_base_model_without_tokenizer(data, tmp_path):
    """A folder with weights alone says that the tokenizer is missing."""
    testing.tiny_text_model(0).save_pretrained(tmp_path / "bare")
    with pytest.raises(hf_soup.DataError, match="no tokenizer"):
        run_sweep(tmp_path / "bare", data, tmp_path / "runs")


def test_folders_of_others_are_left_alone(base, data, tmp_path):
    """A folder called run-0 that no sweep made is neither deleted nor taken for a run."""
    (tmp_path / "run-0").mkdir()
    (tmp_path / "run-0" / "mine.txt").write_text("mine")
    with pytest.raises(hf_soup.TrainingError, match="no sweep made it"):
        run_sweep(base, data, tmp_path)
    assert (tmp_path / "run-0" / "mine.txt").read_text() == "mine"


def test_another_label_column_is_another_sweep(base, data, tmp_path):
    """Runs that learnt one column are not taken for runs of another."""
    both = [part.add_column("other", [1 - label for label in part["label"]]) for part in data]
    both = [part.cast_column("other", part.features["label"]) for part in both]
    run_sweep(base, both, tmp_path, [{"max_steps": 1}])
    with pytest.raises(hf_soup.TrainingError, match="another label_column"):
        run_sweep(base, both, tmp_path, [{"max_steps": 1}], label_column="other")


def test_long_texts_are_cut(base, data, tmp_path):
    """A text that is longer than the model's positions is cut to them, also where the tokenizer does not say."""
    import datasets

    long = datasets.concatenate_datasets([data[0], data[0].select([0]).map(lambda row: {"text": "good " * 500})])
    assert len(run_sweep(base, (long, long), tmp_path, [{"max_steps": 8}])) == 1


def test_a_folder_that_is_no_sweep(tmp_path):
    """`load_sweep` of something else says what it lacks."""
    with pytest.raises(hf_soup.TrainingError, match=r"no sweep\.json"):
        hf_soup.load_sweep(tmp_path)


def test_a_run_that_diverges_is_told(base, data, tmp_path):
    """A loss that is no number is an error, and the folder does not count as a run."""
    with pytest.raises(hf_soup.TrainingError, match="diverged"):
        run_sweep(base, data, tmp_path, [{"learning_rate": 1e38, "max_grad_norm": 0, "optim": "sgd"}])
    assert not (tmp_path / "run-0" / "run.json").exists()


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
def test_classifiers_of_other_kinds_are_swept(tmp_path, kind):
    """BART says more than logits, GPT-2 has no padding token: both are trained, scored and averaged."""
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, **{**testing.TINY[kind], "pad_token_id": None if kind == "gpt2" else 0}
    )
    transformers.set_seed(0)
    model = transformers.AutoModel.from_config(config)
    tokenizer = testing.model_for(lookup.load_module("task", "text-generation"))[1]
    with quiet_transformers():
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
    runs = hf_soup.sweep(
        tmp_path / "base",
        testing.tiny_texts(24),
        validation=testing.tiny_texts(12, seed=1),
        space={"seed": [0, 1]},
        output_dir=tmp_path / "runs",
        training_args={"max_steps": 2, "per_device_train_batch_size": 4},
    )
    assert all("eval_accuracy" in run.state["metrics"] for run in runs)
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=testing.tiny_texts(12, seed=2))
    assert soup.recipe.names


@pytest.mark.parametrize(
    "name", ["regression", "multi-label-classification", "token-classification", "text-generation"]
)
def test_every_task_of_texts_is_swept(tmp_path, name):
    """Guessed from the columns where these tell it; runs train, are scored as the evaluator scores, and merge."""
    task = lookup.load_module("task", name)
    data = testing.example_of(task)
    base, tokenizer = testing.model_for(task)
    with quiet_transformers():
        base.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
    runs = hf_soup.sweep(
        tmp_path / "base",
        data,
        validation=data,
        task=name if name == "text-generation" else "auto",
        space={"seed": [0, 1]},
        output_dir=tmp_path / "runs",
        training_args={"max_steps": 2},
    )
    if task.KIND != "tokens":
        model = type(base).from_pretrained(runs[0].folder)
        score = hf_soup.Evaluator(data, processing_class=tokenizer)(model)
        assert runs[0].state["metrics"][f"eval_{task.METRIC}"] == pytest.approx(score.value, abs=1e-5)
    assert hf_soup.merge(runs, strategy="greedy", evaluator=data).recipe.names
