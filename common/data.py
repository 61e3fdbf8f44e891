"""The one data layout that every problem reads; ``data/prepare.py`` makes it.

::

    <data-root>/face/{train,val}/NNNNN.png                 64x64 RGB
    <data-root>/digits/<domain>/data/NNNNN.png             28x28; usps is grayscale
    <data-root>/digits/<domain>/{train,val,test}.csv       header image_name,label

A domain is any folder of digits/; labels of a domain of the user's own may be missing. All images of a split are one
uint8 tensor, decoded once and cached next to the files.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from common import usable_cores
from common.cli import UserError, progress_bar
from common.files import read_safetensors, write_bytes
from common.seed import derive_seed, generator

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors.torch import save

# EPS and PDF are left out: reading them starts another program.
Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - {"EPS", "PDF"}))
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
Image.MAX_IMAGE_PIXELS = 2**28  # phones take 200 megapixels; Pillow refuses twice this


def is_image(name: str) -> bool:
    """Return whether a file of this name is read as an image; hidden files (``._NAME`` of a Mac) are not."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(source: Path | bytes, name: str, size: int | None = None) -> Image.Image:
    """Decode a file or its content to RGB: upright by EXIF, transparency over white, 16 bits as 8, the first frame.

    Messages call it ``name``; ``size`` is the side in pixels to which it will be scaled, if that is known.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if size:  # a large JPEG is decoded at no less than four times the side wanted, much faster than whole
                image.draft(None, (4 * size, 4 * size))
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image of a format that Pillow reads") from error
    except Exception as error:  # what a decoder raises on damaged bytes is not documented
        raise UserError(f"{name}: damaged or too large ({error})") from error


def center_square(
    image: Image.Image, size: int, crop: int | None = None, stretched_from: tuple[int, int] | None = None
) -> Image.Image:
    """Return the center square of an image, ``size`` pixels a side.

    Args:
        crop: side of the square in pixels of ``image`` (after un-stretching); None takes the largest.
        stretched_from: original (width, height) of an image whose aspect ratio was changed; it is restored first.
    """
    if stretched_from:
        width, height = stretched_from
        wide = max(image.width, round(image.height * width / height))
        high = max(image.height, round(image.width * height / width))
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    side = crop or min(image.size)
    if side > min(image.size):
        raise ValueError(f"{image.width}x{image.height} pixels, smaller than the crop of {side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BICUBIC)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0)
        # Others have no range of their own: the smallest usual one that holds them.
        ranges = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
        full = next((full for full in ranges if values.max() <= full), values.max())
        return Image.fromarray(np.rint(values * (255.0 / full)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


DOMAINS = {"mnistm": "MNIST-M", "svhn": "SVHN", "usps": "USPS"}  # folder -> title
DIGIT_SIZE = 28
FACE_SIZE = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


def read_csv(path: Path) -> list[tuple[str, str]]:
    """Return the name and the label of every image that a CSV file lists; labels, or their column, may be missing."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    header, *rows = [row for row in rows if any(row)] or [[]]
    if header[:1] != ["image_name"] or header[1:2] not in ([], ["label"]):
        raise UserError(f"{path}: the header must be image_name,label, found {','.join(header)[:80]!r}")
    if not rows:
        raise UserError(f"{path}: lists no image")
    labels: dict[str, str] = {}
    for name, *rest in rows:
        if name in labels:
            raise UserError(f"{path}: {name} is listed twice; keep one line")
        labels[name] = rest[0] if rest else ""
    return list(labels.items())


def check_label(path: Path, name: str, label: str) -> int:
    """Return the digit that ``label`` writes; anything but 0 to 9 is a UserError."""
    if label not in tuple("0123456789"):
        raise UserError(f"{path}: {name}: the label must be a digit 0-9, found {label[:80]!r}")
    return int(label)


