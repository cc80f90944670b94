"""Memory of methods that need whole tensors."""

import threading
import time

import pytest
import torch

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError
from hf_soup.merging.budget import MemoryBudget, read_size


def run_together(sizes, budget):
    """The largest sum of sizes that threads used at once."""
    used, most = 0, 0
    lock = threading.Lock()

    def work(size):
        nonlocal used, most
        with budget.using(size):
            with lock:
                used += size
                most = max(most, used)
            time.sleep(0.01)
            with lock:
                used -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    return most


def test_threads_stay_within_the_budget():
    """Small tensors are combined at the same time, as far as the budget allows, and all are done in the end."""
    assert 30 <= run_together([10] * 12, MemoryBudget(35)) <= 35


def test_a_tensor_beyond_the_budget_is_alone():
    """A tensor that needs more than the whole budget is combined while no other is."""
    assert run_together([100, 10, 10, 100], MemoryBudget(20)) == 100


@pytest.mark.parametrize(("size", "expected"), [("8GB", 8 * 10**9), ("1.5 kb", 1500), (300, 300), ("7", 7), ("2B", 2)])
def test_sizes(size, expected):
    """A size is a number of bytes, or has a unit."""
    assert read_size(size) == expected


@pytest.mark.parametrize("size", ["much", "-1", True, "8 gigabytes", -5])
def test_other_sizes_are_refused(size):
    """Anything else raises a RecipeError before an ingredient is opened."""
    with pytest.raises(RecipeError, match="max_memory is a number of bytes or a size"):
        hf_soup.merge(["nowhere"], max_memory=size)


def test_the_plan_says_what_is_used(tmp_path):
    """The table of a plan names the largest tensor that is combined whole; the result does not depend on memory."""
    models = [testing.save_text_model(testing.tiny_text_model(seed), tmp_path / f"m{seed}") for seed in range(3)]
    options = {"method": "ties", "base_model": models[0]}
    tight = hf_soup.merge(models[1:], max_memory="1KB", **options)
    assert "it is combined on one thread" in tight.plan.table()
    roomy = hf_soup.merge(models[1:], **options)
    assert "one thread" not in roomy.plan.table()
    assert "The largest tensor is combined whole and takes" in roomy.plan.table()
    assert "combined whole" not in hf_soup.merge(models[1:]).plan.table()
    one, two = tight.model.state_dict(), roomy.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
