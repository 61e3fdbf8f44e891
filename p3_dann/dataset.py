"""Which domains there are, and what each mode of P3 may see of them."""

from __future__ import annotations

from pathlib import Path

import torch

from common.dataset import DIGIT_DOMAINS, digit_domains, has_labels, load_digit_images, load_digits
from common.errors import UserError

SOURCE = "mnistm"
# Those the report is about; any other folder of digits/ is a target too.
REPORTED_TARGETS = tuple(domain for domain in DIGIT_DOMAINS if domain != SOURCE)


def check_target(data_root: Path, mode: str, target: str) -> None:
    """Refuse what cannot be trained, before the first step; no label's value is read.

    Raises:
        UserError: no such target, or mode ``target`` without its labels.
    """
    if target == SOURCE:
        raise UserError(f"--target {target}: is the source itself; name another folder of {data_root}/digits")
    folder = Path(data_root) / "digits" / target
    if Path(data_root).is_dir() and target not in digit_domains(data_root):
        known = ", ".join(digit_domains(data_root)) or "none"
        raise UserError(f"--target {target}: {folder} is no folder of digits; there are: {known}")
    if mode == "target" and not has_labels(data_root, target, "train"):
        raise UserError(
            f"{folder / 'train.csv'}: has pictures without a label, from which --mode target learns; "
            "add them, or adapt without labels with --mode dann"
        )


def load_labelled(data_root: Path, mode: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures a mode learns digits from, uint8 (N, 3, 28, 28), and their labels (N,).

    Only mode ``target`` opens the target's labels.
    """
    return load_digits(data_root, target if mode == "target" else SOURCE, "train")


def load_unlabelled(data_root: Path, target: str) -> torch.Tensor:
    """Return the target's training pictures, uint8 (N, 3, 28, 28); its labels are never read."""
    return load_digit_images(data_root, target, "train")
