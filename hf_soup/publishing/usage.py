"""How a model with a given configuration is used: its class, its task on the Hub, and code that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..checkpoints.labels import class_names
from ..errors import DataError
from ..plugins import load_module
from ..tasks import task_of


USE = """
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{{model}}")
"""

ADAPTER_USE = """
from peft import {auto_class}

model = {auto_class}.from_pretrained("{model}"{more})
"""


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The first class that a configuration names; `None` if it names none."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return None
    return names[0]


def usage_of_adapter(config: Mapping[str, Any], model: str) -> str:
    """Code that loads an adapter on its base model.

    Args:
        config (`Mapping`):
            Configuration of the adapted model.
        model (`str`):
            Name that the code loads: a Hub id, or a placeholder.
    """
    name = architecture_of(config) or ""
    ends = ("SequenceClassification", "TokenClassification", "CausalLM", "QuestionAnswering", "FeatureExtraction")
    end = next((end for end in ends if name.endswith(f"For{end}")), None)
    auto_class = "AutoPeftModel" if end is None else f"AutoPeftModelFor{end}"
    if "LMHeadModel" in name:
        auto_class = "AutoPeftModelForCausalLM"
    elif "ConditionalGeneration" in name:
        auto_class = "AutoPeftModelForSeq2SeqLM"
    count = len(class_names(config))
    more = f", num_labels={count}, ignore_mismatched_sizes=True" if count and name.endswith("Classification") else ""
    return ADAPTER_USE.format(auto_class=auto_class, model=model, more=more).strip()


def usage_of_sentences(class_name: str, model: str) -> str:
    """Code that runs a model of sentence-transformers.

    Args:
        class_name (`str`):
            Its class, such as `"SentenceTransformer"`.
        model (`str`):
            Name that the code loads: a Hub id, or a placeholder.
    """
    task = "reranking" if class_name == "CrossEncoder" else "information-retrieval"
    template: str = load_module("task", task).USE
    return template.replace("SentenceTransformer", class_name).format(model=model).strip()


def usage_of(config: Mapping[str, Any], model: str) -> str:
    """Code that runs a model with this configuration.

    Args:
        config (`Mapping`):
            Configuration of the model.
        model (`str`):
            Name that the code loads: a Hub id, or a placeholder.
    """
    try:
        template: str = load_module("task", task_of(config)).USE
    except DataError:  # a model for a task that hf_soup does not have
        import transformers

        name = architecture_of(config) or "AutoModel"
        if not hasattr(transformers, name):  # a class in the repository's own code
            name = "AutoModel"
        template = USE.format(auto_class=name)
    return template.format(model=model).strip()


def pipeline_of(config: Mapping[str, Any]) -> str | None:
    """The Hub's name of the task of such a model, if there is one."""
    try:
        return load_module("task", task_of(config)).PIPELINE
    except DataError:
        from transformers.modelcard import TASK_MAPPING

        name = architecture_of(config)
        # transformers does not annotate these dicts, so type checkers take their values for objects
        models_by_task = cast("Mapping[str, Mapping[str, str]]", TASK_MAPPING)
        for task, models in models_by_task.items():
            if name in models.values():
                return task
        return None
