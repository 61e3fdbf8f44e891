#!/usr/bin/env bash
# Make everything P3's report needs: {source, dann, target} x {svhn, usps}, the original report's recipe, the plots.
#
#   bash scripts/train_p3.sh                                   # preset cpu, seed 0
#   for seed in 2 1 0; do bash scripts/train_p3.sh --seed $seed --parts; done   # also parts of the adaptation alone
#   bash scripts/train_p3.sh --preset full --device cuda
#   bash scripts/train_p3.sh --ladder                          # also p3_dann/ladder.py
#   bash scripts/train_p3.sh --no-original --steps 2000        # other options go to p3_dann/train.py
#
# Also --data-root and --output; --list only shows the commands. Stopped, the same command goes on.
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

parts="joint_batchnorm adversarial adversarial_weak conditional both both_shared_augmentation unaligned refined"

commands() { # of one target
    cat <<COMMANDS
p3_dann/train.py --target $1 --mode source
p3_dann/train.py --target $1 --mode dann
p3_dann/train.py --target $1 --mode target
unless sample unless --no-original: p3_dann/train.py --target $1 --mode source --preset original
unless sample unless --no-original: p3_dann/train.py --target $1 --mode dann --preset original
$(printf "if --parts unless sample: p3_dann/train.py --target $1 --mode dann --preset %s\n" $parts)

COMMANDS
}
last() {
    cat <<COMMANDS
wait
p3_dann/tsne.py --modes dann source
if --ladder: p3_dann/ladder.py
COMMANDS
}
exec "$python" "$root/scripts/launch.py" "$0" cpu "$@" < <(commands svhn && commands usps && last)
