"""The inputs of models: arguments of `forward`, the number of tokens that their positions allow, and padding."""

import inspect
import json

import datasets
import numpy as np
import pytest
import torch
import transformers
from test_batch_independence import BART, BODY, CLASSIFIERS, GPT2, SPECIAL, T5, WORDS, XLNET, make, tokenizer_for

import hf_soup
from hf_soup import plugins, testing
from hf_soup.errors import DataError, EvaluationError
from hf_soup.tasks._model_inputs import empty_model, inputs_of
from hf_soup.tasks._padding import pad_collator


ROBERTA = {**BODY, "max_position_embeddings": 36}  # two of the positions are reserved for padding
DEBERTA = CLASSIFIERS["DebertaV2ForSequenceClassification"][0]
LED = {key: value for key, value in BART.items() if key != "max_position_embeddings"} | {
    "max_encoder_position_embeddings": 32,
    "max_decoder_position_embeddings": 20,
    "attention_window": 4,
}
LUKE = {**ROBERTA, "entity_vocab_size": 5, "entity_emb_size": 8}
LILT = {**ROBERTA, "hidden_size": 24, "channel_shrink_ratio": 2}
MPT = {"vocab_size": len(WORDS), "d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 34, **SPECIAL}
PROPHETNET = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_encoder_attention_heads": 2,
    "num_decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 34,
    "decoder_start_token_id": 0,
    **SPECIAL,
}
LLAMA = {**BODY, "num_key_value_heads": 1}
# class -> its configuration; maximum numbers of tokens, also of its decoder, and the first position
REACH = {
    "AlbertForSequenceClassification": ({**BODY, "embedding_size": 8}, (34, None, 0)),
    "BartForConditionalGeneration": (BART, (34, 34, 0)),
    "BertForSequenceClassification": (BODY, (34, None, 0)),
    "CamembertForSequenceClassification": (ROBERTA, (34, None, 2)),
    "CTRLForSequenceClassification": ({**GPT2, "dff": 24}, (34, None, 0)),
    "Data2VecTextForSequenceClassification": (ROBERTA, (34, None, 2)),
    "DebertaV2ForSequenceClassification": (DEBERTA, (None, None, 0)),
    "EsmForSequenceClassification": ({**ROBERTA, "mask_token_id": 4}, (34, None, 2)),
    "FunnelForSequenceClassification": (CLASSIFIERS["FunnelForSequenceClassification"][0], (None, None, 0)),
    "GPT2ForSequenceClassification": (GPT2, (34, None, 0)),
    "IBertForSequenceClassification": (ROBERTA, (34, None, 2)),
    "LEDForConditionalGeneration": (LED, (32, 20, 0)),
    "LayoutLMForSequenceClassification": ({**BODY, "max_2d_position_embeddings": 64}, (34, None, 0)),
    "LiltForSequenceClassification": (LILT, (34, None, 2)),
    "LlamaForSequenceClassification": (LLAMA, (34, None, 0)),
    "LongformerForSequenceClassification": ({**ROBERTA, "attention_window": [4, 4]}, (34, None, 2)),
    "LukeForSequenceClassification": (LUKE, (34, None, 2)),
    "MPNetForSequenceClassification": (ROBERTA, (34, None, 2)),
    "MarkupLMForSequenceClassification": (ROBERTA, (34, None, 2)),
    "MptForSequenceClassification": (MPT, (34, None, 0)),
    "NystromformerForSequenceClassification": (
        CLASSIFIERS["NystromformerForSequenceClassification"][0],
        (34, None, 0),
    ),
    "OPTForCausalLM": ({**BODY, "ffn_dim": 24, "word_embed_proj_dim": 16}, (34, None, 0)),
    "RobertaForSequenceClassification": (ROBERTA, (34, None, 2)),
    "T5ForConditionalGeneration": ({**T5, "decoder_start_token_id": 1}, (None, None, 0)),
    "XLMRobertaForSequenceClassification": (ROBERTA, (34, None, 2)),
    "XLNetForSequenceClassification": (XLNET, (None, None, 0)),
}
LONG = " ".join(WORDS[5 + place % 8] for place in range(60))


