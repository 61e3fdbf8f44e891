"""From a file to pixels: strictly, as the data layout wants them, or from any picture that Pillow reads."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import UserError

# EPS is left out: its reader starts another program.
Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS"}))
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the error for twice the size remains

# A large JPEG is decoded at no less than so many times the side wanted, several times faster than whole.
_SPARE = 4


def read_image(path: Path, size: int, mode: str | None = None) -> np.ndarray:
    """Decode a PNG or JPEG of the data layout to uint8 (size, size, 3) or (size, size, 1), changing nothing.

    Args:
        path: the file.
        size: height and width it must have.
        mode: ``RGB`` or ``L``; None admits both.

    Raises:
        UserError: names the file and what is wrong with it.
    """
    path = Path(path)
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise UserError(f"{path}: {'not a plain file' if os.path.lexists(path) else 'no such picture'}")
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.size != (size, size):
                raise UserError(f"{path}: {image.width}x{image.height} pixels, expected {size}x{size}")
            if image.mode not in ("RGB", "L") or (mode and image.mode != mode):
                expected = {"RGB": "colour (RGB)", "L": "grey (L)", None: "RGB or L"}[mode]
                raise UserError(f"{path}: a picture of mode {image.mode} where {expected} is expected")
            pixels = np.asarray(image)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a PNG or JPEG picture") from error
    except Exception as error:  # what a decoder raises on damaged bytes is not documented
        raise UserError(f"{path}: damaged picture ({error})") from error
    return pixels.reshape(size, size, -1)


def read_square(
    content: bytes, name: str, size: int, crop: int | None = None, stretched_from: tuple[int, int] | None = None
) -> Image.Image:
    """Return the middle square of any picture as RGB, ``size`` pixels a side: :func:`read_picture`, :func:`square`.

    Raises:
        UserError: names ``name``: not a picture, damaged, or smaller than ``crop``.
    """
    image = read_picture(content, name, None if crop else size)
    try:
        return square(image, size, crop, stretched_from)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def read_picture(content: bytes, name: str, wanted: int | None = None) -> Image.Image:
    """Decode a file to RGB: upright by its EXIF tag, transparency over white, 16 bits scaled to 8, the first frame.

    Args:
        content: the whole file, of any format and mode that Pillow reads.
        name: how messages call it.
        wanted: the side in pixels to which it will be scaled; a large JPEG is then decoded faster, at four times that.

    Raises:
        UserError: not a picture, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if wanted:
                image.draft(None, (_SPARE * wanted, _SPARE * wanted))
            return _flatten(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a picture of a format that Pillow reads") from error
    except Exception as error:  # what a decoder raises on damaged bytes is not documented
        raise UserError(f"{name}: damaged picture ({error})") from error


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
        ValueError: the picture is smaller than ``crop``.
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


def _flatten(image: Image.Image) -> Image.Image:
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
