"""Every code block of the README and the pages runs, or is preceded by a comment with the reason why it does not.

The blocks of a page run in order and in one folder; its Python blocks share a namespace. The folder holds tiny
fine-tunes (run1, run2, run3, my_runs/run3), their base model (my_base) and made-up data (my_data, my_images,
tweets.csv); the local Hub has the models and data that the pages name. `<!-- not run: REASON -->` before a block
excludes it.
"""

import contextlib
import glob
import os
import re
import shlex
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import datasets
import peft
import pytest
import torch
import transformers
from click.testing import CliRunner
from huggingface_hub import HfApi
from markdown_it import MarkdownIt

import hf_soup
from hf_soup import testing
from hf_soup.cli import main
from hf_soup.formats.cook_file import load_cook_file


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("python", "bash", "console", "yaml")  # blocks in other languages are output, formulas and file trees
REASON = re.compile(r"<!-- not run: (\S.+?) -->\s*\Z", re.DOTALL)
OWNERS = ("user", "google-bert", "google", "sentence-transformers", "dair-ai", "nyu-mll")


class Block(NamedTuple):
    """A fenced block: its language, its text, the line where the text starts, and the reason not to run it."""

    language: str
    text: str
    line: int
    reason: str | None


def blocks_of(page):
    """The code blocks of a page in order, including those in lists."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found = []
    for token in MarkdownIt("commonmark").parse("\n".join(lines)):
        if token.type == "fence" and token.info.split()[:1] and token.info.split()[0] in RUN:
            start = token.map[0]
            above = "\n".join(lines[:start]).rstrip()
            comment = REASON.search(above[above.rfind("<!--") :]) if above.endswith("-->") else None
            found.append(Block(token.info.split()[0], token.content, start + 2, comment and comment[1]))
    return found


RUNNABLE = [page for page in PAGES if any(not block.reason for block in blocks_of(page))]


def is_understood(line):
    """Whether `run_bash` can run a line of a bash block."""
    return not line or line.startswith("hf-soup ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_has_a_runner_or_a_reason(page):
    """A console block, or a bash block with a command other than `hf-soup`, gives a reason for not being run."""
    for block in blocks_of(page):
        if block.language == "console":
            assert block.reason, f"{page.name}:{block.line}: nothing runs a console block: write bash, or a reason"
        elif block.language == "bash" and not block.reason:
            odd = [line for line in command_lines(block.text) if not is_understood(line)]
            assert not odd, f"{page.name}:{block.line}: only hf-soup is run here, and no reason is given: {odd[0]}"


def test_output_blocks_have_a_language():
    """Every block is fenced and names its language (`text` for output), so that no code block goes untested."""
    for page in PAGES:
        for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
            assert token.type != "code_block", f"{page.name}:{token.map[0] + 1}: fence this block"
            if token.type == "fence":
                assert token.info in (*RUN, "text"), f"{page.name}:{token.map[0] + 1}: {token.info!r} is no language"


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """A folder with everything that the pages assume to exist."""
    folder = tmp_path_factory.mktemp("kitchen")
    base = testing.tiny_text_model(0)
    testing.save_text_model(base, folder / "my_base")
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for number, place in enumerate(("run1", "run2", "run3")):
        generator = torch.Generator().manual_seed(number)
        moved = {
            name: tensor + 0.003 * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in start.items()
        }
        base.load_state_dict(moved)
        testing.save_text_model(base, folder / place)
    shutil.copytree(folder / "run3", folder / "my_runs" / "run3")
    for seed, name in enumerate(("adapter1", "adapter2")):
        _save_adapter(folder / "my_base", folder / name, seed)
    testing.save_image_model(testing.tiny_image_model(0), folder / "my_vit")
    (folder / "my_data").mkdir()
    for seed, (split, rows) in enumerate((("train", 64), ("validation", 48), ("test", 60))):
        _with_names(testing.tiny_texts(rows, seed)).to_csv(folder / "my_data" / f"{split}.csv")
        for index, row in enumerate(testing.tiny_images(rows // 2, seed=seed)):
            place = folder / "my_images" / split / ("top", "middle", "bottom")[row["label"]]
            place.mkdir(parents=True, exist_ok=True)
            row["image"].save(place / f"{index}.png")
    _with_names(testing.tiny_texts(40, 9)).to_csv(folder / "tweets.csv")
    return folder


def _save_adapter(base, folder, seed):
    """Save a LoRA adapter of a classifier that names its base model relative to the folder in which the pages run."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(folder)
    written = folder / "adapter_config.json"
    written.write_text(written.read_text().replace(str(base), base.name))


