"""Errors in the communication with the Hub: which requests are retried, and what the error advises.

Every error of the client is converted to a single error of this package. The only request made here looks for names
that are similar to one that does not exist.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from ..errors import IngredientError, OutputError, SoupError, warn
from ..untrusted import PASSED_ON, one_line
from ..version import __version__
from .hub_answers import BadAnswerError, asked_to_wait
from .hub_bodies import refuse_after_interrupt
from .hub_watch import BUSY, watched


if TYPE_CHECKING:
    from huggingface_hub import HfApi

LIBRARY = "hf_soup"  # the name by which the client identifies itself
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before the second, third ... attempt
LONGEST = 300.0  # seconds that the Hub may ask a client to wait
MOST = 2 * LONGEST  # total seconds of waiting for one call
ENOUGH = 60.0  # seconds after which a Hub that does not answer is not tried again
FINAL = ("ConnectError", "TooManyRedirects", "UnsupportedProtocol", "InvalidURL")  # retrying does not help
WORTH_TELLING = 10.0  # seconds of waiting
LONGEST_REASON = 600  # characters of the client's message
RACE = (409, 412)  # statuses of an answer: another commit came first
ALIKE = 3  # names that an error suggests
_told_until = 0.0  # the end of the last wait that was reported to the user, in seconds since 1970


def client(token: str | bool | None = None) -> HfApi:
    """The client of huggingface_hub, identified as hf_soup; by default with the token that a login stored."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name=LIBRARY, library_version=__version__)


def patiently(call: Callable[[], T], *, again: tuple[int, ...] = BUSY, if_lost: bool = True) -> T:
    """Retry a call until the Hub is not busy, with increasing waits, or as long as it asks for (`Retry-After`).

    A lost connection is retried as well, but not if no server listens. A call may have taken effect although its
    answer was lost, so it has to be repeatable.

    Args:
        call (`Callable`):
            Function to call.
        again (`tuple[int, ...]`, *optional*):
            Statuses of answers that are worth another attempt.
        if_lost (`bool`, *optional*, defaults to `True`):
            Whether an answer that was lost is; not for calls that would then have taken effect twice.
    """
    from huggingface_hub import errors

    # An upload raises RuntimeErrors of its own, and `datasets` raises OSErrors.
    network_errors = (_http_error(), errors.LocalEntryNotFoundError, errors.RevisionResolutionError)
    begin, waited = time.monotonic(), 0.0
    for attempt, wait in enumerate(WAITS, start=1):
        try:
            return call()
        except (*network_errors, OSError, RuntimeError) as error:
            cause = _cause(error)
            seconds = time.monotonic() - begin
            if cause is None or waited >= MOST or not _may_pass(cause, again, if_lost=if_lost, seconds=seconds):
                raise
            wait = min(max(wait, _wait_asked_for(cause)), MOST - waited)
        _wait(wait, attempt)
        waited += wait
    return call()


def _may_pass(cause: BaseException, again: tuple[int, ...], *, if_lost: bool, seconds: float) -> bool:
    """Whether another attempt can succeed after an error that came `seconds` after the start of the first attempt."""
    status = status_of(cause)
    if status:
        return status in again
    name = type(cause).__name__
    is_stalled = "Timeout" in name and seconds > ENOUGH
    return if_lost and name not in FINAL and not is_stalled


def _wait(seconds: float, attempt: int) -> None:
    """Wait, and report once, also for threads that wait at the same time, that the Hub is busy and until when."""
    global _told_until
    until = time.time() + seconds
    if seconds >= WORTH_TELLING and until > _told_until + WORTH_TELLING:
        _told_until = until
        clock = time.strftime("%H:%M:%S", time.localtime(until))
        message = f"the Hub is busy: waiting {seconds:.0f} s, until {clock} (attempt {attempt} of {len(WAITS) + 1})."
        warn(message)
    in_worker = threading.current_thread() is not threading.main_thread()
    while in_worker and seconds > WORTH_TELLING:  # Ctrl-C does not interrupt the sleep of such a thread
        time.sleep(1)
        seconds -= 1
        refuse_after_interrupt()
    time.sleep(seconds)


def status_of(error: BaseException | None) -> int | None:
    """The status of the answer that an error is about; `None` if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later: the Hub did not answer, was busy, or another commit came first."""
    cause = _cause(error)
    if cause is None:
        return False
    status = status_of(cause)
    if status is None:
        name = type(cause).__name__
        return name not in FINAL or name == "ConnectError"  # a machine may be without a network for a while
    return status in (*BUSY, *RACE)


def _http_error() -> type[Exception]:
    """The base class of errors of the client's HTTP library, which is imported only on demand."""
    from httpx2 import HTTPError

    return HTTPError


def _cause(error: BaseException | None) -> BaseException | None:
    """The network error behind an error that reports that something is not in the cache."""
    return _behind(error, _http_error())


def _behind(error: BaseException | None, error_class: type[E]) -> E | None:
    """The first error of a class in the chain of an error and its causes."""
    while error is not None:
        if isinstance(error, error_class):
            return error
        error = error.__cause__ or error.__context__
    return None


