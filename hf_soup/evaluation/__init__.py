"""Predictions and scores of mixtures: each is averaged once, run once, and kept."""
