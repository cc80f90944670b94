"""What goes wrong on the way to the Hub: what is tried again, and what a user is told to do about the rest.

Whatever its client raises becomes one error of ours here. It makes no request of its own but one: for names that are
close to one that does not exist.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from ..errors import IngredientError, OutputError, SoupError, SoupWarning, warn
from ..untrusted import one_line
from ..version import __version__
from .hub_answers import BadAnswerError, asked_to_wait
from .hub_bodies import refuse_after_interrupt
from .hub_watch import BUSY, watched


if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before the second, third ... attempt
LONGEST = 300.0  # seconds that the Hub may ask to be left alone for
MOST = 2 * LONGEST  # seconds of waiting for one call in all
ENOUGH = 60.0  # seconds after which a Hub that does not answer is not asked again
FINAL = ("ConnectError", "TooManyRedirects", "UnsupportedProtocol", "InvalidURL")  # another attempt gives the same
WORTH_TELLING = 10.0  # seconds of waiting
TOLD = 600  # characters of the client's reason
_told_until = 0.0  # the time of which it was said last that the Hub is waited for
RACE = (409, 412)  # somebody else has committed in the meantime


def client(token: str | bool | None = None) -> HfApi:
    """The client of huggingface_hub, which says who is asking; by default with the token that a login stored."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf_soup", library_version=__version__)


def patiently(call: Callable[[], T], *, again: tuple[int, ...] = BUSY, if_lost: bool = True) -> T:
    """Call until the Hub is not busy, with longer and longer waits, or as long as it asks for (`Retry-After`).

    A cut connection is tried again as well; where nobody listens at all it is not. The call may have taken effect
    although its answer was lost: it has to be one that can be repeated.

    Args:
        call (`Callable`):
            What to do.
        again (`tuple[int, ...]`, *optional*):
            Which answers are worth another attempt.
        if_lost (`bool`, *optional*, defaults to `True`):
            Whether no answer is; not for what would be there twice then.
    """
    from huggingface_hub import errors

    network = (errors.HTTPError, errors.LocalEntryNotFoundError, errors.RevisionResolutionError)
    begin, waited = time.monotonic(), 0.0
    for attempt, wait in enumerate((*WAITS, None), start=1):
        try:
            return call()
        except (*network, OSError, RuntimeError) as error:  # the last of an upload, the other of datasets
            cause = _cause(error)
            status = status_of(cause)
            lasting = status not in again if status else not if_lost or type(cause).__name__ in FINAL
            stalled = "Timeout" in type(cause).__name__ and time.monotonic() - begin > ENOUGH
            if wait is None or lasting or stalled or cause is None or waited >= MOST:
                raise
            wait = min(max(wait, _asked_for(cause)), MOST - waited)
            _wait(wait, attempt)
            waited += wait
    raise AssertionError("unreachable")


def _wait(seconds: float, attempt: int) -> None:
    """Wait, and say that it is the Hub that takes long, and until when; threads that wait side by side say it once."""
    global _told_until
    until = time.time() + seconds
    if seconds >= WORTH_TELLING and until > _told_until + WORTH_TELLING:
        _told_until = until
        clock = time.strftime("%H:%M:%S", time.localtime(until))
        told = f"the Hub is busy: waiting {seconds:.0f} s, until {clock} (attempt {attempt} of {len(WAITS) + 1})."
        warn(told)
    in_worker = threading.current_thread() is not threading.main_thread()
    while in_worker and seconds > WORTH_TELLING:  # a thread gets no Ctrl-C
        time.sleep(1)
        seconds -= 1
        refuse_after_interrupt()
    time.sleep(seconds)


def status_of(error: BaseException | None) -> int | None:
    """The status of the answer that an error is about; none where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _cause(error: BaseException | None) -> BaseException | None:
    """What happened to a request, behind an error that says that something is not in the cache."""
    from huggingface_hub import errors

    while error is not None and not isinstance(error, errors.HTTPError):
        error = error.__cause__ or error.__context__
    return error


def _asked_for(error: BaseException) -> float:
    """The seconds that a busy Hub asks for, within bounds."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    return min(asked_to_wait(headers), LONGEST)


