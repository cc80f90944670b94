"""Images reach a model as a viewer would show them, and an image that cannot be decoded raises a DataError."""

import io
import os
import warnings

import datasets
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import hf_soup
from hf_soup import testing
from hf_soup.data.content import hash_content
from hf_soup.data.images import decode_image
from hf_soup.errors import DataError
from hf_soup.tasks.image_classification import load_processing_class
from hf_soup.transforms import shifted_copy


RAMP = np.linspace(0, 255, 64).round().reshape(8, 8)  # all shades from black to white


def encoded(image, form="PNG", **options):
    """An image in the undecoded form that datasets uses."""
    content = io.BytesIO()
    image.save(content, form, **options)
    return {"bytes": content.getvalue(), "path": None}


def pixels(encoded_image):
    """The RGB pixels of a decoded image, as integers."""
    return np.asarray(decode_image(encoded_image).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ((RAMP * 257).astype(np.uint16), "PNG"),
        ((RAMP * 257).astype(np.uint16), "TIFF"),
        ((RAMP * 257).astype(">u2"), "TIFF"),
        ((RAMP * 257).astype(np.int32), "TIFF"),
        ((RAMP * 257).astype(np.uint16), "PPM"),
        (RAMP.astype(np.int32), "TIFF"),
        ((RAMP * 1000).astype(np.int32), "TIFF"),
        ((RAMP / 255).astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP * 257).astype(np.float32), "TIFF"),
        ((RAMP - 128).astype(np.float32), "TIFF"),
    ],
)
def test_deep_and_floating_greys(values, form):
    """A ramp from black to white stays one in every bit depth and number format."""
    seen = pixels(encoded(Image.fromarray(values), form))
    assert np.abs(seen - RAMP[..., None]).max() <= 1


def test_a_dark_deep_image_is_dark():
    """A dark 16-bit image stays dark, because 16-bit values have a fixed range, and so does a constant float image."""
    dark = np.full((4, 4), 200, dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(dark))).max() == 1
    for constant in (np.nan, -3.0, 0.0, np.inf):
        image = Image.fromarray(np.full((4, 4), constant, dtype=np.float32))
        assert pixels(encoded(image, "TIFF")).max() == 0


def transparent(mode):
    """An image whose left half is red and opaque, and whose right half is transparent, over black."""
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 2, 2))
    if mode == "P":
        image = Image.new("P", (4, 2), 1)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.paste(0, (0, 0, 2, 2))
        return encoded(image, transparency=1)
    if mode == "GIF":
        return encoded(image, "GIF")
    if mode == "RGB":
        return encoded(Image.merge("RGB", image.split()[:3]), transparency=(0, 0, 0))
    return encoded(image, mode, lossless=True)


@pytest.mark.parametrize("mode", ["PNG", "WEBP", "TIFF", "P", "GIF", "RGB"])
def test_what_is_transparent_lies_on_white(mode):
    """Transparent pixels are shown on white, in every format, and half-transparent ones are blended."""
    seen = pixels(transparent(mode))
    assert np.abs(seen[:, :2] - [255, 0, 0]).max() <= 4
    assert seen[:, 2:].min() == 255
    half = Image.new("LA", (2, 2), (0, 128))
    assert np.abs(pixels(encoded(half)) - 127).max() <= 1


def test_cmyk_and_single_bits():
    """CMYK becomes RGB, including Adobe's inverted JPEG, and single bits become black and white."""
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    for form in ("TIFF", "JPEG"):
        assert np.abs(pixels(encoded(image, form)) - [255, 0, 0]).max() <= 4
    bits = Image.fromarray(RAMP > 127)
    assert np.array_equal(pixels(encoded(bits))[..., 0], np.where(RAMP > 127, 255, 0))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_exif_orientation(form, orientation):
    """The EXIF orientation is applied, and broken EXIF data is ignored."""
    shown = Image.new("RGB", (16, 32), "black")
    shown.paste("white", (0, 0, 8, 16))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = pixels(encoded(shown.transpose(stored[orientation]), form, exif=exif))
    assert np.abs(seen - np.asarray(shown)).max() <= 8
    if form != "TIFF":
        assert pixels(encoded(shown, form, exif=b"Exif\0\0broken")).shape == (32, 16, 3)


