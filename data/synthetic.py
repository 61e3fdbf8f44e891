"""The built-in sample set: handwriting rendered anew, house numbers and faces made of shapes; needs no network.

Every image is a pure function of its label or glyph and of its random stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from common.data import DIGIT_SIZE, DOMAINS, FACE_SIZE
from common.seed import derive_seed
from data.layout import split_order, write_csvs, write_images
from data.mnistm import blend

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Images in train, val and (digits only) test: enough that every problem visibly learns within minutes.
_COUNTS = {"face": (2000, 200), "mnistm": (4000, 1000, 1000), "svhn": (4000, 1000, 1000), "usps": (2000, 500, 500)}
_SUPERSAMPLING = 4  # shapes are rendered so many times larger and scaled down: Pillow itself does not smooth edges
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold")


def make_sample(part: str, folder: Path, seed: int, counts: Mapping[str, tuple[int, ...]] = _COUNTS) -> str:
    """Render ``part`` into the empty ``folder`` and return what the data are called."""

    def draw(folder: Path, items: list[Any], seed: int) -> None:
        def render(number: int) -> Image.Image:
            return _RENDER[part](items[number], np.random.default_rng([seed, number]))

        write_images(folder, render, len(items))

    # The names of random streams decide the images: they stay.
    if part == "face":
        for split, count in zip(("train", "val"), counts[part], strict=True):
            draw(folder / split, [None] * count, derive_seed(seed, part, split))
        return "drawn faces (sample)"
    items, labels = _digits(part, counts[part], np.random.default_rng(derive_seed(seed, part)))
    draw(folder / "data", items, derive_seed(seed, part, "drawing"))
    write_csvs(folder, labels, np.split(np.arange(len(labels)), np.cumsum(counts[part])[:-1]))
    return f"{DOMAINS[part]}-like (sample)"


def _digits(part: str, counts: tuple[int, ...], rng: np.random.Generator) -> tuple[list[Any], np.ndarray]:
    """Return what to render (a label for svhn, else an 8x8 glyph) and the labels, split after split.

    No handwritten digit serves two splits, and every digit domain divides them alike, so that not even the
    source's train split holds the strokes of the target's val split.
    """
    from sklearn.datasets import load_digits

    if part == "svhn":
        labels = rng.integers(10, size=sum(counts))
        return labels.tolist(), labels
    digits = load_digits()
    own = split_order(np.random.default_rng(0).permutation(len(digits.target)))
    picked = np.concatenate([rng.choice(numbers, count) for numbers, count in zip(own, counts, strict=True)])
    return list(digits.images[picked]), digits.target[picked]


def render_mnistm(glyph: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Blend an 8x8 handwritten digit (0..16) over a patch of a photograph, as MNIST-M does: 28x28 RGB."""
    digit = _handwriting(glyph, rng, size=20, slant=0.0, threshold=0.45)
    return Image.fromarray(blend(digit[None], _photographs(), rng)[0])


