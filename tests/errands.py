"""What worker processes of tests are sent to do. They import this file, which therefore imports little."""

import os


def tell_device(item):
    """The item, the device that is visible and the process that works on it."""
    return item, os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def fail(item):
    """An error of the package."""
    from hf_soup.errors import DataError

    raise DataError("no good")


def die(item):
    """The process ends without a word."""
    os._exit(1)
