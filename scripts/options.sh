# Sourced by train_p1.sh, train_p2.sh and train_p3.sh after they set $problem, $usage (the lines of --help), $switches
# and $refused: reads the options every part shares, and gives the commands call, places and side_by_side.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
preset=cpu
seed=0
seeds="${SEEDS:-}" # P3 trains with several
base="$here"
output=()
device=()
data=()
options=() # everything else goes to train.py
chosen="" # the switches that were given

fail() {
    echo "error: $1" >&2
    exit 2
}

while (($#)); do
    for name in $refused; do
        [[ ${1%%=*} != "$name" ]] || fail "$name: not for this script, which has runs of its own; use $problem/train.py"
    done
    case "$1" in
    -h | --help)
        sed -n "${usage}s/^# \\{0,1\\}//p" "$0"
        exec "$python" "$here/$problem/train.py" --help
        ;;
    --preset=* | --seed=* | --seeds=* | --output=* | --device=* | --data-root=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
    --preset | --seed | --seeds | --output | --device | --data-root)
        (($# > 1)) || fail "$1: needs a value"
        case "$1" in
        --preset) preset=$2 ;;
        --seed) seed=$2 seeds="" ;;
        --seeds) seeds=$2 ;;
        --output) base=$2 output=(--output "$2") ;;
        --device) device=(--device "$2") ;;
        --data-root) data=(--data-root "$2") ;;
        esac
        shift
        ;;
    *)
        if [[ " $switches " == *" $1 "* ]]; then chosen+=" $1"; else options+=("$1"); fi
        ;;
    esac
    shift
done
runs="$base/runs/$preset"
if [[ $seed != 0 && ${#output[@]} == 0 && " $refused " == *" --seeds "* ]]; then
    fail "--seed $seed: the pictures and the report here are those of seed 0; give another --output as well"
fi

call() { # script arguments...: with what every command of the problem shares
    local script=$1
    shift
    "$python" "$here/$problem/$script" --seed "$seed" "$@" ${device[@]+"${device[@]}"}
}
places() { # the same, for the commands that read data or write results
    call "$@" ${data[@]+"${data[@]}"} ${output[@]+"${output[@]}"}
}
side_by_side() { # names...: `lane NAME` for all at once, each on its share of the cores and with its own progress bar
    # P3's network is so small that two threads of one process wait for each other more than two processes do; P1's
    # evaluation uses one core.
    local name process cores failed=0 processes=()
    cores=$("$python" -c 'import os; print(len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)))')
    # One signal to every training, then wait until all have saved. The lanes' own shells leave it to their command.
    trap 'trap "" INT TERM; kill 0; wait; exit 130' INT TERM
    for name in "$@"; do
        {
            trap : TERM
            OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > $# ? cores / $# : 1))}" TQDM_POSITION=${#processes[@]} \
                lane "$name"
        } &
        processes+=($!)
    done
    for process in "${processes[@]}"; do wait "$process" || failed=$?; done
    ((failed == 0)) || exit "$failed"
}
