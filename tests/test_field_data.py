"""Other people's files: every layout in which the public sets and the course's data are really found."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.dataset import dataset_name, load_digits, load_faces, read_names, read_names_and_labels
from common.errors import UserError
from data.course import check_course, make_course
from data.layout import PARTS
from data.public import Downloads, make_public
from tests.conftest import Capture, Patch, encoded, write_files
from tests.in_process import call, last_line


def picture(red: int) -> bytes:
    return encoded(Image.new("RGB", (250, 250), (red, 100, 200)), "JPEG")


def make_faces(root: Path, raw: Path, faces: str = "auto", count: int = 1000) -> tuple[int, int]:
    make_public(root, Downloads(raw, may_download=False), ["face"], seed=0, faces=faces, face_count=count, workers=1)
    return len(load_faces(root, "train")), len(load_faces(root, "val"))


LFW = {f"P_{person}/P_{person}_0001.jpg": picture(20 * person) for person in range(6)}


@pytest.mark.parametrize(
    ("path", "top", "name"),
    [
        ("lfw-deepfunneled.tgz", "lfw-deepfunneled/", "deep-funneled"),
        ("lfw-deepfunneled.zip", "lfw-deepfunneled/lfw-deepfunneled/", "deep-funneled"),
        ("lfw_home/lfw-funneled.tgz", "lfw_funneled/", "funneled"),
        ("lfw_home/lfw_funneled", "", "funneled"),
        ("lfw.tgz", "lfw/", "original"),
        ("lfw", "", "original"),
        ("lfw/lfw-deepfunneled", "", "deep-funneled"),
    ],
)
def test_every_edition_of_lfw_is_found_and_named(tmp_path: Path, path: str, top: str, name: str) -> None:
    hidden = {f"{top}P_1/._P_1_0001.jpg": b"resource fork", "__MACOSX/x.jpg": b"x"}
    write_files(tmp_path / "raw" / path, {top + key: content for key, content in LFW.items()} | hidden)
    assert make_faces(tmp_path / "root", tmp_path / "raw") == (5, 1)
    assert dataset_name(tmp_path / "root", "face") == f"LFW ({name}, centre crop 144)"


@pytest.mark.parametrize("folder", ["", "Ann/"])
def test_where_no_people_are_told_apart_pictures_are_split(tmp_path: Path, folder: str) -> None:
    files = {f"{folder}{number:02d}.jpg": picture(number) for number in range(20)}
    write_files(tmp_path / "raw/lfw-deepfunneled", files)
    assert make_faces(tmp_path / "root", tmp_path / "raw") == (16, 4)
    assert make_faces(tmp_path / "few", tmp_path / "raw", count=2) == (1, 1)
    with pytest.raises(UserError, match="--face-count 1: at least 2"):
        make_faces(tmp_path / "one", tmp_path / "raw", count=1)


@pytest.mark.parametrize("form", ["folder", "zip", "zip without identities"])
def test_celeba_is_cropped_to_the_middle_178_and_split_by_identity(tmp_path: Path, form: str, capsys: Capture) -> None:
    files, raw = {}, tmp_path / "raw/CelebA"
    for number in range(20):
        pixels = np.full((218, 178, 3), (250, 0, 0))
        pixels[20:198] = (0, 0, 10 * (number % 4))
        files[f"img_align_celeba/{number:06d}.jpg"] = encoded(pixels, "JPEG", quality=95)
    lines = "".join(f"{number:06d}.jpg {number % 4}\n" for number in range(20))
    if form == "folder":
        write_files(raw, files | {"identity_CelebA.txt": lines.encode()})
    else:  # as its authors lay it out
        write_files(raw / "Img/img_align_celeba.zip", files | {"__MACOSX/img_align_celeba/._000001.jpg": b"x"})
    if form == "zip":
        write_files(raw, {"Anno/identity_CelebA.txt": lines.encode()})
    assert sum(make_faces(tmp_path / "root", raw.parent, count=19)) == 19
    train, val = (load_faces(tmp_path / "root", split) for split in ("train", "val"))
    assert train[:, 0, 1:-1].max() < 60
    people = [{round(float(face[2].float().mean()) / 10) for face in split} for split in (train, val)]
    has_identities = form != "zip without identities"
    assert not people[0] & people[1] or not has_identities
    assert ("may be in train and in val" in capsys.readouterr().out) != has_identities
    assert dataset_name(tmp_path / "root", "face").startswith("CelebA")


def usps_lines(count: int) -> bytes:
    rows = (f"{number % 10 + 1} " + " ".join(f"{index}:0.5" for index in range(1, 257)) for number in range(count))
    return "\n".join(rows).encode() + b"\n"


def test_what_can_be_made_is_made_and_the_rest_is_named(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_files(tmp_path / "raw/usps", {"usps": usps_lines(20), "usps.t": usps_lines(10)})
    downloads = Downloads(tmp_path / "raw", may_download=False)
    with pytest.raises(UserError) as caught:
        make_public(tmp_path / "root", downloads, ["face", "svhn", "usps"], seed=0, workers=1)
    assert "face is missing" in str(caught.value) and "svhn is missing" in str(caught.value)
    assert "usps is missing" not in str(caught.value)
    assert len(load_digits(tmp_path / "root", "usps", "train")[1]) == 19
    with pytest.raises(UserError, match="pip install gdown"):
        make_public(tmp_path / "root", Downloads(tmp_path / "raw"), ["face"], seed=0, faces="celeba", workers=1)


@pytest.fixture
def course(data_root: Path, tmp_path: Path) -> Path:
    """A folder as the course hands it out: no SOURCE files, no test labels."""
    folder = tmp_path / "course/hw2_data"
    shutil.copytree(data_root, folder, ignore=shutil.ignore_patterns("SOURCE", ".*", "test.csv"))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty data root."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def same_digits(root: Path, other: Path, domain: str = "svhn") -> bool:
    pairs = (zip(load_digits(root, domain, s), load_digits(other, domain, s), strict=True) for s in ("train", "val"))
    return all((a == b).all() for pair in pairs for a, b in pair)


@pytest.mark.parametrize("form", ["folder", "zip", "windows.zip", "windows"])
def test_course_data_arrives(course: Path, data_root: Path, tmp_path: Path, root: Path, form: str) -> None:
    source = course.parent
    if form == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", source))
    elif form != "folder":  # by an old tool of Windows, and what unpacks of it elsewhere
        files = {path.relative_to(source): path.read_bytes() for path in course.rglob("*") if path.is_file()}
        odd = {str(path).replace("/", "\\"): content for path, content in files.items()}
        source = write_files(tmp_path / f"odd.{form}", odd | {"__MACOSX\\hw2_data\\face\\train\\._00000.png": b"x"})
    make_course(root, source, PARTS)
    assert all(same_digits(root, data_root, domain) for domain in ("mnistm", "svhn", "usps"))
    for split in ("train", "val"):
        assert (load_faces(root, split) == load_faces(data_root, split)).all()
    assert dataset_name(root, "face") == "CelebA (course)"
    assert sorted(path.name for path in root.iterdir()) == ["digits", "face"]


def test_older_edition_of_the_course(course: Path, data_root: Path, root: Path) -> None:
    for domain in (course / "digits").iterdir():
        for new, old in (("train", "train"), ("val", "test")):
            names = read_names(domain / f"{new}.csv")
            (domain / old).mkdir()
            rows = (domain / f"{new}.csv").read_text().splitlines()[1:]
            for number, name in enumerate(names):  # both folders number their pictures from 0
                (domain / "data" / name).rename(domain / old / f"{number:05d}.png")
            lines = [f"{number:05d}.png,{row.split(',')[1]}" for number, row in enumerate(rows)]
            (domain / f"{new}.csv").unlink()
            (domain / f"{old}.csv").write_text("image_name,label\n" + "\n".join(lines) + "\n")
        shutil.rmtree(domain / "data")
    make_course(root, course.parent, PARTS)
    assert same_digits(root, data_root)
    assert not (root / "digits/svhn/test.csv").exists()


def test_course_of_links_is_copied(course: Path, data_root: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((course / "digits/svhn/data").iterdir())):
        path.rename(tmp_path / f"blob{number}")
        path.symlink_to(tmp_path / f"blob{number}")
    make_course(tmp_path, course, ["svhn"])
    assert same_digits(tmp_path, data_root)
    assert not any(path.is_symlink() for path in (tmp_path / "digits/svhn/data").iterdir())


def test_a_folder_that_is_no_course_is_named_as_given(tmp_path: Path) -> None:
    write_files(tmp_path / "other.zip", {"pictures/a.png": b"x"})
    with pytest.raises(UserError, match=r"other\.zip: holds neither"):
        make_course(tmp_path, tmp_path / "other.zip", PARTS)


def test_every_problem_of_course_data_is_named(course: Path, tmp_path: Path, capsys: Capture) -> None:
    face = sorted((course / "face/train").iterdir())[3]
    face.write_bytes(face.read_bytes()[:200])
    Image.new("RGB", (32, 32)).save(course / "face/val/00001.png")
    (course / "digits/mnistm/data/00004.png").unlink()
    with open(course / "digits/svhn/train.csv", "a") as file:
        file.write("00001.png,10\n")
    name = read_names_and_labels(course / "digits/usps/val.csv")[0][0]
    Image.new("RGB", (28, 28)).save(course / f"digits/usps/data/{name}")
    assert call("data/prepare.py", "course", course.parent, "--data-root", tmp_path / "made") == 2
    message = last_line(capsys.readouterr().err)
    assert "5 problems" in message
    for piece in (face.name, "face/val/00001.png", "mnistm/data/00004.png", "svhn/train.csv", f"usps/data/{name}"):
        assert piece in message
    assert not (tmp_path / "made/face").exists()


def test_many_problems_are_counted(course: Path) -> None:
    for path in (course / "face/train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"48 problems.*and 38 more"):
        check_course(course, ["face"])


def test_course_zip_cannot_write_outside_or_smuggle_links(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("../../../escaped.txt", "x")
        archive.writestr("face/../../../../escaped.txt", "x")
        archive.writestr("/face/train/00000.png", "x")
        link = zipfile.ZipInfo("face/val")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
    (tmp_path / "a/b/c").mkdir(parents=True)
    with pytest.raises(UserError, match=r"face/val: holds no PNG"):
        make_course(tmp_path / "a/b/c", hostile, ["face"])
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list((tmp_path / "a").rglob("*.png"))
    (tmp_path / "cut.zip").write_bytes(hostile.read_bytes()[:40])
    with pytest.raises(UserError, match=r"cut\.zip"):
        check_course(tmp_path / "cut.zip", ["face"])
