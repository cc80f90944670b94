"""A model that is refilled repeatedly has the same bits as one that is made from scratch."""

import pytest
import torch
import transformers

from hf_soup import testing
from hf_soup.checkpoints.memory import tensors_on_disk
from hf_soup.checkpoints.source import open_all
from hf_soup.merging.agreement import Agreement
from hf_soup.merging.in_memory import cook_in_memory
from hf_soup.merging.refill import Refill
from hf_soup.merging.setup import set_up
from hf_soup.plugins import load_module
from hf_soup.types import Mixture


def bert(seed):
    """A model in float32."""
    return testing.tiny_text_model(seed)


def half(seed):
    """A model in bfloat16, which is summed in float32."""
    return testing.tiny_text_model(seed).to(torch.bfloat16)


def mixed(seed):
    """A model in bfloat16 or float32, so that the type of the sum changes with the ingredients."""
    return testing.tiny_text_model(seed).to(torch.bfloat16 if seed % 2 else torch.float32)


def tied(seed):
    """A model with one tensor under two names."""
    transformers.set_seed(seed)
    settings = transformers.AutoConfig.for_model("gpt2", **testing.TINY["gpt2"])
    return transformers.GPT2LMHeadModel(settings).eval()


def counting(seed):
    """A model with BatchNorm, whose batch counter is an integer."""
    transformers.set_seed(seed)
    settings = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=3)
    return transformers.ResNetForImageClassification(settings).eval()


def renamed(seed):
    """A mixture of experts, whose tensors have other names on disk than in memory."""
    transformers.set_seed(seed)
    settings = transformers.MixtralConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    return transformers.MixtralForCausalLM(settings).eval()


# Ingredients and weights: a greedy search, removals, other weights, a single ingredient and a repetition.
SEARCH = [
    {"0": 1},
    {"1": 1},
    {"0": 1, "1": 1},
    {"0": 1, "1": 1, "2": 1},
    {"0": 1, "1": 1, "3": 1},
    {"0": 1, "1": 1, "3": 1, "2": 1},
    {"0": 1, "1": 1, "3": 1, "2": 0.25},
    {"0": 1, "3": 1, "2": 1},
    {"0": 0.3, "3": 0.1, "2": 0.6},
    {"0": 0.3, "3": 0.1, "1": 0.6},
    {"0": 0.3, "3": 0.1, "1": 0.6, "2": -0.5},
    {"2": 1},
    {"0": 1, "1": 1, "2": 1, "3": 1},
]


def mixtures(items, modules):
    """The search above, followed by weights by module."""
    by_name = {str(index): item.ingredient for index, item in enumerate(items)}
    for weights in SEARCH:
        yield Mixture([by_name[name] for name in weights], tuple(weights.values()))
    three = [item.ingredient for item in items[:3]]
    for row in ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)):
        yield Mixture(three, {"": (1, 1, 0), modules[0]: row})
        yield Mixture(three, {"": (1, 1, 0), modules[0]: row, modules[1]: (1, 1, 1)})


def plan_of(setup, indices):
    """The plan of the equal mean of some candidates, with these candidates."""
    chosen = [setup.candidates[index] for index in indices]
    return setup.plan(Mixture.equal([item.ingredient for item in chosen])), chosen


@pytest.mark.parametrize("make", [bert, half, mixed, tied, counting, renamed])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_model_that_is_filled_again_is_the_one_made_from_scratch(make, normalize):
    """After each step of a search, a refilled model has the same bits as one made from scratch."""
    items = open_all([make(seed) for seed in range(4)])
    modules = {"bert": ("classifier", "encoder.layer.1"), "gpt2": ("h.0", "wte"), "resnet": ("classifier", "embedder")}
    modules = modules.get(items[0].config["model_type"], ("lm_head", "embed_tokens"))
    setup = set_up(items, Agreement(), params={} if normalize else {"normalize": False})
    refill = Refill()
    for mixture in mixtures(items, modules):
        plan, chosen = setup.plan(mixture), setup.checkpoints_of(mixture)
        filled, scratch = tensors_on_disk(refill.fill(plan, chosen)), tensors_on_disk(cook_in_memory(plan, chosen))
        assert filled.keys() == scratch.keys()
        for name in filled:
            assert filled[name].dtype == scratch[name].dtype
            assert torch.equal(filled[name], scratch[name]), (name, mixture.weights)


