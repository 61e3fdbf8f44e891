"""The one reader of image files: which files count as images, and how any of them becomes RGB pixels."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from common.cli import UserError

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# EPS and PDF are left out: reading them starts another program.
Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS", "PDF"}))
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
Image.MAX_IMAGE_PIXELS = 2**28  # phones take 200 megapixels; Pillow refuses twice this


def is_image(name: str) -> bool:
    """Return whether a file of this name is read as an image; hidden files (``._NAME`` of a Mac) are not."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(source: Path | bytes, name: str, size: int | None = None) -> Image.Image:
    """Decode a file or its content to RGB: upright by EXIF, transparency over white, 16 bits as 8, the first frame.

    Messages call it ``name``; ``size`` is the side in pixels to which it will be scaled, if that is known.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if size:  # a large JPEG is decoded at no less than four times the side wanted, much faster than whole
                image.draft(None, (4 * size, 4 * size))
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image of a format that Pillow reads") from error
    except Exception as error:  # what a decoder raises on damaged bytes is not documented
        raise UserError(f"{name}: damaged or too large ({error})") from error


def center_square(
    image: Image.Image, size: int, crop: int | None = None, stretched_from: tuple[int, int] | None = None
) -> Image.Image:
    """Return the center square of an image, ``size`` pixels a side.

    Args:
        crop: side of the square in pixels of ``image`` (after un-stretching); None takes the largest.
        stretched_from: (width, height) before somebody squashed the image; that shape is restored first.
    """
    if stretched_from:
        width, height = stretched_from
        wide = max(image.width, round(image.height * width / height))
        high = max(image.height, round(image.width * height / width))
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    side = crop or min(image.size)
    if side > min(image.size):
        raise ValueError(f"{image.width}x{image.height} pixels, smaller than the crop of {side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BICUBIC)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0)
        # Numbers without a range of their own: the smallest usual one that holds them.
        ranges = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
        full = next((full for full in ranges if values.max() <= full), values.max())
        return Image.fromarray(np.rint(values * (255.0 / full)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