def test_the_first_of_several_frames():
    """Only the first frame of an animation is used."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        seen = pixels(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
        assert np.abs(seen - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "path"])
def test_ordinary_images_are_what_they_were(tmp_path, mode, form):
    """Opaque 8-bit images have the same pixels as when datasets decodes them."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    noise[..., 3] = 255
    image = Image.fromarray(noise).convert("RGB").convert(mode)
    if form == "JPEG" and mode in ("P", "RGBA"):
        image = image.convert("RGB")
    source = encoded(image, "PNG" if form == "path" else form)
    if form == "path":
        (tmp_path / "a.png").write_bytes(source["bytes"])
        source = {"bytes": None, "path": str(tmp_path / "a.png")}
    assert np.array_equal(pixels(source), np.asarray(datasets.Image(mode="RGB").decode_example(source)))


def bomb():
    """A PNG of a few bytes that claims to have 100,000 by 100,000 pixels."""
    content = encoded(Image.new("L", (1, 1)))["bytes"]
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + content[24:29]
    return content[:12] + header + PngImagePlugin._crc32(header).to_bytes(4, "big") + content[33:]


GOOD = encoded(Image.fromarray(RAMP.astype(np.uint8)))["bytes"]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
BROKEN = [bomb(), GOOD[:40], GOOD[: len(GOOD) // 2], b"", b"no image", POSTSCRIPT]


@pytest.mark.parametrize("content", BROKEN)
def test_what_does_not_decode(content):
    """Decompression bombs, truncated files, other content and formats that run another program raise a DataError."""
    with pytest.raises(DataError, match="the image does not decode"):
        decode_image({"bytes": content, "path": None})


def test_paths_of_images(tmp_path):
    """Addresses, pipes and missing paths raise a DataError without being fetched or waited for."""
    paths = ["https://example.com/a.png", "zip://a.png::b.zip", str(tmp_path / "none.png"), str(tmp_path), None, "\0"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        paths.append(str(tmp_path / "pipe.png"))
    for path in paths:
        with pytest.raises(DataError):
            decode_image({"bytes": None, "path": path})
        data = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path or ""}]})
        hash_content(data.cast_column("image", datasets.Image()))
    with pytest.raises(DataError):
        decode_image(None)


def test_damaged_images_are_images_or_one_error():
    """Changing any byte of an image file, in several formats, raises no error other than a DataError."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8))
    rng = np.random.default_rng(1)
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"):
        whole = encoded(image, form)["bytes"]
        for at in rng.integers(0, len(whole), 25):
            damaged = whole[:at] + bytes([int(rng.integers(256))]) + whole[at + 1 :]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    decode_image({"bytes": damaged, "path": None})
            except DataError:
                continue


def test_training_and_evaluation_see_the_same(tmp_path):
    """A 16-bit image is scored as the equal 8-bit one, and an error counts broken images and names their rows."""
    ramp = Image.fromarray((RAMP * 257).astype(np.uint16))
    same = Image.fromarray(RAMP.astype(np.uint8))
    model = testing.tiny_image_model(0, classes=3)
    processor = load_processing_class(testing.save_image_model(model, tmp_path / "base"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    scores = []
    for image in (ramp, same):
        data = datasets.Dataset.from_dict({"image": [image] * 4, "label": [0] * 4}, features)
        evaluator = hf_soup.Evaluator(data, processing_class=processor, cache=False)
        scores.append(evaluator.predict(model).logits)
    assert np.allclose(scores[0], scores[1], atol=1e-6)
    rows = {"image": [{"bytes": GOOD, "path": None}, {"bytes": bomb(), "path": "bomb.png"}], "label": [0, 1]}
    broken = hf_soup.Evaluator(
        datasets.Dataset.from_dict(rows, features), processing_class=processor, cache=False, split="test"
    )
    with pytest.raises(DataError, match=r"1 of 2 images of test do not decode: row 1 \(bomb.png\)"):
        broken(model)


def test_shifted_copies_are_of_what_is_seen():
    """Deep greys and palettes are shifted as they are shown; images that do not decode or change are left alone."""
    images = [
        encoded(Image.fromarray((RAMP * 257).astype(np.uint16))),
        transparent("P"),
        {"bytes": b"no", "path": None},
    ]
    data = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
    copy = shifted_copy(data, "image", {"noise": 1e-9}).cast_column("image", datasets.Image(decode=False))
    for before, after in zip(images[:2], copy["image"][:2], strict=True):
        assert np.abs(pixels(after) - pixels(before)).max() <= 1
    assert copy["image"][2] == images[2]
    unflipped = shifted_copy(data, "image", {"flip": 1e-9}).cast_column("image", datasets.Image(decode=False))
    assert unflipped["image"][:] == images