@pytest.mark.parametrize("name", REACH)
def test_positions_reach_as_far_as_the_model_runs(name):
    """Texts of the maximum length run; with absolute positions longer ones fail. A model on `meta` gives the same."""
    fields, (positions, target_positions, first_position) = REACH[name]
    model = make(name, fields)
    inputs = inputs_of(model)
    assert inputs[2:5] == (positions, target_positions, first_position)
    with torch.device("meta"):
        assert inputs_of(type(model)(model.config)) == inputs
    ids = torch.tensor([[5 + place % 8 for place in range(positions or 60)]])
    more = {"decoder_input_ids": ids[:, :5]} if "Conditional" in name else {}
    ids[:, -1] = 2  # some classifiers read the output here
    with torch.no_grad():
        assert model(input_ids=ids, **more).logits.isfinite().all()
        if positions and "Llama" not in name:  # rotary positions extend further, but were not trained
            with pytest.raises((RuntimeError, IndexError)):
                model(input_ids=torch.cat([ids, ids[:, -1:]], dim=1), **more)


@pytest.mark.parametrize("name", [name for name in REACH if name.endswith("SequenceClassification")])
def test_long_texts_are_cut_to_what_the_model_takes(name):
    """A tokenizer without a limit scores a long text like the truncated text, and is left unchanged."""
    fields, (positions, *_) = REACH[name]
    model, tokenizer = make(name, fields, num_labels=3), tokenizer_for()
    data = datasets.Dataset.from_dict({"text": [LONG, "good film"], "label": [0, 1]})
    before = tokenizer.model_max_length, tokenizer.padding_side
    found = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model).logits
    made = tokenizer(LONG, truncation=positions is not None, max_length=positions, return_tensors="pt")
    assert made["input_ids"].shape == (1, positions or 62)
    given = {key: made[key] for key in made if key in inspect.signature(model.forward).parameters}
    with torch.no_grad():
        by_hand = model(**given).logits[0].numpy()
    assert np.abs(found[0] - by_hand).max() < 1e-5 * np.abs(by_hand).max()
    assert (tokenizer.model_max_length, tokenizer.padding_side) == before


def test_the_tokenizer_may_say_less_than_the_positions():
    """The smaller of the tokenizer's and the model's limit applies."""
    model = make("RobertaForSequenceClassification", ROBERTA, num_labels=3)
    data = datasets.Dataset.from_dict({"text": [LONG], "label": [0]})
    for limit in (8, 100):
        evaluator = hf_soup.Evaluator(data, processing_class=tokenizer_for(model_max_length=limit))
        (batch,) = evaluator.examples.batches_of(model, np.array([0]))
        assert batch["input_ids"].shape == (1, min(limit, 34))


def test_right_texts_are_cut_to_what_the_decoder_takes():
    """Target texts are truncated to the positions of the decoder, which may be fewer than the encoder's."""
    model = make("LEDForConditionalGeneration", LED)
    data = datasets.Dataset.from_dict({"text": [LONG], "target": [LONG]})
    evaluator = hf_soup.Evaluator(data, processing_class=tokenizer_for())
    (batch,) = evaluator.examples.batches_of(model, np.array([0]))
    assert (batch["input_ids"].shape, batch["labels"].shape) == ((1, 32), (1, 20))
    assert len(evaluator.predict(model).logits) == 20


@pytest.mark.parametrize("ngram", [1, 2])
def test_a_decoder_that_predicts_ahead_takes_a_token_less(ngram):
    """ProphetNet's decoder uses the position after each token, so long texts are truncated accordingly."""
    model = make("ProphetNetForConditionalGeneration", {**PROPHETNET, "ngram": ngram})
    data = datasets.Dataset.from_dict({"text": [LONG], "target": [LONG]})
    evaluator = hf_soup.Evaluator(data, processing_class=tokenizer_for())
    (batch,) = evaluator.examples.batches_of(model, np.array([0]))
    assert (batch["input_ids"].shape, batch["labels"].shape) == ((1, 32), (1, 31))
    assert np.isfinite(evaluator.predict(model).logits).all()
    alone = make("ProphetNetForCausalLM", {**PROPHETNET, "ngram": ngram})
    text = hf_soup.Evaluator(data.remove_columns("target"), processing_class=tokenizer_for())
    assert len(text.predict(alone).logits) == 30


def test_words_beyond_the_positions_are_counted():
    """The warning about truncated words in token classification gives the model's limit if it is smaller."""
    model = make("RobertaForTokenClassification", ROBERTA, num_labels=3)
    data = datasets.Dataset.from_dict({"tokens": [LONG.split()], "tags": [[0] * 60]})
    with pytest.warns(UserWarning, match="28 words have no token among the 34"):
        assert len(hf_soup.Evaluator(data, processing_class=tokenizer_for()).predict(model).labels) == 32


