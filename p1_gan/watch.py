"""What a person looks at while a generator trains: the same latents again and again, and whether the game is lost."""

from __future__ import annotations

import torch

from common.cache import load_images
from common.dataset import FACE_SIZE
from common.device import autocast
from common.pictures import save_grid, save_image, to_uint8
from common.plots import new_figure, save_figure
from common.run import Job, Run
from common.seed import generator
from common.weights import of_training, save_weights
from p1_gan.appearance import variety
from p1_gan.faces import face_rate
from p1_gan.model import LATENT_SIZE
from p1_gan.presets import TrainConfig

FIXED_LATENTS = 200  # drawn at every grid: the first 32 are shown, all are counted for the face rate
STRIP_PICTURES = 12  # most moments of training in the picture "one latent over time"


def grid_steps(config: TrainConfig) -> set[int]:
    """Return the numbers of finished steps after which the fixed latents are drawn; the last is one of them."""
    return {*range(config.grid_every, config.steps + 1, config.grid_every), config.steps}


@torch.no_grad()
def watch(run: Run, model: torch.nn.Module, config: TrainConfig) -> dict[str, float | None]:
    """Draw the fixed latents into the run folder.

    Returns:
        ``variety`` and ``face_rate`` of the pictures; the second is None where there is no detector.
    """
    latents = torch.randn(FIXED_LATENTS, LATENT_SIZE, 1, 1, generator=generator(0, "fixed latents"))
    with autocast(run.world.device, config.precision):
        images = to_uint8(model(latents.to(run.world.device))).cpu()
    if run.world.is_writer:
        save_grid(images[:32], run.folder / "grids" / f"{run.step + 1:06d}.png", columns=8)
        save_image(images[0], run.folder / "one_latent" / f"{run.step + 1:06d}.png")
    return {"variety": variety(images), "face_rate": face_rate(images)}


def is_healthy(run: Run, config: TrainConfig) -> bool:
    """Say so, and return False, where the last rows show a game that one side has won, or faces that have gone."""
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
    return not remarks


def save_last_good(run: Run) -> None:
    """Keep the averaged generator of now, in case the game is lost later."""
    if run.world.is_writer:
        path = run.folder / "last_good.safetensors"
        save_weights(path, run.weights(), run.job.kind, run.job.config | {"step": run.step + 1})


def strip_steps(config: TrainConfig) -> list[int]:
    """Return at most twelve of the moments with a grid, evenly spaced, the last of them included."""
    steps = sorted(grid_steps(config))
    stride = -(-len(steps) // STRIP_PICTURES)
    return steps[::-1][::stride][::-1]


def save_strip(job: Job, config: TrainConfig) -> None:
    """Draw what one latent became in the course of a training, with the steps under each picture."""
    folder, names = job.folder / "one_latent", {step: f"{step:06d}.png" for step in strip_steps(config)}
    steps = [step for step, name in names.items() if (folder / name).exists()]  # a run may have lost its pictures
    images = load_images(folder, [names[step] for step in steps], FACE_SIZE, "RGB", cache=False)
    figure, axes = new_figure(1, len(steps), (len(steps), 1.3))
    for axis, step, image in zip(axes[0], steps, images, strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=f"{step:,}")
        axis.spines[:].set_visible(False)
    leg = "_continued" if config.initial_weights else ""
    name = f"GAN_{job.config['method']}_progress{leg}{of_training(job.config)}.png"
    save_figure(figure, job.space.images / "P1" / name)
