"""Strategies decide WHICH ingredients a soup has and with what WEIGHTS. One function per file, with the file's name.

`f(ingredients, trials, *, ...) -> Mixture | Choice`. A strategy sees no tensors: it scores mixtures and learns about
the model through `trials` alone ([`hf_soup.types.Trials`]). It returns the ingredients and their weights as a
[`hf_soup.types.Mixture`], or as a [`hf_soup.types.Choice`] that also records the trials it made
([`hf_soup.types.Trial`]). The mixtures that it scores are averaged with the method, type and seed of the merge.

A strategy asks for more by the names of its parameters: `base` is the base model as an [`Ingredient`] (the merge then
needs one), and `seed` is the seed of the merge, for whatever is drawn at random.

The decorator [`hf_soup.plugins.strategy`] declares what a strategy promises or needs
([`hf_soup.plugins.StrategyTraits`]):
- `@strategy(scores=False)`: the strategy asks for no score, so that the merge needs no evaluator;
- `@strategy(linear_only=True)`: the strategy works with the method `linear` only;
- `@strategy(never_worse=True)`: with the default parameters the soup never scores worse on validation than the best
  single ingredient.
"""
