"""The command line: argv -> the verbs of `hf_soup`. Results go to stdout, progress, notes and errors to stderr.

Exit codes: 0 done, 1 an error in what was given, 2 a wrong call.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from ..errors import SoupError
from ..untrusted import printable
from ..version import __version__
from . import analysis, published, scores, soups, training
from .stderr import only_ours


class Group(click.Group):
    """Turns the errors that users can put right into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except SoupError as error:
            raise click.ClickException(printable(str(error))) from None
        except KeyboardInterrupt:
            click.echo("Interrupted. What is whole is kept: the same command goes on from there.", err=True)
            sys.exit(130)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 119})
@click.version_option(__version__, prog_name="hf-soup")
@click.pass_context
def main(context: click.Context) -> None:
    """Model soups: average fine-tuned models of the Hugging Face ecosystem, and see whether it helped."""
    context.with_resource(only_ours(context))


for command in (
    soups.merge_command,
    scores.compare_command,
    training.cook_command,
    training.sweep_command,
    training.runs_command,
    analysis.analyze_command,
    analysis.advise_command,
    published.verify_command,
    published.card_command,
    published.tree_command,
    soups.check_command,
    soups.modules_command,
    soups.plan_command,
    soups.strategies_command,
    soups.methods_command,
    scores.cache_command,
    published.install_extension_command,
):
    main.add_command(command)
