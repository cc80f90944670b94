"""The messages of the verbs in the words of the shell: `--base-model` where Python writes `base_model=...`."""

from __future__ import annotations

import re
import shlex

import click


# An argument as messages write it: `name=`, then an ellipsis, a quoted text, a list, a call, or a word
_VALUE = r"""\.\.\.|"[^"]*"|'[^']*'|\[[^\]]*\]|[\w.]+\([^()]*\)|[\w.]+"""
_LOADED = re.compile(
    r"hf_soup\.load_ingredient\(\.\.\., (\w+=\w+)\)"
)  # opened by the command where its option is given
DATA = {"evaluator": "--data DATA", "dataset": "--data DATA"}  # arguments that are data, where the command takes it
FOLDERS = ("output_dir", "save_directory")  # arguments that are the folder of the result


def in_shell_words(text: str, command: click.Command) -> str:
    """A message of a verb, with the options of the command that was called in place of Python's arguments.

    Args:
        text (`str`):
            The message.
        command (`click.Command`):
            The command, whose options are known.
    """
    flags = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            flags[parameter.name] = max(parameter.opts, key=len)
    if "output" in flags:
        flags |= dict.fromkeys(FOLDERS, flags["output"])
    text = _LOADED.sub(r"\1", text)
    for name, option in DATA.items():
        if "--data" in flags.values():
            text = re.sub(rf"\b{name}=(?:{_VALUE})", option, text)
    for name, flag in flags.items():
        for written, value in re.findall(rf"(\b{name}=({_VALUE}))", text):
            text = text.replace(written, _as_option(flag, value))
        # many messages name the option themselves, in brackets behind the argument
        text = re.sub(rf"({flag}\b[^()]*?) \(`?(?:{flag}|{flag[1:3]})\b[^()]*\)", r"\1", text)
    return text


def _as_option(flag: str, value: str) -> str:
    """An option with its value, as one types it."""
    if value == "True":
        return flag
    if value.startswith("["):
        return f"{flag} {value[1:-1].replace(' ', '')}"
    if value[0] in "\"'":
        value = value[1:-1]
        return f"{flag} {value if value.isupper() else shlex.quote(value)}"
    return f"{flag} {value}"
