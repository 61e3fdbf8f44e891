"""Data preparation: the sample set, every public format in miniature, the course's data, kills and refusals."""

from __future__ import annotations

import bz2
import gzip
import itertools
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import common.data
from common import ROOT, usable_cores
from common.cli import UserError
from common.data import dataset_name, load_digits
from data.custom import split_faces
from data.layout import PARTS, make_parts, part_folder, split_order
from data.mnistm import blend
from data.public import Downloads, make_public
from data.synthetic import _digits, make_sample
from p1_gan.dataset import load_faces
from tests.conftest import TINY_COUNTS, Capture, Patch, contents, encoded, write_files
from tests.in_process import call, error_of

import numpy as np
import pytest
from scipy.io import savemat

PREPARE = "data/prepare.py"
MNIST_COUNTS, USPS_COUNTS, SVHN_COUNTS = (60, 15), (40, 10), (30, 20)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of downloads in the public sets' own formats, a few dozen images each."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for folder in ("mnist", "usps", "svhn"):
        (raw / folder).mkdir()
    for split, count in zip(("train", "t10k"), MNIST_COUNTS, strict=True):
        write_idx(raw / f"mnist/{split}-images-idx3-ubyte.gz", rng.integers(256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"mnist/{split}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    for name, count in zip(("usps", "usps.t"), USPS_COUNTS, strict=True):
        lines = []
        for number in range(count):
            # A constant image whose value tells its label: label 0 is black (-1), label 9 white (1).
            value = (number % 10) / 4.5 - 1
            lines.append(f"{number % 10 + 1} " + " ".join(f"{index}:{value:.6f}" for index in range(1, 257)))
        (raw / f"usps/{name}.bz2").write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
    for split, count in zip(("train", "test"), SVHN_COUNTS, strict=True):
        labels = np.arange(count) % 10 + 1  # SVHN writes 0 as 10
        pixels = np.broadcast_to(np.arange(count) * 5, (32, 32, 3, count)).astype(np.uint8)
        savemat(raw / f"svhn/{split}_32x32.mat", {"X": pixels, "y": labels[:, None].astype(np.uint8)})
    photographs = {f"BSDS500/data/images/train/{n}.jpg": rng.integers(256, size=(40, 50, 3)) for n in range(3)}
    photographs["bench/data/png/3063.jpg"] = np.zeros((4, 4, 3))  # a boundary map, too small to be blended
    write_files(raw / "BSDS500-images.tgz", {name: encoded(pixels, "JPEG") for name, pixels in photographs.items()})
    faces = {}
    for person in range(12):
        for number in range(1, 2 + person % 3):
            image = np.full((250, 250, 3), (250, 0, 0))
            image[53:197, 53:197] = (0, 20 * person, 128)  # the 144x144 that must remain
            faces[f"lfw_funneled/P_{person}/P_{person}_{number:04d}.jpg"] = encoded(image, "JPEG", quality=95)
    write_files(raw / "lfw-funneled.tgz", faces)
    return raw


def make(root: Path, raw: Path, part: str, faces: str = "auto", count: int = 100) -> None:
    downloads, rng = Downloads(raw, may_download=False), np.random.default_rng(0)
    make_parts(root, [part], lambda part, folder: make_public(part, folder, downloads, rng, faces, count))


@pytest.fixture(scope="module")
def public_root(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    assert call(PREPARE, "public", "--raw", raw, "--no-download", "--data-root", root) == 0
    return root


@pytest.mark.parametrize(
    ("count", "expected"),
    [(70000, (44800, 11200, 14000)), (99289, (63544, 15887, 19858)), (9298, (5950, 1488, 1860))],
)
def test_splits_have_the_counts_of_the_original_data(count: int, expected: tuple[int, ...]) -> None:
    splits = split_order(np.random.default_rng(0).permutation(count))
    assert tuple(map(len, splits)) == expected
    assert len(np.unique(np.concatenate(splits))) == count
    assert np.array_equal(np.concatenate(split_order(np.arange(count))), np.arange(count))


def test_blend_is_the_absolute_difference_and_reaches_every_patch() -> None:
    digits = np.arange(256, dtype=np.uint8).repeat(4).reshape(256, 2, 2)
    photograph = np.broadcast_to(np.array([10, 200, 255], dtype=np.uint8), (5, 9, 3))
    blended = blend(digits, [photograph], np.random.default_rng(0))
    assert np.array_equal(blended, np.abs(np.array([10, 200, 255]) - digits[..., None].astype(int)))

    # A photograph of 4x3 has 3x2 patches of 2x2; its pixels number them.
    photograph = np.arange(12, dtype=np.uint8).reshape(4, 3, 1).repeat(3, axis=2)
    blended = blend(np.zeros((300, 2, 2), dtype=np.uint8), [photograph], np.random.default_rng(0))
    assert set(blended[:, 0, 0, 0].tolist()) == {0, 1, 3, 4, 6, 7}


def test_pixels_belong_to_their_labels(public_root: Path) -> None:
    splits = ("train", "val", "test")
    for split in splits:
        images, labels = load_digits(public_root, "usps", split)
        assert np.allclose(images.float().mean(dim=(1, 2, 3)), labels * 255 / 9, atol=0.51)
    svhn = [load_digits(public_root, "svhn", split) for split in splits]  # in its own order; 10 means 0
    values = [int(image[0, 0, 0]) for images, _ in svhn for image in images]
    assert values == [5 * number for count in SVHN_COUNTS for number in range(count)]
    labels = [int(label) for _, labels in svhn for label in labels]
    assert labels == [(number + 1) % 10 for count in SVHN_COUNTS for number in range(count)]


def test_public_faces_are_cropped_and_split_by_person(public_root: Path) -> None:
    train, val = load_faces(public_root, "train"), load_faces(public_root, "val")
    assert (len(train), len(val)) == (20, 4)
    assert train[:, 0, 1:-1, 1:-1].max() < 60, "the red frame outside the crop is visible"
    people = [{int((face[1].float().mean() / 20).round()) for face in split} for split in (train, val)]
    assert people[0] | people[1] == set(range(12))
    assert not people[0] & people[1]


def test_partial_sets_are_named_as_such(public_root: Path) -> None:
    assert dataset_name(public_root, "svhn") == "SVHN (50 of 99,289 digits)"
    assert dataset_name(public_root, "usps") == "USPS (50 of 9,298 digits)"


def test_same_seed_same_bytes_whatever_the_threads(
    public_root: Path, data_root: Path, raw: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(common.data, "usable_cores", lambda: 1 if usable_cores() > 1 else 2)
    options = ("--raw", raw, "--no-download")
    assert call(PREPARE, "public", *options, "--data-root", tmp_path / "same") == 0
    assert contents(tmp_path / "same") == contents(public_root)
    other = ("--parts", "usps", "--seed", 2**64 - 1, "--data-root", tmp_path / "other")
    assert call(PREPARE, "public", *options, *other) == 0
    csv = "digits/usps/train.csv"
    assert (tmp_path / "other" / csv).read_bytes() != (public_root / csv).read_bytes()
    make_parts(tmp_path / "sample", PARTS, partial(make_sample, seed=0, counts=TINY_COUNTS))
    assert contents(tmp_path / "sample") == contents(data_root)


def test_faces_fill_val_exactly_and_keep_people_apart() -> None:
    names = [f"{person}/{number}" for person in range(3000) for number in range(1 + person % 7)]
    train, val = split_faces(names, np.random.default_rng(0), lambda name: name.split("/")[0])
    assert len(val) == 2025
    assert len(train) + len(val) == len(names)
    assert not {name.split("/")[0] for name in train} & {name.split("/")[0] for name in val}


@pytest.mark.parametrize("people", [["a"] * 2, ["a"] * 20, ["a"] * 9 + ["b"], list("abc"), ["a", "b"] * 500])
def test_no_split_of_faces_is_empty(people: list[str]) -> None:
    of = {f"{number:03d}": person for number, person in enumerate(people)}
    for seed in range(20):
        train, val = split_faces(of, np.random.default_rng(seed), of.__getitem__)
        assert sorted(train + val) == sorted(of)
        assert train and 0 < len(val) <= len(train)
        assert len(set(people)) == 1 or not {of[name] for name in train} & {of[name] for name in val}


def test_ready_made_mnistm_archive(tmp_path: Path) -> None:
    files = {}
    for split, count in (("test", 5), ("train", 20)):
        labels = [f"{number:08d}.png {number % 10}\n" for number in reversed(range(count))]
        files[f"mnist_m/mnist_m_{split}_labels.txt"] = "".join(labels).encode()
        for number in range(count):
            color = np.full((32, 32, 3), (20 * (number % 10), 100 * (split == "test"), 7))
            files[f"mnist_m/mnist_m_{split}/{number:08d}.png"] = encoded(color)
            files[f"mnist_m/mnist_m_{split}/._{number:08d}.png"] = b"resource fork of a Mac"
    write_files(tmp_path / "mnist_m.tar.gz", files)
    make(tmp_path / "root", tmp_path, "mnistm")
    for split in ("train", "val", "test"):
        images, labels = load_digits(tmp_path / "root", "mnistm", split)
        assert np.array_equal(images[:, 0, 5, 5], labels * 20)


@pytest.mark.parametrize(("path", "top"), [("lfw-funneled.tgz", "lfw_funneled/"), ("lfw_funneled", "")])
def test_lfw_is_found_where_scikit_learn_keeps_it(tmp_path: Path, path: str, top: str) -> None:
    image = encoded(np.full((250, 250, 3), 100), "JPEG")
    files = {f"{top}P_{person}/P_{person}_0001.jpg": image for person in range(6)}
    hidden = {f"{top}P_1/._P_1_0001.jpg": b"resource fork", "__MACOSX/x.jpg": b"x"}
    write_files(tmp_path / "raw/lfw_home" / path, files | hidden)
    make(tmp_path / "root", tmp_path / "raw", "face")
    assert [len(load_faces(tmp_path / "root", split)) for split in ("train", "val")] == [5, 1]
    assert dataset_name(tmp_path / "root", "face") == "LFW (funneled, center crop 144)"


@pytest.mark.parametrize("form", ["folder", "zip", "zip without identities"])
def test_celeba_is_cropped_to_the_center_178_and_split_by_identity(tmp_path: Path, form: str) -> None:
    files, raw = {}, tmp_path / "raw/CelebA"
    for number in range(20):
        pixels = np.full((218, 178, 3), (250, 0, 0))
        pixels[20:198] = (0, 0, 10 * (number % 4))
        files[f"img_align_celeba/{number:06d}.jpg"] = encoded(pixels, "JPEG", quality=95)
    identities = {"identity_CelebA.txt": "".join(f"{n:06d}.jpg {n % 4}\n" for n in range(20)).encode()}
    if form == "folder":
        write_files(raw, files | identities)
    else:  # as its authors lay it out
        write_files(raw / "Img/img_align_celeba.zip", files | {"__MACOSX/img_align_celeba/._000001.jpg": b"x"})
    if form == "zip":
        write_files(raw / "Anno", identities)
    make(tmp_path / "root", raw.parent, "face", count=19)
    train, val = (load_faces(tmp_path / "root", split) for split in ("train", "val"))
    assert len(train) + len(val) == 19
    assert train[:, 0, 1:-1].max() < 60
    people = [{round(float(face[2].float().mean()) / 10) for face in split} for split in (train, val)]
    assert not people[0] & people[1] or form == "zip without identities"


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("mnist/train-images-idx3-ubyte.gz", "mnistm"),
        ("BSDS500-images.tgz", "mnistm"),
        ("svhn/test_32x32.mat", "svhn"),
        ("usps/usps.bz2", "usps"),
        ("lfw-funneled.tgz", "face"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise", "empty"])
def test_missing_and_damaged_downloads_are_named(raw: Path, tmp_path: Path, file: str, part: str, damage: str) -> None:
    own = tmp_path / "raw"
    shutil.copytree(raw, own)
    content = (own / file).read_bytes()
    (own / file).unlink()
    damaged = {"truncated": content[: len(content) // 2], "noise": bytes(1000), "empty": b""}
    if damage in damaged:
        (own / file).write_bytes(damaged[damage])
    with pytest.raises(UserError) as caught:
        make(tmp_path / "root", own, part, faces="lfw")
    # Of a set that has several names, the message about a missing file tells the one that can be downloaded.
    downloaded = {"BSDS500-images.tgz": "BSR_bsds500.tgz"}
    assert (downloaded.get(file, Path(file).name) if damage == "missing" else Path(file).name) in str(caught.value)
    assert ("://" in str(caught.value)) == (damage == "missing"), "where to get it is said of missing files"
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()], "something half-made was left"


def test_what_can_be_made_is_made_and_the_rest_is_named(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(raw / "usps", tmp_path / "raw/USPS")
    (tmp_path / "raw/USPS/usps").write_bytes(bz2.decompress((tmp_path / "raw/USPS/usps.bz2").read_bytes()))
    (tmp_path / "raw/USPS/usps.bz2").unlink()
    options = ("--raw", tmp_path / "raw", "--no-download", "--parts", "face", "usps", "svhn")
    assert call(PREPARE, "public", *options, "--data-root", tmp_path / "root") == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert "face not made" in line and "svhn not made" in line and "usps not made" not in line
    assert len(load_digits(tmp_path / "root", "usps", "train")[1]) == 32


def test_killed_preparation_leaves_no_part_and_no_process(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / PREPARE), "sample", "--parts", "usps", "--data-root", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not any(tmp_path.glob("digits/.usps+*/data/*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.read()  # ends only when no worker holds it open any more
    assert not (tmp_path / "digits/usps").exists()
    assert call(PREPARE, "public", "--raw", raw, "--parts", "usps", "--data-root", tmp_path) == 0
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["usps"]


def fill(text: str, part: str, folder: Path) -> str:
    (folder / "train.csv").write_text(text)
    return text


def test_an_interrupt_or_an_error_leaves_no_part(tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupted(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with pytest.raises(ZeroDivisionError):
        make_parts(tmp_path, ["usps"], lambda *_: 1 / 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", interrupted)
        make_parts(tmp_path, ["usps"], partial(fill, "new"))
    assert not list((tmp_path / "digits").iterdir())


def test_a_part_that_another_takes_over_is_never_published(tmp_path: Path) -> None:
    started = threading.Event()

    def slow(_part: str, folder: Path) -> str:
        for number in range(2000):
            (folder / f"{number}.csv").write_text("first")
            if number == 100:
                started.set()
        return "first"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(make_parts, tmp_path, ["usps"], slow)
        started.wait()
        make_parts(tmp_path, ["usps"], partial(fill, "second"))
        assert isinstance(first.exception(), FileNotFoundError)
    assert set(contents(tmp_path).values()) == {b"second", b"second\n"}


def test_two_at_once_leave_one_whole_part(tmp_path: Path) -> None:
    def interrupted_by_another(part: str, folder: Path) -> str:
        make_parts(tmp_path, ["usps"], partial(fill, "second"))
        return fill("first", part, folder)

    with pytest.raises(FileNotFoundError):
        make_parts(tmp_path, ["usps"], interrupted_by_another)
    assert set(contents(tmp_path).values()) == {b"second", b"second\n"}
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["usps"]


def test_command_completes_what_is_missing_and_refuses_to_overwrite(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    usps = tmp_path / "root/digits/usps"
    options = ("--raw", raw, "--no-download", "--data-root", tmp_path / "root", "--parts", "usps")
    assert call(PREPARE, "public", *options) == 0
    old = contents(usps)
    options = (*options, "svhn", "--seed", 1)
    assert call(PREPARE, "public", *options) == 0
    assert "already made" in error_of(capsys, PREPARE, "public", *options)
    assert contents(usps) == old
    assert sorted(path.name for path in usps.parent.iterdir()) == ["svhn", "usps"]


def test_sample_handwriting_never_serves_two_splits() -> None:
    counts, seen = (900, 300, 300), []
    for part in ("mnistm", "usps"):
        glyphs, labels = _digits(part, counts, np.random.default_rng(0))
        assert len(glyphs) == len(labels) == sum(counts)
        bounds = np.cumsum((0, *counts))
        seen.append([{glyph.tobytes() for glyph in glyphs[a:b]} for a, b in itertools.pairwise(bounds)])
    for own, other in itertools.product(seen, seen):
        assert not own[0] & other[1] and not own[0] & other[2] and not own[1] & other[2]


def test_sample_follows_the_layout(data_root: Path) -> None:
    for part in ("mnistm", "svhn", "usps"):
        assert dataset_name(data_root, part).endswith("(sample)")
        images, labels = load_digits(data_root, part, "train")
        assert images.shape == (96, 3, 28, 28)
        assert set(labels.tolist()) == set(range(10))
        assert bool((images == images[:, :1]).all()) == (part == "usps"), "usps alone is grayscale"


@pytest.fixture
def course(data_root: Path, tmp_path: Path) -> Path:
    """A folder as the course hands it out: no SOURCE files, no test labels."""
    folder = tmp_path / "course/hw2_data"
    shutil.copytree(data_root, folder, ignore=shutil.ignore_patterns("SOURCE", ".*", "test.csv"))
    return folder


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_course_data_arrives(course: Path, data_root: Path, tmp_path: Path, form: str) -> None:
    source, root = course.parent, tmp_path / "root"
    (source / "__MACOSX").mkdir()
    (course / "face/train/._00000.png").write_bytes(b"resource fork of a Mac")
    if form != "folder":
        files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        if form == "zip":  # of an old Windows tool
            files = {name.replace("/", "\\"): content for name, content in files.items()}
        source = write_files(tmp_path / f"packed.{form}", files)
    else:  # of DVC or of Hugging Face's cache, whose files are links
        for number, path in enumerate(sorted((course / "digits/svhn/data").iterdir())):
            path.rename(tmp_path / f"blob{number}")
            path.symlink_to(tmp_path / f"blob{number}")
    assert call(PREPARE, "course", source, "--data-root", root) == 0
    for part in PARTS:
        names = ("train", "val") if part == "face" else ("data", "train.csv", "val.csv")
        for name in names:
            made, original = (part_folder(top, part) / name for top in (root, data_root))
            same = contents(made) == contents(original) if made.is_dir() else made.read_text() == original.read_text()
            assert same, made
    assert dataset_name(root, "face") == "CelebA (course)"
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert sorted(path.name for path in root.iterdir()) == ["digits", "face"]


def test_course_data_are_never_replaced(course: Path, tmp_path: Path, capsys: Capture) -> None:
    before = contents(course)
    assert "--data-root" in error_of(capsys, PREPARE, "course", course, "--data-root", course)
    assert contents(course) == before
    write_files(tmp_path / "other.zip", {"images/a.png": b"x"})
    assert "other.zip" in error_of(capsys, PREPARE, "course", tmp_path / "other.zip", "--data-root", tmp_path / "made")


def test_an_archive_cannot_write_outside(tmp_path: Path, capsys: Capture) -> None:
    names = ("../../../escaped.txt", "face/train/../../../../escaped.txt", "/face/train/00000.png", "face/train/a.txt")
    hostile = write_files(tmp_path / "hostile.zip", dict.fromkeys(names, b"x"))
    root = tmp_path / "a/b/c"
    assert call(PREPARE, "course", hostile, "--parts", "face", "--data-root", root) == 2
    assert not list(tmp_path.rglob("escaped.txt")) and not list(tmp_path.rglob("*.png"))
