"""A real command with one thing changed, for tests/test_faults.py.

python tests/patched_command.py save-every-step p3_dann/train.py --mode source ...
python tests/patched_command.py pause p3_dann/train.py --mode source ...    # stops itself after its first logged row
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.paths import ROOT
from common.run import Run

change, script, *arguments = sys.argv[1:]
log = Run.log


def log_and_pause(run: Run, **values: object) -> None:
    """Log as ever and stop this process until someone lets it go on; only the first time."""
    Run.log = log
    run.log(**values)
    os.kill(os.getpid(), signal.SIGSTOP)


if change == "pause":
    Run.log = log_and_pause
else:
    Run.__init__.__kwdefaults__["checkpoint_seconds"] = -1.0
sys.argv = [str(ROOT / script), *arguments]
runpy.run_path(sys.argv[0], run_name="__main__")
