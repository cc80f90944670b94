"""Sweeps with the real Trainer: a common start, completed runs that are kept, and soups of the runs."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import plugins, testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import DataError, OutputError, RecipeError, TrainingError


ARGS = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
SPACE = {"learning_rate": [1e-3, 3e-3], "seed": [0, 1]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained body without a head."""
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
    """All runs start from the same body and head, and differ after training by learning rate and seed."""
    start = load_file(sweep.base_model / "model.safetensors")
    body = load_file(base / "model.safetensors")
    assert all(torch.equal(start[f"bert.{name}"], tensor) for name, tensor in body.items())
    heads = [load_file(run.folder / "model.safetensors")["classifier.weight"] for run in sweep]
    for index, head in enumerate(heads):
        assert not any(torch.equal(head, other) for other in heads[index + 1 :])
        assert torch.cosine_similarity(head.flatten(), start["classifier.weight"].flatten(), dim=0) > 0.5


def test_the_head_has_a_seed_of_its_own(base, data, tmp_path):
    """`init_seed` determines the head that all runs share."""
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
    """A second call trains nothing, a larger space adds runs, and a run without its record is trained again."""
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
    """Other data, arguments or base models for an existing folder raise a TrainingError that says which differs."""
    folder = sweep.base_model.parent
    with pytest.raises(TrainingError, match="another train"):
        run_sweep(base, (testing.tiny_texts(80, seed=9), data[1]), folder)
    with pytest.raises(TrainingError, match="another training_args"):
        run_sweep(base, data, folder, training_args={**ARGS, "weight_decay": 0.5})
    with pytest.raises(TrainingError, match="another base_model"):
        run_sweep(folder / "start", data, folder)


def test_a_sweep_is_a_list_of_ingredients(sweep, data):
    """`merge` accepts a sweep, and its greedy soup is at least as good as the best run."""
    soup = hf_soup.merge(sweep, strategy="greedy", evaluator=data[1])
    scores = [score.value for score in soup.scores.values()]
    assert soup.recipe.selection.score >= max(scores)
    assert hf_soup.merge(sweep).recipe.names == tuple(run.folder.name for run in sweep)


