"""Tests of lines, barriers and the plane: closed forms, and points equal to the models that a merge makes."""

import math

import numpy as np
import pytest
import torch
from test_similarity import vector

import hf_soup
from hf_soup import testing
from hf_soup.analysis.landscape import scan_lines
from hf_soup.analysis.plane import plane_coordinates, scan_plane
from hf_soup.analysis.points import Line, Point, Scorer, rough_first
from hf_soup.analysis.similarity import measure_similarity
from hf_soup.checkpoints.source import open_all
from hf_soup.errors import EvaluationError, MissingExtraError, RecipeError
from hf_soup.evaluation.evaluator import Evaluator
from hf_soup.metrics.predictions import losses


@pytest.fixture(scope="module")
def checkpoints(text_runs):
    """Three opened runs."""
    return open_all(text_runs)


@pytest.fixture
def scorer(checkpoints):
    """A scorer over 20 examples, which may reuse results cached by other tests."""
    return Scorer(checkpoints, hf_soup.Evaluator(testing.tiny_texts(20, seed=5)))


def line(*values):
    """A line with these losses, and scores of 1 minus the loss."""
    alphas = tuple(np.linspace(0, 1, len(values)).tolist())
    return Line("a", "b", alphas, tuple(None if v is None else Point(v, 1 - v) for v in values))


@pytest.mark.parametrize(
    ("values", "barrier"),
    [
        ((1.0, 1.0, 1.0), 0.0),
        ((1.0, 3.0, 1.0), 2.0),
        ((0.0, 1.5, 2.0), 0.5),
        ((2.0, 0.0, 1.0), 0.0),
        ((0.0, 1.0, 0.0, 4.0, 1.0), 3.25),
        ((1.0, 1.0), None),
        ((None, 3.0, 1.0), None),
        ((1.0, None, 1.0), None),
        ((1.0, None, 2.0, None, 1.0), 1.0),
    ],
)
def test_barrier(values, barrier):
    """A barrier is the largest excess of the loss, or drop of the score, relative to the line between the ends."""
    measured = line(*values).barrier()
    assert measured == (None if barrier is None else pytest.approx(barrier))
    assert line(*values).barrier("score") == (None if barrier is None else pytest.approx(barrier))


def test_beyond_the_ends_does_not_count():
    """Points beyond the two models do not count towards the barrier."""
    points = tuple(Point(loss, 0.0) for loss in (9.0, 1.0, 1.5, 1.0, 9.0))
    assert Line("a", "b", (-0.5, 0.0, 0.5, 1.0, 1.5), points).barrier() == pytest.approx(0.5)


