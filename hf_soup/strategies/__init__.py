"""Strategies: WHICH ingredients go in, with what WEIGHTS. One function a file, called as the file is; numbers only.

`f(ingredients, trials, *, ...) -> Mixture | Choice`: `trials` is all it sees of the world ([`hf_soup.types.Trials`]).
It returns ingredients and weights as a [`hf_soup.types.Mixture`]; one that tries things returns a
[`hf_soup.types.Choice`], which has its trials as well ([`hf_soup.types.Trial`]). Method, type and seed are those of
the merge.

The caller provides more when it asks by parameter name: `base`, the base model as an [`Ingredient`] (then the merge
needs one), and `seed`, that of the merge, for what is drawn at random.

The decorator [`hf_soup.plugins.strategy`] declares what it promises or needs ([`hf_soup.plugins.StrategyTraits`]):
- `@strategy(scores=False)`: it asks for no score, so the merge needs no evaluator;
- `@strategy(linear_only=True)`: it goes with the method `linear` alone;
- `@strategy(never_worse=True)`: with its defaults the soup is never worse on validation than the best single
  ingredient.
"""
