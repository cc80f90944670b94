"""Tests of diversity: closed forms on predictions written by hand."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

import hf_soup
from hf_soup import testing
from hf_soup.analysis.diversity import Diversity, measure_diversity, pair_diversity
from hf_soup.analysis.points import Scorer
from hf_soup.checkpoints.source import open_all
from hf_soup.errors import RecipeError
from hf_soup.metrics.predictions import Predictions, probabilities


def says(classes, labels=(0, 0, 0, 1, 1, 1), sure=2.0):
    """Predictions of a model that chooses the given classes, out of three."""
    logits = np.zeros((len(classes), 3), dtype=np.float32)
    logits[np.arange(len(classes)), classes] = sure
    return Predictions(logits, np.array(labels), np.arange(len(classes)))


def test_a_pair_by_hand():
    """On six examples three predictions differ, and of three examples with an error one is wrong in both models."""
    a, b = says([0, 0, 1, 1, 1, 0]), says([0, 2, 0, 1, 1, 2])
    pair = pair_diversity("a", "b", {"a": a, "b": b})
    assert pair.disagreement == pytest.approx(3 / 6)
    assert pair.normalised == pytest.approx((3 / 6) / ((2 + 2) / 12))
    assert pair.overlap == pytest.approx(1 / 3)
    assert pair.kappa == pytest.approx(cohen_kappa_score([0, 0, 1, 1, 1, 0], [0, 2, 0, 1, 1, 2]))


def test_ambiguity_is_what_the_mean_gains():
    """Krogh and Vedelsby: the squared error of the mean is the mean squared error minus the ambiguity."""
    rng = np.random.default_rng(0)
    a, b = (says([0] * 6)._replace(logits=rng.normal(size=(6, 3)).astype(np.float32)) for _ in range(2))
    truth = np.eye(3)[a.labels]
    p, q = probabilities(a), probabilities(b)

    def error(x):
        return np.square(x - truth).sum(1).mean()

    pair = pair_diversity("a", "b", {"a": a, "b": b})
    assert error((p + q) / 2) == pytest.approx((error(p) + error(q)) / 2 - pair.ambiguity)


def test_equal_and_perfect_models():
    """A model paired with itself has no disagreement and kappa 1; without any errors, the overlap is 1."""
    right = says([0, 0, 0, 1, 1, 1])
    assert pair_diversity("a", "b", {"a": right, "b": right})[2:] == (0.0, None, 1.0, 1.0, 0.0)
    wrong = says([0, 0, 0, 1, 1, 0])
    same = pair_diversity("a", "b", {"a": wrong, "b": wrong})
    assert (same.disagreement, same.overlap, same.kappa) == (0.0, 1.0, 1.0)


def test_values_have_a_distance():
    """Numeric predictions have a root mean square difference and an ambiguity, and no kappa."""
    a, b = (Predictions(np.array(v, dtype=np.float32), np.zeros(2), np.arange(2), "values") for v in ([1, 2], [3, 2]))
    pair = pair_diversity("a", "b", {"a": a, "b": b})
    assert pair.disagreement == pytest.approx(np.sqrt(2))
    assert pair.ambiguity == pytest.approx((4 + 0) / 2 / 4)
    assert pair.kappa is None


@pytest.mark.parametrize(
    ("soup", "ensemble", "higher", "kept"),
    [
        (0.85, 0.9, True, 0.5),
        (0.9, 0.9, True, 1.0),
        (0.7, 0.9, True, -1.0),
        (0.85, 0.8, True, None),
        (0.7, 0.6, False, 0.5),
    ],
)
def test_how_much_of_the_gain_is_kept(soup, ensemble, higher, kept):
    """The kept share is (soup - mean) / (ensemble - mean), whether higher or lower is better."""
    diversity = Diversity("m", higher, "validation", 9, {"a": 0.7, "b": 0.9}, (), soup, ensemble)
    assert diversity.kept == (None if kept is None else pytest.approx(kept))


def test_of_real_models(text_runs):
    """Scores equal those of `compare`, pairs and pictures cover all models, and wrong requests are refused."""
    examples = testing.tiny_texts(24, seed=8)
    diversity = measure_diversity(Scorer(open_all(text_runs), examples))
    report = hf_soup.compare(hf_soup.merge(text_runs), test=examples, ensembles=["logits"])
    rows = {row.name: row.scores["test"]["accuracy"].value for row in report.models}
    assert diversity.scores == {name: pytest.approx(rows[name]) for name in ("run-0", "run-1", "run-2")}
    assert diversity.soup == pytest.approx(rows["uniform soup"])
    assert diversity.ensemble == pytest.approx(rows["logit ensemble"])
    assert len(diversity.pairs) == 3
    assert diversity.matrix("kappa").shape == (3, 3)
    assert "accuracy on" in diversity.table()
    for kind in ("scores", "pairs"):
        assert diversity.plot(kind).get_suptitle()
    with pytest.raises(RecipeError, match='did you mean "kappa"'):
        diversity.matrix("kapa")
    with pytest.raises(RecipeError, match="two or more"):
        measure_diversity(Scorer(open_all(text_runs[:1]), examples))
