"""Disk, memory and time of merges that are streamed from a Hub on loopback to it, and plans of models of any size.

python benchmarks/large.py merge              # 12 GB are moved: three ingredients of 3 GB, and the soup; 12 GB of disk
python benchmarks/large.py merge --size 300MB # the same with less
python benchmarks/large.py requests           # how many requests at once, of which size, for a given latency
python benchmarks/large.py plan               # plans of 7 B, 70 B, 400 B, and of 1,000 files with 100,000 tensors

The Hub is that of the tests, in a process of its own. Storage is slow on purpose: each process of a merge has its own
address of the Hub, whose bytes per second are limited in each direction, since two cores cannot show what more
bandwidth brings. Disk is the largest size of the temporary files and caches; memory is the largest resident size of a
process, torch included. A merge is cut off by SIGKILL when half of its files are uploaded.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import numpy as np


sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from hub import HubServer, environment, wire
from hub.store import Blob

from hf_soup.checkpoints.output_layout import OutputLayout, lay_out
from hf_soup.checkpoints.reader import TensorSpec
from hf_soup.checkpoints.shard_size import shard_size
from hf_soup.display.tables import align


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}
MODELS = {  # billions of parameters -> hidden and intermediate size, layers, heads, heads of keys, tokens
    "7 B": (4096, 11008, 32, 32, 32, 32000),
    "70 B": (8192, 28672, 80, 64, 8, 128256),
    "400 B": (16384, 53248, 126, 128, 8, 128256),
}
EXPERTS = 256, 128, 1024  # experts, layers, hidden size: 99,459 tensors, 103 B parameters
INGREDIENTS = 3
RATE = 150e6  # bytes a second of each process, in each direction
PIECE = 2**20  # bytes after which the rate is looked at
BLOCK = 2**24  # bytes of random numbers, which are repeated
TIMES = ("opening, s", "plan, s", "peak, MB")


def llama(
    hidden: int, inner: int, layers: int, heads: int, key_heads: int, tokens: int
) -> tuple[dict, list[TensorSpec]]:
    """The configuration and the tensors of a Llama."""
    size = hidden // heads
    shapes = _ends(tokens, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", heads), ("k_proj", key_heads), ("v_proj", key_heads)):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (rows * size, hidden)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, heads * size)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = shapes[f"{prefix}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
    config = LLAMA | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": tokens,
    }
    return config, [TensorSpec(name, shape, "bfloat16") for name, shape in shapes.items()]


def _ends(tokens: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors outside of layers."""
    return {
        "model.embed_tokens.weight": (tokens, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (tokens, hidden),
    }


def mixture(experts: int, layers: int, hidden: int) -> tuple[dict, list[TensorSpec]]:
    """The configuration and the tensors of a mixture of experts, of which each has three matrices in the files."""
    shapes = _ends(32000, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", 1024), ("k_proj", 256), ("v_proj", 256)):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (rows, hidden)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, 1024)
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            shapes[f"{prefix}.{name}.weight"] = (64,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
        shapes[f"{prefix}.mlp.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            for name in ("gate_proj", "up_proj", "down_proj"):
                shapes[f"{prefix}.mlp.experts.{expert}.{name}.weight"] = (hidden, hidden)
    config = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "intermediate_size": hidden,
        "moe_intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_experts": experts,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    }
    return config, [TensorSpec(name, shape, "bfloat16") for name, shape in shapes.items()]


class Sparse:
    """The bytes of a weight file of which only the header is stored."""

    def __init__(self, header: bytes, size: int):
        self._header, self._size = header, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        content = self._header[part.start : part.stop]
        return content + bytes(min(part.stop, self._size) - part.start - len(content))


class Stored(Blob):
    """A large file whose digest is not computed here."""

    sha256 = "0" * 64


class LimitedHub(HubServer):
    """A Hub whose large files come and go at a limited rate, after a latency."""

    def __init__(self, rate: float | None, latency: float = 0.0, connection_rate: float | None = None):
        super().__init__()
        self.latency, self._rate, self._connection_rate = latency, rate, connection_rate
        self._free = {"read": 0.0, "write": 0.0}
        self._lock = threading.Lock()

    def start(self) -> LimitedHub:
        """Open both ports, the one for large files with limits."""
        super().start()
        storage = self._origins[1]._server
        storage.RequestHandlerClass = type("SlowHandler", (SlowHandler,), {"hub": self})
        return self

    def wait(self, direction: str, size: int) -> None:
        """Wait as long as a number of bytes takes."""
        delay = size / self._connection_rate if self._connection_rate else 0.0
        if self._rate:
            with self._lock:
                self._free[direction] = max(time.monotonic(), self._free[direction]) + size / self._rate
                delay = max(delay, self._free[direction] - time.monotonic())
        time.sleep(max(delay, 0))


class SlowHandler(wire._Handler):
    """Sends and receives bodies in pieces, at the rate of its Hub."""

    hub: LimitedHub

    def setup(self) -> None:
        """Replace both ends of the connection."""
        super().setup()
        write, read = self.wfile.write, self.rfile.read

        def write_slowly(data):
            if len(data) > PIECE:
                time.sleep(self.hub.latency)
            for start in range(0, len(data), PIECE):
                self.hub.wait("write", len(data[start : start + PIECE]))
                write(data[start : start + PIECE])

        def read_slowly(size):
            parts = []
            for start in range(0, size, PIECE):
                self.hub.wait("read", min(PIECE, size - start))
                parts.append(read(min(PIECE, size - start)))
            return b"".join(parts)

        self.wfile.write, self.rfile = write_slowly, Reading(self.rfile, read_slowly)


class Reading:
    """A file whose bodies are read by a function."""

    def __init__(self, file, read):
        self.file, self.read = file, read

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def add(hub: HubServer, name: str, files: dict[str, Blob]) -> None:
    """Add a repository."""
    repository = hub.store.create(f"{hub.user}/{name}", private=False)
    repository.commit("main", "weights", lambda content: content.update(files))
    for blob in files.values():
        if blob.lfs:
            hub.store.objects[blob.sha256] = blob.content


def model_files(config: dict, layout: OutputLayout) -> dict[str, Blob]:
    """The files of a repository but for its weights."""
    files = {"config.json": Blob(json.dumps(config).encode())}
    for name, index in layout.indexes.items():
        files[name] = Blob(json.dumps(index).encode())
    return files


def write_random(path: Path, header: bytes, size: int, seed: int) -> None:
    """A weight file with random numbers of bfloat16, in repeated blocks."""
    rng = np.random.default_rng(seed)
    block = (rng.normal(size=BLOCK // 2).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with path.open("wb") as file:
        file.write(header)
        left = size - len(header)
        while left:
            left -= file.write(block[:left])


@contextlib.contextmanager
def watched(folders: list[Path], processes: list[subprocess.Popen]):
    """Yields the largest size of the folders, and of the memory of one process, up to now."""
    most, stop = {"disk": 0, "memory": 0}, threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            sizes = []
            for place, _, names in (found for folder in folders for found in os.walk(folder)):
                for name in names:
                    with contextlib.suppress(OSError):  # a file that has just been deleted
                        sizes.append(os.lstat(os.path.join(place, name)).st_size)
            most["disk"] = max(most["disk"], sum(sizes))
            for process in processes:
                with contextlib.suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    peak = next(line for line in lines if line.startswith("VmHWM"))
                    most["memory"] = max(most["memory"], int(peak.split()[1]) * 1024)

    thread = threading.Thread(target=look)
    thread.start()
    yield most
    stop.set()
    thread.join()


class Run:
    """One merge: a process for each rank, each with a Hub, a cache and temporary files of its own."""

    def __init__(self, hubs: list[HubServer], place: Path, *arguments: str, command: str = "merge"):
        self.place, self.folders = place, []
        self.processes = []
        for rank, hub in enumerate(hubs):
            home, temporary = place / f"home-{rank}", place / f"tmp-{rank}"
            for folder in (home, temporary):
                folder.mkdir(parents=True, exist_ok=True)
            self.folders += [home, temporary]
            env = {**os.environ, **environment(hub, home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
            if len(hubs) > 1:
                env |= {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(len(hubs)),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": "29511",
                }
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "hf_soup.cli", command, *arguments, "--quiet"],
                    env=env,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )

    def finish(self, kill_when=None) -> tuple[float, int, int]:
        """Seconds, largest disk of all processes, and largest memory of one."""
        begin = time.monotonic()
        with watched(self.folders, self.processes) as most:
            while kill_when is not None and not kill_when():
                time.sleep(0.05)
            for process in self.processes:
                if kill_when is not None:
                    process.kill()
                if process.wait() and kill_when is None:
                    raise click.ClickException(process.stderr.read().decode())
        return time.monotonic() - begin, most["disk"], most["memory"]


@click.group(help=__doc__)
def main() -> None:
    """Measure merges that are larger than the machine."""


@main.command("merge")
@click.option("--size", default="3GB", help="Size of an ingredient.")
@click.option("--files", default=10, help="Number of weight files of the soup.")
@click.option("--rate", default=RATE, help="Bytes a second of each process, in each direction.")
def merge_command(size: str, files: int, rate: float) -> None:
    """Download or stream, with one process and two, cut off and resumed."""
    hidden = 2048
    of_layer = 2 * (4 * hidden * hidden + 3 * hidden * 4 * hidden)
    layers = max(2, round(shard_size(size) / of_layer))
    config, specs = llama(hidden, 4 * hidden, layers, 16, 16, 2000)
    layout = lay_out(specs)
    (shard,) = layout.shards
    most = f"{shard.nbytes // files + 2**20}B"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        hubs = [LimitedHub(rate), LimitedHub(rate)]
        hubs[1].store, hubs[1].accounts = hubs[0].store, hubs[0].accounts
        for index in range(INGREDIENTS):
            path = place / f"weights-{index}"
            write_random(path, shard.header, shard.nbytes, index)
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            add(hubs[0], f"run-{index}", {**model_files(config, layout), "model.safetensors": Blob(content, lfs=True)})
        for hub in hubs:
            hub.start()
        names = [f"{hubs[0].user}/run-{index}" for index in range(INGREDIENTS)]
        moved = (INGREDIENTS + 1) * shard.nbytes
        print(
            f"{moved / 1e9:.1f} GB are moved: {INGREDIENTS} ingredients, a soup; {rate / 1e6:.0f} MB/s of a process\n"
        )
        lines = [["merge", "seconds", "MB/s", "disk, MB", "memory, MB", "foretold, s"]]

        def uploads() -> int:
            return sum(item.origin == "cdn" and item.method == "PUT" for hub in hubs for item in hub.log)

        def line(title: str, result: tuple[float, int, int], foretold: float | None = None) -> None:
            seconds, disk, memory = result
            told = "" if foretold is None else f"{foretold:.0f}"
            lines.append(
                [
                    title,
                    f"{seconds:.1f}",
                    f"{moved / seconds / 1e6:.0f}",
                    f"{disk / 1e6:,.0f}",
                    f"{memory / 1e6:.0f}",
                    told,
                ]
            )

        def run(title: str, hubs_of_run: list[HubServer], *options: str, **how) -> tuple[float, int, int]:
            result = Run(
                hubs_of_run, place / title.replace(" ", "-"), *names, *options, "--max-shard-size", most
            ).finish(**how)
            return result

        told = plan_of(hubs[0], place / "home", names, most, rate, (1, 2))
        foretold = {count: costs["seconds"] for count, costs in told["costs"].items()}
        line("downloaded", run("downloaded", hubs[:1], "--push-to-hub", "downloaded"))
        forget_uploads(hubs[0])
        line("streamed", run("streamed", hubs[:1], "--push-to-hub", "streamed", "--stream"), foretold["1"])
        forget_uploads(hubs[0])
        line("streamed by 2 ranks", run("ranks", hubs, "--push-to-hub", "ranks", "--stream"), foretold["2"])
        forget_uploads(hubs[0])
        before = uploads()
        arguments = ("--push-to-hub", "resumed", "--stream")
        first = run("resumed", hubs[:1], *arguments, kill_when=lambda: uploads() - before >= files // 2)
        line("cut off at half", first)
        line("and resumed", run("resumed", hubs[:1], *arguments))
        print(align(lines))
        contents = set()
        for name in ("downloaded", "streamed", "ranks", "resumed"):
            commit = hubs[0].store.repositories[f"{hubs[0].user}/{name}"].resolve("main")
            contents.add(
                tuple(sorted(blob.sha256 for path, blob in commit.files.items() if path.endswith(".safetensors")))
            )
        print(f"\nthe weight files of the four are {'the same' if len(contents) == 1 else 'NOT the same'}")
        for hub in hubs:
            hub.stop()


def forget_uploads(hub: HubServer) -> None:
    """Let the Hub forget what was uploaded, so that it is sent again."""
    ingredients = set()
    for repository in hub.store.repositories.values():
        if re.search(r"run-\d+$", repository.id):
            ingredients |= {blob.sha256 for blob in repository.resolve("main").files.values() if blob.lfs}
    for oid in set(hub.store.objects) - ingredients:
        del hub.store.objects[oid]


@main.command("requests")
@click.option("--latency", default=0.05, help="Seconds before an answer.")
@click.option("--connection-rate", default=40e6, help="Bytes a second of a connection.")
@click.option("--size", default="400MB", help="Size of an ingredient.")
def requests_command(latency: float, connection_rate: float, size: str) -> None:
    """Seconds to read one ingredient, for numbers and sizes of requests."""
    from hf_soup.checkpoints import remote_files

    hidden = 1024
    config, specs = llama(hidden, 4 * hidden, max(2, round(shard_size(size) / (2 * 16 * hidden**2))), 16, 16, 2000)
    with tempfile.TemporaryDirectory() as folder, LimitedHub(None, latency, connection_rate) as hub:
        os.environ.update(environment(hub, Path(folder)))  # before the client is imported
        import hf_soup

        layout = lay_out(specs)
        (shard,) = layout.shards
        path = Path(folder) / "weights"
        write_random(path, shard.header, shard.nbytes, 0)
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        add(hub, "run", {**model_files(config, layout), "model.safetensors": Blob(content, lfs=True)})
        name = f"{hub.user}/run"
        windows = (2, 4, 8, 16, 32)
        lines = [["requests at once", *(f"{window} MiB" for window in windows)]]
        for count in (1, 2, 4, 8):
            cells = []
            for window in windows:
                remote_files.IN_FLIGHT, remote_files.WINDOW = count, window * 2**20
                remote_files.MEMORY = 2**40
                soup = hf_soup.merge([name], stream=True)
                begin = time.monotonic()
                target = soup.save_pretrained(Path(folder) / "soup")
                cells.append(f"{time.monotonic() - begin:.1f}")
                shutil.rmtree(target)
            lines.append([str(count), *cells])
        least = shard.nbytes / connection_rate
        connection = f"one connection of {connection_rate / 1e6:.0f} MB/s without latency"
        print(f"{shard.nbytes / 1e6:.0f} MB are {least:.1f} s over {connection}; here it is {latency * 1000:.0f} ms\n")
        print(align(lines))


@main.command("plan")
@click.option("--bandwidth", default="1GB", help="Bytes a second of each process.")
def plan_command(bandwidth: str) -> None:
    """Plans of models of any size, from headers on a Hub that stores nothing else."""
    cases = {name: (*llama(*sizes), "5GB") for name, sizes in MODELS.items()}
    cases["99,459 tensors in 988 files"] = (*mixture(*EXPERTS), "210MB")
    with tempfile.TemporaryDirectory() as folder, HubServer() as hub:
        os.environ.update(environment(hub, Path(folder)))
        lines = [["model", "soup, GB", "files", "read, GB", "disk, GB", "memory, MB", "min", "by 8", *TIMES]]
        for name, (config, specs, most) in cases.items():
            layout = lay_out(specs, most)
            sources = []
            for index in range(INGREDIENTS):
                files = model_files(config, layout)
                for shard in layout.shards:
                    files[shard.file] = Stored(Sparse(shard.header, shard.nbytes), lfs=True)
                key = re.sub(r"\W", "-", name)
                add_sparse(hub, f"{key}-{index}", files)
                sources.append(f"{hub.user}/{key}-{index}")
            told = plan_of(hub, Path(folder), sources, most, shard_size(bandwidth), (1, 8))
            one, eight = told["costs"]["1"], told["costs"]["8"]
            lines.append(
                [
                    name,
                    f"{one['sent'] / 1e9:,.0f}",
                    f"{one['shards']:,}",
                    f"{one['read'] / 1e9:,.0f}",
                    f"{one['disk'] / 1e9:,.1f}",
                    f"{one['memory'] / 1e6:,.0f}",
                    f"{one['seconds'] / 60:,.1f}",
                    f"{eight['seconds'] / 60:,.1f}",
                    f"{told['opening']:.1f}",
                    f"{told['planning']:.1f}",
                    f"{told['peak'] / 1e6:,.0f}",
                ]
            )
        print(f"{INGREDIENTS} ingredients, {bandwidth} a second of each process\n")
        print(align(lines))


def add_sparse(hub: HubServer, name: str, files: dict[str, Blob]) -> None:
    """Add a repository whose weight files have different addresses but no digests."""
    for number, blob in enumerate(files.values()):
        if isinstance(blob, Stored):
            vars(blob)["sha256"] = f"{abs(hash((name, number))):064x}"[:64]
    add(hub, name, files)


def plan_of(
    hub: HubServer, home: Path, sources: list[str], most: str, rate: float, processes: tuple[int, ...]
) -> dict:
    """The plan of a merge, made in a process that takes its Hub from the environment."""
    done = subprocess.run(
        [sys.executable, __file__, "plan-one", *sources, "--most", most, "--rate", str(rate)]
        + [f"--processes={count}" for count in processes],
        env={**os.environ, **environment(hub, home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@main.command("plan-one", hidden=True)
@click.argument("sources", nargs=-1)
@click.option("--most")
@click.option("--rate", type=float)
@click.option("--processes", type=int, multiple=True)
def plan_one_command(sources: tuple[str, ...], most: str, rate: float, processes: tuple[int, ...]) -> None:
    """One plan, as JSON; opening the ingredients is timed apart from checking and planning."""
    import torch  # noqa: F401 - its memory is not that of the plan, but its import takes seconds

    import hf_soup
    from hf_soup.checkpoints.source import open_all
    from hf_soup.checkpoints.streaming import stream_weights
    from hf_soup.merging.costs import costs_of

    begin = time.monotonic()
    opened = stream_weights(open_all(sources), True)
    opening = time.monotonic() - begin
    begin = time.monotonic()
    soup = hf_soup.merge(opened)
    layout = lay_out(soup.plan.specs, most)
    costs = {}
    for count in processes:
        costs[count] = costs_of(soup.plan, soup.checkpoints, layout, processes=count, bandwidth=rate)._asdict()
    planning = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"opening": opening, "planning": planning, "peak": peak, "costs": costs}))


if __name__ == "__main__":
    main()
