"""Command lines: a preset is a dataclass, and every field of it is an option."""

from __future__ import annotations

import argparse
import dataclasses
import operator
import textwrap
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError
from common.paths import DEFAULT_DATA_ROOT

Config = TypeVar("Config")
LARGEST_SEED = 2**64 - 1
DEFAULT_PRESET = "cpu"

# What a field of a preset may be, by the argument of option(): the check, and its words.
LIMITS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "above": (operator.gt, "more than"),
    "below": (operator.lt, "less than"),
    "multiple_of": (lambda value, unit: value % unit == 0, "a multiple of"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except where an option is simply unset, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def option(
    default: Any,
    help: str,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
) -> Any:
    """Declare a field of a preset with the text that ``--help`` shows and the values it may take.

    ``minimum`` and ``maximum`` are allowed values themselves, ``above`` and ``below`` are not.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "below": below, "multiple_of": multiple_of}
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices} | limits)


def make_parser(text: str) -> argparse.ArgumentParser:
    """Return a parser that shows defaults; ``text`` is a script's docstring.

    Its first paragraph is the description; its second paragraph, if any, holds examples, whose line breaks stay.
    """
    head, *paragraphs = text.strip().split("\n\n")
    examples = textwrap.indent(textwrap.dedent(paragraphs[0]), "    ") if paragraphs else None
    return argparse.ArgumentParser(
        description=" ".join(head.split()),
        epilog=examples and f"examples:\n{examples}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def add_common_arguments(parser: argparse.ArgumentParser, data: bool = True, output: bool = True) -> None:
    """Add --seed and --device, and where they apply --data-root and --output."""
    parser.add_argument("--seed", type=seed_value, default=0, help="everything random follows from it")
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
    """Add what every training command takes: --run-dir, --fresh and --max-seconds."""
    parser.add_argument("--run-dir", type=Path, default=None, help="folder of checkpoints and logs (unset: in runs/)")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of going on from the checkpoint")
    parser.add_argument("--max-seconds", type=positive_int, default=None, help="save and leave after so long")


def add_preset_arguments(parser: argparse.ArgumentParser, presets: Mapping[str, Any]) -> None:
    """Add --preset and one option for every field of the presets' dataclass.

    An option not given keeps the preset's value; the help names that of :data:`DEFAULT_PRESET` and
    those that differ from it.
    """
    parser.add_argument("--preset", choices=sorted(presets), default=DEFAULT_PRESET, help="a whole configuration")
    group = parser.add_argument_group(
        f"configuration (unset: the preset's value, [{DEFAULT_PRESET}; others that differ])"
    )
    hints = typing.get_type_hints(type(next(iter(presets.values()))))
    for field in dataclasses.fields(next(iter(presets.values()))):
        values = {name: getattr(preset, field.name) for name, preset in presets.items()}
        usual = values[DEFAULT_PRESET]
        others = [f"{name} {_show(value)}" for name, value in sorted(values.items()) if value != usual]
        shown = "; ".join([_show(usual), *others])
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
        flag = f"--{field.name.replace('_', '-')}"
        value = getattr(config, field.name)
        for name, (allowed, words) in LIMITS.items():
            limit = field.metadata[name]
            if limit is not None and not allowed(value, limit):
                raise UserError(f"{flag} {value}: must be {words} {limit}")
    return config


def seed_value(text: str) -> int:
    """Parse a seed, an integer from 0 to the largest that torch takes (an argparse type)."""
    value = int(text)
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text}: must lie between 0 and {LARGEST_SEED}")
    return value


def positive_int(text: str) -> int:
    """Parse an integer of at least 1 (an argparse type)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _show(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "none"


def _argument_type(hint: Any, choices: tuple[Any, ...] | None) -> dict[str, Any]:
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return {"type": kind, "nargs": "*", "choices": choices, "metavar": "|".join(choices) if choices else "N"}
    return {"type": hint, "choices": choices, "metavar": None if choices else hint.__name__.upper()}
