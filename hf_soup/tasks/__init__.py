"""Tasks: from columns to what a model takes. One file a task, named as the Hub names its pipeline.

Each has `AUTO_CLASS` (its class in transformers), `ARCHITECTURE` (how its architectures end), `METRIC` (the default),
and
- `load_processing_class(source, revision)`: the tokenizer or image processor that belongs to a checkpoint;
- `columns(dataset, given, label)`: which columns are its inputs;
- `check_augment(augment)`: refuses what is no augmentation of its inputs;
- `encode(dataset, processing_class, columns, label_ids, augment)`: a data set of model inputs and `labels`;
- `collator(processing_class)`: rows to one batch;
- `lengths(encoded)`: what to sort by before batching, or `None`.
"""
