"""Train the digit classifier of P3: on the source alone, adapted to a target (DANN), or on the target itself.

    python p3_dann/train.py --mode dann --target svhn
    python p3_dann/train.py --mode dann --target usps --preset full --seed 1
    python p3_dann/train.py --mode source --target svhn --preset sample --data-root sample_data
    torchrun --nproc_per_node 2 p3_dann/train.py --mode dann --target svhn

The digits' labels come from MNIST-M (mode target: from the target), the adapted model sees the target's
training pictures without labels, and the last step's averaged weights are the result: no label of the target
is read before the one evaluation at the end.

Method: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.batches import Batches
from common.cli import (
    add_common_arguments,
    add_preset_arguments,
    add_run_arguments,
    make_parser,
    resolve_config,
)
from common.dataset import dataset_name, load_digits
from common.device import autocast, memory_format
from common.distributed import World, join_world, leave_world
from common.ema import ExponentialMovingAverage
from common.errors import UserError, run_main
from common.paths import workspace
from common.results import read_results, record
from common.run import Run
from common.seed import seed_everything
from common.weights import is_finished, save_weights
from p3_dann.augment import augment, prepare
from p3_dann.dataset import SOURCE, load_labelled, load_unlabelled
from p3_dann.evaluate import KIND, accuracy, information
from p3_dann.losses import conditional_entropy, consistency
from p3_dann.model import DANN_model, grl_lambda_at
from p3_dann.presets import MODES, TARGETS, TrainConfig, presets_for

PANELS = {
    "losses": ("class_loss", "domain_loss", "entropy", "consistency_loss"),
    "accuracies": ("class_accuracy", "domain_accuracy", "confident_share"),
    "schedules": ("grl_lambda", "relative_learning_rate"),
}
DEFAULTS = dataclasses.asdict(TrainConfig())  # for runs begun before an option was one
LATE_KEYS = ("class_loss", "class_accuracy", "domain_loss", "domain_accuracy", "confident_share", "consistency_loss")


def main() -> None:
    arguments = parse_arguments()
    config = resolve_config(arguments, presets_for(arguments.target))
    space = workspace(arguments.preset, arguments.output)
    folder = arguments.run_dir or space.runs / f"p3_{arguments.target}_{arguments.mode}_seed{arguments.seed}"
    world = join_world(arguments.device)
    world.check_batch(config.batch_size)
    key = f"{arguments.preset}/{arguments.target}/{arguments.mode}/seed{arguments.seed}"
    description = json.loads(json.dumps(dataclasses.asdict(config))) | {
        "preset": arguments.preset,
        "mode": arguments.mode,
        "target": arguments.target,
        "seed": arguments.seed,
        "source_data": dataset_name(arguments.data_root, SOURCE),
        "target_data": dataset_name(arguments.data_root, arguments.target),
    }
    weights = folder / "weights.safetensors"
    if (
        not arguments.fresh
        and is_finished(weights, KIND, description, DEFAULTS)
        and key in read_results(space.results, "p3")
    ):
        if world.is_writer:
            report(key, read_results(space.results, "p3")[key], weights)
    else:
        model, run, seconds = train(config, description, folder, arguments, world)
        if world.is_writer:
            save_weights(weights, model.state_dict(), KIND, description)
            values = measure(model, run, seconds, config, description, arguments)
            record(space.results, "p3", key, values, world.device)
            report(key, read_results(space.results, "p3")[key], weights)
    leave_world(world)


def train(
    config: TrainConfig, description: dict[str, Any], folder: Path, arguments: argparse.Namespace, world: World
) -> tuple[DANN_model, Run, float]:
    """Return the averaged model of the last step, in evaluation mode, its run, and the seconds it took."""
    device, seed = world.device, arguments.seed
    images, labels = load_labelled(arguments.data_root, arguments.mode, arguments.target)
    images, labels = images.to(device), labels.to(device)
    source_order = Batches(len(images), config.batch_size, seed, "labelled", device)
    adapts = arguments.mode == "dann"
    if adapts:
        target_images = load_unlabelled(arguments.data_root, arguments.target).to(device)
        target_order = Batches(len(target_images), config.batch_size, seed, "unlabelled", device)
        domains = torch.arange(2, device=device).repeat_interleave(config.batch_size // world.size)
    target_ranges = (config.target_zoom, config.target_width)
    ranges = target_ranges if arguments.mode == "target" else (config.source_zoom, config.source_width)

    seed_everything(seed)
    model = DANN_model().to(device, memory_format=memory_format(device))
    if not adapts:
        model.domain_classifier.requires_grad_(False)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    network = world.wrap(torch.compile(model) if config.compile else model)
    counts = {"labelled": len(images), "unlabelled": len(target_images) if adapts else 0}
    run = Run(
        folder,
        KIND,
        description | {"counts": counts},
        state={"model": model, "ema": ema, "optimizer": optimizer},
        weights=ema.model.state_dict,
        device=device,
        fresh=arguments.fresh,
        is_writer=world.is_writer,
        tensorboard=arguments.tensorboard,
        defaults=DEFAULTS,
        panels=PANELS,
        title=f"P3 {arguments.mode}, {arguments.preset}, {description['source_data']} → {description['target_data']}",
    )
    with run:
        for step in run.steps(config.steps, config.batch_size, f"p3 {arguments.mode} {arguments.target}"):
            progress = step / config.steps
            relative_learning_rate = learning_rate_at(progress, config)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * relative_learning_rate
            batch = source_order(step)
            batch_labels = world.part(labels[batch])
            inputs = world.part(augment(images[batch], config, *ranges, neighbours=arguments.mode != "target"))
            statistics = {"relative_learning_rate": relative_learning_rate}

            if not adapts:
                with autocast(device, config.precision):
                    class_logits, _ = network(inputs)
                loss = F.cross_entropy(class_logits.float(), batch_labels, label_smoothing=config.label_smoothing)
            else:
                grl_lambda = grl_lambda_at(progress, config.grl_lambda_max)
                target_weight = ramp_up(progress, config.consistency_warmup)
                target_batch = target_images[target_order(step)]
                target_inputs = world.part(augment(target_batch, config, *target_ranges, neighbours=False))
                with autocast(device, config.precision):
                    both_logits, domain_logits = network(
                        torch.cat([inputs, target_inputs]), grl_lambda, config.batchnorm == "separate"
                    )
                class_logits, target_logits = both_logits.float().chunk(2)
                class_loss = F.cross_entropy(class_logits, batch_labels, label_smoothing=config.label_smoothing)
                domain_loss = F.cross_entropy(domain_logits.float(), domains)
                loss = class_loss + config.domain_weight * domain_loss
                if config.entropy_weight > 0:
                    entropy = conditional_entropy(target_logits)
                    loss = loss + config.entropy_weight * target_weight * entropy
                    statistics["entropy"] = entropy
                if config.consistency_weight > 0:
                    with torch.no_grad(), autocast(device, config.precision):
                        teacher_logits = ema.model.classify(prepare(world.part(target_batch), config))
                    consistency_loss, confident = consistency(
                        target_logits, teacher_logits.float(), class_logits, config.confidence
                    )
                    loss = loss + config.consistency_weight * target_weight * consistency_loss
                    statistics |= {"consistency_loss": consistency_loss, "confident_share": confident}
                domain_accuracy = (domain_logits.argmax(1) == domains).float().mean()
                statistics |= {"domain_loss": domain_loss, "domain_accuracy": domain_accuracy, "grl_lambda": grl_lambda}

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            run.guard(loss)
            if step % config.log_every == 0 or step == config.steps - 1:
                class_accuracy = (class_logits.argmax(1) == batch_labels).float().mean()
                class_loss = F.cross_entropy(class_logits.float(), batch_labels)
                run.log(class_loss=class_loss, class_accuracy=class_accuracy, **statistics)
    return ema.model, run, run.total_seconds


def learning_rate_at(progress: float, config: TrainConfig) -> float:
    """Return the learning rate at ``progress`` (0..1) of training as a share of its peak.

    Linear warm-up, then down to 0 along half a cosine that spans the whole training (Loshchilov and Hutter, "SGDR",
    2017, equation 5), so that its peak is as far below 1 as the warm-up is long.
    """
    if progress < config.warmup:
        return min(1.0, (progress + 1.0 / config.steps) / config.warmup)
    return 0.5 + 0.5 * math.cos(math.pi * progress) if config.cosine else 1.0


def ramp_up(progress: float, share: float) -> float:
    """Return the weight of the target losses: half a cosine from 0 to 1 over the first ``share`` of training.

    Source: Berthelot et al., "AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain
    Adaptation", 2022, section 3.3.
    """
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, progress / share)) if share else 1.0


def measure(
    model: DANN_model,
    run: Run,
    seconds: float,
    config: TrainConfig,
    description: dict[str, Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return the record of a finished run: the first and only place that reads the target's labels."""
    try:
        images, labels = load_digits(arguments.data_root, arguments.target, "val")
    except UserError as error:
        message = f"{error} (the training is kept in {run.folder}; the same command then only evaluates it)"
        raise UserError(message) from error
    source_images, source_labels = load_digits(arguments.data_root, SOURCE, "val")
    unlabelled = load_unlabelled(arguments.data_root, arguments.target)
    measured = description | {
        "counts": run.config["counts"] | {"val": len(images)},
        "accuracy": accuracy(model, images, labels, config),
        "source_accuracy": accuracy(model, source_images, source_labels, config),
        "steps": config.steps,
        "epochs": round(config.steps * config.batch_size / run.config["counts"]["labelled"], 1),
        "target_information": information(model, unlabelled, config),
        **{key: late_mean(run.rows, key) for key in LATE_KEYS if key in run.rows[-1]},
        "seconds": round(seconds, 1),
        "images_per_second": round(config.steps * config.batch_size / max(seconds, 1e-9)),
    }
    # Pictures that no decision has seen, where the data has any: the course's own has no public test split.
    if (arguments.data_root / "digits" / arguments.target / "test.csv").is_file():
        images, labels = load_digits(arguments.data_root, arguments.target, "test")
        measured |= {"test_accuracy": accuracy(model, images, labels, config), "test_images": len(images)}
    return measured


def late_mean(rows: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a logged value over the last quarter of training."""
    values = [row[key] for row in rows[-max(1, len(rows) // 4) :]]
    return sum(values) / len(values)


def report(key: str, measured: dict[str, Any], weights: Path) -> None:
    """Print the accuracy and where the weights are."""
    print(
        f"{key}: {100 * measured['accuracy']:.2f} % on {measured['counts']['val']} pictures of "
        f"{measured['target_data']}; weights in {weights}"
    )


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--mode", choices=MODES, required=True, help="which data the digits are learned from")
    parser.add_argument("--target", choices=TARGETS, required=True, help="the domain to adapt to and to evaluate on")
    add_common_arguments(parser)
    add_preset_arguments(parser, presets_for(chosen_target()))
    add_run_arguments(parser)
    return parser.parse_args()


def chosen_target() -> str:
    """Return the target on the command line, whose presets the help then shows (svhn until one is chosen)."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--target", default=TARGETS[0])
    target = first.parse_known_args()[0].target
    return target if target in TARGETS else TARGETS[0]


if __name__ == "__main__":
    run_main(main)
