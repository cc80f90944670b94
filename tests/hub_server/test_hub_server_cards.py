"""Tests of which metadata of cards the test Hub accepts and refuses, with the real client."""

import base64
import json
import urllib.error
import urllib.request

import pytest
from hub import HubServer
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData


REPO = "tester/cards"
RESULT = """
model-index:
- name: soup
  results:
  - task: {type: text-classification}
    dataset: {type: glue, name: GLUE}
    metrics:
    - {type: accuracy, value: 0.9}
"""


def card(head: str) -> str:
    """A card with this metadata."""
    return f"---\n{head}\n---\n\n# A model\n"


@pytest.mark.parametrize(
    "head",
    [
        "license: mit",
        "license: [mit, apache-2.0]",
        "license: other\nlicense_name: mine\nlicense_link: LICENSE",
        "base_model: bert-base-uncased\nbase_model_relation: finetune",
        "base_model: [tester/a.b_c-1, tester/b]\nbase_model_relation: merge",
        "pipeline_tag: text-classification\nlibrary_name: transformers",
        "tags: [a, b]\ndatasets: [glue, nyu-mll/glue]\nmetrics: [accuracy]\nlanguage: [en, de]",
        "tags: a\ndatasets: glue\nmetrics: f1\nlanguage: en",
        "whatever: {else: 1}",
        RESULT,
    ],
)
def test_good_metadata_pass(hub: HubServer, head: str) -> None:
    """Known licences, ids, relations and forms are valid, and so are unknown keys."""
    ModelCard(card(head)).validate()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("license mit", "must be a mapping"),
        ("- mit", "must be a mapping"),
        ("license: [mit", "Invalid YAML"),
        ("license: mit\nlicense: mit", "duplicated mapping key: license"),
        ("license: MIT", "must be one of \\[apache-2.0"),
        ("license: [mit, none-such]", 'license\\[1\\]\\\\" must be one of'),
        ("license: 3", "must be a string"),
        ("base_model: /tmp/run-1", 'with value \\\\"/tmp/run-1\\\\" is not valid. Use a model id'),
        ("base_model: [a/b, ./run]", "base_model\\[1\\]"),
        ("base_model: a/b/c", "is not valid"),
        ("base_model: a/b@main", "is not valid"),
        ("base_model: {a: b}", "must be a string"),
        ("base_model_relation: soup", "must be one of \\[adapter, merge, quantized, finetune\\]"),
        ("pipeline_tag: Text Classification", "pipeline_tag"),
        ("pipeline_tag: [a]", "pipeline_tag"),
        ("library_name: 1", "library_name"),
        ("tags: [1]", "tags\\[0\\]"),
        ("metrics: [{type: f1}]", "metrics\\[0\\]"),
        ("datasets: [a b]", "Use a dataset id"),
        ("language: EN", "lowercase"),
        ("model-index: {name: x}", "must be an array"),
        (RESULT.replace("name: soup", "title: soup"), "model-index\\[0\\].name"),
        (RESULT.replace("results", "result"), "model-index\\[0\\].results"),
        (RESULT.replace("task: {type: ", "task: {kind: "), "results\\[0\\].task.type"),
        (RESULT.replace("dataset: {type: glue, ", "dataset: {"), "results\\[0\\].dataset.type"),
        (RESULT.replace(", name: GLUE", ""), "results\\[0\\].dataset.name"),
        (RESULT.replace("type: accuracy, ", ""), "metrics\\[0\\].type"),
        (RESULT.replace(", value: 0.9", ""), "metrics\\[0\\].value"),
        (RESULT.replace("value: 0.9", "value: null"), "metrics\\[0\\].value"),
    ],
)
def test_bad_metadata_are_refused(hub: HubServer, head: str, message: str) -> None:
    """Each violated rule is an error that names the key."""
    with pytest.raises(ValueError, match=message):
        validate(hub, card(head))


