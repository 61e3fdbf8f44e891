"""What each mode of P3 may see, and in which order."""

from __future__ import annotations

from pathlib import Path

import torch

from common.dataset import load_digit_images, load_digits
from common.seed import derive_seed, epoch_order

SOURCE = "mnistm"


def load_labelled(data_root: Path, mode: str, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures a mode learns digits from, uint8 (N, 3, 28, 28), and their labels (N,).

    Only mode ``target`` opens the target's labels.
    """
    return load_digits(data_root, target if mode == "target" else SOURCE, "train")


def load_unlabelled(data_root: Path, target: str) -> torch.Tensor:
    """Return the target's training pictures, uint8 (N, 3, 28, 28); its labels are never read."""
    return load_digit_images(data_root, target, "train")


class Batches:
    """Endless shuffled batches of a data set: a pure function of the step, so a resumed run repeats them."""

    def __init__(self, count: int, batch_size: int, seed: int, name: str, device: torch.device) -> None:
        """Visit ``count`` samples in the order of the stream ``name`` of ``seed``."""
        self.count, self.batch_size, self.device = count, batch_size, device
        self._seed = derive_seed(seed, name)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> torch.Tensor:
        """Return the sample numbers of batch ``step``, int64 (batch_size,); epochs follow without a gap."""
        position, parts, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, start = divmod(position, self.count)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, epoch_order(self.count, self._seed, epoch, self.device)
            parts.append(self._order[start : start + missing])
            position, missing = position + len(parts[-1]), missing - len(parts[-1])
        return torch.cat(parts)