def test_images(tmp_path):
    """Image classifiers can be swept, and augmentation as a setting changes a run."""
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
        (
            {"space": {"learning_rat": [1e-3]}},
            RecipeError,
            '"learning_rat"; did you mean "learning_rate"',
        ),
        ({"space": {"output_dir": ["x"]}}, RecipeError, "set by the sweep itself"),
        (
            {"space": {"learning_rate": ["fast"]}},
            RecipeError,
            "\"learning_rate\" is a number, not 'fast'",
        ),
        ({"space": {"learning_rate": []}}, RecipeError, "space is empty"),
        ({"space": {"lr_scheduler_type": ["cosin"]}}, RecipeError, "TrainingArguments refuses"),
        ({"metric": "acuracy"}, RecipeError, 'no metric "acuracy"'),
        ({"label_column": "lable"}, DataError, 'no label column "lable"; did you mean "label"'),
        ({"text_columns": ["txt"]}, DataError, 'no text column "txt"; did you mean "text"'),
        ({"task": "image-clasification"}, RecipeError, 'no task called "image-clasification"'),
        ({"space": [{"augment": {"rotate": 3}}]}, RecipeError, "texts have no augmentation"),
    ],
)
def test_bad_input(base, data, tmp_path, options, error, message):
    """Invalid fields, columns and tasks raise an error with the nearest name before anything is trained."""
    with pytest.raises(error, match=message):
        run_sweep(base, data, tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


def test_a_base_model_without_tokenizer(data, tmp_path):
    """A base model without a tokenizer raises a DataError."""
    testing.tiny_text_model(0).save_pretrained(tmp_path / "bare")
    with pytest.raises(DataError, match="no tokenizer"):
        run_sweep(tmp_path / "bare", data, tmp_path / "runs")


def test_folders_of_others_are_left_alone(base, data, tmp_path):
    """A folder named run-0 that no sweep has written is neither deleted nor taken for a run."""
    (tmp_path / "run-0").mkdir()
    (tmp_path / "run-0" / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="no sweep made it"):
        run_sweep(base, data, tmp_path)
    assert (tmp_path / "run-0" / "mine.txt").read_text() == "mine"


def test_another_label_column_is_another_sweep(base, data, tmp_path):
    """Another label column for an existing folder raises a TrainingError."""
    both = [part.add_column("other", [1 - label for label in part["label"]]) for part in data]
    both = [part.cast_column("other", part.features["label"]) for part in both]
    run_sweep(base, both, tmp_path, [{"max_steps": 1}])
    with pytest.raises(TrainingError, match="another label_column"):
        run_sweep(base, both, tmp_path, [{"max_steps": 1}], label_column="other")


def test_long_texts_are_cut(base, data, tmp_path):
    """Texts longer than the model's positions are truncated, even if the tokenizer has no limit."""
    import datasets

    long = datasets.concatenate_datasets([data[0], data[0].select([0]).map(lambda row: {"text": "good " * 500})])
    assert len(run_sweep(base, (long, long), tmp_path, [{"max_steps": 8}])) == 1


def test_a_folder_that_is_no_sweep(tmp_path):
    """`load_sweep` of another folder raises a TrainingError."""
    with pytest.raises(TrainingError, match=r"no sweep\.json"):
        hf_soup.load_sweep(tmp_path)


def test_when_every_run_fails_it_is_told(base, data, tmp_path):
    """If every run fails, a TrainingError with the first reason is raised."""
    with pytest.raises(TrainingError, match="every run failed, such as run-0: it diverged: its loss is nan"):
        run_sweep(base, data, tmp_path, [{"learning_rate": 1e38, "max_grad_norm": 0, "optim": "sgd"}])
    assert not (tmp_path / "run-0" / "run.json").exists()


DIVERGES = {"learning_rate": 1e30, "optimizer": "sgd", "max_grad_norm": 0, "seed": 1}


def test_a_run_that_diverges_is_recorded_and_left_out(base, data, tmp_path):
    """A diverged run is reported with its reason, left out of soups and not trained again."""
    space = [{"learning_rate": 1e-3, "seed": 0}, DIVERGES, {"learning_rate": 1e-3, "seed": 2}]
    with pytest.warns(UserWarning, match="run-1 failed and is left out of soups: it diverged"):
        runs = run_sweep(base, data, tmp_path, space)
    assert [run.name for run in runs] == ["run-0", "run-2"]
    (failed,) = runs.failed
    assert (failed.name, failed.cause, failed.params) == ("run-1", "diverged", DIVERGES)
    assert "run-1 failed: it diverged" in runs.table()
    with pytest.warns(UserWarning, match="run-1 is left out: it diverged"):
        soup = hf_soup.merge(runs)
    assert soup.recipe.names == ("run-0", "run-2")
    before = (tmp_path / "run-1" / "failed.json").stat().st_mtime_ns
    with pytest.warns(UserWarning, match="run-1 failed"):
        assert len(run_sweep(base, data, tmp_path, space)) == 2
    assert (tmp_path / "run-1" / "failed.json").stat().st_mtime_ns == before
    assert hf_soup.load_sweep(tmp_path).failed == runs.failed


def test_an_exception_is_recorded_and_tried_again(base, data, tmp_path, monkeypatch):
    """A run that fails with an exception is recorded with its traceback, and the next call trains only that run."""
    from hf_soup.training import run as module

    fit = module.fit

    def fails(context, model, fields, *args, **kwargs):
        if fields["seed"] == 1:
            raise MemoryError("Unable to allocate 3 GiB")
        return fit(context, model, fields, *args, **kwargs)

    monkeypatch.setattr(module, "fit", fails)
    with pytest.warns(UserWarning, match=r"run-1 failed .* ran out of memory .* per_device_train_batch_size"):
        runs = run_sweep(base, data, tmp_path, {"seed": [0, 1, 2]})
    assert [run.name for run in runs] == ["run-0", "run-2"]
    record = json.loads((tmp_path / "run-1" / "failed.json").read_text())
    assert record["kind"] == "memory"
    assert "Unable to allocate" in record["traceback"]
    with pytest.raises(TrainingError, match="run-1 failed: it ran out of memory"):
        run_sweep(base, data, tmp_path, {"seed": [0, 1, 2]}, on_error="raise")
    monkeypatch.undo()
    before = {run.name: (run.folder / "run.json").stat().st_mtime_ns for run in runs}
    again = run_sweep(base, data, tmp_path, {"seed": [0, 1, 2]})
    assert [run.name for run in again] == ["run-0", "run-1", "run-2"]
    assert not again.failed
    assert not (tmp_path / "run-1" / "failed.json").exists()
    assert before.items() <= {run.name: (run.folder / "run.json").stat().st_mtime_ns for run in again}.items()


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_the_best_checkpoint_is_kept(tmp_path, kind):
    """The saved checkpoint has the score in run.json, the best of all evaluations, also for ViT, whose weights have
    other names on disk.
    """
    images = kind == "images"
    make = testing.tiny_images if images else testing.tiny_texts
    save = testing.save_image_model if images else testing.save_text_model
    base = save(testing.tiny_image_model(2) if images else testing.tiny_text_model(2), tmp_path / "base")
    examples = make(60), make(60, seed=1)
    args = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-3, "seed": 3}
    (best,), (last,) = (
        run_sweep(base, examples, tmp_path / keep, [{}], training_args=args, keep=keep) for keep in ("best", "last")
    )
    history = json.loads((best.folder / "trainer_state.json").read_text())["log_history"]
    rows = {row["step"]: row for row in history if "eval_loss" in row}
    scores = {step: row["eval_accuracy"] for step, row in rows.items()}
    assert len(rows) == 6
    assert best.state["step"] == max(scores, key=scores.get) < last.state["step"] == max(rows)  # the first in a tie
    assert best.score.value == max(scores.values())
    for run in (best, last):
        evaluator = hf_soup.Evaluator(examples[1], metric="loss")
        found = hf_soup.merge([run], strategy="greedy", evaluator=evaluator).selection.trials[0].score
        assert found == pytest.approx(rows[run.state["step"]]["eval_loss"], abs=1e-5)
    table = hf_soup.load_sweep(tmp_path / "best").table()
    assert "validation loss" in table
    assert f"{rows[best.state['step']]['eval_loss']:.4f}" in table  # at the step whose accuracy is next to it
    assert not list((tmp_path / "best").rglob("checkpoint-*"))
    assert "/" not in json.loads((best.folder / "trainer_state.json").read_text())["best_model_checkpoint"]


