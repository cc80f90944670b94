"""Time and memory of a merge, compared with mergekit, a plain loop and a lower bound, all measured in turn.

python benchmarks/merge_speed.py                      # all cases: half an hour and 35 GB of disk
python benchmarks/merge_speed.py bert small -r 3      # some of them

The lower bound ("floor") reads all inputs once and writes one output. A process is timed from start to end (start,
imports, one merge). The time of a merge alone is the median of the third to the fifth merge in one process, because a
full garbage collection, a tenth of a second, falls on one of them. Resident memory is the peak that the system
reports; private memory is the peak of memory not shared with other processes (the pages of files that are read are
shared), above that of an idle Python. mergekit gets its own environment, made here. Inputs are random numbers in the
shapes of real models.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import click


MERGEKIT = ("torch==2.13.0", "mergekit==0.1.5")
CHUNK = 2**20  # bytes read at a time by the lower bound
SPARE = 2**30  # address space in bytes that a merge may take beyond the imports
BERT = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "num_labels": 2}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "num_hidden_layers": 16}
# case -> title, number of models, configuration, data type and shard size
CASES = {
    "bert": ("6 x BERT-base, float32", 6, BERT, "float32", "50GB"),
    "small": (
        "10 x 777 small tensors, float32",
        10,
        BERT | {"num_hidden_layers": 48, "hidden_size": 24},
        "float32",
        "50GB",
    ),
    "many": ("72 x 90 MB, float32", 72, BERT | {"num_hidden_layers": 6, "hidden_size": 384}, "float32", "50GB"),
    "large": (
        "6 x 1.0 B, bfloat16, shards",
        6,
        LLAMA | {"hidden_size": 2048, "intermediate_size": 8192},
        "bfloat16",
        "1GB",
    ),
}
SIZES = {"vocab_size": 30522, "num_attention_heads": 12, "intermediate_size": 3072}
TOOLS = ("floor", "hf_soup", "plain loop", "mergekit")
MERGES, WARM = 5, 2  # merges in a process that times merges alone, and how many of them are not counted


def make_models(folder: Path, case: str) -> list[Path]:
    """Make the checkpoints of one case, unless they already exist."""
    import torch
    import transformers
    from huggingface_hub import save_torch_state_dict

    _, count, fields, dtype, shard = CASES[case]
    fields = fields if case == "large" else SIZES | fields
    if case == "small":
        fields = fields | {"vocab_size": 100, "intermediate_size": 32, "max_position_embeddings": 32}
    config = transformers.AutoConfig.for_model(**{key: fields[key] for key in fields if key != "architectures"})
    config.architectures, config.dtype = fields["architectures"], dtype
    with torch.device("meta"):
        shapes = getattr(transformers, fields["architectures"][0])(config).state_dict()
    folders = [folder / case / f"model-{index:02}" for index in range(count)]
    for index, path in enumerate(folders):
        if (path / "config.json").exists():  # written last
            continue
        click.echo(f"making {path}", err=True)
        path.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(index)
        state = {
            name: torch.randn(tensor.shape, generator=generator).to(getattr(torch, dtype))
            for name, tensor in shapes.items()
            if "position_ids" not in name
        }
        save_torch_state_dict(state, path, max_shard_size=shard, filename_pattern="model{suffix}.safetensors")
        config.save_pretrained(path)
    return folders


def weight_files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob("*.safetensors"))


def floor(folders: list[str], out: str) -> None:
    """Read every input once and write one output."""
    buffer = memoryview(bytearray(CHUNK))
    for path in (path for folder in folders for path in weight_files(folder)):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    os.makedirs(out)
    for path in weight_files(folders[0]):
        with open(path, "rb", buffering=0) as file, open(os.path.join(out, os.path.basename(path)), "wb") as copy:
            while count := file.readinto(buffer):
                copy.write(buffer[:count])


def plain_loop(folders: list[str], out: str) -> None:
    """The usual loop of a script: one state dict, summed tensor by tensor."""
    import safetensors
    import torch
    from safetensors.torch import save_file

    os.makedirs(out)
    for paths in zip(*map(weight_files, folders), strict=True):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(safetensors.safe_open(path, "pt")) for path in paths]
            soup = {}
            for name in files[0].keys():  # noqa: SIM118
                first = files[0].get_tensor(name)
                total = first.to(torch.float32, copy=True)
                for file in files[1:]:
                    total += file.get_tensor(name)
                soup[name] = (total / len(files)).to(first.dtype)
        save_file(soup, os.path.join(out, os.path.basename(paths[0])))


def hf_soup_merge(folders: list[str], out: str) -> None:
    import hf_soup

    hf_soup.merge(folders).save_pretrained(out, max_shard_size="1GB")


def mergekit_merge(folders: list[str], out: str) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    dtype = json.loads((Path(folders[0]) / "config.json").read_text())["dtype"]
    models = [{"model": folder, "parameters": {"weight": 1.0}} for folder in folders]
    settings = {"merge_method": "linear", "models": models, "dtype": dtype}
    options = MergeOptions(copy_tokenizer=False, out_shard_size=10**9, quiet=True, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(settings), out, options)


WORK = dict(zip(TOOLS, (floor, hf_soup_merge, plain_loop, mergekit_merge), strict=True))


def run_here(tool: str, merges: int, out: str, folders: list[str], *, limited: bool = False) -> None:
    """Merge repeatedly in this process, and print how long each merge took."""
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    if limited:
        import hf_soup  # noqa: F401

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + SPARE, size + SPARE))
    times = []
    for index in range(merges):
        target = f"{out}-{index}"
        os.sync()  # otherwise the time would include writing back earlier files
        start = time.perf_counter()
        WORK[tool](folders, target)
        times.append(time.perf_counter() - start)
        shutil.rmtree(target)
    print(json.dumps(times))


def memory(process: int) -> tuple[int, int]:
    """Peak resident memory and current private (anonymous) memory of a process in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return found.get("VmHWM", 0), found.get("RssAnon", 0)


