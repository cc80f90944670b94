"""Decoding of an image to what a viewer shows: 8 bits, upright, on white. Evaluation and training both use it.

Nothing is random, and the size changes only by rotation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..untrusted import as_error, open_file


if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

RUN_PROGRAMS = ("EPS",)  # formats for which PIL starts another program
DEEP = 65535  # the largest value of 16 bits
SHOWN = 255  # the largest value of 8 bits


def decode_image(encoded: Mapping[str, Any] | Image | None) -> Image:
    """Decode an image as a viewer shows it.

    - It is rotated according to its EXIF orientation.
    - Transparency, including that of palettes, is composited on white.
    - 16-bit greys are divided by 257. For 32-bit and floating-point greys the largest value determines what white
      is: 1 (only floating point), 255 or 65535. Where values are larger or negative, the smallest is black and the
      largest white.
    - CMYK and other colour spaces become RGB; the first of several frames is taken. Colour profiles are not applied.

    Args:
        encoded (`Mapping[str, Any]` or `PIL.Image.Image`):
            `bytes`, or the `path` of a file on this machine, as datasets has it undecoded; or an image.

    Returns:
        `PIL.Image.Image`: of mode `L` or `RGB`.

    Raises:
        [`DataError`]: if it does not decode: broken, cut, of more pixels than PIL opens, or of a format for which PIL
            starts another program.
    """
    from PIL import Image

    with as_error(DataError, "the image does not decode"):
        if isinstance(encoded, Image.Image):
            return _as_seen(_upright(encoded))
        # Inside the block, because PIL reads the pixels lazily.
        with _opened(encoded) as image:
            return _as_seen(_upright(image))


def decode_mask(encoded: Mapping[str, Any] | Image | None) -> np.ndarray:
    """Decode the mask of an image: the number of a class for each pixel, which a palette does not change.

    Args:
        encoded (`Mapping[str, Any]` or `PIL.Image.Image`):
            The argument of [`decode_image`].

    Returns:
        `np.ndarray` of shape `(height, width)`, int64

    Raises:
        [`DataError`]: if it does not decode, or has colours in place of numbers.
    """
    import numpy as np
    from PIL import Image

    with as_error(DataError, "the mask does not decode"):
        if isinstance(encoded, Image.Image):
            mask = np.asarray(encoded)
        else:
            with _opened(encoded) as image:
                mask = np.asarray(_upright(image))
    if mask.ndim != 2:
        raise DataError("a mask has colours, and the number of a class is needed for each pixel.")
    return mask.astype(np.int64)


@contextlib.contextmanager
def _opened(encoded: Mapping[str, Any] | None) -> Iterator[Image]:
    """An image whose pixels are not read yet.

    Raises:
        [`DataError`]: if there is none.
    """
    from PIL import Image

    if encoded is None:
        raise DataError("there is no image.")
    Image.init()  # registers all formats, so that those that run programs can be excluded
    formats = [name for name in Image.OPEN if name not in RUN_PROGRAMS]
    content, path = encoded["bytes"], encoded["path"]
    with BytesIO(content) if content is not None else open_file(path, error_class=DataError) as file:
        yield Image.open(file, formats=formats)


def _upright(image: Image) -> Image:
    """Read the pixels of an image, and rotate it according to its EXIF orientation."""
    from PIL import ImageOps
    from PIL.ExifTags import Base

    image.load()
    with contextlib.suppress(Exception):  # viewers show images with broken EXIF data
        if image.getexif().get(Base.Orientation) is not None:
            return ImageOps.exif_transpose(image)
    return image


def _as_seen(image: Image) -> Image:
    """Convert an image of any mode to 8 bits, on white."""
    import numpy as np
    from PIL import Image as Pil

    if image.mode == "F" or image.mode.startswith("I"):
        return Pil.fromarray(_grey(np.asarray(image), deep=image.mode.startswith("I;16")))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return _on_white(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "L":
        return image
    return image.convert("RGB")  # leaves RGB unchanged


def _on_white(image: Image) -> Image:
    """Composite an image that may be transparent on a white background."""
    from PIL import Image as Pil

    if image.mode == "La":  # greyscale with premultiplied alpha, which PIL converts only to this mode
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Pil.alpha_composite(Pil.new("RGBA", image.size, "white"), image).convert("RGB")


def _grey(values: np.ndarray, *, deep: bool) -> np.ndarray:
    """Scale greyscale values of any range to 8 bits; `deep` marks those of a 16-bit file."""
    import numpy as np

    fractions = values.dtype.kind == "f"
    values = np.where(np.isfinite(values), values, 0).astype(np.float64)
    smallest, largest = values.min(), values.max()
    black, white = 0.0, float(DEEP)
    if not deep:
        if smallest < 0 or largest > DEEP:
            black, white = smallest, largest
        elif fractions and largest <= 1:
            white = 1.0
        elif largest <= SHOWN:
            white = float(SHOWN)
    whole_range = (white - black) or 1.0  # a constant image is black
    return ((values - black) / whole_range * SHOWN).round().astype(np.uint8)
