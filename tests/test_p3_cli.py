"""P3's commands as a user runs them: predictions, accuracy, plots, the ablation, a domain of one's own, bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from common.data import list_images, load_images
from common.weights import save_weights
from p3_dann import ablation, evaluate, figures, inference, train, tsne
from p3_dann.inference import load_model, shipped_targets, shipped_weights
from tests.conftest import Capture, Patch
from tests.in_process import call, error_of, execute

import numpy as np
import pytest
import torch
from PIL import Image

TINY = ("--preset", "sample", "--steps", 4, "--batch-size", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny runs in folders called after their method and target."""
    folder = tmp_path_factory.mktemp("p3")
    for method, target in (("source", "svhn"), ("dann", "svhn"), ("ours", "usps")):
        where = ("--data-root", data_root, "--run-dir", folder / f"{method}_{target}")
        execute(train, "--method", method, "--target", target, *TINY, *where)
    return folder


def weights_of(trained: Path, run: str) -> Path:
    return trained / run / "weights.safetensors"


def predictions(path: Path) -> dict[str, int]:
    header, *rows = csv.reader(path.open())
    assert header == ["image_name", "label"]
    return {name: int(label) for name, label in rows}


# inference


def test_inference_writes_every_image_sorted(trained: Path, data_root: Path, tmp_path: Path) -> None:
    folder, weights = data_root / "digits/usps/data", weights_of(trained, "ours_usps")
    execute(inference, folder, tmp_path / "new/pred.csv", "--checkpoint", weights)
    found = predictions(tmp_path / "new/pred.csv")
    assert list(found) == sorted(path.name for path in folder.iterdir())
    model, config, header = load_model(weights, torch.device("cpu"))
    assert (header["method"], header["target"], config.standardize) == ("ours", "usps", True)
    for name, label in list(found.items())[::9]:
        image = torch.from_numpy(np.array(Image.open(folder / name))).view(1, 1, 28, 28)
        assert label == evaluate.predict(model, image.expand(-1, 3, -1, -1), config).item()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"pred.csv"}


