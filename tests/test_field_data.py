"""Other people's files: every layout in which the public sets and the course's data are really found."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from common.dataset import dataset_name, load_digits, load_faces, read_names
from common.errors import UserError
from data.course import make_course
from data.layout import PARTS
from data.public import Downloads, make_public


def picture(red: int, size: tuple[int, int] = (250, 250)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (red, 100, 200)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix == ".tgz":
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)


def make_faces(root: Path, raw: Path, faces: str = "auto", count: int = 1000) -> tuple[int, int]:
    make_public(root, Downloads(raw, may_download=False), ["face"], seed=0, faces=faces, face_count=count, workers=1)
    return len(load_faces(root, "train")), len(load_faces(root, "val"))


LFW = {f"P_{person}/P_{person}_0001.jpg": picture(20 * person) for person in range(6)}


@pytest.mark.parametrize(
    ("path", "top", "name"),
    [
        ("lfw-deepfunneled.tgz", "lfw-deepfunneled/", "deep-funneled"),
        ("lfw-deepfunneled.zip", "lfw-deepfunneled/lfw-deepfunneled/", "deep-funneled"),
        ("lfw-deepfunneled", "", "deep-funneled"),
        ("lfw_home/lfw-funneled.tgz", "lfw_funneled/", "funneled"),
        ("lfw_home/lfw_funneled", "", "funneled"),
        ("lfw.tgz", "lfw/", "original"),
        ("lfw", "", "original"),
        ("lfw/lfw-deepfunneled", "", "deep-funneled"),
    ],
)
def test_every_edition_of_lfw_is_found_and_named(tmp_path: Path, path: str, top: str, name: str) -> None:
    hidden = {f"{top}P_1/._P_1_0001.jpg": b"resource fork", "__MACOSX/x.jpg": b"x"}
    write_archive(tmp_path / "raw" / path, {top + key: content for key, content in LFW.items()} | hidden)
    assert make_faces(tmp_path / "root", tmp_path / "raw") == (5, 1)
    assert dataset_name(tmp_path / "root", "face") == f"LFW ({name}, centre crop 144)"


@pytest.mark.parametrize("folder", ["", "Ann/"])
def test_where_no_people_are_told_apart_pictures_are_split(tmp_path: Path, folder: str) -> None:
    files = {f"{folder}{number:02d}.jpg": picture(number) for number in range(20)}
    write_archive(tmp_path / "raw/lfw-deepfunneled", files)
    assert make_faces(tmp_path / "root", tmp_path / "raw") == (16, 4)
    assert make_faces(tmp_path / "few", tmp_path / "raw", count=2) == (1, 1)
    with pytest.raises(UserError, match="--face-count 1: at least 2"):
        make_faces(tmp_path / "one", tmp_path / "raw", count=1)


@pytest.mark.parametrize("has_identities", [True, False])
def test_celeba_as_its_authors_lay_it_out(
    tmp_path: Path, has_identities: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw/CelebA"
    files = {f"img_align_celeba/{number:06d}.jpg": picture(number // 4 * 40, (178, 218)) for number in range(20)}
    write_archive(raw / "Img/img_align_celeba.zip", files | {"__MACOSX/img_align_celeba/._000001.jpg": b"x"})
    if has_identities:
        lines = "".join(f"{number:06d}.jpg {number // 4}\n" for number in range(20))
        write_archive(raw, {"Anno/identity_CelebA.txt": lines.encode()})
    assert make_faces(tmp_path / "root", raw.parent) == (16, 4)
    values = [load_faces(tmp_path / "root", split)[:, 0, 9, 9].tolist() for split in ("train", "val")]
    people = [{round(red / 40) for red in own} for own in values]
    assert not people[0] & people[1] or not has_identities
    assert ("may be in train and in val" in capsys.readouterr().out) != has_identities


def usps_lines(count: int) -> bytes:
    rows = (f"{number % 10 + 1} " + " ".join(f"{index}:0.5" for index in range(1, 257)) for number in range(count))
    return "\n".join(rows).encode() + b"\n"


def test_what_can_be_made_is_made_and_the_rest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_archive(tmp_path / "raw/usps", {"usps": usps_lines(20), "usps.t": usps_lines(10)})
    downloads = Downloads(tmp_path / "raw", may_download=False)
    with pytest.raises(UserError) as caught:
        make_public(tmp_path / "root", downloads, ["face", "svhn", "usps"], seed=0, workers=1)
    assert "face is missing" in str(caught.value) and "svhn is missing" in str(caught.value)
    assert "usps is missing" not in str(caught.value)
    assert len(load_digits(tmp_path / "root", "usps", "train")[1]) == 19
    with pytest.raises(UserError, match="pip install gdown"):
        make_public(tmp_path / "root", Downloads(tmp_path / "raw"), ["face"], seed=0, faces="celeba", workers=1)


def test_usps_in_hdf5_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_archive(tmp_path / "raw/usps", {"usps.h5": b"hdf5"})
    with pytest.raises(UserError, match=r"usps\.bz2"):
        make_public(tmp_path / "root", Downloads(tmp_path / "raw", may_download=False), ["usps"], seed=0, workers=1)
    assert str(tmp_path / "raw/usps/usps.h5") in capsys.readouterr().out


@pytest.fixture
def course(data_root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "course/hw2_data"
    shutil.copytree(data_root, folder, ignore=shutil.ignore_patterns("SOURCE", ".*", "test.csv"))
    return folder


def same_digits(root: Path, other: Path) -> bool:
    pairs = (zip(load_digits(root, "svhn", s), load_digits(other, "svhn", s), strict=True) for s in ("train", "val"))
    return all((a == b).all() for pair in pairs for a, b in pair)


@pytest.mark.parametrize("form", ["zip", "unpacked"])
def test_course_zip_of_an_old_windows_tool(course: Path, data_root: Path, tmp_path: Path, form: str) -> None:
    names = [path for path in course.rglob("*") if path.is_file()]
    odd = {str(path.relative_to(course.parent)).replace("/", "\\"): path.read_bytes() for path in names}
    source = tmp_path / ("odd.zip" if form == "zip" else "odd")
    write_archive(source, odd | {"__MACOSX\\hw2_data\\face\\train\\._00000.png": b"x"})
    root = tmp_path / "root"
    root.mkdir()
    make_course(root, source, PARTS)
    assert same_digits(root, data_root)
    assert (load_faces(root, "val") == load_faces(data_root, "val")).all()
    assert sorted(path.name for path in root.iterdir()) == ["digits", "face"]


def test_older_edition_of_the_course(course: Path, data_root: Path, tmp_path: Path) -> None:
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
    root = tmp_path / "root"
    root.mkdir()
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
    write_archive(tmp_path / "other.zip", {"pictures/a.png": b"x"})
    with pytest.raises(UserError, match=r"other\.zip: holds neither"):
        make_course(tmp_path, tmp_path / "other.zip", PARTS)
