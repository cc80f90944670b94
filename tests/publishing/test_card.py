"""The model card states what happened, and untrusted names and values cannot break it."""

import re
from importlib.resources import files

import jinja2.meta
import markdown_it
import pytest
import yaml
from PIL import Image

from hf_soup import testing
from hf_soup.comparison.comparison import Comparison, Difference, ModelScores
from hf_soup.display.tables import escape
from hf_soup.metrics.statistics import Interval
from hf_soup.plugins import load_module, names
from hf_soup.publishing.bases import ModelTree
from hf_soup.publishing.card import CardContent, render_card
from hf_soup.publishing.facts import Facts, License
from hf_soup.publishing.results import evaluation_results
from hf_soup.types import DataDescription, Ingredient, Recipe, Selection, StatisticsRecord, Trial


CONFIG = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}
EVIL = "](javascript:alert(1)) | <img src=x onerror=alert(1)> `x` [a](http://b) www.b.com ``` x"
TWO = (Ingredient("a", "/home/me/a"), Ingredient("b", "me/b", "c" * 40))
VERSIONS = {"hf_soup": "0"}


def compared(name="greedy soup", *, value=-0.02, low=-0.03, high=-0.01, role="soup", single="a"):
    """A comparison with one soup and one single model."""
    sure = {"single": Difference(value, low, high, 0.04)}
    found = {"validation": Interval(0.9, 0.8, 1.0), "test": Interval(0.75, 0.7, 0.8)}
    scores = {part: {"accuracy": score} for part, score in found.items()}
    models = (ModelScores(single, "chosen", scores, 1, 10), ModelScores(name, role, scores, 1, 10))
    summary = f"The {name} is worse: -2.0 [-3.0, -1.0] points of accuracy against {single}."
    sizes = {"validation": 10, "test": 20}
    return Comparison(
        {"accuracy": True}, sizes, models, {name: {"test": sure}}, summary, sources={"test": "glue/sst2"}
    )


def parts(card):
    """The metadata of a card, and its text as HTML and as Markdown."""
    _, front, body = card.split("---\n", 2)
    html = markdown_it.MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(body)
    return yaml.safe_load(front), html, body


def test_the_template_shows_only_what_there_is():
    """Every name in the template exists, since Jinja silently renders an unknown name as nothing."""
    text = (files("hf_soup.publishing") / "templates" / "card.md").read_text(encoding="utf-8")
    tree = jinja2.Environment().parse(text)
    named = {node.attr for node in tree.find_all(jinja2.nodes.Getattr) if getattr(node.node, "name", "") == "card"}
    content = CardContent(Recipe(TWO, (1, 2)), CONFIG, ModelTree((), (), (), ()))
    assert {name for name in named if not hasattr(content, name)} == set()
    functions = {"md", "code", "fence", "link", "commit", "repository", "table", "trial_row"}
    assert jinja2.meta.find_undeclared_variables(tree) == {"card", "card_data", "shown", *functions}


def test_metadata_is_yaml_and_text_is_the_recipe():
    """The front matter is valid YAML, and the recipe in the text has the weights but no local paths."""
    card = render_card(Recipe(TWO, (1, 2), versions=VERSIONS), CONFIG)
    data, html, body = parts(card)
    assert data["base_model"] == ["me/b"]
    assert data["base_model_relation"] == "merge"
    assert data["pipeline_tag"] == "text-classification"
    assert data["library_name"] == "transformers"
    assert data["tags"] == ["merge", "model-soup", "hf_soup"]
    assert "license" not in data
    block = body.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block)["weights"] == [1, 2]
    assert "/home/me" not in card
    assert "It was not evaluated." in body
    assert "It was not measured" in body
    assert f'/me/b/tree/{"c" * 40}">me/b</a></td>' in html
    assert "Its classes are bad, good." in body


def test_weights_of_each_module_have_a_column():
    """The table of ingredients shows commits and weights, with a column for each module that has its own."""
    rows = {"": (1, 2), "classifier": (1, 0)}
    _, html, _ = parts(render_card(Recipe(TWO, rows, versions=VERSIONS), CONFIG))
    assert "<th>weight of the rest</th>" in re.sub(r' style="[^"]*"', "", html)
    assert "<th>weight of classifier</th>" in re.sub(r' style="[^"]*"', "", html)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells[:4] == ["a", "1", "1", "local"]
    assert cells[5:8] == ["2", "0", "ccccccc"]


