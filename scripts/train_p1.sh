#!/usr/bin/env bash
# Make everything P1's report needs: both generators, 1000 pictures of each, their evaluation and grids.
#
#   bash scripts/train_p1.sh                                   # preset cpu
#   bash scripts/train_p1.sh --preset full --device cuda
#   bash scripts/train_p1.sh --preset sample --data-root sample_data
#   bash scripts/train_p1.sh --ablation                        # also p1_gan/ablation.py: eleven short trainings
#   bash scripts/train_p1.sh --steps 4000                      # other options go to p1_gan/train.py
#
# Interrupted, it goes on where it stopped; parts that are finished are skipped.
set -euo pipefail

problem=p1_gan usage=2,10 switches="--ablation" refused="--run-dir --method --seeds"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

lane() { # everything of one method
    local method=$1 stamp sampling
    local weights="$runs/p1_${method}_seed$seed/weights.safetensors" samples="$runs/p1_${method}_samples_seed$seed"
    places train.py --method "$method" --preset "$preset" ${options[@]+"${options[@]}"}
    [[ -f $weights ]] || return 0 # stopped before the end of training
    stamp="$(cksum <"$weights")"
    measure "$samples"
    # How far the distances depend on the latents drawn: two further sampling seeds, measured but not shown (and left
    # out of the quick look that preset sample is).
    if [[ $preset == sample ]]; then return; fi
    for sampling in $((seed + 1)) $((seed + 2)); do
        measure "${samples}_draw$((sampling - seed))" --seed "$sampling" --name "$method/$preset/weights$seed"
    done
}

measure() { # folder, options of evaluate.py: draw pictures into the folder again only when the weights are others
    local samples=$1
    shift
    if [[ "$(cat "$samples.stamp" 2>/dev/null)" == "$stamp" ]]; then return; fi
    rm -rf "$samples" "$samples.stamp"
    call inference.py "$samples" --method "$method" --checkpoint "$weights" --seed "${sampling:-$seed}"
    places evaluate.py "$samples" --method "$method" --preset "$preset" "$@"
    echo "$stamp" >"$samples.stamp"
}

side_by_side A B
for method in A B; do
    if [[ ! -f $runs/p1_${method}_seed$seed/weights.safetensors ]]; then
        echo "stopped before the end of training; the same command goes on from here"
        exit 0
    fi
done
if [[ $chosen == *--ablation* ]]; then places ablation.py --preset "$preset"; fi
echo "done: results in p1.json, pictures in images/P1; next: python scripts/render_report.py"
