#!/usr/bin/env bash
# Make everything P2's report needs: the judge, the U-Net, the measures of 1000 digits, the pictures, the sweep.
#
#   bash scripts/train_p2.sh                                   # preset cpu
#   bash scripts/train_p2.sh --preset full --device cuda
#   bash scripts/train_p2.sh --steps 4000                      # other options go to p2_diffusion/train.py
#
# Also --data-root, --output and --seed. Stopped, the same command goes on; what is trained or measured is not done
# again.
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

judge="$runs/$preset/p2_judge_seed$seed/weights.safetensors"
weights="$runs/$preset/p2_seed$seed/weights.safetensors"
run p2_diffusion/train_judge.py --preset "$preset" --data-root "$data_root"
run p2_diffusion/train.py --preset "$preset" --data-root "$data_root" ${options[@]+"${options[@]}"}
finished "$preset/p2_seed$seed"
count=100 sampler=(--sampler ddpm)
[[ $preset != sample ]] || count=20 sampler=(--sampler ddim --steps 20) # a quick look
run p2_diffusion/evaluate.py --checkpoint "$weights" --judge "$judge" --data-root "$data_root" --num-per-digit $count
run p2_diffusion/figures.py --checkpoint "$weights" "${sampler[@]}"
run p2_diffusion/sweep.py --preset "$preset" --checkpoint "$weights" --judge "$judge" --data-root "$data_root"
