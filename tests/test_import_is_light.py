"""Importing the package is cheap, so that the first command responds quickly."""

import subprocess
import sys

import pytest


HEAVY = {"torch", "transformers", "datasets", "evaluate", "sklearn", "scipy", "numpy", "matplotlib", "pydantic"}
HEAVY |= {"huggingface_hub", "tqdm"}  # when imported, they read environment variables that a command sets


@pytest.mark.parametrize("module", ["hf_soup", "hf_soup.cli"])
def test_import_loads_nothing_heavy(module):
    """Importing the package or its command line in a fresh interpreter loads none of the heavy libraries."""
    code = f"import sys, {module}; print('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
