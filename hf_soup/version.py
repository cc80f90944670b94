"""The version of hf_soup, read by the package and its build, and the versions of its dependencies."""

from functools import cache


__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions of the libraries that affect a soup or a run, for recipes and records; nothing is imported."""
    return {"hf_soup": __version__, "torch": _installed("torch"), "transformers": _installed("transformers")}


@cache  # they are part of the key of each trial, and reading a metadata file takes two milliseconds
def _installed(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)
