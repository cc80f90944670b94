"""The version of hf_soup, where both the package and its builder read it."""

__version__ = "0.1.0"
