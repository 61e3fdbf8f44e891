# Sourced by the other scripts: makes .venv once, installs requirements.txt into it, and sets $python.
#
#   PYTHON=python3.12 bash scripts/test.sh    # which interpreter makes the environment (default: python3)
#
# It installs again only when requirements.txt has changed. To manage the environment yourself, install
# requirements.txt there and call the Python entry scripts directly.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"
stamp="$root/.venv/installed-requirements.txt"

if [[ ! -x $python ]] || ! cmp -s "$root/requirements.txt" "$stamp"; then
    base="${PYTHON:-python3}"
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $base: Python 3.11 or newer is needed; name one with PYTHON=..." >&2
        exit 2
    fi
    # Cut off while it was made, an environment has no pip; it would never get one.
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "error: $base cannot make environments; install its venv package (Debian, Ubuntu: python3-venv)" >&2
            exit 2
        fi
        "$base" -m venv --clear "$root/.venv" >&2
    fi
    echo "installing requirements.txt into .venv (once; PyTorch is a large download)"
    "$python" -m pip install --disable-pip-version-check -r "$root/requirements.txt"
    cp "$root/requirements.txt" "$stamp"
fi
export PYTHON="$python"
