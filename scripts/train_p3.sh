#!/usr/bin/env bash
# Train everything P3's report needs: {source, dann, target} x {svhn, usps}, and the recipe of the original report.
#
#   bash scripts/train_p3.sh                                   # preset cpu, seed 0
#   bash scripts/train_p3.sh --preset full --seeds "0 1 2"
#   bash scripts/train_p3.sh --preset sample --data-root sample_data
#   bash scripts/train_p3.sh --seeds "0 1 2" --parts           # also DANN with only some of its parts (preset cpu)
#   bash scripts/train_p3.sh --no-original --steps 2000        # every other option goes to p3_dann/train.py
#
# Interrupted, it goes on where it stopped; finished trainings are only reported.
set -euo pipefail

problem=p3_dann usage=2,10 switches="--no-original --parts" refused="--run-dir --mode --target"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
[[ $chosen != *--parts* || $preset == cpu ]] || fail "--parts: these runs have the schedule of preset cpu, not of $preset"

train() { # target mode preset
    places train.py --target "$1" --mode "$2" --preset "$3" ${options[@]+"${options[@]}"}
}

lane() { # everything of one target
    local target=$1 mode part
    for seed in ${seeds:-$seed}; do
        for mode in source dann target; do train "$target" "$mode" "$preset"; done
        if [[ $chosen != *--no-original* && $preset != sample && $preset != original ]]; then
            for mode in source dann; do train "$target" "$mode" original; done
        fi
        if [[ $chosen == *--parts* ]]; then
            for part in adversarial adversarial_weak self_ensembling joint_batchnorm; do train "$target" dann "$part"; done
        fi
    done
}

side_by_side svhn usps
echo "done: accuracies in results/p3.json (preset sample: runs/sample/results/p3.json); next: python p3_dann/tsne.py"
