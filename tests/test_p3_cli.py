"""P3's commands as a user runs them: predictions, plots, a domain of one's own, and every kind of bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.paths import ROOT, workspace
from common.report import Page
from common.results import read_results
from common.weights import save_weights
from p3_dann import evaluate, inference, train, tsne
from p3_dann.measures import predict
from p3_dann.model import load_model
from p3_dann.report import parts, readme_table
from scripts.export_weights import export
from tests.conftest import Capture
from tests.in_process import error_of, execute

TINY = ("--preset", "sample", "--steps", "4", "--batch-size", "16", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny DANN trainings; returns the folder given as --output."""
    output = tmp_path_factory.mktemp("p3")
    for target in ("svhn", "usps"):
        execute(train, "--mode", "dann", "--target", target, *TINY, "--data-root", data_root, "--output", output)
    return output


def weights_of(trained: Path, target: str) -> Path:
    return trained / "runs" / "sample" / f"p3_{target}_dann_seed0" / "weights.safetensors"


def predictions(path: Path) -> dict[str, int]:
    header, *rows = csv.reader(path.open())
    assert header == ["image_name", "label"]
    return {name: int(label) for name, label in rows}


def test_inference_writes_every_picture_sorted(trained: Path, data_root: Path, tmp_path: Path) -> None:
    folder, weights = data_root / "digits" / "usps" / "data", weights_of(trained, "usps")
    execute(inference, folder, tmp_path / "new/pred.csv", "--checkpoint", weights, "--batch-size", 50)
    found = predictions(tmp_path / "new" / "pred.csv")
    assert list(found) == sorted(path.name for path in folder.iterdir())
    model, config, _ = load_model(weights, torch.device("cpu"))
    for name, label in list(found.items())[::9]:
        picture = torch.from_numpy(np.array(Image.open(folder / name))).view(1, 1, 28, 28)
        assert label == predict(model, picture.expand(-1, 3, -1, -1), config).item()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"pred.csv"}


