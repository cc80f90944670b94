"""Scores of models on data, and a comparison that nobody can fool themselves with."""
