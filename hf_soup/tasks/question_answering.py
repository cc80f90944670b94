"""Extractive question answering: the part of a text that answers a question, or that there is none.

A text that is longer than the model takes is read in windows that overlap, as BERT was scored on SQuAD. Each window is
learned and scored like a text of its own: if it does not have the answer, its first token (`[CLS]`) stands for "none".
The answer to a question is the best one of its windows.

Source: Devlin et al. 2019, [BERT](https://arxiv.org/abs/1810.04805), section 4.2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.columns import find_column, is_text
from ..errors import DataError, EvaluationError, did_you_mean, listed
from . import _text as tokens
from ._heads import ends_in
from ._no_augmentation import refuse_augment, unchanged
from ._padding import pad_collator
from ._text import in_memory, most_tokens


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ._model_inputs import ModelInputs

AUTO_CLASS = "AutoModelForQuestionAnswering"
PIPELINE = "question-answering"
METRIC = "squad_f1"
KIND = "tokens"
BATCH_SIZE = 16
WINDOW, OVERLAP = 384, 128  # tokens, as for BERT on SQuAD
EXAMPLE: dict[str, list[Any]] = {
    "question": ["good film", "very dull plot", "a cast"],
    "context": ["the film was very good", "the plot was bad and dull", "a warm film and a lovely cast"],
    "answers": [
        {"text": ["very good", "good"], "answer_start": [13, 18]},
        {"text": ["bad"], "answer_start": [13]},
        {"text": ["lovely"], "answer_start": [18]},
    ],
}
EXAMPLE_MODEL = "bert"
USE = """
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("{model}")
tokenizer = AutoTokenizer.from_pretrained("{model}")
inputs = tokenizer("A question?", "A text with the answer.", return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
start, end = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))
"""
OPTIONS = {"max_answer_length": 30, "null_score_diff_threshold": 0.0}  # names and values of transformers' example
OUTSIDE = -1  # place in the text of a token that is not part of it
# encoded columns with an entry for each window, beside the model's inputs
OF_WINDOWS = ("start_positions", "end_positions", "begins", "ends", "none")
# what batches have beside the model's inputs
OF_BATCHES = (*OF_WINDOWS, "moves", "windows", "context", "may_be_none")
TAKES_ENCODED = False

# Functions shared with other tasks.
load_processing_class = tokens.load_tokenizer
check_augment = partial(
    refuse_augment, why="texts for question-answering have no augmentation, which could remove answers."
)
augmented = unchanged


class Answer(NamedTuple):
    """A right answer: its text, and where it begins in the text that it is taken from."""

    text: str
    begin: int


def fits(config: PretrainedConfig) -> bool:
    """Whether the model has a head for the beginnings and ends of answers in texts."""
    from transformers.models.auto import modeling_auto as auto

    in_documents = auto.MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES.values()
    listed_there = auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES.values()
    return ends_in(config, *listed_there) and not ends_in(config, *in_documents)


def label_column(dataset: Dataset, given: str | None) -> str:
    """The column of answers."""
    return find_column(dataset, given, ("answers", "answer"))


def columns(dataset: Dataset, given: Sequence[str] | None, label: str) -> list[str]:
    """The columns of the question and of the text.

    Raises:
        [`DataError`]: if they are not there, or hold no texts.
    """
    names = list(given) if given else ["question", "context"]
    for name in names:
        if name not in dataset.column_names or not is_text(dataset, name):
            raise DataError(
                f'there is no column "{name}" of texts among {listed(dataset.column_names)}: name those of the '
                "question and of the text with text_columns, in this order."
            )
    if len(names) != 2:
        raise DataError(f"a question and a text are two columns, not {listed(names)}.")
    return names


def head(dataset: Dataset, label: str) -> dict[str, Any]:
    """Two numbers for each token: whether the answer begins there, and whether it ends there."""
    return {"num_labels": 2}


def labels(dataset: Dataset, label: str, config: PretrainedConfig) -> list[list[Answer]]:
    """The right answers of each row, of which there may be none.

    Raises:
        [`DataError`]: if the column holds something else.
    """
    return [_answers_of(value, row) for row, value in enumerate(dataset[label])]


def _answers_of(value: Any, row: int) -> list[Answer]:
    """The answers of one row: of a dict of lists, as in SQuAD, or a list of dicts.

    Raises:
        [`DataError`]: if it is something else.
    """
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        value = {name: [each.get(name) for each in value] for name in ("text", "answer_start")}
    if value is None:
        return []
    if not isinstance(value, dict) or not {"text", "answer_start"} <= set(value):
        raise DataError(
            f"row {row} has the answers {value!r}: a dict of `text` and `answer_start`, each a list, is needed, as in "
            "SQuAD; the lists are empty if there is no answer."
        )
    texts, begins = ([part] if not isinstance(part, list) else part for part in (value["text"], value["answer_start"]))
    if len(texts) != len(begins) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"row {row} has {len(texts)} answers and {len(begins)} places of answers: {value!r}.")
    return [Answer(text, begin) for text, begin in zip(texts, begins, strict=True)]


def references(dataset: Dataset, label: str) -> tuple[tuple[str, ...], ...]:
    """The texts of the right answers of each row; an empty one where there is none."""
    return tuple(
        tuple(answer.text for answer in _answers_of(value, row)) or ("",) for row, value in enumerate(dataset[label])
    )


def encode(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    columns: Sequence[str],
    labels: list[list[Answer]],
    inputs: ModelInputs,
) -> Dataset:
    """Lists of windows: the tokens of each, the place of the answer, and where each token is in the text.

    Raises:
        [`DataError`]: if an answer is not in its text, a question leaves no room for the text, or the tokenizer does
            not tell where tokens are.
    """
    limit = min(most_tokens(processing_class, inputs.positions) or WINDOW, WINDOW)
    if not getattr(processing_class, "is_fast", False):
        raise DataError(
            f"{type(processing_class).__name__} does not tell where tokens are in a text; a fast tokenizer does."
        )
    overlap = min(limit // 3, OVERLAP)
    room = limit - processing_class.num_special_tokens_to_add(pair=True) - overlap
    some_have_none = not all(labels)

    def encode_batch(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        questions, contexts = ([text or "" for text in batch[column]] for column in columns)
        for row, ids in zip(rows, processing_class(questions, add_special_tokens=False)["input_ids"], strict=True):
            if len(ids) >= room:
                raise DataError(
                    f"row {row} has a question of {len(ids)} tokens, and windows of {limit} leave room for {room - 1}."
                )
        encoding = processing_class(
            questions,
            contexts,
            truncation="only_second",
            max_length=limit,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        offsets, places = encoding.pop("offset_mapping"), encoding.pop("overflow_to_sample_mapping")
        encoded: dict[str, list[Any]] = {name: [[] for _ in rows] for name in (*encoding, *OF_WINDOWS)}
        for window, place in enumerate(places):
            in_context = [part == 1 for part in encoding.sequence_ids(window)]
            begins, ends = (
                [pair[side] if inside else OUTSIDE for pair, inside in zip(offsets[window], in_context, strict=True)]
                for side in (0, 1)
            )
            ids = encoding["input_ids"][window]
            none = _place_of_no_answer(ids, processing_class)
            start, end = _place_of(_first(labels[rows[place]], contexts[place], rows[place]), begins, ends, none)
            values = {name: encoding[name][window] for name in encoding}
            values |= dict(zip(OF_WINDOWS, (start, end, begins, ends, none), strict=True))
            for name, value in values.items():
                encoded[name][place].append(value)
        return {**encoded, "context": contexts, "may_be_none": [some_have_none] * len(rows)}

    return in_memory(dataset, encode_batch, with_indices=True)


def _first(answers: Sequence[Answer], context: str, row: int) -> Answer | None:
    """The answer that is learned, the first.

    Raises:
        [`DataError`]: if it is not in the text.
    """
    if not answers:
        return None
    text, begin = answers[0]
    found = context[begin : begin + len(text or "")] if isinstance(begin, int) else ""
    if not text or found != text:
        raise DataError(f"row {row} has the answer {text!r} at {begin}, where the text has {found!r}.")
    return answers[0]


def _place_of_no_answer(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for the answer "none": the one that begins a text in BERT, or simply the first."""
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in ids:
            return list(ids).index(token)
    return 0


