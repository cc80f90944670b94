"""Fine-tunes that are made to be averaged, through `transformers.Trainer`."""
