"""The task's own judge: dlib's HOG frontal-face detector."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch

from common.progress import progress_bar


def detector_available() -> bool:
    """Tell whether dlib is installed."""
    return find_spec("dlib") is not None


def find_faces(images: torch.Tensor, progress: bool = False) -> list[list[int]]:
    """Return for each picture the widths of the faces the detector finds, in pixels of the picture.

    The detector (Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005, trained by
    dlib) runs with one up-sampling, as the task defines it.

    Args:
        images: uint8 (N, 3, H, W).
        progress: show a bar.
    """
    import dlib

    detect = dlib.get_frontal_face_detector()
    bar = progress_bar(images.permute(0, 2, 3, 1), desc="looking for faces", unit="img", disable=not progress)
    return [[box.width() for box in detect(image.contiguous().numpy(), 1)] for image in bar]


def share_with_one(faces: Sequence[Sequence[int]]) -> float:
    """Return the share of pictures with exactly one face."""
    return sum(len(widths) == 1 for widths in faces) / len(faces)


def face_rate(images: torch.Tensor, progress: bool = False) -> float:
    """Return the share of pictures, uint8 (N, 3, H, W), in which the detector finds exactly one face."""
    return share_with_one(find_faces(images, progress))
