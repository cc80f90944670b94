"""What names of columns say: which are those of texts, of pairs of them, of labels, of ids. It sees no data.

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
SECOND = ("2", "b", "pair")  # end of the second name where the first has none: text, text2
TELLS_LABEL, IS_ID = "it tells the label", "an id"
# Names of labels and of ids are told by one of their words, in snake case; what is about a text by its whole name.
_LABEL = re.compile(r"(^|_)(labels?|class|class_?(name|text)|target_?name|tags)(_|\d|$)")
_ID = re.compile(r"(^|_)(id|ids|idx|index|uid|uuid|guid)$|^unnamed(:|$)|^__index_level")
_ABOUT = re.compile(
    r"reason|explanation|rationale|source|origin|split|subset|partition|dataset|language|lang|locale|\w*(url|uri|link)|date|"
    "time|datetime|timestamp|createdat|author|user|username|annotator|worker|file|filename|path|license|domain|"
    "version|hash|checksum"
)
_PAIR_ENDS = ("12", "01", "ab", "xy")  # the last letters of two names that are a pair


def compared(name: str) -> str:
    """A name as it is compared with known ones."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def why_no_input(name: str) -> str | None:
    """Why a column of this name is no input: it is called like a label or like an id; otherwise `None`."""
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())  # labelName -> label_Name
    words = re.sub(r"[\s\-.]+", "_", snake_case).lower()
    if _LABEL.search(words):
        return TELLS_LABEL
    if _ID.search(words):
        return IS_ID
    return None


def known_groups(names: Sequence[str], *, pairs: bool, usual: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The columns, or pairs of them, whose names are those of texts; more than one group is not plain.

    Args:
        names (`Sequence[str]`):
            Names of the columns that may be texts.
        pairs (`bool`):
            Whether two columns may be read together.
        usual (`Sequence[str]`, *optional*):
            Further names of single texts, as they are compared.
    """
    columns: dict[str, str] = {}  # compared name -> column
    for name in sorted(names, key=lambda name: name != compared(name)):  # `text` goes before `Text`
        columns.setdefault(compared(name), name)
    compared_groups: list[tuple[str, ...]] = []
    if pairs:
        compared_groups += _known_pairs(columns)
    in_pairs = set().union(*compared_groups)  # a name that is in a pair is no single text besides
    compared_groups += [(name,) for name in _known_singles(set(columns) - in_pairs, usual)]
    groups = []
    for compared_names in compared_groups:
        groups.append(tuple(columns[name] for name in compared_names))
    return groups


def _known_pairs(names: Collection[str]) -> list[tuple[str, str]]:
    """The known pairs of which both names are there."""
    numbered = []  # a name and the same with an ending: text and text2, sentence and sentenceb
    for name in (*FIRST, *SINGLES):
        numbered += [(name, f"{name}{end}") for end in SECOND]
    pairs = dict.fromkeys([*PAIRS, *numbered])  # some are in both
    return [pair for pair in pairs if set(pair) <= set(names)]


def _known_singles(names: Collection[str], usual: Sequence[str]) -> list[str]:
    """The known names of single texts that are there; of those that take precedence the first, and nothing else."""
    first = [name for name in FIRST if name in names]
    if first:
        return first[:1]
    return [name for name in (*usual, *SINGLES) if name in names]


def is_about_texts(name: str) -> bool:
    """Whether a name is one of what is often told about a text in a column beside it."""
    return _ABOUT.fullmatch(compared(name)) is not None


def is_pair(first: str, second: str) -> bool:
    """Whether two names differ in their last letter alone, which is 1 and 2, or a and b."""
    first, second = compared(first), compared(second)
    return first[:-1] == second[:-1] and first[-1:] + second[-1:] in _PAIR_ENDS
