"""Decoding of a sound to samples at the rate of a model: one channel, float32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MissingExtraError
from ..untrusted import as_error, open_file


if TYPE_CHECKING:
    import numpy as np


def decode_audio(encoded: Mapping[str, Any] | Sequence[float] | None, rate: int) -> np.ndarray:
    """Decode a sound to the mean of its channels, resampled by scipy if it has another rate.

    Args:
        encoded (`Mapping[str, Any]` or `Sequence[float]`):
            `bytes`, or the `path` of a file on this machine, as datasets has it undecoded; `array` and
            `sampling_rate`; or samples at the wanted rate.
        rate (`int`):
            Samples in a second.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32

    Raises:
        [`DataError`]: if it does not decode, is empty, or holds NaN or infinity.
        [`MissingExtraError`]: if it is a file, and soundfile is not installed.
    """
    import numpy as np

    own_rate = rate
    if encoded is None:
        raise DataError("there is no sound.")
    if not isinstance(encoded, Mapping):
        samples = np.asarray(encoded, dtype=np.float32)
    elif encoded.get("array") is not None:
        samples, own_rate = np.asarray(encoded["array"], dtype=np.float32), int(encoded["sampling_rate"])
    else:
        samples, own_rate = _read(encoded)
    if samples.ndim > 1:  # soundfile has channels last, and arrays of torch have them first
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if not len(samples) or not np.isfinite(samples).all():
        raise DataError("the sound is empty, or holds NaN or infinity.")
    if own_rate != rate:
        from scipy.signal import resample_poly

        common = math.gcd(own_rate, rate)
        samples = resample_poly(samples, rate // common, own_rate // common).astype(np.float32)
    return samples


def _read(encoded: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """The samples of a file, of shape `(samples, channels)`, and their rate."""
    try:
        import soundfile
    except ImportError:
        raise MissingExtraError("sounds in files are read by soundfile: pip install 'hf-soup[audio]'") from None
    content, path = encoded.get("bytes"), encoded.get("path")
    with as_error(DataError, "the sound does not decode"):
        if content is None:
            with open_file(str(path), error_class=DataError) as file:
                samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        else:
            samples, rate = soundfile.read(BytesIO(content), dtype="float32", always_2d=True)
    return samples, int(rate)
