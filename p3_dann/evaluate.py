"""Tell how many predicted digits are right: of a CSV file that inference.py wrote, against a CSV file of labels.

    python p3_dann/evaluate.py pred.csv hw2_data/digits/svhn/val.csv

Pictures are joined by their names; predictions of pictures that the labels do not list are left out.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import add_common_arguments, make_parser
from common.dataset import read_names_and_labels
from common.device import memory_format
from common.errors import UserError, run_main
from common.report import percent
from common.weights import load_into, load_weights
from p3_dann.augment import prepare
from p3_dann.losses import conditional_entropy
from p3_dann.model import DANN_model, running_statistics_kept
from p3_dann.presets import TrainConfig

KIND = "p3_dann"


def load_model(path: Path, device: torch.device) -> tuple[DANN_model, TrainConfig, dict[str, object]]:
    """Return the network of a weights file in evaluation mode, its recipe, and how it was trained.

    Raises:
        UserError: the file is missing, damaged, or of another model.
    """
    state, trained = load_weights(path, KIND)
    model = DANN_model()
    load_into(model, state, path)
    known = [field.name for field in dataclasses.fields(TrainConfig) if field.name in trained]
    values = {name: tuple(trained[name]) if isinstance(trained[name], list) else trained[name] for name in known}
    config = TrainConfig(**values)
    return model.to(device, memory_format=memory_format(device)).eval(), config, trained


@torch.inference_mode()
def predict(model: DANN_model, images: torch.Tensor, config: TrainConfig, batch_size: int = 1000) -> torch.Tensor:
    """Return the digit, int64 (N,), that ``model`` (in evaluation mode) sees in each uint8 (N, 3, 28, 28)."""
    device = next(model.parameters()).device
    batches = (prepare(batch.to(device), config) for batch in images.split(batch_size))
    return torch.cat([model.classify(batch).argmax(1) for batch in batches])


def accuracy(model: DANN_model, images: torch.Tensor, labels: torch.Tensor, config: TrainConfig) -> float:
    """Return the share of ``images`` whose predicted digit equals its label."""
    return (predict(model, images, config).cpu() == labels.cpu()).double().mean().item()


@torch.inference_mode()
def information(model: DANN_model, images: torch.Tensor, config: TrainConfig, batch_size: int = 1000) -> float:
    """Return how much the predictions tell about unlabelled pictures, in nats (0..log 10).

    The entropy of the mean prediction less the mean entropy: high where every picture gets one digit and all
    digits occur. It needs no label, so recipes may be compared by it.

    Source: Bridle et al., "Unsupervised Classifiers, Mutual Information and Phantom Targets", 1992.
    """
    device = next(model.parameters()).device
    logits = torch.cat([model.classify(prepare(part.to(device), config)) for part in images.split(batch_size)])
    mean = logits.softmax(1).mean(0)
    return (torch.special.entr(mean).sum() - conditional_entropy(logits)).item()


@torch.inference_mode()
def domain_features(model: DANN_model, images: torch.Tensor, config: TrainConfig, is_source: bool) -> torch.Tensor:
    """Return the features (N, 768) of pictures of one domain, normalised as that domain was in training.

    A model trained with ``batchnorm="separate"`` keeps the running statistics of the target alone; pictures
    of the source are then normalised by their own, which is what they met in training.
    """
    inputs = prepare(images.to(next(model.parameters()).device), config)
    if not (is_source and config.batchnorm == "separate"):
        return torch.cat([model.features(batch) for batch in inputs.split(1000)])
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with running_statistics_kept(model):
        for layer in layers:
            layer.train()
        features = model.features(inputs)
        for layer in layers:
            layer.eval()
    return features


def compare(predictions: Path, labels: Path) -> tuple[Counter[int], Counter[int]]:
    """Return how many pictures of each digit ``labels`` lists, and how many of them ``predictions`` has right.

    Raises:
        UserError: a file cannot be read, or a listed picture has no prediction.
    """
    predicted = dict(zip(*read_names_and_labels(predictions), strict=True))
    listed, right = Counter(), Counter()
    for name, label in zip(*read_names_and_labels(labels), strict=True):
        if name not in predicted:
            raise UserError(f"{predictions}: has no line for {name}, which {labels} lists")
        listed[label] += 1
        right[label] += predicted[name] == label
    return listed, right


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("predictions", type=Path, help="what inference.py wrote")
    parser.add_argument("labels", type=Path, help="val.csv or test.csv of the domain")
    add_common_arguments(parser, data=False, output=False)
    arguments = parser.parse_args()
    listed, right = compare(arguments.predictions, arguments.labels)
    print(f"accuracy {percent(right.total() / listed.total(), 2)} on {listed.total():,} pictures")
    print("per digit " + ", ".join(f"{digit}: {percent(right[digit] / listed[digit])}" for digit in sorted(listed)))


if __name__ == "__main__":
    run_main(main)
