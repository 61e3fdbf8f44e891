# Sourced by train_p*.sh: sets $root, and $python to one that has what requirements.txt lists, or ends with one line.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# An environment that is active comes before .venv, any other Python after it.
for python in "${PYTHON:-}" ${VIRTUAL_ENV:+python} ${CONDA_PREFIX:+python} \
    "$root/.venv/bin/python" "$root/.venv/Scripts/python.exe" python3 python ""; do
    if [[ -n $python ]] && "$python" -c '
import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))
' torch torchvision safetensors sklearn matplotlib tqdm 2>/dev/null; then break; fi
done
if [[ -z $python ]]; then
    echo "error: no Python with torch and the rest of requirements.txt; run bash scripts/run_all.sh, which makes .venv," \
        "or pip install -r requirements.txt" >&2
    exit 2
fi
