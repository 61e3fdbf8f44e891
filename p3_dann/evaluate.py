"""Measure accuracy on a target: of a CSV file that inference.py wrote, or of weights. The only reader of its labels.

    python p3_dann/evaluate.py pred.csv --target svhn
    python p3_dann/evaluate.py pred.csv --target svhn --split test
    python p3_dann/evaluate.py pred.csv labels.csv
    python p3_dann/evaluate.py --checkpoint runs/cpu/p3_svhn_ours_seed0/weights.safetensors

Predictions are joined with labels by image name; images without a label do not count. What is measured of weights is
kept as records/evaluate.json in the folder of their run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, run_main
from common.data import (
    check_label,
    count_labels,
    digest,
    digit_domains,
    domain_folder,
    load_digit_images,
    load_digits,
    read_csv,
)
from common.device import pick_device
from common.files import file_digest
from common.metrics import accuracy, per_class_accuracy
from common.records import Record, measured, run_folder
from p3_dann.augment import prepare
from p3_dann.config import TrainConfig
from p3_dann.dataset import SOURCE
from p3_dann.model import CLASSES, DANN_model, load_model

import torch

BATCH_SIZE = 1000


@torch.inference_mode()
def predict_logits(model: DANN_model, images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the class logits (N, 10) of ``model``, in evaluation mode, for uint8 images (N, 3, 28, 28)."""
    device = next(model.parameters()).device
    return torch.cat([model.classify(prepare(batch.to(device), config)) for batch in images.split(BATCH_SIZE)])


def predict(model: DANN_model, images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the digit, int64 (N,), that ``model`` (in evaluation mode) sees in each uint8 image (N, 3, 28, 28)."""
    return predict_logits(model, images, config).argmax(1).cpu()


def mutual_information(logits: torch.Tensor) -> float:
    """Return the mutual information of predictions (N, 10) and their unlabeled images, in nats (0..log 10).

    The entropy of the mean prediction less the mean entropy: high where every image gets one digit and all digits
    occur. It needs no label, so methods may be compared by it.

    Source: Bridle et al., "Unsupervised Classifiers, Mutual Information and Phantom Targets", 1992.
    """
    probabilities = logits.softmax(1)
    marginal, conditional = torch.special.entr(probabilities.mean(0)).sum(), torch.special.entr(probabilities).sum(1)
    return (marginal - conditional.mean()).item()


def class_distribution(logits: torch.Tensor) -> list[float]:
    """Return how often each digit is predicted (10 fractions): a digit that never is stands out."""
    counts = logits.argmax(1).bincount(minlength=CLASSES)
    return [round(fraction, 4) for fraction in (counts / len(logits)).tolist()]


def load_labeled(data_root: Path, domain: str, split: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the images of a split that have a label, uint8 (N, 3, 28, 28), and their labels (N,); None if none has.

    Raises:
        UserError: a label that is no digit, or a listed image that is missing.
    """
    if domain not in digit_domains(data_root) or not count_labels(data_root, domain, split)[0]:
        return None
    return load_digits(data_root, domain, split)


def evaluate_checkpoint(checkpoint: Path, data_root: Path, device: torch.device) -> Record:
    """Print and record the accuracy of weights on validation and test images of their target, and on the source.

    Accuracies are left out, and that is said, where a split is missing or has no label.

    Raises:
        UserError: a label that is no digit, or a listed image that is missing.
    """
    model, config, header = load_model(checkpoint, device)
    target, folder = header["target"], run_folder(checkpoint)
    splits = {}
    for prefix, domain, split in (("", target, "val"), ("test_", target, "test"), ("source_", SOURCE, "val")):
        splits[prefix] = load_labeled(data_root, domain, split)
        if splits[prefix] is None:
            path = data_root / "digits" / domain / f"{split}.csv"
            print(f"note: {path}: missing, or without labels; no {prefix}accuracy is measured", file=sys.stderr)
    unlabeled = load_digit_images(data_root, target, "train")

    def measure() -> dict[str, Any]:
        values: dict[str, Any] = {}
        for prefix, labeled in splits.items():
            if labeled is not None:
                predicted = predict(model, labeled[0], config)
                values[f"{prefix}accuracy"] = accuracy(predicted, labeled[1])
                values[f"{prefix}per_class_accuracy"] = per_class_accuracy(predicted, labeled[1])
                values[f"{prefix or 'val_'}images"] = len(predicted)
        logits = predict_logits(model, unlabeled, config)
        values["mutual_information"], values["class_distribution"] = (
            mutual_information(logits),
            class_distribution(logits),
        )
        return values

    identity = header | {"problem": "p3", "kind": "evaluate", "weights": file_digest(checkpoint)}
    identity["target_digest"] = digest(unlabeled)
    # None says that there are no labels, so that a record made with some is not taken.
    for prefix, labeled in splits.items():
        identity[f"{prefix or 'val_'}digest"] = None if labeled is None else digest(*labeled)
    record = measured(folder, "evaluate", identity, measure, device)
    for prefix, split in (("", "validation"), ("test_", "test"), ("source_", "source validation")):
        if f"{prefix}accuracy" in record:
            count = record[f"{prefix or 'val_'}images"]
            print(f"{split}: accuracy {100 * record[f'{prefix}accuracy']:.2f} % on {count:,} images")
    return record


def compare(predictions: Path, labels: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the predicted digits (N,) of the images that have a label, and their labels (N,).

    Raises:
        UserError: a file cannot be read, no image has a label, or one with a label has no prediction.
    """
    predicted = dict(read_csv(predictions))
    rows = [(name, label) for name, label in read_csv(labels) if label]
    if not rows:
        raise UserError(f"{labels}: no image has a label")
    missing = [name for name, _ in rows if name not in predicted]
    if missing:
        raise UserError(f"{predictions}: has no line for {missing[0]}, which {labels} lists")
    found = [check_label(predictions, name, predicted[name]) for name, _ in rows]
    return torch.tensor(found), torch.tensor([check_label(labels, name, label) for name, label in rows])


def main() -> None:
    """Parse the command line and print the accuracy, of all digits and of each."""
    parser = make_parser(__doc__)
    parser.add_argument("predictions", type=Path, nargs="?", help="what inference.py wrote")
    parser.add_argument("labels", type=Path, nargs="?", help="a CSV file of labels (default: that of --target)")
    parser.add_argument("--target", help="the domain of the data root whose labels count")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="which of its CSV files")
    parser.add_argument("--checkpoint", type=Path, help="measure these weights on their own target instead")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    if arguments.checkpoint:
        if arguments.predictions or arguments.target:
            raise UserError("--checkpoint: its file names the target; leave the CSV files and --target out")
        evaluate_checkpoint(arguments.checkpoint, arguments.data_root, pick_device(arguments.device))
        return
    if arguments.predictions is None or (arguments.labels is None) == (arguments.target is None):
        raise UserError("name the predictions and either a CSV file of labels or a --target; or a --checkpoint")
    labels = arguments.labels or domain_folder(arguments.data_root, arguments.target) / f"{arguments.split}.csv"
    predicted, expected = compare(arguments.predictions, labels)
    print(f"accuracy {100 * accuracy(predicted, expected):.2f} % on {len(expected):,} images")
    each = enumerate(per_class_accuracy(predicted, expected))
    print("per class " + ", ".join(f"{digit}: {100 * value:.1f} %" for digit, value in each if value is not None))


if __name__ == "__main__":
    run_main(main)
