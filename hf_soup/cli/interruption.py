"""Signals that end a command: each becomes a `KeyboardInterrupt`, so that cleanup is the same as for Ctrl-C.

Handlers are installed in the process of a command only; `import hf_soup` installs none. What is cleaned up is not
known here.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn


# Signals that end a command, and what is printed; a signal that is ignored already, as with `nohup`, stays ignored.
SIGNALS = {"SIGINT": "Interrupted", "SIGTERM": "Terminated (SIGTERM)", "SIGHUP": "The terminal is gone (SIGHUP)"}
ADVICE = "finished work is kept; rerun the command to resume."
SAME = 0.5  # seconds in which a second signal counts as the same one: terminals and launchers both send it
INSIST = 10.0  # seconds after which cleanup is interrupted again, as by a second Ctrl-C
LEAVE = 20.0  # seconds after which the process ends, even if threads are still waiting
FINISH = 5.0  # the same limit once cleanup is finished
TICK = 0.1


class Interruption:
    """The signal that was received, if any, and how the command ends after it."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self._process = os.getpid()
        self._times = 0
        self._since = 0.0
        self._last = 0.0
        self._importing = False
        self._lost = False
        self._told = False
        self._finished = False

    def listen(self) -> None:
        """Install the signal handlers of this process."""
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)
        sys.unraisablehook = self._unraisable

    def tell(self) -> None:
        """Write the message about the signal, once."""
        if self._told:
            return
        self._told = True
        try:
            sys.stderr.write(f"{SIGNALS[signal.Signals(self.number).name]}: {ADVICE}\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # closed, full or missing
            pass

    def finish(self) -> int:
        """The exit code after cleanup; from now on, another signal ends the process immediately."""
        self.number = self.number or signal.SIGINT
        self.tell()
        self._finished, self._since = True, time.monotonic()
        self._tick_on()
        atexit.register(_tick_off)  # runs after threads have ended and before Python drops the handlers
        return 128 + self.number

    def _received(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process:  # a forked child ends as it would without these handlers
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.number:
            self.number, self._since, self._last, self._times = number, now, now, 1
            self._importing = _is_importing(frame)
            self._tick_on()
            raise KeyboardInterrupt
        elif now - self._last > SAME:
            self._again(now)

    def _again(self, now: float) -> None:
        if self._finished or self._times > 1:
            self._leave()
        self._times, self._last = self._times + 1, now
        raise KeyboardInterrupt

    def _tick_on(self) -> None:
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._tick)
            signal.setitimer(signal.ITIMER_REAL, TICK, TICK)

    def _tick(self, _: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        now = time.monotonic()
        if now - self._since > (FINISH if self._finished else LEAVE):
            self._leave()
        if self._finished:
            return
        if self._lost or (self._importing and not _is_under_way()):
            self._lost, self._importing = False, _is_importing(frame)
            raise KeyboardInterrupt
        if self._times == 1 and now - self._since > INSIST:
            self._again(now)

    def _unraisable(self, what: Any) -> None:
        """Python discards an interrupt in a destructor, so it is raised again at the next tick."""
        if not self.number:
            sys.__unraisablehook__(what)
        elif issubclass(what.exc_type, KeyboardInterrupt):
            self._lost = True

    def _leave(self) -> NoReturn:
        self.tell()
        os._exit(128 + self.number)


def _tick_off() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether an import is on the stack, where libraries mistake an interrupt for a package that is not installed."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_under_way() -> bool:
    """Whether a `finally` or `with` block is running because of the interrupt."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        error = error.__context__
    return error is not None