def test_a_greedy_trial_reads_one_ingredient():
    """A trial reads one ingredient, or two if it follows a trial whose ingredient was kept."""
    items = open_all([testing.tiny_text_model(seed) for seed in range(8)])
    setup, n_tensors = set_up(items, Agreement()), len(items[0].specs)
    refill, reads = Refill(), []
    for indices in ([7], [0], [0, 1], [0, 2], [0, 3], [0, 3, 4], [0, 3, 5], [0, 3, 5, 6], [0, 3, 5, 7], [0, 3, 5, 2]):
        before = refill.reads
        refill.fill(*plan_of(setup, indices))
        reads.append((refill.reads - before) / n_tensors)
    assert reads == [1, 1, 2, 1, 1, 2, 1, 2, 1, 1]


def test_batches_are_as_large_as_asked_for(monkeypatch):
    """`first` gives small batches for its rows only, and the other batches have the requested size."""
    import numpy as np

    from hf_soup import Evaluator
    from hf_soup.evaluation import running

    sizes, plain = [], running.run_batch

    def spy(task, model, encoded, rows, *rest):
        sizes.append(len(rows))
        return plain(task, model, encoded, rows, *rest)

    monkeypatch.setattr(running, "run_batch", spy)
    model, processing_class = testing.model_for(load_module("task", "text-classification"))
    evaluator = Evaluator(testing.tiny_texts(60), batch_size=16, processing_class=processing_class)
    evaluator.run(model, first=np.arange(6))
    assert sizes == [4, 2, 16, 16, 16, 6]


def test_only_what_differs_is_made():
    """If only one module's weights change, only tensors of that module are read."""
    items = open_all([testing.tiny_text_model(seed) for seed in range(2)])
    setup, ingredients = set_up(items, Agreement()), [item.ingredient for item in items]
    refill = Refill()
    for rows in ({"": (1, 0), "classifier": (1, 0)}, {"": (1, 0), "classifier": (1, 1)}):
        before = refill.reads
        refill.fill(setup.plan(Mixture(ingredients, rows)), items)
    assert refill.reads - before == 2 * 2  # weight and bias of both ingredients


def test_an_interrupted_filling_is_never_taken_for_whole(monkeypatch):
    """After an interrupted refill, the next one recomputes every tensor that may have been changed."""
    from hf_soup.merging import refill as refill_module

    setup = set_up(open_all([testing.tiny_text_model(seed) for seed in range(4)]), Agreement())
    refill, blend = Refill(), refill_module.blend
    for indices in ([0], [0, 1], [0, 2]):
        refill.fill(*plan_of(setup, indices))

    def stops(plan, checkpoints, sink, **options):
        def some(name, start, content):
            if "classifier" in name:
                raise KeyboardInterrupt
            sink(name, start, memoryview(bytearray(len(content))))

        return blend(plan, checkpoints, some, **options)

    for indices in ([0, 2, 3], [0, 2, 1]):
        monkeypatch.setattr(refill_module, "blend", stops)
        with pytest.raises(KeyboardInterrupt):
            refill.fill(*plan_of(setup, indices))
        monkeypatch.setattr(refill_module, "blend", blend)
        plan, chosen = plan_of(setup, [0, 2, 3])
        filled, scratch = tensors_on_disk(refill.fill(plan, chosen)), tensors_on_disk(cook_in_memory(plan, chosen))
        assert all(torch.equal(filled[name], scratch[name]) for name in scratch)
