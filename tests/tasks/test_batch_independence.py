"""A contract across architectures: a model's output for a text does not depend on the other texts in its batch."""

import datasets
import numpy as np
import pytest
import tokenizers
import torch
import transformers

import hf_soup
from hf_soup.checkpoints.memory import quiet_transformers
from hf_soup.tasks._model_inputs import inputs_of


WORDS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "good", "bad", "film", "plot", "warm", "dull", "cast", "fine")
SPECIAL = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
BODY = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 34,
    **SPECIAL,
}
DECODER = {**BODY, "num_key_value_heads": 1}
GPT2 = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 34, **SPECIAL}
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, **SPECIAL}
BART = {
    "vocab_size": len(WORDS),
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 34,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **SPECIAL,
}
XLNET = {"vocab_size": len(WORDS), "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, **SPECIAL}
FUNNEL = {"vocab_size": len(WORDS), "block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24}
BIG_BIRD = {**BODY, "attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}
LONGFORMER = {**BODY, "attention_window": [4, 4]}
DISTILBERT = {"vocab_size": len(WORDS), "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 1}
SQUEEZEBERT = {**BODY, "embedding_size": 16, "q_groups": 2, "k_groups": 2, "v_groups": 2, "intermediate_groups": 2}
NYSTROMFORMER = {**BODY, "num_landmarks": 4, "segment_means_seq_len": 4}
DEBERTA = {**BODY, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
# class -> fields of its configuration, and the side on which its tokenizer pads
CLASSIFIERS = {
    "AlbertForSequenceClassification": ({**BODY, "embedding_size": 8}, "right"),
    "BartForSequenceClassification": (BART, "right"),
    "BertForSequenceClassification": (BODY, "right"),
    "BertForSequenceClassification on the left": (BODY, "left"),
    "BigBirdForSequenceClassification": (BIG_BIRD, "right"),
    "CamembertForSequenceClassification": (BODY, "right"),
    "ConvBertForSequenceClassification": ({**BODY, "embedding_size": 16}, "right"),
    "Data2VecTextForSequenceClassification": (BODY, "right"),
    "DebertaV2ForSequenceClassification": (DEBERTA, "right"),
    "DistilBertForSequenceClassification": (DISTILBERT, "right"),
    "DistilBertForSequenceClassification on the left": (DISTILBERT, "left"),
    "ElectraForSequenceClassification": ({**BODY, "embedding_size": 16}, "right"),
    "EsmForSequenceClassification": ({**BODY, "mask_token_id": 4}, "right"),
    "FNetForSequenceClassification": (BODY, "right"),
    "FunnelForSequenceClassification": ({**FUNNEL, **SPECIAL}, "right"),
    "GPT2ForSequenceClassification": (GPT2, "right"),
    "GPT2ForSequenceClassification on the left": (GPT2, "left"),
    "IBertForSequenceClassification": (BODY, "right"),
    "LlamaForSequenceClassification": (DECODER, "right"),
    "LlamaForSequenceClassification on the left": (DECODER, "left"),
    "LongformerForSequenceClassification": (LONGFORMER, "right"),
    "MPNetForSequenceClassification": (BODY, "right"),
    "ModernBertForSequenceClassification": ({**BODY, "cls_token_id": 0, "sep_token_id": 2}, "right"),
    "NystromformerForSequenceClassification": (NYSTROMFORMER, "right"),
    "RobertaForSequenceClassification": (BODY, "right"),
    "RobertaForSequenceClassification on the left": (BODY, "left"),
    "SqueezeBertForSequenceClassification": (SQUEEZEBERT, "right"),
    "T5ForSequenceClassification": ({**T5, "decoder_start_token_id": 1}, "right"),
    "UMT5ForSequenceClassification": ({**T5, "decoder_start_token_id": 1}, "right"),
    "XLMRobertaForSequenceClassification": (BODY, "right"),
    "XLNetForSequenceClassification": (XLNET, "left"),
    "XLNetForSequenceClassification on the right": (XLNET, "right"),
}
OTHERS = {
    "BertForTokenClassification": (BODY, "left"),
    "XLNetForTokenClassification": (XLNET, "left"),
    "GPT2LMHeadModel": (GPT2, "right"),
    "GPT2LMHeadModel on the left": (GPT2, "left"),
    "LlamaForCausalLM": (DECODER, "left"),
    "BartForConditionalGeneration": (BART, "right"),
    "T5ForConditionalGeneration": ({**T5, "decoder_start_token_id": 1}, "left"),
}
LENGTHS = (1, 2, 3, 4, 5, 7, 9, 12, 12, 15, 20, 26)
SENTENCES = [" ".join(WORDS[5 + (place * 3 + row) % 8] for place in range(n)) for row, n in enumerate(LENGTHS)]
TEXTS = datasets.Dataset.from_dict({"text": SENTENCES, "label": [row % 3 for row in range(len(LENGTHS))]})
WORD_TAGS = [[(row + place) % 3 for place in range(n)] for row, n in enumerate(LENGTHS)]
TAGS = datasets.Dataset.from_dict({"tokens": [text.split() for text in SENTENCES], "tags": WORD_TAGS})
PAIRS = datasets.Dataset.from_dict({"text": SENTENCES, "target": SENTENCES[::-1]})


def tokenizer_for(side="right", **options):
    """A fast tokenizer of the words above that pads on one side and returns more inputs than some models take."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    template = "$A </s>" if side == "left" else "<s> $A </s>"
    ids = [("<s>", 0), ("</s>", 2)]
    fast.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=ids)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, padding_side=side, model_input_names=inputs, **names, **options
    )
    made._pad_token_type_id = 3 if side == "left" else 0  # token type that XLNet uses for padding
    return made


def make(name, fields, **more):
    """A tiny model whose logits differ between texts by much more than rounding errors."""
    model_class = getattr(transformers, name.split()[0])
    transformers.set_seed(0)
    with quiet_transformers():
        model = model_class(model_class.config_class(**fields, **more)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def alone_and_together(data, model, **options):
    """Logits of the rows computed one at a time, and all in one batch."""
    return [hf_soup.Evaluator(data, batch_size=size, **options).predict(model).logits for size in (1, len(LENGTHS))]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_score_texts_alone_as_together(name):
    """The logits of texts with 1 to 26 words are the same one at a time and in one batch."""
    fields, side = CLASSIFIERS[name]
    model = make(name, fields, num_labels=3)
    alone, together = alone_and_together(TEXTS, model, processing_class=tokenizer_for(side))
    assert np.ptp(alone, axis=0).min() > 1e-3
    assert np.abs(alone - together).max() < 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_data_that_is_encoded_already_is_scored_the_same(name):
    """Encoded data, scored without a tokenizer, gives the same logits as texts one at a time."""
    fields, side = CLASSIFIERS[name]
    model, tokenizer = make(name, fields, num_labels=3), tokenizer_for(side)
    takes_types = "token_type_ids" in inputs_of(model).names
    wanted = ["input_ids", "attention_mask", *(["token_type_ids"] if takes_types else [])]
    encoded = TEXTS.map(lambda row: {key: tokenizer(row["text"])[key] for key in wanted}, remove_columns="text")
    if "attention_mask" not in inputs_of(model).names:
        encoded = encoded.remove_columns("attention_mask")
    alone, _ = alone_and_together(TEXTS, model, processing_class=tokenizer)
    for logits in alone_and_together(encoded, model):
        assert np.abs(alone - logits).max() < 1e-5 * np.abs(alone).max()


LAST_TOKEN = ("GPT2ForSequenceClassification on the left", "LlamaForSequenceClassification on the left")


@pytest.mark.parametrize("name", [*LAST_TOKEN, "GPT2LMHeadModel on the left", "LlamaForCausalLM"])
@pytest.mark.parametrize("padded_to", ["longest", "max_length"])
def test_rows_that_are_padded_on_the_left_already_are_scored_the_same(name, padded_to):
    """Encoded rows padded on the left give the same logits as texts one at a time, because positions are kept."""
    classifies = name in CLASSIFIERS
    fields, side = {**CLASSIFIERS, **OTHERS}[name]
    head = {"num_labels": 3} if classifies else {}
    model = make(name, fields, **head)
    tokenizer = tokenizer_for(side)
    tokenizer._pad_token_type_id = 0
    padded = tokenizer(TEXTS["text"][:], padding=padded_to, max_length=30)
    columns = {key: padded[key] for key in padded if key in inputs_of(model).names}
    texts = TEXTS.select_columns("text")
    if classifies:
        texts, columns = TEXTS, {**columns, "label": TEXTS["label"][:]}
    data = datasets.Dataset.from_dict(columns)
    alone, _ = alone_and_together(texts, model, processing_class=tokenizer)
    for logits in alone_and_together(data, model):
        assert np.abs(alone - logits).max() < 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize(
    "name", ["BertForTokenClassification", "MPNetForTokenClassification", "RobertaForTokenClassification"]
)
@pytest.mark.parametrize("pad_token_id", [1, 0])
def test_words_that_are_padded_on_the_left_already_are_scored_the_same(name, pad_token_id):
    """The mask marks padding on the left, whatever the model's first position and the padding token are."""
    model = make(name, BODY, num_labels=3)
    rows = {"input_ids": [], "attention_mask": [], "labels": []}
    padded = {column: [] for column in rows}
    for row, n in enumerate(LENGTHS):
        ids = [5 + (row + place) % 8 for place in range(n)]
        for column, values, filler in zip(rows, (ids, [1] * n, WORD_TAGS[row]), (pad_token_id, 0, -100), strict=True):
            rows[column].append(values)
            padded[column].append([filler] * (30 - n) + values)
    alone, _ = alone_and_together(datasets.Dataset.from_dict(rows), model)
    for logits in alone_and_together(datasets.Dataset.from_dict(padded), model):
        assert np.abs(alone - logits).max() < 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize("name", OTHERS)
def test_words_and_tokens_are_scored_alone_as_together(name):
    """Outputs for words and tokens are the same one at a time and in one batch."""
    fields, side = OTHERS[name]
    data, head = TEXTS.select_columns("text"), {}
    if "TokenClassification" in name:
        data, head = TAGS, {"num_labels": 3}
    elif "Conditional" in name:
        data = PAIRS
    model = make(name, fields, **head)
    alone, together = alone_and_together(data, model, processing_class=tokenizer_for(side))
    assert np.ptp(alone, axis=0).min() > 1e-3
    assert np.abs(alone - together).max() < 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize("name", ["XLNetForSequenceClassification", "RobertaForSequenceClassification"])
def test_several_labels_are_scored_alone_as_together(name):
    """Multi-label classifiers give the same logits one at a time and in one batch, padded on either side."""
    fields, side = CLASSIFIERS[name]
    model = make(name, fields, num_labels=3, problem_type="multi_label_classification")
    labels = [[row % 3, (row + 1) % 3] for row in range(len(LENGTHS))]
    data = TEXTS.remove_columns("label").add_column("labels", labels)
    alone, together = alone_and_together(data, model, processing_class=tokenizer_for(side))
    assert np.abs(alone - together).max() < 1e-5 * np.abs(alone).max()


LAYOUT = {**BODY, "max_2d_position_embeddings": 64}
LILT = {**LAYOUT, "hidden_size": 24, "channel_shrink_ratio": 2}


@pytest.mark.parametrize(
    "name", ["LayoutLMForSequenceClassification", "LayoutLMForTokenClassification", "LiltForTokenClassification"]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_boxes_go_with_the_words(name, side):
    """Boxes of encoded data are padded and passed to the model: other boxes give other logits."""
    model = make(name, LILT if name.startswith("Lilt") else LAYOUT, num_labels=3)
    ids = [[0, *[5 + (row + place) % 8 for place in range(n)], 2] for row, n in enumerate(LENGTHS)]
    boxes = [[[place, row, place + 9, row + 7] for place in range(len(tokens))] for row, tokens in enumerate(ids)]
    tags = [[(row + place) % 3 for place in range(len(tokens))] for row, tokens in enumerate(ids)]
    labels = tags if "Token" in name else TEXTS["label"][:]
    data = datasets.Dataset.from_dict({"input_ids": ids, "bbox": boxes, "labels": labels})
    alone, together = alone_and_together(data, model, processing_class=tokenizer_for(side))
    assert np.abs(alone - together).max() < 1e-5 * np.abs(alone).max()
    elsewhere = data.map(lambda row: {"bbox": [[x + 20, y, right + 20, low] for x, y, right, low in row["bbox"]]})
    other, _ = alone_and_together(elsewhere, model)
    assert np.abs(alone - other).max() > 1e-3


def sizes_of_batches(name, data=TEXTS):
    """The sizes of the batches in a first and a second prediction; the first includes tests for effects of padding."""
    fields, side = CLASSIFIERS[name]
    model, sizes = make(name, fields, num_labels=3), []
    model.register_forward_pre_hook(lambda *given: sizes.append(len(given[-1]["input_ids"])), with_kwargs=True)
    evaluator = hf_soup.Evaluator(data, processing_class=tokenizer_for(side))
    evaluator.predict(model)
    before = len(sizes)
    evaluator.predict(model)
    return sizes[:before], sizes[before:]


def test_texts_share_a_batch_where_masks_hide_padding():
    """Texts share a batch if masks hide padding, as in BERT, and in XLNet and GPT-2 padded on the left; FNet, which
    has no mask, gets batches of one length. Each model is tested for this once.
    """
    masked = (
        "BertForSequenceClassification",
        "XLNetForSequenceClassification",
        "GPT2ForSequenceClassification on the left",
    )
    for name in masked:
        first, again = sizes_of_batches(name)
        assert (first, again) == ([1, 1, 1, 1, 4, len(LENGTHS)], [len(LENGTHS)])
    first, again = sizes_of_batches("FNetForSequenceClassification")
    apart = [LENGTHS.count(length) for length in sorted(set(LENGTHS), reverse=True)]
    assert (first, again) == ([1, 1, 1, 1, 4, *apart], apart)
    first, again = sizes_of_batches("BertForSequenceClassification", TEXTS.select([7, 8]))  # texts of one length
    assert (first, again) == ([2], [2])


def test_a_model_that_says_nothing_settles_nothing():
    """A model with constant outputs does not decide whether padding matters; the next model is tested again."""
    fields, side = CLASSIFIERS["FNetForSequenceClassification"]
    model = make("FNetForSequenceClassification", fields, num_labels=3)
    silent = make("FNetForSequenceClassification", fields, num_labels=3)
    with torch.no_grad():
        silent.classifier.weight.zero_()
    evaluator = hf_soup.Evaluator(TEXTS, processing_class=tokenizer_for(side))
    evaluator.predict(silent)
    alone, _ = alone_and_together(TEXTS, model, processing_class=tokenizer_for(side))
    assert np.abs(evaluator.predict(model).logits - alone).max() < 1e-5


def test_rows_in_small_batches_and_gradients_keep_to_one_length():
    """Rows run first and rows for a gradient are also split by length if padding matters."""
    fields, side = CLASSIFIERS["FNetForSequenceClassification"]
    model, sizes = make("FNetForSequenceClassification", fields, num_labels=3), []
    evaluator = hf_soup.Evaluator(TEXTS, processing_class=tokenizer_for(side))
    whole = evaluator.predict(model)
    found = evaluator.run(
        model, first=np.array([3, 8, 11, 7, 0]), enough=lambda part: sizes.append(part.rows) or False
    )
    assert np.allclose(found.predictions.logits, whole.logits, atol=1e-6)
    assert [rows.tolist() for rows in sizes][:4] == [[11], [7, 8], [3], [0]]
    batches = evaluator.examples.batches_of(model, np.array([0, 7, 8]))
    assert [batch["input_ids"].shape for batch in batches] == [(2, 14), (1, 3)]
    assert [batch["labels"].tolist() for batch in batches] == [[1, 2], [0]]


def test_a_short_text_does_not_change_the_model_for_good():
    """A short text does not permanently change the attention of BigBird."""
    fields, side = CLASSIFIERS["BigBirdForSequenceClassification"]
    model = make("BigBirdForSequenceClassification", fields, num_labels=3)
    long, short = TEXTS.select([11]), TEXTS.select([0])
    before = hf_soup.Evaluator(long, processing_class=tokenizer_for(side)).predict(model).logits
    hf_soup.Evaluator(short, processing_class=tokenizer_for(side)).predict(model)
    after = hf_soup.Evaluator(long, processing_class=tokenizer_for(side)).predict(model).logits
    assert np.array_equal(before, after)