@pytest.mark.parametrize("n", range(1, 14))
def test_rough_first(n):
    """`rough_first` returns every point once: the ends, then the middle, then points spread over the range."""
    order = rough_first(range(n))
    assert sorted(order) == list(range(n))
    if n > 2:
        assert order[:3] == [0, n - 1, (n - 1) // 2]
    if n == 9:
        assert order[:5] == [0, 8, 4, 2, 6]


def test_points_are_the_models_that_a_merge_makes(scorer, text_runs):
    """Loss and score at the ends, half-way, beyond the ends and in the soup equal those of the merged models."""
    landscape = scan_lines(scorer, points=3, beyond=0.5)
    evaluator = hf_soup.Evaluator(testing.tiny_texts(20, seed=5)).bound(str(text_runs[0]), "text-classification")

    def of(weights):
        model = hf_soup.merge(text_runs[:2], weights=weights).model
        predictions = evaluator.predict(model)
        return float(losses(predictions).mean()), evaluator(model).value

    first = landscape.lines[0]
    assert (first.one, first.other) == ("run-0", "run-1")
    assert first.alphas == (-0.5, 0.0, 0.5, 1.0, 1.5)
    for alpha, point in zip(first.alphas, first.points, strict=True):
        assert tuple(point) == pytest.approx(of([1 - alpha, alpha]), rel=1e-5)
    assert landscape.soup.loss == pytest.approx(
        float(losses(evaluator.predict(hf_soup.merge(text_runs).model)).mean()), rel=1e-6
    )
    assert len(landscape.lines) == 3
    assert landscape.barriers().shape == (3, 3)
    assert landscape.barriers()[0, 1] == first.barrier()
    assert len(landscape.to_pandas()) == 15
    assert "barrier of loss" in landscape.table()


def test_what_was_scored_is_not_run_again(checkpoints, monkeypatch):
    """The same scan in a new scorer runs no model; a scan with more points runs only the new ones."""
    examples = testing.tiny_texts(14, seed=6)
    scan_lines(Scorer(checkpoints, examples), points=3)
    again, ran = Scorer(checkpoints, examples), []
    run = again.evaluator.run
    monkeypatch.setattr(Evaluator, "run", lambda _, model, **options: (ran.append(model), run(model, **options))[1])
    scan_lines(again, points=3)
    assert ran == []
    scan_lines(again, points=5)
    assert len(ran) == 6


def test_ctrl_c_keeps_what_is_done(scorer, monkeypatch):
    """After Ctrl-C the landscape is marked incomplete, and a rough picture can be drawn."""
    point, done = scorer.point, []

    def interrupted(weights):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(weights)
        return point(weights)

    monkeypatch.setattr(scorer, "point", interrupted)
    landscape = scan_lines(scorer, points=9)
    assert not landscape.complete
    assert "run the same call again" in landscape.table()
    assert all(line.points[4] is not None for line in landscape.lines)  # half-way of every pair came first
    assert sum(p is not None for line in landscape.lines for p in line.points) == 6 + 5
    assert landscape.plot("lines")


def test_budget_and_pairs(scorer):
    """A budget limits the number of models, pairs may be chosen, and unknown names are refused with the known ones."""
    landscape = scan_lines(scorer, points=11, budget=6)
    assert not landscape.complete
    assert sum(p is not None for line in landscape.lines for p in line.points) == 6 + 2
    assert [line[:2] for line in scan_lines(scorer, pairs=[("run-2", "run-0")], points=3).lines] == [
        ("run-2", "run-0")
    ]
    with pytest.raises(RecipeError, match="Known: run-0, run-1, run-2"):
        scan_lines(scorer, pairs=[("run-2", "run-x")])
    with pytest.raises(RecipeError, match="2 or more points"):
        scan_lines(scorer, points=1)


def test_the_plane_is_that_of_the_vectors(checkpoints, text_runs):
    """Coordinates of models and averages equal those in an orthonormal basis of the weights."""
    place = plane_coordinates(measure_similarity(checkpoints), ("run-0", "run-1", "run-2"))
    a, b, c = (vector(run) for run in text_runs)
    u = (b - a) / np.linalg.norm(b - a)
    v = (c - a) - ((c - a) @ u) * u
    v /= np.linalg.norm(v)
    for weights, at in (({"run-1": 1.0}, b), ({"run-2": 1.0}, c), ({"run-0": 2.0, "run-2": 1.0}, (2 * a + c) / 3)):
        x, y, off = place(weights)
        assert (x, y) == pytest.approx(((at - a) @ u, (at - a) @ v), rel=1e-7, abs=1e-7)
        assert off == pytest.approx(0, abs=1e-3)
    assert place({"run-0": 1.0})[:2] == pytest.approx((0, 0), abs=1e-9)


def test_grid_points_of_the_plane_are_models(checkpoints, scorer, text_runs):
    """A grid point has the loss of the model at its coordinates; corners, soup and path are marked."""
    plane = scan_plane(scorer, measure_similarity(checkpoints), points=3, path=["run-1", "run-0"])
    assert plane.complete
    assert "distance from the plane" in plane.table()
    assert plane.losses().shape == (3, 3)
    assert [mark.role for mark in plane.marks] == ["corner"] * 3 + ["soup"] + ["path"] * 2
    a, b, c = (vector(text_runs[int(name[-1])]) for name in plane.corners)
    u = (b - a) / np.linalg.norm(b - a)
    v = (c - a) - ((c - a) @ u) * u
    v /= np.linalg.norm(v)
    target = a + plane.x[2] * u + plane.y[1] * v
    weights = np.linalg.lstsq(np.stack([a, b, c], axis=1), target, rcond=None)[0]
    assert sum(weights) == pytest.approx(1, abs=1e-6)
    model = hf_soup.merge([text_runs[int(name[-1])] for name in plane.corners], weights=weights.tolist()).model
    evaluator = hf_soup.Evaluator(testing.tiny_texts(20, seed=5)).bound(str(text_runs[0]), "text-classification")
    assert plane.points[1][2].loss == pytest.approx(float(losses(evaluator.predict(model)).mean()), rel=1e-3)
    assert plane.plot().get_suptitle()


def test_a_plane_needs_three_models(checkpoints, scorer, text_runs):
    """Corners that are not three distinct models, or lie on one line, are refused."""
    similarity = measure_similarity(checkpoints)
    with pytest.raises(RecipeError, match="three models"):
        scan_plane(scorer, similarity, corners=["run-0", "run-1"])
    with pytest.raises(RecipeError, match="three models"):
        scan_plane(scorer, similarity, corners=["run-0", "run-1", "run-1"])
    with pytest.raises(RecipeError, match="three models"):
        scan_plane(scorer, similarity, corners=["run-0", "run-1", "run-2", "run-0"])
    with pytest.raises(RecipeError, match="for the path"):
        scan_plane(scorer, similarity, path=["run-x"])
    same = open_all([text_runs[0], text_runs[0], text_runs[1]])
    with pytest.raises(RecipeError, match="on one line"):
        plane_coordinates(measure_similarity(same), [item.name for item in same])


def test_interactive(checkpoints, scorer):
    """`plot_interactive` draws with plotly; without plotly it raises an error with the line for pip."""
    plane = scan_plane(scorer, measure_similarity(checkpoints), points=3)
    try:
        import plotly  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="pip install"):
            plane.plot_interactive()
    else:
        assert len(plane.plot_interactive().data) == 2


