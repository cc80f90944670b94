"""Seeds that numpy, scikit-learn or Trainer would refuse are rejected before anything is done, wherever they occur."""

import numpy as np
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.api.cook_checks import check_cook_file
from hf_soup.api.sweep import plan_runs
from hf_soup.data.splits import carve, load_training
from hf_soup.errors import RecipeError
from hf_soup.formats.cook_file import load_cook_file
from hf_soup.metrics.load import load_metrics
from hf_soup.metrics.statistics import resampled
from hf_soup.plugins import load_module
from hf_soup.seeds import LARGEST, check_seed
from hf_soup.selection.select import select
from hf_soup.training.settings import check_settings
from hf_soup.training.space import expand_space


WRONG = (-1, 2**32, 1.0, "0", None, True, 10**5000)
DATA = testing.tiny_texts(20)


@pytest.mark.parametrize("seed", [0, 1, LARGEST, np.int64(7), np.array(3)])
def test_seeds(seed):
    """Non-negative integers of 32 bits, including numpy's, are accepted and become plain integers."""
    assert check_seed(seed) == int(seed)
    assert type(check_seed(seed)) is int


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model in a folder."""
    return str(testing.save_text_model(testing.tiny_text_model(0), tmp_path_factory.mktemp("base") / "base"))


@pytest.mark.parametrize("wrong", WRONG, ids=["-1", "2^32", "1.0", "text", "none", "true", "5000 digits"])
def test_seeds_that_are_none(wrong, base, tmp_path):
    """Merges, draws, folds, splits, resamples and tiny models reject an invalid seed with the same error."""
    metric, sets = load_metrics("accuracy")[0], {"dataset": DATA, "validation": DATA}
    sweep = {**sets, "space": {"seed": [0]}, "output_dir": tmp_path / "runs"}
    for call in (
        lambda: check_seed(wrong),
        lambda: hf_soup.merge([base, base], seed=wrong),
        lambda: expand_space({"seed": [1, 2]}, n_runs=1, seed=wrong),
        lambda: load_training(DATA, seed=wrong),
        lambda: carve(DATA, seed=wrong),
        lambda: resampled(metric, "accuracy", [], seed=wrong),
        lambda: select(None, [], None, holdout=0.5, seed=wrong),
        lambda: plan_runs(base, **sweep, seed=wrong),
        lambda: plan_runs(
            base, DATA, validation=DATA, space={"seed": [0]}, output_dir=tmp_path / "o", init_seed=wrong
        ),
        lambda: testing.tiny_text_model(wrong),
        lambda: testing.tiny_images(4, seed=wrong),
    ):
        with pytest.raises(RecipeError, match=r"seed is a whole number from 0 to 4,294,967,295, not"):
            call()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["seed", "data_seed"])
@pytest.mark.parametrize("wrong", [-1, 2**32, 1.5, True])
def test_seeds_of_runs(name, wrong):
    """A run's own seed is refused when the sweep is planned, not when it is trained."""
    task, metric = load_module("task", "text-classification"), load_metrics("accuracy")[0]
    with pytest.raises(RecipeError, match=f'"{name}" is a whole number from 0'):
        check_settings({name: wrong}, task, None, evaluates=False, metric=metric)


@pytest.mark.parametrize("what", ["sweep.seed", "sweep.init_seed", "merge.seed"])
def test_seeds_of_cook_files(what, tmp_path):
    """An invalid seed in a cook file is rejected before data is loaded or a model is trained."""
    path = tmp_path / "cook.yaml"
    path.write_text(
        "base_model: nowhere\ndata: {path: nowhere}\nsweep: {space: {seed: [0]}}\nmerge: {strategy: uniform}\n"
        f"output_dir: {tmp_path / 'out'}\n"
    )
    with pytest.raises(RecipeError, match=r"seed.* is a whole number from 0"):
        check_cook_file(load_cook_file(path, [f"{what}=-1"]))
