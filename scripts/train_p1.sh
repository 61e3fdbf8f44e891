#!/usr/bin/env bash
# Make everything P1's report needs: both generators, the measures of 1000 pictures of each, and the figures.
#
#   bash scripts/train_p1.sh                                   # preset cpu
#   bash scripts/train_p1.sh --preset full --device cuda
#   bash scripts/train_p1.sh --ablation                        # also B without each of its ingredients
#   bash scripts/train_p1.sh --steps 4000                      # other options go to p1_gan/train.py
#
# Also --data-root, --output and --seed; --list only shows the commands. Stopped, the same command goes on.
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

a="--method A --checkpoint {runs}/p1_A_seed{seed}/weights.safetensors"
b="--method B --checkpoint {runs}/p1_B_seed{seed}/weights.safetensors"
# Two further sampling seeds tell how far the measures depend on the latents drawn.
exec "$python" "$root/scripts/launch.py" "$0" cpu "$@" <<COMMANDS
p1_gan/train.py --method A
p1_gan/evaluate.py $a --memorisation
unless sample: p1_gan/evaluate.py $a --seed {second_seed}
unless sample: p1_gan/evaluate.py $a --seed {third_seed}
p1_gan/figures.py grid $a

p1_gan/train.py --method B
p1_gan/evaluate.py $b --memorisation
unless sample: p1_gan/evaluate.py $b --seed {second_seed}
unless sample: p1_gan/evaluate.py $b --seed {third_seed}
p1_gan/figures.py $b
wait
if --ablation: p1_gan/ablation.py
COMMANDS
