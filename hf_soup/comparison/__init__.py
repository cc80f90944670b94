"""Comparisons of ingredients, soups and ensembles on the same examples, and conclusions from their scores."""
