"""The data layout as people really have it: every oddity is read as they expect, or refused by the file's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from common.cli import UserError
from common.data import (
    center_square,
    dataset_name,
    is_image,
    list_images,
    load_digit_images,
    load_digits,
    load_images,
    read_image,
)
from p1_gan.dataset import load_faces
from tests.conftest import Capture, encoded

import numpy as np
import pytest
import torch
from PIL import Image

ROWS = [("00000.png", 3), ("00001.png", 0), ("00002.png", 9)]


def png(size: tuple[int, int] = (28, 28), mode: str = "RGB", color: object = None) -> bytes:
    return encoded(Image.new(mode, size, color))


def refused(path: Path, call: Callable[[], object]) -> str:
    """Check that ``call`` raises one UserError that names ``path``; return its message."""
    with pytest.raises(UserError) as caught:
        call()
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """digits/mnistm of a data root with three good images, one list of which is to be spoilt."""
    folder = tmp_path / "root/digits/mnistm"
    (folder / "data").mkdir(parents=True)
    for name, label in ROWS:
        (folder / "data" / name).write_bytes(png(color=(label, 1, 2)))
    (folder / "train.csv").write_text("image_name,label\n" + "".join(f"{name},{label}\n" for name, label in ROWS))
    return folder


def load(domain: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return load_digits(domain.parents[1], "mnistm", "train")


GOOD_LISTS = {
    "no final newline": b"image_name,label\n00000.png,3\n00001.png,0\n00002.png,9",
    "CRLF": b"image_name,label\r\n00000.png,3\r\n00001.png,0\r\n00002.png,9\r\n",
    "CR": b"image_name,label\r00000.png,3\r00001.png,0\r00002.png,9\r",
    "byte order mark": b"\xef\xbb\xbfimage_name,label\n00000.png,3\n00001.png,0\n00002.png,9\n",
    "quoted": b'"image_name","label"\n"00000.png","3"\n00001.png,"0"\n"00002.png",9\n',
    "spaces": b"image_name, label\n00000.png, 3 \n 00001.png,0\n00002.png ,9\n",
    "blank lines": b"\nimage_name,label\n\n00000.png,3\n  \n00001.png,0\n,\n00002.png,9\n\n\n",
    "more columns": b"image_name,label,note\n00000.png,3,x\n00001.png,0,\n00002.png,9\n",
}


@pytest.mark.parametrize("form", GOOD_LISTS)
def test_lists_written_by_any_program_are_read(domain: Path, form: str) -> None:
    (domain / "train.csv").write_bytes(GOOD_LISTS[form])
    images, labels = load(domain)
    assert labels.tolist() == images[:, 0, 0, 0].tolist() == [label for _, label in ROWS]


BAD_LISTS = {
    "empty": (b"", "header must be image_name,label"),
    "header only": (b"image_name,label\n", "lists no image"),
    "no header": (b"00000.png,3\n00001.png,0\n", "header must be image_name,label"),
    "other separator": (b"image_name;label\n00000.png;3\n", "header must be image_name,label"),
    "label 10": (b"image_name,label\n00000.png,3\n00001.png,10\n", "00001.png"),
    "label nan": (b"image_name,label\n00000.png,nan\n", "00000.png"),
    "label in other digits": ("image_name,label\n00000.png,\u0663\n".encode(), "00000.png"),
    "no labels": (b"image_name\n00000.png\n00001.png\n", "no image has a label"),
    "name empty": (b"image_name,label\n,3\n", "damaged"),
    "name twice": (b"image_name,label\n00000.png,3\n00000.png,4\n", "listed twice"),
    "zero byte": (b"image_name,label\n0000\x000.png,3\n", "no such image"),
    "not in data": (b"image_name,label\n00007.png,3\n", "data/00007.png: no such image"),
    "very long name": (b"image_name,label\n" + b"a" * 5000 + b".png,3\n", "no such image"),
    "open quote": (b'image_name,label\n"00000.png,3\n00001.png,0\n', "not a CSV file"),
    "huge field": (b"image_name,label\n" + b"a" * 200_000 + b",3\n", "not a CSV file"),
    "UTF-16": ("image_name,label\n00000.png,3\n".encode("utf-16"), "not a CSV file in UTF-8"),
}


@pytest.mark.parametrize("form", BAD_LISTS)
def test_lists_that_cannot_be_meant_are_refused(domain: Path, form: str) -> None:
    content, reason = BAD_LISTS[form]
    (domain / "train.csv").write_bytes(content)
    assert reason in refused(domain, lambda: load(domain))


def test_missing_labels_are_no_error_and_only_the_labeled_are_trained_on(domain: Path) -> None:
    (domain / "train.csv").write_text("image_name,label\n00000.png,\n00001.png,0\n00002.png\n")
    root = domain.parents[1]
    assert load_digit_images(root, "mnistm", "train")[:, 0, 0, 0].tolist() == [3, 0, 9]
    assert [labels.tolist() for labels in load(domain)[1:]] == [[0]]


BAD_IMAGES = {
    "empty": (b"", "not an image"),
    "truncated": (png(color=(1, 2, 3))[:60], "damaged"),
    "too large": (png((32, 32)), "32x32 pixels, expected 28x28"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n", "not an image"),
}


@pytest.mark.parametrize("form", BAD_IMAGES)
def test_bad_images_are_refused_by_name(domain: Path, form: str) -> None:
    content, reason = BAD_IMAGES[form]
    path = domain / "data/00001.png"
    path.write_bytes(content)
    assert reason in refused(path, lambda: load(domain))
    assert not (domain / ".cache").exists(), "a failed load must leave no cache"


GRAY, BLUE = (128, 128, 128), (0, 0, 255)
palette = Image.new("P", (30, 30), 1)
palette.putpalette([255, 0, 0, *BLUE])
animated = [Image.new("RGB", (30, 30), color) for color in (BLUE, (255, 0, 0))]
FORMS = {
    "gray": (encoded(Image.new("L", (30, 30), 128)), GRAY),
    "gray with alpha": (encoded(Image.new("LA", (30, 30), (128, 255))), GRAY),
    "transparent": (encoded(Image.new("RGBA", (30, 30), (0, 0, 0, 0))), (255, 255, 255)),
    "palette": (encoded(palette), BLUE),
    "transparent palette": (encoded(palette, transparency=1), (255, 255, 255)),
    "one bit": (encoded(Image.new("1", (30, 30), 1)), (255, 255, 255)),
    "16 bits": (encoded(Image.fromarray(np.full((30, 30), 32896, np.uint16))), GRAY),
    "32 bits": (encoded(Image.fromarray(np.full((30, 30), 32896, np.int32)), "TIFF"), GRAY),
    "floats": (encoded(Image.fromarray(np.full((30, 30), 128 / 255, np.float32)), "TIFF"), GRAY),
    "CMYK": (encoded(Image.new("CMYK", (30, 30), (255, 255, 0, 0)), "JPEG"), BLUE),
    "animated": (encoded(animated[0], "GIF", save_all=True, append_images=animated[1:]), BLUE),
    "WebP": (encoded(animated[0], "WEBP", lossless=True), BLUE),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_mode_become_rgb(form: str) -> None:
    content, expected = FORMS[form]
    image = read_image(content, form)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 2


def test_images_are_turned_upright() -> None:
    image = Image.new("RGB", (20, 10))
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    upright = np.asarray(read_image(encoded(image, exif=exif), "x"))
    assert upright.shape == (20, 10, 3)
    assert upright[:10].min() == 255 and upright[10:].max() == 0


def test_the_center_square_is_taken_whole_cropped_or_stretched_back() -> None:
    columns = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (60, 100, 3))
    image = Image.fromarray(np.ascontiguousarray(columns))
    assert np.array_equal(np.asarray(center_square(image, 60)), columns[:, 20:80])
    assert np.array_equal(np.asarray(center_square(image, 20, crop=20)), columns[20:40, 40:60])
    # 100x60 squashed to 50x60: stretched back, then the center square.
    squashed = image.resize((50, 60), Image.Resampling.BICUBIC)
    again = np.asarray(center_square(squashed, 60, stretched_from=(100, 60))).astype(int)
    assert np.abs(again - columns[:, 20:80]).max() <= 4
    with pytest.raises(ValueError, match="100x60 pixels, smaller than the crop of 70"):
        center_square(image, 64, crop=70)


def test_one_reader_for_every_folder_of_images(tmp_path: Path, capsys: Capture) -> None:
    suffixes = {"png": "PNG", "jpg": "JPEG", "jfif": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
    suffixes |= {"gif": "GIF", "ppm": "PPM", "jp2": "JPEG2000", "avif": "AVIF", "JPEG": "JPEG"}
    for suffix, kind in suffixes.items():
        (tmp_path / f"a.{suffix}").write_bytes(encoded(Image.new("RGB", (28, 28), (7, 7, 7)), kind))
    for name in ("notes.txt", "table.xlsx", "._a.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "inner.png").mkdir()
    images = load_images(tmp_path, list_images(tmp_path), 28)
    assert len(images) == len(suffixes) and (images.int() - 7).abs().max() <= 2
    said = capsys.readouterr().err
    assert "2" in said and "notes.txt" in said and "table.xlsx" in said and "._a" not in said
    assert is_image("a.PNG") and not is_image("a.eps") and not is_image("a")


def test_images_of_another_size_are_scaled_where_asked(tmp_path: Path, capsys: Capture) -> None:
    for name, size in (("a.png", (28, 28)), ("b.png", (60, 40))):
        (tmp_path / name).write_bytes(png(size, color=(9, 9, 9)))
    names = list_images(tmp_path)
    assert load_images(tmp_path, names, 28, resize=True).float().mean() == 9
    assert "1 of 2" in capsys.readouterr().err
    refused(tmp_path / "b.png", lambda: load_images(tmp_path, names, 28))


def test_missing_folders_are_named(tmp_path: Path, domain: Path) -> None:
    root = domain.parents[1]
    assert "prepare.py" in refused(tmp_path / "none", lambda: load_digits(tmp_path / "none", "mnistm", "train"))
    assert "prepare.py" in refused(tmp_path / "none", lambda: load_faces(tmp_path / "none", "train"))
    assert "mnistm" in refused(root / "digits/svhn", lambda: load_digits(root, "svhn", "train"))
    refused(domain / "val.csv", lambda: load_digits(root, "mnistm", "val"))
    refused(root / "face/train", lambda: load_faces(root, "train"))
    (root / "face/train/inner").mkdir(parents=True)
    refused(root / "face/train", lambda: list_images(root / "face/train"))
    (root / "digits/.svhn.partial/data").mkdir(parents=True)
    (root / "digits/empty").mkdir()
    assert "are: mnistm\n" in refused(root / "digits/empty", lambda: load_digits(root, "empty", "train")) + "\n"
    assert dataset_name(root, "mnistm") == "mnistm (source unknown)"


def test_the_cache_follows_every_change(domain: Path, tmp_path: Path) -> None:
    first = load(domain)[0]
    cache = domain / ".cache/train.safetensors"
    made = cache.stat().st_mtime_ns
    assert torch.equal(load(domain)[0], first) and cache.stat().st_mtime_ns == made, "the second load decodes nothing"
    assert cache.stat().st_mode & 0o044 == 0o644 & ~umask() & 0o044, "readable for whom other files are"

    image = domain / "data/00001.png"
    before, content = image.stat(), png(color=(77, 1, 2))
    assert len(content) == before.st_size
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of modification
    assert load(domain)[0][:, 0, 0, 0].tolist() == [3, 77, 9]

    (domain / "train.csv").write_text("image_name,label\n00002.png,9\n00001.png,0\n")
    assert load(domain)[0][:, 0, 0, 0].tolist() == [9, 77]
    # Data sets of DVC and of Hugging Face's cache are links.
    image.rename(tmp_path / "blob")
    image.symlink_to(tmp_path / "blob")
    (tmp_path / "blob").write_bytes(png(color=(78, 1, 2)))
    assert load(domain)[0][:, 0, 0, 0].tolist() == [9, 78]
    for target in ("nowhere.png", "00001.png"):  # the second is a link to itself
        image.unlink()
        image.symlink_to(target)
        refused(image, lambda: load(domain))


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("position", [0, 7, 8, 20, 60, -1])
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, position: int, cut: bool) -> None:
    (tmp_path / "a.png").write_bytes(png((4, 4), color=(5, 6, 7)))
    cache = tmp_path / "cache"
    expected = load_images(tmp_path, ["a.png"], 4, cache)
    content = bytearray(cache.read_bytes())
    if cut:
        del content[position:]
    else:
        content[position % (len(content) - expected.numel())] ^= 0xFF
    cache.write_bytes(content)
    assert torch.equal(load_images(tmp_path, ["a.png"], 4, cache), expected)


def test_a_folder_that_cannot_hold_a_cache_is_no_error(domain: Path, capsys: Capture) -> None:
    (domain / ".cache").write_text("a file where the cache's folder would be")
    assert load(domain)[0].shape == (3, 3, 28, 28)
    assert str(domain / ".cache") in capsys.readouterr().err
