"""The commands for published soups, `push`, `verify`, `card` and `lineage`; and `install-extension`."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ..checkpoints.staging import staged_file
from ..checkpoints.targets import as_output_error
from ..errors import OutputError, RecipeError
from ..options import PushOptions
from ..version import __version__
from .options import allow_code_option, allow_pickle_option, options_of, output_options, stream_option
from .output import result
from .ranks import executor_here
from .results import show


# Folder in which the `hf` command looks for extensions.
EXTENSION = Path("~/.local/share/hf/extensions/hf-soup/manifest.json")


@click.command("verify")
@click.argument("soup")
@click.option("--device", default="cpu", show_default=True, help="Device on which to average: cpu, cuda ...")
@stream_option
@allow_pickle_option
@allow_code_option
@output_options
def verify_command(soup: str, form: str, **options: Any) -> None:
    """Cook SOUP (a Hub id or folder) again and compare every tensor. The exit code is 1 if any of them differs.

    \b
    hf-soup verify user/soup
    hf-soup verify user/soup@v1.0
    """
    import hf_soup

    verification = hf_soup.verify(soup, **options)
    different = []
    for difference in verification.different:
        largest = difference.largest if math.isfinite(difference.largest) else None  # JSON has no infinity
        different.append({**difference._asdict(), "largest": largest})
    data = {"ok": verification.ok, **vars(verification), "different": different}
    show(form, "verified" if verification.ok else "not verified", data, verification.table())
    if not verification.ok:
        sys.exit(1)


@click.command("push")
@click.argument("soup")
@click.argument("repo_id")
@click.option(
    "--comparison",
    metavar="FOLDER",
    help="Folder of `compare -o`, whose comparison the card shows; by default the comparison saved with SOUP.",
)
@options_of(PushOptions)
@click.option("--revision", metavar="BRANCH", help="Branch to push to; it is created if it does not exist.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of pushing to the branch.")
@click.option("--license", metavar="ID", help="Licence on the card; by default that of the ingredients.")
@click.option("--tag", "tags", multiple=True, help="Additional tag for the card; may be repeated.")
@click.option(
    "--benchmark", metavar="DATASET:TASK", help="Benchmark of the test set, to whose leaderboard the score is added."
)
@click.option("--max-shard-size", default="50GB", show_default=True, help="Maximum size of a weight file.")
@stream_option
@allow_pickle_option
@allow_code_option
@output_options
def push_command(
    soup: str,
    repo_id: str,
    comparison: str | None,
    private: bool | None,
    allow_pickle: bool,
    allow_code: bool,
    stream: bool | None,
    form: str,
    **options: Any,
) -> None:
    """Push SOUP (a folder made by `merge` or `cook`) to the Hub as REPO_ID, with its recipe and its card.

    \b
    hf-soup push soup user/bert-soup
    hf-soup compare --soup soup --test my_data -o report && hf-soup push soup user/bert-soup --comparison report
    """
    import hf_soup

    from ..api.load import read_comparison
    from ..checkpoints.shard_size import shard_size

    shard_size(options["max_shard_size"])
    given = None
    if comparison is not None:
        given = read_comparison(Path(comparison))
        if given is None:
            raise RecipeError(f"{comparison} has no comparison.json: give the folder that `hf-soup compare -o` made.")
    executor = executor_here("local")
    loaded = hf_soup.load(soup, allow_pickle=allow_pickle, allow_code=allow_code, stream=stream, executor=executor)
    loaded.comparison = given or loaded.comparison
    pushed = loaded.push_to_hub(repo_id, private=private or None, **options)
    url = str(pushed.repo_url)
    show(form, url, {"repo_id": repo_id, "url": url, "commit": pushed.oid}, f"Pushed to {url}")


@click.command("card")
@click.argument("soup")
@output_options
def card_command(soup: str, form: str) -> None:
    """Show the model card of SOUP (a folder or Hub id) as Markdown.

    \b
    hf-soup card soup
    hf-soup card user/soup > README.md
    """
    from huggingface_hub import ModelCard

    from ..publishing.card import load_card

    text = load_card(soup)
    card = ModelCard(text, ignore_metadata_errors=True)
    show(form, text, {"metadata": card.data.to_dict(), "text": card.text}, text)


@click.command("lineage")
@click.argument("soup")
@output_options
def lineage_command(soup: str, form: str) -> None:
    """Show what SOUP (a folder or Hub id) was made from: ingredients, base models, and soups within soups.

    \b
    hf-soup lineage soup
    hf-soup lineage user/soup@v1.0
    """
    import hf_soup

    root = hf_soup.lineage(soup)
    show(form, "\n".join(child.name for child in root.children), root.to_dict(), root.table())


@click.command("install-extension")
@click.option("--remove", is_flag=True, help="Remove the extension again.")
def install_extension_command(remove: bool) -> None:
    """Install `hf soup ...` as another name of `hf-soup ...`, an extension of the `hf` command.

    \b
    hf-soup install-extension
    hf-soup install-extension --remove
    """
    manifest = EXTENSION.expanduser()
    if remove:
        _remove_extension(manifest)
        return
    places = [os.path.dirname(sys.executable), sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    executable = shutil.which("hf-soup", path=os.pathsep.join(places))
    if executable is None:
        raise OutputError("the command hf-soup was not found, which `hf` would run: install the package.")
    entry = {
        "owner": "hf-soup",
        "repo": "hf-soup",
        "repo_id": "hf-soup/hf-soup",
        "short_name": "soup",
        "executable_path": executable,
        "type": "python",
        "installed_at": datetime.now(UTC).isoformat(),
        "description": f"Model soups: average fine-tuned models (hf-soup {__version__})",
        "commit_sha": None,
    }
    with as_output_error(manifest), staged_file(manifest) as aside:
        aside.write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    result(f"`hf soup` now runs {executable}. `hf-soup install-extension --remove` removes it.")


def _remove_extension(manifest: Path) -> None:
    if not manifest.is_file():
        result("There was nothing to remove.")
        return
    with as_output_error(manifest):
        manifest.unlink()
        if not any(manifest.parent.iterdir()):
            manifest.parent.rmdir()
    result("Removed: `hf soup` is gone.")
