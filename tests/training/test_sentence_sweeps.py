"""Sweeps of models of sentence-transformers, with its Trainers and losses, from one start with all modules."""

import datasets
import numpy as np
import pytest
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError, TrainingError


TEXTS = list(dict.fromkeys(testing.tiny_texts(90, seed=3)["text"]))  # all different
RELEVANT = [TEXTS[20 + place : 22 + place] for place in range(20)]
DATA = {
    "scored pairs": ("sentence-similarity", {"sentence1": TEXTS[:20], "sentence2": TEXTS[20:40], "score": [0.5] * 20}),
    "triplets": ("triplet", {"anchor": TEXTS[:20], "positive": TEXTS[20:40], "negative": TEXTS[40:60]}),
    "pairs": ("auto", {"anchor": TEXTS[:20], "positive": TEXTS[20:40]}),
    "lists": ("information-retrieval", {"query": TEXTS[:20], "positive": RELEVANT}),
    "classes": ("information-retrieval", {"text": TEXTS[:40], "label": [place % 5 for place in range(40)]}),
    "documents": ("reranking", {"query": TEXTS[:20], "positive": RELEVANT, "negative": [TEXTS[50:60]] * 20}),
}
DATA["scored pairs"][1]["score"] = np.linspace(0, 1, 20).tolist()
ARGS = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A sentence model with a layer after pooling, and a bare BERT."""
    folder = tmp_path_factory.mktemp("bases")
    body = testing.tiny_sentence_model(1)
    transformers.set_seed(0)
    layer = modules.Dense(32, 16)
    SentenceTransformer(modules=[*body, layer], prompts={"query": "good "}).save_pretrained(str(folder / "sentences"))
    testing.save_text_model(testing.tiny_text_model(0), folder / "bert")
    testing.tiny_text_model(0).bert.save_pretrained(folder / "bert")
    return folder


@pytest.mark.parametrize("form", DATA)
def test_a_sweep_trains_each_form_of_data(bases, tmp_path, form):
    """Runs have all modules, differ from their start, and a greedy soup of them has the class of the library."""
    task, columns = DATA[form]
    data = datasets.Dataset.from_dict(columns)
    base = bases / ("bert" if task == "reranking" else "sentences")
    options = {"task": task, "space": {"seed": [0, 1]}, "training_args": ARGS, "on_error": "raise"}
    runs = hf_soup.sweep(base, data, validation=data, output_dir=tmp_path / "runs", **options)
    class_ = CrossEncoder if task == "reranking" else SentenceTransformer
    models = [class_(str(run.folder), device="cpu") for run in runs]
    start = class_(str(runs.base_model), device="cpu")
    for model in models:
        changed = [name for name, tensor in model.state_dict().items() if not tensor.equal(start.state_dict()[name])]
        assert any("word_embeddings" in name for name in changed)
        assert class_ is CrossEncoder or any("linear" in name for name in changed)
    name = "information-retrieval" if task == "auto" else task
    evaluator = hf_soup.Evaluator(data, task=name, cache=False)
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=evaluator)
    assert type(soup.model) is class_
    assert max(run.score.value for run in runs) == pytest.approx(max(evaluator(model).value for model in models))
    assert hf_soup.verify(soup.save_pretrained(tmp_path / "soup")).ok
    card = (tmp_path / "soup" / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert f'{class_.__name__}("FOLDER_OR_HUB_ID")' in card


def test_losses_by_name(bases, tmp_path):
    """A loss of the library is a setting of a run, and may differ between runs."""
    data = datasets.Dataset.from_dict(DATA["scored pairs"][1])
    space = {"loss": ["CoSENTLoss", "CosineSimilarityLoss"]}
    options = {"task": "sentence-similarity", "validation": data, "space": space, "on_error": "raise"}
    runs = hf_soup.sweep(
        bases / "sentences", data, output_dir=tmp_path / "runs", training_args={**ARGS, "max_length": 4}, **options
    )
    assert {run.params["loss"] for run in runs} == set(space["loss"])
    first, second = (run.state["train_loss"] for run in runs)
    assert first != pytest.approx(second)
    assert SentenceTransformer(str(runs[0].folder), device="cpu").max_seq_length == 4


def test_a_score_of_a_run_is_that_of_the_library(bases, tmp_path):
    """NDCG of the run that is kept, by its own evaluator."""
    data = datasets.Dataset.from_dict(DATA["pairs"][1])
    (run,) = hf_soup.sweep(
        bases / "sentences",
        data,
        validation=data,
        space=[{"seed": 0}],
        training_args=ARGS,
        output_dir=tmp_path / "runs",
    )
    queries = {f"q{place}": text for place, text in enumerate(data["anchor"])}
    documents = {f"d{place}": text for place, text in enumerate(data["positive"])}
    relevant = {f"q{place}": {f"d{place}"} for place in range(20)}
    theirs = InformationRetrievalEvaluator(queries, documents, relevant)(SentenceTransformer(str(run.folder)))
    assert run.score.metric == "ndcg@10"
    assert run.score.value == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-6)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"training_args": {"loss": "CoSENTLos"}}, "has no loss 'CoSENTLos'; did you mean \"CoSENTLoss\""),
        ({"training_args": {"loss": "MatryoshkaLoss"}}, "MatryoshkaLoss cannot be made from the model alone"),
        ({"peft": {"r": 2}}, '"peft" is not for sentence-similarity'),
        ({"training_args": {"class_weights": "balanced"}}, '"class_weights" is not for sentence-similarity'),
        ({"folds": 2}, "folds= is not for sentence-similarity"),
        ({"head": "probe"}, 'have no separate head: leave head="probe" out'),
    ],
)
def test_settings_that_are_refused(bases, tmp_path, own, message):
    """Before anything is trained, with the nearest loss."""
    data = datasets.Dataset.from_dict(DATA["scored pairs"][1])
    options = {"task": "sentence-similarity", "validation": data, "space": {"seed": [0]}, **own}
    with pytest.raises((RecipeError, TrainingError), match=message):
        hf_soup.sweep(bases / "sentences", data, output_dir=tmp_path / "runs", **options)


def test_models_of_another_class_are_refused(bases, tmp_path):
    """A sentence model is no cross-encoder."""
    data = datasets.Dataset.from_dict(DATA["documents"][1])
    with pytest.raises(TrainingError, match=r"is a SentenceTransformer, and text-ranking trains a CrossEncoder"):
        hf_soup.sweep(
            bases / "sentences",
            data,
            validation=data,
            task="reranking",
            space={"seed": [0]},
            output_dir=tmp_path / "runs",
        )


def test_other_models_compute_their_own_loss(bases, tmp_path):
    """A loss by name is for sentence-transformers alone."""
    with pytest.raises(RecipeError, match='"loss" is for models of sentence-transformers'):
        hf_soup.sweep(
            bases / "bert",
            testing.tiny_texts(8),
            validation=testing.tiny_texts(8, seed=1),
            space={"seed": [0]},
            training_args={"loss": "CoSENTLoss"},
            output_dir=tmp_path / "runs",
        )
