"""For tests, ours and those of extension authors: tiny checkpoints, trials without models, and the contracts.

Every checkpoint is built from a config with random weights; nothing is downloaded. The contract functions raise
`AssertionError` where a method, a strategy or a task breaks what the rest of the package relies on.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from .checkpoints.memory import quiet_transformers
from .evaluation.evaluator import Evaluator
from .metrics.built_in import BUILT_IN
from .metrics.predictions import KINDS, Predictions, losses
from .plugins import asks_for, method_traits, parameters, strategy_traits
from .seeds import check_seed
from .tasks._model_inputs import inputs_of
from .types import Choice, Gradient, Ingredient, Mixture, Rejected, Score, Threshold, gain


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel

    from .tasks import Task

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}

POSITIVE = ("good", "great", "fine", "lovely", "superb", "warm")
NEGATIVE = ("bad", "awful", "poor", "dull", "weak", "cold")
NEUTRAL = ("the", "film", "was", "very", "and", "a", "plot", "cast")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *POSITIVE, *NEGATIVE, *NEUTRAL)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}  # as WORDS has them
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
TINY: dict[str, dict[str, Any]] = {  # by `model_type`
    "bert": {"vocab_size": len(WORDS), "max_position_embeddings": 32, **SMALL},
    "vit": {"image_size": 8, "patch_size": 4, **SMALL},
    "gpt2": {"vocab_size": len(WORDS), "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2, **SPECIAL},
    "bart": {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 32,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 37,
        "decoder_ffn_dim": 37,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 3,
        **BART,
        **SPECIAL,
    },
}


def tiny_text_model(
    seed: int = 0, *, labels: Sequence[str] = ("negative", "positive"), **config: Any
) -> PreTrainedModel:
    """A BERT classifier of about 20,000 random weights.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Of the weights.
        labels (`Sequence[str]`, *optional*):
            Names of its classes.
        config:
            Fields of `BertConfig` to change.
    """
    import transformers

    transformers.set_seed(check_seed(seed))
    settings = transformers.BertConfig(
        **{**TINY["bert"], **config},
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    return transformers.BertForSequenceClassification(settings).eval()


def tiny_image_model(seed: int = 0, *, classes: int = 3, **config: Any) -> PreTrainedModel:
    """A ViT classifier of 8 x 8 images with about 20,000 random weights; arguments as of [`tiny_text_model`]."""
    import transformers

    transformers.set_seed(check_seed(seed))
    settings = transformers.ViTConfig(**{**TINY["vit"], **config, "num_labels": classes})
    return transformers.ViTForImageClassification(settings).eval()


def save_text_model(model: PreTrainedModel, folder: str | Path) -> Path:
    """Save a tiny text model with a tokenizer that knows the words of [`tiny_texts`]."""
    import transformers

    with quiet_transformers():
        model.save_pretrained(folder)
        transformers.BertTokenizer(vocab=_vocabulary()).save_pretrained(folder)
    return Path(folder)


def save_image_model(model: PreTrainedModel, folder: str | Path) -> Path:
    """Save a tiny image model with its image processor."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    with quiet_transformers():
        model.save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return Path(folder)


def tiny_texts(rows: int = 60, seed: int = 0) -> Dataset:
    """Sentences that are good or bad by one of their words, with `label` 0 or 1."""
    import datasets
    import numpy as np

    rng = np.random.default_rng(check_seed(seed))
    labels = rng.integers(2, size=rows).tolist()
    texts = []
    for label in labels:
        words = [*rng.choice(NEUTRAL, size=rng.integers(4, 9)), rng.choice((NEGATIVE, POSITIVE)[label])]
        texts.append(" ".join(rng.permutation(words)))
    classes = datasets.ClassLabel(names=["negative", "positive"])
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def tiny_images(rows: int = 60, classes: int = 3, seed: int = 0) -> Dataset:
    """Images of 8 x 8 pixels with noise, whose brightest band of rows is their class."""
    import datasets
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(check_seed(seed))
    labels = rng.integers(classes, size=rows)
    images = []
    for label in labels:
        pixels = rng.integers(0, 90, size=(8, 8, 3))
        pixels[label * 8 // classes : (label + 1) * 8 // classes] += 160
        images.append(Image.fromarray(pixels.astype(np.uint8)))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features)


