"""The task's own judge: dlib's HOG frontal-face detector."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from common.progress import progress_bar


@cache
def detector() -> Any | None:
    """Return dlib's frontal-face detector; None, said once, where dlib is missing or cannot be imported."""
    try:
        import dlib

        return dlib.get_frontal_face_detector()
    except Exception as error:  # what a broken installation raises is not documented
        print(f"face rate: not run (dlib: {error}); pip install dlib-bin", file=sys.stderr)
        return None


def find_faces(images: torch.Tensor, progress: bool = False) -> list[list[int]] | None:
    """Return for each picture the widths of the faces the detector finds, in pixels of the picture.

    The detector (Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005, trained by
    dlib) runs with one up-sampling, as the task defines it.

    Args:
        images: uint8 (N, 3, H, W).
        progress: show a bar.

    Returns:
        None where there is no detector.
    """
    detect = detector()
    if detect is None:
        return None
    bar = progress_bar(images.permute(0, 2, 3, 1), desc="looking for faces", unit="img", disable=not progress)
    return [[box.width() for box in detect(image.contiguous().numpy(), 1)] for image in bar]


def share_with_one(faces: Sequence[Sequence[int]]) -> float:
    """Return the share of pictures with exactly one face."""
    return sum(len(widths) == 1 for widths in faces) / len(faces)


def face_rate(images: torch.Tensor, progress: bool = False) -> float | None:
    """Return the share of pictures, uint8 (N, 3, H, W), with exactly one face; None where there is no detector."""
    faces = find_faces(images, progress)
    return None if faces is None else share_with_one(faces)
