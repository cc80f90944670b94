"""Validation of the metadata of model cards as on the Hub, and the information it shows: licence, tags, results.

The Hub's licences and its pattern for ids are listed here. It is not checked whether a base model or a data set exists
or whether language codes are known. The Hub also infers a library and a pipeline from `config.json`, which is not done
here.
"""

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from .access import User
from .store import Commit, StoreError
from .wire import Reply, Request, json_reply


if TYPE_CHECKING:
    from . import HubServer


LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl apple-amlr
mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
grok2-community gemma unknown other
""".split()  # noqa: SIM905 - as a list it would be eighty lines
RELATIONS = ("adapter", "merge", "quantized", "finetune")
REPO_ID = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)\w(?:[\w.-]*\w)?(?:/\w(?:[\w.-]*\w)?)?", re.ASCII)
FRONT_MATTER = re.compile(r"---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
EMPTY = "empty or missing yaml metadata in repo card"

RESULT = {"task": {"type": str}, "dataset": {"type": str, "name": str}, "metrics": [{"type": str, "value": object}]}
MODEL_INDEX = [{"name": str, "results": [RESULT]}]  # a list of mappings with at least these keys


def validate_yaml(hub: "HubServer", user: User | None, request: Request) -> Reply:
    """The route that clients call before they upload a card."""
    payload = request.json()
    try:
        data = front_matter(payload["content"])
        errors = list(problems(data, payload.get("repoType") or "model"))
    except StoreError as error:
        data, errors = {"": None}, [str(error)]
    warnings = [] if data else [{"message": EMPTY}]
    answer = {"errors": [{"message": message} for message in errors], "warnings": warnings}
    return json_reply(answer, status=400 if errors else 200)


def require_valid(content: bytes, kind: str) -> None:
    """Raise if this README.md is invalid in a repository of this kind."""
    errors = list(problems(front_matter(content.decode(errors="replace")), kind))
    if errors:
        raise StoreError("Invalid", "\n".join(["Invalid metadata in README.md.", *(f"- {line}" for line in errors)]))


def front_matter(content: str) -> dict[str, Any]:
    """The metadata of a card, or an empty dict without any; YAML that is not a mapping is refused."""
    match = FRONT_MATTER.match(content)
    try:
        data = yaml.load(match[1], _Loader) if match else None
    except yaml.YAMLError as error:
        raise StoreError("Invalid", f"Invalid YAML in README.md: {error}") from None
    if not isinstance(data or {}, dict):
        raise StoreError("Invalid", f"The YAML of README.md must be a mapping, not {json.dumps(data, default=str)}")
    return data or {}


def problems(data: Mapping[str, Any], kind: str) -> Iterator[str]:
    """The Hub's complaints about the metadata of a repository of this kind, one per line."""
    yield from _each(data, "license", lambda text: text in LICENSES, f"must be one of [{', '.join(LICENSES)}]")
    yield from _each(data, "language", lambda text: text == text.lower(), "must only contain lowercase characters")
    yield from _each(data, "tags", bool, "is not allowed to be empty")
    if kind != "model":
        return
    yield from _each(
        data,
        "base_model",
        REPO_ID.fullmatch,
        'with value "{value}" is not valid. Use a model id from https://hf.co/models.',
    )
    yield from _each(
        data,
        "datasets",
        REPO_ID.fullmatch,
        'with value "{value}" is not valid. Use a dataset id from https://hf.co/datasets.',
    )
    yield from _each(data, "metrics", bool, "is not allowed to be empty")
    if data.get("base_model_relation") not in (None, *RELATIONS):
        yield f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]'
    for key, form in (("pipeline_tag", r"[a-z0-9]+(-[a-z0-9]+)*"), ("library_name", r"\S+")):
        value = data.get(key)
        if value is not None and not (isinstance(value, str) and re.fullmatch(form, value)):
            yield f'"{key}" with value {json.dumps(value, default=str)} is not valid'
    if data.get("model-index") is not None:
        yield from _shape(data["model-index"], MODEL_INDEX, "model-index")


def card_of(commit: Commit) -> dict[str, Any]:
    """The metadata of a commit's card, as JSON values."""
    blob = commit.files.get("README.md")
    try:
        return json.loads(json.dumps(front_matter(blob.content.decode()) if blob else {}, default=str))
    except (StoreError, UnicodeDecodeError):  # put into the store by a test, bypassing the check of commits
        return {}


def shown(card: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a card that a repository info includes."""
    names = {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if card.get(key)}
    data = {key: value for key, value in card.items() if key != "model-index"}
    return {"tags": _tags(card), **names, **({"cardData": data} if data else {})}


def _tags(card: Mapping[str, Any]) -> list[str]:
    parents, relation = _listed(card.get("base_model")), card.get("base_model_relation")
    tags = [
        *_listed(card.get("library_name")),
        *_listed(card.get("tags")),
        *_listed(card.get("pipeline_tag")),
        *_listed(card.get("language")),
        *(f"dataset:{name}" for name in _listed(card.get("datasets"))),
        *(f"base_model:{name}" for name in parents),
        *(f"base_model:{relation}:{name}" for name in parents if relation),
        *(f"license:{name}" for name in _listed(card.get("license"))),
    ]
    return list(dict.fromkeys(tags))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _each(data: Mapping[str, Any], key: str, valid: Any, complaint: str) -> Iterator[str]:
    """Complaints about a field that must be a text or a list of texts that are all `valid`."""
    for index, value in enumerate(_listed(data.get(key))):
        name = f'"{key}[{index}]"' if isinstance(data[key], list) else f'"{key}"'
        if not isinstance(value, str):
            yield f"{name} must be a string"
        elif not valid(value):
            yield f"{name} {complaint.format(value=value)}"


def _shape(value: Any, shape: Any, path: str) -> Iterator[str]:
    """Complaints about a value without the shape: a list of items, a mapping with these keys, or an instance."""
    if value is None:
        yield f'"{path}" is required'
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f'"{path}" must be an array'
            return
        for index, item in enumerate(value):
            yield from _shape(item, shape[0], f"{path}[{index}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f'"{path}" must be of type object'
            return
        for key, inner in shape.items():
            yield from _shape(value.get(key), inner, f"{path}.{key}")
    elif not isinstance(value, shape):
        yield f'"{path}" must be a string'


class _Loader(yaml.SafeLoader):
    """A loader that, like the Hub's own, refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"duplicated mapping key: {key}", node.start_mark)
        return super().construct_mapping(node, deep)
