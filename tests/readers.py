"""The parts of hf_soup that read untrusted files: a valid file for each, and the call that reads it.

`test_corpus.py` reads the inputs in `corpus/` with them; `benchmarks/fuzz.py` searches for new inputs.
"""

import contextlib
import json
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

import hf_soup
from hf_soup import testing


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: Name of the kind, and of its folder below `corpus/`.
        file: Path of the file in a folder that `prepare` has filled.
        read: Function that reads the file, given that folder.
        form: Format of the file: `header`, `json`, `yaml`, `card`, `text` or `bytes`.
    """

    name: str
    file: str
    read: Callable[[Path], Any]
    form: str = "json"


def prepare(place: Path) -> None:
    """Write valid files of every kind to a folder."""
    import datasets

    for seed in range(2):
        testing.save_text_model(testing.tiny_text_model(seed), place / f"run-{seed}")
    testing.save_text_model(testing.tiny_text_model(2), place / "sharded")
    _shard(place / "sharded")
    _write(place / "run-0" / "generation_config.json", {"max_length": 20, "eos_token_id": [1, 2], "do_sample": False})
    image = place / "image"
    testing.save_image_model(testing.tiny_image_model(), image)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    testing.save_text_model(testing.tiny_text_model(0), place / "sentences")
    _write(place / "sentences" / "modules.json", modules)
    (place / "sentences" / "1_Pooling").mkdir()
    _write(
        place / "sentences/1_Pooling/config.json", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    )
    hf_soup.merge([place / "run-0", place / "run-0"]).save_pretrained(place / "soup")
    score = {"metric": "accuracy", "value": 0.5, "n": 10}
    run = {"params": {"seed": 0}, "seed": 0, "score": score, "checkpoints": {}, "step": 3, "run": "run-0"}
    run |= {"train_loss": 0.1, "seconds": 1.0, "metrics": {"accuracy": 0.5}}
    (place / "runs" / "run-0").mkdir(parents=True)
    _write(place / "runs" / "run-0" / "run.json", run)
    fixed = {"base_model": "base", "training_args": {}, "head": "probe"}
    _write(place / "runs" / "sweep.json", {"version": 1, "fixed": fixed, "runs": {"run-0": {"seed": 0}}})
    last = place / "trained" / "checkpoint-3"
    testing.save_text_model(testing.tiny_text_model(1), last)
    state = {"best_model_checkpoint": str(last), "best_metric": 0.5, "global_step": 3, "epoch": 1.0, "max_steps": 3}
    _write(last / "trainer_state.json", {**state, "log_history": [{"loss": 0.1, "step": 1}]})
    (place / "cook.yaml").write_text(
        "base_model: run-0\ndata: {path: data, train: 'train[:9]', test: test}\noutput_dir: out\n"
        "sweep: {space: {learning_rate: {loguniform: [1.0e-5, 1.0e-4]}, seed: [0, 1]}, n_runs: 2}\n"
        "merge: {strategy: greedy, method: linear}\ncompare: {metrics: [accuracy]}\npush: {repo_id: user/soup}\n"
    )
    texts = testing.tiny_texts(12)
    for suffix, save in {"csv": texts.to_csv, "jsonl": texts.to_json, "parquet": texts.to_parquet}.items():
        save(str(place / f"train.{suffix}"))
    texts.to_csv(str(place / "train.tsv"), sep="\t")
    (place / "train.json").write_text(json.dumps(texts.to_list()))
    datasets.disable_caching()
    images = place / "images" / "train" / "cat"
    images.mkdir(parents=True)
    testing.tiny_images(1)[0]["image"].save(images / "1.png")
    with _home(place):
        from hf_soup.evaluation import cache
        from hf_soup.types import Score

        cache.keep_score("key", Score("accuracy", 0.5, True, "validation", "data", 10), "a model")
    _write(place / "answer.json", {"id": "user/run", "sha": "0" * 40, "private": False, "siblings": SIBLINGS})


SIBLINGS = [
    {"rfilename": "config.json", "size": 9},
    {"rfilename": "model.safetensors", "size": 99, "lfs": {"sha256": "0"}},
]


def seeds(reader: Reader, place: Path) -> bytes:
    """The content of a reader's valid file."""
    return (place / reader.file).read_bytes()


def attempt(reader: Reader, place: Path, content: bytes) -> str | None:
    """Read an input; return a description of the error if it is not a `SoupError`, otherwise `None`."""
    path = place / reader.file
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(place)
    except hf_soup.SoupError:
        return None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return _where(error)
    return None


