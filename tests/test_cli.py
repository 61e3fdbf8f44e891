"""Options of the presets: what they may be, and what is said of anything else."""

from __future__ import annotations

from typing import Any

import pytest

from common.cli import add_preset_arguments, make_parser, resolve_config
from common.errors import UserError
from p1_gan.presets import PRESETS as P1
from p2_diffusion.presets import PRESETS as P2
from p3_dann.presets import presets_for


def resolved(presets: dict[str, Any], *options: str) -> Any:
    parser = make_parser("test")
    add_preset_arguments(parser, presets)
    return resolve_config(parser.parse_args(options), presets)


@pytest.mark.parametrize(
    ("presets", "option", "words"),
    [
        (P1["B"], ("--generator-learning-rate", "-1"), "more than 0"),
        (P1["A"], ("--beta1", "1.5"), "less than 1"),
        (P1["B"], ("--real-label", "1.1"), "at most 1"),
        (P1["B"], ("--batch-size", "1"), "at least 2"),
        (P2, ("--learning-rate", "0"), "more than 0"),
        (P2, ("--clip-norm", "0"), "more than 0"),
        (P2, ("--label-dropout", "3"), "at most 1"),
        (P2, ("--channels", "33"), "a multiple of 32"),
        (P2, ("--channel-mults", "1", "1", "1", "1"), "1 to 3 factors"),
        (P2, ("--channel-mults",), "1 to 3 factors"),
        (presets_for("svhn"), ("--ema-decay", "1"), "less than 1"),
        (presets_for("usps"), ("--warmup", "2"), "at most 1"),
        (presets_for("svhn"), ("--source-zoom", "0", "1"), "smallest and the largest"),
    ],
)
def test_values_that_no_training_can_have_are_refused_by_name(
    presets: dict[str, Any], option: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError, match=f"{option[0]}.*{words}"):
        resolved(presets, *option)


def test_an_option_changes_its_field_alone() -> None:
    changed = resolved(P1["B"], "--preset", "full", "--diff-augment", "cutout")
    assert changed.diff_augment == ("cutout",)
    assert changed == type(changed)(**vars(P1["B"]["full"]) | {"diff_augment": ("cutout",)})