def test_encoded_rows_that_are_too_long_are_told():
    """Encoded rows are not truncated, and RoBERTa's padding, which has no positions of its own, does not count."""
    model = make("RobertaForSequenceClassification", ROBERTA, num_labels=3)
    columns = {"input_ids": [[5, 2], [5] * 35], "label": [0, 1]}
    with pytest.raises(DataError, match=r"row 1 has 35 tokens, and the positions of Roberta.* reach 34"):
        hf_soup.Evaluator(datasets.Dataset.from_dict(columns)).predict(model)
    padded = {"input_ids": [[5] * 30 + [1] * 6] * 2, "attention_mask": [[1] * 30 + [0] * 6] * 2, "label": [0, 1]}
    assert hf_soup.Evaluator(datasets.Dataset.from_dict(padded)).predict(model).examples == 2


class Wrapper(torch.nn.Module):
    """A custom model that passes its inputs on."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.device, self.dtype = model, model.config, model.device, model.dtype

    def forward(self, input_ids, extra=None, **inputs):
        """Call the inner model."""
        return self.inner(input_ids=input_ids, **inputs)


def test_arguments_are_those_of_forward():
    """Input names come from the signature of `forward`, and `**kwargs` of a wrapper stand for the inner model's."""
    bert, vit = testing.tiny_text_model(), testing.tiny_image_model()
    assert inputs_of(bert).names == set(inspect.signature(type(bert).forward).parameters) - {
        "self",
        "labels",
        "kwargs",
    }
    assert inputs_of(vit).names >= {"pixel_values", "interpolate_pos_encoding"}
    assert {"bbox", "pixel_values"} <= inputs_of(make("LayoutLMv3ForSequenceClassification", LAYOUT_V3)).names
    wrapped = inputs_of(Wrapper(bert))
    assert {"input_ids", "extra", "token_type_ids", "attention_mask", "position_ids"} <= wrapped.names
    assert wrapped.positions == 32
    assert inputs_of(empty_model("AutoModelForSequenceClassification", bert.config)) == inputs_of(bert)


LAYOUT_V3 = {
    **BODY,
    "coordinate_size": 2,
    "shape_size": 4,
    "max_2d_position_embeddings": 64,
    "input_size": 8,
    "patch_size": 4,
}


def test_columns_that_the_model_does_not_take_are_named_once():
    """Columns that the model does not take are dropped, with one warning for all models."""
    data = datasets.Dataset.from_dict(
        {
            "input_ids": [[5, 6, 2], [7, 2]],
            "token_type_ids": [[0, 0, 0], [0, 0]],
            "position_ids": [[4, 3, 2], [3, 2]],
            "special_tokens_mask": [[0, 0, 1], [0, 1]],
            "text": ["good bad", "film"],
            "label": [0, 1],
        }
    )
    model = make("DistilBertForSequenceClassification", DISTILBERT, num_labels=3)
    evaluator = hf_soup.Evaluator(data)
    with pytest.warns(
        UserWarning,
        match="the encoded data has columns that DistilBertFor.* not used: token_type_ids, special_tokens_mask, text.",
    ):
        evaluator.predict(model)
    evaluator.predict(
        make("DistilBertForSequenceClassification", DISTILBERT, num_labels=3)
    )  # warnings are errors here
    given = evaluator.examples.batches_of(model, np.array([0, 1]))[0]
    assert given["position_ids"].tolist() == [[4, 3, 2], [3, 2, 0]]


DISTILBERT = CLASSIFIERS["DistilBertForSequenceClassification"][0]


