#!/usr/bin/env bash
# Make everything P2's report needs: judge, U-Net, 1000 pictures and their evaluation, both figures, the sweep.
#
#   bash scripts/train_p2.sh                                   # preset cpu
#   bash scripts/train_p2.sh --preset full --device cuda
#   bash scripts/train_p2.sh --preset sample --data-root sample_data
#   bash scripts/train_p2.sh --no-sweep --steps 4000           # other options go to p2_diffusion/train.py
#
# Interrupted, it goes on where it stopped; parts that are finished are skipped.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
preset=cpu
seed=0
sweep=yes
output=()
device=()
data=()
options=()

fail() {
    echo "error: $1" >&2
    exit 2
}

while (($#)); do
    case "$1" in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exec "$python" "$here/p2_diffusion/train.py" --help
        ;;
    --preset=* | --seed=* | --output=* | --device=* | --data-root=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
    --preset | --seed | --output | --device | --data-root)
        (($# > 1)) || fail "$1: needs a value"
        case "$1" in
        --preset) preset=$2 ;;
        --seed) seed=$2 ;;
        --output) output=(--output "$2") ;;
        --device) device=(--device "$2") ;;
        --data-root) data=(--data-root "$2") ;;
        esac
        shift
        ;;
    --no-sweep) sweep=no ;;
    --run-dir*) fail "--run-dir: this script has several runs; use --output, or p2_diffusion/train.py" ;;
    *) options+=("$1") ;;
    esac
    shift
done

base="$here"
if ((${#output[@]})); then base="${output[1]}"; fi
runs="$base/runs/$preset"
judge="$runs/p2_judge_seed$seed/weights.safetensors"
unet="$runs/p2_seed$seed/weights.safetensors"
samples="$runs/p2_samples_seed$seed"

call() { # script arguments...: with what every command of this script shares
    local script=$1
    shift
    "$python" "$here/p2_diffusion/$script" "$@" --seed "$seed" ${device[@]+"${device[@]}"}
}
places() { # the same, for the commands that read data or write results
    call "$@" ${data[@]+"${data[@]}"} ${output[@]+"${output[@]}"}
}

[[ -f $judge ]] || places classifier.py --preset "$preset"
places train.py --preset "$preset" ${options[@]+"${options[@]}"}
if [[ ! -f $unet ]]; then
    echo "stopped before the end of training; the same command goes on from here"
    exit 0
fi

# What was drawn is drawn again only when the weights are others.
stamp="$(cksum <"$unet")"
if [[ "$(cat "$samples.stamp" 2>/dev/null)" != "$stamp" ]]; then
    rm -rf "$samples" "$samples.stamp"
    count=100
    if [[ $preset == sample ]]; then count=20; fi
    call inference.py "$samples" --checkpoint "$unet" --num-per-digit "$count"
    places evaluate.py "$samples" --judge "$judge" --preset "$preset" --name "$preset"
    call figures.py --model "$preset" --checkpoint "$unet" ${output[@]+"${output[@]}"}
    echo "$stamp" >"$samples.stamp"
fi
if [[ $sweep == yes ]]; then
    places sweep.py --preset "$preset" --checkpoint "$unet" --judge "$judge"
fi
echo "done: results in p2.json, pictures in images/P2; next: python scripts/render_report.py"
