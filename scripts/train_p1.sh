#!/usr/bin/env bash
# The main tables and figures of P1, one seed: train every method, then measure and plot it.
# Rerun the same command to resume; exit status 75 means stopped by --max-seconds.
#
#   bash scripts/train_p1.sh --data-root hw2_data
#   bash scripts/train_p1.sh --preset full --device cuda    # other options go to p1_gan/train.py
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

snapshots=(--snapshots)
[[ $preset != sample ]] || snapshots=()
for method in A B C; do
    weights="$runs/p1_${method}_seed$seed/weights.safetensors"
    run p1_gan/train.py --method $method "${options[@]}" "${extra[@]}"
    run p1_gan/evaluate.py --checkpoint "$weights" "${snapshots[@]}" "${shared[@]}"
    run p1_gan/figures.py --checkpoint "$weights" "${shared[@]}"
done
all=("$runs"/p1_{A,B,C}_seed"$seed"/weights.safetensors)
[[ $preset == sample ]] || run p1_gan/figures.py distances --checkpoint "${all[@]}" "${shared[@]}"
run scripts/collect.py "$runs"