class FakeTrials:
    """Trials without models: a function says what a mixture would score, or on which examples it would be right.

    Args:
        score (`Callable[[Mixture], float]`, *optional*):
            Of a mixture.
        right (`Callable[[Mixture], np.ndarray]`, *optional*):
            Instead: on which examples a mixture is right. Their share is the score, and with `beat` examples are run
            one after the other, those first that most ingredients get wrong.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of the metric.
        stop_early (`bool`, *optional*, defaults to `True`):
            Whether a trial stops when it cannot reach its threshold.
        modules (`Sequence[str]`), heads (`Sequence[str]`), lacks (`Sequence[str]`):
            The model's modules from the bottom up, its heads, and what a base model lacks.
        examples (`int`, *optional*, defaults to 100):
            How many there are.
    """

    def __init__(
        self,
        score: Callable[[Mixture], float] | None = None,
        *,
        right: Callable[[Mixture], np.ndarray] | None = None,
        higher_is_better: bool = True,
        stop_early: bool = True,
        modules: Sequence[str] = ("embeddings", "encoder.layer.0", "encoder.layer.1", "classifier"),
        heads: Sequence[str] = ("classifier",),
        lacks: Sequence[str] = (),
        examples: int = 100,
    ):
        self._value_of, self._right, self._higher, self._stop_early = score, right, higher_is_better, stop_early
        self.modules, self.heads, self.lacks, self.examples = tuple(modules), tuple(heads), tuple(lacks), examples
        self._times_wrong: np.ndarray | None = None  # example by example, over the single ingredients
        self.asked: list[Mixture] = []
        self.passes = 0.0  # forward passes over all examples

    @overload
    def score(self, mixture: Mixture) -> Score: ...
    @overload
    def score(self, mixture: Mixture, beat: Threshold) -> Score | Rejected: ...
    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """What the function says, and remember that it was asked."""
        self.asked.append(mixture)
        if self._right is None:
            self.passes += 1
            return self._scored(self._value(mixture))
        right = self._right(mixture)
        if len(mixture.names) == 1:
            wrong = (~right).astype(int)
            self._times_wrong = wrong if self._times_wrong is None else self._times_wrong + wrong
        elif beat is not None and self._stop_early:
            rejected = self._stopped(right, beat)
            if rejected is not None:
                self.passes += rejected.after / len(right)
                return rejected
        self.passes += 1
        return self._scored(int(right.sum()) / len(right))

    def _stopped(self, right: np.ndarray, threshold: Threshold) -> Rejected | None:
        """Run example by example, the hardest first, until too few can still be right."""
        needed = threshold.needed(len(right))
        order = range(len(right)) if self._times_wrong is None else (-self._times_wrong).argsort(kind="stable")
        most = len(right)
        for count, example in enumerate(order, start=1):
            most -= not right[example]
            if most < needed:
                return Rejected(int(most), len(right), count)
        return None

    @overload
    def map(self, mixtures: Sequence[Mixture]) -> list[Score]: ...
    @overload
    def map(self, mixtures: Sequence[Mixture], beat: Threshold) -> list[Score | Rejected]: ...
    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> list[Score] | list[Score | Rejected]:
        """One after the other."""
        if beat is None:
            return [self.score(mixture) for mixture in mixtures]
        return [self.score(mixture, beat) for mixture in mixtures]

    def difference(self, mixture: Mixture, other: Mixture) -> tuple[float, float] | None:
        """Nothing is known of examples."""
        return None

    def lacking(self, ingredient: Ingredient) -> tuple[str, ...]:
        """What a base model lacks."""
        return self.lacks

    def logits(self, ingredient: Ingredient) -> Predictions:
        """Random decisions between two classes, the same for a name."""
        import numpy as np

        rng = np.random.default_rng(list(ingredient.name.encode()))
        rows = np.arange(self.examples)
        return Predictions(rng.normal(size=(self.examples, 2)), rows % 2, rows)

    def ensemble(self, mixture: Mixture) -> Score:
        """As good as the soup."""
        return self._scored(float(self._right(mixture).mean()) if self._right else self._value(mixture))

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """By differences of the score, which counts as the loss (or as its negative)."""
        sign, step = -1 if self._higher else 1, 1e-4
        weights_by_module = {}
        for module in self.modules:
            weights_by_module[module] = mixture.weights_by_module.get(module) or mixture.weights_by_module[""]
        gradient = {}
        for module, weights in weights_by_module.items():
            slopes = []
            for index in range(len(weights)):
                above = self._nudged(mixture, weights_by_module, module, index, step)
                below = self._nudged(mixture, weights_by_module, module, index, -step)
                slopes.append(sign * (above - below) / (2 * step))
            gradient[module] = tuple(slopes)
        return Gradient(sign * self._value(mixture), gradient, 0.0)

    def subset(self, examples: np.ndarray) -> FakeTrials:
        """Every subset is like the whole."""
        return self

    def _nudged(
        self, mixture: Mixture, weights_by_module: dict[str, tuple[float, ...]], module: str, index: int, step: float
    ) -> float:
        weights = list(weights_by_module[module])
        weights[index] += step
        return self._value(Mixture(mixture.ingredients, {**weights_by_module, module: tuple(weights)}))

    def _value(self, mixture: Mixture) -> float:
        if self._value_of is None:
            raise TypeError("FakeTrials(right=...) has no function that gives a score.")
        return self._value_of(mixture)

    def _scored(self, value: float) -> Score:
        return Score("made_up", value, self._higher, split="validation", n=self.examples)


