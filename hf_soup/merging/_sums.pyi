def weighted_sum(
    type: str,
    inputs: list[memoryview],
    weights: tuple[float, ...],
    sums: memoryview | None,
    begins: bool,
    out: memoryview | None,
    total: float,
) -> bool: ...
