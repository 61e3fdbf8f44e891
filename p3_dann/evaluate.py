"""Measure accuracy on a target: of a CSV file that inference.py wrote, or of weights.

    python p3_dann/evaluate.py pred.csv --target svhn
    python p3_dann/evaluate.py pred.csv --target svhn --split test
    python p3_dann/evaluate.py --checkpoint runs/cpu/p3_svhn_ours_seed0/weights.safetensors

Predictions are joined with labels by image name; images without a label do not count. What is measured of weights is
kept as records/evaluate.json in the folder of their run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, run_main
from common.data import check_label, digest, domain_folder, load_digit_images, load_digits, read_csv
from common.device import pick_device
from common.files import file_digest
from common.metrics import accuracy, per_class_accuracy
from common.weights import run_folder, write_record
from p3_dann.inference import load_model, predict, predict_logits

import torch


def mutual_information(logits: torch.Tensor) -> float:
    """Return the mutual information of predictions (N, 10) and their unlabeled images, in nats (0..log 10).

    The entropy of the mean prediction less the mean entropy: high where every image gets one digit and all digits
    occur (Bridle et al., "Unsupervised Classifiers, Mutual Information and Phantom Targets", 1992).
    """
    probabilities = logits.softmax(1)
    marginal, conditional = torch.special.entr(probabilities.mean(0)).sum(), torch.special.entr(probabilities).sum(1)
    return (marginal - conditional.mean()).item()


def load_labeled(data_root: Path, domain: str, split: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the images of a split that have a label, uint8 (N, 3, 28, 28), and their labels (N,); None if none has."""
    path = data_root / "digits" / domain / f"{split}.csv"
    if path.exists() and any(label for _, label in read_csv(path)):
        return load_digits(data_root, domain, split)
    print(f"note: {path}: missing, or without labels; no accuracy", file=sys.stderr)
    return None


def evaluate_checkpoint(checkpoint: Path, data_root: Path, device: torch.device) -> None:
    """Print and record the accuracy of weights on the validation and test images of their target that have a label."""
    model, config, header = load_model(checkpoint, device)
    unlabeled = load_digit_images(data_root, header["target"], "train")
    record = header | {"problem": "p3", "kind": "evaluate", "weights": file_digest(checkpoint)}
    record |= {"target_digest": digest(unlabeled)}
    record |= {"mutual_information": mutual_information(predict_logits(model, unlabeled, config))}
    for split, prefix in (("val", ""), ("test", "test_")):
        if labeled := load_labeled(data_root, header["target"], split):
            images, labels = labeled
            predicted = predict(model, images, config)
            record[f"{split}_digest"] = digest(images, labels)
            record[f"{prefix}accuracy"] = accuracy(predicted, labels)
            record[f"{prefix}per_class_accuracy"] = per_class_accuracy(predicted, labels)
            print(f"{split}: accuracy {100 * record[f'{prefix}accuracy']:.2f}% on {len(labels):,} images")
    write_record(run_folder(checkpoint), "evaluate", record, device)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("predictions", type=Path, nargs="?", help="CSV file that inference.py wrote")
    parser.add_argument("--target", help="target domain, such as svhn")
    parser.add_argument("--split", choices=("train", "val", "test"), help="split of the predictions (default: val)")
    parser.add_argument("--checkpoint", type=Path, help="evaluate these weights instead, on their target")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    named = [value is not None for value in (arguments.predictions, arguments.target, arguments.checkpoint)]
    if named not in ([True, True, False], [False, False, True]):
        raise UserError("name either predictions and their --target, or a --checkpoint")
    if arguments.checkpoint:
        if arguments.split:
            raise UserError("--split: is of predictions; a --checkpoint is evaluated on val and test")
        evaluate_checkpoint(arguments.checkpoint, arguments.data_root, pick_device(arguments.device))
        return
    split = arguments.split or "val"
    path = domain_folder(arguments.data_root, arguments.target) / f"{split}.csv"
    rows = [(name, label) for name, label in read_csv(path) if label]
    if not rows:
        raise UserError(f"{path}: no image has a label")
    predictions = dict(read_csv(arguments.predictions))
    labels = torch.tensor([check_label(path, name, label) for name, label in rows])
    # An image without a prediction has an empty one, which is an error.
    predicted = torch.tensor([check_label(arguments.predictions, name, predictions.get(name, "")) for name, _ in rows])
    used = f"{len(labels):,} labeled images, of {len(predictions):,} predictions"
    print(f"{split}: accuracy {100 * accuracy(predicted, labels):.2f}% on {used}")
    each = enumerate(per_class_accuracy(predicted, labels))
    print("per class " + ", ".join(f"{digit}: {100 * value:.1f}%" for digit, value in each if value is not None))


if __name__ == "__main__":
    run_main(main)
