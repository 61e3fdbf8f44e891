#!/usr/bin/env bash
# Make everything P1's report needs: both generators, 1000 pictures of each, their evaluation and grids.
#
#   bash scripts/train_p1.sh                                   # preset cpu
#   bash scripts/train_p1.sh --preset full --device cuda
#   bash scripts/train_p1.sh --preset sample --data-root sample_data
#   bash scripts/train_p1.sh --ablation                        # also p1_gan/ablation.py, about an hour on two cores
#   bash scripts/train_p1.sh --steps 4000                      # other options go to p1_gan/train.py
#
# Interrupted, it goes on where it stopped; parts that are finished are skipped.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
preset=cpu
seed=0
ablation=no
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
        sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exec "$python" "$here/p1_gan/train.py" --help
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
    --ablation) ablation=yes ;;
    --method*) fail "--method: this script trains both; use p1_gan/train.py" ;;
    --run-dir*) fail "--run-dir: this script has several runs; use --output, or p1_gan/train.py" ;;
    *) options+=("$1") ;;
    esac
    shift
done

if ((${#output[@]})); then
    runs="${output[1]}/runs/$preset"
elif [[ $preset == sample ]]; then
    runs="$here/runs/sample"
else
    runs="$here/runs/$preset"
fi

call() { # script arguments...: with what every command of this script shares
    local script=$1
    shift
    "$python" "$here/p1_gan/$script" --seed "$seed" "$@" ${device[@]+"${device[@]}"}
}
places() { # the same, for the commands that read data or write results
    call "$@" ${data[@]+"${data[@]}"} ${output[@]+"${output[@]}"}
}

for method in A B; do
    weights="$runs/p1_${method}_seed$seed/weights.safetensors"
    samples="$runs/p1_${method}_samples_seed$seed"
    places train.py --method "$method" --preset "$preset" ${options[@]+"${options[@]}"}
    if [[ ! -f $weights ]]; then
        echo "stopped before the end of training; the same command goes on from here"
        exit 0
    fi
    # What was drawn is drawn again only when the weights are others.
    stamp="$(cksum <"$weights")"
    if [[ "$(cat "$samples.stamp" 2>/dev/null)" != "$stamp" ]]; then
        rm -rf "$samples" "$samples.stamp"
        call inference.py "$samples" --method "$method" --checkpoint "$weights"
        places evaluate.py "$samples" --method "$method" --preset "$preset"
        echo "$stamp" >"$samples.stamp"
    fi
done

# How far the distances depend on the latents drawn: two further sampling seeds, measured but not shown.
for method in A B; do
    weights="$runs/p1_${method}_seed$seed/weights.safetensors"
    stamp="$(cksum <"$weights")"
    for sampling in 1 2; do
        samples="$runs/p1_${method}_samples_seed${seed}_draw$sampling"
        if [[ "$(cat "$samples.stamp" 2>/dev/null)" != "$stamp" ]]; then
            rm -rf "$samples" "$samples.stamp"
            call inference.py "$samples" --method "$method" --checkpoint "$weights" --seed "$sampling"
            places evaluate.py "$samples" --method "$method" --preset "$preset" --seed "$sampling" \
                --name "$method/$preset/weights$seed"
            echo "$stamp" >"$samples.stamp"
        fi
    done
done
if [[ $ablation == yes ]]; then places ablation.py --preset "$preset"; fi
echo "done: results in p1.json, pictures in images/P1; next: python scripts/render_report.py"
