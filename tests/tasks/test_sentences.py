"""Tasks on sentences: scores equal those of the evaluators of sentence-transformers, and soups are chosen by them."""

import shutil

import datasets
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.sentence_transformer import evaluation
from sklearn import metrics

import hf_soup
from hf_soup import testing
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.errors import DataError, EvaluationError
from hf_soup.metrics.predictions import Predictions
from hf_soup.metrics.rankings import RANKINGS, by_query, values_of_queries
from hf_soup.plugins import load_module


TEXTS = list(dict.fromkeys(testing.tiny_texts(90, seed=3)["text"]))  # all different
PAIRS = datasets.Dataset.from_dict(
    {"sentence1": TEXTS[:20], "sentence2": TEXTS[20:40], "score": np.linspace(0, 1, 20).tolist()}
)
TRIPLETS = datasets.Dataset.from_dict({"anchor": TEXTS[:20], "positive": TEXTS[20:40], "negative": TEXTS[40:60]})
RELEVANT = [TEXTS[20 + place : 22 + place] for place in range(20)]
QUERIES = datasets.Dataset.from_dict({"query": TEXTS[:20], "positive": RELEVANT})
CLASSES = datasets.Dataset.from_dict({"text": TEXTS[:40], "label": [place % 5 for place in range(40)]})
RERANKED = datasets.Dataset.from_dict({"query": TEXTS[:20], "positive": RELEVANT, "negative": [TEXTS[50:60]] * 20})
METRICS = ["ndcg@10", "mrr@10", "map@100", "recall@10", "accuracy@1", "precision@5"]


