"""Strategies: WHO goes into the soup and with what WEIGHT. One function a file, called as the file is; numbers only.

`f(ingredients, trials, *, ...) -> Recipe`: `trials` is all it sees of the world ([`hf_soup.types.Trials`]). The
recipe that it returns has ingredients, weights and, as `selection["trials"]`, one row for each thing that it tried;
method, type and seed are filled in by the caller.
"""
