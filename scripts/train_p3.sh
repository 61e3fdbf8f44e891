#!/usr/bin/env bash
# Make everything P3's report needs of a target: source-only, adapted, target-only, the original recipe, the plots.
#
#   bash scripts/train_p3.sh                                   # preset cpu, SVHN and USPS side by side
#   bash scripts/train_p3.sh --target receipts                 # one target: any folder of digits/
#   bash scripts/train_p3.sh --preset full --device cuda
#   bash scripts/train_p3.sh --seed 1 --steps 2000             # other options go to p3_dann/train.py
#
# Also --data-root and --output. Stopped, the same command goes on; what is trained or measured is not done again. The
# ladder of inputs takes much longer and is made by p3_dann/ladder.py. A target without labels is not trained on itself.
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

target=""
for place in ${options[@]+"${!options[@]}"}; do
    [[ ${options[place]} != --target ]] || target="${options[place + 1]:-}"
    [[ ${options[place]} != --target=* ]] || target="${options[place]#*=}"
done
if [[ -z $target ]]; then
    both=(bash "$0" --preset "$preset" --data-root "$data_root" --seed "$seed" --device "$device")
    both+=($list ${output:+--output "$output"} ${options[@]+"${options[@]}"})
    exec "$python" "$root/scripts/side_by_side.py" "${both[@]}" --target svhn -- "${both[@]}" --target usps
fi

train() { # PRESET MODE
    run p3_dann/train.py --mode "$2" --preset "$1" --data-root "$data_root" "${options[@]}"
    finished "$1/p3_${target}_$2_seed$seed"
}
modes=(source dann target)
csv="$data_root/digits/$target/train.csv"
if [[ -f $csv ]] && ! grep -q ',.*[0-9]' "$csv"; then
    modes=(source dann)
fi
for mode in "${modes[@]}"; do
    train "$preset" $mode
done
if [[ $preset != sample ]]; then
    train original source
    train original dann
    run p3_dann/tsne.py --target "$target" --preset original --data-root "$data_root"
fi
if [[ $preset == cpu ]]; then # other ways to adapt on its schedule
    train adversarial dann
    train self_ensembling dann
fi
run p3_dann/tsne.py --target "$target" --preset "$preset" --modes dann source --data-root "$data_root"
