"""Functions that tests run in worker processes. The workers import this file, so it imports as little as possible."""

import os


def tell_device(item):
    """Return the item, the visible device and the id of the process that handles it."""
    return item, os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def fail(item):
    """Raise an error of hf_soup."""
    from hf_soup.errors import DataError

    raise DataError("no good")


def die(item):
    """End the process without an error message."""
    os._exit(1)
