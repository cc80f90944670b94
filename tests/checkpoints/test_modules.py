"""Module prefixes match complete components, with or without the model's own prefix, and the longest one wins."""

import pytest

from hf_soup.checkpoints.modules import assign_weights, group, list_modules, own_prefix
from hf_soup.checkpoints.reader import TensorSpec
from hf_soup.errors import RecipeError


BERT = [
    "bert.embeddings.word_embeddings.weight",
    *[f"bert.encoder.layer.{n}.output.dense.weight" for n in (0, 1, 10)],
    "bert.pooler.dense.weight",
    "classifier.weight",
]


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (BERT, "bert"),
        ([name.removeprefix("bert.") for name in BERT[:-1]], ""),
        (["encoder.block.0.w", "encoder.norm.w", "decoder.block.0.w", "decoder.norm.w", "shared.w"], ""),
        (["model.layers.0.w", "model.norm.w", "lm_head.w"], "model"),
        (["layers.0.w", "norm.w"], ""),
        ([*(f"resnet.stages.{n}.w" for n in range(20)), "resnet.embedder.w", "classifier.1.w"], "resnet"),
        (["weight", "bias"], ""),
    ],
)
def test_own_prefix(names, prefix):
    """The prefix of a body is found from the names alone; encoder-decoders and bare bodies have none."""
    assert own_prefix(names) == prefix


def test_groups_end_with_the_first_number():
    """A layer is one group; other tensors are grouped by their first component."""
    assert [group(name, "bert") for name in BERT] == [
        "embeddings",
        "encoder.layer.0",
        "encoder.layer.1",
        "encoder.layer.10",
        "pooler",
        "classifier",
    ]


def test_modules_are_listed_with_their_sizes():
    """Every tensor is in one module, layers are in numeric order, and the sizes add up."""
    specs = [TensorSpec(name, (2, 3), "float32") for name in BERT] + [TensorSpec("bert.ids", (9,), "int64")]
    found = list_modules(specs)
    layers = [f"encoder.layer.{n}" for n in (0, 1, 10)]
    assert [module.name for module in found] == ["classifier", "embeddings", *layers, "ids", "pooler"]
    assert sum(module.tensors for module in found) == len(specs)
    assert sum(module.parameters for module in found) == 6 * len(BERT)
    assert all(assign_weights(BERT, {"": (1.0,), module.name: (2.0,)}) for module in found if module.name != "ids")


def test_the_longest_prefix_wins_with_or_without_the_models_own():
    """`encoder.layer.1` matches `bert.encoder.layer.1` but not layer 10, and beats `encoder` and the default."""
    rows = {"": (1.0, 1.0), "bert.encoder": (2.0, 1.0), "encoder.layer.1": (3.0, 1.0), "classifier": (1.0, 0.0)}
    given = {name: row[0] if row[1] else 0.0 for name, row in assign_weights(BERT, rows).items()}
    assert list(given.values()) == [1.0, 2.0, 3.0, 2.0, 1.0, 0.0]


def test_longer_is_by_components_not_by_letters():
    """The length of a prefix does not count the model's own prefix, and two rows for one module are refused."""
    rows = {"": (1.0,), "bert.encoder.layer": (2.0,), "encoder.layer.1": (3.0,)}
    assert [row[0] for row in assign_weights(BERT, rows).values()] == [1.0, 2.0, 3.0, 2.0, 1.0, 1.0]
    with pytest.raises(RecipeError, match=r'"bert\.encoder" and "encoder" are the same'):
        assign_weights(BERT, {"": (1.0,), "bert.encoder": (2.0,), "encoder": (3.0,)})
    assert [row[0] for row in assign_weights(BERT, {"": (1.0,), "bert": (2.0,)}).values()] == [2.0] * 5 + [1.0]


def test_a_prefix_that_matches_nothing_is_an_error():
    """A prefix that matches no tensor raises a RecipeError with the nearest module."""
    with pytest.raises(RecipeError, match='"clasifier"; did you mean "classifier"'):
        assign_weights(BERT, {"": (1.0,), "clasifier": (1.0,)})


def test_tensors_without_weights_are_an_error():
    """Rows that leave out tensors raise a RecipeError unless there is a row for the rest."""
    with pytest.raises(RecipeError, match='give a row for ""'):
        assign_weights(BERT, {"bert": (1.0,)})
