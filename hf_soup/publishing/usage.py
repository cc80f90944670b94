"""How a model with a given configuration is used: its class, what the Hub calls its task, and code that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..errors import DataError
from ..plugins import load_module
from ..tasks import task_of


USE = """
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{{model}}")
"""


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The class that a configuration names first; whatever else stands there is none."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return None
    return names[0]


def usage_of(config: Mapping[str, Any], model: str) -> str:
    """The code that runs such a model.

    Args:
        config (`Mapping`):
            Its configuration.
        model (`str`):
            What the code loads: a Hub id, or a word that stands for one.
    """
    try:
        template: str = load_module("task", task_of(config)).USE
    except DataError:  # a model of no task of ours
        import transformers

        name = architecture_of(config) or "AutoModel"
        if not hasattr(transformers, name):  # a class of the repository's own code
            name = "AutoModel"
        template = USE.format(auto_class=name)
    return template.format(model=model).strip()


def pipeline_of(config: Mapping[str, Any]) -> str | None:
    """What the Hub calls the task of such a model, if it has a name for it."""
    try:
        return load_module("task", task_of(config)).PIPELINE
    except DataError:
        from transformers.modelcard import TASK_MAPPING

        name = architecture_of(config)
        # transformers annotates none of these dicts, so that their values are objects to a type checker
        models_by_task = cast("Mapping[str, Mapping[str, str]]", TASK_MAPPING)
        for task, models in models_by_task.items():
            if name in models.values():
                return task
        return None
