"""A user's own pictures: whatever Pillow reads becomes faces or digits, whatever it does not is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.dataset import dataset_name, has_labels, load_digit_images, load_digits, load_faces, read_names
from common.decode import read_picture, square
from common.errors import UserError
from data.own import Source, check_domain, make_own_digits, make_own_faces
from tests.conftest import Capture, Patch, contents, encoded, write_files
from tests.in_process import call, error_of


def photo(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    return encoded(Image.new("RGB", size, (number, 100, 200)))


def own_faces(root: Path, source: Path, **options: object) -> None:
    make_own_faces(root, Source(source, "mine", workers=2), seed=0, **options)


def own_digits(root: Path, source: Path, labels: Path | None = None) -> None:
    make_own_digits(root, "mine", Source(source, "mine", workers=2), seed=0, labels=labels)


def reds(root: Path) -> tuple[list[int], list[int]]:
    """Return the red values of the faces of train and of val, by which the tests know the pictures."""
    train, val = (load_faces(root, split)[:, 0, 5, 5].tolist() for split in ("train", "val"))
    return train, val


GREY, BLUE = (128, 128, 128), (0, 0, 255)
palette = Image.new("P", (30, 30), 1)
palette.putpalette([255, 0, 0, *BLUE])
half_clear = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
animated = [Image.new("RGB", (30, 30), colour) for colour in (BLUE, (255, 0, 0))]
FORMS = {
    "grey": (encoded(Image.new("L", (30, 30), 128)), GREY),
    "grey with alpha": (encoded(Image.new("LA", (30, 30), (128, 255))), GREY),
    "transparent": (encoded(half_clear), (255, 255, 255)),
    "palette": (encoded(palette), BLUE),
    "transparent palette": (encoded(palette, transparency=1), (255, 255, 255)),
    "one bit": (encoded(Image.new("1", (30, 30), 1)), (255, 255, 255)),
    "16 bits": (encoded(Image.fromarray(np.full((30, 30), 32896, np.uint16))), GREY),
    "32 bits": (encoded(Image.fromarray(np.full((30, 30), 32896, np.int32)), "TIFF"), GREY),
    "floats": (encoded(Image.fromarray(np.full((30, 30), 128 / 255, np.float32)), "TIFF"), GREY),
    "CMYK": (encoded(Image.new("CMYK", (30, 30), (255, 255, 0, 0)), "JPEG"), BLUE),
    "animated": (encoded(animated[0], "GIF", save_all=True, append_images=animated[1:]), BLUE),
    "WebP": (encoded(animated[0], "WEBP", lossless=True), BLUE),
    "BMP": (encoded(animated[0], "BMP"), BLUE),
}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_of_every_mode_become_rgb(form: str) -> None:
    content, expected = FORMS[form]
    image = read_picture(content, form)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 2


def test_pictures_are_turned_upright() -> None:
    image = Image.new("RGB", (20, 10))
    image.paste((255, 255, 255), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    upright = np.asarray(read_picture(encoded(image, exif=exif), "x"))
    assert upright.shape == (20, 10, 3)
    assert upright[:10].min() == 255
    assert upright[10:].max() == 0


def test_the_middle_square_is_taken_whole_cropped_or_stretched_back() -> None:
    columns = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (60, 100, 3))
    image = Image.fromarray(np.ascontiguousarray(columns))
    assert np.array_equal(np.asarray(square(image, 60)), columns[:, 20:80])
    assert np.array_equal(np.asarray(square(image, 20, crop=20)), columns[20:40, 40:60])
    # 100x60 squashed to 50x60: stretched back, then the middle square.
    squashed = image.resize((50, 60), Image.Resampling.BICUBIC)
    again = np.asarray(square(squashed, 60, stretched_from=(100, 60))).astype(int)
    assert np.abs(again - columns[:, 20:80]).max() <= 4
    with pytest.raises(ValueError, match="100x60 pixels, smaller than the crop of 70"):
        square(image, 64, crop=70)


@pytest.mark.parametrize("form", ["folder", "zip", "windows.zip", "tar", "tgz", "tar.bz2", "tar.xz"])
def test_folders_and_archives_of_any_depth(tmp_path: Path, form: str, capsys: Capture) -> None:
    files = {f"day {number % 3}/{number}/IMG_{number}.PNG": photo(number) for number in range(10)}
    hidden = {"day 1/._IMG_1.PNG": b"x", "__MACOSX/day 1/IMG_1.PNG": b"x", ".DS_Store": b"x", ".git/a.png": photo(99)}
    files |= hidden | {"day 1/notes.txt": b"hello", "cut.png": photo(5)[:60]}
    if form == "windows.zip":
        files = {name.replace("/", "\\"): content for name, content in files.items()}
    elif form.startswith("tar"):
        files = {f"./{name}": content for name, content in files.items()}
    own_faces(tmp_path / "root", write_files(tmp_path / f"photos.{form}", files))
    train, val = reds(tmp_path / "root")
    assert (len(train), len(val)) == (8, 2)
    assert sorted(train + val) == list(range(10))
    said = capsys.readouterr().out
    assert "left out: 2" in said
    assert "cut.png: damaged picture" in said
    assert "notes.txt: not a picture" in said
    assert "MACOSX" not in said and "._" not in said and "DS_Store" not in said
    assert dataset_name(tmp_path / "root", "face") == "mine"


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    source = write_files(tmp_path / "photos", {f"{number}.png": photo(number) for number in range(50)})
    for workers in (1, 4):
        make_own_faces(tmp_path / f"root{workers}", Source(source, "mine", workers=workers), seed=7)
    assert contents(tmp_path / "root1") == contents(tmp_path / "root4")


def test_many_files_left_out_are_listed_in_a_file(tmp_path: Path, capsys: Capture) -> None:
    bad = {f"bad{number:02d}.jpg": b"no" for number in range(25)}
    source = write_files(tmp_path / "photos", {"a.png": photo(1), "b.png": photo(2)} | bad)
    own_faces(tmp_path / "root", source)
    said = capsys.readouterr().out
    assert "left out: 25" in said and "bad09.jpg" in said and "bad10.jpg" not in said
    assert len((tmp_path / "root/face/left_out.txt").read_text().splitlines()) == 25


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_folder_is_a_person_only_where_asked(tmp_path: Path, is_asked: bool) -> None:
    files = {f"person {number // 4}/{number}.png": photo(number) for number in range(40)}
    own_faces(tmp_path / "root", write_files(tmp_path / "photos", files), person_folders=is_asked)
    train, val = ({red // 4 for red in own} for own in reds(tmp_path / "root"))
    assert not train & val or not is_asked
    assert train & val or is_asked


def test_too_few_pictures_are_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    source = write_files(tmp_path / "photos", {"one.png": photo(1), "notes.txt": b"hello"})
    for make in (own_faces, own_digits):
        with pytest.raises(UserError, match=r"photos: 1 pictures that can be read, \d are needed.*notes\.txt"):
            make(tmp_path / "root", source)
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="no such file or folder"):
        own_faces(tmp_path / "root", tmp_path / "none")
    with pytest.raises(UserError, match=r"notes\.txt: not a whole"):
        own_faces(tmp_path / "root", source / "notes.txt")
    with pytest.raises(UserError, match="lies inside"):
        own_faces(source / "root", source)


def test_digits_without_labels_are_a_domain(tmp_path: Path) -> None:
    source = write_files(tmp_path / "scans", {f"{number:02d}.png": photo(number) for number in range(20)})
    own_digits(tmp_path, source)
    assert [len(load_digit_images(tmp_path, "mine", split)) for split in ("train", "val", "test")] == [12, 4, 4]
    assert not any(has_labels(tmp_path, "mine", split) for split in ("train", "val", "test"))
    with pytest.raises(UserError, match="no label"):
        load_digits(tmp_path, "mine", "train")
    rows = (tmp_path / "digits/mine/originals.csv").read_text().splitlines()
    assert rows[0] == "image_name,original"
    assert rows[7] == '00006.png,"06.png"'


def test_labels_are_matched_by_path_or_by_file_name(tmp_path: Path, capsys: Capture) -> None:
    files = {f"{number % 2}/{number:02d}.png": photo(number) for number in range(20)}
    source = write_files(tmp_path / "scans", files)
    called = [f"scans/{name}" if number % 3 else Path(name).name for number, name in enumerate(files)]
    rows = [f"{name},{number % 10}\n" for number, name in enumerate(called)]
    labels = source / "labels.csv"
    labels.write_text("image_name,label\n" + "".join(rows) + "gone.png,4\n")
    own_digits(tmp_path, source, labels)
    for split in ("train", "val", "test"):
        images, numbers = load_digits(tmp_path, "mine", split)
        assert numbers.tolist() == [value % 10 for value in images[:, 0, 5, 5].tolist()]
        assert has_labels(tmp_path, "mine", split)
    said = capsys.readouterr().out
    assert "gone.png" in said
    assert "left out" not in said, "the list of labels is no picture, and none is expected in it"


def test_folders_called_after_a_digit_are_labels(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    files = {f"train/{number % 10}/{number:02d}.png": photo(number) for number in range(20)}
    files |= {f"unknown/{number}.png": photo(99) for number in range(5)}
    write_files(tmp_path / "scans", files)
    own = ("data/prepare.py", "own-digits", "mine", "scans")
    assert call(*own, "--label-folders") == 0
    for split in ("train", "val", "test"):
        images, numbers = load_digits(tmp_path / "hw2_data", "mine", split, partial=True)
        assert numbers.tolist() == [value % 10 for value in images[:, 0, 5, 5].tolist()]
    assert "20 with a label" in capsys.readouterr().out
    flat = ("data/prepare.py", "own-digits", "flat", "scans/unknown", "--label-folders")
    assert call(*flat) == 2 and "called 0 to 9" in capsys.readouterr().err
    assert call("data/prepare.py", "own-digits", "flat", "scans/unknown") == 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("x.png,3\n", r"line 2: x\.png may be a/x\.png or b/x\.png"),
        ("a/x.png,3\na/x.png,4\n", "line 3: .* another label"),
        ("a/x.png,10\n", "line 2: the label must be a digit"),
        ("nothing.png,1\n", "labels none of the 4 pictures"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, rows: str, reason: str) -> None:
    source = write_files(tmp_path / "scans", {f"{folder}/x.png": photo(1) for folder in "abcd"})
    (tmp_path / "labels.csv").write_text(f"image_name,label\n{rows}")
    with pytest.raises(UserError, match=reason):
        own_digits(tmp_path, source, tmp_path / "labels.csv")
    assert not (tmp_path / "digits/mine").exists()


@pytest.mark.parametrize("name", ["usps", "SVHN", "..", "a/b", "", ".hidden", "two words"])
def test_names_that_can_be_no_domain_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        check_domain(name)


def test_the_commands_do_it_as_the_help_says(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    files = {f"{number}.jpg": encoded(Image.new("RGB", (36, 64), (number, 9, 9)), "JPEG") for number in range(6)}
    write_files(tmp_path / "my photos", files)
    faces = ("own-faces", "my photos", "--stretched-from", "178x218", "--crop", 20)
    assert call("data/prepare.py", *faces) == 0
    assert dataset_name(tmp_path / "hw2_data", "face") == "own faces (my photos)"
    shutil.make_archive(str(tmp_path / "scans"), "zip", tmp_path / "my photos")
    assert call("data/prepare.py", "own-digits", "receipts", "scans.zip", "--name", "Receipts of 2026") == 0
    assert dataset_name(tmp_path / "hw2_data", "receipts") == "Receipts of 2026"
    assert len(read_names(tmp_path / "hw2_data/digits/receipts/train.csv")) == 3
    assert "--force" in error_of(capsys, "data/prepare.py", "own-digits", "receipts", "scans.zip")
    for taken in ("svhn", "face"):
        assert "choose another name" in error_of(capsys, "data/prepare.py", "own-digits", taken, "scans.zip")
