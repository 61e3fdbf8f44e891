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

problem=p2_diffusion usage=2,9 switches="--no-sweep" refused="--run-dir --method --seeds"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

judge="$runs/p2_judge_seed$seed/weights.safetensors"
unet="$runs/p2_seed$seed/weights.safetensors"
samples="$runs/p2_samples_seed$seed"

places classifier.py --preset "$preset"
places train.py --preset "$preset" ${options[@]+"${options[@]}"}
if [[ ! -f $unet ]]; then
    echo "stopped before the end of training; the same command goes on from here"
    exit 0
fi

# What was drawn is drawn again only when the weights are others.
stamp="$(cksum <"$unet")"
if [[ "$(cat "$samples.stamp" 2>/dev/null)" != "$stamp" ]]; then
    rm -rf "$samples" "$samples.stamp"
    count=100 figures=()
    if [[ $preset == sample ]]; then count=20 figures=(--sampler ddim --steps 20); fi # a quick look
    call inference.py "$samples" --checkpoint "$unet" --num-per-digit "$count"
    places evaluate.py "$samples" --judge "$judge" --preset "$preset" --name "$preset"
    call figures.py --model "$preset" --checkpoint "$unet" ${figures[@]+"${figures[@]}"} ${output[@]+"${output[@]}"}
    echo "$stamp" >"$samples.stamp"
fi
if [[ $chosen != *--no-sweep* ]]; then
    places sweep.py --preset "$preset" --checkpoint "$unet" --judge "$judge"
fi
echo "done: results in p2.json, pictures in images/P2; next: python scripts/render_report.py"
