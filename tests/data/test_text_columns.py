"""The choice of text columns: well-known names come first, columns that reveal the label are excluded."""

import datasets
import pytest

import hf_soup
from hf_soup import testing
from hf_soup.api.sweep import plan_runs
from hf_soup.data.column_names import PAIRS, known_groups, why_no_input
from hf_soup.data.text_columns import choose_columns, tells_label
from hf_soup.errors import DataError, SoupWarning
from hf_soup.plugins import load_module
from hf_soup.training.examples import guess_task


N = 40
LABELS = [row % 2 for row in range(N)]
NAMES = [["negative", "positive"][label] for label in LABELS]


def table(*names, **columns):
    """Rows with alternating labels, columns of distinct texts and the given columns."""
    texts = {name: [f"{name} of number {row}" for row in range(N)] for name in names}
    return datasets.Dataset.from_dict({**texts, **columns, "label": LABELS})


@pytest.mark.parametrize("name", ["text", "sentence", "content", "review", "tweet", "Text", "review_body"])
@pytest.mark.parametrize("beside", ["label_text", "id", "reason", "source", "language", "foo"])
def test_a_well_known_name_is_the_text(name, beside):
    """A column with a well-known name is the only input, and a warning names the column that is not read."""
    data = table(beside, name)
    with pytest.warns(SoupWarning, match=f'models read "{name}", and not "{beside}"'):
        assert choose_columns(data, None, "label") == [name]
    assert choose_columns(data, None, "label") == [name]  # the warning, which would be an error here, is not repeated


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_read_in_its_own_order(pair):
    """A well-known pair is read in its own order, whatever the order of the columns, without a warning."""
    assert choose_columns(table(*pair), None, "label") == list(pair)
    assert choose_columns(table(*pair[::-1]), None, "label") == list(pair)


def test_names_are_compared_without_case_and_separators():
    """Names match regardless of case and separators; an exact match comes first."""
    assert choose_columns(table("sentence_B", "Sentence A"), None, "label") == ["Sentence A", "sentence_B"]
    assert known_groups(["Text", "text"], pairs=True) == [("text",)]


@pytest.mark.parametrize("name", ["label_text", "label", "labels", "label-name", "LabelText", "fine_label", "class"])
def test_what_is_called_like_a_label_is_no_input(name):
    """A column with a name like that of a label is not an input, even if it is the only column of strings."""
    data = datasets.Dataset.from_dict({name: NAMES, "target": LABELS})
    with pytest.raises(DataError, match="it tells the label"):
        choose_columns(data, None, "target")


@pytest.mark.parametrize("name", ["id", "idx", "uid", "guid", "pairID", "doc_id", "tweetId", "Unnamed: 0"])
def test_ids_are_no_input(name):
    """Columns with names of ids are not inputs; `idea` and `covid` are not ids."""
    with pytest.warns(SoupWarning, match=r"\(an id\)"):
        assert choose_columns(table(name, "foo"), None, "label") == ["foo"]
    assert why_no_input("idea") is why_no_input("covid") is why_no_input("description") is None


def test_codes_number_rows():
    """Numbered values, hashes and a constant are not chosen as text if there is another text column."""
    for codes in ([f"row-{n}" for n in range(N)], [f"{n:032x}" for n in range(N)], ["web"] * N):
        with pytest.warns(SoupWarning, match='models read "foo"'):
            assert choose_columns(table("foo", bar=codes), None, "label") == ["foo"]


@pytest.mark.parametrize("finer", [False, True])
def test_a_column_that_tells_the_label_is_no_input(finer):
    """A column that repeats the label in other words, or in finer classes, is not an input."""
    told = [f"{name} {row // 2 % 2}" if finer else name for row, name in enumerate(NAMES)]
    data = table("foo", bar=told)
    assert tells_label(data, "bar", "label")
    with pytest.warns(SoupWarning, match=r'models read "foo", and not "bar" \(it tells the label\)'):
        assert choose_columns(data, None, "label") == ["foo"]


def test_the_label_in_other_words_is_no_input_alone():
    """If the only column of strings reveals the label, it is chosen only when it is named explicitly."""
    data = datasets.Dataset.from_dict({"bar": NAMES, "label": LABELS})
    with pytest.raises(DataError, match=r'0 text columns .* Left out: "bar" \(it tells the label\)'):
        choose_columns(data, None, "label")
    assert choose_columns(data, ["bar"], "label") == ["bar"]


def test_an_answer_that_is_the_label_leaves_the_question():
    """The half of a well-known pair that reveals the label is left out."""
    data = table("question", answer=["yes" if label else "no" for label in LABELS])
    with pytest.warns(SoupWarning, match=r'models read "question", and not "answer" \(it tells the label\)'):
        assert choose_columns(data, None, "label") == ["question"]


