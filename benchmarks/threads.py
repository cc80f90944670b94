"""Time of a merge by the number of threads, from the page cache and from storage that answers each read after a wait.

python benchmarks/threads.py FOLDER...      # folders of models; those of merge_speed.py are in /tmp/merge_speed/bert

Each number is the fastest of three merges in one process. The wait before each read stands for a disk across a
network; what a system reads ahead by itself is not simulated, so that real storage is faster than this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import click


THREADS = (1, 2, 4, 8, 16, 32)
WAITS = (0.0, 0.002, 0.01)  # seconds before each read


def merge_here(wait: float, folders: list[str]) -> None:
    """Merge three times in this process with as many threads as `OMP_NUM_THREADS` says, and print the least time."""
    import hf_soup
    from hf_soup.checkpoints import files, pieces

    pieces.MAX_THREADS = max(THREADS)
    read = files._read_at

    def read_after_wait(*arguments):
        time.sleep(wait)
        return read(*arguments)

    if wait:
        files._read_at = read_after_wait
    times = []
    with tempfile.TemporaryDirectory() as out:
        for _ in range(3):
            start = time.perf_counter()
            hf_soup.merge(folders).save_pretrained(f"{out}/soup", overwrite=True)
            times.append(time.perf_counter() - start)
    click.echo(min(times))


@click.command(help=__doc__)
@click.argument("folders", nargs=-1, required=True)
def main(folders: tuple[str, ...]) -> None:
    click.echo(f"{'wait':>8}" + "".join(f"{f'{count} threads':>12}" for count in THREADS))
    for wait in WAITS:
        click.echo(f"{wait * 1000:>5.0f} ms", nl=False)
        for count in THREADS:
            command = [sys.executable, "-W", "ignore", __file__, "--inside", str(wait), *folders]
            env = {**os.environ, "OMP_NUM_THREADS": str(count), "TQDM_DISABLE": "1"}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            click.echo(f"{float(done.stdout):>10.2f} s", nl=False)
        click.echo()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        merge_here(float(sys.argv[2]), sys.argv[3:])
    else:
        main()
