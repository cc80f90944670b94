"""Soups of ingredients with different added tokens: rows by token, texts tokenised as before."""

import itertools
import json
import random
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import IncompatibleError, IngredientError, RecipeError
from hf_soup.evaluation.cache_key import content_fingerprint


WORDS = testing.tiny.WORDS
TOKENS = {"a": ["<x>", "<a>"], "b": ["<b>", "<c>", "<x>"]}  # in another order, of another number


def masked_lm(folder, tokens, seed, *, multiple=None, cls=transformers.BertForMaskedLM):
    """A tiny model whose tokenizer has further tokens, fine-tuned from one start."""
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    transformers.set_seed(0)
    model = cls(transformers.BertConfig(**testing.tiny.TINY["bert"]))
    tokenizer.add_tokens(tokens)
    if tokens or multiple:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=multiple, mean_resizing=False)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama(folder, tokens, seed):
    """A tiny Llama with untied embeddings and the same tokenizer."""
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.set_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(WORDS), **sizes, pad_token_id=0))
    tokenizer.add_tokens(tokens)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models with different added tokens, one of them special, and their start without them."""
    folder = tmp_path_factory.mktemp("models")
    saved = {name: masked_lm(folder / name, tokens, seed) for seed, (name, tokens) in enumerate(TOKENS.items())}
    return {**saved, "base": masked_lm(folder / "base", [], 9)}


def by_token(folder, table):
    """Token -> its row of a table, in float64."""
    ids = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    rows = load_file(folder / "model.safetensors")[table].double()
    return {token: rows[index] for token, index in ids.items()}


def tables_of(folder):
    """The tensors with a row for each token."""
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    return [name for name, tensor in load_file(folder / "model.safetensors").items() if len(tensor) == rows]


@pytest.mark.parametrize("make", [masked_lm, llama])
@pytest.mark.parametrize("weights", [[1, 1], [3, 1]])
def test_rows_are_averaged_by_token(tmp_path, make, weights):
    """Tokens of both are the mean of their rows; a token that one lacks has the row of the other."""
    models = [make(tmp_path / name, tokens, seed) for seed, (name, tokens) in enumerate(TOKENS.items())]
    soup = hf_soup.merge(models, vocabulary="union", weights=weights).save_pretrained(tmp_path / "soup")
    tables = tables_of(models[0])
    assert len(tables) == 2
    for table in tables:
        first, second = (by_token(path, table) for path in models)
        found = by_token(soup, table)
        assert set(found) == {*WORDS, "<a>", "<b>", "<c>", "<x>"}
        for token, row in found.items():
            one, other = first.get(token, second.get(token)), second.get(token, first.get(token))
            expected = (weights[0] * one + weights[1] * other) / sum(weights)
            torch.testing.assert_close(row, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [masked_lm, llama])
def test_an_ingredient_alone_is_the_same_model(tmp_path, make):
    """With the weight 1, an ingredient gives the logits that it gave before on its texts, added tokens included."""
    models = [make(tmp_path / name, tokens, seed) for seed, (name, tokens) in enumerate(TOKENS.items())]
    for place, (name, tokens) in enumerate(TOKENS.items()):
        weights = [float(index == place) for index in range(2)]
        soup = hf_soup.merge(models, vocabulary="union", weights=weights).save_pretrained(tmp_path / f"soup-{name}")
        logits = {}
        for folder in (models[place], soup):
            cls = transformers.AutoModelForMaskedLM if make is masked_lm else transformers.AutoModelForCausalLM
            model, tokenizer = cls.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
            ids = tokenizer(f"the film {tokens[0]} was good {tokens[1]}", return_tensors="pt")["input_ids"]
            of_words = [tokenizer.get_vocab()[word] for word in (*WORDS, *tokens)]
            logits[folder] = model(ids).logits[..., of_words]
        torch.testing.assert_close(logits[soup], logits[models[place]], rtol=1e-5, atol=1e-6)


def test_texts_are_tokenised_as_before(models, tmp_path):
    """Random texts of words and an ingredient's own tokens have the same tokens in the soup."""
    soup = hf_soup.merge([models["a"], models["b"]], vocabulary="union").save_pretrained(tmp_path / "soup")
    common = transformers.AutoTokenizer.from_pretrained(soup)
    draw = random.Random(0)
    for name, tokens in TOKENS.items():
        own = transformers.AutoTokenizer.from_pretrained(models[name])
        for _ in range(200):
            text = "".join(
                draw.choice([*WORDS[5:], *tokens, "goodness", "The ", " ", "?!"]) + " " * draw.randint(0, 2)
            )
            text = " ".join(draw.choices([text, *WORDS[5:], *tokens, "unheardof", "The", ".!"], k=draw.randint(1, 9)))
            assert common.convert_ids_to_tokens(common(text)["input_ids"]) == own.convert_ids_to_tokens(
                own(text)["input_ids"]
            )


