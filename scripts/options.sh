# Sourced by train_p1.sh, train_p2.sh and train_p3.sh after they set $problem, $usage (the lines of --help), $switches
# and $refused: reads the options every part shares, and gives the commands call and places.

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

call() { # script arguments...: with what every command of the problem shares
    local script=$1
    shift
    "$python" "$here/$problem/$script" --seed "$seed" "$@" ${device[@]+"${device[@]}"}
}
places() { # the same, for the commands that read data or write results
    call "$@" ${data[@]+"${data[@]}"} ${output[@]+"${output[@]}"}
}
