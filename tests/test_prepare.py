"""Data preparation: every public format in miniature, and the sample set."""

from __future__ import annotations

import bz2
import gzip
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from common.dataset import dataset_name, load_digits, load_faces, read_names_and_labels
from common.errors import UserError
from common.paths import ROOT
from common.threads import for_each
from data.layout import PARTS, building, split_contiguous, split_faces, split_shuffled
from data.mnistm import blend
from data.public import Downloads, make_public, set_name
from data.raw import read_svhn
from data.sample import _digits
from tests.conftest import Capture, contents, encoded, write_files
from tests.in_process import call, error_of

MNIST_COUNTS, USPS_COUNTS, SVHN_COUNTS = (60, 15), (40, 10), (30, 20)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of downloads in the public sets' own formats, a few dozen pictures each."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for folder in ("mnist", "usps", "svhn"):
        (raw / folder).mkdir()
    for split, count in zip(("train", "t10k"), MNIST_COUNTS, strict=True):
        write_idx(raw / f"mnist/{split}-images-idx3-ubyte.gz", rng.integers(256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"mnist/{split}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    for name, count in zip(("usps", "usps.t"), USPS_COUNTS, strict=True):
        lines = []
        for number in range(count):
            # A constant picture whose value tells its label: label 0 is black (-1), label 9 white (1).
            value = (number % 10) / 4.5 - 1
            lines.append(f"{number % 10 + 1} " + " ".join(f"{index}:{value:.6f}" for index in range(1, 257)))
        (raw / f"usps/{name}.bz2").write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
    for split, count in zip(("train", "test"), SVHN_COUNTS, strict=True):
        labels = np.arange(count) % 10 + 1  # SVHN writes 0 as 10
        pixels = np.broadcast_to(np.arange(count) * 5, (32, 32, 3, count)).astype(np.uint8)
        savemat(raw / f"svhn/{split}_32x32.mat", {"X": pixels, "y": labels[:, None].astype(np.uint8)})
    photographs = {f"BSDS500/data/images/train/{n}.jpg": rng.integers(256, size=(40, 50, 3)) for n in range(3)}
    write_files(raw / "BSDS500-images.tgz", {name: encoded(pixels, "JPEG") for name, pixels in photographs.items()})
    faces = {}
    for person in range(12):
        for number in range(1, 2 + person % 3):
            picture = np.full((250, 250, 3), (250, 0, 0))
            picture[53:197, 53:197] = (0, 20 * person, 128)  # the 144x144 that must remain
            faces[f"lfw-deepfunneled/P_{person}/P_{person}_{number:04d}.jpg"] = encoded(picture, "JPEG", quality=95)
    write_files(raw / "lfw-deepfunneled.tgz", faces)
    return raw


@pytest.fixture(scope="module")
def public_root(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    make_public(root, Downloads(raw, may_download=False), PARTS, seed=3, workers=2)
    return root


@pytest.mark.parametrize(
    ("count", "expected"),
    [(70000, (44800, 11200, 14000)), (99289, (63544, 15887, 19858)), (9298, (5950, 1488, 1860))],
)
def test_splits_have_the_counts_of_the_original_data(count: int, expected: tuple[int, ...]) -> None:
    splits = split_shuffled(count, np.random.default_rng(0))
    assert tuple(map(len, splits)) == expected
    assert len(np.unique(np.concatenate(splits))) == count
    contiguous = split_contiguous(count)
    assert np.array_equal(np.concatenate(contiguous), np.arange(count))


def test_blend_is_the_absolute_difference_and_reaches_every_patch() -> None:
    digits = np.arange(256, dtype=np.uint8).repeat(4).reshape(256, 2, 2)
    photograph = np.broadcast_to(np.array([10, 200, 255], dtype=np.uint8), (5, 9, 3))
    blended = blend(digits, [photograph], np.random.default_rng(0))
    expected = np.abs(np.array([10, 200, 255]) - digits[..., None].astype(int))
    assert np.array_equal(blended, expected)

    # A photograph of 4x3 has 3x2 patches of 2x2; its pixels number them.
    photograph = np.arange(12, dtype=np.uint8).reshape(4, 3, 1).repeat(3, axis=2)
    blended = blend(np.zeros((300, 2, 2), dtype=np.uint8), [photograph], np.random.default_rng(0))
    assert set(blended[:, 0, 0, 0].tolist()) == {0, 1, 3, 4, 6, 7}


@pytest.mark.parametrize(("part", "count"), [("mnistm", 75), ("svhn", 50), ("usps", 50)])
def test_public_digits_follow_the_layout(public_root: Path, part: str, count: int) -> None:
    lists = [read_names_and_labels(public_root / f"digits/{part}/{split}.csv") for split in ("train", "val", "test")]
    names = [name for split, _ in lists for name in split]
    assert len(names) == len(set(names)) == count == len(os.listdir(public_root / f"digits/{part}/data"))
    assert [len(split) for split, _ in lists] == [round(count * share) for share in (0.64, 0.16, 0.2)]
    images, labels = load_digits(public_root, part, "train")
    assert images.shape == (len(labels), 3, 28, 28)


def test_public_usps_values_belong_to_their_labels(public_root: Path) -> None:
    for split in ("train", "val", "test"):
        images, labels = load_digits(public_root, "usps", split)
        assert np.allclose(images.float().mean(dim=(1, 2, 3)), labels * 255 / 9, atol=0.51)


def test_public_svhn_keeps_its_order_and_reads_10_as_0(public_root: Path) -> None:
    train, val, test = (load_digits(public_root, "svhn", split) for split in ("train", "val", "test"))
    values = [int(image[0, 0, 0]) for split in (train, val, test) for image in split[0]]
    assert values == [5 * number for count in SVHN_COUNTS for number in range(count)]
    labels = [int(label) for split in (train, val, test) for label in split[1]]
    assert labels == [(number + 1) % 10 for count in SVHN_COUNTS for number in range(count)]


def test_public_faces_are_cropped_and_split_by_person(public_root: Path) -> None:
    train, val = load_faces(public_root, "train"), load_faces(public_root, "val")
    assert (len(train), len(val)) == (20, 4)
    assert train[:, 0, 1:-1, 1:-1].max() < 60, "the red frame outside the crop is visible"
    people = [{int((face[1].float().mean() / 20).round()) for face in split} for split in (train, val)]
    assert people[0] | people[1] == set(range(12))
    assert not people[0] & people[1]


def test_sources_are_named_honestly(public_root: Path) -> None:
    assert dataset_name(public_root, "mnistm") == "MNIST-M (MNIST over BSDS500 crops, Ganin et al. recipe)"
    assert dataset_name(public_root, "svhn") == "SVHN (50 of 99,289 digits)"
    assert dataset_name(public_root, "usps") == "USPS (50 of 9,298 digits)"
    assert dataset_name(public_root, "face") == "LFW (deep-funneled, centre crop 144)"
    assert set_name("SVHN", (73257, 26032), (73257, 26032)) == "SVHN"


def test_same_seed_same_bytes_whatever_the_workers(public_root: Path, raw: Path, tmp_path: Path) -> None:
    make_public(tmp_path / "same", Downloads(raw, False), PARTS, seed=3, workers=1)
    assert contents(tmp_path / "same") == contents(public_root)
    make_public(tmp_path / "other", Downloads(raw, False), ["usps"], seed=4, workers=1)
    csv = "digits/usps/train.csv"
    assert (tmp_path / "other" / csv).read_bytes() != (public_root / csv).read_bytes()


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
        train, val = split_faces(of, np.random.default_rng(seed), of.get)
        assert sorted(train + val) == sorted(of)
        assert train and val
        assert len(val) <= len(train)
        assert len(set(people)) == 1 or not {of[name] for name in train} & {of[name] for name in val}


def test_ready_made_mnistm_archive(tmp_path: Path) -> None:
    files = {}
    for split, count in (("test", 5), ("train", 20)):
        labels = [f"{number:08d}.png {number % 10}\n" for number in reversed(range(count))]
        files[f"mnist_m/mnist_m_{split}_labels.txt"] = "".join(labels).encode()
        for number in range(count):
            colour = np.full((32, 32, 3), (20 * (number % 10), 100 * (split == "test"), 7))
            files[f"mnist_m/mnist_m_{split}/{number:08d}.png"] = encoded(colour)
    write_files(tmp_path / "mnist_m.tar.gz", files)
    make_public(tmp_path / "root", Downloads(tmp_path, False), ["mnistm"], seed=0, workers=1)
    for split in ("train", "val", "test"):
        images, labels = load_digits(tmp_path / "root", "mnistm", split)
        assert np.array_equal(images[:, 0, 5, 5], labels * 20)
    assert dataset_name(tmp_path / "root", "mnistm") == "MNIST-M (public archive)"


def test_a_pickle_of_mnistm_is_never_opened(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    own = tmp_path / "raw"
    shutil.copytree(raw, own)
    (own / "keras_mnistm.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    make_public(tmp_path / "root", Downloads(own, False), ["mnistm"], seed=0, workers=1)
    assert "keras_mnistm.pkl: not read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("mnist/train-images-idx3-ubyte.gz", "mnistm"),
        ("mnist/t10k-labels-idx1-ubyte.gz", "mnistm"),
        ("BSDS500-images.tgz", "mnistm"),
        ("svhn/test_32x32.mat", "svhn"),
        ("usps/usps.bz2", "usps"),
        ("lfw-deepfunneled.tgz", "face"),
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
        make_public(tmp_path / "root", Downloads(own, False), [part], seed=0, faces="lfw", workers=1)
    # Of a set that has several names, the message about a missing file tells the one that can be downloaded.
    downloaded = {"BSDS500-images.tgz": "BSR_bsds500.tgz", "lfw-deepfunneled.tgz": "lfw-funneled.tgz"}
    assert (downloaded.get(file, file) if damage == "missing" else Path(file).name) in str(caught.value)
    assert ("://" in str(caught.value)) == (damage == "missing"), "where to get it is said of missing files"
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()], "something half-made was left"


def test_failed_part_leaves_the_old_one(tmp_path: Path) -> None:
    with building(tmp_path, "usps") as folder:
        (folder / "SOURCE").write_text("old")
    with pytest.raises(ZeroDivisionError), building(tmp_path, "usps") as folder:
        (folder / "SOURCE").write_text("new")
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["usps"]
    assert (tmp_path / "digits/usps/SOURCE").read_text() == "old"


def test_an_error_in_a_worker_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        for_each(Path.read_bytes, (tmp_path / str(number) for number in range(100)), 100, "failing", workers=2)


def test_damaged_matlab_files_never_end_the_process(raw: Path, tmp_path: Path) -> None:
    content, rng = (raw / "svhn/test_32x32.mat").read_bytes(), np.random.default_rng(0)
    path = tmp_path / "x.mat"
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(400, size=3):
            damaged[position] = rng.choice([0, 1, 14, 15, 128, 255])
        path.write_bytes(damaged)
        try:
            pixels, labels = read_svhn(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert pixels.shape[1:] == (32, 32, 3)
            assert set(labels) <= set(range(10))


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_wrote_them(tmp_path: Path, compressed: bool) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3, 3), dtype=np.uint8)
    path = tmp_path / "x.mat"
    savemat(path, {"X": pixels, "y": np.array([[1.0], [10.0], [7.0]]), "z": "text"}, do_compression=compressed)
    read, labels = read_svhn(path)
    assert np.array_equal(read, pixels.transpose(3, 0, 1, 2))
    assert labels.tolist() == [1, 0, 7]


def test_killed_preparation_leaves_no_part_and_no_process(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "data/prepare.py"), "sample", "--parts", "usps"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    partial = tmp_path / "hw2_data/digits/.usps.partial/data"
    while not (partial.is_dir() and any(partial.iterdir())):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.read()  # ends only when no worker holds it open any more
    assert not (tmp_path / "hw2_data/digits/usps").exists()
    options = ("--raw", raw, "--parts", "usps", "--data-root", tmp_path / "hw2_data")
    assert call("data/prepare.py", "public", *options) == 0
    assert [path.name for path in (tmp_path / "hw2_data/digits").iterdir()] == ["usps"]


def test_command_completes_what_is_missing_and_refuses_to_overwrite(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    usps = tmp_path / "root/digits/usps"
    make_public(tmp_path / "root", Downloads(raw, False), ["usps"], seed=0, workers=1)
    old = contents(usps)
    options = ("--raw", raw, "--no-download", "--data-root", tmp_path / "root", "--seed", 1, "--parts", "usps")
    assert call("data/prepare.py", "public", *options, "svhn") == 0
    assert "kept" in capsys.readouterr().out
    assert "--force" in error_of(capsys, "data/prepare.py", "public", *options, "svhn")
    assert contents(usps) == old
    assert call("data/prepare.py", "public", *options, "--force") == 0
    assert contents(usps) != old
    assert sorted(path.name for path in usps.parent.iterdir()) == ["svhn", "usps"]


def test_sample_handwriting_never_serves_two_splits() -> None:
    counts = (900, 300, 300)
    seen = []
    for part in ("mnistm", "usps"):
        glyphs, labels = _digits(part, counts, np.random.default_rng(0))
        assert len(glyphs) == len(labels) == sum(counts)
        bounds = np.cumsum((0, *counts))
        own = [{glyph.tobytes() for glyph in glyphs[a:b]} for a, b in itertools.pairwise(bounds)]
        seen.append(own)
    for own in seen:
        for other in seen:
            assert not own[0] & other[1]
            assert not own[0] & other[2]
            assert not own[1] & other[2]


def test_sample_follows_the_layout_and_says_what_it_is(data_root: Path) -> None:
    for part in PARTS:
        assert dataset_name(data_root, part).endswith("(sample)")
    for part in ("mnistm", "svhn", "usps"):
        images, labels = load_digits(data_root, part, "train")
        assert images.shape == (96, 3, 28, 28)
        assert set(labels.tolist()) == set(range(10))
        is_grey = bool((images == images[:, :1]).all())
        assert is_grey == (part == "usps")


def test_sample_faces_are_found_by_the_detector_of_the_task(data_root: Path) -> None:
    dlib = pytest.importorskip("dlib")
    detector = dlib.get_frontal_face_detector()
    faces = load_faces(data_root, "train").permute(0, 2, 3, 1).contiguous().numpy()
    found = [len(detector(face, 1)) == 1 for face in faces]
    assert np.mean(found) > 0.85
