"""Run the commands that a shell script lists on standard input: what scripts/train_p*.sh and run_all.sh are made of.

One command a line. The lines of a paragraph run one after the other, paragraphs side by side, each on its share of the
cores; a line ``wait`` waits for everything above it. ``if WORD unless WORD: COMMAND`` asks for a preset or an option.
``{name}`` is filled in. Options that all scripts share go to the commands that take them, others to train.py.

    python scripts/launch.py SCRIPT PRESET [OPTIONS] <COMMANDS      # SCRIPT: whose first comment is the help
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.paths import ROOT, workspace

SHARED = ("--preset", "--data-root", "--output", "--seed", "--device")
TAKEN = {  # by commands that do not take all of them
    "data/prepare.py": ("--data-root",),
    "p1_gan/evaluate.py": ("--data-root", "--output", "--seed", "--device"),
    "p1_gan/figures.py": ("--output", "--seed", "--device"),
    "p2_diffusion/inference.py": ("--seed", "--device"),
    "p2_diffusion/figures.py": ("--output", "--seed", "--device"),
    "scripts/render_report.py": ("--preset", "--output"),
}
CONDITION = re.compile(r"((?:if|unless) (?:[\w-]+ )*[\w-]+): ")

Command = list[str]


def read_commands(text: str, options: Sequence[str], preset: str) -> list[list[list[Command]]]:
    """Return the stages of a list, each with paragraphs of commands, with ``options`` put in.

    Args:
        text: the list.
        options: of the command line.
        preset: where ``options`` name none.
    """
    parser = argparse.ArgumentParser(prog="bash scripts", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    for option in SHARED:
        parser.add_argument(option, type=int if option == "--seed" else str, default=argparse.SUPPRESS)
    known, others = parser.parse_known_args(options)
    shared = {"--preset": preset} | {f"--{name.replace('_', '-')}": str(value) for name, value in vars(known).items()}
    preset, seed = shared["--preset"], int(shared.get("--seed", 0))
    space = workspace(preset, Path(shared["--output"]) if "--output" in shared else None)
    holds = {preset, *others, *shared}
    if preset == "sample":
        shared.setdefault("--data-root", str(space.results.parent / "hw2_data"))
    names = {"preset": preset, "runs": space.runs, "seed": seed, "second_seed": seed + 1, "third_seed": seed + 2}
    switches = {word for condition in CONDITION.findall(text) for word in condition.split() if word.startswith("--")}
    extra = [word for word in others if word not in switches]
    own = {word for line in text.splitlines() if "train.py" in line for word in line.split() if word.startswith("--")}
    for word in extra:
        if word.split("=")[0] in own | {"--run-dir"}:
            parser.error(f"{word}: not for this script, which has runs of its own; use train.py")

    def command(line: str) -> Command:
        words = [word.format_map(names) for word in shlex.split(line)]
        script = Path(words[0])
        if script.suffix not in (".py", ".sh"):
            return words
        taken = TAKEN.get(words[0], SHARED)
        words += [
            word for option in taken if option in shared and option not in words for word in (option, shared[option])
        ]
        if script.suffix == ".sh" or script.name == "train.py":
            words += extra
        return [sys.executable if script.suffix == ".py" else "bash", str(ROOT / script), *words[1:]]

    def paragraph(lines: str) -> list[Command]:
        split = [(CONDITION.match(line), line) for line in lines.splitlines()]
        return [
            command(line[match.end() :] if match else line)
            for match, line in split
            if not match or is_met(match[1], holds)
        ]

    return [[paragraph(part) for part in re.split(r"\n{2,}", stage.strip())] for stage in text.split("\nwait\n")]


def is_met(condition: str, holds: Iterable[str]) -> bool:
    """Tell whether ``if A unless B ...`` is true of the words that hold."""
    words = condition.split()
    return all((word in holds) == (kind == "if") for kind, word in zip(words[::2], words[1::2], strict=True))


class Launcher:
    """The commands that are running now, and why no more are started."""

    def __init__(self) -> None:
        self.status = 0
        self.running: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, *_: object) -> None:
        """Let every training save and leave."""
        with self.lock:
            self.status = 130
            for process in self.running:
                process.terminate()

    def run_stage(self, paragraphs: Sequence[Sequence[Command]]) -> None:
        """Run paragraphs side by side and wait for all."""
        environments = [os.environ] * len(paragraphs)
        if len(paragraphs) > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            threads = {"OMP_NUM_THREADS": str(max(1, cores // len(paragraphs)))}
            environments = [threads | os.environ | {"TQDM_POSITION": str(i)} for i in range(len(paragraphs))]
        lanes = [
            threading.Thread(target=self.run_paragraph, args=pair)
            for pair in zip(paragraphs, environments, strict=True)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def run_paragraph(self, commands: Sequence[Command], environment: dict[str, str]) -> None:
        """Run commands one after the other until one fails, or lacks weights since its training was stopped."""
        for command in commands:
            weights = [word for word in command if word.endswith(".safetensors") and not Path(word).exists()]
            if weights:
                print("stopped before the end of training; the same command goes on from here", file=sys.stderr)
                return
            with self.lock:
                if self.status == 130:
                    return
                process = subprocess.Popen(command, env=environment)
                self.running.add(process)
            status = process.wait()
            self.running.discard(process)
            if status:
                print(f"stopped at {shlex.join(command[1:])}; the same command goes on from there", file=sys.stderr)
                self.status = self.status or status
                return


def main() -> None:
    """Read the list, and run it."""
    script, preset, *options = sys.argv[1:]
    if {"-h", "--help"} & set(options):
        header = re.match(r"#!.*\n((?:#.*\n)+)", Path(script).read_text(encoding="utf-8"))
        print(re.sub(r"(?m)^# ?", "", header[1]), end="")
        return
    stages = read_commands(sys.stdin.read(), [word for word in options if word != "--list"], preset)
    if "--list" in options:
        for command in (command for paragraphs in stages for commands in paragraphs for command in commands):
            print(shlex.join(command))
        return
    launcher = Launcher()
    for paragraphs in stages:
        if not launcher.status:
            launcher.run_stage(paragraphs)
    sys.exit(launcher.status)


if __name__ == "__main__":
    main()
