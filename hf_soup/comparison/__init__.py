"""Comparisons: ingredients, soups and ensembles on the same examples, and what follows from their scores."""