def test_the_first_ingredient_keeps_its_ids(models):
    """Its tokens have the ids that they had, and those of the others follow; `take_from` names another."""
    for order, options in ((["b", "a"], {}), (["a", "b"], {"take_from": "b"})):
        own = transformers.AutoTokenizer.from_pretrained(models["b"]).get_vocab()
        soup = hf_soup.merge([models[name] for name in order], vocabulary="union", **options)
        ids = transformers.AutoTokenizer.from_pretrained(soup.checkpoints[0].processing_folder).get_vocab()
        assert {token: ids[token] for token in own} == own
        assert ids["<a>"] == len(own)


def test_the_base_model_gives_rows_that_it_has(models, tmp_path):
    """With a base model, changes are counted from the common vocabulary: of a token that it lacks they are 0."""
    wide = masked_lm(tmp_path / "wide", ["<a>"], 9)
    soup = hf_soup.merge(
        [models["a"], models["b"]], method="task_arithmetic", vocabulary="union", base_model=wide, scale=1.0
    )
    found = by_token(soup.save_pretrained(tmp_path / "soup"), "bert.embeddings.word_embeddings.weight")
    table = "bert.embeddings.word_embeddings.weight"
    a, b, base = (by_token(path, table) for path in (models["a"], models["b"], wide))
    torch.testing.assert_close(found["<a>"], a["<a>"], rtol=1e-6, atol=1e-7)  # b has the base model's row
    torch.testing.assert_close(found["good"], a["good"] + b["good"] - base["good"], rtol=1e-6, atol=1e-7)
    mean = (a["<x>"] + b["<x>"]) / 2  # which the base model is given
    torch.testing.assert_close(found["<x>"], a["<x>"] + b["<x>"] - mean, rtol=1e-6, atol=1e-7)


def test_padding_of_rows_to_a_multiple_is_kept(tmp_path):
    """Tables with more rows than tokens stay at a multiple; new tokens take rows without a token first."""
    few = [masked_lm(tmp_path / name, [f"<{name}>"], seed, multiple=64) for seed, name in enumerate("ab")]
    soup = hf_soup.merge(few, vocabulary="union").save_pretrained(tmp_path / "soup")
    assert json.loads((soup / "config.json").read_text())["vocab_size"] == 64
    many = [masked_lm(tmp_path / f"many-{n}", [f"<{n}{i}>" for i in range(40)], n, multiple=64) for n in range(2)]
    soup = hf_soup.merge(many, vocabulary="union").save_pretrained(tmp_path / "soup-of-many")
    assert json.loads((soup / "config.json").read_text())["vocab_size"] == 128
    assert all(len(load_file(soup / "model.safetensors")[table]) == 128 for table in tables_of(soup))
    transformers.AutoModelForMaskedLM.from_pretrained(soup)
    # without padding there is a row for each token
    plain = [masked_lm(tmp_path / f"plain-{n}", [f"<{n}>"], n) for n in range(2)]
    soup = hf_soup.merge(plain, vocabulary="union").save_pretrained(tmp_path / "soup-of-plain")
    assert json.loads((soup / "config.json").read_text())["vocab_size"] == len(WORDS) + 2


