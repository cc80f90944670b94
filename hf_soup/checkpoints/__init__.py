"""Weights on disk, on the Hub and in memory."""
