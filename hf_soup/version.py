"""The version of hf_soup, where both the package and its builder read it, and those of what it builds on."""

from functools import cache


__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Of what makes a soup or a run, as recipes and runs record them; nothing is imported for that."""
    return {"hf_soup": __version__, "torch": _installed("torch"), "transformers": _installed("transformers")}


@cache  # each trial has them in its key, and a file of metadata takes two milliseconds to read
def _installed(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)
