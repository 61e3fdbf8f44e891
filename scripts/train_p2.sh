#!/usr/bin/env bash
# The main table and figures of P2, one preset: evaluation classifier, U-Net and students, their measures and plots.
# Rerun the same command to resume; exit status 75 means stopped by --max-seconds.
#
#   bash scripts/train_p2.sh --data-root hw2_data
#   bash scripts/train_p2.sh --preset full --device cuda    # other options go to p2_diffusion/train.py
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

classifier="$runs/p2_classifier_seed$seed/weights.safetensors"
network="$runs/p2_seed$seed/weights.safetensors"
run p2_diffusion/classifier.py "${options[@]}"
run p2_diffusion/train.py "${options[@]}" ${extra[@]+"${extra[@]}"}
networks=("$network") previous="$network"
for steps in 4 2 1; do # each student starts as the network before it
    run p2_diffusion/distill.py "${options[@]}" --student-steps $steps --teacher "$network" --init-from "$previous"
    previous="$runs/p2_student${steps}_seed$seed/weights.safetensors"
    networks+=("$previous")
done
measure=(--classifier "$classifier" "${shared[@]}")
[[ $preset != sample ]] || measure+=(--num-per-digit 20)
for weights in "${networks[@]}"; do
    for sampling_seed in "${sampling_seeds[@]}"; do
        run p2_diffusion/evaluate.py --checkpoint "$weights" --seed "$sampling_seed" "${measure[@]}"
    done
    run p2_diffusion/figures.py --checkpoint "$weights" --device "$device"
done
run p2_diffusion/sweep.py --checkpoint "${networks[@]}" --classifier "$classifier" --preset "$preset" "${shared[@]}"
run scripts/collect.py "$runs"
