"""Tests of `hf_soup.analyze`, its report and its commands."""

import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

import hf_soup
from hf_soup import testing
from hf_soup.analysis.advice import Advice, Piece
from hf_soup.analysis.report import Section, render_html
from hf_soup.analysis.result import Analysis
from hf_soup.api.analyze import analysis_cost
from hf_soup.cli import main
from hf_soup.display.blocks import TableBlock, TextBlock, blocks
from hf_soup.errors import RecipeError
from hf_soup.options import PARTS, AnalyzeOptions


@pytest.fixture(scope="module")
def analysis(text_runs):
    """An analysis of three models with all parts."""
    examples = testing.tiny_texts(20, seed=5)
    return hf_soup.analyze(text_runs, evaluator=examples, base_model=text_runs[0], parts=PARTS, points=3)


def test_parts(text_runs, analysis):
    """Without examples only similarity is measured, all parts can be requested, and invalid requests are refused."""
    assert hf_soup.analyze(text_runs).to_dict().keys() == {"similarity"}
    assert set(analysis.to_dict()) == set(PARTS)
    with pytest.raises(RecipeError, match='did you mean "plane"'):
        hf_soup.analyze(text_runs, parts=["plain"])
    with pytest.raises(RecipeError, match="needs predictions"):
        hf_soup.analyze(text_runs, parts=["diversity"])


def test_the_report_is_one_file(analysis, tmp_path):
    """The report has an HTML page with all pictures inside, Markdown with nine pictures, and its numbers as JSON."""
    page = analysis.save(tmp_path / "report")
    text = page.read_text()
    assert page.name == "index.html"
    pictures = re.findall(r'<img src="(data:image/png;base64,)?', text)
    assert len(pictures) == 9
    assert all(pictures)
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", text) == []
    assert "http" not in re.sub(r"data:image[^\"]*", "", text)
    markdown = (tmp_path / "report" / "analysis.md").read_text()
    shown = re.findall(r"!\[\w+\]\((.*?)\)", markdown)
    assert len(shown) == 9
    assert all((tmp_path / "report" / name).is_file() for name in shown)
    assert set(json.loads((tmp_path / "report" / "analysis.json").read_text())) == set(PARTS)
    headings = re.findall(r"^## (.*)", markdown, re.MULTILINE)
    assert len(headings) == len(PARTS)
    assert all(len(heading.split()) > 4 for heading in headings)  # a finding, not a single word


class Tables(HTMLParser):
    """Collects tags and the number of cells, and keeps a list of open tags."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.tags = [], 0, set()

    def handle_starttag(self, tag, attrs):
        """Record an opening tag."""
        self.tags.add(tag)
        self.cells += tag in ("td", "th")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close the tag that was opened last."""
        assert self.open.pop() == tag


def test_names_are_only_text():
    """A model name that looks like HTML is shown as text."""
    evil = "<img src=x onerror=alert(1)>|x"
    table = f"| model | score |\n|---|--:|\n| {evil.replace('|', chr(92) + '|')} | 1.0 |\n\nA sentence of {evil}."
    page = render_html(evil, evil, [Section("similarity", evil, table, (), {})])
    reader = Tables()
    reader.feed(page)
    assert reader.open == []
    assert "img" not in reader.tags
    assert reader.cells == 4
    assert "&lt;img src=x" in page


def test_blocks():
    """`blocks` splits Markdown into tables with alignment and escaped bars, paragraphs and commands."""
    parts = blocks("| a | b |\n|---|--:|\n| x\\|y | 2 |\n\nText.\n\n    hf-soup merge")
    assert parts[0] == TableBlock([["a", "b"], ["x|y", "2"]], right=[False, True])
    assert parts[1] == TextBlock("Text.", code=False)
    assert parts[2] == TextBlock("hf-soup merge", code=True)


def test_cost_is_told_before():
    """`analysis_cost` gives the largest number of models that each part may score."""
    costs = analysis_cost(8, AnalyzeOptions(parts=PARTS), modules=8)
    assert costs == {
        "similarity": 0,
        "diversity": 9,
        "landscape": 9 + 28 * 9,
        "plane": 121,
        "contribution": 255,
        "modules": 9 + 16,
        "advice": 9 + 28,
    }


