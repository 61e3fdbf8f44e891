# Sourced by train_p*.sh and run_all.sh: $preset, $seed, $target, $runs; shared=() for every command, options=() and
# extra=(), the rest of the command line, for training; sampling_seeds=() for evaluation; run, which runs a command of the
# repository; side_by_side.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
preset=cpu seed=0 target="" data_root="$root/hw2_data" device=auto options=() extra=()
while (($#)); do
    [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
    case $1 in
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;;
    --preset | --seed | --target | --device) printf -v "${1#--}" %s "${2?"$1: needs a value"}" && shift 2 ;;
    --data-root) data_root="${2?"$1: needs a value"}" && shift 2 ;;
    --restart) options+=("$1") && shift ;;
    --run-dir | --method | --variant | --inputs)
        echo "error: $1: this script trains several runs; call train.py for one" >&2 && exit 2
        ;;
    *) extra+=("$1") && shift ;;
    esac
done
runs="$root/runs/$preset" shared=(--data-root "$data_root" --device "$device")
options+=(--preset "$preset" --seed "$seed" "${shared[@]}") sampling_seeds=(0)
[[ $preset == sample ]] || sampling_seeds=(0 1 2)
for python in "${PYTHON:-}" ${VIRTUAL_ENV:+python} ${CONDA_PREFIX:+python} "$root/.venv/bin/python" python3; do
    if "$python" -c 'import torch' 2>/dev/null; then break; fi
done
stopped=0
trap stopped=143 INT TERM # a command in progress may get the signal too; no other one begins
run() { echo "== python $*" && "$python" "$root/$1" "${@:2}" && return $stopped; }

# Call a function for every value at once, one thread each: threads of one process wait for the slowest at every layer,
# processes do not wait for each other, not even on a busy machine. A signal ends all; if one fails, the others finish.
side_by_side() { # FUNCTION VALUE...
    local pids=() status=0 value
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    set -m # a process group each, which a signal reaches as a whole
    for value in "${@:2}"; do
        (trap stopped=143 INT TERM && "$1" "$value") &
        pids+=($!)
    done
    trap 'kill -TERM -- "${pids[@]/#/-}" 2>/dev/null || true' INT TERM
    # A signal interrupts wait, but not what it waits for.
    for value in "${pids[@]}"; do while wait "$value" || status=$?; kill -0 "$value" 2>/dev/null; do :; done; done
    [[ $status == 0 ]] || exit $status
}
