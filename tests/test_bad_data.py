"""Data as people really have it: every oddity is read as they expect, or refused by the file's name."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import common.cache
from common.cache import list_images, load_images
from common.dataset import (
    dataset_name,
    digit_domains,
    domain_title,
    has_labels,
    load_digit_images,
    load_digits,
    load_faces,
    read_names,
    read_names_and_labels,
)
from common.decode import read_image
from common.errors import UserError
from tests.conftest import Patch, encoded

FUZZ = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,  # the suite says the same every time
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ROWS = [("00000.png", 3), ("00001.png", 0), ("00002.png", 9)]


def png(size: tuple[int, int] = (28, 28), mode: str = "RGB", colour: object = None) -> bytes:
    return encoded(Image.new(mode, size, colour))


def png_header(width: int, height: int, bits: int = 8, colour_type: int = 2) -> bytes:
    """Return a PNG that announces any size but holds next to no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def refused(path: Path, call: Callable[[], object]) -> str:
    """Check that ``call`` raises one UserError that names ``path``; return its message."""
    with pytest.raises(UserError) as caught:
        call()
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """digits/mnistm of a data root with three good pictures, one list of which is to be spoilt."""
    folder = tmp_path / "root/digits/mnistm"
    (folder / "data").mkdir(parents=True)
    for name, label in ROWS:
        (folder / "data" / name).write_bytes(png(colour=(label, 1, 2)))
    (folder / "train.csv").write_text("image_name,label\n" + "".join(f"{name},{label}\n" for name, label in ROWS))
    return folder


def load(domain: Path) -> tuple[torch.Tensor, torch.Tensor]:
    return load_digits(domain.parents[1], "mnistm", "train")


GOOD_LISTS = {
    "plain": b"image_name,label\n00000.png,3\n00001.png,0\n00002.png,9\n",
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
    assert labels.tolist() == [label for _, label in ROWS]
    assert images[:, 0, 0, 0].tolist() == [label for _, label in ROWS]


def test_lists_need_no_order_and_may_leave_pictures_out(domain: Path) -> None:
    (domain / "train.csv").write_text("image_name,label\n00002.png,9\n00000.png,3\n")
    images, labels = load(domain)
    assert labels.tolist() == images[:, 0, 0, 0].tolist() == [9, 3]


BAD_LISTS = {
    "empty": (b"", "lists no picture"),
    "header only": (b"image_name,label\n", "lists no picture"),
    "no header": (b"00000.png,3\n00001.png,0\n", "header must be image_name,label"),
    "other separator": (b"image_name;label\n00000.png;3\n", "header must be image_name,label"),
    "label 10": (b"image_name,label\n00000.png,3\n00001.png,10\n", "line 3"),
    "label in other digits": ("image_name,label\n00000.png,\u0663\n".encode(), "line 2"),
    "label missing": (b"image_name,label\n\n\n00000.png\n", "line 4: no label"),
    "label empty": (b"image_name,label\n00000.png,\n00001.png,3\n", "line 2: no label (1 of 2"),
    "no labels": (b"image_name\n00000.png\n00001.png\n", "line 2: no label (2 of 2"),
    "name empty": (b"image_name,label\n,3\n", "line 2"),
    "name twice": (b"image_name,label\n00000.png,3\n00000.png,4\n", "line 3: 00000.png is listed on line 2"),
    "up": (b"image_name,label\n../../../secret.png,3\n", "not a plain file name"),
    "up only": (b"image_name,label\n..,3\n", "not a plain file name"),
    "absolute": (b"image_name,label\n/etc/passwd,3\n", "not a plain file name"),
    "backslash": (b"image_name,label\n..\\secret.png,3\n", "not a plain file name"),
    "zero byte": (b"image_name,label\n0000\x000.png,3\n", "train.csv"),
    "not listed in data": (b"image_name,label\n00007.png,3\n", "data/00007.png: no such picture"),
    "very long name": (b"image_name,label\n" + b"a" * 5000 + b".png,3\n", "no such picture"),
    "open quote": (b'image_name,label\n"00000.png,3\n00001.png,0\n', "not a CSV file"),
    "huge field": (b"image_name,label\n" + b"a" * 200_000 + b",3\n", "not a CSV file"),
    "UTF-16": ("image_name,label\n00000.png,3\n".encode("utf-16"), "not UTF-8"),
    "Latin-1": (b"image_name,label\nd\xe9j\xe0.png,3\n", "not UTF-8"),
}


@pytest.mark.parametrize("form", BAD_LISTS)
def test_lists_that_cannot_be_meant_are_refused(domain: Path, form: str) -> None:
    content, reason = BAD_LISTS[form]
    (domain / "train.csv").write_bytes(content)
    assert reason in refused(domain, lambda: load(domain))


@FUZZ
@given(content=st.binary(max_size=300))
def test_any_bytes_as_a_list(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    for read in (read_names, read_names_and_labels):
        refused(path, lambda read=read: read(path))


@FUZZ
@given(
    text=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(["00000.png", "../x", "/x", "", '"', "a\nb"]), st.text(max_size=8)),
            st.one_of(st.sampled_from("0123456789"), st.text(max_size=3)),
        ),
        min_size=1,
        max_size=5,
    ),
    newline=st.sampled_from(["\n", "\r\n", "\r", "\u2028"]),
)
def test_any_rows_in_a_list(tmp_path: Path, text: list[tuple[str, str]], newline: str) -> None:
    path = tmp_path / "train.csv"
    rows = [("image_name", "label"), *text]
    path.write_bytes(newline.join(f"{name},{label}" for name, label in rows).encode("utf-8", "surrogatepass"))
    try:
        names, labels = read_names_and_labels(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert len(names) == len(set(names)) == len(labels) > 0
    assert set(labels) <= set(range(10))
    assert not any("/" in name or "\\" in name or "\0" in name or name in ("", ".", "..") for name in names)


BAD_PICTURES = {
    "empty": (b"", "not a PNG or JPEG"),
    "truncated": (png(colour=(1, 2, 3))[:60], "damaged"),
    "header only": (png()[:33], "not a PNG or JPEG"),
    "too large": (png((32, 32)), "32x32 pixels, expected 28x28"),
    "too small": (png((1, 1)), "1x1 pixels, expected 28x28"),
    "grey": (png(mode="L"), "mode L"),
    "transparent": (png(mode="RGBA"), "mode RGBA"),
    "16 bits": (png(mode="I;16"), "mode I;16"),
    "bomb": (png_header(60_000, 60_000), "bomb"),
    "no pixels": (png_header(28, 28), "damaged"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n", "not a PNG or JPEG"),
}


@pytest.mark.parametrize("form", BAD_PICTURES)
def test_bad_pictures_are_refused_by_name(domain: Path, form: str) -> None:
    content, reason = BAD_PICTURES[form]
    path = domain / "data/00001.png"
    path.write_bytes(content)
    assert reason in refused(path, lambda: load(domain))
    assert not (domain / ".cache").exists(), "a failed load must leave no cache"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"image_name,label\n00000.png,3\n00001.png,0\n", True),
        (b"image_name,label\n00000.png,3\n00001.png,\n", False),
        (b"image_name\n00000.png\n00001.png\n", False),
        (None, False),
    ],
)
def test_pictures_need_no_labels_and_the_lack_is_told(domain: Path, content: bytes | None, expected: bool) -> None:
    root = domain.parents[1]
    (domain / "train.csv").unlink()
    if content is not None:
        (domain / "train.csv").write_bytes(content)
        assert load_digit_images(root, "mnistm", "train")[:, 0, 0, 0].tolist() == [3, 0]
    assert has_labels(root, "mnistm", "train") == expected