def _place_of(answer: Answer | None, begins: Sequence[int], ends: Sequence[int], none: int) -> tuple[int, int]:
    """The first and the last token of an answer in a window, or twice that of no answer."""
    inside = [place for place, begin in enumerate(begins) if begin != OUTSIDE]
    if answer is None or not inside:
        return none, none
    begin, end = answer.begin, answer.begin + len(answer.text)
    if begins[inside[0]] > begin or ends[inside[-1]] < end:
        return none, none
    return max(place for place in inside if begins[place] <= begin), min(
        place for place in inside if ends[place] >= end
    )


def lengths(encoded: Dataset) -> list[int]:
    """The number of tokens of the longest window."""
    return [max(map(len, windows)) for windows in encoded.with_format(None)["input_ids"]]


def collator(
    processing_class: PreTrainedTokenizerBase | None, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes a batch of the windows of some rows, with what is needed to find texts."""

    pad = pad_collator(processing_class, inputs)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        names = [name for name in rows[0] if name in inputs.names and name not in OF_WINDOWS]
        flat = [{name: row[name][place] for name in names} for row in rows for place in range(len(row["input_ids"]))]
        batch: dict[str, Any] = dict(pad(flat))
        width = batch["input_ids"].shape[1]
        # how far the tokens of each window have moved to the right, if the tokenizer pads on the left
        is_left = getattr(processing_class, "padding_side", "right") == "left"
        moves = [width - len(each["input_ids"]) if is_left else 0 for each in flat]
        for name in ("start_positions", "end_positions"):
            batch[name] = torch.tensor([place for row in rows for place in row[name]]) + torch.tensor(moves)
        for name in ("begins", "ends"):
            batch[name] = torch.full((len(flat), width), OUTSIDE)
            for window, (move, places) in enumerate(
                zip(moves, (each for row in rows for each in row[name]), strict=True)
            ):
                batch[name][window, move : move + len(places)] = torch.tensor(places)
        return {
            **batch,
            "moves": torch.tensor(moves),
            "none": torch.tensor([place for row in rows for place in row["none"]]) + torch.tensor(moves),
            "windows": torch.tensor([len(row["input_ids"]) for row in rows]),
            "context": [row["context"] for row in rows],
            "may_be_none": rows[0]["may_be_none"],
        }

    return collate


def forward(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each window the log-probabilities of the tokens that the answer begins and ends with."""
    return _scored(_logits(model, batch), batch)


def all_logits(model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    """The logits of the tokens that the answer could begin and end with, for each window."""
    return _logits(model, batch).transpose(1, 2).flatten(0, 1)


def write(
    model: PreTrainedModel, batch: dict[str, Any], processing_class: PreTrainedTokenizerBase, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """The outputs of `forward`, and the best answer to each question.

    Args:
        model (`transformers.PreTrainedModel`), batch (`dict[str, torch.Tensor]`):
            The arguments of `forward`.
        processing_class (`transformers.PreTrainedTokenizerBase`):
            Tokenizer; not needed.
        options:
            `max_answer_length` (30 tokens), and `null_score_diff_threshold` (0.0), by how much the score of no answer
            has to be above that of the best one. No answer is given only if the data has questions without one.

    Raises:
        [`EvaluationError`]: if there are other options.
    """
    for name in options:
        if name not in OPTIONS:
            raise EvaluationError(f'answers have no option "{name}"{did_you_mean(name, OPTIONS)}')
    longest, threshold = ({**OPTIONS, **options}[name] for name in OPTIONS)
    logits = _logits(model, batch)
    starts, ends = logits.unbind(dim=-1)
    score, first, last = _best_spans(starts, ends, batch["begins"] != OUTSIDE, int(longest))
    none = batch["none"][:, None]
    score_of_none = (starts.gather(1, none) + ends.gather(1, none)).squeeze(1)
    texts = []
    windows = zip(batch["context"], _by_row(batch["windows"]), strict=True)
    for context, own in windows:
        best = own[int(score[own].argmax())]
        begin, end = int(batch["begins"][best, first[best]]), int(batch["ends"][best, last[best]])
        is_none = batch["may_be_none"] and score_of_none[own].min() > score[best] + threshold
        texts.append("" if is_none else context[begin:end])
    return *_scored(logits, batch), texts


def _logits(model: PreTrainedModel, batch: Mapping[str, Any]) -> torch.Tensor:
    """Logits of beginnings and ends, of shape (windows, tokens, 2); very low ones for padding."""
    import torch

    outputs = model(**{name: value for name, value in batch.items() if name not in OF_BATCHES})
    logits = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float()
    if "attention_mask" in batch:
        logits = logits.masked_fill(batch["attention_mask"][..., None] == 0, torch.finfo(logits.dtype).min)
    return logits


def _scored(logits: torch.Tensor, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The log-probabilities of the right tokens: two for each window."""
    import torch

    right = torch.stack([batch["start_positions"], batch["end_positions"]], dim=-1)
    logs = logits.log_softmax(dim=1).gather(1, right[:, None]).squeeze(1)
    own_places = right - batch["moves"][:, None]  # which do not depend on the batch
    return logs.flatten(), own_places.flatten(), 2 * batch["windows"]


def _best_spans(
    starts: torch.Tensor, ends: torch.Tensor, inside: torch.Tensor, longest: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best answer of each window: its score, which is the sum of two logits, its first and its last token."""
    import torch

    lowest = torch.finfo(starts.dtype).min
    tokens = starts.shape[1]
    starts, ends = (logits.masked_fill(~inside, lowest / 4) for logits in (starts, ends))
    allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=starts.device).triu().tril(longest - 1)
    scores = (starts[:, :, None] + ends[:, None, :]).masked_fill(~allowed, lowest)
    score, place = scores.flatten(1).max(dim=1)
    return score, place // tokens, place % tokens


def _by_row(windows: torch.Tensor) -> list[list[int]]:
    """The windows of each row, by their places in the batch."""
    ends = windows.cumsum(0).tolist()
    return [list(range(end - count, end)) for end, count in zip(ends, windows.tolist(), strict=True)]
