# Sourced by the other scripts: makes .venv once, installs requirements.txt into it, and sets $python.
#
#   PYTHON=python3.12 bash scripts/test.sh    # which interpreter makes the environment (default: python3)
#
# It installs again only when requirements.txt has changed. To manage the environment yourself, install
# requirements.txt there and call the Python entry scripts directly.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"
stamp="$root/.venv/installed-requirements.txt"

if ! cmp -s "$root/requirements.txt" "$stamp"; then
    base="${PYTHON:-python3}"
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $base: Python 3.11 or newer is needed; name one with PYTHON=..." >&2
        exit 2
    fi
    echo "installing requirements.txt into .venv (once; PyTorch is a large download)"
    [[ -x $python ]] || "$base" -m venv "$root/.venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt"
    cp "$root/requirements.txt" "$stamp"
fi
export PYTHON="$python"
