"""Soups of adapters beside PEFT's `add_weighted_adapter` and merged copies: time, memory, disk and error.

python benchmarks/adapters.py                # eight adapters of rank 16 of a Llama with 1.1 B parameters
python benchmarks/adapters.py --size small   # one with 30 M parameters, in a minute

The base model is random in bfloat16, the adapters are random and change every linear layer. Each way runs in a process
of its own: the memory is the most that it held, less that of an interpreter with torch imported. The error is that of
the change of one weight against the mean in float64, relative to its norm. "Floor" is reading the base model and
writing it once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hf_soup.display.tables import align


SIZES: dict[str, dict[str, int]] = {
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "vocab_size": 8000},
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
COUNT, RANK, SMALL = 8, 16, 16  # adapters, their rank, and the rank of the truncated soup
PROBE = "model.layers.0.mlp.up_proj"  # the weight whose error is measured


def make(folder: Path, size: str) -> None:
    """Save the base model and the adapters, without holding a model in memory."""
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.LlamaConfig(**SIZES[size], num_attention_heads=16, num_key_value_heads=16)
    config.architectures, config.dtype = ["LlamaForCausalLM"], "bfloat16"
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    (folder / "base").mkdir()
    config.save_pretrained(folder / "base")
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = (torch.randn(shape, generator=generator) * 0.02).bfloat16()
    save_file(tensors, folder / "base" / "model.safetensors", {"format": "pt"})
    for number in range(COUNT):
        adapter = folder / f"adapter-{number}"
        adapter.mkdir()
        settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
        settings |= {"target_modules": list(TARGETS), "base_model_name_or_path": str(folder / "base")}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        factors = {}
        for name, shape in shapes.items():
            module = name.removesuffix(".weight")
            if module.endswith(TARGETS):
                factors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, shape[1], generator=generator)
                b = torch.randn(shape[0], RANK, generator=generator)
                factors[f"base_model.model.{module}.lora_B.weight"] = 0.01 * b
        save_file(factors, adapter / "adapter_model.safetensors", {"format": "pt"})


def adapters(folder: Path) -> list[Path]:
    """The folders of the adapters."""
    return [folder / f"adapter-{number}" for number in range(COUNT)]


# The ways: each writes its result to OUT


def ours_exact(folder: Path, out: Path) -> None:
    """One adapter of the sum of the ranks."""
    import hf_soup

    hf_soup.merge(adapters(folder)).save_pretrained(out)


def ours_small(folder: Path, out: Path) -> None:
    """One adapter of a smaller rank."""
    import hf_soup

    hf_soup.merge(adapters(folder)).save_pretrained(out, rank=SMALL)


def ours_merged(folder: Path, out: Path) -> None:
    """One whole model."""
    import hf_soup

    hf_soup.merge(adapters(folder)).save_pretrained(out, merged=True)


def peft_way(kind: str) -> Callable[[Path, Path], None]:
    """One adapter, by PEFT."""

    def way(folder: Path, out: Path) -> None:
        import peft
        import torch
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        sources = adapters(folder)
        loaded = peft.PeftModel.from_pretrained(model, sources[0], adapter_name="a0")
        for number, source in enumerate(sources[1:], start=1):
            loaded.load_adapter(source, adapter_name=f"a{number}")
        names = [f"a{number}" for number in range(COUNT)]
        options = {"svd_rank": SMALL} if kind == "svd" else {}
        loaded.add_weighted_adapter(names, [1 / COUNT] * COUNT, "soup", combination_type=kind, **options)
        loaded.save_pretrained(out, selected_adapters=["soup"])

    return way


def merged_copies(folder: Path, out: Path) -> None:
    """One merged copy of each adapter by PEFT, then their mean, as merge tools without adapters need it."""
    import peft
    import torch
    import transformers

    import hf_soup

    copies = []
    for number, source in enumerate(adapters(folder)):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        merged = peft.PeftModel.from_pretrained(model, source).merge_and_unload()
        copies.append(out / f"copy-{number}")
        merged.save_pretrained(copies[-1])
    hf_soup.merge(copies).save_pretrained(out / "soup")


def floor(folder: Path, out: Path) -> None:
    """Copy the weights of the base model."""
    out.mkdir()
    shutil.copyfile(folder / "base" / "model.safetensors", out / "model.safetensors")


def only_torch(folder: Path, out: Path) -> None:
    """Import torch."""
    import torch  # noqa: F401


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "hf_soup, exact adapter": ours_exact,
    f"hf_soup, rank {SMALL}": ours_small,
    "hf_soup, whole model": ours_merged,
    "PEFT linear": peft_way("linear"),
    "PEFT cat": peft_way("cat"),
    f"PEFT svd, rank {SMALL}": peft_way("svd"),
    "merged copies, then their mean": merged_copies,
    "floor: copy of the base model": floor,
}
SMALL_ONLY = f"PEFT svd, rank {SMALL}"  # takes an hour for a large model
NOTHING = "only torch"


def error_of(folder: Path, out: Path) -> str:
    """The error of the change of one weight, relative to its norm; empty if there is none to be found."""
    import torch
    from safetensors.torch import load_file

    def change(adapter: Path, name: str = PROBE) -> torch.Tensor:
        state = load_file(adapter / "adapter_model.safetensors")
        settings = json.loads((adapter / "adapter_config.json").read_text())
        a = state[f"base_model.model.{name}.lora_A.weight"].double()
        b = state[f"base_model.model.{name}.lora_B.weight"].double()
        alpha = (settings.get("alpha_pattern") or {}).get(name, settings["lora_alpha"])
        return b @ a * (alpha / len(a))

    expected = torch.stack([change(source) for source in adapters(folder)]).mean(0)
    places = [path.parent for path in out.rglob("adapter_model.safetensors")]
    if places:
        found = change(places[0])
    else:
        wholes = [path for path in sorted(out.rglob("model*.safetensors")) if "copy-" not in str(path)]
        state = {key: tensor for path in wholes for key, tensor in load_file(path).items()}
        if not state:
            return ""
        base = load_file(folder / "base" / "model.safetensors")[f"{PROBE}.weight"].double()
        found = state[f"{PROBE}.weight"].double() - base
    return f"{((found - expected).norm() / expected.norm()).item():.1e}"


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, __file__, "--way", name, "--work", str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if out.exists() else 0
    error = error_of(folder, out) if name != NOTHING else ""
    return {"seconds": seconds, "memory": int(answer.stdout.split()[-1]), "disk": size, "error": error}


def most_memory() -> int:
    """The most memory that this process has held, in bytes; `getrusage` would include that of its parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


@click.command(help=__doc__)
@click.option("--size", type=click.Choice(list(SIZES)), default="1b", show_default=True)
@click.option("--way", hidden=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the models; a temporary one by default.")
def main(size: str, way: str | None, work: Path | None) -> None:
    if way is not None and work is not None:
        {**WAYS, NOTHING: only_torch}[way](work, work / "out")
        click.echo(most_memory())
        return
    folder = work or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    if not (folder / "base").exists():
        make(folder, size)
    os.environ.setdefault("HF_HOME", str(folder / "home"))
    least = measure(NOTHING, folder)["memory"]
    lines = [["way", "seconds", "memory above torch, MB", "on disk, MB", "error"]]
    for name in WAYS:
        if name == SMALL_ONLY and size != "small":
            continue
        click.echo(name, err=True)
        found = measure(name, folder)
        memory, disk = (found["memory"] - least) / 1e6, found["disk"] / 1e6
        lines.append([name, f"{found['seconds']:.1f}", f"{memory:,.0f}", f"{disk:,.0f}", found["error"]])
    click.echo(align(lines))
    if work is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
