"""Loading of data: its columns and labels, its splits, and the hashes of its rows."""

from .splits import load_training


__all__ = ["load_training"]
