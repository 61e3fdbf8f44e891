"""Train a face generator: method A is DCGAN (Radford et al., 2016), method B the SN-GAN variant of the report.

    python p1_gan/train.py --method A                     # preset cpu
    python p1_gan/train.py --method B --preset full       # a GPU
    python p1_gan/train.py --method B --diff-augment --ema-decay 0   # two ingredients switched off
    torchrun --nproc_per_node 2 p1_gan/train.py --method B

Stopped or killed, the same command goes on from the last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cache import load_images
from common.cli import (
    add_common_arguments,
    add_preset_arguments,
    add_run_arguments,
    make_parser,
    positive_int,
    resolve_config,
)
from common.dataset import FACE_SIZE, dataset_name
from common.device import autocast, memory_format
from common.distributed import World, join_world, leave_world
from common.ema import ExponentialMovingAverage
from common.errors import run_main
from common.paths import Workspace, workspace
from common.pictures import save_grid, save_image, to_uint8
from common.plots import new_figure, save_figure
from common.results import read_results, record
from common.run import Run
from common.seed import generator, seed_everything
from common.weights import is_finished, save_weights
from p1_gan.augment import diff_augment
from p1_gan.dataset import load_train_faces, random_flip, to_network
from p1_gan.faces import detector_available, face_rate
from p1_gan.losses import discriminator_loss, generator_loss
from p1_gan.model import (
    LATENT_SIZE,
    DCGAN_Discriminator,
    DCGAN_Generator,
    My_Discriminator,
    My_Generator,
)
from p1_gan.presets import METHODS, PRESETS, TrainConfig

NETWORKS = {"A": (DCGAN_Generator, DCGAN_Discriminator), "B": (My_Generator, My_Discriminator)}
FIXED_LATENTS = 200  # drawn at every grid: the first 32 are shown, all are counted for the face rate
STRIP_PICTURES = 12  # most moments of training in the picture "one latent over time"
LATE_SHARE = 0.25  # of the steps: what is called late in the record
PANELS = {
    "losses": ["loss_d", "loss_g"],
    "discriminator": ["d_real", "d_fake"],
    "fixed latents": ["face_rate", "variety"],
}


def kind_of(method: str) -> str:
    """Return the kind under which weights of ``method`` are saved."""
    return f"p1_gan/{method}"


def make_optimizer(parameters: Any, learning_rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019)."""
    betas = (config.beta1, 0.999)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=config.weight_decay, fused=True)
    return torch.optim.Adam(parameters, learning_rate, betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let every parameter of ``optimizer`` move at ``learning_rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def noise_level(step: int, config: TrainConfig) -> float:
    """Return the standard deviation of the instance noise, falling linearly to zero.

    Source: Sønderby et al., "Amortised MAP Inference for Image Super-resolution", 2017, section 3.2.
    """
    last = config.steps * config.instance_noise_share
    return config.instance_noise * max(0.0, 1 - step / last) if last else 0.0


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rates at ``step``: 1, then linearly down to 0 at the end."""
    last = config.steps * config.decay_share
    return min(1.0, (config.steps - step) / last) if last else 1.0


def train(
    config: TrainConfig, run_config: dict[str, Any], run_dir: Path, arguments: argparse.Namespace, world: World
) -> tuple[Run, int]:
    """Train to the last step and return the finished run and the number of training pictures."""
    device, batch_size = world.device, config.batch_size
    faces = load_train_faces(arguments.data_root, device)
    seed_everything(arguments.seed, deterministic=not config.compile)
    generator_class, discriminator_class = NETWORKS[arguments.method]
    g = generator_class(config.channels).to(device, memory_format=memory_format(device))
    d = discriminator_class(config.channels).to(device, memory_format=memory_format(device))
    ema = ExponentialMovingAverage(g, config.ema_decay)
    optimizer_g = make_optimizer(g.parameters(), config.generator_learning_rate, config)
    optimizer_d = make_optimizer(d.parameters(), config.discriminator_learning_rate, config)
    batches = Batches(len(faces), batch_size, arguments.seed, "train", device)
    g_network = world.wrap(torch.compile(g) if config.compile else g)
    fast_d = torch.compile(d) if config.compile else d
    d_network = world.wrap(fast_d)

    def seen(images: torch.Tensor, step: int) -> torch.Tensor:
        """Return what the discriminator sees of real or generated pictures."""
        images = diff_augment(images, config.diff_augment)
        level = noise_level(step, config)
        return images + level * torch.randn_like(images) if level else images

    run = Run(
        run_dir,
        kind_of(arguments.method),
        run_config,
        state={"generator": g, "discriminator": d, "ema": ema, "optimizer_g": optimizer_g, "optimizer_d": optimizer_d},
        weights=ema.model.state_dict,
        device=device,
        fresh=arguments.fresh,
        is_writer=world.is_writer,
        tensorboard=arguments.tensorboard,
        defaults=asdict(TrainConfig()),
        panels=PANELS,
        title=f"P1 {arguments.method}, {run_config['preset']}, {run_config['dataset']}",
    )
    grids = grid_steps(config)
    with run:
        for step in run.steps(config.steps, batch_size, f"p1 {arguments.method}", arguments.max_seconds):
            factor = learning_rate_factor(step, config)
            set_learning_rate(optimizer_g, config.generator_learning_rate * factor)
            set_learning_rate(optimizer_d, config.discriminator_learning_rate * factor)

            real = random_flip(to_network(faces[batches(step)]))
            latents = torch.randn(batch_size, LATENT_SIZE, 1, 1, device=device)
            real = world.part(real).contiguous(memory_format=memory_format(device))
            latents = world.part(latents)

            with autocast(device, config.precision):
                fake = g_network(latents)
                real_logits = d_network(seen(real, step), logits=True).float()
                fake_logits = d_network(seen(fake.detach(), step), logits=True).float()
            loss_d = discriminator_loss(real_logits, fake_logits, config.loss, config.real_label)
            optimizer_d.zero_grad()
            loss_d.backward()
            optimizer_d.step()

            d.requires_grad_(False)
            with autocast(device, config.precision):
                # Not d_network: its wrapper would wait for gradients of D, which this pass has none of.
                loss_g = generator_loss(fast_d(seen(fake, step), logits=True).float(), config.loss)
            optimizer_g.zero_grad()
            loss_g.backward()
            optimizer_g.step()
            d.requires_grad_(True)
            ema.update(g)

            run.guard(loss_d, loss_g)
            due_grid = step + 1 in grids
            if (step + 1) % config.log_every == 0 or due_grid:
                seen_in_grid = watch(ema.model, config, run, device) if due_grid else {}
                d_real, d_fake = real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()
                run.log(loss_d=loss_d, loss_g=loss_g, d_real=d_real, d_fake=d_fake, **seen_in_grid)
                healthy = not warn_of_collapse(run, config)
                if due_grid and healthy and run.is_writer:
                    last_good = run.folder / "last_good.safetensors"
                    save_weights(last_good, run.weights(), run.kind, run_config | {"step": step + 1})
    return run, len(faces)


def grid_steps(config: TrainConfig) -> set[int]:
    """Return the numbers of finished steps after which the fixed latents are drawn; the last is one of them."""
    return {*range(config.grid_every, config.steps + 1, config.grid_every), config.steps}


@torch.no_grad()
def watch(model: torch.nn.Module, config: TrainConfig, run: Run, device: torch.device) -> dict[str, float | None]:
    """Draw the fixed latents into the run folder.

    Returns:
        ``variety``: the standard deviation of a pixel over the pictures, on average and as a share of the full
        range, which vanishes when all latents give one face; ``face_rate``: None where dlib is missing.
    """
    latents = torch.randn(FIXED_LATENTS, LATENT_SIZE, 1, 1, generator=generator(0, "fixed latents"))
    with autocast(device, config.precision):
        images = to_uint8(model(latents.to(device))).cpu()
    if run.is_writer:
        save_grid(images[:32], run.folder / "grids" / f"{run.step + 1:06d}.png", columns=8)
        save_image(images[0], run.folder / "one_latent" / f"{run.step + 1:06d}.png")
    variety = images.float().std(dim=0).mean().item() / 255
    return {"variety": variety, "face_rate": face_rate(images) if detector_available() else None}


def warn_of_collapse(run: Run, config: TrainConfig) -> bool:
    """Say so, and return True, where the last rows show a game that one side has won, or faces that have gone."""
    last = run.rows[-5:]
    if config.loss == "hinge":
        # Its logits matter up to the margins at 1 and -1 only; undecided, with logits of 0, the loss is 2.
        high, low = torch.tensor([1.0, -1.0]).sigmoid().tolist()
        certain = all(row["loss_d"] < 0.1 for row in last)
    else:
        # With smoothed labels a discriminator without error says real_label of real pictures, and no more.
        high, low = 0.95 * config.real_label, 0.05 * config.real_label
        certain = all(row["d_real"] - row["d_fake"] > high for row in last)
    remarks = []
    if len(last) == 5:
        if certain:
            remarks.append("the discriminator has won: it tells real from fake with certainty; lower its learning rate")
        if all(row["d_real"] < low for row in last):
            remarks.append("the discriminator has collapsed: it takes nothing for real; lower the learning rates")
        if all(min(row["d_real"], row["d_fake"]) > high for row in last):
            remarks.append("the discriminator has collapsed: it takes everything for real; lower the learning rates")
    for key, name in (("face_rate", "face rate"), ("variety", "variety of the pictures")):
        values = [row[key] for row in run.rows if key in row]
        if key in run.rows[-1] and len(values) > 2 and values[-1] < 0.5 * max(values):
            remarks.append(
                f"the {name} has fallen from {max(values):.2f} to {values[-1]:.2f}; last_good.safetensors is older"
            )
    for remark in remarks:
        run.say(remark)
    return bool(remarks)


def strip_steps(config: TrainConfig) -> list[int]:
    """Return at most twelve of the moments with a grid, evenly spaced, the last of them included."""
    steps = sorted(grid_steps(config))
    stride = -(-len(steps) // STRIP_PICTURES)
    return steps[::-1][::stride][::-1]


def save_strip(folder: Path, config: TrainConfig, path: Path) -> None:
    """Draw what one latent became in the course of the training in ``folder``, with the steps under each picture."""
    steps = strip_steps(config)
    names = [f"{step:06d}.png" for step in steps]
    images = load_images(folder / "one_latent", names, FACE_SIZE, "RGB", cache=False)
    figure, axes = new_figure(1, len(steps), (len(steps), 1.3))
    for axis, step, image in zip(axes[0], steps, images, strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=f"{step:,}")
        axis.spines[:].set_visible(False)
    save_figure(figure, path)


def late_means(rows: Sequence[Mapping[str, float]], config: TrainConfig) -> dict[str, float]:
    """Return means of what is logged of the game over the last quarter of the steps; one row alone is chance."""
    late = [row for row in rows if row["step"] + 1 > (1 - LATE_SHARE) * config.steps]
    keys = ("loss_d", "loss_g", "d_real", "d_fake")
    return {key: round(statistics.fmean(row[key] for row in late), 6) for key in keys}


def finish(
    run: Run,
    config: TrainConfig,
    run_config: dict[str, Any],
    count: int,
    space: Workspace,
    key: str,
    device: torch.device,
) -> None:
    """Write what a finished run leaves: weights, the strip, and its record in results/p1.json."""
    method = run_config["method"]
    save_weights(run.folder / "weights.safetensors", run.weights(), kind_of(method), run_config)
    save_strip(run.folder, config, progress_picture(space, method))
    values = run_config | {
        "train_images": count,
        "epochs": round(config.steps * config.batch_size / count, 1),
        "final": {key: value for key, value in run.rows[-1].items() if key != "step"},
        "late": late_means(run.rows, config),
        "seconds": round(run.total_seconds, 1),
        "images_per_second": round(config.steps * config.batch_size / max(run.total_seconds, 1e-9), 1),
    }
    record(space.results, "p1", key, values, device)
    print(f"wrote {run.folder / 'weights.safetensors'}")


def progress_picture(space: Workspace, method: str) -> Path:
    """Return where the picture of :func:`save_strip` goes."""
    return space.images / "P1" / f"GAN_{method}_progress.png"


def main() -> None:
    """Parse the command line, train, and write weights, curves and the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--method", choices=METHODS, required=True, help="A: DCGAN; B: spectral norm and what helps")
    add_common_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument("--max-seconds", type=positive_int, default=None, help="save and leave after so long")
    presets = PRESETS[chosen_method()]
    add_preset_arguments(parser, presets)
    arguments = parser.parse_args()
    config = resolve_config(arguments, presets)
    world = join_world(arguments.device)
    world.check_batch(config.batch_size)
    space = workspace(arguments.preset, arguments.output)
    run_dir = arguments.run_dir or space.runs / f"p1_{arguments.method}_seed{arguments.seed}"
    run_config = asdict(config) | {
        "method": arguments.method,
        "preset": arguments.preset,
        "seed": arguments.seed,
        "dataset": dataset_name(arguments.data_root, "face"),
    }
    key = f"train/{arguments.method}/{arguments.preset}/seed{arguments.seed}"
    weights = run_dir / "weights.safetensors"
    before = is_finished(weights, kind_of(arguments.method), run_config, asdict(TrainConfig()))
    # Not recorded again: the record would name the machine of now with the time of then.
    if before and not arguments.fresh and key in read_results(space.results, "p1"):
        if world.is_writer:
            # From the pictures the run kept: a change of how the strip looks needs no training.
            if all((run_dir / "one_latent" / f"{step:06d}.png").is_file() for step in strip_steps(config)):
                save_strip(run_dir, config, progress_picture(space, arguments.method))
            print(f"finished before: {weights}")
    else:
        run, count = train(config, run_config, run_dir, arguments, world)
        if run.step == config.steps and world.is_writer:
            finish(run, config, run_config, count, space, key, world.device)
    leave_world(world)


def chosen_method() -> str:
    """Return the method on the command line, whose presets the help then shows (A until one is chosen)."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", choices=METHODS, default="A")
    return first.parse_known_args()[0].method


if __name__ == "__main__":
    run_main(main)
