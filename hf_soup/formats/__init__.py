"""The files that people and hf_soup write: YAML read strictly, cook files and recipes."""
