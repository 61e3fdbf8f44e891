# Sourced by run_all.sh and test.sh: makes .venv, installs requirements.txt into it, and sets $root and $python.
#
#   PYTHON=python3.12 bash scripts/test.sh    # which interpreter makes the environment (default: python3)
#
# To manage the environment yourself, install requirements.txt there and call the Python entry scripts directly.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"

# Cut off while it was made, an environment has no pip.
if ! "$python" -m pip --version >/dev/null 2>&1; then
    base="${PYTHON:-python3}"
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $base: Python 3.11 or newer is needed; name one with PYTHON=..." >&2
        exit 2
    fi
    if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "error: $base cannot make environments; install its venv package (Debian, Ubuntu: python3-venv)" >&2
        exit 2
    fi
    echo "making .venv (PyTorch is a large download)"
    "$base" -m venv "$root/.venv" >&2
fi
"$python" -m pip install --disable-pip-version-check --quiet -r "$root/requirements.txt"
export PYTHON="$python"
