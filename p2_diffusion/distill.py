"""Distill a diffusion model into a student that samples in a few steps, without guidance.

    python p2_diffusion/distill.py                      # four steps, from the shipped network of preset cpu
    python p2_diffusion/distill.py --student-steps 2    # initialized from the shipped four-step student
    python p2_diffusion/distill.py --preset full        # four steps, from the network of the course report

One DDIM step of the student learns to land where several guided steps of the teacher land: Salimans and Ho,
"Progressive Distillation for Fast Sampling of Diffusion Models", 2022, algorithm 2, with the teacher's guidance as in
Meng et al., "On Distillation of Guided Diffusion Models", 2023. The teacher is the same for every student, so that
errors do not add up; a student may only be initialized from another. The teacher's steps are those of DPM-Solver++
(Lu et al., 2022), which at the same cost end closer to the solution than DDIM's. Rerun the same command to resume.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, add_run_arguments, make_parser, parse_config, run_main
from common.data import EpochSampler
from common.device import autocast, init_distributed
from common.files import file_digest
from common.training import ExponentialMovingAverage, TrainingRun
from common.viz import normalize
from common.weights import shipped_path
from p2_diffusion.config import DISTILL_PRESETS, DistillConfig
from p2_diffusion.dataset import load_mnistm
from p2_diffusion.diffusion import CLEAN, Diffusion, Network, build_diffusion
from p2_diffusion.inference import load_model
from p2_diffusion.model import ARCHITECTURE, MODEL, UNet, build_model, to_unet_device
from p2_diffusion.samplers import guided_prediction, sampling_timesteps
from p2_diffusion.train import lr_factor, save_samples

import torch

FIXED = (*ARCHITECTURE, "timesteps", "schedule", "prediction")  # what a student has in common with its teacher


@torch.no_grad()
def teachers_x0(
    teacher: Network,
    diffusion: Diffusion,
    config: DistillConfig,
    sub_steps: int,
    z: torch.Tensor,
    t: torch.Tensor,
    t_next: torch.Tensor,
    class_labels: torch.Tensor,
) -> torch.Tensor:
    """Return the x_0 with which one DDIM step from ``z`` (N, C, H, W) ends where ``sub_steps`` of the teacher end.

    The step leads from timesteps ``t`` to ``t_next``, both int64 (N,); the latter may be CLEAN.
    """
    z_u, u, previous = z, t, None
    for k in range(1, sub_steps + 1):
        u_next = t + ((t_next - t) * (k / sub_steps)).round().long()
        (alpha, sigma), (alpha_next, sigma_next) = diffusion.alpha_sigma(u), diffusion.alpha_sigma(u_next)
        low, high = (bound * diffusion.num_timesteps for bound in config.guidance_interval)
        guided = (u >= low) & (u <= high) & (config.guidance_scale != 1)
        x0 = guided_prediction(teacher, diffusion, z_u, u, class_labels, config.guidance_scale, guided)
        x0 = extrapolated = x0.clamp(-1, 1)
        # Second order (multistep, algorithm 2): x_0 + h / (2 h_previous) (x_0 - previous x_0), h in log(alpha / sigma)
        half_log_snr = (alpha / sigma).log()
        if previous is not None:
            h_previous, h = half_log_snr - previous[0], (alpha_next / sigma_next).log() - half_log_snr
            extrapolated = torch.where(sigma_next > 0, x0 + h / (2 * h_previous) * (x0 - previous[1]), x0)
        previous = half_log_snr, x0
        # DDIM: z_u' = alpha_u' x_0 + sigma_u' eps with eps = (z_u - alpha_u x_0) / sigma_u
        z_u, u = alpha_next * extrapolated + sigma_next * ((z_u - alpha * extrapolated) / sigma), u_next
    # Solve z_u = alpha_next x_0 + sigma_next (z - alpha x_0) / sigma for x_0 (Salimans and Ho, appendix G).
    (alpha, sigma), (alpha_next, sigma_next) = diffusion.alpha_sigma(t), diffusion.alpha_sigma(t_next)
    ratio = sigma_next / sigma
    return (z_u - ratio * z) / (alpha_next - ratio * alpha)


def distill(
    run: TrainingRun, config: DistillConfig, images: torch.Tensor, labels: torch.Tensor, teacher: UNet, initial: UNet
) -> None:
    """Distill ``teacher`` on images uint8 (N, 3, 28, 28) and labels int64 (N,); the student starts as ``initial``.

    The weights of the run are the student's averaged ones.
    """
    dist, device, seed = run.dist, run.dist.device, run.config["seed"]
    student = build_model(run.config)
    student.load_state_dict(initial.state_dict())
    student = to_unet_device(student, device)
    diffusion = build_diffusion(run.config, device)
    torch.manual_seed(seed)
    ema = ExponentialMovingAverage(student, config.ema_decay)
    optimizer = torch.optim.Adam(student.parameters(), betas=(0.9, 0.99), fused=True)
    batches = EpochSampler(len(images), config.batch_size, seed, "distill", device)
    ddp_student = dist.ddp(student)
    student_steps = run.config["student_steps"]
    visited = [*sampling_timesteps(diffusion.num_timesteps, student_steps, "trailing"), CLEAN]
    sub_steps = min(config.teacher_steps // student_steps, *(t - t_next for t, t_next in pairwise(visited)))
    timesteps = torch.tensor(visited, device=device)

    run.resume(ema.model, student=student, ema=ema, optimizer=optimizer)
    for step in run.steps(config.steps, config.batch_size):
        # x_0 ~ q(x_0), eps ~ N(0, I); every timestep of the student as often as every other
        batch = dist.shard(batches(step))
        x0, class_labels = to_unet_device(normalize(images[batch]), device), labels[batch] + 1
        i = (torch.arange(len(batch), device=device) + step) % student_steps
        t, t_next = timesteps[i], timesteps[i + 1]
        z = diffusion.q_sample(x0, torch.randn_like(x0), t)

        with autocast(device, config.precision):
            target_x0 = teachers_x0(teacher, diffusion, config, sub_steps, z, t, t_next, class_labels)
            output = ddp_student(z, t, class_labels)

        # || v of the student - v of the teacher ||^2, v = alpha eps - sigma x_0 with eps = (z - alpha x_0) / sigma
        alpha, sigma = diffusion.alpha_sigma(t)
        student_x0, student_eps = diffusion.to_x0_and_eps(output.float(), z, t)
        target_v = (alpha * z - target_x0) / sigma
        loss = (alpha * student_eps - sigma * student_x0 - target_v).square().mean()

        # gradient step, then the moving average of the weights
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * lr_factor(step, config)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm)
        optimizer.step()
        ema.update(student)

        run.check_finite(loss)
        if (step + 1) % config.log_every == 0:
            run.log(loss=loss)
        if (step + 1) % config.sample_every == 0 and dist.is_main_process:
            save_samples(run, ema.model, diffusion)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--student-steps", type=int, choices=(4, 2, 1), default=4, help="sampling steps of the student")
    parser.add_argument("--teacher", help="weights of the network (default: the shipped one of the preset)")
    parser.add_argument("--init-from", help="initial weights (default: shipped student of twice the steps, or teacher)")
    add_common_arguments(parser)
    add_run_arguments(parser, DISTILL_PRESETS)
    arguments, config = parse_config(parser, lambda chosen: DISTILL_PRESETS[chosen.preset])
    with init_distributed(arguments.device) as dist:
        dist.check_batch_size(config.batch_size)
        network = "full" if arguments.preset == "full" else "cpu"
        path = shipped_path(arguments.teacher or f"p2_unet_{network}.safetensors")
        follows = arguments.student_steps < 4 and network == "cpu" and not arguments.teacher
        initial = f"p2_unet_student{2 * arguments.student_steps}.safetensors" if follows else str(path)
        initial_path = shipped_path(arguments.init_from or initial)
        teacher, _, trained = load_model(path, dist.device)
        student, _, started = load_model(initial_path, dist.device)
        if "student_steps" in trained:
            raise UserError(f"{path}: is a student, which knows few timesteps; name the network it learned from")
        if any(trained[name] != started[name] for name in FIXED):
            raise UserError(f"{initial_path}: network or schedule differ from those of {path}; pass --init-from")
        images, labels, data_names = load_mnistm(arguments.data_root, "train", dist.device)
        settings = asdict(config) | {"model": MODEL, "method": "student", "student_steps": arguments.student_steps}
        settings |= {"teacher_digest": file_digest(path), "init_digest": file_digest(initial_path)} | data_names
        settings |= {name: trained[name] for name in FIXED}
        settings |= {"min_snr_gamma": 0.0, "dropout": 0.0, "label_dropout": 0.0}
        run = TrainingRun(arguments, dist, "p2", f"p2_student{arguments.student_steps}", settings)
        if run.is_finished():
            return
        distill(run, config, images, labels, teacher, student)
        run.finish({"loss": ["loss"]}, train_images=len(images))


if __name__ == "__main__":
    run_main(main)
