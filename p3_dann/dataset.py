"""Which domains there are, and what each method may see of them."""

from __future__ import annotations

import sys
from pathlib import Path

from common.cli import UserError
from common.data import DOMAINS, domain_folder, load_digit_images, load_digits, read_csv
from p3_dann.config import METHODS

import torch

SOURCE = "mnistm"
# Those of the report; any other folder of digits/ can be a target too.
TARGETS = tuple(domain for domain in DOMAINS if domain != SOURCE)


def load_training_data(
    data_root: Path, method: str, target: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return what a method learns from; only method ``target`` opens the target's labels.

    These are labeled images, uint8 (N, 3, 28, 28), their labels, int64 (N,), and where the method adapts, unlabeled
    training images of the target, uint8 (M, 3, 28, 28).
    """
    if target == SOURCE:
        raise UserError(f"--target {target}: is the source; name another folder of {data_root / 'digits'}")
    domain_folder(data_root, target)
    labeled = target if METHODS[method].labels == "target" else SOURCE
    images, labels = load_digits(data_root, labeled, "train")
    total = len(read_csv(domain_folder(data_root, labeled) / "train.csv"))
    if len(images) < total:
        print(f"note: {labeled}: learning from the {len(images)} of {total} images with a label", file=sys.stderr)
    return images, labels, load_digit_images(data_root, target, "train") if METHODS[method].sees_target else None