def list_images(folder: Path) -> list[str]:
    """Return the names of the images in ``folder``, sorted; other files are counted and named on standard error."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name another, or make the data with data/prepare.py")
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    others = [name for name in files if not is_image(name)]
    if others:
        print(f"note: {folder}: not images, left out: {len(others)} ({first_of(others)})", file=sys.stderr)
    if len(others) == len(files):
        raise UserError(f"{folder}: no images; folders inside it are not searched")
    return [name for name in files if is_image(name)]


def first_of(lines: Sequence[str]) -> str:
    """Return the first ten of ``lines`` in one text, and how many more there are."""
    rest = [f"and {len(lines) - 10:,} more"] if len(lines) > 10 else []
    return "; ".join([*lines[:10], *rest])


def load_images(
    folder: Path, names: Sequence[str], size: int, cache: Path | None = None, resize: bool = False
) -> torch.Tensor:
    """Return the named images of ``folder`` in this order as uint8 (N, 3, size, size), grayscale as RGB.

    Args:
        cache: file that keeps the decoded tensor; it is rebuilt whenever a name, size or time of change differs.
        resize: scale the center square of images of other sizes, and say how many; else they are a UserError.
    """
    state = hashlib.sha256(str(size).encode())
    for name in names:
        try:
            status = (folder / name).stat()
        except (OSError, ValueError) as error:  # a name that no file can have
            raise UserError(f"{folder / name[:200]}: no such image") from error
        # The time of change, unlike that of modification, cannot be set back; on Windows it is that of creation.
        state.update(f"{name}\0{status.st_size}\0{status.st_ctime_ns}\0{status.st_mtime_ns}\n".encode())
    fingerprint = {"fingerprint": state.hexdigest()}
    if cache is not None:
        with contextlib.suppress(OSError, ValueError):
            tensors, metadata = read_safetensors(cache)
            if metadata == fingerprint:
                return tensors["images"]

    images = torch.empty((len(names), 3, size, size), dtype=torch.uint8)

    def decode(index: int) -> bool:
        path = folder / names[index]
        image = read_image(path, str(path), size)
        is_other = image.size != (size, size)
        if is_other and not resize:
            raise UserError(f"{path}: {image.width}x{image.height} pixels, expected {size}x{size}")
        images[index] = torch.from_numpy(np.array(center_square(image, size)).transpose(2, 0, 1))
        return is_other

    few = len(names) < 2000
    decoded = thread_map(decode, range(len(names)))
    bar = progress_bar(decoded, total=len(names), desc=f"decoding {folder}", unit="img", leave=False, disable=few)
    if scaled := sum(bar):
        print(f"note: {folder}: {scaled} of {len(names)} images scaled to {size}x{size}", file=sys.stderr)
    if cache is not None:
        try:
            write_bytes(cache, save({"images": images}, fingerprint), shared=True)
        except OSError as error:
            print(f"note: {cache}: cannot be written ({error.strerror}), so images are decoded again", file=sys.stderr)
    return images


def thread_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` of all items, in order; items are taken as needed, so that the memory stays small."""
    workers = usable_cores()
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:  # Pillow lets other threads run while it decodes, resizes and encodes
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) > 16 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:  # an error or an interrupt does not wait for all of them
            pool.shutdown(cancel_futures=True)


def load_digit_images(data_root: Path, domain: str, split: str) -> torch.Tensor:
    """Return the images of a split, uint8 (N, 3, 28, 28); no label is looked at."""
    folder = domain_folder(data_root, domain)
    names = [name for name, _ in read_csv(folder / f"{split}.csv")]
    return load_images(folder / "data", names, DIGIT_SIZE, folder / f".cache/{split}.safetensors")


def load_digits(data_root: Path, domain: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labeled images of a split, uint8 (N, 3, 28, 28), and their labels, int64 (N,)."""
    path = domain_folder(data_root, domain) / f"{split}.csv"
    rows = [(index, name, label) for index, (name, label) in enumerate(read_csv(path)) if label]
    if not rows:
        raise UserError(f"{path}: no image has a label")
    labels = torch.tensor([check_label(path, name, label) for _, name, label in rows])
    return load_digit_images(data_root, domain, split)[[index for index, _, _ in rows]], labels


def digest(*tensors: torch.Tensor) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of images and labels, by which records name their data."""
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(tensor.cpu().contiguous().numpy().data)
    return state.hexdigest()[:12]


def dataset_name(data_root: Path, part: str) -> str:
    """Return what records and captions call ``part`` (face, or a digit domain): the SOURCE file of data/prepare.py."""
    path = data_root / ("face" if part == "face" else f"digits/{part}") / "SOURCE"
    try:
        return path.read_text(encoding="utf-8").split("\n")[0].strip()[:100]
    except (OSError, UnicodeDecodeError):
        return f"{part} (source unknown)"


def domain_folder(data_root: Path, domain: str) -> Path:
    """Return the folder of a domain; where there is none, raise a UserError that lists the domains."""
    check_root(data_root)
    folders = (data_root / "digits").glob("[!.]*/")
    known = sorted(path.name for path in folders if (path / "train.csv").exists() or (path / "data").is_dir())
    if domain not in known:
        raise UserError(f"{data_root / 'digits' / domain}: no such domain; there are: {', '.join(known) or 'none'}")
    return data_root / "digits" / domain


def check_root(data_root: Path) -> None:
    """Raise a UserError that says how to make one where there is no data root."""
    if not data_root.is_dir():
        raise UserError(f"{data_root}: no such data root; make one with python data/prepare.py, or pass --data-root")


class EpochSampler:
    """Endless shuffled batches of indices; a batch depends on the step, ``seed`` and ``stream`` alone."""

    def __init__(self, count: int, batch_size: int, seed: int, stream: str, device: torch.device) -> None:
        self.count, self.batch_size, self.device = count, batch_size, device
        self._seed, self._epoch = derive_seed(seed, stream), -1
        self._order: torch.Tensor  # of the samples in this epoch

    def __call__(self, step: int) -> torch.Tensor:
        """Return the indices of batch ``step``, int64 (batch_size,); epochs follow without a gap."""
        position, pieces, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, start = divmod(position, self.count)
            if epoch != self._epoch:
                order = torch.randperm(self.count, generator=generator(self._seed, "epoch", epoch))
                self._epoch, self._order = epoch, order.to(self.device)
            pieces.append(self._order[start : start + missing])
            position, missing = position + len(pieces[-1]), missing - len(pieces[-1])
        return torch.cat(pieces)
