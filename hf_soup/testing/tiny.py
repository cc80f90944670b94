"""Tiny checkpoints and data sets, built from configs with random weights without downloads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.memory import quiet_transformers
from ..checkpoints.staging import temporary_folder
from ..seeds import check_seed
from ..tasks._model_inputs import auto_class
from ..tasks._sentences import AUTO_CLASS as SENTENCES
from ..tasks._sentences import SentenceSettings


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..tasks import Task

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}

POSITIVE = ("good", "great", "fine", "lovely", "superb", "warm")
NEGATIVE = ("bad", "awful", "poor", "dull", "weak", "cold")
NEUTRAL = ("the", "film", "was", "very", "and", "a", "plot", "cast")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *POSITIVE, *NEGATIVE, *NEUTRAL)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}  # their indices in WORDS
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
TINY: dict[str, dict[str, Any]] = {  # by `model_type`
    "bert": {"vocab_size": len(WORDS), "max_position_embeddings": 32, **SMALL},
    "vit": {"image_size": 8, "patch_size": 4, **SMALL},
    "yolos": {"image_size": (8, 8), "patch_size": 4, "num_detection_tokens": 5, **SMALL},
    "segformer": {
        "num_encoder_blocks": 2,
        "depths": (1, 1),
        "sr_ratios": (2, 1),
        "hidden_sizes": (8, 16),
        "patch_sizes": (3, 3),
        "strides": (2, 2),
        "num_attention_heads": (1, 2),
        "mlp_ratios": (2, 2),
        "decoder_hidden_size": 16,
    },
    "gpt2": {"vocab_size": len(WORDS), "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2, **SPECIAL},
    "wav2vec2": {
        "conv_dim": (16, 16),
        "conv_kernel": (8, 4),
        "conv_stride": (4, 2),
        "num_feat_extract_layers": 2,
        "feat_extract_norm": "layer",  # which masks hide padding from
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": 16,
        "mask_time_prob": 0.0,
        **SMALL,
    },
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
    """A BERT classifier with about 20,000 random weights.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Random seed of the weights.
        labels (`Sequence[str]`, *optional*):
            Names of the classes.
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
    """A ViT classifier of 8 x 8 images with about 20,000 random weights; arguments as for [`tiny_text_model`]."""
    import transformers

    transformers.set_seed(check_seed(seed))
    # A dict, because a caller may change a field that is also in TINY.
    settings = transformers.ViTConfig(**{**TINY["vit"], **config, "num_labels": classes})
    return transformers.ViTForImageClassification(settings).eval()


def tiny_sentence_model(seed: int = 0) -> Any:
    """A SentenceTransformer of a tiny BERT and the mean of its outputs; seed as for [`tiny_text_model`]."""
    import sentence_transformers
    import transformers

    with temporary_folder() as folder:
        transformers.set_seed(check_seed(seed))
        save_text_model(transformers.BertModel(transformers.BertConfig(**TINY["bert"])), folder)
        with quiet_transformers():
            return sentence_transformers.SentenceTransformer(str(folder), device="cpu").eval()


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
    """Sentences with one good or bad word, and `label` 1 or 0."""
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
    """Noisy images of 8 x 8 pixels; the position of the brightest band of rows is the class."""
    import datasets
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(check_seed(seed))
    labels = rng.integers(classes, size=rows)
    images = []
    for label in labels:
        pixels = rng.integers(0, 90, size=(8, 8, 3))
        # The height is divided among the classes; with the noise below 90, the sum stays below 256.
        pixels[label * 8 // classes : (label + 1) * 8 // classes] += 160
        images.append(Image.fromarray(pixels.astype(np.uint8)))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features)


def example_of(task: Task) -> Dataset:
    """The example rows of a task, with images for colours."""
    import datasets
    from PIL import Image

    columns = dict(task.EXAMPLE)
    for name, mode in (("image", "RGB"), ("mask", "L")):
        if name in columns:
            columns[name] = [Image.new(mode, (8, 8), colour) for colour in columns[name]]
    return datasets.Dataset.from_dict(columns)


def model_for(task: Task, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """A tiny model with the head that a task's example needs, and its tokenizer or image processor."""
    import transformers

    data = example_of(task)
    head = task.head(data, task.label_column(data, None))
    transformers.set_seed(check_seed(seed))
    if task.AUTO_CLASS == SENTENCES:
        return tiny_sentence_model(seed), SentenceSettings({})
    config = transformers.AutoConfig.for_model(task.EXAMPLE_MODEL, **_fields_of(task.EXAMPLE_MODEL), **head)
    model = auto_class(task.AUTO_CLASS, config).from_config(config).eval()
    if task.EXAMPLE_MODEL == "clip":
        return model, transformers.CLIPProcessor(_image_processor("clip"), _words())
    if model.main_input_name == "pixel_values":
        return model, _image_processor(task.EXAMPLE_MODEL)
    if model.main_input_name == "input_values":
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
        if "AutoModelForCTC" not in task.AUTO_CLASS:
            return model, extractor
        return model, transformers.Wav2Vec2Processor(extractor, _speller())
    inputs = ["input_ids", "attention_mask"]
    if task.EXAMPLE_MODEL == "bert":
        inputs.append("token_type_ids")  # only this model takes them
    return model, _words(inputs)


def save_model_for(task: Task, folder: str | Path, seed: int = 0) -> Path:
    """Save a tiny model for a task with its tokenizer or image processor, as made by [`model_for`]."""
    with quiet_transformers():
        for part in model_for(task, seed):
            part.save_pretrained(folder)
    return Path(folder)


def _fields_of(model_type: str) -> dict[str, Any]:
    """Fields of the configuration of a tiny model."""
    if model_type == "clip":
        text = {**TINY["bert"], **SPECIAL, "projection_dim": 16}
        return {"text_config": text, "vision_config": {**TINY["vit"], "projection_dim": 16}, "projection_dim": 16}
    return TINY[model_type]


def _words(inputs: Sequence[str] = ("input_ids", "attention_mask")) -> Any:
    """A tokenizer of words, for models with these inputs."""
    import transformers

    return transformers.BertTokenizer(vocab=_vocabulary(), model_max_length=16, model_input_names=list(inputs))


def _image_processor(model_type: str) -> Any:
    """An image processor of 8 x 8 images for a type of model."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    if model_type == "clip":
        crop = {"height": 8, "width": 8}
        return CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=crop)
    classes = {"segformer": SegformerImageProcessorPil, "yolos": YolosImageProcessorPil}
    return classes.get(model_type, ViTImageProcessorPil)(size={"height": 8, "width": 8})


def _speller() -> Any:
    """A tokenizer of capital letters, as models with CTC have it."""
    import transformers

    letters = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    with temporary_folder() as folder:
        path = folder / "vocab.json"
        path.write_text(json.dumps({letter: number for number, letter in enumerate(letters)}), encoding="utf-8")
        return transformers.Wav2Vec2CTCTokenizer(str(path))


def _vocabulary() -> dict[str, int]:
    """Ids by word, for a tokenizer."""
    return {word: index for index, word in enumerate(WORDS)}