def test_scores_are_in_text_and_metadata_also_when_worse():
    """The scores of a soup are shown even if they are worse; only its test score is in the model index."""
    recipe = Recipe(TWO, (1, 1), selection=Selection("greedy"), versions=VERSIONS)
    data, html, _ = parts(render_card(recipe, CONFIG, compared(), repo_id="me/soup"))
    (result,) = data["model-index"][0]["results"]
    assert data["model-index"][0]["name"] == "soup"
    assert result["dataset"] == {"name": "test", "type": "glue/sst2", "split": "test"}
    assert result["task"]["type"] == "text-classification"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.75}]
    assert "On 20 test examples its accuracy is 75.0 % [70.0, 80.0]. The greedy soup is worse: -2.0" in html
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert ["greedy soup", "a", "test", "-2.0", "[-3.0, -1.0]", "0.040"] in [
        cells[i : i + 6] for i in range(len(cells))
    ]
    assert "not evaluated" not in html
    assert "less than about 1.0 points of accuracy are not significant" in html


@pytest.mark.parametrize(
    ("strategy", "comparison", "known"),
    [
        ("greedy", compared("greedy soup"), True),
        (None, compared("uniform soup", role="uniform"), True),
        ("greedy", compared("mine"), True),
        ("greedy", compared("uniform soup", role="uniform"), False),
    ],
)
def test_the_score_is_that_of_this_soup(strategy, comparison, known):
    """The score of the model index is that of the soup itself, not of another model in the comparison."""
    selection = Selection(strategy) if strategy else None
    recipe = Recipe(TWO, (1, 1), selection=selection, versions=VERSIONS)
    data, _, body = parts(render_card(recipe, CONFIG, comparison))
    assert ("model-index" in data) == known
    assert ("It was not evaluated" in body) != known


def test_licences_and_languages_are_those_of_the_ingredients():
    """Licence, languages and data sets common to all ingredients become metadata; other licences are only listed."""
    recipe = Recipe(TWO, (1, 1), versions=VERSIONS)
    agreed = Facts(License("mit"), {}, ("en",), ("glue",))
    data, _, body = parts(render_card(recipe, CONFIG, facts=agreed))
    assert (data["license"], data["language"], data["datasets"]) == ("mit", ["en"], ["glue"])
    assert "licences" not in body
    data, _, body = parts(render_card(recipe, CONFIG, facts=Facts(License(), {"mit": ("a",), "gpl-3.0": ("b",)})))
    assert "license" not in data
    assert "mit (a); gpl-3.0 (b)" in body


def test_names_from_elsewhere_are_only_text():
    """Markup in names renders as plain text, without links, images or additional cells."""
    trials = (Trial(EVIL, True, EVIL, score=0.5, ingredient=EVIL),)
    selection = Selection("greedy", metric=EVIL, split=EVIL, dataset=DataDescription(rows=1), trials=trials)
    base = Ingredient(f"{EVIL} base", "private")
    items = (Ingredient(EVIL, "a"), Ingredient(EVIL * 2, "memory"))
    recipe = Recipe(items, {"": (1, 1), EVIL: (1, 0)}, base_model=base, selection=selection, versions=VERSIONS)
    config = {"architectures": [EVIL], "id2label": {"0": EVIL, "1": "b"}}
    comparison = compared(EVIL, single=EVIL)
    facts = Facts(License(), {EVIL: (EVIL,)}, (EVIL,), (EVIL,))
    card = render_card(recipe, config, comparison, facts=facts, tags=[EVIL])
    data, html, body = parts(card)
    assert data["language"] == [EVIL]
    assert EVIL in data["tags"]
    assert "<img" not in html
    assert re.findall(r'<a href="(?!https://arxiv)[^"]*', html) == []
    assert "<script" not in html
    widths = {}
    for table in html.split("<table>")[1:]:
        rows = list(table.split("</table>")[0].split("<tr>")[1:])
        widths = {row.count("<td") + row.count("<th") for row in rows}
        assert len(widths) == 1
    (block,) = re.findall(r"^(`{4,})yaml\n(.*?)^\1$", body, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block[1])["ingredients"][0]["name"] == EVIL


def test_other_values_from_elsewhere_are_only_text():
    """Invalid numbers and commits, and methods with markup, render as plain text; lone surrogates can be written."""
    html_of = "<img src=x onerror=alert(1)>"
    items = (Ingredient("a", "me/a", html_of), Ingredient("b", html_of, "c" * 40), Ingredient("c", "a/b", "HEAD"))
    batchnorm = StatisticsRecord(DataDescription(rows=html_of), file="x.safetensors")
    selection = Selection(f"`{html_of}`\n\n{html_of}", score=0.5)
    recipe = Recipe(
        items, (1, 1, 1), f"a:`{html_of}", batchnorm=batchnorm, selection=selection, versions={"\ud800": "x"}
    )
    config = {"architectures": "\ud800", "id2label": {"0": "\ud800", "1": html_of}}
    bases = [["a/b) [x](http://y"], [], []]
    card = render_card(recipe, config, compared("\ud800", single="$$\ud800"), tags=["\ud800"], bases=bases)
    assert "\ufffd" in card.encode().decode()
    _, html, _ = parts(card)
    assert "<img" not in html
    assert re.findall(r'<a href="([^"]*)', html) == []


