"""The examples of an evaluator as model inputs: encoded, padded and in batches.

Models are only run here to test whether padding changes their outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..data.columns import UNSCORED
from .encoding import Encoded, encode, of_one_length
from .models import config_of, inputs_for, model_for
from .padding import check_padding, needs_padding
from .running import put_on_device


if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from .evaluator import Evaluator


class EncodedExamples:
    """Encoded examples of an evaluator, which models with the same labels and inputs share.

    Args:
        evaluator ([`Evaluator`]):
            Evaluator with the data and the processing class.
    """

    def __init__(self, evaluator: Evaluator):
        self._evaluator = evaluator
        self._encoded: dict[object, Encoded] = {}  # by the labels and inputs of the model
        self._padding: dict[object, bool] = {}  # by the class and configuration of the model

    def encoded(self, model: PreTrainedModel) -> Encoded:
        """The examples as model inputs, with their batches."""
        bound = self._evaluator.for_model(model)
        if bound is not self._evaluator:
            return bound.examples.encoded(model)
        model = model_for(bound.task_module, model)
        config, inputs = config_of(model), inputs_for(bound.task_module, model)
        # Everything about a model that determines the encoding: the order of its classes, and its inputs.
        label_names = tuple(sorted(dict(config.id2label or {}).items()))
        key = (label_names, config.num_labels, inputs)
        if key not in self._encoded:
            self._encoded[key] = encode(
                bound.dataset,
                bound.task_module,
                config,
                inputs,
                processing_class=bound.processing_class,
                label_column=bound.label_column,
                text_columns=bound.text_columns,
                batch_size=bound.batch_size,
                split=bound.split,
            )
        return self._encoded[key]

    def padding_matters(self, model: PreTrainedModel, encoded: Encoded) -> bool:
        """Whether rows of different lengths have to be run separately; measured once for each architecture."""
        if not needs_padding(encoded):
            return False
        key = (type(model), model.config.to_json_string(use_diff=False))
        if key in self._padding:
            return self._padding[key]
        task = self._evaluator.for_model(model).task_module
        check = check_padding(task, model, encoded, put_on_device(model, self._evaluator.device))
        if check.tells:  # a constant model says nothing about others of the same class
            self._padding[key] = check.matters
        return check.matters

    def shuffled(self, model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
        """All examples as model inputs without labels, shuffled, in batches of about the same size.

        The order is the same in every call. No batch is a small remainder, because the batches serve to estimate
        statistics.

        Args:
            model (`transformers.PreTrainedModel`):
                Model that the inputs are for.
        """
        import numpy as np

        encoded = self.encoded(model)
        names = inputs_for(self._evaluator.for_model(model).task_module, model).names
        order = np.random.default_rng(0).permutation(len(self._evaluator.dataset))
        batch_size = self._evaluator.batch_size or self._evaluator.for_model(model).task_module.BATCH_SIZE
        batch_count = -(-len(order) // batch_size)  # rounded up
        for rows in np.array_split(order, batch_count):
            batch = encoded.batch_of(rows)
            inputs = {name: value for name, value in batch.items() if name in names}
            if encoded.decodes_images:  # leave out unreadable images
                is_readable = batch["readable"] if "readable" in batch else batch["labels"] != UNSCORED
                for name in inputs:
                    if name.startswith("pixel"):  # others are the sentences of classes
                        inputs[name] = inputs[name][is_readable]
            yield inputs

    def batches_of(self, model: PreTrainedModel, rows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """Some examples as model inputs with labels: one batch, or several if padding would matter.

        Args:
            model (`transformers.PreTrainedModel`):
                Model that the inputs are for.
            rows (`np.ndarray`):
                Row numbers in the data set.
        """
        encoded = self.encoded(model)
        chosen = encoded._replace(batches=(rows,))
        if self.padding_matters(model, encoded):
            sorted_rows = rows[(-encoded.lengths[rows]).argsort(kind="stable")]
            chosen = of_one_length(encoded._replace(batches=(sorted_rows,)))
        return [encoded.batch_of(batch) for batch in chosen.batches]