def _where(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/hf_soup/" in code.co_filename:
            place = f"{code.co_filename.rpartition('/hf_soup/')[2]} {code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__} in {place}: {' '.join(str(error).split())[:150]}"


def _checked(name: str, other: str = "run-1") -> Callable[[Path], Any]:
    return lambda place: hf_soup.check([place / name, place / other])


def _deep(place: Path) -> None:
    hf_soup.check([place / "run-0", place / "run-1"], deep=True)


def _recipe(place: Path) -> None:
    recipe = hf_soup.load_recipe(place / "soup")
    hf_soup.lineage(place / "soup").table()
    recipe.fingerprint()


def _card(place: Path) -> None:
    from hf_soup.publishing.card import load_card

    load_card(place / "soup")
    hf_soup.lineage(place / "soup").table()
    hf_soup.check([place / "soup", place / "run-0"])


def _cook(place: Path) -> None:
    from hf_soup.formats.cook_file import load_cook_file

    load_cook_file(place / "cook.yaml")


def _runs(place: Path) -> None:
    hf_soup.load_sweep(place / "runs").table()


def _trained(place: Path) -> None:
    hf_soup.check([place / "trained", place / "run-1"])


def _data(name: str) -> Callable[[Path], Any]:
    def read(place: Path) -> None:
        from hf_soup.data.load import load_data

        for row in load_data(str(place / name), split="train"):
            str(row)

    return read


def _images(place: Path) -> None:
    import numpy as np

    from hf_soup.data.load import load_data
    from hf_soup.tasks import image_classification
    from hf_soup.tasks._model_inputs import ModelInputs

    found = load_data(str(place / "images"), split="train")
    processor = image_classification.load_processing_class(str(place / "image"))
    labels = np.zeros(len(found), dtype=np.int64)
    inputs = ModelInputs("ViT", frozenset({"pixel_values"}), None, None, 0, None)
    for row in image_classification.encode(found, processor, ["image"], labels, inputs):
        str(row)


@contextlib.contextmanager
def _home(place: Path) -> Iterator[None]:
    from huggingface_hub import constants

    before, constants.HF_HOME = constants.HF_HOME, str(place)
    try:
        yield
    finally:
        constants.HF_HOME = before


def _cache(place: Path) -> None:
    from hf_soup.evaluation import cache
    from hf_soup.types import Score

    with _home(place):
        cache.kept()
        cache.kept_score("key")
        cache.keep_score("other", Score("accuracy", 0.5, True, "validation", "data", 10), "a model")


class _Answer(BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def _hub(place: Path) -> None:
    from huggingface_hub import constants

    _Answer.content = (place / "answer.json").read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    before, constants.ENDPOINT = constants.ENDPOINT, f"http://127.0.0.1:{server.server_port}"
    try:
        with _home(place):
            hf_soup.check(["user/run", place / "run-1"])
    finally:
        constants.ENDPOINT = before
        server.shutdown()
        server.server_close()


def _shard(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number in range(2):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        mine = {name: tensors[name] for name in names[number::2]}
        save_file(mine, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, file)
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": 66000}, "weight_map": weight_map})


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))


def parse(form: str, content: bytes) -> Any:
    """The values in a file of the given form, for the fuzzer to change."""
    if form == "header":
        (length,) = struct.unpack("<Q", content[:8])
        return json.loads(content[8 : 8 + length])
    if form == "card":
        return yaml.safe_load(content.decode().split("---")[1])
    if form == "yaml":
        return yaml.safe_load(content)
    return json.loads(content)


def build(form: str, seed: bytes, values: Any) -> bytes:
    """A file of the given form with other values; everything else is taken from a valid file."""
    if form == "header":
        (length,) = struct.unpack("<Q", seed[:8])
        header = json.dumps(values).encode()
        return struct.pack("<Q", len(header)) + header + seed[8 + length :]
    if form == "card":
        front = yaml.safe_dump(values, allow_unicode=False)
        return f"---\n{front}---{seed.decode().split('---', 2)[2]}".encode()
    if form == "yaml":
        return yaml.safe_dump(values).encode()
    return json.dumps(values).encode()


READERS = {
    reader.name: reader
    for reader in (
        Reader("header", "run-0/model.safetensors", _deep, "header"),
        Reader("index", "sharded/model.safetensors.index.json", _checked("sharded")),
        Reader("config", "run-0/config.json", _checked("run-0")),
        Reader("tokenizer", "run-0/tokenizer.json", _checked("run-0")),
        Reader("tokenizer_config", "run-0/tokenizer_config.json", _checked("run-0")),
        Reader("generation", "run-0/generation_config.json", _checked("run-0")),
        Reader("processor", "image/preprocessor_config.json", _checked("image", "image")),
        Reader("modules", "sentences/modules.json", _checked("sentences")),
        Reader("pooling", "sentences/1_Pooling/config.json", _checked("sentences")),
        Reader("recipe", "soup/soup_recipe.yaml", _recipe, "yaml"),
        Reader("card", "soup/README.md", _card, "card"),
        Reader("cook", "cook.yaml", _cook, "yaml"),
        Reader("sweep", "runs/sweep.json", _runs),
        Reader("run", "runs/run-0/run.json", _runs),
        Reader("trainer_state", "trained/checkpoint-3/trainer_state.json", _trained),
        Reader("csv", "train.csv", _data("train.csv"), "text"),
        Reader("tsv", "train.tsv", _data("train.tsv"), "text"),
        Reader("json", "train.json", _data("train.json")),
        Reader("jsonl", "train.jsonl", _data("train.jsonl"), "text"),
        Reader("parquet", "train.parquet", _data("train.parquet"), "bytes"),
        Reader("images", "images/train/cat/1.png", _images, "bytes"),
        Reader("cache", "hf_soup/scores.sqlite", _cache, "bytes"),
        Reader("hub", "answer.json", _hub),
    )
}
