"""Ensembles agree with computations by hand."""

import numpy as np
import pytest
from made_up import predictions

from hf_soup.errors import EvaluationError
from hf_soup.evaluation.ensemble import fit_mixture, majority_vote, mean_logits, mean_probabilities, mixture
from hf_soup.metrics.predictions import decisions, losses, probabilities


def members(kind="classes", count=4, **options):
    """Models with different predictions for the same examples."""
    first = predictions(kind, **options)
    rng = np.random.default_rng(9)
    noise = [rng.normal(size=first.logits.shape) * (0 if at == 0 else 1) for at in range(count)]
    shift = -3 if kind == "tokens" else 0  # log-probabilities stay below 0
    return [first._replace(logits=(first.logits + each + shift).astype(np.float32)) for each in noise]


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_means_of_logits(kind):
    """The mean of logits is the float64 mean, weighted if weights are given."""
    each = members(kind)
    exact = np.mean([member.logits.astype(float) for member in each], axis=0)
    assert np.allclose(mean_logits(each).logits, exact, atol=1e-6)
    assert np.allclose(mean_logits(each, [0, 1, 0, 0]).logits, each[1].logits)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_means_of_probabilities(kind):
    """The probabilities of the ensemble are the mean of the members' probabilities."""
    each = members(kind)
    exact = np.mean([probabilities(member) for member in each], axis=0)
    assert np.allclose(probabilities(mean_probabilities(each)), exact, atol=1e-6)


def test_language_models_mix_the_probability_of_the_right_token():
    """For tokens, the ensemble's logit is the logarithm of the mean probability, which a mean of logarithms is not."""
    each = members("tokens")
    exact = np.log(np.mean([np.exp(member.logits.astype(float)) for member in each], axis=0))
    assert np.allclose(mean_probabilities(each).logits, exact, atol=1e-6)
    with pytest.raises(EvaluationError, match="use mean_probabilities"):
        mean_logits(each)


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_the_vote_is_the_commonest_choice(kind):
    """The vote is the most frequent class, with ties decided by mean probability, or the labels a majority gives."""
    each = members(kind, count=3)
    said, mean = np.array([decisions(member) for member in each]), np.mean([probabilities(m) for m in each], axis=0)
    if kind == "labels":
        assert np.array_equal(decisions(majority_vote(each)), said.sum(axis=0) >= 2)
        return
    found = decisions(majority_vote(each))
    for row, votes in enumerate(said.T):
        counts = np.bincount(votes, minlength=4)
        best = np.flatnonzero(counts == counts.max())
        assert found[row] == best[mean[row, best].argmax()]


@pytest.mark.parametrize("kind", ["classes", "labels", "values", "tokens"])
def test_the_mixture_is_as_good_as_its_best_member_where_it_was_fitted(kind):
    """The fitted weights are shares, and no single member or equal mixture has a lower loss on the same examples."""
    each = members(kind, rows=400)
    weights = fit_mixture(each)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    loss = losses(mixture(each, weights)).mean()
    equal = losses(mixture(each, [0.25] * 4)).mean()
    assert loss <= min(equal, *(losses(member).mean() for member in each)) + 1e-3


def test_the_mixture_finds_the_only_good_member():
    """A model with correct predictions gets nearly all the weight against three random ones."""
    first = predictions(rows=500)
    rng = np.random.default_rng(0)
    others = [first._replace(logits=rng.normal(size=first.logits.shape).astype(np.float32) * 4) for _ in range(3)]
    assert fit_mixture([first, *others])[0] > 0.9


def test_members_on_other_examples_are_refused():
    """Members with other labels or other rows raise an EvaluationError."""
    one = predictions()
    for other in (one._replace(labels=one.labels[::-1]), one._replace(rows=one.rows + 1)):
        for combine in (mean_logits, mean_probabilities, majority_vote, fit_mixture):
            with pytest.raises(EvaluationError, match="for the same examples"):
                combine([one, other])


def test_an_ensemble_costs_what_its_members_cost():
    """The seconds of the members add up, and a probability of 0 keeps logits finite."""
    each = [member._replace(seconds=2.0) for member in members()]
    assert mean_logits(each).seconds == 8
    sure = [member._replace(logits=member.logits * 1000) for member in each]
    assert np.isfinite(mean_probabilities(sure).logits).all()
