"""The result of a search in one sentence: the comparison with the best single ingredient, and its significance.

Nothing is chosen here. Midpoints between ingredients are scored if the sentence depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..types import Choice, Ingredient, Mixture, Score, Threshold, Trials


NEIGHBOURS = 3  # number of best ingredients whose midpoints with the only kept one are scored


def explain(choice: Choice, score: Score, ranked: Sequence[Ingredient], trials: Trials) -> str:
    """Describe the result of a search in one sentence.

    Args:
        choice ([`Choice`]):
            Result of the strategy, with its trials.
        score ([`Score`]):
            Score of the chosen mixture.
        ranked (`Sequence[Ingredient]`):
            Candidates, best single score first.
        trials ([`Trials`]):
            Trials on the examples that the strategy used.
    """
    mixture = choice.mixture
    if choice.alpha is not None:
        comparison = _compare_with_single(mixture, score, ranked[0], trials)
        return f"The best point on the way from the base model is alpha {choice.alpha:g}; it is {comparison}."
    if len(ranked) == 1 and mixture.names == (ranked[0].name,):
        return f"There was one ingredient: the soup is {ranked[0].name}."
    # A mixture may include the base model, which is no candidate and does not count as an ingredient here.
    taken = [item for item in ranked if item.name in mixture.used]
    if len(taken) == 1 and len(mixture.names) == 1:
        return _explain_single(taken[0], ranked, trials)
    verb = "is" if len(taken) == 1 else "are"
    comparison = _compare_with_single(mixture, score, ranked[0], trials)
    return f"{len(taken)} of {len(ranked)} ingredients {verb} in the soup; it is {comparison}."


def _compare_with_single(mixture: Mixture, score: Score, best: Ingredient, trials: Trials) -> str:
    """How a mixture compares with the best single ingredient, and whether the difference is significant."""
    single = Mixture.equal([best])
    best_score = trials.score(single)
    rival = f"the best single ingredient, {best.name} ({best_score.value:.4f})"
    gained = score.gain_over(best_score)
    if gained == 0:  # the soup may be that ingredient, or have as many correct examples
        return f"as good as {rival}"
    direction = "better" if gained > 0 else "worse"
    result = f"{direction} than {rival} by {abs(gained):.4f}"
    interval = trials.difference(mixture, single)
    if interval is None:
        return result
    low, high = interval
    ends = f"95 % interval {low:+.4f} to {high:+.4f}"
    if low <= 0 <= high:
        return f"{result}, which {score.n} examples cannot tell from nothing ({ends})"
    if gained < 0:
        return f"{result}, which {score.n} examples can tell from chance ({ends})"
    # The best of many trials looks better than it is on the examples that it was chosen on, whatever the interval.
    where = f"on the {score.n} examples that it was chosen on ({ends})"
    return f"{result} {where}; only other examples can show whether it is a gain"


def _explain_single(kept: Ingredient, ranked: Sequence[Ingredient], trials: Trials) -> str:
    """Explain why a single ingredient was kept, by the scores of its midpoints with the best others.

    Only the midpoint with the second best is scored in full, because the sentence has its value.
    """
    neighbours = [item for item in ranked if item != kept][:NEIGHBOURS]
    next_best = neighbours[0]
    scores = {item.name: trials.score(Mixture.equal([item])) for item in ranked}
    midpoint = Mixture.equal([kept, next_best])
    kept_score, mid_score = scores[kept.name], trials.score(midpoint)
    evidence = (
        f"halfway to {next_best.name}, {kept_score.metric} is {mid_score.value:.4f} against {kept_score.value:.4f}"
    )
    if _lie_across_barrier(neighbours, kept, mid_score, scores, trials):
        subject = f"the {len(neighbours)} next best lie" if len(neighbours) > 1 else "the next best lies"
        ends = f"{evidence} and {scores[next_best.name].value:.4f} at the two ends"
        return f"Only {kept.name} was kept: {subject} across a barrier; {ends}."
    if mid_score.beats(kept_score):
        return f"Only {kept.name} was kept, where the search ended; {evidence}."
    interval = trials.difference(midpoint, Mixture.equal([kept]))
    if interval is not None:
        low, high = interval
        noise = (high - low) / 2  # an interval excludes 0 only if the difference is larger than this
        spread = _spread(scores.values())
        if noise >= spread:
            return (
                f"Only {kept.name} was kept: validation is too small to tell; with {kept_score.n} examples "
                f"differences below {noise:.4f} are noise, and the ingredients differ by {spread:.4f}."
            )
        if low <= 0 <= high:
            return (
                f"Only {kept.name} was kept: the others add nothing that {kept_score.n} examples can show; {evidence}."
            )
    return f"Only {kept.name} was kept: the others cost more than they bring; {evidence}."


def _lie_across_barrier(
    neighbours: Sequence[Ingredient],
    kept: Ingredient,
    mid_score: Score,
    scores: Mapping[str, Score],
    trials: Trials,
) -> bool:
    """Whether the midpoint with each neighbour is worse than both ends.

    For the first neighbour, whose midpoint has been scored, the difference has to be significant if that is known.
    """
    next_best, *others = neighbours
    worse_end = _worse_of(kept, next_best, scores)
    if not scores[worse_end.name].beats(mid_score):
        return False
    interval = trials.difference(Mixture.equal([kept, next_best]), Mixture.equal([worse_end]))
    if interval is not None:
        low, high = interval
        if low <= 0 <= high:
            return False
    return all(_is_lower_halfway(kept, item, scores, trials) for item in others)


def _is_lower_halfway(kept: Ingredient, item: Ingredient, scores: Mapping[str, Score], trials: Trials) -> bool:
    """Whether the midpoint is worse than both ends; it is run only as far as needed."""
    threshold = Threshold(scores[_worse_of(kept, item, scores).name])
    return not threshold.reached_by(trials.score(Mixture.equal([kept, item]), beat=threshold))


def _worse_of(first: Ingredient, second: Ingredient, scores: Mapping[str, Score]) -> Ingredient:
    """The ingredient with the lower score; the first one if they are equal."""
    return min(first, second, key=lambda end: scores[end.name].rank_key)


def _spread(scores: Iterable[Score]) -> float:
    """The difference between the best and the worst score."""
    rank_keys = [score.rank_key for score in scores]
    return max(rank_keys) - min(rank_keys)
