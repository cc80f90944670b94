"""Fine-tuning of runs that can be averaged, with `transformers.Trainer`."""