def test_texts_do_not_tell_the_label():
    """Distinct texts, a few duplicates and texts repeated with several labels do not reveal the label."""
    assert not tells_label(table("foo"), "foo", "label")
    claims = [f"claim {row // 4}" for row in range(N)]
    by_claim = datasets.Dataset.from_dict({"foo": claims, "label": [row // 4 % 2 for row in range(N)]})
    assert not tells_label(by_claim, "foo", "label")
    premises = table(foo=[f"premise {row // 2}" for row in range(N)])
    assert not tells_label(premises, "foo", "label")
    assert not tells_label(table(foo=NAMES).select(range(4)), "foo", "label")  # too few rows to tell
    assert not tells_label(table(foo=["web", "web", "app", "app"] * (N // 4)), "foo", "label")
    hidden = datasets.Dataset.from_dict({"foo": ["web"] * N, "label": [-1] * N})
    assert not tells_label(hidden, "foo", "label")


@pytest.mark.parametrize(
    "names",
    [("foo", "bar"), ("text", "premise", "hypothesis"), ("question", "answer", "context"), ("review", "tweet")],
)
def test_what_is_not_plain_is_asked(names):
    """Several unknown names, or more well-known names than go together, raise a DataError that lists the columns."""
    with pytest.raises(DataError, match="name them in `text_columns`, one or two of them") as error:
        choose_columns(table(*names), None, "label")
    assert all(name in str(error.value) for name in names)
    assert choose_columns(table(*names), names[:1], "label") == [names[0]]


@pytest.mark.parametrize("names", [("a", "b"), ("foo_1", "foo_2"), ("left text b", "left text a")])
def test_names_alike_are_a_pair(names):
    """Two columns whose names differ only in 1 and 2, or in a and b, are a pair."""
    assert choose_columns(table(*names), None, "label") == sorted(names)


@pytest.mark.parametrize(
    ("given", "message"),
    [(["label"], "is the label column"), (["text", "text"], "one or two different ones"), (["txt"], "did you mean")],
)
def test_columns_that_are_named_wrongly(given, message):
    """Choosing the label column, the same column twice or an unknown one raises a DataError."""
    data = table("text").map(lambda row: {"label": str(row["label"])})
    with pytest.raises(DataError, match=message):
        choose_columns(data, given, "label")
    assert choose_columns(data, "text", "label") == ["text"]


@pytest.mark.parametrize(
    ("task", "columns", "right"),
    [
        ("text2text-generation", ("document", "summary"), ("document", "summary")),
        ("text2text-generation", ("highlights", "article", "id"), ("article", "highlights")),
        ("text2text-generation", ("output", "input"), ("input", "output")),
        ("text2text-generation", ("target", "source"), ("source", "target")),
        ("text2text-generation", ("answer", "question"), ("question", "answer")),
        ("text2text-generation", ("foo", "target"), ("foo", "target")),
        ("text-generation", ("title", "text"), ("text", None)),
        ("text-generation", ("content", "url"), ("content", None)),
    ],
)
@pytest.mark.filterwarnings("ignore:models read")
def test_tasks_that_write(task, columns, right):
    """The source and target columns of generation tasks have well-known names too."""
    data = datasets.Dataset.from_dict({name: [f"{name} {row}" for row in range(4)] for name in columns})
    module = load_module("task", task)
    label = module.label_column(data, None)
    assert (module.columns(data, None, label), label) == ([right[0]], right[1])


@pytest.mark.filterwarnings("ignore:models read")
def test_words_have_well_known_names():
    """Among lists of strings `tokens` are the words, and string tags are not."""
    rows = {"ner_tags": [["O", "B"]], "lemmas": [["a", "b"]], "tokens": [["A", "b"]], "pos_tags": [["X", "Y"]]}
    data = datasets.Dataset.from_dict(rows)
    assert load_module("task", "token-classification").columns(data, None, "ner_tags") == ["tokens"]


def test_keywords_beside_a_text_are_no_words_to_tag():
    """A list of strings does not make a task token classification if there is one label per row."""
    keywords = [["good", "film"]] * N
    assert guess_task(table("text", keywords=keywords)) == "text-classification"
    tags = datasets.Dataset.from_dict({"tokens": keywords, "labels": [[0, 1]] * N})
    assert guess_task(tags) == "token-classification"


def test_everything_reads_the_same_columns(tmp_path):
    """Evaluator and sweep choose the same columns, each warns once, and validation uses the training columns."""
    base = testing.save_text_model(testing.tiny_text_model(0), tmp_path / "base")
    data = testing.tiny_texts(N)
    answers = [["no", "yes"][label] for label in data["label"]]
    data = data.rename_column("text", "question").add_column("answer", answers)
    evaluator = hf_soup.Evaluator(data.select(range(N - 1)), cache=False)
    with pytest.warns(SoupWarning, match='models read "question"') as notes:
        evaluator.bound(str(base), "text-classification")(testing.tiny_text_model(0))
    assert len(notes) == 1
    few = data.select(range(4))  # too few rows to tell that `answer` reveals the label
    assert choose_columns(few, None, "label") == ["question", "answer"]
    with pytest.warns(SoupWarning, match='models read "question"') as notes:
        plan = plan_runs(
            base, data.select(range(4, N)), validation=few, space={"seed": [0]}, output_dir=tmp_path / "runs"
        )
    assert len(notes) == 1
    assert plan.manifest["fixed"]["columns"] == ["question"]
    alone = plan_runs(
        base, data, validation=few, space={"seed": [0]}, output_dir=tmp_path / "runs", text_columns=["question"]
    )
    assert plan.context.validation["input_ids"][:] == alone.context.validation["input_ids"][:]


@pytest.mark.parametrize("names", [("text", "text2"), ("sentence", "sentence2"), ("text", "hypothesis")])
def test_second_texts_whose_first_has_no_number(names):
    """`text` and `text2` are read as a pair."""
    data = datasets.Dataset.from_dict({names[1]: ["a b", "c d"], names[0]: ["e f", "g h"], "label": [0, 1]})
    assert choose_columns(data, None, "label") == list(names)
