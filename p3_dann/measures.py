"""What a trained network makes of pictures: their digits and features, and how good these are."""

from __future__ import annotations

import torch

from p3_dann.augment import prepare
from p3_dann.model import CLASSES, DANN_model
from p3_dann.presets import TrainConfig


@torch.inference_mode()
def predict_logits(
    model: DANN_model, images: torch.Tensor, config: TrainConfig, batch_size: int = 1000
) -> torch.Tensor:
    """Return the digit logits (N, 10) of ``model``, in evaluation mode, for uint8 pictures (N, 3, 28, 28)."""
    device = next(model.parameters()).device
    return torch.cat([model.classify(prepare(part.to(device), config)) for part in images.split(batch_size)])


def predict(model: DANN_model, images: torch.Tensor, config: TrainConfig, batch_size: int = 1000) -> torch.Tensor:
    """Return the digit, int64 (N,), that ``model`` (in evaluation mode) sees in each uint8 (N, 3, 28, 28)."""
    return predict_logits(model, images, config, batch_size).argmax(1)


def accuracies(digits: torch.Tensor, labels: torch.Tensor) -> tuple[float, dict[str, float]]:
    """Return the share of predicted ``digits`` (N,) that are right, over all and for each digit that occurs."""
    right = (digits.cpu() == labels.cpu()).double()
    each = {str(int(digit)): round(right[labels == digit].mean().item(), 4) for digit in labels.unique()}
    return right.mean().item(), each


def information(logits: torch.Tensor) -> float:
    """Return how much predictions (N, 10) tell about their unlabelled pictures, in nats (0..log 10).

    The entropy of the mean prediction less the mean entropy: high where every picture gets one digit and all
    digits occur. It needs no label, so recipes may be compared by it.

    Source: Bridle et al., "Unsupervised Classifiers, Mutual Information and Phantom Targets", 1992.
    """
    probabilities = logits.softmax(1)
    of_mean, of_each = torch.special.entr(probabilities.mean(0)).sum(), torch.special.entr(probabilities).sum(1)
    return (of_mean - of_each.mean()).item()


def predicted_shares(logits: torch.Tensor) -> list[float]:
    """Return how often each digit is the most likely one (10 shares of 1): a digit that is never named stands out."""
    counts = logits.argmax(1).bincount(minlength=CLASSES)
    return [round(share, 4) for share in (counts / len(logits)).tolist()]


@torch.inference_mode()
def features_of(model: DANN_model, images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Return the features (N, 768) of uint8 pictures (N, 3, 28, 28)."""
    device = next(model.parameters()).device
    return torch.cat([model.features(prepare(part.to(device), config)) for part in images.split(1000)])


def other_domain_share(source: torch.Tensor, target: torch.Tensor, neighbours: int) -> float:
    """Return how many of a feature's nearest ``neighbours`` are of the other domain (0: apart, 0.5: mixed).

    Args:
        source: features (N, 768).
        target: as many features (N, 768), or the share of perfectly mixed domains is another.
        neighbours: how many count, by Euclidean distance.
    """
    features = torch.cat([source, target])
    is_target = torch.arange(len(features)) >= len(source)
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    nearest = distances.topk(min(neighbours, len(features) - 1), largest=False).indices
    return round((is_target[nearest] != is_target[:, None]).double().mean().item(), 4)


def vote_accuracy(
    source: torch.Tensor, source_labels: torch.Tensor, target: torch.Tensor, labels: torch.Tensor, neighbours: int
) -> float:
    """Return how often a vote of the nearest ``neighbours`` among source features names a target feature's digit."""
    nearest = torch.cdist(target, source).topk(min(neighbours, len(source)), largest=False).indices
    return round((source_labels[nearest].mode(1).values == labels).double().mean().item(), 4)
