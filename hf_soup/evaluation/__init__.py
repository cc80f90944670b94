"""From a mixture to predictions and scores: averaged once, run once, kept."""