def test_the_vocabulary_of_one_is_kept(models, tmp_path):
    """Tokens of the others are dropped, and its own that they lack come from it."""
    soup = hf_soup.merge([models["a"], models["b"]], vocabulary="b").save_pretrained(tmp_path / "soup")
    table = "bert.embeddings.word_embeddings.weight"
    a, b, found = (by_token(path, table) for path in (models["a"], models["b"], soup))
    assert set(found) == set(b)
    torch.testing.assert_close(found["<b>"], b["<b>"])
    torch.testing.assert_close(found["<x>"], (a["<x>"] + b["<x>"]) / 2, rtol=1e-6, atol=1e-7)
    narrow = hf_soup.merge([models["a"], models["b"]], vocabulary="base_model", base_model=models["base"])
    assert narrow.model.config.vocab_size == len(WORDS)


@pytest.mark.parametrize("method", ["ties", "median", "dare_ties", "karcher"])
def test_every_kind_of_method_works_on_them(models, tmp_path, method):
    """Methods in pieces and on whole tensors, with and without a base model; cooked again, the bits are equal."""
    options = {"base_model": models["base"]} if method in ("ties", "dare_ties") else {}
    soup = hf_soup.merge([models["a"], models["b"]], method=method, vocabulary="union", **options)
    folder = soup.save_pretrained(tmp_path / "soup")
    again = hf_soup.cook(folder).soup.model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in soup.model.state_dict().items())
    assert hf_soup.verify(folder).ok


def test_a_search_lists_those_that_it_left_out(tmp_path):
    """Rows come from all, so the recipe has all, and a changed ingredient of weight 0 is noticed."""
    cls = transformers.BertForSequenceClassification
    tokens = [["<x>"], ["<b>"], ["<c>", "<d>"]]
    models = [masked_lm(tmp_path / f"m{n}", own, n, cls=cls) for n, own in enumerate(tokens)]
    data = testing.tiny_texts(24, seed=5)
    soup = hf_soup.merge(models, strategy="greedy", evaluator=data, vocabulary="union", max_ingredients=1)
    assert sorted(soup.recipe.names) == ["m0", "m1", "m2"]
    assert sorted(soup.recipe.weights) == [0, 0, 1]
    folder = soup.save_pretrained(tmp_path / "soup")
    again = hf_soup.cook(folder).soup
    assert again.model.config.vocab_size == len(WORDS) + 4
    assert all(torch.equal(again.model.state_dict()[name], each) for name, each in soup.model.state_dict().items())
    table = hf_soup.compare(soup, test=testing.tiny_texts(12, seed=7)).table()
    assert "uniform" in table
    # the score of a single ingredient is that of the model itself
    chosen = tmp_path / soup.recipe.names[soup.recipe.weights.index(1)]
    assert hf_soup.Evaluator(data)(cls.from_pretrained(chosen)).value == soup.selection.score


