"""The training loops that ours are compared with: the same networks, losses and batches, as tutorials write them.

    python benchmarks/plain.py p1 --batch-size 32      # prints images/s

float32, torch's default memory layout, a DataLoader whose workers decode every PNG again in every epoch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import usable_cores
from common.cli import UserError, add_common_arguments, make_parser, positive_int, run_main
from common.data import read_csv
from common.device import pick_device
from p1_gan.model import LATENT_SIZE, DCGAN_Discriminator, DCGAN_Generator
from p2_diffusion.model import UNet
from p3_dann.model import DANN_model, grl_lambda_at

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

TO_TENSOR = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
WARM_UP_STEPS = 3


def collate(listed: list[tuple[Path, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images (N, 3, H, W) of PNG files, and their labels (N,)."""
    images = [TO_TENSOR(Image.open(path).convert("RGB")) for path, _ in listed]
    return torch.stack(images), torch.tensor([label for _, label in listed])


def batches(folder: Path, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield shuffled batches of a digit domain or of face/train, epoch after epoch."""
    if (folder / "train.csv").exists():
        listed = [(folder / "data" / name, int(label)) for name, label in read_csv(folder / "train.csv")]
    else:
        listed = [(path, 0) for path in sorted(folder.glob("*.png"))]
    if len(listed) < batch_size:
        raise UserError(f"{folder}: {len(listed)} images, fewer than --batch-size {batch_size}")
    options: Any = {"shuffle": True, "drop_last": True, "num_workers": usable_cores(), "collate_fn": collate}
    while True:
        yield from DataLoader(listed, batch_size, **options)  # type: ignore[arg-type] # a list is a dataset


def p1(data_root: Path, batch_size: int, device: torch.device) -> Iterator[None]:
    """Train a DCGAN (Radford et al., 2016)."""
    g, d = DCGAN_Generator().to(device), DCGAN_Discriminator().to(device)
    optimizer_g = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()
    real, fake = torch.ones(batch_size, device=device), torch.zeros(batch_size, device=device)
    for images, _ in batches(data_root / "face" / "train", batch_size):
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
    """Train the printed U-Net to predict the noise (Ho et al., 2020, algorithm 1)."""
    model = UNet().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    alphas_cumprod = (1 - torch.linspace(5e-4, 0.1, 200, device=device)).cumprod(0)
    for images, labels in batches(data_root / "digits" / "mnistm", batch_size):
        x0, y = images.to(device), labels.to(device) + 1
        t = torch.randint(200, (batch_size,), device=device)
        noise = torch.randn_like(x0)
        alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        y = torch.where(torch.rand(batch_size, device=device) < 0.1, 0, y)
        loss = F.mse_loss(model(x_t, t, y), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def p3(data_root: Path, batch_size: int, device: torch.device) -> Iterator[None]:
    """Train DANN from MNIST-M to SVHN (Ganin et al., 2016)."""
    model = DANN_model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    domains = torch.arange(2, device=device).repeat_interleave(batch_size)
    source, target = (batches(data_root / "digits" / name, batch_size) for name in ("mnistm", "svhn"))
    for step, ((images, labels), (target_images, _)) in enumerate(zip(source, target, strict=False)):
        both = torch.cat([images, target_images]).to(device)
        logits, domain_logits = model(both, grl_lambda_at(min(1.0, step / 2500)))
        loss = F.cross_entropy(logits[:batch_size], labels.to(device)) + F.cross_entropy(domain_logits, domains)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


LOOPS = {"p1": p1, "p2": p2, "p3": p3}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("problem", choices=LOOPS)
    parser.add_argument("--batch-size", type=positive_int, default=32, help="images per step")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long steps are timed")
    add_common_arguments(parser)
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    device = pick_device(arguments.device)
    torch.backends.cudnn.deterministic = False  # which the scripts ask for, tutorials do not
    begun = 0.0
    for step, _ in enumerate(LOOPS[arguments.problem](arguments.data_root, arguments.batch_size, device), 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == WARM_UP_STEPS:
            begun = now
        elif step > 2 * WARM_UP_STEPS and now - begun >= arguments.seconds:
            print(arguments.batch_size * (step - WARM_UP_STEPS) / (now - begun))
            return


if __name__ == "__main__":
    run_main(main)
