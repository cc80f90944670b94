"""From a recipe to tensors: what is done to each (plan), and doing it (blend)."""
