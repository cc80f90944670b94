"""From what a user calls data to examples: loading it, its columns and labels, its splits, the hash of its rows."""

from .splits import load_training


__all__ = ["load_training"]