def test_inference_of_any_size_mode_and_link(trained: Path, data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    """A digit enlarged, between margins, grey or through a link is read as the digit itself."""
    original = next(iter(sorted((data_root / "digits/svhn/data").iterdir())))
    small = Image.open(original).convert("L")
    pictures, weights = tmp_path / "pictures", weights_of(trained, "svhn")
    pictures.mkdir()
    small.save(pictures / "a.png")
    small.convert("RGB").save(pictures / "b.png")
    (pictures / "c.png").symlink_to(tmp_path / "elsewhere.png")
    shutil.copy(pictures / "a.png", tmp_path / "elsewhere.png")
    execute(inference, pictures, tmp_path / "same.csv", "--checkpoint", weights)
    assert capsys.readouterr().err == ""
    assert len(set(predictions(tmp_path / "same.csv").values())) == 1

    large = small.resize((112, 112), Image.Resampling.NEAREST)
    wide = Image.new("L", (200, 112), "white")
    wide.paste(large, (44, 0))
    large.save(pictures / "d.png")
    wide.convert("RGBA").save(pictures / "e.png")
    execute(inference, pictures, tmp_path / "all.csv", "--checkpoint", weights)
    assert len(predictions(tmp_path / "all.csv")) == 5
    assert capsys.readouterr().err.count("2 of 5") == 1
    images = inference.read_pictures(pictures, ["a.png", "d.png", "e.png"]).float()
    assert torch.equal(images[1], images[2])
    assert (images[1] - images[0]).abs().mean() < 8.0


@pytest.mark.parametrize("kind", ["pipe", "broken link", "text"])
def test_inference_names_what_is_no_picture(trained: Path, tmp_path: Path, kind: str, capsys: Capture) -> None:
    path = tmp_path / "pictures" / "a.png"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "broken link":
        path.symlink_to(tmp_path / "gone.png")
    else:
        path.write_text("no picture")
    options = (path.parent, tmp_path / "pred.csv", "--checkpoint", weights_of(trained, "svhn"))
    assert str(path) in error_of(capsys, inference, *options)
    assert not (tmp_path / "pred.csv").exists()


@pytest.mark.parametrize(
    ("path", "expected"),
    [("x/digits/svhn/data", "svhn"), ("x/USPS_test", "usps"), ("x/svhn/usps/data", "usps"), ("svhn/usps_svhn", "svhn")],
)
def test_target_named_by_the_path(path: str, expected: str) -> None:
    assert inference.target_named_by(Path(path)) == expected


def test_predictions_are_compared_by_name(tmp_path: Path, capsys: Capture) -> None:
    predicted, labels = tmp_path / "pred.csv", tmp_path / "digits" / "mine" / "test.csv"
    labels.parent.mkdir(parents=True)
    predicted.write_text("image_name,label\nc.png,3\na.png,1\nb.png,2\nunlisted.png,9\n")
    labels.write_text("image_name,label\na.png,1\nb.png,7\nc.png,3\n")
    execute(evaluate, predicted, labels)
    said = capsys.readouterr().out
    assert "66.67 % on 3 pictures" in said and "1: 100.0 %, 3: 100.0 %, 7: 0.0 %" in said
    execute(evaluate, predicted, "--target", "mine", "--split", "test", "--data-root", tmp_path)
    assert capsys.readouterr().out == said
    labels.write_text("image_name,label\nmissing.png,1\n")
    assert "missing.png" in error_of(capsys, evaluate, predicted, labels)
    assert "--target" in error_of(capsys, evaluate, predicted)


def test_tsne_draws_what_there_is_and_measures_mixing(
    trained: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    places = ("--output", trained, "--data-root", data_root)
    execute(tsne, "--preset", "sample", "--modes", "dann", "source", *places, "--points", 30)
    measured = json.loads((trained / "results" / "p3.json").read_text())
    for target in ("svhn", "usps"):
        record = measured[f"tsne/{target}/dann/sample"]
        for way, name in record["pictures"].items():
            assert name == f"P3/DANN_{way}_TSNE_{target.upper()}.png"
            assert len(Image.open(trained / "images" / name).convert("RGB").getcolors(1 << 24)) > 50
        assert record["points_per_domain"] == 30
        assert 0.0 <= record["other_domain_share"] <= 1.0 and 0.0 <= record["knn_transfer_accuracy"] <= 1.0
    said = capsys.readouterr().err
    assert all(f"p3_{target}_source_seed0" in said for target in ("svhn", "usps"))
    places = ("--output", tmp_path, "--data-root", data_root)
    assert "runs/original" in error_of(capsys, tsne, "--preset", "original", *places)
    assert "--preset" in error_of(capsys, tsne, "--modes", "dann", "source", *places)


@pytest.mark.parametrize("by_digit", [True, False])
def test_the_legend_of_a_plot_fits_domains_with_long_names(by_digit: bool) -> None:
    numbers = np.arange(40)
    plane, domains = np.stack([numbers, numbers**2], 1), ["MNIST-M-like", "receipts of a small shop"]
    figure = tsne.draw(plane, numbers % 10, numbers >= 20, domains, "", by_digit)
    figure.draw_without_rendering()
    drawn = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= drawn.x0 < drawn.x1 <= figure.bbox.x1 and len(figure.legends) == 1


def test_a_domain_of_ones_own_without_labels_goes_all_the_way(data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "data" / "digits" / "mydigits"
    shutil.copytree(data_root / "digits" / "mnistm", mine.with_name("mnistm"))
    (mine / "data").mkdir(parents=True)
    names = [path.name for path in sorted((data_root / "digits/svhn/data").iterdir())[:30]]
    for name in names:
        shutil.copy(data_root / "digits/svhn/data" / name, mine / "data" / name)
    for split, part in (("train", names[:20]), ("val", names[20:26]), ("test", names[26:])):
        (mine / f"{split}.csv").write_text("image_name\n" + "".join(f"{name}\n" for name in part))
    places = ("--data-root", tmp_path / "data", "--output", tmp_path)
    execute(train, "--mode", "dann", "--target", "mydigits", *TINY, *places)
    weights = weights_of(tmp_path, "mydigits")
    execute(inference, mine / "data", tmp_path / "pred.csv", "--target", "mydigits", "--checkpoint", weights)
    assert list(predictions(tmp_path / "pred.csv")) == names
    execute(tsne, "--preset", "sample", "--target", "mydigits", *places)
    space = workspace("sample", tmp_path)
    results = read_results(space.results, "p3")
    assert "knn_transfer_accuracy" not in results["tsne/mydigits/dann/sample"]
    page = Page(ROOT / "p3_dann/report.md", results, space)
    text = page.render(parts(page))
    assert "MNIST-M → mydigits, validation" in text
    assert all(f"images/P3/DANN_{way}_TSNE_MYDIGITS.png)" in text for way in ("class", "domain"))
    assert "MNIST-M → mydigits" in readme_table(results)
    assert "mydigits" in error_of(capsys, inference, mine / "data", tmp_path / "other.csv", "--target", "mydigits")
    # What a file says of itself cannot be said otherwise, and where nothing can be drawn that is no success.
    assert "leave these options out" in error_of(capsys, tsne, "--checkpoint", weights, "--target", "usps", *places)
    nowhere = ("--checkpoint", weights, "--data-root", tmp_path / "none")
    assert "no such data root" in error_of(capsys, tsne, *nowhere)


@pytest.mark.parametrize("damage", ["no root", "label", "picture"])
def test_training_on_bad_data_names_the_file(data_root: Path, tmp_path: Path, damage: str, capsys: Capture) -> None:
    data = tmp_path / "data"
    shutil.copytree(data_root / "digits", data / "digits", ignore=shutil.ignore_patterns(".cache"))
    listed = data / "digits/mnistm/train.csv"
    header, first, *rest = listed.read_text().splitlines()
    picture = listed.parent / "data" / first.split(",")[0]
    if damage == "no root":
        shutil.rmtree(data)
    elif damage == "label":
        listed.write_text("\n".join([header, f"{picture.name},10", *rest]))
    else:
        picture.write_bytes(picture.read_bytes()[:60])
    places = ("--data-root", data, "--output", tmp_path / "out")
    named = {"no root": data, "label": listed, "picture": picture}[damage]
    said = error_of(capsys, train, "--mode", "source", "--target", "svhn", *TINY, *places)
    assert said.startswith(f"error: {named}: ")
    assert not (tmp_path / "out").exists()


def test_inference_needs_to_know_the_target_and_weights_of_p3(data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    pictures, weights = tmp_path / "pictures", tmp_path / "other.safetensors"
    shutil.copytree(data_root / "digits/usps/data", pictures)
    assert "--target" in error_of(capsys, inference, pictures, tmp_path / "pred.csv")
    save_weights(weights, {"weight": torch.zeros(1)}, "p1_gan/A", {})
    said = error_of(capsys, inference, pictures, tmp_path / "pred.csv", "--checkpoint", weights)
    assert "p1_gan/A, not p3_dann" in said and not (tmp_path / "pred.csv").exists()


def test_weights_are_shipped_with_a_measurement_of_their_own_alone(trained: Path, tmp_path: Path) -> None:
    run = weights_of(trained, "svhn").parent
    with pytest.raises(UserError, match=r"train/usps/source/cpu/seed0 was not measured of"):
        export(run, "mine", "p3", "train/usps/source/cpu/seed0", "accuracy", tmp_path, half=True)
    assert not list(tmp_path.iterdir())