def validate(hub: HubServer, content: str) -> None:
    """Validate as `ModelCard.validate` does, without loading the card, which fails for most of these."""
    body = json.dumps({"repoType": "model", "content": content}).encode()
    try:
        urllib.request.urlopen(f"{hub.url}/api/validate-yaml", body).close()
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode()) from None


def test_the_client_raises_all_errors_before_uploading(hub: HubServer) -> None:
    """A commit with an invalid card raises a ValueError with all complaints, and nothing is uploaded."""
    HfApi().create_repo(REPO, exist_ok=True)
    before = len(hub.log)
    change = CommitOperationAdd("README.md", card("license: none\nbase_model: /tmp/x").encode())
    with pytest.raises(ValueError, match=r'(?s)"license" must be one of.*"base_model" with value "/tmp/x"'):
        HfApi().create_commit(REPO, [change], commit_message="card")
    assert [line.path for line in hub.log[before:]] == ["/api/validate-yaml"]


@pytest.mark.parametrize("path", ["README.md", "docs/README.md"])
def test_a_commit_is_checked_too(hub: HubServer, path: str) -> None:
    """Without prior validation, an invalid card of the model is refused at the commit; other files are not checked."""
    HfApi().create_repo(REPO, exist_ok=True)
    head = HfApi().model_info(REPO).sha
    value = {"path": path, "content": base64.b64encode(card("license: none").encode()).decode()}
    lines = [{"key": "header", "value": {"summary": "card"}}, {"key": "file", "value": value}]
    body = "\n".join(map(json.dumps, lines)).encode()
    headers = {"Authorization": f"Bearer {hub.token}"}
    request = urllib.request.Request(f"{hub.url}/api/models/{REPO}/commit/main", body, headers)
    if path == "README.md":
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            urllib.request.urlopen(request)
        assert '"license" must be one of' in json.loads(caught.value.read())["error"]
    else:
        urllib.request.urlopen(request).close()
    assert (HfApi().model_info(REPO).sha == head) == (path == "README.md")


def test_cards_of_the_client_pass(hub: HubServer) -> None:
    """The metadata that `ModelCardData` writes, including results, is valid and can be read back."""
    results = [EvalResult("text-classification", "glue", "GLUE", "accuracy", 0.5)]
    data = ModelCardData(
        license="mit", base_model=["tester/a"], tags=["merge"], model_name="soup", eval_results=results
    )
    HfApi().create_repo(REPO, exist_ok=True)
    ModelCard(f"---\n{data}\n---\n# Soup\n").push_to_hub(REPO)
    info = HfApi().model_info(REPO)
    assert info.card_data.license == "mit"
    assert info.model_index[0]["results"][0]["metrics"][0]["value"] == 0.5


@pytest.mark.parametrize("content", ["# No metadata\n", "---\n---\n# Empty\n"])
def test_a_card_without_metadata_is_a_warning(hub: HubServer, content: str) -> None:
    """A card without metadata can be committed, with a warning of the client."""
    HfApi().create_repo(REPO, exist_ok=True)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        HfApi().create_commit(REPO, [CommitOperationAdd("README.md", content.encode())], commit_message="card")
    assert HfApi().model_info(REPO).card_data is None


def test_cards_of_data_sets_have_their_own_keys(hub: HubServer) -> None:
    """For data sets the rules for models do not apply, but the one for licences does."""
    HfApi().create_repo("tester/words", repo_type="dataset", exist_ok=True)
    good, bad = (
        [CommitOperationAdd("README.md", card(f"license: {license}\ndatasets: [a b]\nmodel-index: 1").encode())]
        for license in ("mit", "none")
    )
    HfApi().create_commit("tester/words", good, commit_message="card", repo_type="dataset")
    with pytest.raises(ValueError, match="license"):
        HfApi().create_commit("tester/words", bad, commit_message="card", repo_type="dataset")
