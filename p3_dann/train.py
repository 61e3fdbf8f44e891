"""Train the digit classifier of P3: on the source alone, adapted to a target without its labels, or on the target.

    python p3_dann/train.py --method ours --target svhn
    python p3_dann/train.py --method dann --target usps --preset full --seed 1
    python p3_dann/train.py --method dann --target svhn --inputs plain --preset course    # the course report's
    python p3_dann/train.py --target receipts --data-root mine    # a folder of your own: mine/digits/receipts
    torchrun --nproc_per_node 2 p3_dann/train.py --method ours --target svhn

Labels come from MNIST-M (method target: from the target). An adapted model sees the target's training images without
labels; no target label is read before the evaluation of the last step's averaged weights. Method ours is
self-ensembling with rotation by 180 degrees, one-sided distribution alignment, and fine-tuning on the target alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, add_run_arguments, make_parser, parse_config, run_main
from common.data import EpochSampler, dataset_name, digest
from common.device import Distributed, autocast, init_distributed, to_device
from common.metrics import accuracy
from common.seed import seed_everything
from common.training import ExponentialMovingAverage, Stateful, TrainingRun
from p3_dann.augment import augment, rotate
from p3_dann.config import INPUTS, METHODS, PRESETS, TrainConfig, make_config
from p3_dann.dataset import SOURCE, TARGETS, load_training_data
from p3_dann.evaluate import evaluate_checkpoint
from p3_dann.model import MODEL, DANN_model, grl_lambda_at
from p3_dann.teacher import EmaTeacher, consistency, mask, ramp_up

import torch
import torch.nn.functional as F

PANELS = {
    "losses": ("class_loss", "domain_loss", "consistency_loss"),
    "accuracies": ("class_accuracy", "domain_accuracy", "mask_ratio"),
    "schedules": ("grl_lambda", "relative_learning_rate"),
}


class Learner:
    """The network in training, its optimizer, and its exponential moving average (EMA)."""

    def __init__(self, config: TrainConfig, dist: Distributed, adapts: bool) -> None:
        self.config, self.dist = config, dist
        self.model = to_device(DANN_model(), dist.device)
        self.model.domain_classifier.requires_grad_(adapts)  # it learns only where there are two domains
        self.ema = ExponentialMovingAverage(self.model, config.ema_decay)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay, fused=True)
        self.network = dist.ddp(self.model)

    def set_learning_rate(self, progress: float, steps: int) -> float:
        """Set the learning rate at ``progress`` (0..1) of a stage of ``steps``; return it relative to its peak.

        Linear warm-up, then down to 0 along half a cosine that spans the whole stage, the warm-up included (Loshchilov
        and Hutter, "SGDR", 2017, equation 5).
        """
        relative = 0.5 + 0.5 * math.cos(math.pi * progress) if self.config.cosine else 1.0
        if progress < self.config.warmup:
            relative = min(1.0, (progress + 1.0 / steps) / self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * relative
        return relative

    def __call__(self, images: torch.Tensor, grl_lambda: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class logits (N, 10) and domain logits (N, 2) of prepared images (N, 3, 28, 28)."""
        with autocast(self.dist.device, self.config.precision):
            logits, domain_logits = self.network(images, grl_lambda)
        return logits.float(), domain_logits.float()

    def update(self, loss: torch.Tensor) -> None:
        """Take one optimizer step, and let the EMA follow."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.dist.broadcast_buffers(self.model)  # or every process would follow a teacher of its own
        self.ema.update(self.model)


def train(
    run: TrainingRun, config: TrainConfig, images: torch.Tensor, labels: torch.Tensor, unlabeled: torch.Tensor | None
) -> None:
    """Train on labeled images and adapt to unlabeled ones of the target, if any; all uint8 (N, 3, 28, 28)."""
    dist, seed, size = run.dist, run.config["seed"], config.batch_size
    seed_everything(seed)
    student = Learner(config, dist, adapts=unlabeled is not None)
    state: dict[str, Stateful] = {"model": student.model, "ema": student.ema, "optimizer": student.optimizer}
    # The names seed the shuffles: renaming one changes every published run.
    labeled_batches = EpochSampler(len(images), size, seed, "labelled", dist.device)
    labeled_domain = METHODS[run.config["method"]].labels
    teacher = None
    if unlabeled is not None:
        unlabeled_batches = EpochSampler(len(unlabeled), size, seed, "unlabelled", dist.device)
        domains = torch.arange(2, device=dist.device).repeat_interleave(size // dist.size)
        if config.consistency_weight > 0:
            teacher = EmaTeacher(student.ema, config, dist, labels)
            state["teacher"] = teacher
    run.resume(weights=student.ema.model, **state)

    for step in run.steps(config.steps, size):
        progress = step / config.steps
        relative_learning_rate = student.set_learning_rate(progress, config.steps)
        grl_lambda = grl_lambda_at(progress, config.grl_lambda_max)

        # Labeled images x_s, y_s, augmented.
        batch = dist.shard(labeled_batches(step))
        x_s, y_s = rotate(images[batch], labels[batch], config.rotation_probability)
        x = augment(x_s, config, labeled_domain)

        if unlabeled is not None:
            # Unlabeled images x_t; pseudo-labels are the teacher's predictions on them before augmentation.
            x_t = unlabeled[dist.shard(unlabeled_batches(step))]
            if teacher is not None:
                pseudo_labels, confidence = teacher(x_t)
                x_t, pseudo_labels = rotate(x_t, pseudo_labels, config.rotation_probability)
            # One batch of both domains, so that BatchNorm sees both (French et al. take two batches).
            x = torch.cat([x, augment(x_t, config, "target")])

        # Supervised loss L_y.
        logits, domain_logits = student(x, grl_lambda)
        logits_s, logits_t = logits[: len(y_s)], logits[len(y_s) :]
        loss = F.cross_entropy(logits_s, y_s, label_smoothing=config.label_smoothing)
        values: dict[str, float | torch.Tensor] = {"relative_learning_rate": relative_learning_rate}

        if unlabeled is not None:
            # DANN (Ganin et al. 2016, section 4.2): the domain classifier minimizes L_d, the features L_y - lambda L_d.
            # At lambda = 0 it only measures how different the domains' features are.
            domain_loss = F.cross_entropy(domain_logits, domains)
            loss = loss + domain_loss
            values |= {"grl_lambda": grl_lambda, "domain_loss": domain_loss}

        if teacher is not None:
            # Self-ensembling (French et al. 2018; AdaMatch 2022): + mu(t) H(pseudo-label, p(x_t)) where the mask is 1.
            source_confidence = dist.all_gather(logits_s.detach()).softmax(1).amax(1).mean()
            mask_t = mask(confidence, source_confidence, config.confidence)
            consistency_loss = consistency(logits_t, pseudo_labels, mask_t)
            weight = config.consistency_weight * ramp_up(progress, config.consistency_warmup)
            loss = loss + weight * consistency_loss
            values |= {"consistency_loss": consistency_loss, "mask_ratio": mask_t.mean()}

        # Optimizer and EMA.
        student.update(loss)
        run.check_finite(loss)
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            values["class_loss"] = F.cross_entropy(logits_s, y_s)
            values["class_accuracy"] = accuracy(logits_s.argmax(1), y_s)
            if unlabeled is not None:
                values["domain_accuracy"] = accuracy(domain_logits.argmax(1), domains)
            run.log(**values)

    if unlabeled is not None and teacher is not None:
        finetune_on_target(run, student, teacher, unlabeled, unlabeled_batches)


def finetune_on_target(
    run: TrainingRun, student: Learner, teacher: EmaTeacher, unlabeled: torch.Tensor, unlabeled_batches: EpochSampler
) -> None:
    """Go on with the target alone, so that network and BatchNorm fit it; the learning rate rises and falls once more.

    Source: Shu et al., "A DIRT-T Approach to Unsupervised Domain Adaptation", 2018 (there with other losses).
    """
    config, dist = student.config, student.dist
    steps = round(config.finetune_fraction * config.steps)
    for step in run.steps(config.steps + steps, config.batch_size):
        progress = (step - config.steps) / steps
        rate = student.set_learning_rate(progress, steps)

        # Pseudo-labels from the teacher; there is no source whose confidence the threshold could refer to.
        x_t = unlabeled[dist.shard(unlabeled_batches(step))]
        pseudo_labels, confidence = teacher(x_t)
        mask_t = mask(confidence, 1.0, config.confidence)
        x_t, pseudo_labels = rotate(x_t, pseudo_labels, config.rotation_probability)

        # Consistency loss alone.
        logits, domain_logits = student(augment(x_t, config, "target"))
        consistency_loss = consistency(logits, pseudo_labels, mask_t)
        loss = config.consistency_weight * consistency_loss
        loss = loss + 0.0 * domain_logits.sum()  # several processes wait for a gradient of every parameter

        # Optimizer and EMA.
        student.update(loss)
        run.check_finite(loss)
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps + steps:
            run.log(relative_learning_rate=rate, consistency_loss=consistency_loss, mask_ratio=mask_t.mean())


def train_and_evaluate(arguments: argparse.Namespace, dist: Distributed, config: TrainConfig) -> None:
    """Train a combination unless it is finished, and evaluate it."""
    data_root, method, target = arguments.data_root, arguments.method, arguments.target
    dist.check_batch_size(config.batch_size, 2)
    images, labels, unlabeled = load_training_data(data_root, method, target)
    data = [images, labels] if unlabeled is None else [images, labels, unlabeled]
    chosen = {"model": MODEL, "method": method, "inputs": arguments.inputs, "target": target}
    chosen |= {"source_dataset": dataset_name(data_root, SOURCE), "target_dataset": dataset_name(data_root, target)}
    name = f"p3_{target}_{method}" + ("" if arguments.inputs == "augmented" else f"_{arguments.inputs}")
    run = TrainingRun(arguments, dist, "p3", name, asdict(config) | chosen | {"train_digest": digest(*data)})
    if not run.is_finished():
        unlabeled = None if unlabeled is None else unlabeled.to(dist.device)
        train(run, config, images.to(dist.device), labels.to(dist.device), unlabeled)
        adapted = {} if unlabeled is None else {"domain_accuracy": run.mean_of_last_quarter("domain_accuracy")}
        run.finish(PANELS, **adapted)
    if dist.is_main_process:
        evaluate_checkpoint(run.weights_path, data_root, dist.device)


def main() -> None:
    parser = make_parser(__doc__)
    titles = "; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
    parser.add_argument("--method", choices=METHODS, default="ours", help=titles)
    parser.add_argument("--target", default=TARGETS[0], help="domain to adapt to, a folder of digits/")
    parser.add_argument("--inputs", choices=INPUTS, default="augmented", help="how images are normalized and augmented")
    add_common_arguments(parser)
    add_run_arguments(parser, PRESETS)
    arguments, config = parse_config(parser, lambda a: make_config(a.method, a.inputs, a.preset, a.target))
    if config.finetune_fraction and not config.consistency_weight:
        raise UserError("--finetune-fraction: needs a teacher; choose self_ensembling or ours")
    with init_distributed(arguments.device) as dist:
        train_and_evaluate(arguments, dist, config)


if __name__ == "__main__":
    run_main(main)
