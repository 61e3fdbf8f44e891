"""Command lines: a preset is a dataclass, and every field of it is an option."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError
from common.paths import DEFAULT_DATA_ROOT

Config = TypeVar("Config")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except where an option is simply unset, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def option(
    default: Any,
    help: str,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    below: float | None = None,
    multiple_of: int = 1,
) -> Any:
    """Declare a field of a preset with the text that ``--help`` shows and the values it may take."""
    limits = {"minimum": minimum, "below": below, "multiple_of": multiple_of}
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices} | limits)


def make_parser(description: str, examples: str = "") -> argparse.ArgumentParser:
    """Return a parser that shows defaults and keeps the line breaks of ``examples``."""

    epilog = f"examples:\n{examples}" if examples else None
    return argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=HelpFormatter, allow_abbrev=False
    )


def add_common_arguments(parser: argparse.ArgumentParser, data: bool = True, output: bool = True) -> None:
    """Add --seed and --device, and where they apply --data-root and --output."""
    parser.add_argument("--seed", type=non_negative_int, default=0, help="everything random follows from it")
    parser.add_argument("--device", default="auto", help="auto (cuda, else mps, else cpu), or a device's name")
    if data:
        parser.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder with face/ and digits/")
    if output:
        parser.add_argument(
            "--output",
            type=Path,
            default=None,
            help="folder that receives images/, results/ and runs/ (unset: this repository; "
            "for --preset sample: runs/sample)",
        )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every training command takes: --run-dir, --fresh and --tensorboard."""
    parser.add_argument("--run-dir", type=Path, default=None, help="folder of checkpoints and logs (unset: in runs/)")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of going on from the checkpoint")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard event files")


def add_preset_arguments(parser: argparse.ArgumentParser, presets: Mapping[str, Any], default: str = "cpu") -> None:
    """Add --preset and one option for every field of the presets' dataclass.

    An option not given keeps the preset's value; the help names each preset's.
    """
    parser.add_argument("--preset", choices=sorted(presets), default=default, help="a whole configuration")
    group = parser.add_argument_group("configuration (unset: the preset's value)")
    hints = typing.get_type_hints(type(next(iter(presets.values()))))
    for field in dataclasses.fields(next(iter(presets.values()))):
        values = {name: getattr(preset, field.name) for name, preset in presets.items()}
        shown = ", ".join(f"{name} {_show(value)}" for name, value in sorted(values.items()))
        if len({repr(value) for value in values.values()}) == 1:
            shown = _show(next(iter(values.values())))
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(
            flag,
            dest=f"config_{field.name}",
            default=argparse.SUPPRESS,
            help=f"{field.metadata['help']} [{shown}]".replace("%", "%%"),
            **_argument_type(hints[field.name], field.metadata["choices"]),
        )


def resolve_config(arguments: argparse.Namespace, presets: Mapping[str, Config]) -> Config:
    """Return the chosen preset with the options given on the command line put in.

    Raises:
        UserError: a value that the field does not allow.
    """
    given = {key[len("config_") :]: value for key, value in vars(arguments).items() if key.startswith("config_")}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    config = dataclasses.replace(presets[arguments.preset], **given)
    for field in dataclasses.fields(config):
        limits, value, flag = field.metadata, getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if limits["minimum"] is not None and value is not None and value < limits["minimum"]:
            raise UserError(f"{flag} {value}: must be at least {limits['minimum']}")
        if limits["below"] is not None and value is not None and value >= limits["below"]:
            raise UserError(f"{flag} {value}: must be less than {limits['below']}")
        if limits["multiple_of"] > 1 and value % limits["multiple_of"]:
            raise UserError(f"{flag} {value}: must be a multiple of {limits['multiple_of']}")
    return config


def non_negative_int(text: str) -> int:
    """Parse an integer of at least 0 (an argparse type)."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must not be negative")
    return value


def positive_int(text: str) -> int:
    """Parse an integer of at least 1 (an argparse type)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _argument_type(hint: Any, choices: tuple[Any, ...] | None) -> dict[str, Any]:
    if isinstance(hint, types.UnionType):
        hint = next(member for member in typing.get_args(hint) if member is not types.NoneType)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return {"type": kind, "nargs": "*", "choices": choices, "metavar": "|".join(choices) if choices else "N"}
    return {"type": hint, "choices": choices, "metavar": None if choices else hint.__name__.upper()}
