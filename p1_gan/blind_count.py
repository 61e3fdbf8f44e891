"""Blind count of broken faces: numbered sheets of several methods, shuffled, with the key hidden.

    python p1_gan/blind_count.py runs/count --checkpoint runs/cpu/p1_{A,B}_seed0/weights.safetensors --num 200 --real
    python p1_gan/blind_count.py runs/count --score runs/count/anna.txt

The rule: a face is broken if an eye or the mouth is missing or melted, if impossible colors lie over the face, or if it
is a mask. The rater looks at the sheets alone, and writes the numbers of the broken faces into a text file named
after the rater, separated by spaces or lines. --score prints the rate of each method with its Wilson interval,
and writes the records; real faces, if there are any, show how strict the rater was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.device import pick_device
from common.files import write_json
from common.metrics import baseline_images, wilson_interval
from common.seed import generator
from common.viz import make_grid, to_pil
from common.weights import run_folder, write_record
from p1_gan.dataset import load_faces
from p1_gan.evaluate import identity
from p1_gan.inference import generate, load_generator, sample_latents

import torch
from PIL import ImageDraw

COLUMNS, ROWS, SCALE, MARGIN = 10, 5, 2, 14  # of a sheet; the margin holds the numbers
KEY = ".key.json"


def save_sheet(images: torch.Tensor, first: int, path: Path) -> None:
    """Write images uint8 (N, 3, 64, 64) enlarged, numbered from ``first`` on."""
    sheet = to_pil(make_grid(images, COLUMNS, MARGIN, SCALE))
    pitch = SCALE * images.shape[2] + MARGIN
    for index in range(len(images)):
        row, column = divmod(index, COLUMNS)
        ImageDraw.Draw(sheet).text((MARGIN + column * pitch, row * pitch), str(first + index), fill="black")
    sheet.save(path)


def make_sheets(
    folder: Path, checkpoints: list[Path], num: int, seed: int, real: torch.Tensor | None, device: torch.device
) -> None:
    """Write the sheets of ``num`` images of each checkpoint (and of ``real``), and the key."""
    if (folder / KEY).exists():
        raise UserError(f"{folder}: holds the sheets of another count; name a new folder")
    images, sources, records = [], [], {}
    for path in checkpoints:
        model, config = load_generator(path, device)
        images.append(generate(model, sample_latents(num, seed)))
        sources += [str(path.resolve())] * num
        records[str(path.resolve())] = identity("blind_count", path, config, sampling_seed=seed)
    if real is not None:
        images.append(baseline_images(real, num))
        sources += ["real"] * len(images[-1])
    folder.mkdir(parents=True, exist_ok=True)
    order = torch.randperm(len(sources), generator=generator(seed, "blind count"))
    for number, batch in enumerate(torch.cat(images)[order].split(COLUMNS * ROWS)):
        save_sheet(batch, number * COLUMNS * ROWS + 1, folder / f"sheet_{number + 1:02d}.png")
    write_json(folder / KEY, {"sources": [sources[index] for index in order], "records": records})


def read_numbers(path: Path, count: int) -> set[int]:
    """Return the numbers of a rater's file; raise a UserError for anything that is no number of a face."""
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
    except OSError as error:
        raise UserError(f"{path}: cannot be read; write the numbers of the broken faces into it") from error
    for word in words:
        if not word.isdecimal() or not 1 <= int(word) <= count:
            raise UserError(f"{path}: {word!r} is not the number of a face, 1 to {count}")
    return set(map(int, words))


def score(folder: Path, path: Path) -> None:
    """Print the rates of broken faces that a rater found; those of checkpoints become records."""
    if not (folder / KEY).exists():
        raise UserError(f"{folder}: holds no sheets; make them with --checkpoint")
    key = json.loads((folder / KEY).read_text(encoding="utf-8"))
    broken = read_numbers(path, len(key["sources"]))
    for source in sorted(set(key["sources"])):
        numbers = {number for number, name in enumerate(key["sources"], 1) if name == source}
        count, total = len(numbers & broken), len(numbers)
        low, high = wilson_interval(count, total)
        if source in key["records"]:
            rates = {"rater": path.stem, "num_images": total, "broken": count, "broken_rate": count / total}
            record = key["records"][source] | rates | {"broken_low": low, "broken_high": high}
            write_record(run_folder(Path(source)), f"blind_count_{path.stem}", record, pick_device("cpu"))
        print(f"{source}: {count} of {total} broken, {100 * count / total:.1f}% ({100 * low:.1f} to {100 * high:.1f})")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of the sheets")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help="weights to compare")
    parser.add_argument("--num", type=positive_int, default=200, help="faces per checkpoint")
    parser.add_argument("--real", action="store_true", help="add as many training images")
    parser.add_argument("--score", type=Path, metavar="FILE", help="text file with the numbers of the broken faces")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    if arguments.score is not None:
        score(arguments.folder, arguments.score)
    elif arguments.checkpoint:
        real = load_faces(arguments.data_root, "train") if arguments.real else None
        device = pick_device(arguments.device)
        make_sheets(arguments.folder, arguments.checkpoint, arguments.num, arguments.seed, real, device)
        print(f"sheets in {arguments.folder}; count, then pass --score NAME.txt")
    else:
        raise UserError("pass --checkpoint to make sheets, or --score to evaluate a count")


if __name__ == "__main__":
    run_main(main)
