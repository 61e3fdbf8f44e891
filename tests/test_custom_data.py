"""A user's own images: whatever Pillow reads becomes faces or digits, whatever it does not is named."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import ROOT
from common.cli import UserError
from common.data import dataset_name, load_digit_images, load_digits, read_csv
from data.custom import check_domain
from p1_gan.dataset import load_faces
from tests.conftest import Capture, Patch, contents, encoded, write_files
from tests.in_process import call, error_of

import numpy as np
import pytest
from PIL import Image

PREPARE = "data/prepare.py"


def photo(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    return encoded(Image.new("RGB", size, (number, 100, 200)))


def photos(count: int, name: str = "{:02d}.png") -> dict[str, bytes]:
    return {name.format(number): photo(number) for number in range(count)}


def count_labels(domain: Path, split: str) -> tuple[int, int]:
    """Return how many images of a split have a label, and how many there are."""
    rows = read_csv(domain / f"{split}.csv") if (domain / f"{split}.csv").exists() else []
    return sum(bool(label) for _, label in rows), len(rows)


def own_faces(root: Path, source: Path, *options: object) -> int:
    return call(PREPARE, "own-faces", source, "--data-root", root, *options)


def own_digits(root: Path, source: Path, *options: object) -> int:
    return call(PREPARE, "own-digits", "mine", source, "--data-root", root, *options)


def reds(root: Path) -> tuple[list[int], list[int]]:
    """Return the red values of the faces of train and of val, by which the tests know the images."""
    train, val = (load_faces(root, split)[:, 0, 5, 5].tolist() for split in ("train", "val"))
    return train, val


def everything_below(folder: Path) -> dict[str, bytes]:
    return contents(folder) | {str(path): b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "tgz", "tar.bz2", "tar.xz"])
def test_folders_and_archives_of_any_depth(tmp_path: Path, form: str, capsys: Capture) -> None:
    files = {f"day {number % 3}/{number}/IMG_{number}.PNG": photo(number) for number in range(10)}
    hidden = {"day 1/._IMG_1.PNG": b"x", "__MACOSX/day 1/IMG_1.PNG": b"x", ".DS_Store": b"x", ".git/a.png": photo(99)}
    files |= hidden | {"day 1/notes.txt": b"hello", "cut.png": photo(5)[:60]}
    if form.startswith("tar"):
        files = {f"./{name}": content for name, content in files.items()}
    assert own_faces(tmp_path / "root", write_files(tmp_path / f"photos.{form}", files)) == 0
    train, val = reds(tmp_path / "root")
    assert (len(train), len(val)) == (8, 2)
    assert sorted(train + val) == list(range(10))
    said = capsys.readouterr().out
    assert "left out: 2" in said and "cut.png" in said and "notes.txt" in said
    assert "MACOSX" not in said and "._" not in said and "DS_Store" not in said


def test_a_photo_of_200_megapixels(tmp_path: Path) -> None:
    files = {"phone.jpg": encoded(Image.new("L", (16320, 12288), 77), "JPEG"), "other.png": photo(1)}
    assert own_faces(tmp_path / "root", write_files(tmp_path / "photos", files)) == 0
    assert sorted(itertools.chain(*reds(tmp_path / "root"))) == [1, 77]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, capsys: Capture) -> None:
    source = write_files(tmp_path / "photos", photos(2) | {f"bad{number:02d}.jpg": b"no" for number in range(25)})
    (source / "gone.png").symlink_to("nowhere.png")
    (source / "loop.png").symlink_to("loop.png")
    (source / "again").symlink_to(source)
    (source / "linked.png").symlink_to("00.png")
    assert own_faces(tmp_path / "root", source) == 0
    said = capsys.readouterr().out
    assert "left out: 27 (bad00.jpg" in said and "and 17 more" in said
    assert sorted(itertools.chain(*reds(tmp_path / "root"))) == [0, 0, 1]


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    source = write_files(tmp_path / "photos", photos(4) | {"locked/5.png": photo(5), "listed/6.png": photo(6)})
    (source / "locked").chmod(0)
    (source / "listed").chmod(0o400)
    command = [sys.executable, PREPARE, "own-faces", source, "--data-root", tmp_path / "root"]
    if os.geteuid() == 0:  # the superuser may enter every folder, unless without that capability
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv to give up the rights of the superuser")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "left out: 2" in done.stdout and "locked: cannot be read" in done.stdout and "listed/6.png" in done.stdout
    assert sum(map(len, reds(tmp_path / "root"))) == 4


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_folder_is_a_person_only_where_asked(tmp_path: Path, is_asked: bool) -> None:
    files = {f"person {number // 4}/{number}.png": photo(number) for number in range(40)}
    options = ["--person-folders"] if is_asked else []
    assert own_faces(tmp_path / "root", write_files(tmp_path / "photos", files), *options) == 0
    train, val = ({red // 4 for red in own} for own in reds(tmp_path / "root"))
    assert bool(train & val) != is_asked


def test_too_few_images_are_one_line_that_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    source = write_files(tmp_path / "photos", {"one.png": photo(1), "notes.txt": b"hello"})
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for command in (("own-faces",), ("own-digits", "mine")):
        for path, word in ((source, "notes.txt"), (tmp_path / "none", "no such"), (loop, "no such")):
            assert call(PREPARE, *command, path, "--data-root", tmp_path / "root") == 2
            line = capsys.readouterr().err.splitlines()[-1]
            assert line.startswith("error: ") and path.name in line and word in line
    assert call(PREPARE, "own-faces", source / "notes.txt", "--data-root", tmp_path / "root") == 2
    assert "notes.txt: not a readable" in capsys.readouterr().err
    assert call(PREPARE, "own-faces", source, "--data-root", loop) == 2
    assert str(loop) in capsys.readouterr().err.splitlines()[-1]
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("command", "place", "source"),
    [
        (("own-faces",), "face", "face"),
        (("own-faces",), "face/trips/2024", "face/trips"),
        (("own-faces",), "face/photos.zip", "face/photos.zip"),
        (("own-faces",), "face", "."),
        (("own-faces",), "face", "link"),
        (("own-digits", "mine"), "digits/mine/scans", "digits/mine/scans"),
        (("own-digits", "mine"), "digits/mine", "digits"),
    ],
)
def test_nothing_of_the_users_is_replaced(tmp_path: Path, command: tuple[str, ...], place: str, source: str) -> None:
    root = tmp_path / "mine"
    write_files(root / place, photos(5))
    (root / "link").symlink_to(root / "face")
    before = everything_below(root)
    assert call(PREPARE, *command, root / source, "--data-root", root) == 2
    assert everything_below(root) == before


def test_a_source_around_the_data_is_refused(tmp_path: Path, capsys: Capture) -> None:
    write_files(tmp_path / "photos", photos(5))
    for command in (("own-faces", tmp_path), ("own-digits", "mine", tmp_path)):
        assert "contains" in error_of(capsys, PREPARE, *command, "--data-root", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_originals_beside_the_parts_stay(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_files(root / "photos", photos(5))
    before = contents(root)
    assert own_faces(root, root / "photos") == 0
    write_files(root / "photos", {"more.png": photo(9)})
    made = contents(root)
    assert own_faces(root, root / "photos") == 2
    assert contents(root) == made
    shutil.rmtree(root / "face")
    assert own_faces(root, root / "photos") == 0
    assert sorted(itertools.chain(*reds(root))) == [0, 1, 2, 3, 4, 9]
    assert before.items() <= contents(root).items()


def test_digits_without_labels_are_a_domain(tmp_path: Path) -> None:
    assert own_digits(tmp_path, write_files(tmp_path / "scans", photos(20))) == 0
    splits = ("train", "val", "test")
    assert [len(load_digit_images(tmp_path, "mine", split)) for split in splits] == [12, 4, 4]
    assert [count_labels(tmp_path / "digits/mine", split) for split in splits] == [(0, 12), (0, 4), (0, 4)]
    with pytest.raises(UserError, match="label"):
        load_digits(tmp_path, "mine", "train")
    rows = (tmp_path / "digits/mine/originals.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "image_name,original"
    assert rows[7] == '00006.png,"06.png"'


def test_labels_are_matched_by_path_or_by_file_name(tmp_path: Path, capsys: Capture) -> None:
    files = {f"{number % 2}/{number:02d}.png": photo(number) for number in range(20)} | {"a/00.png": photo(50)}
    source = write_files(tmp_path / "scans", files)
    called = [name if number % 3 == 0 else Path(name).name for number, name in enumerate(list(files)[:18])]
    rows = [f"{name},{number % 10}\n" for number, name in enumerate(called)]
    labels = source / "labels.csv"
    labels.write_text("image_name,label\n" + "".join(rows) + "gone.png,4\n1/19.png,\n")
    assert own_digits(tmp_path, source, "--labels", labels) == 0
    counts = np.array([count_labels(tmp_path / "digits/mine", split) for split in ("train", "val", "test")])
    assert counts.sum(axis=0).tolist() == [18, 21]
    for split in ("train", "val", "test"):
        images, numbers = load_digits(tmp_path, "mine", split)
        assert numbers.tolist() == [value % 10 for value in images[:, 0, 5, 5].tolist()]
    said = capsys.readouterr().out
    assert "gone.png" in said


def test_folders_named_by_a_digit_are_labels(tmp_path: Path, capsys: Capture) -> None:
    files = {f"train/{number % 10}/{number:02d}.png": photo(number) for number in range(20)}
    files |= {f"unknown/{number}.png": photo(99) for number in range(5)}
    source = write_files(tmp_path / "scans", files)
    assert own_digits(tmp_path / "root", source, "--label-folders") == 0
    for split in ("train", "val", "test"):
        images, numbers = load_digits(tmp_path / "root", "mine", split)
        assert numbers.tolist() == [value % 10 for value in images[:, 0, 5, 5].tolist()]
    assert sum(count_labels(tmp_path / "root" / "digits/mine", split)[0] for split in ("train", "val", "test")) == 20
    assert own_digits(tmp_path / "flat", source / "unknown", "--label-folders") == 2
    assert own_digits(tmp_path / "flat", source / "unknown") == 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("x.png,3\n", "a/x.png or b/x.png"),
        ("a/x.png,3\n./a/x.png,4\n", "another label"),
        ("a/x.png,10\n", "a digit 0-9"),
        ("nothing.png,1\n", "none of the 4 images"),
        ("a/x.png,3\na/x.png,3\n", "listed twice"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, rows: str, reason: str, capsys: Capture) -> None:
    source = write_files(tmp_path / "scans", {f"{folder}/x.png": photo(1) for folder in "abcd"})
    (tmp_path / "labels.csv").write_text(f"image_name,label\n{rows}")
    assert own_digits(tmp_path, source, "--labels", tmp_path / "labels.csv") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "labels.csv" in line and reason in line
    assert not (tmp_path / "digits/mine").exists()


@pytest.mark.parametrize("name", ["usps", "SVHN", "face", "..", "a/b", "", ".hidden", "two words"])
def test_names_that_can_be_no_domain_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        check_domain(name)


def test_names_are_utf8_whatever_the_system_says(tmp_path: Path) -> None:
    files = {f"fête {number}.png": photo(number) for number in range(6)}
    files["fe\u0302te 7.png"] = photo(7)  # as a Mac writes it
    source = write_files(tmp_path / "Fête 日本", files)
    write_files(tmp_path / "labels", {"labels.csv": "image_name,label\nfête 3.png,3\nfête 7.png,7\n".encode()})
    with open(os.fsencode(source) + b"/n\xe9on.png", "wb") as file:  # a name that is not UTF-8
        file.write(photo(6))
    with open(os.fsencode(source) + b"/n\xe9on.txt", "wb") as file:
        file.write(b"no image")
    options = ("Fête", source, "--labels", tmp_path / "labels/labels.csv", "--data-root", tmp_path)
    strict = ("-X", "warn_default_encoding", "-W", "error::EncodingWarning")  # nothing asks the system for an encoding
    command = [sys.executable, *strict, PREPARE, "own-digits", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert "Fête 日本" in dataset_name(tmp_path, "Fête")
    folder = tmp_path / "digits/Fête"
    assert "fête 3.png" in (folder / "originals.csv").read_text(encoding="utf-8", errors="surrogateescape")
    assert b"on.txt" in done.stdout
    assert sum(count_labels(tmp_path / "digits/Fête", split)[0] for split in ("train", "val", "test")) == 2


def test_the_commands_do_it_as_the_help_says(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    files = {f"{number}.jpg": encoded(Image.new("RGB", (36, 64), (number, 9, 9)), "JPEG") for number in range(6)}
    write_files(tmp_path / "my photos", files)
    root = ("--data-root", "hw2_data")
    faces = ("own-faces", "my photos", "--stretched-from", "178x218", "--crop", 20)
    assert call(PREPARE, *faces, *root) == 0
    assert "my photos" in dataset_name(tmp_path / "hw2_data", "face")
    shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "my photos")
    digits = ("own-digits", "receipts", "scans.zip", *root)
    assert call(PREPARE, *digits, "--name", "Receipts of 2026") == 0
    assert dataset_name(tmp_path / "hw2_data", "receipts") == "Receipts of 2026"
    assert "already made" in error_of(capsys, PREPARE, *digits)
    for taken in ("svhn", "face"):
        assert "choose another name" in error_of(capsys, PREPARE, "own-digits", taken, "scans.zip", *root)
