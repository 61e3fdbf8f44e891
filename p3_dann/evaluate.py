"""Tell how many predicted digits are right: of a CSV file that inference.py wrote, against a CSV file of labels.

    python p3_dann/evaluate.py pred.csv hw2_data/digits/svhn/val.csv
    python p3_dann/evaluate.py pred.csv --target svhn --split test

Pictures are joined by their names; predictions of pictures that the labels do not list are left out.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.cli import add_common_arguments, make_parser
from common.dataset import read_names_and_labels
from common.errors import UserError, run_main
from common.report import percent


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
    """Parse the command line and print the accuracy, of all digits and of each."""
    parser = make_parser(__doc__)
    parser.add_argument("predictions", type=Path, help="what inference.py wrote")
    parser.add_argument("labels", type=Path, nargs="?", help="a CSV file of labels (unset: that of --target)")
    parser.add_argument("--target", help="the domain in the data root whose labels count")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="which of its CSV files")
    add_common_arguments(parser, output=False)
    arguments = parser.parse_args()
    if (arguments.labels is None) == (arguments.target is None):
        raise UserError("name either a CSV file of labels or a --target")
    labels = arguments.labels or arguments.data_root / "digits" / arguments.target / f"{arguments.split}.csv"
    listed, right = compare(arguments.predictions, labels)
    print(f"accuracy {percent(right.total() / listed.total(), 2)} on {listed.total():,} pictures")
    print("per digit " + ", ".join(f"{digit}: {percent(right[digit] / listed[digit])}" for digit in sorted(listed)))


if __name__ == "__main__":
    run_main(main)
