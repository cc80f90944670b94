"""Signals that end a command: each becomes a `KeyboardInterrupt`, so that all of them clean up as Ctrl-C does.

It listens in the process of a command only; `import hf_soup` changes no handler. It does not know what is cleaned up.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn


# What ends a command, and how that is called; a signal that is ignored already, as below `nohup`, stays ignored.
SIGNALS = {"SIGINT": "Interrupted", "SIGTERM": "Terminated (SIGTERM)", "SIGHUP": "The terminal is gone (SIGHUP)"}
ADVICE = "finished work is kept; rerun the command to resume."
SAME = 0.5  # seconds in which a second signal is the same one: terminals and launchers both send it
INSIST = 10.0  # seconds after which cleaning up is interrupted once more, as by a second Ctrl-C
LEAVE = 20.0  # seconds after which the process ends, whatever its threads are waiting for
FINISH = 5.0  # the same for a command that has cleaned up
TICK = 0.1


class Interruption:
    """Whether a signal has come, and the command's way out after it."""

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
        """Take over the signals of this process."""
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)
        sys.unraisablehook = self._unraisable

    def tell(self) -> None:
        """Write the one line, once."""
        if self._told:
            return
        self._told = True
        try:
            sys.stderr.write(f"{SIGNALS[signal.Signals(self.number).name]}: {ADVICE}\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # closed, full, or not there
            pass

    def finish(self) -> int:
        """The exit code of a command that has cleaned up; from here on, another signal ends the process at once."""
        self.number = self.number or signal.SIGINT
        self.tell()
        self._finished, self._since = True, time.monotonic()
        self._tick_on()
        atexit.register(_tick_off)  # runs when threads have ended, and before Python gives the handlers up
        return 128 + self.number

    def _received(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process:  # a child that was forked ends as it would without us
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
        """An interrupt in a destructor goes nowhere: it is raised again at the next tick."""
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
    """Whether an import is on the stack: libraries take an interrupt there for a package that is not installed."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_under_way() -> bool:
    """Whether the code that runs is that of a `finally` or `with` which the interrupt passes on its way up."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        error = error.__context__
    return error is not None
