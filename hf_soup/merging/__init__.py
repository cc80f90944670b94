"""From a recipe to tensors: planning the operation on each tensor, and performing it."""