def test_all_checkpoints_are_ingredients(base, data, tmp_path):
    """With `keep="all"` each evaluation leaves a model that can be loaded, has a score and can be merged."""
    runs = run_sweep(base, data, tmp_path, {"seed": [0, 1]}, keep="all", training_args={**ARGS, "num_train_epochs": 3})
    names = [f"run-{seed}{way}" for seed in (0, 1) for way in ("-checkpoint-5", "-checkpoint-10", "")]
    assert [run.name for run in runs] == names
    assert [run.state["step"] for run in runs] == [5, 10, 15] * 2
    assert all(run.score.n == 40 for run in runs)
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=data[1])
    assert set(soup.recipe.names) <= set(names)
    for run in runs:
        transformers.AutoModelForSequenceClassification.from_pretrained(run.folder)
        files = {path.name for path in run.folder.iterdir()}
        assert "tokenizer.json" in files
        assert not {name for name in files if name.endswith((".pt", ".pth", ".bin"))}
    assert hf_soup.load_sweep(tmp_path).runs == runs.runs


def test_what_a_run_says_of_itself(sweep, data):
    """run.json contains fingerprints, versions, the base model's commit, the steps and the duration."""
    from hf_soup.data.content import hash_content

    state = json.loads((sweep[0].folder / "run.json").read_text())
    assert state["data"]["train"] == {"fingerprint": hash_content(data[0]).fingerprint, "rows": 80}
    assert state["data"]["validation"]["rows"] == 40
    assert state["versions"]["transformers"] == transformers.__version__
    assert state["seconds"] > 0
    assert state["steps"] == 5
    assert state["resumed_from"] is None
    assert "base_commit" in state


