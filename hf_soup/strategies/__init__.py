"""Strategies: WHO goes into the soup and with what WEIGHT. One function a file, called as the file is; numbers only.

`f(ingredients, trials, *, ...) -> Recipe`: `trials` is all it sees of the world ([`hf_soup.types.Trials`]). The
recipe that it returns has ingredients, weights and, as `selection["trials"]`, one row for each thing that it tried
([`hf_soup.types.Trial`]); method, type and seed are filled in by the caller.

The caller provides more when it asks by parameter name: `base`, the base model as an [`Ingredient`] (then the merge
needs one), and `seed`, that of the merge, for what is drawn at random.

The decorator [`hf_soup.lookup.strategy`] declares what it promises or needs ([`hf_soup.lookup.StrategyTraits`]):
- `@strategy(scores=False)`: it asks for no score, so the merge needs no evaluator;
- `@strategy(linear_only=True)`: it goes with the method `linear` alone;
- `@strategy(never_worse=True)`: with its defaults the soup is never worse on validation than the best single
  ingredient.
"""
