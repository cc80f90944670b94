"""Independent averages and scores to compare searches with: plain float64 loops over files, and transformers' models.

Nothing in this module averages, runs or scores with hf_soup's code. It works for classifiers like those that
`hf_soup.testing` makes.
"""

import functools
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from hf_soup.metrics.predictions import Predictions
from hf_soup.types import Mixture, Score


read_file = functools.cache(load_file)
read_tokenizer = functools.cache(transformers.AutoTokenizer.from_pretrained)


def averaged_tensors(mixture):
    """The weighted mean of the ingredients' files, tensor by tensor, in the data type of the first file.

    Args:
        mixture (`Mixture` or `Recipe`):
            A mixture whose ingredients are folders.
    """
    files = [read_file(Path(item.source) / "model.safetensors") for item in mixture.ingredients]
    mean = {}
    for name, first in files[0].items():
        row = row_of(mixture, name)
        total = torch.zeros(first.shape, dtype=torch.float64)
        for weight, tensors in zip(row, files, strict=True):
            total += weight * tensors[name].double()
        mean[name] = (total / sum(row)).to(first.dtype)
    return mean


def row_of(mixture, name):
    """The weights of a tensor: those of the longest module prefix that contains it, with or without `bert.`."""
    below = [
        prefix
        for prefix in mixture.weights_by_module
        if not prefix or name.startswith((f"{prefix}.", f"bert.{prefix}."))
    ]
    return mixture.weights_by_module[max(below, key=len)]


def averaged_model(mixture):
    """The transformers model with the averaged tensors."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(mixture.ingredients[0].source)
    model.load_state_dict(averaged_tensors(mixture))
    return model.eval()


def logits_of(mixture, data):
    """The logits of the averaged model on a data set, computed in one batch."""
    tokens = read_tokenizer(mixture.ingredients[0].source)(list(data["text"]), return_tensors="pt", padding=True)
    with torch.no_grad():
        return averaged_model(mixture)(**tokens).logits.numpy()


def right_rows(mixture, data):
    """Whether the most probable class equals the label, for each row."""
    return logits_of(mixture, data).argmax(axis=1) == np.array(data["label"])


def accuracy(mixture, data):
    """The share of rows that are classified correctly."""
    return float(right_rows(mixture, data).mean())


class TrialsByHand:
    """Trials that average and run every mixture in full."""

    modules = ("embeddings", "encoder.layer.0", "encoder.layer.1", "pooler", "classifier")
    heads = ("classifier",)

    def __init__(self, data):
        self.data, self.examples = data, len(data)

    def score(self, mixture, beat=None):
        """Return the accuracy, regardless of the score to beat."""
        return Score("accuracy", accuracy(mixture, self.data), split="validation")

    def map(self, mixtures, beat=None):
        """Score the mixtures one after another."""
        return [self.score(mixture) for mixture in mixtures]

    def logits(self, ingredient):
        """Return the predictions of a single ingredient."""
        logits = logits_of(Mixture.equal([ingredient]), self.data)
        return Predictions(logits, np.array(self.data["label"]), np.arange(self.examples))

    def difference(self, mixture, other):
        """Return `None`: the difference is not known."""

    def lacking(self, ingredient):
        """Return an empty tuple: nothing is lacking."""
        return ()