def test_the_table_ranks_and_the_frame_has_it_all(sweep):
    """The table lists the best run first, and the data frame has settings and metrics in the order of the runs."""
    best = sweep.best()
    assert all(not run.score.beats(best.score) for run in sweep)
    rows = [line.split("|")[1].strip() for line in sweep.table().splitlines() if line.startswith("| run-")]
    assert rows[0] == best.name or sweep[int(rows[0][-1])].score == best.score
    scores = [sweep[int(name.split("-")[1])].score.value for name in rows]
    assert scores == sorted(scores, reverse=True)
    frame = sweep.to_pandas()
    assert list(frame["run"]) == [run.name for run in sweep]
    assert list(frame["eval_accuracy"]) == [run.score.value for run in sweep]
    assert list(frame["learning_rate"]) == [1e-3, 1e-3, 3e-3, 3e-3]


def test_the_picture_shows_settings_and_curves(sweep, tmp_path):
    """The picture has a panel for each varying setting with a point per run, and curves of loss and score."""
    figure = sweep.plot()
    labels = [(panel.get_xlabel(), panel.get_ylabel()) for panel in figure.get_axes()]
    assert [label for label, _ in labels] == ["learning_rate", "seed", "epoch", "epoch"]
    scores, _, losses, curves = figure.get_axes()
    assert sorted(scores.lines[0].get_ydata()) == sorted(run.score.value for run in sweep)
    assert len(losses.lines) == len(curves.lines) == 4
    assert figure.get_suptitle().startswith(f"{sweep.best().name} is the best of 4 runs")
    figure.savefig(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_a_plan_tells_steps_and_disk_before_anything_is_written(base, data, tmp_path):
    """A plan gives the steps that Trainer takes and an upper bound for the disk space, without existing runs."""
    from hf_soup.api.sweep import plan_runs, train

    space = {"num_train_epochs": [1, 2], "bagging_fraction": [1.0, 0.5], "gradient_accumulation_steps": [1, 3]}
    given = {"validation": data[1], "space": space, "output_dir": tmp_path / "runs", "training_args": ARGS}
    given["training_args"] = {"per_device_train_batch_size": 16}
    plan = plan_runs(base, data[0], **given)
    assert not (tmp_path / "runs").exists()
    assert plan.summary().startswith("8 runs of 8 to train: ")
    runs = train(plan)
    assert {run.name: run.state["steps"] for run in runs} == dict(plan.steps)
    size = sum(path.stat().st_size for path in (tmp_path / "runs").rglob("*.safetensors"))
    assert size <= plan.disk < 4 * size
    again = plan_runs(base, data[0], **given)
    assert (again.todo, again.disk) == ([], 0)


def test_a_disk_that_is_too_small_is_told_in_advance(data, tmp_path):
    """If the disk is too small for the runs, an OutputError is raised before the model is loaded."""
    testing.save_text_model(testing.tiny_text_model(), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(
        json.dumps(config | {"hidden_size": 2**15, "intermediate_size": 2**17, "num_hidden_layers": 80})
    )
    with pytest.raises(OutputError, match=r"1 runs of 1 to train.*GB are free"):
        run_sweep(tmp_path / "base", data, tmp_path / "runs", [{}])
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_fills_up_ends_the_sweep(base, data, tmp_path):
    """If the disk fills up, an OutputError is raised, no run counts as failed, and a later call continues."""
    import shutil
    import subprocess

    from hf_soup.api.sweep import plan_runs, train

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        ballast = disk / "ballast"
        plan_fits = run_sweep(base, data, disk / "runs", [{"seed": 0}])
        assert len(plan_fits) == 1
        given = {"validation": data[1], "training_args": ARGS, "output_dir": disk / "runs"}
        plan = plan_runs(base, data[0], space=[{"seed": 0}, {"seed": 1}], **given)
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 200_000))  # as if another program had filled the disk
        with pytest.raises(OutputError, match=r"disk of .* is full"):
            train(plan)
        assert not hf_soup.load_sweep(disk / "runs").failed
        ballast.unlink()
        assert len(run_sweep(base, data, disk / "runs", [{"seed": 0}, {"seed": 1}])) == 2
    finally:
        subprocess.run(["umount", disk], check=True)


def test_one_group_for_the_trackers(base, data, tmp_path, monkeypatch):
    """With `report_to` each run logs to its own folder below the sweep's, and W&B gets one group."""
    import os

    from hf_soup.training.callbacks import one_group

    args = {**ARGS, "report_to": "tensorboard"}
    run_sweep(base, data, tmp_path / "mine", {"seed": [0, 1]}, training_args=args)
    for run in ("run-0", "run-1"):
        assert list((tmp_path / "mine" / "tensorboard" / run).glob("events.out.tfevents.*"))
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    with one_group(tmp_path / "mine", "run-0"):
        assert os.environ["WANDB_RUN_GROUP"] == "mine"
    assert "WANDB_RUN_GROUP" not in os.environ
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    with one_group(tmp_path / "mine", "run-0"):
        assert os.environ["WANDB_RUN_GROUP"] == "theirs"