def check_method(function: Callable[..., Any]) -> None:
    """The contract of a method: help, pure, repeatable, shape and type kept, weights relative, copies give the tensor.

    Copies of the base give the base where a method asks for one, copies of any tensor give that tensor where not. What
    `hf_soup.methods` says of `out` and of `elementwise` is checked where a method uses them.

    Args:
        function (`Callable`):
            `f(tensors, weights, *, ...) -> Tensor`.
    """
    import torch

    _check_documented(function)
    with_base = asks_for(function, "base")
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (3,), (4, 5), (0, 2)):
            tensors = [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]
            before = [tensor.clone() for tensor in tensors]
            given = {"base": torch.randn(shape, generator=generator, dtype=dtype)} if with_base else {}
            once, again, doubled = (
                function(iter(tensors), tuple(factor * w for w in (1.0, 2.0, 0.5)), **given) for factor in (1, 1, 2)
            )
            assert once.dtype == dtype, f"{function.__name__} changed the type"
            assert once.shape == torch.Size(shape), f"{function.__name__} changed the shape"
            assert torch.equal(once, again), f"{function.__name__} gave two results for one input"
            assert torch.allclose(once, doubled), f"{function.__name__} does not take weights as relative"
            assert all(map(torch.equal, tensors, before)), f"{function.__name__} changed its inputs"
            copies = [tensors[0].to(torch.bfloat16).to(dtype)] * 3
            given = {"base": copies[0]} if with_base else {}
            same = function(iter(copies), (1.0, 1.0, 1.0), **given)
            assert torch.equal(same, copies[0]), f"{function.__name__} of copies"
    if asks_for(function, "out") or method_traits(function).elementwise:
        _check_pieces(function)


