"""Train the digit classifier of P3: on the source alone, adapted to a target, or on the target itself.

    python p3_dann/train.py --mode dann --target svhn                      # preset cpu: self-ensembling
    python p3_dann/train.py --mode dann --target svhn --preset original    # gradient reversal, as the report has it
    python p3_dann/train.py --mode dann --target usps --preset full --seed 1
    python p3_dann/train.py --mode dann --target receipts --data-root mine # a folder of your own: mine/digits/receipts
    torchrun --nproc_per_node 2 p3_dann/train.py --mode dann --target svhn

The digits' labels come from MNIST-M (mode target: from the target), the adapted model sees the target's
training pictures without labels, and the last step's averaged weights are the result: no label of the target
is read before the one evaluation at the end, and it may have none.

Methods: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016; French et al., "Self-ensembling for
visual domain adaptation", 2018; Shu et al., "A DIRT-T Approach to Unsupervised Domain Adaptation", 2018 (the last steps
on the target alone).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.batches import Batches
from common.cli import add_common_arguments, add_preset_arguments, add_run_arguments, make_parser, resolve_config
from common.dataset import data_digest, dataset_name, digit_domains, has_labels, load_digits
from common.device import autocast, place
from common.distributed import World, join_world
from common.ema import ExponentialMovingAverage
from common.errors import run_main
from common.report import percent
from common.run import Job, Run
from common.seed import seed_everything
from p3_dann.augment import augment, half_turn, prepare
from p3_dann.dataset import REPORTED_TARGETS, SOURCE, check_target, load_labelled, load_unlabelled
from p3_dann.measures import accuracies, information, predict, predict_logits, predicted_shares
from p3_dann.model import KIND, DANN_model, MultilinearMap, grl_lambda_at
from p3_dann.presets import MODES, NO_TEACHER, TrainConfig, presets_for
from p3_dann.pseudo_labels import PseudoLabels, consistency

PANELS = {
    "losses": ("class_loss", "domain_loss", "consistency_loss"),
    "accuracies": ("class_accuracy", "domain_accuracy", "confident_share"),
    "schedules": ("grl_lambda", "relative_learning_rate"),
}
# Those of the teacher are of the last stage, which is refinement where there is any; the others of the first.
LATE_KEYS = ("class_loss", "class_accuracy", "domain_loss", "domain_accuracy", "confident_share", "consistency_loss")


def train(
    job: Job,
    config: TrainConfig,
    world: World,
    images: torch.Tensor,
    labels: torch.Tensor,
    unlabelled: torch.Tensor | None = None,
) -> Run:
    """Train on labelled ``images``, uint8 (N, 3, 28, 28), and adapt to ``unlabelled`` ones of the target, if any.

    With a teacher a second stage follows, on the target alone, with a learning-rate schedule of its own.

    Returns:
        The run, whose weights are those of the averaged network.
    """
    device, batch_size, seed = world.device, config.batch_size, job.config["seed"]
    seed_everything(seed)
    adapts = unlabelled is not None
    model = place(DANN_model(), device)
    if not adapts:
        model.domain_classifier.requires_grad_(False)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    network = world.wrap(torch.compile(model) if config.compile else model)

    state = {"model": model, "ema": ema, "optimizer": optimizer}
    batches = Batches(len(images), batch_size, seed, "labelled", device)
    target_look = (config.target_zoom, config.target_width, False)
    source_look = (config.source_zoom, config.source_width, True)
    look = target_look if job.config["mode"] == "target" else source_look
    condition = None
    if adapts:
        unlabelled_batches = Batches(len(unlabelled), batch_size, seed, "unlabelled", device)
        pseudo_labels = PseudoLabels(config, labels, len(unlabelled))
        state["pseudo_labels"] = pseudo_labels
        if config.adversary == "conditional":
            condition = MultilinearMap(seed, device)
        domains = torch.arange(2, device=device).repeat_interleave(batch_size // world.size)
        if config.shared_augmentation:
            target_look = source_look

    has_teacher = adapts and config.consistency_weight > 0
    refinement_steps = round(config.refinement * config.steps) if has_teacher else 0

    with Run(job, world, state, ema.model.state_dict, PANELS) as run:
        for step in run.steps(config.steps + refinement_steps, batch_size):
            sees_labels = step < config.steps  # then the target alone, as in DIRT-T
            start, steps = (0, config.steps) if sees_labels else (config.steps, refinement_steps)
            progress = (step - start) / steps
            relative_learning_rate = learning_rate_at(progress, steps, config)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * relative_learning_rate
            statistics = {"relative_learning_rate": relative_learning_rate}
            inputs, grl_lambda = [], 0.0

            if sees_labels:
                batch = batches(step)
                labelled_images, digits = half_turn(images[batch], labels[batch], config.half_turn)
                labelled_digits = world.part(digits)
                inputs.append(world.part(augment(labelled_images, config, *look)))
            if adapts:
                grl_lambda = grl_lambda_at(progress, config.grl_lambda_max)
                samples = unlabelled_batches(step)
                target_images = unlabelled[samples]
                if has_teacher:
                    with torch.no_grad(), autocast(device, config.precision):
                        teacher_logits = ema.model.classify(prepare(world.part(target_images), config))
                    teacher_digits, confidence = pseudo_labels.read(world.whole(teacher_logits.float()))
                    target_images, target_digits = half_turn(target_images, teacher_digits, config.half_turn)
                inputs.append(world.part(augment(target_images, config, *target_look)))

            with autocast(device, config.precision):
                logits, domain_logits = network(torch.cat(inputs), grl_lambda, condition)
            logits = logits.float()
            if sees_labels:
                labelled_logits = logits[: len(labelled_digits)]
                loss = F.cross_entropy(labelled_logits, labelled_digits, label_smoothing=config.label_smoothing)
            else:
                loss = 0.0 * domain_logits.sum()  # torchrun waits for a gradient of every parameter
            if sees_labels and adapts:
                domain_loss = F.cross_entropy(domain_logits.float(), domains)
                loss = loss + config.domain_weight * domain_loss
                domain_accuracy = (domain_logits.argmax(1) == domains).float().mean()
                statistics |= {"domain_loss": domain_loss, "domain_accuracy": domain_accuracy, "grl_lambda": grl_lambda}
            if has_teacher:
                on_source = world.whole(labelled_logits.detach()).softmax(1).amax(1).mean() if sees_labels else 1.0
                followed = world.part(pseudo_labels.followed(teacher_digits, confidence, on_source, samples))
                consistency_loss = consistency(logits[-len(followed) :], world.part(target_digits), followed)
                weight = ramp_up(progress, config.consistency_warmup) if sees_labels else 1.0
                loss = loss + config.consistency_weight * weight * consistency_loss
                statistics |= {"consistency_loss": consistency_loss, "confident_share": followed.mean()}

            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if adapts:
                world.share_buffers(model)  # or every process would follow a teacher of its own
            ema.update(model)
            run.guard(loss)
            if (step + 1) % config.log_every == 0 or step + 1 in (config.steps, config.steps + refinement_steps):
                if sees_labels:
                    class_accuracy = (labelled_logits.argmax(1) == labelled_digits).float().mean()
                    class_loss = F.cross_entropy(labelled_logits, labelled_digits)
                    statistics |= {"class_loss": class_loss, "class_accuracy": class_accuracy}
                run.log(**statistics)
    return run


def learning_rate_at(progress: float, steps: int, config: TrainConfig) -> float:
    """Return the learning rate at ``progress`` (0..1) of a stage of so many ``steps`` as a share of its peak.

    Linear warm-up, then down to 0 along half a cosine that spans the whole stage, the warm-up included (Loshchilov and
    Hutter, "SGDR", 2017, equation 5).
    """
    if progress < config.warmup:
        return min(1.0, (progress + 1.0 / steps) / config.warmup)
    return 0.5 + 0.5 * math.cos(math.pi * progress) if config.cosine else 1.0


def ramp_up(progress: float, share: float) -> float:
    """Return the weight of the target's loss: half a cosine from 0 to 1 over the first ``share`` of training.

    Source: Berthelot et al., "AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain
    Adaptation", 2022, section 3.3.
    """
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, progress / share)) if share else 1.0


def measure(run: Run, config: TrainConfig, data_root: Path, counts: dict[str, int]) -> dict[str, Any]:
    """Return what is recorded of a complete run: the first and only place that reads labels of an adapted target.

    Accuracies are left out, and that is said, for pictures without labels.
    """
    target, model = run.job.config["target"], run.state["ema"].model
    measured: dict[str, Any] = {}
    for domain, split, prefix in ((target, "val", ""), (target, "test", "test_"), (SOURCE, "val", "source_")):
        if domain not in digit_domains(data_root) or not has_labels(data_root, domain, split, partial=True):
            path = data_root / "digits" / domain / f"{split}.csv"
            print(f"note: {path}: not there, or without labels; no {prefix}accuracy is recorded", file=sys.stderr)
            continue
        images, labels = load_digits(data_root, domain, split, partial=True)
        measured[f"{prefix}accuracy"], each = accuracies(predict(model, images, config), labels)
        if domain == target:
            measured[f"{prefix}digit_accuracy"] = each
            counts = counts | {split: len(images)}
    logits = predict_logits(model, load_unlabelled(data_root, target), config)
    return measured | {
        "counts": counts,
        "epochs": round(config.steps * config.batch_size / counts["labelled"], 1),
        "target_information": information(logits),
        "predicted_shares": predicted_shares(logits),
        **{key: run.late_mean(key) for key in LATE_KEYS if any(key in row for row in run.rows)},
    }


def train_and_record(job: Job, config: TrainConfig, world: World, data_root: Path) -> bool:
    """Train what ``job`` says, measure and record it, unless that is done; return whether it now is."""
    if job.is_finished(world):
        return True
    mode, target = job.config["mode"], job.config["target"]
    images, labels = (tensor.to(world.device) for tensor in load_labelled(data_root, mode, target))
    unlabelled = load_unlabelled(data_root, target).to(world.device) if mode == "dann" else None
    run = train(job, config, world, images, labels, unlabelled)
    if run.is_complete and world.is_writer:
        counts = {"labelled": len(images), "unlabelled": 0 if unlabelled is None else len(unlabelled)}
        measured = measure(run, config, data_root, counts)
        job.finish(run, **measured)
        if "accuracy" in measured:
            print(f"{job.key}: {percent(measured['accuracy'], 2)} of {measured['counts']['val']:,} pictures right")
    return run.is_complete


def described(data_root: Path, mode: str, target: str) -> dict[str, str]:
    """Return what the record of a training says of both data sets.

    Raises:
        UserError: they do not allow it.
    """
    check_target(data_root, mode, target)
    digests = [data_digest(data_root, target if mode == "target" else SOURCE)]
    if mode == "dann":
        digests.append(data_digest(data_root, target, labels=False))
    names = {"source_data": dataset_name(data_root, SOURCE), "target_data": dataset_name(data_root, target)}
    return names | {"data_digest": " ".join(digests)}


def parse_arguments() -> argparse.Namespace:
    """Return the command line; the help shows the presets of the target on it."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--target", default=REPORTED_TARGETS[0])
    parser = make_parser(__doc__)
    parser.add_argument(
        "--mode",
        choices=MODES,
        required=True,
        help="source: its labels alone; dann: adapted to the target as the preset says; target: its labels",
    )
    parser.add_argument("--target", required=True, help="domain to adapt to and to evaluate on: a folder of digits/")
    add_common_arguments(parser)
    add_run_arguments(parser)
    add_preset_arguments(parser, presets_for(first.parse_known_args()[0].target))
    return parser.parse_args()


def main() -> None:
    """Parse the command line, train, and write weights, curves and the record."""
    arguments = parse_arguments()
    mode, target = arguments.mode, arguments.target
    config = resolve_config(arguments, presets_for(target))
    if mode != "dann":  # or the record would tell of an adaptation that was none
        config = replace(config, **NO_TEACHER)
    with join_world(arguments.device) as world:
        world.check_batch(config.batch_size, least=2)
        data = {"mode": mode, "target": target, **described(arguments.data_root, mode, target)}
        key = f"train/{target}/{mode}/{arguments.preset}"
        job = Job.of(arguments, config, "p3", KIND, f"p3_{target}_{mode}", key, **data)
        train_and_record(job, config, world, arguments.data_root)


if __name__ == "__main__":
    run_main(main)