@contextlib.contextmanager
def refusals(repo_id: str) -> Iterator[None]:
    """Say what to do about each error of the client when it writes, and believe no answer without a check.

    Raises:
        [`OutputError`]: instead of it.
    """
    from huggingface_hub import errors

    try:
        with watched():
            yield
    except (SoupError, SoupWarning, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except errors.OfflineModeIsEnabled:
        raise OutputError(f"{repo_id} cannot be reached: HF_HUB_OFFLINE is set. Unset it, and try again.") from None
    except BaseException as error:
        cause = _bad_answer(error) or _cause(error) or error  # an upload hides it
        told = f"the Hub did not take {repo_id}: {_reason(cause)}{_advice(status_of(cause))}"
        raise OutputError(told) from error


@contextlib.contextmanager
def our_errors(
    repo_id: str, revision: str | None, *, sizes: Mapping[str, int] | None = None, small: str | None = None
) -> Iterator[None]:
    """Say what to do about each error of the client when it reads, and believe no answer without a check.

    Args:
        repo_id (`str`), revision (`str`, *optional*):
            What is asked for.
        sizes (`Mapping[str, int]`, *optional*), small (`str`, *optional*):
            As of [`watched`].

    Raises:
        [`IngredientError`]: instead of it.
    """
    from huggingface_hub import errors

    try:
        with watched(sizes, small):
            yield
    except (SoupError, SoupWarning, KeyboardInterrupt, SystemExit, GeneratorExit):
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
    except BaseException as error:  # of the client, or of an answer that it does not understand
        cause = _bad_answer(error) or error
        told = f"the Hub did not give it: {_reason(cause)}{_advice(status_of(_cause(cause)))}"
        raise IngredientError(f"{repo_id} is no folder here, and {told}") from None


@contextlib.contextmanager
def read_errors(kind: type[SoupError], what: str) -> Iterator[None]:
    """Turn whatever a library raises that reads from the Hub, and believe no answer without a check.

    Args:
        kind (`type[SoupError]`):
            The class of the error.
        what (`str`):
            What could not be read; the reason follows it.

    Raises:
        [`SoupError`]: of that class.
    """
    try:
        with watched():
            yield
    except (SoupError, SoupWarning, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        cause = _bad_answer(error) or error
        advice = _advice(status_of(_cause(cause)))
        raise kind(f"{what}: {_reason(cause)}{advice}") from None


def _bad_answer(error: BaseException | None) -> BadAnswerError | None:
    """An answer that was not believed, behind what the client made of it."""
    while error is not None and not isinstance(error, BadAnswerError):
        error = error.__cause__ or error.__context__
    return error


def _reason(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, BadAnswerError):
        return f"{one_line(error, TOLD)}. What it answers is not used."
    if isinstance(error, (KeyError, TypeError, AttributeError, AssertionError, IndexError)) or not str(error):
        return f"the answer is not understood ({type(error).__name__}: {one_line(error)})."
    return one_line(error, TOLD)


def _advice(status: int | None) -> str:
    """What to do about an answer of the Hub."""
    if status == 401:
        return " Log in with `hf auth login`: the Hub does not know your token, or there is none."
    if status == 403:
        return " Your token may not do this: log in (`hf auth login`) with one that may, or ask the owner for access."
    if status == 404:
        return " Check the name, and whether its owner lets you write there (`hf auth whoami` says who you are)."
    if status in BUSY:
        return " The Hub is busy; try again in some minutes, what is done is kept."
    return ""


def _closest(repo_id: str) -> str:
    """The end of a sentence about a repository that is not there: names that are, and look like it."""
    owner, name = repo_id.split("/")[:2] if "/" in repo_id else ("", repo_id)  # without a folder in it
    repo_id = f"{owner}/{name}"
    with contextlib.suppress(Exception), watched():
        theirs = [model.id for model in client().list_models(author=owner, limit=500)] if owner else []
        near = difflib.get_close_matches(repo_id, theirs, n=3)
        if not near:
            alike = [model.id for model in client().list_models(search=name, limit=20)]
            near = [found for found in alike if found.rpartition("/")[2].lower() == name.lower()][:3]
        if near:
            return f"; did you mean {' or '.join(near)}?"
    return "."


@contextlib.contextmanager
def unsaid(module: str, beginning: str) -> Iterator[None]:
    """Keep a module of the client from logging what begins so, where it tells the caller nothing new.

    Args:
        module (`str`):
            Of huggingface_hub, such as `"hf_api"`.
        beginning (`str`):
            Of the message.
    """
    logger = logging.getLogger(f"huggingface_hub.{module}")

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
