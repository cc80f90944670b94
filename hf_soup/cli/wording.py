"""Translates messages from Python to the shell: `--base-model` in place of `base_model=...`."""

from __future__ import annotations

import re
import shlex

import click


# An argument in a message: `name=`, then an ellipsis, a quoted string, a list, a call, or a word
_VALUE = r"""\.\.\.|"[^"]*"|'[^']*'|\[[^\]]*\]|[\w.]+\([^()]*\)|[\w.]+"""
_LOADED = re.compile(r"hf_soup\.load_ingredient\(\.\.\., (\w+=\w+)\)")  # the command has an option for this argument
DATA = {"evaluator": "--data DATA", "dataset": "--data DATA"}  # data arguments, if the command has this option
FOLDERS = ("output_dir", "save_directory")  # arguments that name the folder of the result


def in_shell_words(text: str, command: click.Command) -> str:
    """Replace Python's arguments in a message by the options of the command that was called.

    Args:
        text (`str`):
            The message.
        command (`click.Command`):
            The command, whose options are used.
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
        # many messages also name the option, in brackets after the argument
        text = re.sub(rf"({flag}\b[^()]*?) \(`?(?:{flag}|{flag[1:3]})\b[^()]*\)", r"\1", text)
    return text


def _as_option(flag: str, value: str) -> str:
    """An option with its value, as it is typed."""
    if value == "True":
        return flag
    if value.startswith("["):
        return f"{flag} {value[1:-1].replace(' ', '')}"
    if value[0] in "\"'":
        value = value[1:-1]
        return f"{flag} {value if value.isupper() else shlex.quote(value)}"
    return f"{flag} {value}"
