"""Counts how often a flow does work that is needed once: checks, plans, opened checkpoints, headers, weights, plugins.

The functions that do the work are wrapped, not replaced, wherever the package holds them. `tests/test_counts.py` sets
how often each may be called; `benchmarks/house.py` runs this file against any revision of the package:
`python tests/counting.py` prints the counts of each flow as JSON.
"""

import contextlib
import functools
import importlib
import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple


# What is counted -> the function that does it. The former name of a renamed function follows its current name, so
# that earlier revisions can be measured too.
SEAMS: dict[str, tuple[str, ...]] = {
    "checks": ("hf_soup.checkpoints.check:check_checkpoints",),
    "plans": ("hf_soup.merging.plan:make_plan",),
    "opens": ("hf_soup.checkpoints.source:_find", "hf_soup.checkpoints.source:open_checkpoint"),
    "headers": ("hf_soup.checkpoints.reader:read_raw_header",),
    "angles": ("hf_soup.analysis.gram:measure_grams", "hf_soup.checkpoints.gram:inner_products"),
    "head_angles": ("hf_soup.analysis.gram:measure_small_grams",),
    "reads": ("hf_soup.checkpoints.files:OpenFiles.read",),
    "plugins": ("hf_soup.plugins:load_module", "hf_soup.lookup:load_module"),
    "metrics": ("hf_soup.metrics:load_metrics", "hf_soup.metrics.load:load_metrics"),
}


class Counts:
    """The calls of each counted function, with their arguments."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[Any, ...]]] = {what: [] for what in SEAMS}

    def __getitem__(self, what: str) -> int:
        """The number of calls."""
        return len(self.calls[what])

    @property
    def headers_by_file(self) -> Counter[str]:
        """Weight file -> number of times its header was read."""
        return Counter(_shown(arguments[0]) for arguments in self.calls["headers"])

    @property
    def opens_by_folder(self) -> Counter[str]:
        """Checkpoint -> number of times it was opened; an ingredient of a recipe counts as its folder."""
        sources = [getattr(arguments[0], "source", arguments[0]) for arguments in self.calls["opens"]]
        return Counter(Path(source).name for source in sources)

    @property
    def bytes_by_file(self) -> Counter[str]:
        """Weight file -> number of tensor bytes read from it."""
        total: Counter[str] = Counter()
        for _, path, _, into in self.calls["reads"]:
            total[_shown(path)] += into
        return total

    def loads(self, kind: str) -> Counter[str]:
        """Name of a method, strategy or task -> number of times it was looked up."""
        return Counter(name for of_kind, name in self.calls["plugins"] if of_kind == kind)


def _shown(path: str | os.PathLike[str]) -> str:
    return str(Path(*Path(path).parts[-2:]))


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count the calls of the functions in SEAMS within the block."""
    counts = Counts()
    replaced: list[tuple[Any, str, Callable[..., Any], Callable[..., Any]]] = []
    for what, places in SEAMS.items():
        owner, name = _find_owner(places)
        original = getattr(owner, name)
        wrapper = _counting(original, counts.calls[what])
        replaced.append((owner, name, original, wrapper))
    for owner, name, original, wrapper in replaced:
        setattr(owner, name, wrapper)
        _swap_in_package(original, wrapper)
    try:
        yield counts
    finally:
        for owner, name, original, wrapper in replaced:
            setattr(owner, name, original)
            _swap_in_package(wrapper, original)


def _find_owner(places: Sequence[str]) -> tuple[Any, str]:
    """The module or class that holds a function, and the function's name in it, at the first place that exists."""
    for place in places:
        module_name, _, path = place.partition(":")
        *classes, name = path.split(".")
        with contextlib.suppress(ModuleNotFoundError, AttributeError):
            owner = functools.reduce(getattr, classes, importlib.import_module(module_name))
            getattr(owner, name)
            return owner, name
    raise LookupError(f"none of {', '.join(places)} exists: the function was renamed, so add its name to SEAMS.")


