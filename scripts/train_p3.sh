#!/usr/bin/env bash
# Train everything P3's report needs: {source, dann, target} x {svhn, usps}, and DANN as in the original report.
#
#   bash scripts/train_p3.sh                                   # preset cpu, seed 0
#   bash scripts/train_p3.sh --preset full --seeds "0 1 2"
#   bash scripts/train_p3.sh --preset sample --data-root sample_data
#   bash scripts/train_p3.sh --no-original --steps 2000        # every other option goes to p3_dann/train.py
#
# Interrupted, it goes on where it stopped; finished trainings are only reported.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
seeds="${SEEDS:-0}"
preset=cpu
original=yes
options=()

fail() {
    echo "error: $1" >&2
    exit 2
}

while (($#)); do
    case "$1" in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exec "$python" "$here/p3_dann/train.py" --help
        ;;
    --preset | --seeds | --seed)
        (($# > 1)) || fail "$1: needs a value"
        if [[ $1 == --preset ]]; then preset=$2; else seeds=$2; fi
        shift
        ;;
    --preset=*) preset=${1#*=} ;;
    --seeds=* | --seed=*) seeds=${1#*=} ;;
    --no-original) original=no ;;
    --mode* | --target | --target=* | --run-dir*) fail "${1%%=*}: this script trains every mode and target; use p3_dann/train.py" ;;
    *) options+=("$1") ;;
    esac
    shift
done

train() {
    "$python" "$here/p3_dann/train.py" "$@" ${options[@]+"${options[@]}"}
}

lane() { # everything of one target
    local target=$1 seed mode
    for seed in $seeds; do
        for mode in source dann target; do
            train --preset "$preset" --target "$target" --mode "$mode" --seed "$seed"
        done
        if [[ $original == yes && $preset != sample && $preset != original ]]; then
            train --preset original --target "$target" --mode dann --seed "$seed"
        fi
    done
}

# The two targets train side by side, each on half the cores: the network is so small that two threads of one
# process wait for each other more than two processes do.
cores=$("$python" -c 'import os; print(os.cpu_count() or 1)')
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 1 ? cores / 2 : 1))}"
trap 'kill 0' INT TERM
lane svhn &
svhn=$!
lane usps &
usps=$!
failed=0
wait "$svhn" || failed=$?
wait "$usps" || failed=$?
((failed == 0)) || exit "$failed"
echo "done: accuracies in results/p3.json (preset sample: runs/sample/results/p3.json); next: python p3_dann/tsne.py"
