"""The order in which training visits a data set."""

from __future__ import annotations

import torch

from common.seed import derive_seed, epoch_order


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
