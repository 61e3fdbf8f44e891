"""From any picture that Pillow reads to a small square one."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from common.errors import UserError

# EPS is left out: its reader starts another program.
Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS"}))
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error for twice the size remains


def read_picture(content: bytes, name: str, at_least: int | None = None) -> Image.Image:
    """Decode a file to RGB: upright by its EXIF tag, transparency over white, 16 bits scaled to 8.

    Args:
        content: the whole file, of any format and mode that Pillow reads.
        name: how messages call it.
        at_least: a side in pixels down to which a large JPEG may be shrunk while it is decoded, which is faster.

    Raises:
        UserError: not a picture, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if at_least:
                image.draft(None, (at_least, at_least))
            return _flatten(ImageOps.exif_transpose(image))
    except Exception as error:  # what a decoder raises on damaged bytes is not documented
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else f"damaged picture ({error})"
        raise UserError(f"{name}: {reason}") from error


def square(
    image: Image.Image, size: int, crop: int | None = None, stretched_from: tuple[int, int] | None = None
) -> Image.Image:
    """Return the middle square of a picture, ``size`` pixels a side.

    Args:
        image: any size.
        size: of the result.
        crop: side of the square in pixels of ``image``, stretched back if it was; None takes the largest.
        stretched_from: width and height of the picture before somebody squashed it; it gets that shape again first.

    Raises:
        UserError: the picture is smaller than ``crop``.
    """
    if stretched_from:
        width, height = stretched_from
        image = image.resize(
            (
                max(image.width, round(image.height * width / height)),
                max(image.height, round(image.width * height / width)),
            ),
            Image.Resampling.BICUBIC,
        )
    side = crop or min(image.size)
    if side > min(image.size):
        raise UserError(f"{image.width}x{image.height} pixels, smaller than the crop of {side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BICUBIC)


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image, 65535.0)
    elif image.mode in ("I", "F"):
        highest = float(np.asarray(image).max())
        image = _to_8_bits(image, next((full for full in (1.0, 255.0, 65535.0) if highest <= full), highest))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image, full: float) -> Image.Image:
    """Return a grey picture of 8 bits in which ``full`` is white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    return Image.fromarray(np.rint(values.clip(0, full) * (255.0 / full)).astype(np.uint8))
