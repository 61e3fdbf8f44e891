# Sourced by run_all.sh and test.sh: makes .venv with what requirements.txt lists; sets $root and $python.
# PYTHON=python3.12 bash scripts/test.sh chooses the interpreter (default: python3).
set -euo pipefail
[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit; }
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python" base="${PYTHON:-python3}"
if ! "$python" -m pip --version >/dev/null 2>&1; then # also after an interrupted installation
    if ! "$base" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $base: needs Python 3.11 or newer with venv (Debian: python3-venv); set PYTHON=..." >&2 && exit 2
    fi
    echo "creating .venv (PyTorch is a download of some gigabytes)"
    "$base" -m venv "$root/.venv"
fi
export PYTHON="$python"
install=("$python" -m pip install --quiet --disable-pip-version-check)
"${install[@]}" 'pip>=25.1' # knows dependency groups
"${install[@]}" -r "$root/requirements.txt"
