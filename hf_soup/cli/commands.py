"""All commands in one group, and what each needs: quiet libraries, the current folder, errors in one line.

Exit codes: 0 success, 1 an error, 2 wrong usage of the command line; `start.py` defines those of signals.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import click

from ..errors import OutputError, SoupError
from ..untrusted import printable
from ..version import __version__
from . import analysis, published, scores, soups, training
from .ranks import speaks
from .stderr import be_quiet, only_ours
from .wording import in_shell_words


# Libraries start threads on import; if the system allows no more, some end the process and others print warnings.
FEW_THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
MESSAGE = 1000  # maximum length of a message about wrong usage, in characters


class Group(click.Group):
    """A group that turns errors that users can fix into one line and exit code 1."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run as a script does, with signal handlers and an exit code."""
        from .start import main as start

        start()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they were added; click would sort them by name."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List each command with its first paragraph in full; click would cut it to one line."""
        lines = []
        for name in self.list_commands(ctx):
            paragraph = (self.commands[name].help or "").split("\n\n")[0]
            lines.append((name, " ".join(paragraph.split())))
        with formatter.section("Commands, in the order of work"):
            formatter.write_dl(lines)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except SoupError as error:
            command = self.commands.get(ctx.invoked_subcommand or "")
            message = str(error) if command is None else in_shell_words(str(error), command)
            raise click.ClickException(printable(message)) from None
        except click.ClickException as error:  # the message quotes a wrong value, which may be very long
            # click declares the attribute final, but has no other way to shorten the message
            error.message = printable(error.message)[:MESSAGE]  # type: ignore[misc]
            raise
        except KeyboardInterrupt:
            raise click.Abort from None  # click itself would start a new line, as after an interrupted prompt


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 119})
@click.version_option(__version__, prog_name="hf-soup")
@click.pass_context
def main(context: click.Context) -> None:
    """Make model soups: average fine-tuned Hugging Face models, and measure whether the average is better."""
    context.with_resource(only_ours(context))
    if not speaks():
        be_quiet(context)
    try:
        # as with `python -m`: a method or strategy in a file of this folder is found as `my_file:function`
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    except OSError as error:
        why = f"the current folder cannot be read ({error.strerror})"
        raise OutputError(f"{why}: change to one that exists.") from None
    if not _threads_start(8 + (os.cpu_count() or 1)):
        os.environ.update(FEW_THREADS)


def _threads_start(count: int) -> bool:
    """Whether the system lets this process start `count` threads."""
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            started.append(threading.Thread(target=enough.wait, daemon=True))
            started[-1].start()
    except RuntimeError:
        started.pop()
        return False
    finally:
        enough.set()
        for thread in started:
            thread.join()
    return True


# in the order of work, in which `hf-soup --help` lists them
for command in (
    training.sweep_command,
    training.runs_command,
    soups.check_command,
    analysis.advise_command,
    scores.importance_command,
    soups.merge_command,
    scores.compare_command,
    analysis.analyze_command,
    published.push_command,
    published.card_command,
    published.verify_command,
    published.lineage_command,
    training.cook_command,
    training.convert_command,
    training.recipes_command,
    soups.plan_command,
    soups.strategies_command,
    soups.methods_command,
    soups.modules_command,
    scores.cache_command,
    published.install_extension_command,
):
    main.add_command(command)
