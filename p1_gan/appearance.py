"""What a person notices first about a set of faces, as numbers: light, colour, borders, size of the face, variety."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

BORDER = 4  # pixels
NEARLY_BLACK, NEARLY_WHITE = 0.1, 0.9


def appearance(images: torch.Tensor) -> dict[str, float]:
    """Measure pictures, uint8 (N, 3, H, W).

    Returns:
        ``brightness``: the mean of all values, 0 to 1.
        ``colourfulness``: the mean difference between the largest and the smallest channel of a pixel, 0 to 1.
        ``blank_border``: the share of pictures with a strip of 4 pixels along one of the four sides whose mean is
        below 0.1 or above 0.9.
        ``variety``: see :func:`variety`.
    """
    values = images.float() / 255
    sides = (values[..., :BORDER, :], values[..., -BORDER:, :], values[..., :BORDER], values[..., -BORDER:])
    strips = torch.stack([side.mean(dim=(1, 2, 3)) for side in sides])
    blank = ((strips < NEARLY_BLACK) | (strips > NEARLY_WHITE)).any(dim=0)
    return {
        "brightness": values.mean().item(),
        "colourfulness": (values.amax(dim=1) - values.amin(dim=1)).mean().item(),
        "blank_border": blank.double().mean().item(),
        "variety": variety(images),
    }


def variety(images: torch.Tensor) -> float:
    """Return the standard deviation of a value over pictures, on average and as a share of the full range.

    It vanishes when all latents give one face. ``images`` are uint8 (N, 3, H, W).
    """
    return images.float().std(dim=0).mean().item() / 255


def detections(faces: Sequence[Sequence[int]]) -> dict[str, float]:
    """Summarise the widths of the faces found in each picture.

    Returns:
        ``no_face`` and ``several_faces``: shares of pictures. Of pictures with exactly one face ``face_width_median``
        and ``face_width_mean`` in pixels, left out where there is none: the detector looks for few sizes, each 1.2
        times the last, so that medians of quite different sets can be the same.
    """
    counts = [len(widths) for widths in faces]
    summary = {
        "no_face": counts.count(0) / len(counts),
        "several_faces": sum(count > 1 for count in counts) / len(counts),
    }
    single = [widths[0] for widths in faces if len(widths) == 1]
    if single:
        summary |= {"face_width_median": float(statistics.median(single)), "face_width_mean": statistics.fmean(single)}
    return summary
