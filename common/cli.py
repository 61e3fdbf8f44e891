"""Command lines: a configuration is a dataclass, every field is an option; user errors end as one line."""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from common import ROOT

from tqdm import tqdm

Config = TypeVar("Config")

DEFAULT_DATA_ROOT = ROOT / "hw2_data"
DEFAULT_PRESET = "cpu"
LARGEST_SEED = 2**64 - 1
RUN_DIR_HELP = "folder of the run (default: runs/PRESET/NAME[_VARIANT]_seedSEED)"
EXIT_TRY_AGAIN = 75  # of sysexits.h: stopped by --max-seconds; the same command resumes


class UserError(Exception):
    """A mistake the user can fix; the message names the file or option and says what to do (exit code 2)."""


def run_main(main: Callable[[], None]) -> None:
    """Run an entry script's ``main``; expected failures become one line on standard error.

    Exit codes: 2 user error, or a file that cannot be read or written; 75 stopped by --max-seconds; 130 interrupted.
    Anything else keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except (MemoryError, RuntimeError) as error:
        out_of_memory = ("can't allocate memory", "not enough memory", "out of memory")
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in out_of_memory):
            _fail("out of memory: use a smaller --batch-size, fewer images or another --device")
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            _fail(f"torch.compile failed ({str(error).splitlines()[0]}): pass --no-compile")
        raise
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def progress_bar(iterable: Any = None, **options: Any) -> tqdm:
    """Return a tqdm bar: lively in a terminal, a line every 20 seconds in a log file."""
    interval = 0.5 if sys.stderr.isatty() else 20.0
    return tqdm(iterable, mininterval=interval, maxinterval=interval, dynamic_ncols=True, **options)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, lists as they are typed, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, Iterable) and not isinstance(action.default, str):
            return f"{action.help} (default: {' '.join(map(str, action.default)) or 'none'})"
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser that is described by ``text``, a script's docstring."""
    return argparse.ArgumentParser(description=text, formatter_class=HelpFormatter, allow_abbrev=False)


def add_common_arguments(parser: argparse.ArgumentParser, data: bool = True) -> None:
    """Add --seed, --device and, unless ``data`` is false, --data-root."""
    parser.add_argument("--seed", type=seed_value, default=0, help="random seed")
    parser.add_argument("--device", default="auto", help="auto (cuda, else mps, else cpu), or a device's name")
    if data:
        parser.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="folder with face/ and digits/")


def add_run_arguments(parser: argparse.ArgumentParser, presets: Iterable[str], run_dir: str = RUN_DIR_HELP) -> None:
    """Add what every training command takes: --preset, --run-dir, --restart, --max-seconds."""
    parser.add_argument("--preset", choices=presets, default=DEFAULT_PRESET, help="full is for a GPU, sample a toy")
    parser.add_argument("--run-dir", type=Path, help=run_dir)
    parser.add_argument("--restart", action="store_true", help="discard the run's checkpoint and start from scratch")
    parser.add_argument("--max-seconds", type=positive_int, help="save a checkpoint and exit with status 75 after this")


def option(default: Any, help: str, interval: str = "") -> Any:
    """Declare a field of a configuration with its help text and, as in mathematics, its range: ``(0, 1]``."""
    return dataclasses.field(default=default, metadata={"help": help, "interval": interval})


def parse_config(
    parser: argparse.ArgumentParser, build: Callable[[argparse.Namespace], Config]
) -> tuple[argparse.Namespace, Config]:
    """Parse the command line, in which every field of a configuration is an option; return arguments and configuration.

    ``build`` returns the configuration that the options of ``parser`` (--method, --preset) choose; its values are the
    defaults. The arguments get ``variant`` and ``overrides``, the names of the fields that the command line changed.
    """
    chosen, _ = parser.parse_known_args([word for word in sys.argv[1:] if word not in ("-h", "--help")])
    default: Any = build(chosen)
    parser.add_argument("--variant", help="name of a run with changed options, under which its results are collected")
    group = parser.add_argument_group("configuration")
    hints = typing.get_type_hints(type(default))
    flags = {field.name: "--" + field.name.replace("_", "-") for field in dataclasses.fields(default)}
    for field in dataclasses.fields(default):
        value, kind = getattr(default, field.name), _argument_type(hints[field.name])
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        text = f"{field.metadata['help']} (default: {'none' if shown == '' else shown})".replace("%", "%%")
        group.add_argument(flags[field.name], dest=f"config_{field.name}", default=None, help=text, **kind)
    arguments = parser.parse_args()
    changes = {}
    for field in dataclasses.fields(default):
        value = getattr(arguments, f"config_{field.name}")
        value = tuple(value) if isinstance(value, list) else value
        if typing.get_args(hints[field.name]) == (float, float) and value and value[0] > value[1]:
            raise UserError(f"{flags[field.name]} {value[0]} {value[1]}: the first must not be larger than the second")
        if value is not None and value != getattr(default, field.name):
            for each in value if isinstance(value, tuple) else (value,):
                check_interval(flags[field.name], each, field.metadata["interval"])
            changes[field.name] = value
    arguments.overrides = sorted(changes)
    return arguments, dataclasses.replace(default, **changes)


def check_interval(name: str, value: Any, interval: str) -> None:
    """Raise a UserError unless ``value`` lies in ``interval``, for example ``[0, 1)``; empty allows everything."""
    if interval:
        low, high = map(float, interval[1:-1].split(","))
        if not (low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")):
            raise UserError(f"{name} {value}: must be in {interval}")


def seed_value(text: str) -> int:
    """Parse a seed, an integer from 0 to the largest that torch takes (an argparse type)."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer from 0 to {LARGEST_SEED}")
    return int(text)


def positive_int(text: str) -> int:
    """Parse an integer of at least 1 (an argparse type)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be an integer of at least 1")
    return int(text)


def _argument_type(hint: Any) -> dict[str, Any]:
    """Return what ``add_argument`` needs for a field's type: Literal, tuple (of any length, or two), bool, int, ..."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        kind, count = typing.get_args(hint)
        return _argument_type(kind) | {"nargs": "*" if count is Ellipsis else 2}
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        return {"choices": choices, "type": type(choices[0])}
    return {"type": hint, "metavar": hint.__name__.upper()}
