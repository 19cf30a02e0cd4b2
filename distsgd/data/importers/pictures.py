"""Decode JPEG and PNG: the only place that knows Pillow."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from distsgd.config import InputError
from distsgd.data.importers.blur import sharpened
from distsgd.data.importers.files import Broken, reason

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise InputError(
        "pictures are read with Pillow, which is missing: pip install 'distsgd[images]'"
    ) from error

MOST_PIXELS = 1 << 26
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")
_FORMATS = ("JPEG", "PNG")


@contextmanager
def limited() -> Iterator[None]:
    """Nothing in the block unpacks to more than `MOST_PIXELS` pixels, and no warning is a mere line on a screen."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def look(data: bytes, origin: str) -> tuple[tuple[int, int], bool]:
    """((height, width), whether it has colours) from a picture's header. Raises Broken."""
    image = _opened(data, origin)
    return (image.height, image.width), image.mode not in _GREY


def decode(data: bytes, origin: str, shape: tuple[int, int, int], blur: float = 0.0) -> np.ndarray:
    """The picture, uint8 of `shape` (height, width, 1 or 3): its shorter side scaled, its centre cut out. Raises Broken.

    blur: that of the picture as it is stored, undone before it is scaled (`sharpened`).
    """
    height, width, channels = shape
    image = _opened(data, origin)
    try:
        if image.mode.startswith("I"):  # 16 bits: Pillow would cut off what is above 255
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        image = image.convert("L" if channels == 1 else "RGB")
        if blur:
            pixels = np.asarray(image)
            image = Image.fromarray(sharpened(np.atleast_3d(pixels), blur).reshape(pixels.shape))
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(shape)
    except Exception as error:  # a damaged file makes Pillow raise errors of every kind
        raise Broken(f"{origin}: a broken picture: {reason(error)}") from error


def _opened(data: bytes, origin: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Broken(f"{origin}: more than {MOST_PIXELS:,} pixels; wanted: fewer") from error
    except Exception as error:
        raise Broken(f"{origin}: not a JPEG or PNG picture: {_without_address(error)}") from error


def _without_address(error: Exception) -> str:
    return "its beginning is damaged or of another kind" if isinstance(error, OSError) else reason(error)
