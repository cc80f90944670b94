"""Work that is done only once: checks, opening checkpoints, reading headers and weights, loading by an evaluator.

`counting.py` lists the functions that are counted.
"""

import counting
import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three fine-tunes, a base model and a soup of the three."""
    return counting.prepare(tmp_path_factory.mktemp("counts"))


@pytest.fixture(scope="module")
def counts_of(place):
    """The counts of a flow; each flow is run once for all tests."""
    done = {}

    def counts(flow):
        if flow not in done:
            done[flow] = counting.count(flow, place)
        return done[flow]

    return counts


def once(*names):
    """Map each name to a count of one."""
    return dict.fromkeys(names, 1)


def test_a_former_name_is_another_name():
    """The names listed for a counted function differ, so a bulk rename has not overwritten the former names."""
    for names in counting.SEAMS.values():
        assert len(set(names)) == len(names)


RUNS = ("run-0", "run-1", "run-2")


def weights_of(*names):
    """The weight files of checkpoints."""
    return [f"{name}/model.safetensors" for name in names]


def test_calls_are_counted_and_the_functions_put_back(place):
    """Two checks count as two wherever the function was imported, and nothing is counted after the block."""
    import hf_soup

    with counting.counted() as counts:
        hf_soup.check(place.runs)
        hf_soup.check(place.runs)
    hf_soup.check(place.runs)
    assert counts["checks"] == 2
    assert counts.opens_by_folder == dict.fromkeys(RUNS, 2)


@pytest.mark.parametrize("flow", [counting.merge, counting.verify], ids=lambda flow: flow.__name__)
def test_a_merge_checks_once(counts_of, flow):
    """A merge checks its ingredients once and plans once, and so does `verify`."""
    assert (counts_of(flow)["checks"], counts_of(flow)["plans"]) == (1, 1)


def test_a_search_checks_once(counts_of):
    """A search checks its ingredients once, not again for each trial."""
    assert counts_of(counting.greedy)["checks"] == 1


@pytest.mark.parametrize("flow", [counting.merge, counting.greedy], ids=lambda flow: flow.__name__)
def test_a_merge_opens_each_ingredient_once(counts_of, flow):
    """A merge opens each ingredient once, even when it searches."""
    assert counts_of(flow).opens_by_folder == once(*RUNS)


def test_verify_opens_each_ingredient_once(counts_of):
    """`verify` opens the soup and each of its ingredients once."""
    assert counts_of(counting.verify).opens_by_folder == once("soup", *RUNS)


def test_a_check_reads_heads_alone(place, counts_of):
    """A check reads only the weight matrices of the heads, once, in a single pass."""
    counts = counts_of(counting.check)
    assert (counts["head_angles"], counts["angles"]) == (1, 0)
    for run, file in zip(place.runs, weights_of(*RUNS), strict=True):
        assert counts.bytes_by_file[file] == counting.head_bytes(run) < counting.weight_bytes(run) / 10


@pytest.mark.parametrize(
    "flow",
    [counting.check, counting.merge, counting.greedy, counting.analyze],
    ids=lambda flow: flow.__name__,
)
def test_each_header_is_read_once(counts_of, flow):
    """Each flow reads the header of each weight file once."""
    inputs = [*RUNS, "base"] if flow is counting.analyze else RUNS
    assert counts_of(flow).headers_by_file == once(*weights_of(*inputs))


def test_verify_reads_each_header_once(counts_of):
    """`verify` reads the header of each weight file once."""
    assert counts_of(counting.verify).headers_by_file == once(*weights_of("soup", *RUNS))


@pytest.mark.parametrize(
    "flow",
    [
        counting.verify,
        counting.analyze,
        counting.advise,
    ],
    ids=lambda flow: flow.__name__,
)
def test_each_weight_is_read_once(place, counts_of, flow):
    """No tensor of an ingredient is read from its file twice."""
    read = counts_of(flow).bytes_by_file
    for run, file in zip(place.runs, weights_of(*RUNS), strict=True):
        assert read[file] == counting.weight_bytes(run)


@pytest.mark.parametrize(
    "flow",
    [
        counting.analyze,
        counting.analyze_scored,
        counting.advise,
        counting.advise_scored,
    ],
    ids=lambda flow: flow.__name__,
)
def test_angles_take_one_pass(counts_of, flow):
    """Similarities and advice take their inner products from a single pass over the weights."""
    assert counts_of(flow)["angles"] == 1


def test_a_search_loads_its_task_once(counts_of):
    """A search loads its task at most twice, to see whether it fits the models and to evaluate, not for each trial."""
    assert 1 <= counts_of(counting.greedy).loads("task")["text-classification"] <= 2


def test_a_search_loads_its_metrics_once(counts_of):
    """A search loads its metrics once, not again for each trial."""
    assert counts_of(counting.greedy)["metrics"] == 1