@pytest.mark.parametrize("place", [0, 1])
def test_ids_in_configurations_are_those_of_the_soup(tmp_path, place):
    """Ids of tokens in the saved configurations are those of the common vocabulary, in lists as well."""
    paths = [llama(tmp_path / f"m{number}", tokens, number) for number, tokens in enumerate(TOKENS.values())]
    ids = transformers.AutoTokenizer.from_pretrained(paths[1]).get_vocab()
    config = json.loads((paths[1] / "config.json").read_text())
    config["eos_token_id"] = ids["<c>"]
    (paths[1] / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": [ids["<c>"], ids["[SEP]"]], "suppress_tokens": [ids["<x>"]], "pad_token_id": 0}
    (paths[1] / "generation_config.json").write_text(json.dumps(generation))
    (paths[0] / "generation_config.json").unlink(missing_ok=True)
    soup = hf_soup.merge(paths, vocabulary="union", take_from=f"m{place}").save_pretrained(tmp_path / "soup")
    new = transformers.AutoTokenizer.from_pretrained(soup).get_vocab()
    written = json.loads((soup / "generation_config.json").read_text())
    assert written["eos_token_id"] == [new["<c>"], new["[SEP]"]]
    assert written["suppress_tokens"] == [new["<x>"]]
    assert place == 0 or json.loads((soup / "config.json").read_text())["eos_token_id"] == new["<c>"]
    # tokens that are dropped are in no list, and a single one is that of the model whose tokens are kept
    kept = hf_soup.merge(paths, vocabulary="m0", take_from="m1").save_pretrained(tmp_path / "kept")
    written = json.loads((kept / "generation_config.json").read_text())
    assert written["eos_token_id"] == [new["[SEP]"]]
    own = json.loads((paths[0] / "config.json").read_text())["eos_token_id"]
    assert json.loads((kept / "config.json").read_text())["eos_token_id"] == own


def test_equal_vocabularies_need_nothing(models):
    """Copies of one tokenizer are left as they are, with or without a tokenizer."""
    soup = hf_soup.merge([models["a"], models["a"]], vocabulary="union")
    assert type(soup.checkpoints[0]) is hf_soup.Checkpoint


def test_without_vocabulary_the_error_says_what_to_do(models):
    """Different tokens are refused, and the report of `check` with a union is fine."""
    with pytest.raises(IncompatibleError, match=r'vocabulary="union"'):
        hf_soup.merge([models["a"], models["b"]])
    assert not hf_soup.check([models["a"], models["b"]]).ok
    report = hf_soup.check([models["a"], models["b"]], vocabulary="union")
    assert report.ok, report.problems
    assert any("a lacks 2 tokens, whose rows come from those that have them: '<b>', '<c>'" in n for n in report.notes)


def changed_tokenizer(folder, change, file):
    """Change a file of a tokenizer."""
    data = json.loads((folder / file).read_text())
    change(data)
    (folder / file).write_text(json.dumps(data))
    return folder


def test_tokenizers_that_differ_in_more_are_refused(models, tmp_path):
    """Another vocabulary, another normaliser, another flag of one token, and no tokenizer: each is named."""

    def swap(data):
        vocab = data["model"]["vocab"]
        vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]

    def keep_case(data):
        data["do_lower_case"] = False

    def strip(data):
        next(token for token in data["added_tokens"] if token["content"] == "<x>")["lstrip"] = True

    cases = {
        "swapped": (
            swap,
            r"swapped has another vocabulary than a: 2 tokens .* both differ, such as 'bad', 'good'",
        ),
        "cased": (keep_case, r"cased has another tokenizer than a: normalizer\.lowercase differs"),
        "stripped": (strip, r"stripped has another tokenizer than a: added token '<x>': lstrip differs"),
    }
    for name, (change, message) in cases.items():
        file = "tokenizer_config.json" if change is keep_case else "tokenizer.json"
        other = changed_tokenizer(shutil.copytree(models["b"], tmp_path / name), change, file)
        with pytest.raises(IncompatibleError, match=message):
            hf_soup.merge([models["a"], other], vocabulary="union")
    bare = shutil.copytree(models["b"], tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(IncompatibleError, match="bare has none"):
        hf_soup.merge([models["a"], bare], vocabulary="union")
    with pytest.raises(RecipeError, match=r'"union", "base_model" or the name of an ingredient, not \'unoin\'.*union'):
        hf_soup.merge([models["a"], models["b"]], vocabulary="unoin")
    with pytest.raises(RecipeError, match="takes no vocabulary"):
        hf_soup.merge([models["a"], models["b"]], vocabulary="union", method="fisher", importance_data=None)


def test_the_order_of_ingredients_does_not_matter(models):
    """The soup by token is the same in any order."""
    rows = []
    for order in itertools.permutations(["a", "b"]):
        soup = hf_soup.merge([models[name] for name in order], vocabulary="union")
        ids = transformers.AutoTokenizer.from_pretrained(soup.checkpoints[0].processing_folder).get_vocab()
        table = soup.model.get_input_embeddings().weight
        rows.append({token: table[index].detach() for token, index in ids.items()})
    assert all(torch.allclose(rows[0][token], rows[1][token]) for token in rows[0])


def test_a_tokenizer_with_more_tokens_than_rows(models, tmp_path):
    """A token that has no row in one model has that of the others, not what follows in the file."""
    plain = masked_lm(tmp_path / "plain", [], 3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
    tokenizer.add_tokens(["<x>"])
    tokenizer.save_pretrained(plain)
    soup = hf_soup.merge([plain, models["a"]], vocabulary="union").save_pretrained(tmp_path / "soup")
    table = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(by_token(soup, table)["<x>"], by_token(models["a"], table)["<x>"])


def test_words_that_one_model_added_are_refused(tmp_path):
    """A word of one model that another one added splits texts in another way; so does a word that one lacks."""
    paths = [masked_lm(tmp_path / name, tokens, 0) for name, tokens in (("a", ["<a>"]), ("b", ["<b>"]))]

    def forget(data):
        del data["model"]["vocab"]["cast"]

    changed_tokenizer(paths[1], forget, "tokenizer.json")
    for order in (paths, paths[::-1]):
        with pytest.raises(IncompatibleError, match="1 tokens that were not added to both differ, such as 'cast'"):
            hf_soup.merge(order, vocabulary="union")


def test_a_changed_base_model_or_tokenizer_is_noticed(models, tmp_path):
    """Scores are not taken from the cache, and a recipe is not cooked with other rows."""
    cls = transformers.BertForSequenceClassification
    paths = [masked_lm(tmp_path / name, tokens, n, cls=cls) for n, (name, tokens) in enumerate(TOKENS.items())]
    base = masked_lm(tmp_path / "base", ["<a>", "<b>"], 9, cls=cls)
    data = testing.tiny_texts(24, seed=5)
    options = {"vocabulary": "union", "base_model": base}
    keys = []

    def key():
        soup = hf_soup.merge(paths, **options)
        keys.append(content_fingerprint(soup.recipe, soup.setup))
        assert len(set(keys)) == len(keys)

    key()
    soup = hf_soup.merge(paths, strategy="greedy", evaluator=data, **options).save_pretrained(tmp_path / "soup")
    assert hf_soup.load_recipe(soup).base_model.files["model.safetensors"].startswith("xxh3-128/1:")
    tensors = load_file(base / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    key()
    with pytest.raises(IngredientError, match="base"):
        hf_soup.cook(soup, output_dir=tmp_path / "again")

    def exchange(data):
        first, second = (token for token in data["added_tokens"] if token["content"] in ("<b>", "<c>"))
        first["content"], second["content"] = second["content"], first["content"]

    changed_tokenizer(paths[1], exchange, "tokenizer.json")
    key()


def test_other_ways_to_have_different_rows(models, tmp_path):
    """Models of other classes, or with other tables, are reported by the check as without a vocabulary."""
    other = llama(tmp_path / "other", ["<o>"], 3)
    for report in (hf_soup.check([models["a"], other], vocabulary="union"), hf_soup.check([models["a"], other])):
        assert any("other is a LlamaForCausalLM" in problem for problem in report.problems)
    tied = shutil.copytree(other, tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(tied / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if name != "lm_head.weight"}, tied / "model.safetensors")
    assert not hf_soup.check([other, tied], vocabulary="union").ok
    # a base model without a head gives the rows that it has
    bare = masked_lm(tmp_path / "bare", ["<a>", "<own>"], 3, cls=transformers.BertModel)
    soup = hf_soup.merge([models["a"], models["b"]], vocabulary="union", base_model=bare, method="ties", density=0.5)
    assert soup.model.config.vocab_size == len(WORDS) + 5


def test_a_model_with_other_tables(tmp_path):
    """The bias of BART's logits has a number for each token; it is averaged by token, and the soup loads."""
    paths = []
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "vocab_size": len(WORDS)}
    for seed, (name, tokens) in enumerate(TOKENS.items()):
        tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
        transformers.set_seed(seed)
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes))
        tokenizer.add_tokens(tokens)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        torch.nn.init.normal_(model.final_logits_bias)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        paths.append(tmp_path / name)
    soup = hf_soup.merge(paths, vocabulary="union").save_pretrained(tmp_path / "soup")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(soup)
    bias = {}
    for path in (*paths, soup):
        ids = transformers.AutoTokenizer.from_pretrained(path).get_vocab()
        values = load_file(path / "model.safetensors")["final_logits_bias"][0]
        bias[path] = {token: values[index].item() for token, index in ids.items()}
    assert bias[soup]["<b>"] == pytest.approx(bias[paths[1]]["<b>"])
    assert bias[soup]["<x>"] == pytest.approx((bias[paths[0]]["<x>"] + bias[paths[1]]["<x>"]) / 2)
    assert model.final_logits_bias.shape == (1, len(WORDS) + 4)


