"""Tiny checkpoints whose weights are exact numbers, for golden tests: the same bits on every machine.

The weights are multiples of 1/1024 that numpy draws as integers, because the normal numbers of torch differ in their
last bits from one kind of processor to another. The words that decide are told apart by an embedding made by hand, so
that scores lie between chance and 1 without any training, and logits are so far apart that rounding changes no
decision.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from hf_soup import testing


UNIT = 1024  # a weight is an integer divided by it
SIZE = 8
CONFIG = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
LABELS = ("negative", "positive")
HEAD = torch.tensor([[-0.5, 0.5], [0.5, -0.5]])  # reads the two dimensions of the embedding that hold the sentiment
NOISE = 200  # the most by which a fine-tune differs from the base model, in units


def drawn_state(model: torch.nn.Module, seed: int, largest: int) -> dict[str, torch.Tensor]:
    """The weights of a model drawn as integers of at most `largest`, in units; integer tensors stay as they are."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor
            continue
        integers = rng.integers(-largest, largest + 1, size=tuple(tensor.shape))
        state[name] = torch.from_numpy(np.asarray(integers, dtype=np.float32) / UNIT)
    return state


def save_base(folder: Path) -> Path:
    """A base model that carries the sentiment of words to its pooled output, with a head of noise."""
    model = testing.tiny_text_model(0, labels=LABELS, **CONFIG)
    model.load_state_dict(_base_state(model))
    return testing.save_text_model(model, folder)


def save_run(folder: Path, seed: int, labels: Sequence[str] = LABELS, dtype: str = "float32") -> Path:
    """A fine-tune: the base model with noise of its own, and a head that reads the sentiment.

    Args:
        folder (`Path`):
            Where.
        seed (`int`):
            Of the noise.
        labels (`Sequence[str]`, *optional*):
            Names of the classes; reversed ones come with the rows of the head reversed.
        dtype (`str`, *optional*):
            Of the weights.
    """
    model = testing.tiny_text_model(0, labels=labels, **CONFIG)
    state, noise = _base_state(model), drawn_state(model, seed, NOISE)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            state[name] = tensor + noise[name]
    state["classifier.weight"][:, :2] += HEAD
    if tuple(labels) == LABELS[::-1]:
        for name in ("classifier.weight", "classifier.bias"):
            state[name] = state[name].flip(0)
    model.load_state_dict(state)
    return testing.save_text_model(model.to(getattr(torch, dtype)), folder)


def save_image_run(folder: Path, seed: int) -> Path:
    """A small ResNet, which has BatchNorm, with weights and running statistics of its own."""
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).eval()
    state = drawn_state(model, seed, NOISE)
    for name, tensor in state.items():
        if name.endswith("running_var"):
            state[name] = tensor.abs() + 1
    model.load_state_dict(state)
    return testing.save_image_model(model, folder)


def _base_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = drawn_state(model, 0, 60)
    for name, tensor in state.items():
        if name.endswith("LayerNorm.weight"):
            state[name] = tensor + 1
    embedding = state["bert.embeddings.word_embeddings.weight"]
    embedding *= 4
    for index, word in enumerate(testing.WORDS):
        sentiment = (word in testing.POSITIVE) - (word in testing.NEGATIVE)
        embedding[index, :2] += torch.tensor([sentiment, -sentiment])
    for layer in range(CONFIG["num_hidden_layers"]):
        attention = f"bert.encoder.layer.{layer}.attention"
        state[f"{attention}.self.value.weight"] += 2 * torch.eye(SIZE)
        state[f"{attention}.output.dense.weight"] += 2 * torch.eye(SIZE)
    state["bert.pooler.dense.weight"] += torch.eye(SIZE)
    return state