def test_command_line(text_runs, tmp_path):
    """`analyze` writes a report, `--dry-run` prints the cost, `advise` prints a verdict, errors exit with code 1."""
    testing.tiny_texts(20, seed=5).to_csv(tmp_path / "validation.csv")
    folders, data = [str(run) for run in text_runs], ["--data", str(tmp_path)]
    call = CliRunner().invoke
    done = call(main, ["analyze", *folders, *data, "--points", "3", "-o", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / "index.html").is_file()
    assert "Saved to" in done.output
    dry = call(main, ["analyze", *folders, *data, "--dry-run", "--json"])
    assert json.loads(dry.output) == analysis_cost(
        3, AnalyzeOptions(parts=("similarity", "diversity", "landscape", "advice"))
    )
    told = call(main, ["advise", *folders, *data, "--json"])
    assert told.exit_code == 0
    assert json.loads(told.stdout)["ok"] is False  # these models are unrelated
    assert call(main, ["advise", *folders, "-q"]).stdout.strip() == "no soup"
    wrong = call(main, ["analyze", *folders, "--part", "plane"])
    assert wrong.exit_code == 1
    assert "needs predictions" in wrong.output


def test_a_sweep_knows_its_base(tmp_path, text_runs):
    """For a sweep, changes are measured from the start of its runs."""
    given = {"validation": testing.tiny_texts(12, seed=1), "training_args": {"max_steps": 2}}
    runs = hf_soup.sweep(
        text_runs[0], testing.tiny_texts(24), space={"seed": [0, 1]}, output_dir=tmp_path / "runs", **given
    )
    assert hf_soup.analyze(runs).similarity.base == "start"


def test_each_part_by_itself(text_runs):
    """A part requested alone equals the same part of a full analysis."""
    examples = testing.tiny_texts(20, seed=5)

    def part(name, **options):
        return getattr(hf_soup.analyze(text_runs, evaluator=examples, parts=name, **options), name)

    whole = hf_soup.analyze(text_runs, evaluator=examples, parts=PARTS, points=3)
    assert hf_soup.analyze(text_runs, parts="similarity").similarity.table() == whole.similarity.table()
    assert part("diversity") == whole.diversity
    assert part("landscape", points=3) == whole.landscape
    assert part("plane", points=3).points == whole.plane.points
    assert part("contribution") == whole.contribution
    assert part("modules") == whole.modules


def test_ctrl_c_leaves_what_is_there(text_runs, monkeypatch, tmp_path):
    """An interruption in a later part keeps the earlier ones, and the report is written from them."""
    from hf_soup.api import analyze as analyze_module

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(analyze_module, "give_advice", interrupted)
    with pytest.warns(UserWarning, match="interrupted after similarity, diversity, landscape;"):
        analysis = hf_soup.analyze(text_runs, evaluator=testing.tiny_texts(20, seed=5), points=3)
    assert analysis.landscape.complete
    assert analysis.advice is None
    assert analysis.save(tmp_path / "report").is_file()


def test_ctrl_c_before_the_only_part_is_no_result(text_runs, monkeypatch):
    """An interruption of the only requested part gives a warning, and that part is None."""
    from hf_soup.api import analyze as analyze_module

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(analyze_module, "scan_plane", interrupted)
    with pytest.warns(UserWarning, match="interrupted after similarity;"):
        analysis = hf_soup.analyze(text_runs, evaluator=testing.tiny_texts(20, seed=5), parts="plane", points=3)
    assert analysis.plane is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": []}, "at least one part"),
        ({"budget": 0}, "1 model or more"),
        ({"parts": ["landscape"]}, "two or more"),
    ],
)
def test_wrong_calls(text_runs, options, message):
    """An empty list of parts, a budget of 0, and a landscape of one model are refused."""
    runs = text_runs[:1] if options.get("parts") else text_runs
    with pytest.raises(RecipeError, match=message):
        hf_soup.analyze(runs, evaluator=testing.tiny_texts(10), **options)


def test_data_is_json(text_runs, tmp_path):
    """Numbers that JSON lacks, such as NaN, are not written to the JSON file."""
    page = hf_soup.analyze([text_runs[0], text_runs[0]]).save(tmp_path / "report")
    text = (page.parent / "analysis.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


def piece(topic, command="", *, stops=False):
    """A piece of advice whose text names its topic."""
    return Piece(topic, f"Advice on {topic}.", "1 number", "high", command, stops)


@pytest.mark.parametrize("average", [False, True])
def test_a_report_begins_with_what_to_do_and_does_not_contradict_it(tmp_path, average):
    """The report begins with verdict and command, each once; if they are against a soup, no advice recommends one."""
    command = "hf-soup merge a b -o soup" if average else "hf-soup check a b --deep"
    verdict = "Make a soup." if average else "Do not average all of them."
    pieces = (piece("start", command, stops=not average), piece("number", "hf-soup merge a b -o soup"))
    analysis = Analysis(("a", "b"), advice=Advice(("a", "b"), verdict, command, pieces))
    page = analysis.save(tmp_path / "report").read_text()
    body = re.sub(r"(?s).*<body>|<script>.*", "", page)
    text = re.sub(r"<[^>]+>", "", body).split("\n")
    said = [line.strip() for line in text if line.strip()]
    assert said[:3] == ["Analysis of 2 models", verdict, command]
    markdown = (tmp_path / "report" / "analysis.md").read_text()
    for whole in (body, markdown, analysis.table()):
        assert whole.count(verdict) == 1
        assert whole.count(command) == 1
        assert ("hf-soup merge" in whole) == average
        assert ("Advice on number." in whole) == average
        assert "Advice on start." in whole
    assert analysis.table().startswith(f"{verdict}\n\n    {command}\n\n## ")
    assert analysis.findings == [verdict.removesuffix(".")]
