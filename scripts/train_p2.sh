#!/usr/bin/env bash
# Make everything P2's report needs: judge, U-Net, 1000 pictures and their measures, figures, the sweep of samplers.
#
#   bash scripts/train_p2.sh                                   # preset cpu
#   bash scripts/train_p2.sh --preset full --device cuda
#   bash scripts/train_p2.sh --no-sweep --steps 4000           # other options go to p2_diffusion/train.py
#
# Also --data-root, --output and --seed; --list only shows the commands. Stopped, the same command goes on.
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

judge="{runs}/p2_judge_seed{seed}/weights.safetensors"
weights="{runs}/p2_seed{seed}/weights.safetensors"
samples="{runs}/p2_samples_seed{seed}"
exec "$python" "$root/scripts/launch.py" "$0" cpu "$@" <<COMMANDS
p2_diffusion/train_judge.py
p2_diffusion/train.py
rm -rf $samples
if sample: p2_diffusion/inference.py $samples --checkpoint $weights --num-per-digit 20
unless sample: p2_diffusion/inference.py $samples --checkpoint $weights
p2_diffusion/evaluate.py $samples --judge $judge --name {preset}
if sample: p2_diffusion/figures.py --model {preset} --checkpoint $weights --sampler ddim --steps 20
unless sample: p2_diffusion/figures.py --model {preset} --checkpoint $weights
unless --no-sweep: p2_diffusion/sweep.py --checkpoint $weights --judge $judge
COMMANDS
