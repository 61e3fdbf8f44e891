"""Options of the presets: what they may be, and what is said of anything else."""

from __future__ import annotations

from typing import Any

import pytest

from common.cli import add_preset_arguments, make_parser, resolve_config
from common.errors import UserError
from p1_gan.methods import METHODS
from p2_diffusion.presets import PRESETS as P2
from p3_dann.presets import presets_for

A, B = METHODS["A"].presets, METHODS["B"].presets


def resolved(presets: dict[str, Any], *options: str) -> Any:
    parser = make_parser("test")
    add_preset_arguments(parser, presets)
    return resolve_config(parser.parse_args(options), presets)


@pytest.mark.parametrize(
    ("presets", "option"),
    [
        (B, ("--generator-learning-rate", "-1")),
        (B, ("--real-label", "1.1")),
        (B, ("--batch-size", "1")),
        (P2, ("--learning-rate", "0")),
        (P2, ("--label-dropout", "3")),
        (P2, ("--channels", "33")),
        (P2, ("--channel-mults", "1", "1", "1", "1")),
        (P2, ("--channel-mults",)),
        (presets_for("svhn"), ("--ema-decay", "1")),
        (presets_for("svhn"), ("--batch-size", "1")),
        (presets_for("svhn"), ("--source-zoom", "0", "1")),
        (presets_for("svhn"), ("--target-width", "1.2", "0.8")),
        (presets_for("usps"), ("--source-width", "0.5", "1", "2")),
    ],
)
def test_values_that_no_training_can_have_are_refused_by_name(presets: dict[str, Any], option: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"^{option[0]}\\b"):
        resolved(presets, *option)


def test_an_option_changes_its_field_alone() -> None:
    changed = resolved(B, "--preset", "full", "--diff-augment", "cutout")
    assert changed.diff_augment == ("cutout",)
    assert changed == type(changed)(**vars(B["full"]) | {"diff_augment": ("cutout",)})
