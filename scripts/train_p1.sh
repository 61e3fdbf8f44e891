#!/usr/bin/env bash
# Make everything P1's report needs: both generators, 1000 pictures of each and their measures.
#
#   bash scripts/train_p1.sh                                   # preset cpu
#   bash scripts/train_p1.sh --preset full --device cuda
#   bash scripts/train_p1.sh --ablation                        # also B without each of its ingredients
#   bash scripts/train_p1.sh --steps 4000                      # other options go to p1_gan/train.py
#
# Also --data-root, --output and --seed. Stopped, the same command goes on.
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

commands() { # of one method; two further sampling seeds tell how far the measures depend on the latents drawn
    local method=$1 weights="{runs}/p1_$1_seed{seed}/weights.safetensors" samples="{runs}/p1_$1_samples_seed{seed}"
    cat <<COMMANDS
p1_gan/train.py --method $method
rm -rf $samples ${samples}_second ${samples}_third
p1_gan/inference.py $samples --method $method --checkpoint $weights
p1_gan/evaluate.py $samples --method $method
unless sample: p1_gan/inference.py ${samples}_second --method $method --checkpoint $weights --seed {second_seed}
unless sample: p1_gan/evaluate.py ${samples}_second --method $method --name $method/{preset}/weights{seed} --seed {second_seed}
unless sample: p1_gan/inference.py ${samples}_third --method $method --checkpoint $weights --seed {third_seed}
unless sample: p1_gan/evaluate.py ${samples}_third --method $method --name $method/{preset}/weights{seed} --seed {third_seed}

COMMANDS
}
more() {
    cat <<COMMANDS
wait
if --ablation: p1_gan/ablation.py
COMMANDS
}
exec "$python" "$root/scripts/launch.py" "$0" cpu "$@" < <(commands A && commands B && more)
