"""Analysis of why a soup works or does not: measurements, figures drawn from them, and advice with its evidence."""
