"""File formats written by users and by hf_soup: strict YAML, cook files and recipes."""