@pytest.mark.parametrize("config", [{"architectures": {}}, {"architectures": [[1]]}, {"architectures": [None]}, {}])
def test_a_config_of_other_types_has_a_card(config):
    """A configuration with values of unexpected types yields a card that speaks of a model."""
    assert "# Model soup of 2 a model models" in render_card(Recipe(TWO, (1, 1), versions=VERSIONS), config)


def test_escape():
    """Characters with a meaning in Markdown are escaped, line breaks become spaces, and addresses are not links."""
    assert escape("a|b\nc`d") == "a\\|b c\\`d"
    assert escape("&lt;b&gt; $$x$$") == "\\&lt;b\\&gt; \\$\\$x\\$\\$"
    assert escape("http://x www.y WWW.z") == "http:\\//x www\\.y www\\.z"


def test_what_cannot_be_cooked_again_is_said():
    """The card says why a soup cannot be rebuilt: ingredients in memory, private ones or local folders."""
    for source, told in (("memory", "came from memory"), ("private", "private and not named"), ("runs/x", "folder")):
        recipe = Recipe((Ingredient("x", source), TWO[1]), (1, 1), versions=VERSIONS)
        assert told in parts(render_card(recipe, CONFIG))[2]
    assert "folder" not in parts(render_card(Recipe(TWO[1:], (1,), versions=VERSIONS), CONFIG))[2].split("bash")[1]


def test_a_benchmark_needs_a_score():
    """The file for a leaderboard holds the score on the test set."""
    recipe = Recipe(TWO, (1, 1), selection=Selection("greedy"), versions=VERSIONS)
    (entry,) = yaml.safe_load(evaluation_results(compared(), recipe, "nyu-mll/glue:sst2"))
    assert entry["dataset"] == {"id": "nyu-mll/glue", "task_id": "sst2"}
    assert entry["value"] == 0.75
    assert entry["notes"] == "accuracy on 20 examples"


@pytest.mark.parametrize("task", names("task"))
def test_the_code_of_every_card_runs(tmp_path, monkeypatch, capsys, task):
    """The usage example of a card runs unchanged, for every task."""
    monkeypatch.chdir(tmp_path)
    module = load_module("task", task)
    model, processing_class = testing.model_for(module)
    model.save_pretrained(tmp_path / "soup")
    processing_class.save_pretrained(tmp_path / "soup")
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    sentence_class = module.AUTO_CLASS if module.AUTO_CLASS == "SentenceTransformer" else None
    card = render_card(Recipe(TWO, (1, 1), versions=VERSIONS), config, repo_id="soup", sentence_class=sentence_class)
    body = parts(card)[2]
    code = body.split("```python\n")[1].split("```")[0]
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_a_model_without_a_task_has_code_too():
    """A model that fits no task is loaded by its class in the usage example, or else by AutoModel."""
    body = parts(
        render_card(Recipe(TWO, (1, 1), versions=VERSIONS), {"architectures": ["BertForNextSentencePrediction"]})
    )[2]
    assert 'BertForNextSentencePrediction.from_pretrained("FOLDER_OR_HUB_ID")' in body
    data, _, body = parts(render_card(Recipe(TWO, (1, 1), versions=VERSIONS), {"architectures": ["Unheard"]}))
    assert "AutoModel.from_pretrained" in body
    assert "pipeline_tag" not in data


def test_a_sentence_is_of_this_soup():
    """If a comparison has several soups, the card quotes the sentence about the published one."""
    scores = {"test": {"accuracy": Interval(0.75, 0.7, 0.8)}}
    models = (ModelScores("greedy soup", "soup", scores, 1, 1), ModelScores("uniform soup", "uniform", scores, 1, 1))
    summary = "The greedy soup of 2 is better.\nThe uniform soup of 2 is worse."
    comparison = Comparison({"accuracy": True}, {"test": 20}, models, {}, summary)
    body = parts(render_card(Recipe(TWO, (1, 1), versions=VERSIONS), CONFIG, comparison))[2]
    assert "[70.0, 80.0]. The uniform soup of 2 is worse." in body


def test_a_link_leads_to_a_commit_alone():
    """Only a repository at a valid commit becomes a link; other revisions and sources do not."""
    base = Ingredient("base", "a/b", "x) [evil](javascript:alert(1)")
    odd = Ingredient("odd", "no id at all", "y")
    _, html, _ = parts(render_card(Recipe((*TWO, odd), (1, 1, 1), base_model=base, versions=VERSIONS), CONFIG))
    assert "javascript" not in "".join(re.findall(r'href="[^"]*"', html))
