"""FID as the task defines it: pytorch-fid's Inception network, 2048 features of pool3 (Heusel et al., 2017)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from common.errors import UserError
from common.frechet import floor_pictures, frechet_distance
from common.network import socket_timeout
from common.progress import progress_bar

FEATURES = 2048  # pool3: with fewer it is no FID
FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
DOWNLOAD_SECONDS = 30.0
BATCH = 50  # pictures, as pytorch-fid takes


class NotRunError(Exception):
    """FID cannot be measured here, through no mistake of the user; the message is what the record says instead."""


def load_inception(weights: Path | None, device: torch.device) -> torch.nn.Module:
    """Return pytorch-fid's network with the weights of a file, or with those that pytorch-fid downloads.

    Raises:
        UserError: ``weights`` is missing, damaged, or of another network.
        NotRunError: no file was given and the download failed, or pytorch-fid is not installed.
    """
    try:
        from pytorch_fid import inception
    except ImportError as error:
        if weights is not None:
            raise UserError("--inception-weights: pytorch-fid is not installed; pip install pytorch-fid") from error
        raise NotRunError("FID: not run (pytorch-fid is not installed)") from error
    download = inception.load_state_dict_from_url
    try:
        if weights is not None:
            inception.load_state_dict_from_url = lambda *_, **__: _read(weights)
        with socket_timeout(DOWNLOAD_SECONDS):
            network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]])
    except UserError:
        raise
    except Exception as error:  # what a broken connection or a strange file can raise is not documented
        if weights is not None:
            raise UserError(f"{weights}: holds other weights than pytorch-fid's Inception ({FILE_NAME})") from error
        print(f"Inception weights: {error}", file=sys.stderr)
        raise NotRunError("FID: not run (weights unavailable)") from error
    finally:
        inception.load_state_dict_from_url = download
    return network.to(device).eval()


def fid(network: torch.nn.Module, images: torch.Tensor, val: torch.Tensor, train: torch.Tensor) -> tuple[float, float]:
    """Return FID of ``images`` against ``val``, and its floor: that of as many random pictures of ``train``.

    All are uint8 (N, 3, H, W). The distance is ours, since pytorch-fid's calls scipy in a way that newer scipy lacks.
    """
    real, floor = _features(network, val), floor_pictures(train, len(images))
    scores = [frechet_distance(_features(network, pictures), real) for pictures in (images, floor)]
    return scores[0], scores[1]


@torch.no_grad()
def _features(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    device = next(network.parameters()).device
    bar = progress_bar(images.split(BATCH), desc="Inception", unit="batch", disable=not sys.stderr.isatty())
    parts = [network(batch.to(device).float() / 255)[0] for batch in bar]
    return torch.cat([F.adaptive_avg_pool2d(part, 1).flatten(1).cpu() for part in parts])


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such Inception weights; pass pytorch-fid's {FILE_NAME}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"{path}: damaged, or not a file of weights; pass pytorch-fid's {FILE_NAME}") from error