def test_a_function_has_no_points(checkpoints):
    """A function of a model is refused, because a scan needs examples."""
    with pytest.raises(EvaluationError, match="give a data set or an Evaluator"):
        Scorer(checkpoints, lambda model: 1.0)


def test_batchnorm_is_estimated_again_between_models(resnet_runs):
    """With training data a point between models gets statistics of its own; single models keep theirs."""
    examples, opened = testing.tiny_images(12), open_all(resnet_runs)
    plain = Scorer(opened, examples).point({"run-0": 1.0, "run-1": 1.0})
    again = Scorer(opened, examples, batchnorm_data=testing.tiny_images(16, seed=1))
    merged = hf_soup.merge(resnet_runs, batchnorm_data=testing.tiny_images(16, seed=1)).model
    evaluator = hf_soup.Evaluator(examples).bound(str(resnet_runs[0]), "image-classification")
    loss = again.point({"run-0": 1.0, "run-1": 1.0}).loss
    assert loss == pytest.approx(float(losses(evaluator.predict(merged)).mean()), rel=1e-5)
    assert loss != pytest.approx(plain.loss, rel=1e-3)
    assert again.point({"run-0": 1.0}) == Scorer(opened, examples).point({"run-0": 1.0})
    assert math.isfinite(loss)
    assert torch.isfinite(next(merged.parameters())).all()


def test_a_rough_plane_is_no_empty_picture(checkpoints, scorer):
    """A plane cut short by its budget is drawn from the points that were scored."""
    plane = scan_plane(scorer, measure_similarity(checkpoints), points=5, budget=6)
    assert not plane.complete
    drawn = plane.plot().get_axes()[0].collections[0].get_offsets()
    assert len(drawn) == 6


def test_half_way_is_one_point_wherever_it_is_asked_for(scorer):
    """Equal mixtures have one fingerprint, however their weights are written, so that none is run twice."""
    whole, half = {"run-0": 1.0, "run-1": 1.0}, {"run-0": 0.5, "run-1": 0.5}
    points = (whole, half, half | {"run-2": 0.0})
    assert len({scorer.recipe(weights).fingerprint() for weights in points}) == 1
