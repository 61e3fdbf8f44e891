"""Count broken faces blind: numbered sheets of several methods, shuffled, with the key hidden.

    python p1_gan/blind_count.py runs/count --checkpoint runs/cpu/p1_{A,B}_seed0/weights.safetensors --num 200 --real
    python p1_gan/blind_count.py runs/count --score runs/count/anna.txt

The rule: a face is broken if an eye or the mouth is missing or melted, if impossible colors lie over the face, or if it
is a mask. The counter looks at the sheets alone, and writes the numbers of the broken faces into a text file named
after himself or herself, separated by spaces or lines. --score prints the rate of each method with its Wilson interval,
and writes the records; real faces, if there are any, show how strict the counter was.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.data import load_faces
from common.device import pick_device
from common.files import file_digest, write_json
from common.images import make_grid, save_image
from common.metrics import baseline_images
from common.records import Record, run_folder, write_record
from common.seed import generator
from p1_gan.evaluate import identity
from p1_gan.inference import generate, load_generator, sample_latents

import numpy as np
import torch
from PIL import Image, ImageDraw

COLUMNS, ROWS, SCALE, MARGIN = 10, 5, 2, 14  # of a sheet; the margin holds the numbers
KEY = ".key.json"


def wilson_interval(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a rate of ``count`` in ``total`` (Wilson, "Probable inference", 1927)."""
    rate, weight = count / total, z**2 / total
    center = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / total + weight / (4 * total))
    return max(0.0, center - half), min(1.0, center + half)


def save_sheet(images: torch.Tensor, first: int, path: Path) -> None:
    """Write images uint8 (N, 3, 64, 64) enlarged, numbered from ``first`` on."""
    size = SCALE * images.shape[2]
    large = images.repeat_interleave(SCALE, dim=2).repeat_interleave(SCALE, dim=3)
    tiles = torch.full((len(images), 3, size + MARGIN, size), 255, dtype=torch.uint8)
    for index, image in enumerate(large):
        label = Image.new("RGB", (size, MARGIN), "white")
        ImageDraw.Draw(label).text((2, 1), str(first + index), fill="black")
        tiles[index] = torch.cat([torch.from_numpy(np.array(label)).permute(2, 0, 1), image], dim=1)
    save_image(make_grid(tiles, COLUMNS), path)


def make_sheets(folder: Path, checkpoints: list[Path], num: int, seed: int, real: torch.Tensor | None) -> None:
    """Write the sheets of ``num`` images of each checkpoint (and of ``real``), and the key."""
    device, images, sources = pick_device("cpu"), [], []
    for path in checkpoints:
        images.append(generate(load_generator(path, None, device)[0], sample_latents(num, seed)))
        sources += [str(path.resolve())] * num
    if real is not None:
        images.append(baseline_images(real, num))
        sources += ["real"] * len(images[-1])
    order = torch.randperm(len(sources), generator=generator(seed, "blind count"))
    per_sheet = COLUMNS * ROWS
    for number, batch in enumerate(torch.cat(images)[order].split(per_sheet)):
        save_sheet(batch, number * per_sheet + 1, folder / f"sheet_{number + 1:02d}.png")
    digests = {str(path.resolve()): file_digest(path) for path in checkpoints}
    write_json(folder / KEY, {"seed": seed, "weights": digests, "sources": [sources[index] for index in order]})


def read_numbers(path: Path, count: int) -> set[int]:
    """Return the numbers of a counter's file; raise a UserError for anything that is no number of a face."""
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
    except OSError as error:
        raise UserError(f"{path}: cannot be read; write the numbers of the broken faces into it") from error
    wrong = [word for word in words if not word.isdecimal() or not 1 <= int(word) <= count]
    if wrong:
        raise UserError(f"{path}: {wrong[0]!r} is not the number of a face, 1 to {count}")
    return set(map(int, words))


def score(folder: Path, path: Path) -> list[Record]:
    """Print and return the rates of broken faces that a counter found; those of checkpoints become records."""
    if not (folder / KEY).exists():
        raise UserError(f"{folder}: holds no sheets; make them with --checkpoint")
    key, records = json.loads((folder / KEY).read_text(encoding="utf-8")), []
    broken = read_numbers(path, len(key["sources"]))
    for source in dict.fromkeys(sorted(key["sources"])):
        numbers = {number for number, name in enumerate(key["sources"], 1) if name == source}
        count, total = len(numbers & broken), len(numbers)
        low, high = wilson_interval(count, total)
        found: Record = {"counter": path.stem, "num_images": total, "broken": count, "broken_rate": count / total}
        found |= {"broken_low": low, "broken_high": high, "sampling_seed": key["seed"]}
        if source != "real":
            weights, device = Path(source), pick_device("cpu")
            if file_digest(weights) != key["weights"][source]:
                raise UserError(f"{weights}: has changed since the sheets were made; make them again")
            record = identity("blind_count", weights, load_generator(weights, None, device)[1], **found)
            found = write_record(run_folder(weights), f"blind_count_{path.stem}", record, device)
        print(f"{source}: {count} of {total} broken, {100 * count / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
        records.append(found)
    return records


def main() -> None:
    """Parse the command line; make sheets, or score a counter's file."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of the sheets")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help="weights to compare")
    parser.add_argument("--num", type=positive_int, default=200, help="faces of each")
    parser.add_argument("--real", action="store_true", help="also show as many training images")
    parser.add_argument("--score", type=Path, metavar="FILE", help="a counter's file of numbers")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    if arguments.score is not None:
        score(arguments.folder, arguments.score)
    elif arguments.checkpoint:
        real = load_faces(arguments.data_root, "train") if arguments.real else None
        make_sheets(arguments.folder, arguments.checkpoint, arguments.num, arguments.seed, real)
        print(f"sheets in {arguments.folder}; count, then pass --score NAME.txt")
    else:
        raise UserError("pass --checkpoint to make sheets, or --score to evaluate a count")


if __name__ == "__main__":
    run_main(main)