def test_rows_are_filled_up_on_the_tokenizers_side():
    """Each input gets its own padding, on the tokenizer's side: the model's padding token, the tokenizer's token type,
    zeros for masks and boxes, -100 for labels; positions count from the first token.
    """
    rows = [
        {"input_ids": [5, 6, 7], "token_type_ids": [0, 0, 2], "bbox": [[1, 2, 3, 4]] * 3, "labels": [1, 2, 0]},
        {"input_ids": [8], "token_type_ids": [2], "bbox": [[5, 6, 7, 8]], "labels": [1]},
    ]
    names = frozenset({"input_ids", "attention_mask", "token_type_ids", "bbox", "position_ids"})
    inputs = inputs_of(make("RobertaForSequenceClassification", ROBERTA))._replace(names=names)
    batch = pad_collator(tokenizer_for("left"), inputs)(rows)
    assert {key: value[1].tolist() for key, value in batch.items()} == {
        "input_ids": [1, 1, 8],
        "token_type_ids": [3, 3, 2],
        "bbox": [[0] * 4, [0] * 4, [5, 6, 7, 8]],
        "labels": [-100, -100, 1],
        "attention_mask": [0, 0, 1],
        "position_ids": [1, 1, 2],
    }
    batch = pad_collator(None, inputs)(rows)
    assert {key: value[1].tolist() for key, value in batch.items()} == {
        "input_ids": [8, 1, 1],
        "token_type_ids": [2, 0, 0],
        "bbox": [[5, 6, 7, 8], [0] * 4, [0] * 4],
        "labels": [1, -100, -100],
        "attention_mask": [1, 0, 0],
    }
    batch = pad_collator(tokenizer_for("left"), inputs, labels_follow=False)(rows)
    assert batch["labels"].tolist() == [[1, 2, 0], [1, -100, -100]]
    without_mask = inputs._replace(names=frozenset({"input_ids"}))
    assert set(pad_collator(None, without_mask)(rows)) == {"input_ids", "labels"}


def test_the_first_token_after_padding_is_not_scored():
    """In encoded texts padded on the left, the first token after the padding is not scored."""
    rows = {"input_ids": [[1, 1, 5, 6, 7], [1, 8, 9, 5, 6]], "attention_mask": [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]}
    found = hf_soup.Evaluator(datasets.Dataset.from_dict(rows)).predict(make("GPT2LMHeadModel", GPT2))
    assert found.labels.tolist() == [6, 7, 9, 5, 6]


@pytest.mark.parametrize("name", ["padding_side", "truncation_side", "model_max_length"])
def test_what_decides_the_inputs_is_in_the_cache_key(name):
    """The padding side, the truncation side and the maximum length of the tokenizer are part of the cache key."""
    data = testing.tiny_texts(5)
    keys = set()
    for value in ("right", "left") if name.endswith("side") else (7, 8):
        tokenizer = tokenizer_for()
        setattr(tokenizer, name, value)
        evaluator = hf_soup.Evaluator(data, task="text-classification", processing_class=tokenizer)
        keys.add(evaluator.key("model", scores=False))
    assert len(keys) == 2


def test_image_processors_may_make_more_than_the_model_takes(monkeypatch):
    """Outputs of an image processor that the model does not take, such as a pixel mask, are dropped."""
    model, processor = testing.model_for(plugins.load_module("task", "image-classification"))
    data = testing.tiny_images(4)
    plain = hf_soup.Evaluator(data, processing_class=processor).predict(model)
    make_inputs = type(processor).__call__

    def with_mask(self, images, **options):
        found = make_inputs(self, images, **options)
        found["pixel_mask"] = torch.ones(len(images), 8, 8)
        return found

    monkeypatch.setattr(type(processor), "__call__", with_mask)
    evaluator = hf_soup.Evaluator(data, processing_class=processor)
    assert np.array_equal(evaluator.predict(model).logits, plain.logits)
    assert set(evaluator.examples.batches_of(model, np.array([0]))[0]) == {"pixel_values", "labels"}


def test_encoded_images_without_a_label_are_no_broken_files():
    """Encoded images with the label -100 are left out, without a message about decoding."""
    pixels = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    data = datasets.Dataset.from_dict({"pixel_values": pixels, "label": [0, -100, 2]})
    found = hf_soup.Evaluator(data, task="image-classification").predict(testing.tiny_image_model())
    assert found.rows.tolist() == [0, 2]


def test_a_model_that_fails_on_its_inputs_is_told():
    """If a model fails, an EvaluationError names the model, the first row and the original error."""
    model = make("LiltForSequenceClassification", {**BODY, "channel_shrink_ratio": 4}, num_labels=3)  # 16 % 6 is not 0
    with pytest.raises(EvaluationError, match=r"Lilt.* fails on 2 examples, of which row 0 is the first: Runt"):
        hf_soup.Evaluator(
            datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [0, 1]}), processing_class=tokenizer_for()
        ).predict(model)


