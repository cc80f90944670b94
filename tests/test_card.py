"""The card says what happened, and nothing from elsewhere breaks it."""

import markdown_it
import yaml

from hf_soup.evaluation.comparison import Comparison, Difference, Interval, Row
from hf_soup.hub.card import escape, render_card
from hf_soup.types import Ingredient, Recipe


CONFIG = {"architectures": ["BertForSequenceClassification"]}
EVIL = "](javascript:alert(1)) | <img src=x onerror=alert(1)> `x` [a](http://b)"


def test_metadata_is_yaml_and_text_is_the_recipe():
    """The front matter parses; the recipe in the body is the recipe, without the folder it came from."""
    items = (Ingredient("a", "/home/me/a"), Ingredient("b", "me/b", "c" * 40))
    recipe = Recipe(items, (1, 2), versions={"hf_soup": "0"})
    card = render_card(recipe, CONFIG)
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["base_model"] == ["me/b"]
    assert data["pipeline_tag"] == "text-classification"
    block = body.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block)["weights"] == [1, 2]
    assert "/home/me" not in card
    assert "It was not evaluated." in body


def test_scores_are_in_text_and_metadata_also_when_worse():
    """A soup that is worse says so; its test score is in the model index, its validation score is not."""
    sure = {"single": Difference(-0.02, -0.03, -0.01, 0.04)}
    found = {"validation": Interval(0.9, 0.8, 1.0), "test": Interval(0.75, 0.7, 0.8)}
    scores = {name: {"accuracy": score} for name, score in found.items()}
    rows = (Row("a", "chosen", scores, 1, 10), Row("greedy soup", "soup", scores, 1, 10))
    summary = "The greedy soup is worse: -2.0 [-3.0, -1.0] points of accuracy against a."
    differences = {"greedy soup": {"test": sure}}
    comparison = Comparison({"accuracy": True}, {"validation": 10, "test": 20}, rows, differences, summary)
    card = render_card(Recipe((Ingredient("a", "a"),), (1,), versions={"hf_soup": "0"}), CONFIG, comparison)
    data = yaml.safe_load(card.split("---\n", 2)[1])
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == "test"
    assert result["metrics"][0]["value"] == 0.75
    assert "is worse" in card
    assert "| greedy soup |       a | test |                   -2.0 |  [-3.0, -1.0] |     0.040 |" in card
    assert "not evaluated" not in card


def test_names_from_elsewhere_are_only_text():
    """A name with links, HTML and pipes renders as that text: no link, no image, no further cell."""
    trials = [{"tried": EVIL, "score": 0.5, "kept": True, "why": EVIL, "ingredient": EVIL}]
    selection = {"strategy": "greedy", "metric": EVIL, "split": "validation", "dataset": {"rows": 1}, "trials": trials}
    recipe = Recipe((Ingredient(EVIL, "a"),), (1,), selection=selection, versions={"hf_soup": "0"})
    card = render_card(recipe, {"architectures": [EVIL]})
    body = card.split("---\n", 2)[2].split("```yaml")[0]
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "javascript:" not in html.replace("](javascript:alert", "")
    assert "<img" not in html
    assert 'href="http://b"' not in html
    rows = [line for line in html.split("<tr>")[1:] if "onerror" in line]
    assert {row.count("<td") for row in rows} == {0, 3, 6}


def test_escape():
    """Every character that Markdown reads is escaped; line breaks become spaces."""
    assert escape("a|b\nc`d") == "a\\|b c\\`d"
