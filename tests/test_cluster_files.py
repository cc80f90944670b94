"""The files for clusters on `docs/cluster.md`, and the headers of examples, are what their programs read."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(title, language):
    """The code blocks of one section."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def is_command(words, name="merge"):
    """Whether the words after the name are a command of hf-soup that can be understood."""
    from hf_soup.cli.commands import main

    main.commands[name].make_context(name, list(words), resilient_parsing=False)


def test_the_script_for_slurm_is_a_script():
    """Bash can read it, its directives come first, and its command has only known options."""
    (script,) = blocks("Slurm", "bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[1 : 1 + len(directives)] == directives
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in directives)
    words = shlex.split(lines[-1])
    assert words[:4] == ["srun", "--kill-on-bad-exit=1", "hf-soup", "merge"]
    is_command(words[4:])


def test_the_file_for_skypilot_is_a_task():
    """It is YAML with the keys of a task, and bash can read its command."""
    (text,) = blocks("SkyPilot", "yaml")
    task = yaml.safe_load(text)
    assert set(task) == {"name", "num_nodes", "resources", "setup", "run"}
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
    words = shlex.split(task["run"])
    assert words[0] == "torchrun"
    is_command(words[words.index("merge") + 1 :])


@pytest.mark.parametrize("number", [0, 1])
def test_the_commands_for_jobs_are_understood(number, hub):
    """`hf jobs` resolves each command, and starts nothing."""
    _, script = blocks("Hugging Face Jobs", "bash")
    words = shlex.split(script.splitlines()[number])
    place = 4 if words[2] == "uv" else 3
    hf = Path(sys.executable).with_name("hf")
    done = subprocess.run(
        [hf, *words[1:place], "--dry-run", *words[place:]], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert words[words.index("--flavor") + 1] in done.stdout
    if "bash" in words:
        inner = shlex.split(words[-1])
        is_command(inner[inner.index("merge") + 1 :])


def test_the_commands_that_start_jobs_are_understood():
    """Their options exist."""
    script, _ = blocks("Hugging Face Jobs", "bash")
    commands = [shlex.split(line) for line in script.replace("\\\n", " ").splitlines()]
    ours = [words for words in commands if words[0] == "hf-soup"]
    assert [words[1] for words in ours] == ["sweep", "merge"]
    for words in ours:
        is_command(words[2:], words[1])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_what_it_needs(example):
    """The header is one of PEP 723, and its dependencies cover the imports."""
    text = example.read_text(encoding="utf-8")
    block = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", text)[1]
    header = tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert header["requires-python"] == project["requires-python"]
    (dependency,) = header["dependencies"]
    name, extras = re.fullmatch(r"([\w-]+)\[([\w,-]+)\]", dependency).groups()
    assert name == project["name"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    installed = {re.split(r"[>=<]", item)[0] for item in project["dependencies"]} | {"hf_soup"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        else:
            continue
        assert all(found in installed or found in sys.stdlib_module_names for found in names)