def _counting(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        # a buffer is recorded by its size, because keeping the buffer would keep its memory
        calls.append(tuple(len(item) if isinstance(item, memoryview) else item for item in args))
        return function(*args, **options)

    return wrapper


def _swap_in_package(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Replace a function in every module that has imported it by name."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "hf_soup":
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


class Place(NamedTuple):
    """Three fine-tunes, a base model and a saved soup of the fine-tunes, in one folder."""

    folder: Path

    @property
    def runs(self) -> list[Path]:
        """The ingredients."""
        return [self.folder / f"run-{seed}" for seed in range(3)]

    @property
    def base(self) -> Path:
        """The base model."""
        return self.folder / "base"

    @property
    def soup(self) -> Path:
        """The saved soup."""
        return self.folder / "soup"


def prepare(folder: Path) -> Place:
    """Make the checkpoints and a saved soup of them in a folder."""
    import hf_soup
    from hf_soup import testing

    place = Place(folder)
    for seed, run in enumerate([*place.runs, place.base]):
        testing.save_text_model(testing.tiny_text_model(seed), run)
    hf_soup.merge(place.runs).save_pretrained(place.soup)
    return place


def _evaluator() -> Any:
    import hf_soup
    from hf_soup import testing

    return hf_soup.Evaluator(testing.tiny_texts(24), cache=False)


def merge(place: Place) -> None:
    """Average the ingredients and save the soup."""
    import hf_soup

    hf_soup.merge(place.runs).save_pretrained(place.folder / "merged", overwrite=True)


def greedy(place: Place) -> None:
    """Search for a greedy soup on validation data."""
    import hf_soup

    hf_soup.merge(place.runs, strategy="greedy", evaluator=_evaluator())


def analyze(place: Place) -> None:
    """Analyze the weights only."""
    import hf_soup

    hf_soup.analyze(place.runs, base_model=place.base)


def analyze_scored(place: Place) -> None:
    """Analyze the weights and the predictions on validation data."""
    import hf_soup

    hf_soup.analyze(place.runs, evaluator=_evaluator(), base_model=place.base, points=3)


def check(place: Place) -> None:
    """Check the ingredients."""
    import hf_soup

    hf_soup.check(place.runs)


def advise(place: Place) -> None:
    """Advise whether to make a soup, based on the weights only."""
    import hf_soup

    hf_soup.advise(place.runs, base_model=place.base)


def advise_scored(place: Place) -> None:
    """Advise whether to make a soup, based on weights and validation data."""
    import hf_soup

    hf_soup.advise(place.runs, _evaluator(), base_model=place.base)


def verify(place: Place) -> None:
    """Rebuild a saved soup and compare it with what was saved."""
    import hf_soup

    hf_soup.verify(place.soup)


def compare(place: Place) -> None:
    """Score a saved soup and its ingredients on test data."""
    import hf_soup

    hf_soup.compare(place.soup, test=_evaluator())


FLOWS = (check, merge, greedy, analyze, analyze_scored, advise, advise_scored, verify, compare)


def count(flow: Callable[[Place], None], place: Place) -> Counts:
    """Run a flow and count its calls."""
    with warnings.catch_warnings(), counted() as counts:
        warnings.simplefilter("ignore")
        flow(place)
    return counts


def summary(counts: Counts, weight_bytes: int) -> dict[str, float]:
    """The counts of a flow as plain numbers.

    Args:
        counts ([`Counts`]):
            The counts of the flow.
        weight_bytes (`int`):
            The size of one checkpoint; `weights` is how many times over the most frequently read weight file was read.
    """
    read = counts.bytes_by_file.values()
    return {
        **{what: counts[what] for what in ("checks", "plans", "opens", "headers", "angles")},
        "weights": round(max(read, default=0) / weight_bytes, 2),
        "methods": counts.loads("method").total(),
        "tasks": counts.loads("task").total(),
        "metrics": counts["metrics"],
    }


def weight_bytes(run: Path) -> int:
    """The number of bytes that the tensors of a checkpoint take."""
    content = (run / "model.safetensors").read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def head_bytes(run: Path) -> int:
    """The number of bytes that the weight matrix of a text classifier's head takes."""
    content = (run / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    start, end = header["classifier.weight"]["data_offsets"]
    return end - start


def main() -> None:
    """Print the counts of each flow."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HF_HOME=folder, HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        place = prepare(Path(folder))
        size = weight_bytes(place.runs[0])
        result = {flow.__name__: summary(count(flow, place), size) for flow in FLOWS}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
