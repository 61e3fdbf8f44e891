# Sourced by train_p*.sh: $preset, $seed, $target, $runs; for every command shared=(), for training options=() and
# extra=(), which has the rest of the command line; run, which runs a command of the repository; and side_by_side.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/side_by_side.sh"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
preset=cpu seed=0 target="" data_root="$root/hw2_data" device=auto extra=()
while (($#)); do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case $1 in
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;;
    --preset | --seed | --target | --device) printf -v "${1#--}" %s "${2?"$1: needs a value"}" && shift 2 ;;
    --data-root) data_root="${2?"$1: needs a value"}" && shift 2 ;;
    --run-dir | --method) echo "error: $1: this script trains several runs; call train.py for one" >&2 && exit 2 ;;
    *) extra+=("$1") && shift ;;
    esac
done
runs="$root/runs/$preset" shared=(--data-root "$data_root" --device "$device")
options=(--preset "$preset" --seed "$seed" "${shared[@]}")
for python in "${PYTHON:-}" ${VIRTUAL_ENV:+python} ${CONDA_PREFIX:+python} "$root/.venv/bin/python" python3; do
    if "$python" -c 'import torch' 2>/dev/null; then break; fi
done
trap : INT TERM # the command in progress gets the signal too, saves, and fails; only then the script ends
run() { echo "== python $*" && "$python" "$root/$1" "${@:2}"; }
