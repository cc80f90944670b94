"""Classification of columns by name: texts, pairs of texts, labels, ids. No data is read.

Names are compared without case, blanks, `_` and `-`: `sentence_A` is `sentencea`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence


PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("sent1", "sent2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("text", "textpair"),
    ("text", "hypothesis"),
    ("text", "question"),
    ("text", "aspect"),
    ("comment", "parentcomment"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "answer"),
    ("claim", "evidence"),
    ("prompt", "response"),
    ("context", "response"),
    ("source", "target"),
    ("document", "summary"),
)
FIRST = ("text", "texts", "tokens", "words")  # take precedence over every other single column
SINGLES = (
    "sentence",
    "content",
    "review",
    "reviewtext",
    "reviewbody",
    "tweet",
    "tweettext",
    "comment",
    "commenttext",
    "message",
    "document",
    "article",
    "post",
    "body",
    "utterance",
    "abstract",
    "dialogue",
)
SECOND = ("2", "b", "pair")  # suffixes of the second name if the first has none: text, text2
TELLS_LABEL, IS_ID = "it tells the label", "an id"
# Names of labels and ids are recognised by one of their words, in snake case; properties of a text by the full name.
_LABEL = re.compile(r"(^|_)(labels?|class|class_?(name|text)|target_?name|tags)(_|\d|$)")
_ID = re.compile(r"(^|_)(id|ids|idx|index|uid|uuid|guid)$|^unnamed(:|$)|^__index_level")
_ABOUT = re.compile(
    r"reason|explanation|rationale|source|origin|split|subset|partition|dataset|language|lang|locale|\w*(url|uri|link)|date|"
    "time|datetime|timestamp|createdat|author|user|username|annotator|worker|file|filename|path|license|domain|"
    "version|hash|checksum"
)
_PAIR_ENDS = ("12", "01", "ab", "xy")  # the last letters of two names that are a pair


def compared(name: str) -> str:
    """A name in the form that is compared with known ones."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def why_no_input(name: str) -> str | None:
    """The reason why a column with this name is not an input: it is named like a label or an id; otherwise `None`."""
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())  # labelName -> label_Name
    words = re.sub(r"[\s\-.]+", "_", snake_case).lower()
    if _LABEL.search(words):
        return TELLS_LABEL
    if _ID.search(words):
        return IS_ID
    return None


def known_groups(names: Sequence[str], *, pairs: bool, usual: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The columns, or pairs of columns, with names of texts; more than one group is ambiguous.

    Args:
        names (`Sequence[str]`):
            Names of the columns that may be texts.
        pairs (`bool`):
            Whether two columns may be read together.
        usual (`Sequence[str]`, *optional*):
            Further names of single texts, as they are compared.
    """
    columns: dict[str, str] = {}  # compared name -> column
    for name in sorted(names, key=lambda name: name != compared(name)):  # `text` takes precedence over `Text`
        columns.setdefault(compared(name), name)
    compared_groups: list[tuple[str, ...]] = []
    if pairs:
        compared_groups += _known_pairs(columns)
    in_pairs = set().union(*compared_groups)  # a name in a pair is not also a single text
    compared_groups += [(name,) for name in _known_singles(set(columns) - in_pairs, usual)]
    groups = []
    for compared_names in compared_groups:
        groups.append(tuple(columns[name] for name in compared_names))
    return groups


def _known_pairs(names: Collection[str]) -> list[tuple[str, str]]:
    """The known pairs of which both names are present."""
    numbered = []  # a name and the same name with a suffix: text and text2, sentence and sentenceb
    for name in (*FIRST, *SINGLES):
        numbered += [(name, f"{name}{end}") for end in SECOND]
    pairs = dict.fromkeys([*PAIRS, *numbered])  # some pairs are in both
    return [pair for pair in pairs if set(pair) <= set(names)]


def _known_singles(names: Collection[str], usual: Sequence[str]) -> list[str]:
    """The known names of single texts that are present; if any of them take precedence, only the first of these."""
    first = [name for name in FIRST if name in names]
    if first:
        return first[:1]
    return [name for name in (*usual, *SINGLES) if name in names]


def is_about_texts(name: str) -> bool:
    """Whether a name is that of a common property of texts, stored in another column."""
    return _ABOUT.fullmatch(compared(name)) is not None


def is_pair(first: str, second: str) -> bool:
    """Whether two names differ only in their last letter, which is 1 and 2, or a and b."""
    first, second = compared(first), compared(second)
    return first[:-1] == second[:-1] and first[-1:] + second[-1:] in _PAIR_ENDS