def test_inference_of_any_size_mode_and_link(trained: Path, data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    """A digit enlarged, between margins, in grayscale or through a link is read as the digit itself."""
    small = Image.open(min((data_root / "digits/svhn/data").glob("*.png"))).convert("L")
    images, weights = tmp_path / "images", weights_of(trained, "source_svhn")
    images.mkdir()
    small.save(images / "a.png")
    small.convert("RGB").save(images / "b.png")
    (images / "c.png").symlink_to(tmp_path / "elsewhere.png")
    shutil.copy(images / "a.png", tmp_path / "elsewhere.png")
    execute(inference, images, tmp_path / "same.csv", "--checkpoint", weights)
    assert capsys.readouterr().err == ""
    assert len(set(predictions(tmp_path / "same.csv").values())) == 1

    large = small.resize((112, 112), Image.Resampling.NEAREST)
    wide = Image.new("L", (200, 112), "white")
    wide.paste(large, (44, 0))
    large.save(images / "d.png")
    wide.convert("RGBA").save(images / "e.png")
    (images / "notes.txt").write_text("seen on Sunday")
    execute(inference, images, tmp_path / "all.csv", "--checkpoint", weights)
    said = capsys.readouterr().err
    assert list(predictions(tmp_path / "all.csv")) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert "2 of 5" in said and "notes.txt" in said
    pixels = load_images(images, list_images(images), 28, resize=True).float()
    assert torch.equal(pixels[3], pixels[4]) and (pixels[3] - pixels[0]).abs().mean() < 8.0


def test_inference_names_what_is_wrong(trained: Path, data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    images, other, pred = tmp_path / "images", tmp_path / "other.safetensors", tmp_path / "pred.csv"
    shutil.copytree(data_root / "digits/usps/data", images)
    assert "--target" in error_of(capsys, inference, images, pred)
    assert "letters" in error_of(capsys, inference, images, pred, "--target", "letters")
    save_weights(other, {"weight": torch.zeros(1)}, {"model": "p1_gan/A"})
    assert "p1_gan/A, not of p3_dann" in error_of(capsys, inference, images, pred, "--checkpoint", other)
    weights = ("--checkpoint", weights_of(trained, "source_svhn"))
    assert str(tmp_path) in error_of(capsys, inference, images, tmp_path, *weights)
    (images / "a.png").write_text("no image")
    assert str(images / "a.png") in error_of(capsys, inference, images, pred, *weights)
    assert call(inference, images, pred, *weights, "--target", "usps") == 2  # weights name their target themselves
    assert not pred.exists()


@pytest.mark.parametrize("path", ["digits/usps/data", "svhn/USPS_test"])
def test_the_path_names_the_target(path: str, data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(data_root / "digits/usps/data", tmp_path / path)
    execute(inference, tmp_path / path, tmp_path / "pred.csv")
    assert "p3_usps.safetensors" in capsys.readouterr().out


def test_shipped_weights_of_the_targets(tmp_path: Path, monkeypatch: Patch) -> None:
    assert shipped_targets() == ["svhn", "usps"]
    for target in shipped_targets():
        _, config, header = load_model(shipped_weights(target), torch.device("cpu"))
        assert (header["method"], header["target"], header["inputs"]) == ("ours", target, "augmented")
        assert config.standardize and config.grayscale
    for name in ("p3_svhn", "p3_dann_svhn"):
        (tmp_path / f"{name}.safetensors").touch()
    monkeypatch.setattr("p3_dann.inference.WEIGHTS", tmp_path)
    assert shipped_targets() == ["svhn"]


# accuracy


def test_predictions_are_compared_by_name(tmp_path: Path, capsys: Capture) -> None:
    predicted, labels = tmp_path / "pred.csv", tmp_path / "digits/mine/test.csv"
    labels.parent.mkdir(parents=True)
    predicted.write_text("image_name,label\nc.png,3\na.png,1\nb.png,2\nunlisted.png,9\nd.png,0\n")
    labels.write_text("image_name,label\na.png,1\nd.png,\nb.png,7\nc.png,3\n")  # d.png has no label
    (labels.parent / "train.csv").write_text("image_name,label\n")
    options = (predicted, "--target", "mine", "--split", "test", "--data-root", tmp_path)
    execute(evaluate, *options)
    said = capsys.readouterr().out
    assert "66.67% on 3 labeled images" in said and "1: 100.0%, 3: 100.0%, 7: 0.0%" in said
    labels.write_text("image_name,label\nmissing.png,1\n")
    assert "missing.png" in error_of(capsys, evaluate, *options)
    labels.write_text("image_name,label\na.png,\n")
    assert str(labels) in error_of(capsys, evaluate, *options)
    assert "--target" in error_of(capsys, evaluate, predicted)
    assert "--target" in error_of(capsys, evaluate, "--checkpoint", predicted, "--target", "mine")


def test_options_without_effect_are_refused(data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    root = ("--data-root", data_root)
    assert "--split" in error_of(capsys, evaluate, "--checkpoint", tmp_path, "--split", "val", *root)
    for option in ("--grl-lambda-max", "--consistency-weight"):
        assert option in error_of(capsys, train, "--method", "source", option, 1, *root, "--run-dir", tmp_path / "run")


def test_accuracy_of_weights_is_that_of_their_predictions(
    trained: Path, data_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    """inference.py then evaluate.py give what evaluate.py --checkpoint and the run's own record give."""
    weights = weights_of(trained, "dann_svhn")
    execute(inference, data_root / "digits/svhn/data", tmp_path / "pred.csv", "--checkpoint", weights)
    capsys.readouterr()
    execute(evaluate, tmp_path / "pred.csv", "--target", "svhn", "--data-root", data_root)
    line = capsys.readouterr().out.splitlines()[0]
    execute(evaluate, "--checkpoint", weights, "--data-root", data_root)
    record = json.loads((trained / "dann_svhn/records/evaluate.json").read_text())
    assert line == f"val: accuracy {100 * record['accuracy']:.2f}% on 32 labeled images, of 160 predictions"
    assert f"{100 * record['accuracy']:.2f}%" in capsys.readouterr().out


# plots


def test_tsne_of_one_checkpoint_and_of_several(trained: Path, data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    where = ("--data-root", data_root, "--points", 30)
    execute(tsne, "--checkpoint", weights_of(trained, "ours_usps"), *where)
    for kind in ("class", "domain"):
        image = Image.open(trained / f"ours_usps/images/OURS_{kind}_TSNE_USPS.png").convert("RGB")
        assert len(image.getcolors(1 << 24)) > 50
    record = json.loads((trained / "ours_usps/records/tsne.json").read_text())
    mixing = [record[f"domain_mixing_{layer}_{mode}"] for layer in (768, 128) for mode in ("eval", "train")]
    assert all(0.0 <= value <= 1.0 for value in (*mixing, record["knn_accuracy"])) and record["num_images"] == 30

    several = [weights_of(trained, run) for run in ("source_svhn", "dann_svhn", "ours_usps")]
    execute(tsne, "--checkpoint", *several, *where, "--images", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["TSNE_SVHN.png"]
    assert "no such data root" in error_of(capsys, tsne, "--data-root", tmp_path / "none")


def test_tsne_alone_plots_shipped_weights_under_the_names_of_the_card(
    data_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(tsne, "run_folder", lambda checkpoint: tmp_path / "records")
    execute(tsne, "--data-root", data_root, "--points", 20, "--images", tmp_path / "images")
    names = {f"DANN_{kind}_TSNE_{target}.png" for kind in ("class", "domain") for target in ("SVHN", "USPS")}
    assert {path.name for path in (tmp_path / "images").iterdir()} == names


def test_augmentations_and_confusions_are_shown(data_root: Path, tmp_path: Path) -> None:
    execute(figures, "--data-root", data_root, "--images", tmp_path)
    names = ["augmentations_svhn.png", "augmentations_usps.png", "confusion.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    rows = figures.plot_confusion(data_root, torch.device("cpu")).axes[0].texts
    by_label: dict[float, float] = {}
    for text in rows:
        by_label[text.get_position()[1]] = by_label.get(text.get_position()[1], 0.0) + float(text.get_text())
    assert all(97 <= total <= 103 for total in by_label.values())  # integers, so not quite 100%


def test_the_ablation_trains_records_plots_and_resumes(data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ("--preset", "sample", "--steps", 2, "--device", "cpu", "--data-root", data_root, "--run-dir", tmp_path)
    command += ("--targets", "usps", "--inputs", "plain", "augmented", "--methods", "source", "dann", "target")
    execute(ablation, *command)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/records/evaluate.json")]
    runs = {"source_plain", "source_augmented", "dann_plain", "dann_augmented", "target_augmented"}
    assert {record["variant"] for record in records} == runs
    assert all(record["kind"] == "evaluate" and record["accuracy"] >= 0.0 for record in records)
    assert Image.open(tmp_path / "images/ablation.png").format == "PNG"
    capsys.readouterr()
    execute(ablation, *command)
    assert capsys.readouterr().out.count("already finished") == 5
    figure = ablation.plot(records, ["usps"], 2)
    assert len(figure.axes[0].get_lines()) == 2 * 2 + 1  # a line and dots for two methods, and the ceiling


# a domain of one's own


def test_a_domain_of_ones_own_without_labels_goes_all_the_way(data_root: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "data/digits/mydigits"
    shutil.copytree(data_root / "digits/mnistm", mine.with_name("mnistm"))
    (mine / "data").mkdir(parents=True)
    names = [path.name for path in sorted((data_root / "digits/svhn/data").iterdir())[:30]]
    for name in names:
        shutil.copy(data_root / "digits/svhn/data" / name, mine / "data" / name)
    for split, part in (("train", names[:20]), ("val", names[20:26]), ("test", names[26:])):
        (mine / f"{split}.csv").write_text("image_name\n" + "".join(f"{name}\n" for name in part))
    where = ("--data-root", tmp_path / "data")
    execute(train, "--method", "dann", "--target", "mydigits", *TINY, *where, "--run-dir", tmp_path / "run")
    weights = tmp_path / "run/weights.safetensors"
    execute(inference, mine / "data", tmp_path / "pred.csv", "--checkpoint", weights)
    assert list(predictions(tmp_path / "pred.csv")) == names
    assert "accuracy" not in json.loads((tmp_path / "run/records/evaluate.json").read_text())
    execute(tsne, "--checkpoint", weights, *where)
    assert "knn_accuracy" not in json.loads((tmp_path / "run/records/tsne.json").read_text())
    assert (tmp_path / "run/images/DANN_class_TSNE_MYDIGITS.png").is_file()
    assert "mydigits" in error_of(capsys, inference, mine / "data", tmp_path / "other.csv", "--target", "mydigits")

    # Labels that are found later, of a few images, give an accuracy without training again.
    rows = zip(names[20:26], ("4", "", "7", "", "", ""), strict=True)
    (mine / "val.csv").write_text("image_name,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    capsys.readouterr()
    execute(evaluate, "--checkpoint", weights, *where)
    assert "on 2 images" in capsys.readouterr().out
    # tsne.py takes the images with a label then; a source whose labels are missing is plotted as predicted.
    val = mine.with_name("mnistm") / "val.csv"
    val.write_text("\n".join(line.split(",")[0] for line in val.read_text().splitlines()))
    execute(tsne, "--checkpoint", weights, *where)
    assert "knn_accuracy" not in json.loads((tmp_path / "run/records/tsne.json").read_text())
