"""The version of hf_soup, where both the package and its builder read it, and those of what it builds on."""

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Of what makes a soup or a run, as recipes and runs record them; nothing is imported for that."""
    from importlib import metadata

    return {"hf_soup": __version__, **{name: metadata.version(name) for name in ("torch", "transformers")}}
