"""The pages agree with the code: generated parts, the file tree, quoted errors, links and commands of benchmarks."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "hf_soup"
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def test_generated_pages_are_what_the_code_says():
    """The generated pages are up to date; after a change of an option, a default or a docstring, run `make docs`."""
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_has_a_table_or_nothing_to_say():
    """Every command has a section in `docs/command_line.md`, with a table of options if it has options of its own."""
    from hf_soup.cli import main

    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert re.search(rf"^## .*`hf-soup {name}[ `]", text, re.MULTILINE), f"no section for hf-soup {name}"
        own = [item for item in command.params if item.param_type_name == "option" and item.name != "form"]
        assert not own or f"<!-- options: {name} -->" in text, f"no table of options for hf-soup {name}"


def test_the_map_names_every_folder():
    """The map in the README has a described line for every folder of the package and the project, and for no other."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(part for part in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if part.startswith("hf_soup/"))
    lines = re.findall(r"^( *)(\w+/)(.*)$", block, re.MULTILINE)
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name.strip("/") for indent, name, _ in lines if indent} == folders
    assert {name.strip("/") for indent, name, _ in lines if not indent} == {
        "hf_soup",
        "recipes",
        "examples",
        "benchmarks",
        "docs",
        "tests",
    }
    assert all(clause.strip() for indent, _, clause in lines if indent)


def test_every_file_says_what_it_is_for():
    """`docs/architecture.md` lists every module with a description, and no description is empty or repeated."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`[\w.]+`\]\(\.\./(hf_soup/[\w/.]+)\) \| (.*) \|$", text, re.MULTILINE)
    files = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert {name for name, _ in rows} == files
    clauses = [clause for _, clause in rows]
    assert all(clauses)
    assert len(set(clauses)) == len(clauses)


def test_files_that_docstrings_name_are_there():
    """Every file of the package or the project that a module docstring names exists."""
    folders = ("hf_soup", "tests", "benchmarks", "docs", "examples")
    files = [path.as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    absent = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        named = re.findall(r"`([\w/]+\.py)`", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        absent += [(path.name, name) for name in named if not any(file.endswith(f"/{name}") for file in files)]
    assert not absent


def literals():
    """All string literals of the package, f-strings included, with a null character for each interpolated value."""
    hole = "\0"

    def text_of(node):
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else hole
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text_of, node.values))
        return hole

    return [
        text_of(node)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]


def quoted(page):
    """The messages that a page explains: the first cell of each row of a table whose header starts with `it says`."""
    found, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside = line.startswith("| it says") or (inside and line.startswith("|"))
        message = re.match(r"\| `+ ?(.*?) ?`+ \|", line.replace("\\|", "¦"))
        if inside and message:
            found.append(message[1].replace("¦", "|"))
    return found


def test_quoted_messages_are_in_the_source():
    """Every message quoted on the troubleshooting page occurs in the package; `...` stands for names and numbers."""
    page = "troubleshooting.md"
    messages, source = quoted(DOCS / page), literals()
    assert len(messages) > 80
    for message in messages:
        parts = [part.strip() for part in message.split("...")]
        pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
        assert any(pattern.search(text) for text in source), f"{page} quotes what hf_soup does not say: {message}"


def anchors(page):
    """The anchors of a page's headings, as the site and code hosts form them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every relative link leads to an existing file and, if it names an anchor, to an existing heading."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{page.name}: {target} has no such heading"


def test_every_page_is_in_the_navigation():
    """Every page is in the navigation of `mkdocs.yml`, and every entry of the navigation is a page."""
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(entry):
        if isinstance(entry, str):
            return [entry]
        return [name for item in (entry.values() if isinstance(entry, dict) else entry) for name in files(item)]

    named = files(yaml.safe_load(text)["nav"])
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert there - set(named) == set(), "mkdocs.yml has no entry for these pages"
    assert set(named) - there == set(), "mkdocs.yml names pages that are not there"


def test_commands_of_the_benchmarks_are_there():
    """The page on benchmarks has a command for every benchmark script, and each file that a command runs exists."""
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(?:python|hf-soup cook) ((?:benchmarks|recipes|examples)/\S+)", text, re.MULTILINE)
    assert {"benchmarks/merge_speed.py", "recipes/digits-vit.yaml"} <= set(commands)
    for name in commands:
        assert (ROOT / name).is_file(), name
    unnamed = [path.name for path in (ROOT / "benchmarks").glob("*.py") if f"benchmarks/{path.name}" not in commands]
    assert not unnamed, f"docs/benchmarks.md does not name {', '.join(unnamed)}"


def test_the_site_builds_without_warnings(tmp_path):
    """The site builds in strict mode, in which broken links and pages missing from the menu are errors."""
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs the extra `docs`")
    done = subprocess.run(  # not with --quiet, which leaves warnings uncounted
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))  # there is also a page for addresses that are not found
    for page in pages:
        fetched = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text(encoding="utf-8")
        )
        assert not fetched, f"{page.name} takes {fetched[0]} from the network"