@pytest.fixture(scope="module")
def model():
    """A sentence model with random weights."""
    return testing.tiny_sentence_model(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved fine-tunes of one start."""
    folder = tmp_path_factory.mktemp("sentences")
    for seed in range(3):
        model = testing.tiny_sentence_model(0)
        transformers.set_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.1 * parameter.data.std() * parameter.data.new_tensor(np.random.randn())
        model.save_pretrained(str(folder / f"run-{seed}"))
    return [folder / f"run-{seed}" for seed in range(3)]


def scores(data, model, metric, **options):
    """The values of metrics by name."""
    found = hf_soup.Evaluator(data, metric=metric, cache=False, **options)(model)
    return {found.metric: found.value, **found.others}


def test_similarity_and_triplets_score_as_sentence_transformers(model):
    """Spearman, Pearson and the share of triplets in order."""
    found = scores(PAIRS, model, ["spearmanr", "pearsonr"])
    right = evaluation.EmbeddingSimilarityEvaluator(*(PAIRS[name][:] for name in PAIRS.column_names))(model)
    assert found["spearmanr"] == pytest.approx(right["spearman_cosine"], abs=1e-6)
    assert found["pearsonr"] == pytest.approx(right["pearson_cosine"], abs=1e-6)
    found = scores(TRIPLETS, model, "accuracy")
    right = evaluation.TripletEvaluator(*(TRIPLETS[name][:] for name in TRIPLETS.column_names))(model)
    assert found["accuracy"] == pytest.approx(right["cosine_accuracy"], abs=1e-6)


def of_sentence_transformers(queries, corpus, relevant, model):
    """The values of the library's evaluator by our names."""
    found = evaluation.InformationRetrievalEvaluator(queries, corpus, relevant)(model)
    return {name: found[f"cosine_{name}"] for name in METRICS}


def test_retrieval_scores_as_sentence_transformers(model):
    """In each of the three forms of the data."""
    numbers = {}
    for texts in RELEVANT:
        for text in texts:
            numbers.setdefault(text, str(len(numbers)))
    corpus = {number: text for text, number in numbers.items()}
    queries = {str(row): text for row, text in enumerate(TEXTS[:20])}
    relevant = {str(row): {numbers[text] for text in texts} for row, texts in enumerate(RELEVANT)}
    right = of_sentence_transformers(queries, corpus, relevant, model)
    assert scores(QUERIES, model, METRICS) == pytest.approx(right, abs=1e-6)
    rows = [{"text": text, "id": key, "role": "document", "relevant": []} for key, text in corpus.items()]
    for key, text in queries.items():
        rows.append({"text": text, "id": f"q{key}", "role": "query", "relevant": sorted(relevant[key])})
    listed = datasets.Dataset.from_list(rows)
    assert scores(listed, model, METRICS) == pytest.approx(right, abs=1e-6)
    # classes: every text is a query against all others, so that the library needs one call for each
    labels = CLASSES["label"][:]
    single = []
    for row, text in enumerate(CLASSES["text"]):
        others = {str(place): CLASSES["text"][place] for place in range(40) if place != row}
        same = {str(place) for place in range(40) if place != row and labels[place] == labels[row]}
        single.append(of_sentence_transformers({"q": text}, others, {"q": same}, model))
    mean = {name: np.mean([each[name] for each in single]) for name in METRICS}
    assert scores(CLASSES, model, METRICS) == pytest.approx(mean, abs=1e-6)


def test_reranking_scores_as_sentence_transformers(tmp_path):
    """A cross-encoder, in both forms of the data."""
    transformers.set_seed(0)
    config = transformers.BertConfig(**testing.TINY["bert"], num_labels=1, initializer_range=0.5)  # no equal scores
    testing.save_text_model(transformers.BertForSequenceClassification(config), tmp_path / "plain")
    with quiet_transformers():
        model = CrossEncoder(str(tmp_path / "plain"), device="cpu")
    rows = [dict(row) for row in RERANKED]
    right = CrossEncoderRerankingEvaluator(rows)(model)
    listed = RERANKED.map(
        lambda row: {"documents": row["positive"] + row["negative"], "labels": [1, 1] + [0] * 10},
        remove_columns=["positive", "negative"],
    )
    for data in (RERANKED, listed):
        found = scores(data, model, ["map", "mrr@10", "ndcg@10"], processing_class=model.tokenizer)
        assert found == pytest.approx({name: right[name] for name in ("map", "mrr@10", "ndcg@10")}, abs=1e-6)
    model.save_pretrained(str(tmp_path / "a"))
    for parameter in model.parameters():
        parameter.data *= 1.05
    model.save_pretrained(str(tmp_path / "b"))
    soup = hf_soup.merge([tmp_path / "a", tmp_path / "b"], strategy="greedy", evaluator=RERANKED)
    assert soup.selection.metric == "ndcg@10"
    assert isinstance(soup.model, CrossEncoder)


def test_ranking_metrics():
    """Against scikit-learn, and by hand; of equal scores the irrelevant document counts as the higher one."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=60), (rng.random(60) < 0.4).astype(int)
    labels[::20] = 1
    predictions = Predictions(logits, labels, np.repeat([0, 3, 4], 20), "ranking")
    queries = [(labels[start : start + 20], logits[start : start + 20]) for start in (0, 20, 40)]
    right = [metrics.average_precision_score(*each) for each in queries]
    assert np.allclose(values_of_queries("map", *by_query(predictions)), right)
    right = [metrics.ndcg_score([each[0]], [each[1]], k=10) for each in queries]
    assert np.allclose(values_of_queries("ndcg@10", *by_query(predictions)), right)
    for name in RANKINGS:
        values = values_of_queries(name, *by_query(predictions))
        assert values.shape == (3,)
        assert ((values >= 0) & (values <= 1)).all()
        perfect = predictions._replace(logits=labels.astype(float))
        assert (values_of_queries(name, *by_query(perfect)) >= values - 1e-12).all()
    constant = predictions._replace(logits=np.zeros(60))
    assert (values_of_queries("accuracy@1", *by_query(constant)) == 0).all()
    turned = predictions.take(np.array([4, 4, 0]))
    values = values_of_queries("mrr@10", *by_query(predictions))
    assert np.allclose(values_of_queries("mrr@10", *by_query(turned)), values[[2, 2, 0]])


def test_gram_matrices_of_sentence_models_count_no_padding(folders):
    """Texts of different lengths in one batch give the sums of each alone."""
    found = []
    for batch_size in (1, 8):
        evaluator = hf_soup.Evaluator(TRIPLETS, batch_size=batch_size, cache=False)
        folder = hf_soup.importance(folders[0], evaluator, kind="gram")
        found.append(load_file(folder / "model.safetensors"))
        shutil.rmtree(folder)
    alone, together = found
    assert list(alone) == list(together)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-4 * float(tensor.abs().max()))


@pytest.mark.parametrize("data", [PAIRS, TRIPLETS, QUERIES, CLASSES], ids=["pairs", "triplets", "queries", "classes"])
def test_soups_are_chosen_by_sentence_tasks(folders, data, tmp_path):
    """Greedy, a comparison with an ensemble, and an evaluator of the library as it is."""
    soup = hf_soup.merge(folders, strategy="greedy", evaluator=data)
    half = data.select(range(10))
    assert soup.selection.score > -1
    report = hf_soup.compare(soup, test=half, ensembles=["logits"])
    assert "ensemble" in report.table()
    folder = soup.save_pretrained(tmp_path / "soup")
    with quiet_transformers():
        loaded = SentenceTransformer(str(folder), device="cpu")
    own = hf_soup.Evaluator(data, cache=False)
    assert own(loaded).value == pytest.approx(soup.selection.score, abs=1e-6)
    if data is TRIPLETS:
        theirs = evaluation.TripletEvaluator(*(TRIPLETS[name][:] for name in TRIPLETS.column_names))
        other = hf_soup.merge(
            folders, strategy="greedy", evaluator=hf_soup.Evaluator(theirs, metric="cosine_accuracy")
        )
        assert other.selection.score == pytest.approx(soup.selection.score, abs=1e-6)


def test_sparse_encoders(tmp_path):
    """They embed as sentence models do; the task is named, since their models have a head for words."""
    transformers.set_seed(0)
    body = transformers.BertForMaskedLM(transformers.BertConfig(**testing.TINY["bert"]))
    testing.save_text_model(body, tmp_path / "body")
    with quiet_transformers():
        model = SparseEncoder(str(tmp_path / "body"), device="cpu")
    found = scores(PAIRS, model, "spearmanr", task="sentence-similarity")
    assert -1 <= found["spearmanr"] <= 1
    assert 0 <= scores(QUERIES, model, "ndcg@10", task="information-retrieval")["ndcg@10"] <= 1


def test_what_sentence_tasks_refuse(folders, model):
    """Missing columns, queries without documents, unknown ids, too many scores, models without embeddings, losses."""
    cases = {
        "takes columns such as sentence1, sentence2": ("sentence-similarity", {"text": ["a"], "score": [1.0]}),
        'row 1 has no text in "query" or "positive"': (
            "information-retrieval",
            {"query": ["a", "b"], "positive": [["c"], []]},
        ),
        "no query has a relevant document": ("information-retrieval", {"text": ["a", "b"], "label": [0, 1]}),
        "has the relevant document \"c\"|has the relevant document 'c'": (
            "information-retrieval",
            {"text": ["a", "b"], "id": ["a", "b"], "role": ["query", "document"], "relevant": [["c"], []]},
        ),
        'the column "role" holds x': (
            "information-retrieval",
            {"text": ["a"], "id": ["a"], "role": ["x"], "relevant": [["c"]]},
        ),
        "reranking takes columns such as": ("reranking", {"text": ["a"]}),
    }
    words = testing.model_for(load_module("task", "reranking"))[1]
    for message, (task, columns) in cases.items():
        data = datasets.Dataset.from_dict(columns)
        with pytest.raises(DataError, match=message):
            hf_soup.Evaluator(data, task=task, cache=False, processing_class=words)(model)
    many = datasets.Dataset.from_dict({"text": [f"a {row}" for row in range(5000)], "label": [0] * 5000})
    with pytest.raises(DataError, match="25,000,000 scores, and at most 20,000,000"):
        hf_soup.Evaluator(many, task="information-retrieval", cache=False)(model)
    with pytest.raises(EvaluationError, match="BertModel gives no embeddings"):
        hf_soup.Evaluator(PAIRS, cache=False)(model.transformers_model)
    with pytest.raises(EvaluationError, match="embeddings are computed without gradients"):
        hf_soup.merge(folders, strategy="learned", evaluator=PAIRS)
    with pytest.raises(EvaluationError, match="models of ranking are scored without a loss"):
        hf_soup.merge(folders, strategy="ensemble_weights", evaluator=QUERIES)