def _check_pieces(function: Callable[..., Any]) -> None:
    """What a method promises that asks for `out` or declares itself elementwise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(20, generator=generator).to(torch.bfloat16) for _ in range(3)]
    wide, weights = [tensor.float() for tensor in tensors], (1.0, 2.0, 0.5)
    given = {"base": wide[0] * 2} if asks_for(function, "base") else {}
    whole = function(iter(wide), weights, **given)
    parts = [
        function((tensor[part] for tensor in wide), weights, **{key: value[part] for key, value in given.items()})
        for part in (slice(0, 7), slice(7, 20))
    ]
    assert torch.equal(torch.cat(parts), whole), f"{function.__name__} does not work in pieces"
    if asks_for(function, "out"):
        buffer, out = torch.empty(20), torch.empty(20)
        in_one_buffer = (tensor if index == 0 else buffer.copy_(tensor) for index, tensor in enumerate(tensors))
        result = function(in_one_buffer, weights, out=out)
        assert result is out, f"{function.__name__} does not return `out`"
        assert torch.equal(result, whole), f"{function.__name__} keeps tensors, or does not widen the first to `out`"
        spoiled = [torch.full((20,), torch.nan) if index == 1 else tensor for index, tensor in enumerate(wide)]
        assert function(iter(spoiled), weights).isnan().all(), f"{function.__name__} hides NaN"


def check_strategy(function: Callable[..., Mixture | Choice]) -> None:
    """The contract of a strategy: help, finite weights with a positive sum, no ingredient of its own invention, the
    same mixture in any order of arguments, and never worse than the best single ingredient where it promises that.

    Args:
        function (`Callable`):
            `f(ingredients, trials, *, ...) -> Mixture | Choice`.
    """
    _check_documented(function)
    name = function.__name__
    items = tuple(Ingredient(f"run-{index}", f"runs/run-{index}") for index in range(5))
    base = Ingredient("start", "runs/start")

    def choose(order: Sequence[Ingredient], *, higher_is_better: bool = True) -> Mixture:
        options: dict[str, Any] = {}
        if asks_for(function, "base"):
            options["base"] = base
        if "weights" in parameters(function):
            options["weights"] = {item.name: items.index(item) + 1 for item in order}
        result = function(order, FakeTrials(_made_up_score, higher_is_better=higher_is_better), **options)
        mixture = result.mixture if isinstance(result, Choice) else result
        assert isinstance(mixture, Mixture), f"{name} returns neither a mixture nor a choice"
        assert all(item in (*items, base) for item in mixture.ingredients), f"{name} invented an ingredient"
        return mixture

    for higher in (True, False):
        mixture = choose(items, higher_is_better=higher)
        weights = _weights_by_place(mixture, name)
        for order in (items[::-1], items[2:] + items[:2]):
            again = _weights_by_place(choose(order, higher_is_better=higher), name)
            assert weights == again, f"{name} depends on the order of its ingredients"
        if strategy_traits(function).never_worse:
            for item in items:
                change = gain(_made_up_score(mixture), _made_up_score(Mixture.equal([item])), higher)
                assert change >= 0, f"{name} promises never to be worse than the best single ingredient"
    single = choose(items[:1])
    assert all(item in (items[0], base) for item in single.ingredients), f"{name} of one ingredient"


def _made_up_score(mixture: Mixture) -> float:
    """A score with ties among the ingredients, and a bonus for mixing."""
    values = [int(name[-1]) % 3 if name[-1].isdecimal() else 1 for name in mixture.names]
    total = 0.0
    for weights in mixture.weights_by_module.values():
        shares = [weight / sum(weights) for weight in weights]
        total += sum(share * value for share, value in zip(shares, values, strict=True))
        total += 0.3 * sum(share * (1 - share) for share in shares)
    return round(total / len(mixture.weights_by_module), 6)


def _weights_by_place(mixture: Mixture, name: str) -> dict[tuple[str, str], float]:
    """(Module prefix, ingredient) -> weight, of those that have one."""
    weights = {}
    for prefix, of_module in mixture.weights_by_module.items():
        assert all(map(math.isfinite, of_module)), f"{name} gives a weight that is not finite"
        assert sum(of_module) > 0, f"{name} gives weights whose sum is not positive"
        for ingredient, weight in zip(mixture.names, of_module, strict=True):
            if weight:
                weights[prefix, ingredient] = weight
    return weights


def example_of(task: Task) -> Dataset:
    """The few rows that a task shows itself on; a colour stands for an image of it."""
    import datasets
    from PIL import Image

    columns = dict(task.EXAMPLE)
    if "image" in columns:
        columns["image"] = [Image.new("RGB", (8, 8), colour) for colour in columns["image"]]
    return datasets.Dataset.from_dict(columns)


def model_for(task: Task, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """A tiny model with the head that a task's example needs, and its tokenizer or image processor."""
    import transformers
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    data = example_of(task)
    head = task.head(data, task.label_column(data, None))
    transformers.set_seed(check_seed(seed))
    config = transformers.AutoConfig.for_model(task.EXAMPLE_MODEL, **TINY[task.EXAMPLE_MODEL], **head)
    model = getattr(transformers, task.AUTO_CLASS).from_config(config).eval()
    if model.main_input_name == "pixel_values":
        return model, ViTImageProcessorPil(size={"height": 8, "width": 8})
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if task.EXAMPLE_MODEL == "bert" else [])]
    return model, transformers.BertTokenizer(vocab=_vocabulary(), model_max_length=16, model_input_names=inputs)