def _wait_asked_for(error: BaseException) -> float:
    """The seconds that a busy Hub asks to wait, within bounds."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return min(asked_to_wait(headers), LONGEST)


@contextlib.contextmanager
def refusals(repo_id: str) -> Iterator[None]:
    """Convert the client's errors when writing to errors with advice, and check each answer before it is used.

    Raises:
        [`OutputError`]: instead of it.
    """
    from huggingface_hub import errors

    try:
        with watched():
            yield
    except PASSED_ON:
        raise
    except errors.OfflineModeIsEnabled:
        raise OutputError(f"{repo_id} cannot be reached: HF_HUB_OFFLINE is set. Unset it, and try again.") from None
    except BaseException as error:
        # An upload hides the answer, or the failure of its request, behind errors of its own.
        cause = _behind(error, BadAnswerError) or _cause(error) or error
        advice = _advice(status_of(cause))
        raise OutputError(f"the Hub did not accept {repo_id}: {_reason(cause)}{advice}") from error


@contextlib.contextmanager
def our_errors(
    repo_id: str, revision: str | None, *, sizes: Mapping[str, int] | None = None, small: str | None = None
) -> Iterator[None]:
    """Convert the client's errors when reading to errors with advice, and check each answer before it is used.

    Args:
        repo_id (`str`), revision (`str`, *optional*):
            Repository and revision that are requested.
        sizes (`Mapping[str, int]`, *optional*), small (`str`, *optional*):
            The arguments of [`watched`].

    Raises:
        [`IngredientError`]: instead of it.
    """
    from huggingface_hub import errors

    try:
        with watched(sizes, small):
            yield
    except PASSED_ON:
        raise
    except errors.GatedRepoError:
        raise IngredientError(
            f"{repo_id} is gated: ask for access on its page, log in with `hf auth login`, then try again."
        ) from None
    except errors.RevisionNotFoundError:
        raise IngredientError(f"{repo_id} has no revision {revision!r}: name a branch, a tag or a commit.") from None
    except errors.RepositoryNotFoundError:
        raise IngredientError(
            f"{repo_id} is neither a folder here nor a model on the Hub that you may see{_closest(repo_id)} Check the "
            "spelling; for a private one, log in with `hf auth login`."
        ) from None
    except errors.LocalEntryNotFoundError as error:
        advice = _advice(status_of(_cause(error)))
        raise IngredientError(
            f"{repo_id} is not in the cache, and the Hub was not asked or is away: {_reason(error)}{advice}"
        ) from None
    except errors.EntryNotFoundError:
        raise IngredientError(f"{repo_id} does not exist at {revision or 'main'}: no such folder there.") from None
    except errors.HFValidationError as error:
        raise IngredientError(f"{repo_id} is neither a folder here nor a Hub id: {error}") from None
    except BaseException as error:  # from the client, or from an answer that it does not understand
        cause = _behind(error, BadAnswerError) or error
        advice = _advice(status_of(_cause(cause)))
        raise IngredientError(
            f"{repo_id} is not a folder here, and the Hub did not provide it: {_reason(cause)}{advice}"
        ) from None


@contextlib.contextmanager
def read_errors(error_class: type[SoupError], what: str) -> Iterator[None]:
    """Convert any error of a library that reads from the Hub to one class, and check each answer before it is used.

    Args:
        error_class (`type[SoupError]`):
            The class of the error.
        what (`str`):
            What could not be read; the reason follows it in the message.

    Raises:
        [`SoupError`]: of that class.
    """
    try:
        with watched():
            yield
    except PASSED_ON:
        raise
    except BaseException as error:
        cause = _behind(error, BadAnswerError) or error
        advice = _advice(status_of(_cause(cause)))
        raise error_class(f"{what}: {_reason(cause)}{advice}") from None


def _reason(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, BadAnswerError):
        return f"{one_line(error, LONGEST_REASON)}. Its answer is not used."
    # Such errors come from client code that expected another answer; their text is of no use to a user.
    is_misunderstood = isinstance(error, (KeyError, TypeError, AttributeError, AssertionError, IndexError))
    if is_misunderstood or not str(error):
        return f"the answer is not understood ({type(error).__name__}: {one_line(error)})."
    return one_line(error, LONGEST_REASON)


def _advice(status: int | None) -> str:
    """Advice about an answer of the Hub."""
    if status == 401:
        return " Log in with `hf auth login`: the Hub does not know your token, or you have none."
    if status == 403:
        return " Your token may not do this: log in (`hf auth login`) with one that may, or ask the owner for access."
    if status == 404:
        return " Check the name, and whether its owner lets you write there (`hf auth whoami` says who you are)."
    if status in BUSY:
        return " The Hub is busy; try again in a few minutes. Finished work is kept."
    return ""


def _closest(repo_id: str) -> str:
    """The end of a sentence about a missing repository: existing names that look similar."""
    owner, name = "", repo_id
    if "/" in repo_id:
        owner, name = repo_id.split("/")[:2]  # without the folder in it
    suggestions: list[str] = []
    with contextlib.suppress(Exception), watched():  # a failed suggestion must not raise another error
        if owner:
            of_owner = [model.id for model in client().list_models(author=owner, limit=500)]
            suggestions = difflib.get_close_matches(f"{owner}/{name}", of_owner, n=ALIKE)
        if not suggestions:
            suggestions = _called_alike(name)[:ALIKE]
    if not suggestions:
        return "."
    return f"; did you mean {' or '.join(suggestions)}?"


def _called_alike(name: str) -> list[str]:
    """Models with this name, of any owner."""
    ids = []
    for model in client().list_models(search=name, limit=20):  # the search also finds longer names
        own_name = model.id.rpartition("/")[2]
        if own_name.lower() == name.lower():
            ids.append(model.id)
    return ids


@contextlib.contextmanager
def unsaid(module: str, beginning: str) -> Iterator[None]:
    """Prevent a client module from logging a message that repeats what the caller already knows.

    Args:
        module (`str`):
            Module of huggingface_hub, such as `"hf_api"`.
        beginning (`str`):
            Beginning of the message.
    """
    logger = logging.getLogger(f"huggingface_hub.{module}")

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