def test_tokenising_happens_once(base, data, tmp_path, monkeypatch):
    """Every text is tokenized once, regardless of the number of runs and of augmentation."""
    import transformers

    calls = []
    tokenize = transformers.BertTokenizer.__call__
    monkeypatch.setattr(
        transformers.BertTokenizer,
        "__call__",
        lambda self, *a, **k: calls.append(len(a[0])) or tokenize(self, *a, **k),
    )
    run_sweep(base, data, tmp_path, [{"seed": 0}, {"seed": 1}, {"seed": 0, "augment": {"mask": 0.1}}])
    assert sum(calls) == len(data[0]) + len(data[1])


def test_names_of_tags_reach_the_metric(tmp_path):
    """Training and the evaluator score entities by the names of their tags."""
    task = plugins.load_module("task", "token-classification")
    import datasets

    names = ["O", "B-PER", "I-PER"]
    rows = testing.example_of(task)
    rows = rows.cast_column("tags", datasets.List(datasets.ClassLabel(names=names)))
    base, tokenizer = testing.model_for(task)
    with quiet_transformers():
        base.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
    args = {"max_steps": 40, "learning_rate": 1e-2}
    (run,) = run_sweep(
        tmp_path / "base", (rows, rows), tmp_path / "runs", [{}], metric="seqeval_f1", training_args=args
    )
    score = hf_soup.Evaluator(rows, metric="seqeval_f1", processing_class=tokenizer)
    model = transformers.AutoModelForTokenClassification.from_pretrained(run.folder)
    assert run.score.value == pytest.approx(score(model).value)
    assert run.score.value > 0


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
def test_classifiers_of_other_kinds_are_swept(tmp_path, kind):
    """Classifiers of BART, which returns more than logits, and GPT-2, which has no padding token, can be swept."""
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, **{**testing.TINY[kind], "pad_token_id": None if kind == "gpt2" else 0}
    )
    transformers.set_seed(0)
    model = transformers.AutoModel.from_config(config)
    tokenizer = testing.model_for(plugins.load_module("task", "text-generation"))[1]
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
    """Runs of every text task are trained, scored like by the evaluator and merged, mostly with the task inferred."""
    task = plugins.load_module("task", name)
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


def _accuracy_as_a_dict(predictions):
    """A typical `compute_metrics` function for a Trainer."""
    return {"acc": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def _size(predictions):
    """A metric that differs between runs: the sum of absolute logits."""
    return abs(predictions.predictions).sum()


def test_a_function_is_the_metric(base, data, tmp_path):
    """A metric function selects like the built-in metric with the same values, under the function's name."""
    built_in = run_sweep(base, data, tmp_path / "built-in")
    own = run_sweep(base, data, tmp_path / "own", metric=_accuracy_as_a_dict)
    assert [run.score.value for run in own] == [run.score.value for run in built_in]
    assert {run.score.metric for run in own} == {"_accuracy_as_a_dict"}
    assert own.best().name == built_in.best().name


def test_a_function_has_a_direction(base, data, tmp_path):
    """With `higher_is_better=False` the run and the checkpoint with the lowest value are the best."""
    runs = run_sweep(base, data, tmp_path / "runs", metric=_size, higher_is_better=False)
    values = {run.name: run.score.value for run in runs}
    assert len(set(values.values())) > 1
    assert values[runs.best().name] == min(values.values())
    for run in runs:
        history = json.loads((run.folder / "trainer_state.json").read_text())["log_history"]
        assert run.score.value == min(entry["eval__size"] for entry in history if "eval__size" in entry)


def test_a_sweep_takes_one_metric(base, data, tmp_path):
    """A sweep with several metrics raises a RecipeError that names them."""
    with pytest.raises(RecipeError, match="selects by one metric, and metric= has 2: accuracy, f1"):
        run_sweep(base, data, tmp_path / "runs", metric=["accuracy", "f1"])