def save_model_for(task: Task, folder: str | Path, seed: int = 0) -> Path:
    """Save what [`model_for`] makes: a tiny model for a task with its tokenizer or image processor."""
    with quiet_transformers():
        for part in model_for(task, seed):
            part.save_pretrained(folder)
    return Path(folder)


def check_task(task: Task) -> None:
    """The contract of a task: its example is scored whole, in any batches and order, with the loss of the model.

    Args:
        task (`ModuleType`):
            A file of `hf_soup.tasks`, or one of an extension author's.
    """
    import numpy as np
    import torch
    import transformers

    name = task.__name__.rsplit(".", 1)[-1]
    assert task.__doc__, f"{name} does not say what it is"
    assert hasattr(transformers, task.AUTO_CLASS), f"{name}: transformers has no {task.AUTO_CLASS}"
    assert task.KIND in KINDS, f"{name} gives {task.KIND}, which is none of {', '.join(KINDS)}"
    assert task.KIND in BUILT_IN[task.METRIC].kinds, f"{name}: {task.METRIC} is not defined for {task.KIND}"
    (model, processing_class), data = model_for(task), example_of(task)
    config = type(model.config).from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
    assert task.fits(config), f"{name} does not fit its own example"

    def run(rows: Dataset, batch_size: int | None = None) -> Predictions:
        evaluator = Evaluator(
            rows, task=name.replace("_", "-"), processing_class=processing_class, batch_size=batch_size
        )
        return evaluator.predict(model)

    whole = run(data)
    assert whole.kind == task.KIND, f"{name} gives another kind than it says"
    assert len(whole.logits) == len(whole.labels) == len(whole.rows), f"{name}: an item has no label, or no row"
    assert set(whole.rows.tolist()) == set(range(len(data))), f"{name} leaves rows out"
    assert (np.diff(whole.rows) >= 0).all(), f"{name} is not in the order of the data"
    alone = run(data, batch_size=1)
    assert np.allclose(whole.logits, alone.logits, atol=1e-5), f"{name} depends on what else is in a batch"
    back = run(data.select(range(len(data))[::-1])).take(np.arange(len(data))[::-1])
    assert np.allclose(whole.logits, back.logits, atol=1e-5), f"{name} depends on the order of the data"
    assert np.array_equal(whole.labels, back.labels), f"{name} gives labels to other rows"
    label = task.label_column(data, None)
    right = task.labels(data, label, model.config)
    inputs = inputs_of(model)
    encoded = task.encode(data, processing_class, task.columns(data, None, label), right, inputs)
    batch = task.collator(processing_class, inputs)(encoded.__getitems__(list(range(len(data)))))
    with torch.no_grad():
        theirs = float(model(**batch).loss)
    assert abs(losses(whole).mean() - theirs) < 1e-4, f"{name} has another loss than its model: {theirs}"


def _check_documented(function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    assert text, f"{function.__name__} has no docstring, and its first line is its help"
    for name in parameters(function):
        assert f"{name} (" in text, f"{function.__name__} does not document {name}"


def _vocabulary() -> dict[str, int]:
    return {word: index for index, word in enumerate(WORDS)}
