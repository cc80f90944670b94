"""The linear probe: the body's outputs are computed once for each example, and the head is the same."""

import numpy as np
import pytest
import torch
import transformers

from hf_soup.training.probe import RememberedOutputs, _frozen_body


TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
TEXT |= {"max_position_embeddings": 20, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1}
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "n_positions": 20, "num_labels": 3}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
BART |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 30, "max_position_embeddings": 20}
VIT = {key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
MODELS = {  # name -> (config, task)
    "bert": (transformers.BertConfig(**TEXT), "SequenceClassification"),
    "roberta": (transformers.RobertaConfig(**TEXT), "SequenceClassification"),
    "modernbert": (
        transformers.ModernBertConfig(**TEXT, cls_token_id=1, sep_token_id=2, classifier_pooling="mean"),
        "SequenceClassification",
    ),
    "gpt2": (transformers.GPT2Config(**GPT, pad_token_id=0), "SequenceClassification"),
    "bart": (transformers.BartConfig(**BART, num_labels=3), "SequenceClassification"),
    "bert-tokens": (transformers.BertConfig(**TEXT), "TokenClassification"),
    "vit": (transformers.ViTConfig(**VIT, image_size=8, patch_size=4, num_labels=3), "ImageClassification"),
    "mobilenet": (  # whose head drops elements in place
        transformers.MobileNetV2Config(
            image_size=32, depth_multiplier=0.25, num_labels=3, classifier_dropout_prob=0.0
        ),
        "ImageClassification",
    ),
    "resnet": (transformers.ResNetConfig(**RESNET, num_labels=3), "ImageClassification"),
}


def new_model(name):
    """A tiny model whose body gives other outputs for other examples."""
    config, head = MODELS[name]
    transformers.set_seed(0)
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


def examples_of(model, rows=12):
    """Batches of inputs with their labels, in another order in each epoch: (epochs, batches)."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, size=rows)
    texts = [torch.tensor([*rng.integers(3, 30, size=length), 2]) for length in lengths]  # end with eos
    images = torch.tensor(rng.normal(size=(rows, 3, 8, 8)), dtype=torch.float32)
    epochs = []
    for _ in range(3):
        batches = []
        for chosen in np.array_split(rng.permutation(rows), 4):
            if model.main_input_name == "pixel_values":
                inputs = {"pixel_values": images[chosen]}
            else:
                ids = torch.nn.utils.rnn.pad_sequence([texts[row] for row in chosen], batch_first=True)
                inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
            labels = torch.tensor(chosen % 3)
            if "TokenClassification" in type(model).__name__:
                labels = torch.where(inputs["attention_mask"] == 1, labels[:, None], -100)
            batches.append({**inputs, "labels": labels})
        epochs.append(batches)
    return epochs


def train_head(model, epochs, *, repeats):
    """Train the head with plain SGD; return it, and the number of examples that went through the body."""
    passed = []
    forward = model.base_model.forward

    def counting(*args, **kwargs):
        passed.append(len(next(value for value in (*args, *kwargs.values()) if torch.is_tensor(value))))
        return forward(*args, **kwargs)

    model.base_model.forward = counting
    with _frozen_body(model, repeats=repeats):
        head = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(head, lr=0.1)
        transformers.set_seed(1)
        for batch in (batch for epoch in epochs for batch in epoch):
            model.train()
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in head]), sum(passed)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_computed_once_for_the_same_head(name):
    """With outputs that are remembered, every example goes through the body once, and the head is the same to
    rounding, for heads that use the pooled output, the first position, the last one, their mean, or all.
    """
    epochs = examples_of(new_model(name))
    always, passes = train_head(new_model(name), epochs, repeats=False)
    once, passes_once = train_head(new_model(name), epochs, repeats=True)
    assert (passes, passes_once) == (36, 12)
    start = torch.cat([p.detach().flatten() for p in new_model(name).parameters()])[-len(always) :]
    assert not torch.allclose(always, start, atol=1e-3)
    torch.testing.assert_close(once, always, rtol=1e-4, atol=1e-5)


def kept_bytes(name, memory=10**9):
    """The bytes of outputs that are kept of all examples, and the number of examples whose outputs are kept."""
    model = new_model(name)
    remembered = RememberedOutputs(model.base_model.forward, memory)
    model.base_model.requires_grad_(False)
    model.base_model.forward = remembered
    for batch in examples_of(model)[0]:
        model(**batch).loss.backward()
    model(**batch)
    return memory - remembered._memory, len(remembered._known)


@pytest.mark.parametrize("name", ["bert", "roberta", "vit"])
def test_only_what_the_head_uses_is_kept(name):
    """Of a head that uses one vector of each example, one vector of each example is kept."""
    assert kept_bytes(name) == (12 * 16 * 4, 12)


def test_memory_is_bounded():
    """With memory for five examples, five are kept and the others are computed again."""
    assert kept_bytes("bert", memory=5 * 16 * 4 + 10) == (5 * 16 * 4, 5)


def test_heads_that_use_padding_are_computed_again():
    """Outputs on which padding has an effect are never reused."""
    model = new_model("modernbert")
    remembered = RememberedOutputs(model.base_model.forward, 10**9)
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    model.base_model.requires_grad_(False)
    for _ in range(2):
        outputs = remembered(input_ids=ids, attention_mask=(ids != 0).long())
        if not outputs.last_hidden_state.requires_grad:
            break
        outputs.last_hidden_state.mean(1).sum().backward()
    assert not remembered._known
