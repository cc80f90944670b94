"""Soups that are published: `verify`, `card`, `tree`; and `install-extension`, for `hf soup ...`."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import click

from ..checkpoints.staging import staged_file
from ..checkpoints.targets import as_output_error
from ..errors import OutputError
from ..version import __version__
from .options import allow_code_option, allow_pickle_option, output_options
from .output import result
from .results import show


# Where the `hf` command looks for extensions.
EXTENSION = Path("~/.local/share/hf/extensions/hf-soup/manifest.json")


@click.command("verify")
@click.argument("soup")
@click.option("--device", default="cpu", show_default=True, help="Where to average: cpu, cuda ...")
@allow_pickle_option
@allow_code_option
@output_options
def verify_command(soup: str, device: str, allow_pickle: bool, allow_code: bool, form: str) -> None:
    """Cook SOUP (a Hub id or folder) again from its ingredients and compare every tensor. Exit code 1 if any differs.

    \b
    hf-soup verify user/soup
    hf-soup verify user/soup@v1.0
    """
    import hf_soup

    verification = hf_soup.verify(soup, device=device, allow_pickle=allow_pickle, allow_code=allow_code)
    different = []
    for difference in verification.different:
        largest = difference.largest if math.isfinite(difference.largest) else None  # JSON has no infinity
        different.append({**difference._asdict(), "largest": largest})
    data = {"ok": verification.ok, **vars(verification), "different": different}
    show(form, "verified" if verification.ok else "not verified", data, verification.table())
    if not verification.ok:
        sys.exit(1)


@click.command("card")
@click.argument("soup")
def card_command(soup: str) -> None:
    """Show the model card of SOUP (a folder or Hub id), as Markdown."""
    from ..publishing.card import load_card

    result(load_card(soup))


@click.command("tree")
@click.argument("soup")
@output_options
def tree_command(soup: str, form: str) -> None:
    """Show what SOUP (a folder or Hub id) was made from: ingredients, base models, and soups within soups."""
    import hf_soup

    root = hf_soup.tree(soup)
    show(form, "\n".join(child.name for child in root.children), root.to_dict(), root.table())


@click.command("install-extension")
@click.option("--remove", is_flag=True, help="Take it away again.")
def install_extension_command(remove: bool) -> None:
    """Make `hf soup ...` the same as `hf-soup ...`, by telling the `hf` command of it."""
    manifest = EXTENSION.expanduser()
    if remove:
        _remove_extension(manifest)
        return
    places = [os.path.dirname(sys.executable), sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    executable = shutil.which("hf-soup", path=os.pathsep.join(places))
    if executable is None:
        raise OutputError("there is no command hf-soup that `hf` could run: install the package.")
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
    result(f"`hf soup` now runs {executable}. `hf-soup install-extension --remove` takes it away.")


def _remove_extension(manifest: Path) -> None:
    if not manifest.is_file():
        result("There was nothing to remove.")
        return
    with as_output_error(manifest):
        manifest.unlink()
        if not any(manifest.parent.iterdir()):
            manifest.parent.rmdir()
    result("Removed: `hf soup` is gone.")
