"""The loops that ours are compared with: same networks, batches and losses, written as tutorials write them.

    python benchmarks/plain.py p1 --batch-size 32      # prints pictures a second

float32, torch's default memory layout, and a DataLoader whose workers decode every PNG anew in every epoch. Each
function yields after every finished step, without end.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser, positive_int
from common.errors import run_main
from p1_gan.model import LATENT_SIZE, DCGAN_Discriminator, DCGAN_Generator
from p2_diffusion.model import UNet
from p3_dann.model import DANN_model, grl_lambda_at

TO_TENSOR = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])


class Pictures(Dataset):
    """PNG files and their labels, decoded one by one when asked for."""

    def __init__(self, paths: list[Path], labels: list[int], transform: transforms.Compose) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


def faces(data_root: Path) -> Pictures:
    """Return the training faces."""
    paths = sorted((data_root / "face" / "train").glob("*.png"))
    return Pictures(paths, [0] * len(paths), transforms.Compose([transforms.RandomHorizontalFlip(), TO_TENSOR]))


def digits(data_root: Path, domain: str) -> Pictures:
    """Return the training digits of ``domain``."""
    folder = data_root / "digits" / domain
    with open(folder / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [folder / "data" / row["image_name"] for row in rows]
    return Pictures(paths, [int(row["label"]) for row in rows], TO_TENSOR)


def forever(pictures: Pictures, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield shuffled batches, epoch after epoch."""
    loader = DataLoader(pictures, batch_size, shuffle=True, num_workers=os.cpu_count() or 1, drop_last=True)
    while True:
        yield from loader


def p1(data_root: Path, batch_size: int, device: torch.device) -> Iterator[None]:
    """Train a DCGAN."""
    g, d = DCGAN_Generator().to(device), DCGAN_Discriminator().to(device)
    optimizer_g = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()
    for images, _ in forever(faces(data_root), batch_size):
        real, fake = torch.ones(batch_size, device=device), torch.zeros(batch_size, device=device)
        d.zero_grad()
        criterion(d(images.to(device)).flatten(), real).backward()
        generated = g(torch.randn(batch_size, LATENT_SIZE, 1, 1, device=device))
        criterion(d(generated.detach()).flatten(), fake).backward()
        optimizer_d.step()
        g.zero_grad()
        criterion(d(generated).flatten(), real).backward()
        optimizer_g.step()
        yield


def p2(data_root: Path, batch_size: int, device: torch.device) -> Iterator[None]:
    """Train the U-Net of the report to predict the noise (Ho et al., 2020, algorithm 1)."""
    model = UNet().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    alphas_cumprod = (1 - torch.linspace(5e-4, 0.1, 200, device=device)).cumprod(0)
    for images, labels in forever(digits(data_root, "mnistm"), batch_size):
        images, labels = images.to(device), labels.to(device)
        t = torch.randint(200, (batch_size,), device=device)
        noise = torch.randn_like(images)
        signal = alphas_cumprod[t].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * images + (1 - signal).sqrt() * noise
        conditions = torch.where(torch.rand(batch_size, device=device) < 0.1, 0, labels + 1)
        loss = F.mse_loss(model(noisy, t, conditions), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def p3(data_root: Path, batch_size: int, device: torch.device) -> Iterator[None]:
    """Train a DANN from MNIST-M to SVHN (Ganin et al., 2016)."""
    model = DANN_model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    domains = torch.arange(2, device=device).repeat_interleave(batch_size)
    source, target = forever(digits(data_root, "mnistm"), batch_size), forever(digits(data_root, "svhn"), batch_size)
    for step, ((images, labels), (target_images, _)) in enumerate(zip(source, target, strict=False)):
        both = torch.cat([images, target_images]).to(device)
        class_logits, domain_logits = model(both, grl_lambda_at(min(1.0, step / 2500)))
        loss = F.cross_entropy(class_logits[:batch_size], labels.to(device))
        loss = loss + F.cross_entropy(domain_logits, domains)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


LOOPS = {"p1": p1, "p2": p2, "p3": p3}
WARM_UP_STEPS, LEAST_STEPS = 3, 3


def main() -> None:
    """Parse the command line and time a loop."""
    parser = make_parser(__doc__)
    parser.add_argument("problem", choices=LOOPS)
    parser.add_argument("--batch-size", type=positive_int, default=32, help="pictures a step")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long steps are timed")
    add_common_arguments(parser, output=False)
    parser.set_defaults(device="cpu")  # without the settings of common.device
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    begun = 0.0
    for step, _ in enumerate(LOOPS[arguments.problem](arguments.data_root, arguments.batch_size, device), 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == WARM_UP_STEPS:
            begun = now
        elif step >= WARM_UP_STEPS + LEAST_STEPS and now - begun >= arguments.seconds:
            break
    print(arguments.batch_size * (step - WARM_UP_STEPS) / (now - begun))


if __name__ == "__main__":
    run_main(main)
