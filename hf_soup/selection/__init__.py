"""Runs strategies: the trials that they use, and estimates of how good their choice is."""
