#!/usr/bin/env bash
# The main tables and figures of P1, one seed: train methods A and B side by side, then measure and plot them.
# Rerun the same command to resume; exit status 75 means stopped by --max-seconds.
#
#   bash scripts/train_p1.sh --data-root hw2_data
#   bash scripts/train_p1.sh --preset full --device cuda    # other options go to p1_gan/train.py
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

method() { # METHOD
    local weights="$runs/p1_$1_seed$seed/weights.safetensors"
    run p1_gan/train.py --method "$1" "${options[@]}" ${extra[@]+"${extra[@]}"}
    for sampling_seed in "${sampling_seeds[@]}"; do
        run p1_gan/evaluate.py --checkpoint "$weights" --seed "$sampling_seed" "${shared[@]}"
    done
    [[ $preset == sample ]] || run p1_gan/evaluate.py --checkpoint "$weights" --snapshots "${shared[@]}"
    run p1_gan/figures.py --checkpoint "$weights" --device "$device"
}
side_by_side method A B
[[ $preset == sample ]] || run p1_gan/figures.py distances --checkpoint "$runs"/p1_{A,B}_seed"$seed"/weights.safetensors
run scripts/collect.py "$runs"