def _with_names(texts):
    names = texts.features["label"].names
    return datasets.Dataset.from_dict({"text": texts["text"], "label": [names[label] for label in texts["label"]]})


@pytest.fixture(scope="module")
def world(hub, kitchen):
    """The Hub with the models and data that the pages name, in organizations that the test's user belongs to."""
    hub.add_user(hub.user, hub.token, orgs=OWNERS)
    api = HfApi()

    def upload(repo_id, folder, **where):
        api.create_repo(repo_id, exist_ok=True, **where)
        api.upload_folder(repo_id=repo_id, folder_path=folder, **where)

    for repo_id, name in (
        ("google-bert/bert-base-uncased", "my_base"),
        ("sentence-transformers/all-MiniLM-L6-v2", "my_base"),
        ("google/vit-base-patch16-224-in21k", "my_vit"),
        ("user/run1", "run1"),
        ("user/run2", "run2"),
        ("user/run9", "run3"),
    ):
        upload(repo_id, kitchen / name)
    api.create_tag("user/run2", tag="v1.0")
    upload("dair-ai/emotion", kitchen / "my_data", repo_type="dataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf_soup.merge(["user/run1", "user/run2@v1.0"]).push_to_hub("user/soup")
    yield hub
    for name, repository in list(hub.store.repositories.items()):  # other tests search for similar names
        if repository.namespace in OWNERS:
            hub.store.delete(name)
    hub.add_user(hub.user, hub.token)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page, world, kitchen, tmp_path, monkeypatch):
    """The code blocks of a page run in order without an error."""
    workplace = tmp_path / "work"
    shutil.copytree(kitchen, workplace)
    shutil.copytree(ROOT / "recipes", workplace / "recipes")
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": page.stem}
    for block in blocks_of(page):
        if block.reason:
            continue
        try:
            RUNNERS[block.language](block, namespace)
        except BaseException as error:  # including SystemExit
            told = "".join(traceback.format_exception(error))[-3000:]
            pytest.fail(f"{page.name}:{block.line}: this block does not run\n\n{block.text}\n{told}", pytrace=False)


def run_python(block, namespace):
    """Run a Python block in the page's namespace."""
    with quietly():
        code = compile("\n" * (block.line - 1) + block.text, namespace["__name__"] + ".md", "exec", dont_inherit=True)
        exec(code, namespace)


def run_bash(block, namespace):
    """Run each `hf-soup` command of a block, expanding globs and command substitutions."""
    for line in command_lines(block.text):
        call(line)


def command_lines(text):
    """The commands of a block, with continued lines joined and comments removed."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in lines) if line]


def call(line):
    """Run a command and return its output; assert that it succeeds."""
    line = re.sub(r"\$\((.*?)\)", lambda found: " ".join(call(found[1]).split()), line)
    words = shlex.split(line)
    assert words[0] == "hf-soup", line
    words = [match for word in words[1:] for match in (sorted(glob.glob(word)) if "*" in word else None) or [word]]
    with quietly():
        done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, f"{line}\nexit code {done.exit_code}\n{done.output}"
    return done.stdout


def run_yaml(block, namespace):
    """Load a cook file or a recipe."""
    path = Path("block.yaml")
    path.write_text(block.text, encoding="utf-8")
    if block.text.startswith("hf_soup_recipe"):
        assert hf_soup.load_recipe(path).ingredients
    else:
        load_cook_file(path)


RUNNERS = {"python": run_python, "bash": run_bash, "yaml": run_yaml}


@contextlib.contextmanager
def quietly():
    """Suppress warnings and output, and restore the arguments and the environment, which the command line changes."""
    before, argv = dict(os.environ), sys.argv
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(before)