def test_types_and_names_that_differ(models, tmp_path):
    """A row of a float32 model is not rounded to bfloat16; a base model may have the name of an ingredient."""
    half = transformers.AutoModelForMaskedLM.from_pretrained(models["b"], dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    transformers.AutoTokenizer.from_pretrained(models["b"]).save_pretrained(tmp_path / "half")
    soup = hf_soup.merge([models["a"], tmp_path / "half"], vocabulary="union").save_pretrained(tmp_path / "soup")
    table = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(by_token(soup, table)["<a>"], by_token(models["a"], table)["<a>"], rtol=1e-6, atol=1e-7)
    namesake = masked_lm(tmp_path / "other" / "a", ["<base>"], 9)
    options = {"base_model": namesake, "method": "task_arithmetic"}
    soup = hf_soup.merge([models["a"], models["b"]], vocabulary="base_model", **options)
    ids = transformers.AutoTokenizer.from_pretrained(soup.checkpoints[0].processing_folder).get_vocab()
    assert set(ids) == {*WORDS, "<base>"}


def test_tokens_with_other_roles(tmp_path):
    """Models that end their texts with tokens of their own are joined, and the soup ends with that of the first."""
    paths = []
    for seed, token in enumerate(("<|one|>", "<|two|>")):
        path = llama(tmp_path / f"m{seed}", [], seed)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        tokenizer.add_special_tokens({"eos_token": token})
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        paths.append(path)
    soup = hf_soup.merge(paths, vocabulary="union")
    assert any("the eos_token of m1 is '<|two|>', and the soup takes that of m0" in n for n in soup.plan.report.notes)
    tokenizer = transformers.AutoTokenizer.from_pretrained(soup.save_pretrained(tmp_path / "soup"))
    assert tokenizer.eos_token == "<|one|>"
    assert "<|two|>" in tokenizer.all_special_tokens


def test_saved_soups_are_compared_and_changed(tmp_path):
    """A saved soup is compared with its ingredients, and its recipe is cooked with another seed."""
    cls = transformers.BertForSequenceClassification
    paths = [masked_lm(tmp_path / name, tokens, n, cls=cls) for n, (name, tokens) in enumerate(TOKENS.items())]
    soup = hf_soup.merge(paths, vocabulary="union").save_pretrained(tmp_path / "soup")
    table = hf_soup.compare(soup, test=testing.tiny_texts(12, seed=7)).table()
    assert {"a", "b", "uniform"} <= set(table.split())
    changed = hf_soup.cook(soup, overrides=["seed=1"]).soup
    assert changed.recipe.vocabulary == "union"


def test_a_chat_template_of_ones_own(models, tmp_path):
    """The soup's tokenizer has it instead of that of the ingredients, also when its recipe is cooked again."""
    taught = shutil.copytree(models["a"], tmp_path / "taught")
    tokenizer = transformers.AutoTokenizer.from_pretrained(taught)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(taught)
    template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    soup = hf_soup.merge([taught, taught], chat_template=template).save_pretrained(tmp_path / "soup")
    hf_soup.cook(soup, output_dir=tmp_path / "again")
    for folder in (soup, tmp_path / "again"):
        found = transformers.AutoTokenizer.from_pretrained(folder)
        assert found.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "[hi]"
    with pytest.raises(RecipeError, match="the text of a Jinja template, not 'chatml'"):
        hf_soup.merge([taught, taught], chat_template="chatml")
    chatml = tmp_path / "merge.yml"
    chatml.write_text(f"merge_method: linear\nmodels: [{{model: {taught}}}]\nchat_template: chatml\n")
    folder = hf_soup.cook(chatml, output_dir=tmp_path / "chatml").folder
    found = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "hi"}]
    said = found.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
