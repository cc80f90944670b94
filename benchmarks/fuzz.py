"""Searches for inputs that make a reader of untrusted files hang, crash, run out of memory or raise no `SoupError`.

python benchmarks/fuzz.py --minutes 30 --corpus tests/corpus
python benchmarks/fuzz.py --minutes 1 --reader header --reader csv

hypothesis changes valid files (bytes, lines and single values) and shrinks the inputs it finds. Each reader of
`tests/readers.py` runs in its own process and gets the same share of the time; `--corpus` keeps one input of each
kind.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import hashlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
SECONDS, MEMORY = 20, 1_500_000_000  # limits for one input; memory in bytes
SHRINKING = 300  # attempts at shrinking an input
DEEP = "@deep@"  # stands for deeply nested brackets, which no library writes
ODD = [None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "0"]
ODD += [
    "../../x",
    "/etc/passwd",
    "\x00",
    "a\nb",
    "\ud800",
    "\x1b[31m",
    "{{ x }}",
    "$a$ $b",
    "__class__",
    "int32",
    DEEP,
]
ODD += [[], {}, [[]], [None], [0, -1], {"": None}, {"0": 1}, {"__class__": "x"}, ["a", 1], {"a": {"b": {"c": []}}}]
PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b"\n",
    b"\r",
    b"\t",
    b":",
]
PIECES += [
    b"!!int x",
    b"!!python/object:os.system x",
    b"&a [*a, *a]",
    b"- *a",
    b"? [a]",
    b"<<: 1",
    b"---\n",
    b"!!map x",
]
PIECES += [b"9" * 5000, b"1e400", b"NaN", b"-Infinity", b"\\ud800", b"[" * 3000, b"null", b"true", b"2001-99-99", b"'"]


@st.composite
def changed_bytes(draw: Any, valid: bytes) -> bytes:
    """A file with a few bytes changed, removed, repeated or inserted."""
    content = valid
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), place + draw(st.sampled_from([1, 2, 4, 8, 64, 1000])))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            content = content[:place] + draw(st.binary(min_size=1, max_size=4)) + content[place + 1 :]
        elif kind == 1:
            content = content[:place] + draw(st.sampled_from(PIECES)) + content[place:]
        elif kind == 2:
            content = content[:place] + draw(st.sampled_from(PIECES)) + content[end:]
        elif kind == 3:
            content = content[:place] + content[end:]
        elif kind == 4:
            content = content[:end] + content[place:]
        else:
            content = content[:place]
    return content


@st.composite
def changed_values(draw: Any, form: str, valid: bytes) -> bytes:
    """A file with a few values changed, removed or renamed."""
    from readers import build, parse

    values = [copy.deepcopy(parse(form, valid))]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(values))
        inside, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.integers(0, 5))
        if kind < 3 or (inside is values and kind != 3):
            inside[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif kind == 3:
            inside[key] = [inside[key]]
        elif kind == 4:
            del inside[key]
        elif isinstance(inside, dict):
            inside[draw(st.sampled_from(["", "\x00", "\ud800", "__class__", "auto_map", "x" * 500]))] = inside.pop(key)
    return build(form, valid, values[0]).replace(json.dumps(DEEP).encode(), b"[" * 3000 + b"]" * 3000)


def _places(values: Any) -> Any:
    keys = values if isinstance(values, dict) else range(len(values))
    for key in list(keys):
        yield values, key
        if isinstance(values[key], (dict, list)):
            yield from _places(values[key])


class FoundError(Exception):
    """An input that a reader does not handle."""


class SlowError(BaseException):
    """One input took too long. It derives from BaseException so that no `except Exception` catches it."""


def _slow(*_: Any) -> None:
    raise SlowError(f"more than {SECONDS} seconds")


def fuzz(name: str, seconds: float, place: Path, known: set[str]) -> None:
    """Search for inputs that break one reader, and write each as one line of a file."""
    from readers import READERS, attempt, prepare, seeds

    logging.disable()
    reader = READERS[name]
    if not (place / reader.file).exists():
        prepare(place)
        (place / "valid").write_bytes(seeds(reader, place))
    valid = (place / "valid").read_bytes()
    inputs = changed_bytes(valid)
    if reader.form in ("json", "yaml", "header", "card"):
        inputs = st.one_of(inputs, changed_values(reader.form, valid), changed_values(reader.form, valid))
    signal.signal(signal.SIGALRM, _slow)
    attempt(reader, place, valid)  # memory for one-time imports does not count
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = (pages * resource.getpagesize() + 3 * MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1])
    resource.setrlimit(resource.RLIMIT_AS, limits)  # an input that exhausts memory ends this process, not the machine
    end = time.monotonic() + seconds
    while time.monotonic() < end and "memory" not in known:
        count, found = search(reader, place, inputs, known, end)
        for problem, content in found:
            known.add(_kind(problem))
            _tell(place, {"problem": problem, "content": content.hex()})
        _tell(place, {"inputs": count})


def _tell(place: Path, news: dict[str, Any]) -> None:
    """Report to the parent process through a file, because libraries may print to stdout."""
    with (place / "news").open("a") as file:
        file.write(json.dumps(news) + "\n")


def search(reader: Any, place: Path, inputs: Any, known: set[str], end: float) -> tuple[int, list[tuple[str, bytes]]]:
    """Try inputs until one causes an unknown problem.

    Returns the number of inputs tried and, for the problem that was found, the smallest input that causes it.
    """
    from readers import attempt

    smallest: list[tuple[str, bytes]] = []
    tried, shrunk = [0], [0]
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MEMORY

    @settings(
        max_examples=300,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        verbosity=Verbosity.quiet,
    )
    @given(inputs)
    def look(content: bytes) -> None:
        if time.monotonic() > end or shrunk[0] > SHRINKING:
            return
        tried[0] += 1
        shrunk[0] += bool(smallest)
        (place / "current").write_bytes(content)
        began = time.monotonic()
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # if the signal is not delivered
        try:
            problem = attempt(reader, place, content)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        if time.monotonic() - began >= SECONDS:
            problem = "slow"
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > limit:
            problem = "memory"
        if problem is None or _kind(problem) in known:
            return
        if not smallest or _kind(problem) == _kind(smallest[0][0]):
            smallest[:] = [(problem, content)]
            raise FoundError

    try:
        look()
    except FoundError:
        pass
    except Exception:  # hypothesis raises an error when shrinking stops early
        if not smallest:
            raise
    return tried[0], smallest


def _kind(problem: str) -> str:
    return problem.split(":")[0]


def run(name: str, seconds: float, corpus: Path | None) -> tuple[int, dict[str, bytes]]:
    """Fuzz one reader in separate processes; returns the number of inputs and one input for each problem."""
    inputs, found = 0, {}
    with tempfile.TemporaryDirectory() as place:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 5 or not inputs:
            command = [sys.executable, __file__, "--child", name, str(max(5, left)), place, json.dumps(list(found))]
            (Path(place) / "news").unlink(missing_ok=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(place))
            crash = done.stderr.strip().splitlines() or ["no message"] if done.returncode else []
            if crash and not (Path(place) / "current").exists():
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            for line in (Path(place) / "news").read_text().splitlines() if (Path(place) / "news").exists() else ():
                news = json.loads(line)
                inputs += news.get("inputs", 0)
                if "problem" in news:
                    found[news["problem"]] = bytes.fromhex(news["content"])
            if crash:
                inputs += 1
                problem = f"ends {len(found)} (exit code {done.returncode}): {' | '.join(crash[-3:])[:300]}"
                found[problem] = (Path(place) / "current").read_bytes()
                if sum(problem.startswith("ends") for problem in found) > 3:
                    break
    if corpus:
        for problem, content in found.items():
            folder = corpus / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(problem.split(":")[0].encode()).hexdigest()[:12]).write_bytes(content)
    return inputs, found


def _environment(place: str) -> dict[str, str]:
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
    package = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    return {**os.environ, **quiet, "HF_HOME": f"{place}/home", "PYTHONPATH": paths}


def main() -> None:
    from readers import READERS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="for all readers together")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="all by default")
    parser.add_argument("--corpus", type=Path, help="a folder for what is found")
    given_ = parser.parse_args()
    names = given_.reader or list(READERS)
    print(f"{'reader':<18} {'inputs':>8} {'problems':>9}")
    total = [0, 0]
    for name in names:
        inputs, found = run(name, given_.minutes * 60 / len(names), given_.corpus)
        total = [total[0] + inputs, total[1] + len(found)]
        print(f"{name:<18} {inputs:>8,} {len(found):>9}", flush=True)
        for problem, content in found.items():
            print(f"    {problem}   {content[:60]!r}", flush=True)
    print(f"{'all':<18} {total[0]:>8,} {total[1]:>9}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        reader_name, share, folder, problems = sys.argv[2:]
        fuzz(reader_name, float(share), Path(folder), {_kind(problem) for problem in json.loads(problems)})
    else:
        main()
