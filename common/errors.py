"""Mistakes a user can mend are shown as one clear line, never as a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

# torch's exception by its name: importing torch takes seconds, and commands that prepare data need none of it.
_DEVICE_FULL = "OutOfMemoryError"


class UserError(Exception):
    """A mistake the user can mend; the message names the file and says what to do (exit code 2)."""


def run_main(main: Callable[[], None]) -> None:
    """Run an entry script's ``main`` and turn expected failures into one line on standard error.

    Exit codes: 0 success, 2 a mistake the user can mend, 130 interrupted. Anything else is a defect of
    this repository and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == _DEVICE_FULL:
            _fail("the device ran out of memory: choose --device cpu, or a smaller --batch-size where there is one")
        if is_out_of_memory(error):
            _fail("the machine ran out of memory: choose a smaller --batch-size where there is one")
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            _fail(f"torch.compile failed ({str(error).splitlines()[0]}): run again with --no-compile")
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _fail(f"no space left on the disk while writing {error.filename or 'a file'}: free some and run again")
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            _fail(f"{error.filename}: permission denied: choose a folder you may write to")
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            _fail(f"{error.filename}: a file stands where a folder is needed: move it, or choose another folder")
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` is Python's or torch's way to say that no memory is left, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == _DEVICE_FULL:
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