def measure(python: str, tool: str, merges: int, work: Path, folders: list[Path]) -> dict[str, float]:
    """Run one process; returns its time, the time of a merge after warm-up, and its memory peaks in bytes."""
    with tempfile.TemporaryDirectory(dir=work) as out:
        command = [python, __file__, "--inside", tool, str(merges), f"{out}/soup", *map(str, folders)]
        start, peaks = time.perf_counter(), (0, 0)
        errors = Path(out, "errors")
        with errors.open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            while (done := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                peaks = tuple(map(max, peaks, memory(process.pid)))
                time.sleep(0.005)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(done[1])
            text = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"{tool} failed:\n{errors.read_text()[-2000:]}")
    times = json.loads(text)
    merge = statistics.median(times[WARM:] or times or [0])
    return {"wall": wall, "merge": merge, "peak": peaks[0], "private": peaks[1]}


def environment(folder: Path) -> str:
    """Path to the Python of an environment with mergekit, made if missing."""
    python = folder / "mergekit" / "bin" / "python"
    if not (folder / "mergekit" / "whole").exists():
        click.echo("making an environment for mergekit", err=True)
        venv.create(folder / "mergekit", with_pip=True, clear=True)
        for package in (*MERGEKIT, "click"):
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
        (folder / "mergekit" / "whole").touch()
    return str(python)


def report(title: str, found: dict[str, dict[str, float]], bare: float) -> None:
    click.echo(f"\n{title}\n{'':<12}{'process':>9}{'merge':>9}{'peak':>11}{'private':>11}   merge, of the floor")
    for tool, value in found.items():
        click.echo(
            f"{tool:<12}{value['wall']:>8.2f}s{value['merge']:>8.3f}s{value['peak'] / 1e6:>8,.0f} MB"
            f"{(value['private'] - bare) / 1e6:>8,.0f} MB   x {value['merge'] / found['floor']['merge']:.2f}"
        )
    if "mergekit" in found:
        ours, other = found["hf_soup"], found["mergekit"]
        click.echo("hf_soup, of mergekit: " + ", ".join(f"{key} {ours[key] / other[key]:.3f}" for key in ours))


@click.command(help=__doc__)
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
@click.option("-r", "--rounds", default=5, show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path(tempfile.gettempdir()) / "merge_speed", show_default=True
)
@click.option("--mergekit/--no-mergekit", default=True, show_default=True)
def main(cases: tuple[str, ...], rounds: int, work: Path, mergekit: bool) -> None:
    work.mkdir(parents=True, exist_ok=True)
    pythons = dict.fromkeys(TOOLS[:3], sys.executable) | ({"mergekit": environment(work)} if mergekit else {})
    bare = measure(sys.executable, "floor", 0, work, [])["private"]
    for case in cases or CASES:
        folders = make_models(work, case)
        rows: dict[str, list[dict[str, float]]] = {tool: [] for tool in pythons}
        for _ in range(rounds):
            for tool, python in pythons.items():
                whole, several = (measure(python, tool, merges, work, folders) for merges in (1, MERGES))
                rows[tool].append(whole | {"merge": several["merge"]})
        medians = {
            tool: {key: statistics.median(row[key] for row in of) for key in of[0]} for tool, of in rows.items()
        }
        report(f"{CASES[case][0]} (medians of {rounds})", medians, bare)
        if case == "large":
            command = [sys.executable, __file__, "--inside", "hf_soup", "1", f"{work}/limited", *map(str, folders)]
            done = subprocess.run([*command, "--limited"], capture_output=True, text=True, check=False)
            verdict = "done" if done.returncode == 0 else f"failed\n{done.stderr[-2000:]}"
            click.echo(f"with {SPARE / 1e9:.2f} GB of address space to spare: {verdict}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        limited = sys.argv[-1] == "--limited"
        tool, merges, out, *folders = sys.argv[2 : -1 if limited else None]
        run_here(tool, int(merges), out, folders, limited=limited)
    else:
        main()
