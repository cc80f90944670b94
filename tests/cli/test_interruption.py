"""Tests of signals: a command ends with one line and the signal's exit code, and leaves no processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_soup.cli.interruption import Interruption


# A command that gets a signal when a module is imported, or from its destructor.
COMMAND = """
import os, signal, sys
module, number = sys.argv[1], int(sys.argv[2])

class SignalAt:
    def find_spec(self, name, *_):
        if name == module:
            sys.meta_path.remove(self)
            {what}

sys.meta_path.insert(0, SignalAt())
from hf_soup.cli.start import main
sys.argv[1:] = sys.argv[3:]
main()
"""
SEND = "os.kill(os.getpid(), number)"
SWALLOW = f"""
            try:
                {SEND}
            except BaseException:
                raise ImportError("it is not installed") from None
"""
DESTROY = """
            class Mortal:
                def __del__(self):
                    os.kill(os.getpid(), number)
            Mortal()
"""


@pytest.fixture(autouse=True)
def heard():
    """Use the default handlers, also if the tests run in the background and ignore signals."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(module, number, *args, what=SEND):
    """Exit code and stderr lines of a command that gets a signal when it imports a module."""
    command = [sys.executable, "-c", COMMAND.format(what=what), module, str(int(number)), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("module", ["click", "hf_soup.cli.soups", "torch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_something_is_imported(module, number, text_runs, tmp_path):
    """A signal during imports, which come first in a command, prints one line and no traceback."""
    command = ["methods"]
    if module == "torch":  # which a linear merge does without
        command = ["merge", *text_runs, "--method", "median", "-o", tmp_path / "soup"]
    code, lines = interrupted(module, number, *command)
    assert code == 128 + number, lines
    assert len(lines) == 1
    assert lines[0].endswith("finished work is kept; rerun the command to resume.")


@pytest.mark.parametrize("what", [SWALLOW, DESTROY], ids=["except BaseException", "destructor"])
def test_an_interrupt_that_a_library_swallows_comes_again(what):
    """If an optional import or a destructor swallows the interrupt, it is raised again and the command ends."""
    code, lines = interrupted("hf_soup.cli.soups", signal.SIGTERM, "methods", what=what)
    assert code == 143
    assert lines == ["Terminated (SIGTERM): finished work is kept; rerun the command to resume."]


def test_what_is_ignored_stays_ignored():
    """Under `nohup` a command ignores SIGHUP."""
    command = ["nohup", sys.executable, "-c", COMMAND.format(what=SEND), "click", str(int(signal.SIGHUP)), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert "hf-soup" in done.stdout


@pytest.fixture
def handlers():
    """Restore the signal handlers of this process."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in names}
    hook = sys.unraisablehook
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


def test_cleaning_up_is_not_interrupted_by_the_same_signal(handlers):
    """A signal that arrives twice within a moment, as terminals and launchers send it, does not interrupt clean-up."""
    interruption = Interruption()
    interruption.listen()
    cleaned = False
    with contextlib.suppress(KeyboardInterrupt):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned
    assert interruption.number == signal.SIGTERM


def test_a_second_ctrl_c_interrupts_what_cleans_up(handlers, monkeypatch):
    """A second Ctrl-C interrupts the clean-up, and a third one exits the process."""
    monkeypatch.setattr("hf_soup.cli.interruption.SAME", 0)
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    interruption = Interruption()
    interruption.listen()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert codes == [130]


def test_a_forked_child_ends_as_it_would_without_us(handlers):
    """A forked child, such as a DataLoader worker, is ended by SIGTERM as usual."""
    Interruption().listen()
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def wait_for_ever(folder):
    """The work of a test process: record its id, wait, and record that it has cleaned up."""
    mine = Path(folder) / str(os.getpid())
    mine.touch()
    try:
        time.sleep(60)
    finally:
        mine.rename(mine.with_suffix(".cleaned"))


SWEEP = """
import sys
sys.path.insert(0, sys.argv[2])
from test_interruption import wait_for_ever
from hf_soup.parallel import run_all
if __name__ == "__main__":
    print(list(run_all(wait_for_ever, [sys.argv[1]] * 4, devices=("0", "1"))))
"""


def is_alive(pid):
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, number):
    """Workers clean up and end when their parent is killed, or when Ctrl-C goes to all of them."""
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP)
    work = tmp_path / "work"
    work.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, work, Path(__file__).parent],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(work.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = [path.name for path in work.iterdir()]
    assert len(pids) == 2
    if number == signal.SIGKILL:
        parent.kill()
    else:
        os.killpg(parent.pid, number)
    _, stderr = parent.communicate(timeout=30)
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))
    assert {path.name for path in work.iterdir()} == {f"{pid}.cleaned" for pid in pids}
    assert stderr.count("Traceback") == (number == signal.SIGINT)  # the parent's own


def test_python_has_its_own_handlers():
    """Importing the package installs no signal handlers."""
    code = "import signal, hf_soup.cli, hf_soup.parallel; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
