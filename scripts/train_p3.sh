#!/usr/bin/env bash
# The main table and figures of P3, one seed: every method on every target, side by side; the recipe of the course report; t-SNE.
# Rerun the same command to resume; exit status 75 means stopped by --max-seconds.
#
#   bash scripts/train_p3.sh --data-root hw2_data --seed 1    # the report has mean and range over seeds
#   bash scripts/train_p3.sh --target receipts                # one target: any folder of digits/
#   bash scripts/train_p3.sh --preset full --device cuda      # other options go to p3_dann/train.py
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
collected=("$runs") methods=(source dann self_ensembling ours)
[[ $preset != cpu ]] || collected+=("$root/runs/course")
[[ $preset != sample ]] || methods=(source dann ours)

adapt() { # TARGET
    train() { run p3_dann/train.py --method "$1" --target "$target" "${options[@]}" "${@:2}" ${extra[@]+"${extra[@]}"}; }
    local target="$1" method supervised=()
    if grep -qs ',[0-9]' "$data_root/digits/$target/train.csv"; then supervised=(target); fi # it needs labels
    for method in "${methods[@]}" ${supervised[@]+"${supervised[@]}"}; do train "$method"; done
    if [[ $preset == cpu ]]; then
        for method in joint_batchnorm dann; do train $method --preset course --inputs plain; done
    fi
    run p3_dann/tsne.py "${shared[@]}" --checkpoint "$runs"/p3_"$target"_{source,dann,ours}_seed"$seed"/weights.safetensors
}
if [[ -n $target ]]; then adapt "$target"; else side_by_side adapt svhn usps; fi
run scripts/collect.py "${collected[@]}"
