"""Random changes of images: augmentation in training, and shifted copies of a test set. Inputs and outputs are PIL
images.

Each transform has one parameter, its maximum strength, and is drawn independently for each image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .data.images import decode_image
from .errors import DataError, RecipeError, did_you_mean
from .progress import library_bars


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from PIL.Image import Image


MOST_CUT = 0.99  # of the width and of the height, since something has to remain to be enlarged


def rotate(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Turn by up to `strength` degrees either way."""
    from PIL import Image as Pil

    return image.rotate(rng.uniform(-strength, strength), resample=Pil.Resampling.BILINEAR)


def shift(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Translate by up to `strength` of the width and of the height."""
    offset_x = rng.uniform(-strength, strength) * image.width
    offset_y = rng.uniform(-strength, strength) * image.height
    return _affine(image, (1, 0, offset_x, 0, 1, offset_y))


def scale(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Shrink or enlarge about the centre by a factor of up to 1 + `strength` (1.5 for 0.5)."""
    factor = (1 + strength) ** rng.uniform(-1, 1)  # so that halving is as likely as doubling
    offset_x = image.width / 2 * (1 - 1 / factor)  # keeps the centre in place
    offset_y = image.height / 2 * (1 - 1 / factor)
    return _affine(image, (1 / factor, 0, offset_x, 0, 1 / factor, offset_y))


def crop(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Cut off up to `strength` of the width and of the height (less than 1), and enlarge the rest to the old size."""
    from PIL import Image as Pil

    left, right = _part_of(image.width, strength, rng)
    upper, lower = _part_of(image.height, strength, rng)
    return image.resize(image.size, Pil.Resampling.BILINEAR, box=(left, upper, right, lower))


def _part_of(size: int, strength: float, rng: np.random.Generator) -> tuple[float, float]:
    """Beginning and end of a random part of a length, from which up to `strength` is cut off."""
    length = size * (1 - rng.uniform(0, min(strength, MOST_CUT)))
    begin = rng.uniform(0, size - length)
    return begin, begin + length


def flip(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Swap left and right with probability `strength`."""
    from PIL import ImageOps

    if rng.uniform() < strength:
        return ImageOps.mirror(image)
    return image


def noise(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add Gaussian noise of standard deviation up to `strength` (1 is the whole range from black to white)."""
    import numpy as np
    from PIL import Image as Pil

    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + rng.normal(0, rng.uniform(0, strength) * 255, pixels.shape)
    return Pil.fromarray(noisy.clip(0, 255).astype(np.uint8))


def stroke(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Blend with a copy whose bright strokes are one pixel thicker or thinner, by up to `strength` (at most 1)."""
    from PIL import Image as Pil
    from PIL import ImageFilter

    amount = rng.uniform(-strength, strength)
    stroke_filter = ImageFilter.MaxFilter(3) if amount > 0 else ImageFilter.MinFilter(3)
    return Pil.blend(image, image.filter(stroke_filter), abs(amount))


TRANSFORMS = {
    "crop": crop,
    "flip": flip,
    "rotate": rotate,
    "shift": shift,
    "scale": scale,
    "stroke": stroke,
    "noise": noise,
}


def check_transform(transform: Mapping[str, Any]) -> None:
    """Refuse anything that is not a transform of images.

    Raises:
        [`RecipeError`]: with the nearest known name, or for a strength that is no positive number.
    """
    for name, strength in transform.items():
        if name not in TRANSFORMS:
            raise RecipeError(f'there is no image transform "{name}"{did_you_mean(name, TRANSFORMS)}')
        if not isinstance(strength, (int, float)) or strength <= 0:
            raise RecipeError(f'the image transform "{name}" takes a positive number, not {strength!r}.')


def apply_transform(image: Image, transform: Mapping[str, float], rng: np.random.Generator) -> Image:
    """Apply transforms to one image, in the order of `TRANSFORMS`.

    Args:
        image (`PIL.Image.Image`):
            Image of 8 bits, which is not changed.
        transform (`Mapping[str, float]`):
            Name -> largest strength.
        rng (`np.random.Generator` or `np.random.RandomState`):
            Random generator.
    """
    for name, function in TRANSFORMS.items():
        if name in transform:
            image = function(image, transform[name], rng)
    return image


@library_bars("datasets")
def shifted_copy(dataset: Dataset, column: str, transform: Mapping[str, float]) -> Dataset:
    """A copy of a data set with every image changed; row i is always changed in the same way.

    Args:
        dataset (`datasets.Dataset`):
            The examples.
        column (`str`):
            The image column.
        transform (`Mapping[str, float]`):
            Name -> largest strength.
    """
    import datasets
    import numpy as np

    check_transform(transform)

    def change(row: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            image = decode_image(row[column])
        except DataError:  # left unchanged, and reported when the column is read
            return {}
        changed = apply_transform(image, transform, np.random.default_rng(index))
        if changed is image:  # columns that are not returned stay encoded
            return {}
        return {column: changed}

    # Decoded in `change`, where an unreadable image is not yet an error.
    encoded = dataset.cast_column(column, datasets.Image(decode=False))
    copy = encoded.map(
        change, with_indices=True, desc="Shifting images", load_from_cache_file=False, keep_in_memory=True
    )
    return copy.cast_column(column, datasets.Image())


def _affine(image: Image, matrix: tuple[float, ...]) -> Image:
    """Transform an image with an affine matrix (a, b, c, d, e, f): x' = ax + by + c and y' = dx + ey + f."""
    from PIL import Image as Pil

    return image.transform(image.size, Pil.Transform.AFFINE, matrix, resample=Pil.Resampling.BILINEAR)
