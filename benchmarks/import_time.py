"""CPU time of `import hf_soup` (and of its command line) above a bare interpreter; the target is less than 0.15 s.

python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys


ROUNDS, TARGET = 15, 0.15
CASES = {"bare interpreter": "pass", "import hf_soup": "import hf_soup", "import hf_soup.cli": "import hf_soup.cli"}


def cpu_seconds(code: str) -> float:
    """User and system time of a new interpreter that runs one line of code."""
    measured = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True); "
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN); print(usage.ru_utime + usage.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", measured, code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):  # alternately, so that drift of the machine affects all cases alike
        for name, code in CASES.items():
            times[name].append(cpu_seconds(code))
    bare = statistics.median(times["bare interpreter"])
    print(f"{'':<20} {'median':>9} {'above bare':>11}")
    for name, values in times.items():
        median = statistics.median(values)
        verdict = "" if median - bare < TARGET else "over the target"
        print(f"{name:<20} {median:>8.3f}s {median - bare:>10.3f}s {verdict}")


if __name__ == "__main__":
    main()
