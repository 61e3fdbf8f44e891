"""The task's own judge: dlib's HOG frontal-face detector."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from common.progress import progress_bar


def detector_available() -> bool:
    """Tell whether dlib is installed."""
    return find_spec("dlib") is not None


def face_rate(images: torch.Tensor, progress: bool = False) -> float:
    """Return the share of pictures in which the detector finds exactly one face.

    The detector (Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005, trained by
    dlib) runs with one up-sampling, as the task defines it.

    Args:
        images: uint8 (N, 3, H, W).
        progress: show a bar.
    """
    import dlib

    detect = dlib.get_frontal_face_detector()
    found = 0
    for image in progress_bar(images.permute(0, 2, 3, 1), desc="looking for faces", unit="img", disable=not progress):
        found += len(detect(image.contiguous().numpy(), 1)) == 1
    return found / len(images)