def render_usps(glyph: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Render an 8x8 handwritten digit (0..16) thin, slanted and filling the frame, as USPS scans are: 28x28 L."""
    return Image.fromarray(_handwriting(glyph, rng, size=27, slant=0.25, threshold=0.68))


def render_svhn(label: int, rng: np.random.Generator) -> Image.Image:
    """Render a crop of a house number around digit ``label``, with distractors, shade, blur and noise: 28x28 RGB."""
    import matplotlib

    size = DIGIT_SIZE * _SUPERSAMPLING
    wall = paint = _rgb(np.zeros(3))
    while abs(np.mean(wall) - np.mean(paint)) <= 55:
        wall, paint = _color(rng, 10, 245), _color(rng, 10, 245)
    image = Image.new("RGB", (size, size), wall)
    draw = ImageDraw.Draw(image)
    font_file = f"{matplotlib.get_data_path()}/fonts/ttf/{_FONTS[rng.integers(len(_FONTS))]}.ttf"
    font = ImageFont.truetype(font_file, int(size * rng.uniform(0.75, 1.0)))
    x, y = (size / 2 + size * rng.uniform(-0.06, 0.06) for _ in range(2))
    advance = font.getlength("0") * rng.uniform(0.95, 1.2)
    draw.text((x, y), str(label), fill=paint, font=font, anchor="mm")
    for side in (-1, 1):
        if rng.random() < 0.6:
            position = (x + side * advance, y + size * rng.uniform(-0.05, 0.05))
            draw.text(position, str(rng.integers(10)), fill=paint, font=font, anchor="mm")
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=wall)
    image = image.filter(ImageFilter.GaussianBlur(_SUPERSAMPLING * rng.uniform(0.2, 1.0)))
    image = image.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BOX)
    return _add_light_and_noise(image, rng, strength=0.25, noise=6.0)


def render_face(_item: None, rng: np.random.Generator) -> Image.Image:
    """Render a frontal face of random place, size, skin, hair, smile, light and background: 64x64 RGB."""
    scale = FACE_SIZE * _SUPERSAMPLING / 100  # below, one unit is a hundredth of the image
    image = Image.new("RGB", (FACE_SIZE * _SUPERSAMPLING,) * 2, _color(rng, 30, 220))
    draw = ImageDraw.Draw(image)
    skin = np.array([236, 196, 168]) * rng.uniform(0.45, 1.0)
    hair = np.array([190, 155, 95]) * rng.uniform(0.1, 1.0)
    (x, y), width, smile = 50 + rng.uniform(-3, 3, 2), rng.uniform(23, 26), rng.uniform(0, 5)

    def ellipse(x: float, y: float, half_width: float, half_height: float, color: np.ndarray) -> None:
        box = np.array([x - half_width, y - half_height, x + half_width, y + half_height]) * scale
        draw.ellipse(box.tolist(), fill=_rgb(color))

    ellipse(x, 118, 44, 27, np.array(_color(rng, 20, 230)))  # back to front: shoulders, neck, hair, head
    ellipse(x, 88, 11, 16, skin * 0.72)
    ellipse(x, y - 3, width + 3, width + 12, hair)
    ellipse(x, y + 3, width, width + 8, skin)
    for side in (-1, 1):  # eyes under brows
        ellipse(x + side * 11, y - 12, 6, 1, hair * 0.7)
        ellipse(x + side * 11, y - 5, 6.5, 4.2, skin * 0.72)
        ellipse(x + side * 11, y - 5, 4.8, 2.2, np.array([235, 232, 228]))
        ellipse(x + side * 11, y - 5, 2.2, 2.2, np.array([40, 30, 20]))
    ellipse(x, y + 9, 4.6, 3, skin * 0.8)
    ellipse(x, y + 20, 8, 1.5 + 0.5 * smile, skin * np.array([0.65, 0.4, 0.4]))
    image = image.filter(ImageFilter.GaussianBlur(_SUPERSAMPLING * rng.uniform(0.35, 0.7)))
    image = image.resize((FACE_SIZE, FACE_SIZE), Image.Resampling.BOX)
    return _add_light_and_noise(image, rng, strength=0.2, noise=2.5)


_RENDER: Mapping[str, Any] = {"face": render_face, "mnistm": render_mnistm, "svhn": render_svhn, "usps": render_usps}


def _handwriting(glyph: np.ndarray, rng: np.random.Generator, size: int, slant: float, threshold: float) -> np.ndarray:
    """Return an 8x8 glyph (0..16) as a smooth uint8 stroke on a 28x28 frame, moved and bent a little.

    ``threshold`` is the ink density at which the stroke's edge lies: higher is thinner.
    """
    big = Image.fromarray((glyph / 16 * 255).astype(np.uint8)).resize((size * 4, size * 4), Image.Resampling.BICUBIC)
    frame = Image.new("L", (DIGIT_SIZE * 4,) * 2)
    frame.paste(big, ((DIGIT_SIZE - size) * 2,) * 2)
    angle, shear = np.deg2rad(rng.uniform(-8, 8)), slant + rng.uniform(-0.12, 0.12)
    matrix = np.array([[np.cos(angle), np.sin(angle) + shear], [-np.sin(angle), np.cos(angle)]])
    matrix /= rng.uniform(0.9, 1.05)
    middle = np.full(2, DIGIT_SIZE * 2.0)
    offset = middle - matrix @ (middle + rng.uniform(-4, 4, 2))
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    moved = frame.transform(frame.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    density = np.asarray(moved.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BOX)) / 255
    return (255 / (1 + np.exp(-(density - threshold) * 14))).round().astype(np.uint8)


def _add_light_and_noise(image: Image.Image, rng: np.random.Generator, strength: float, noise: float) -> Image.Image:
    """Add a gradient of light from a random side, and sensor noise."""
    pixels = np.asarray(image, dtype=np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    light = 1 + strength * rng.random() * (np.cos(angle) * x + np.sin(angle) * y)
    pixels = pixels * light[..., None] + rng.normal(0, noise * rng.random(), pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _color(rng: np.random.Generator, low: int, high: int) -> tuple[int, ...]:
    # A gray with a tint: fully random colors are rarer in photographs.
    return _rgb(rng.uniform(low, high) + rng.uniform(-40, 40, 3))


def _rgb(color: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(color, 0, 255))


@cache
def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
