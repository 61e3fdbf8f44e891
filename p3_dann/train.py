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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import UserError, add_common_arguments, add_run_arguments, make_parser, parse_config, run_main
from common.data import EpochSampler, dataset_name, digest
from common.device import Distributed, autocast, init_distributed, to_device
from common.metrics import accuracy
from common.training import ExponentialMovingAverage, TrainingRun
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


def train(
    run: TrainingRun, config: TrainConfig, images: torch.Tensor, labels: torch.Tensor, unlabeled: torch.Tensor | None
) -> None:
    """Train on labeled images and adapt to unlabeled ones of the target, if any; all uint8 (N, 3, 28, 28).

    The weights of the run are the averaged ones.
    """
    dist, device, seed, size = run.dist, run.dist.device, run.config["seed"], config.batch_size
    torch.manual_seed(seed)
    model = to_device(DANN_model(), device)
    model.domain_classifier.requires_grad_(unlabeled is not None)  # it learns only where there are two domains
    ema = ExponentialMovingAverage(model, config.ema_decay)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=config.weight_decay, fused=True)
    network = dist.ddp(model)
    state: dict[str, Any] = {"model": model, "ema": ema, "optimizer": optimizer}
    # The names seed the shuffles: renaming one changes every published run.
    labeled_batches = EpochSampler(len(images), size, seed, "labelled", device)
    labeled_domain = METHODS[run.config["method"]].labels
    total, teacher = config.steps, None
    if unlabeled is not None:
        unlabeled_batches = EpochSampler(len(unlabeled), size, seed, "unlabelled", device)
        domains = torch.arange(2, device=device).repeat_interleave(size // dist.size)
        if config.consistency_weight > 0:
            teacher = state["teacher"] = EmaTeacher(ema, config, dist, labels)
            total += round(config.finetune_fraction * config.steps)

    run.resume(ema.model, **state)
    for step in run.steps(total, size):
        # Fine-tuning at the end goes on with the target alone, so that network and BatchNorm fit it (Shu et al., "A
        # DIRT-T Approach to Unsupervised Domain Adaptation", 2018, there with other losses).
        finetuning = step >= config.steps
        start, length = (config.steps, total - config.steps) if finetuning else (0, config.steps)
        progress = (step - start) / length
        learning_rate_factor = lr_factor(progress, length, config)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor
        grl_lambda = grl_lambda_at(progress, config.grl_lambda_max)

        # Labeled images x_s, y_s, augmented.
        inputs = []
        if not finetuning:
            batch = dist.shard(labeled_batches(step))
            x_s, y_s = rotate(images[batch], labels[batch], config.rotation_probability)
            inputs.append(augment(x_s, config, labeled_domain))

        # Unlabeled images x_t; pseudo-labels are the teacher's predictions on them before augmentation.
        if unlabeled is not None:
            x_t = unlabeled[dist.shard(unlabeled_batches(step))]
            if teacher is not None:
                pseudo_labels, confidence = teacher(x_t)
                x_t, pseudo_labels = rotate(x_t, pseudo_labels, config.rotation_probability)
            inputs.append(augment(x_t, config, "target"))

        # One batch of both domains, so that BatchNorm sees both (French et al. take two batches).
        with autocast(device, config.precision):
            logits, domain_logits = network(torch.cat(inputs), grl_lambda)
        logits, domain_logits = logits.float(), domain_logits.float()
        values: dict[str, float | torch.Tensor] = {"relative_learning_rate": learning_rate_factor}

        # Supervised loss L_y.
        if finetuning:
            logits_t = logits
            loss = 0.0 * domain_logits.sum()  # several processes wait for a gradient of every parameter
        else:
            logits_s, logits_t = logits[: len(y_s)], logits[len(y_s) :]
            loss = F.cross_entropy(logits_s, y_s, label_smoothing=config.label_smoothing)

        # DANN (Ganin et al. 2016, section 4.2): the domain classifier minimizes L_d, the features L_y - lambda L_d. L_d
        # is the mean over both domains, in the paper their sum. At lambda = 0 it only measures how the domains differ.
        if unlabeled is not None and not finetuning:
            domain_loss = F.cross_entropy(domain_logits, domains)
            loss = loss + domain_loss
            values |= {"grl_lambda": grl_lambda, "domain_loss": domain_loss}

        # Self-ensembling (French et al. 2018; AdaMatch 2022): + mu(t) H(pseudo-label, p(x_t)) where the mask is 1.
        if teacher is not None:
            # In fine-tuning there is no source whose confidence the threshold could refer to.
            source_confidence = 1.0 if finetuning else dist.all_gather(logits_s.detach()).softmax(1).amax(1).mean()
            mask_t = mask(confidence, source_confidence, config.confidence)
            consistency_loss = consistency(logits_t, pseudo_labels, mask_t)
            mu = 1.0 if finetuning else ramp_up(progress, config.consistency_warmup)
            loss = loss + config.consistency_weight * mu * consistency_loss
            values |= {"consistency_loss": consistency_loss, "mask_ratio": mask_t.mean()}

        # Optimizer and EMA.
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        dist.broadcast_buffers(model)  # or every process would follow a teacher of its own
        ema.update(model)

        run.check_finite(loss)
        if (step + 1) % config.log_every == 0 or step + 1 in (config.steps, total):
            if not finetuning:
                values["class_loss"] = F.cross_entropy(logits_s, y_s)
                values["class_accuracy"] = accuracy(logits_s.argmax(1), y_s)
            if "domain_loss" in values:
                values["domain_accuracy"] = accuracy(domain_logits.argmax(1), domains)
            run.log(**values)


def lr_factor(progress: float, steps: int, config: TrainConfig) -> float:
    """Return the fraction of the peak learning rate at ``progress`` (0..1) of a stage of ``steps``.

    Linear warm-up, then down to 0 along half a cosine that spans the whole stage, the warm-up included (Loshchilov and
    Hutter, "SGDR", 2017, equation 5).
    """
    if progress < config.warmup:
        return min(1.0, (progress + 1.0 / steps) / config.warmup)
    return 0.5 + 0.5 * math.cos(math.pi * progress) if config.cosine else 1.0


def train_and_evaluate(arguments: argparse.Namespace, dist: Distributed, config: TrainConfig) -> None:
    """Train a combination unless it is finished, and evaluate it."""
    data_root, method, target = arguments.data_root, arguments.method, arguments.target
    dist.check_batch_size(config.batch_size, 2)
    images, labels, unlabeled = load_training_data(data_root, method, target)
    data = [images, labels] if unlabeled is None else [images, labels, unlabeled]
    settings = {"model": MODEL, "method": method, "inputs": arguments.inputs, "target": target}
    settings |= {"source_dataset": dataset_name(data_root, SOURCE), "target_dataset": dataset_name(data_root, target)}
    name = f"p3_{target}_{method}" + ("" if arguments.inputs == "augmented" else f"_{arguments.inputs}")
    run = TrainingRun(arguments, dist, "p3", name, asdict(config) | settings | {"train_digest": digest(*data)})
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
    for name in ("grl_lambda_max", "consistency_weight"):
        if getattr(config, name) and not METHODS[arguments.method].sees_target:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option}: method {arguments.method} sees no target to adapt to; leave it out")
    with init_distributed(arguments.device) as dist:
        train_and_evaluate(arguments, dist, config)


if __name__ == "__main__":
    run_main(main)