def test_a_sweep_cuts_long_texts_to_its_model(tmp_path):
    """A sweep truncates texts to the model's positions and saves the limit with each run."""
    make("MPNetForSequenceClassification", ROBERTA, num_labels=2).save_pretrained(tmp_path / "base")
    tokenizer_for("left").save_pretrained(tmp_path / "base")
    data = datasets.Dataset.from_dict({"text": [LONG, "good film", "bad"] * 4, "label": [0, 1, 0] * 4})
    sweep = hf_soup.sweep(
        tmp_path / "base",
        data,
        space={"learning_rate": [1e-4]},
        validation=data,
        output_dir=tmp_path / "sweep",
        training_args={"max_steps": 2, "use_cpu": True, "per_device_train_batch_size": 6},
    )
    assert len(sweep.runs) == 1
    saved = json.loads((tmp_path / "sweep" / "run-0" / "tokenizer_config.json").read_text())
    assert saved["model_max_length"] == 34
    assert (
        SPECIAL["pad_token_id"] == transformers.AutoConfig.from_pretrained(tmp_path / "sweep" / "run-0").pad_token_id
    )


PAGES = {
    "tokens": [["good", "film"], ["bad", "plot", "film"]],
    "bboxes": [[[1, 2, 3, 4], [5, 6, 7, 8]], [[9] * 4] * 3],
}


def page_tokenizer():
    """A LayoutLMv3 tokenizer over single letters, which takes a box for each word."""
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *"abdfgilmopt"]
    return transformers.LayoutLMv3Tokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])


def page_model(task):
    """A tiny LayoutLMv3 without image input."""
    fields = {**LAYOUT_V3, "vocab_size": 17, "visual_embed": False}
    return make(f"LayoutLMv3For{task}", fields, num_labels=3)


@pytest.mark.parametrize(
    ("task", "labels"),
    [("TokenClassification", {"ner_tags": [[0, 1], [2, 1, 0]]}), ("SequenceClassification", {"label": [0, 2]})],
)
@pytest.mark.parametrize("name", ["bbox", "bboxes", "boxes"])
def test_boxes_of_words_go_through_a_tokenizer_that_takes_them(task, labels, name):
    """Boxes passed through the tokenizer give the same logits as by hand, and other boxes give other logits."""
    model, tokenizer = page_model(task), page_tokenizer()
    words, boxes = PAGES["tokens"], PAGES["bboxes"]
    data = datasets.Dataset.from_dict({"tokens": words, name: boxes, **labels})
    found = hf_soup.Evaluator(data, processing_class=tokenizer).predict(model).logits
    by_hand = []
    for row in range(2):
        made = tokenizer(words[row], boxes=boxes[row], return_tensors="pt")
        with torch.no_grad():
            logits = model(**made).logits[0].numpy()
        ids = made.word_ids(0)
        firsts = [ids.index(word) for word in range(len(words[row]))]
        by_hand.append(logits[firsts] if "Token" in task else logits[None])
    assert np.abs(found - np.concatenate(by_hand)).max() < 1e-5
    elsewhere = data.map(lambda row: {name: [[value + 20 for value in box] for box in row[name]]})
    other = hf_soup.Evaluator(elsewhere, processing_class=tokenizer).predict(model).logits
    assert np.abs(found - other).max() > 1e-3


@pytest.mark.parametrize("task", ["TokenClassification", "SequenceClassification"])
def test_boxes_that_cannot_be_passed_are_told(task):
    """A page model without usable boxes, or a page tokenizer without them, raises a DataError."""
    labels = {"ner_tags": [[0, 1], [2, 1, 0]]} if "Token" in task else {"label": [0, 2]}
    data = datasets.Dataset.from_dict({**PAGES, **labels})
    plain = make(f"LayoutLMFor{task}", {**BODY, "max_2d_position_embeddings": 64}, num_labels=3)
    with pytest.raises(DataError, match=r'does not take those in "bboxes". Encode .* bbox \(a box for'):
        hf_soup.Evaluator(data, processing_class=tokenizer_for()).predict(plain)
    few = data.map(lambda row: {"bboxes": row["bboxes"][:1]})
    with pytest.raises(DataError, match=r"does not take the texts: .* as many words as there are bounding"):
        hf_soup.Evaluator(few, processing_class=page_tokenizer()).predict(page_model(task))
    without = data.remove_columns("bboxes")
    if "Sequence" in task:
        without = without.add_column("text", ["good film", "bad plot"]).remove_columns("tokens")
    with pytest.raises(DataError, match=r"no column of them \(bbox, bboxes, boxes\). Encode"):
        hf_soup.Evaluator(without, processing_class=page_tokenizer()).predict(page_model(task))
    bert = make(f"BertFor{task}", BODY, num_labels=3)
    with pytest.raises(DataError, match="LayoutLMv3Tokenizer does not take the texts: "):
        hf_soup.Evaluator(without, processing_class=page_tokenizer()).predict(bert)
