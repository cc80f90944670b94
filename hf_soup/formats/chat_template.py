"""The chat template of a soup: checked, and written with its tokenizer. Models are not run here."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import RecipeError
from ..untrusted import one_line, read_json


TEMPLATE = "chat_template.jinja"
IN_JSON = "chat_template.json"  # of older processors
# name in configurations of mergekit -> text
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
}


def is_template(text: str) -> bool:
    """Whether a text has expressions or statements of Jinja."""
    return "{{" in text or "{%" in text


def check_template(text: str) -> None:
    """Refuse what is no template.

    Raises:
        [`RecipeError`]: if it has nothing of Jinja, such as the name of a file.
    """
    if not isinstance(text, str) or not is_template(text):
        raise RecipeError(f"chat_template is the text of a Jinja template, not {one_line(repr(text), 60)}.")


def write_template(folder: Path, text: str) -> None:
    """Write the template beside a tokenizer, in place of those that it came with.

    Args:
        folder (`Path`):
            Folder of a soup.
        text (`str`):
            The template.
    """
    (folder / IN_JSON).unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        settings = read_json(config)
        if isinstance(settings, dict) and settings.pop("chat_template", None) is not None:
            config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / TEMPLATE).write_text(text, encoding="utf-8")