def test_any_folder_of_digits_is_a_domain(domain: Path) -> None:
    root = domain.parents[1]
    shutil.copytree(domain, root / "digits/receipts")
    for name in (".svhn.partial/data", "empty"):
        (root / "digits" / name).mkdir(parents=True)
    assert digit_domains(root) == ["mnistm", "receipts"]
    assert [domain_title(name) for name in digit_domains(root)] == ["MNIST-M", "receipts"]
    for name, _ in ROWS:
        (root / "digits/receipts/data" / name).write_bytes(png(mode="L", colour=7))
    images = load_digit_images(root, "receipts", "train")
    assert images.shape == (3, 3, 28, 28), "grey or coloured, as its first picture is"
    (root / "digits/receipts/data/00002.png").write_bytes(png())
    assert "grey (L) is expected" in refused(
        root / "digits/receipts/data/00002.png", lambda: load_digit_images(root, "receipts", "train")
    )


@FUZZ
@given(data=st.data())
def test_any_damage_to_a_picture(tmp_path: Path, data: st.DataObject) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(28, 28, 3), dtype=np.uint8)
    content = bytearray(encoded(pixels, data.draw(st.sampled_from(["PNG", "JPEG"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["byte", "cut", "insert", "zeros"])):
            case "byte":
                content[position] = data.draw(st.integers(0, 255))
            case "cut":
                del content[max(position, 1) :]
            case "insert":
                content[position:position] = data.draw(st.binary(max_size=8))
            case "zeros":
                content[position : position + 16] = bytes(len(content[position : position + 16]))
    path = tmp_path / "x.png"
    path.write_bytes(content)
    try:
        decoded = read_image(path, 28, "RGB")
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert decoded.shape == (28, 28, 3)
        assert decoded.dtype == np.uint8


@FUZZ
@given(content=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]))
def test_any_bytes_as_a_picture(tmp_path: Path, content: bytes, prefix: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(prefix + content)
    refused(path, lambda: read_image(path, 28))


@FUZZ
@given(
    width=st.integers(0, 2**32 - 1),
    height=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    colour_type=st.sampled_from([0, 2, 3, 4, 6]),
)
def test_any_announced_size(tmp_path: Path, width: int, height: int, bits: int, colour_type: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_header(width, height, bits, colour_type))
    refused(path, lambda: read_image(path, 28))


def test_links_to_files_are_followed_wherever_they_lead(domain: Path, tmp_path: Path) -> None:
    """Data sets of DVC and of Hugging Face's cache are links; the user named the data root."""
    store = tmp_path / "store"
    store.mkdir()
    for path in (*(domain / "data").iterdir(), domain / "train.csv"):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    images, labels = load(domain)
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [3, 0, 9]
    (store / "00001.png").write_bytes(png(colour=(77, 1, 2)))
    assert load(domain)[0][:, 0, 0, 0].tolist() == [3, 77, 9], "the cache follows what the link leads to"


def test_links_that_lead_nowhere_are_refused(domain: Path) -> None:
    picture = domain / "data/00001.png"
    for target in ("nowhere.png", "00001.png"):  # the second is a link to itself
        picture.unlink()
        picture.symlink_to(target)
        refused(picture, lambda: load(domain))


def test_what_is_no_file_is_refused_without_waiting(domain: Path) -> None:
    picture, listed = domain / "data/00001.png", domain / "train.csv"
    picture.unlink()
    os.mkfifo(picture)
    assert "not a plain file" in refused(picture, lambda: load(domain))
    assert "not a plain file" in refused(picture, lambda: read_image(picture, 28))
    picture.unlink()
    picture.mkdir()
    assert "not a plain file" in refused(picture, lambda: load(domain))
    listed.unlink()
    os.mkfifo(listed)
    assert "not a plain file" in refused(listed, lambda: load(domain))
    (domain / "SOURCE").mkdir()
    assert dataset_name(domain.parents[1], "mnistm") == "mnistm (source unknown)"


def test_missing_folders_are_named(tmp_path: Path, domain: Path) -> None:
    assert "prepare.py" in refused(tmp_path / "none", lambda: load_digits(tmp_path / "none", "mnistm", "train"))
    assert "prepare.py" in refused(tmp_path / "none", lambda: load_faces(tmp_path / "none", "train"))
    root = domain.parents[1]
    refused(root / "digits/svhn", lambda: load_digits(root, "svhn", "train"))
    refused(domain / "val.csv", lambda: load_digits(root, "mnistm", "val"))
    refused(root / "face/train", lambda: load_faces(root, "train"))
    (root / "face/train").mkdir(parents=True)
    assert "holds no PNG" in refused(root / "face/train", lambda: load_faces(root, "train"))
    shutil.rmtree(domain / "data")
    refused(domain / "data", lambda: load(domain))


def test_hidden_companions_of_pictures_are_no_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "._b.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert list_images(tmp_path) == ["a.PNG", "b.png"]


def test_the_cache_is_used_and_follows_every_change(domain: Path, monkeypatch: Patch) -> None:
    decoded: list[str] = []

    def counting(path: Path, *arguments: object) -> np.ndarray:
        decoded.append(path.name)
        return read_image(path, *arguments)

    monkeypatch.setattr(common.cache, "read_image", counting)
    first = load(domain)[0]
    assert decoded
    decoded.clear()
    assert torch.equal(load(domain)[0], first)
    assert not decoded, "the second load decodes nothing"

    picture = domain / "data/00001.png"
    before = picture.stat()
    content = png(colour=(77, 1, 2))
    assert len(content) == before.st_size
    picture.write_bytes(content)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of modification
    assert load(domain)[0][:, 0, 0, 0].tolist() == [3, 77, 9]

    (domain / "train.csv").write_text("image_name,label\n00002.png,9\n00001.png,0\n")
    assert load(domain)[0][:, 0, 0, 0].tolist() == [9, 77]
    (domain / "data/00002.png").unlink()
    refused(domain / "data/00002.png", lambda: load(domain))


@FUZZ
@given(position=st.integers(0, 10_000), cut=st.booleans())
def test_a_damaged_cache_header_or_length_is_rebuilt(tmp_path: Path, position: int, cut: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(png((4, 4), colour=(5, 6, 7)))
    expected = load_images(folder, ["a.png"], 4)
    (cache,) = (tmp_path / ".cache").glob("*.safetensors")
    content = bytearray(cache.read_bytes())
    header_length = len(content) - expected.numel()
    if cut:
        del content[position % len(content) :]
    else:
        content[position % header_length] ^= 0xFF
    cache.write_bytes(content)
    assert torch.equal(load_images(folder, ["a.png"], 4), expected)


def test_a_folder_that_cannot_hold_a_cache_is_no_error(domain: Path) -> None:
    (domain / ".cache").write_text("a file where the cache's folder would be")
    with pytest.warns(UserWarning, match="decoded at every start"):
        assert load(domain)[0].shape == (3, 3, 28, 28)
