#!/usr/bin/env bash
# Everything, from a fresh clone to a report: environment, data, training of P1, P2 and P3, plots, report.
#
#   bash scripts/run_all.sh                                      # built-in sample set, into runs/sample/
#   bash scripts/run_all.sh --preset cpu --data-root hw2_data    # the committed report and images
#   bash scripts/run_all.sh --preset full --data-root hw2_data --device cuda
#
# Also --output and --seed, and --list to see the commands; other options go to every train.py. Stopped, the same
# command goes on.
default_preset=sample makes_environment=yes
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"

if [[ $data_root == "$sample_data" && ! -d $data_root/digits/usps ]]; then # the last part that is made
    call data/prepare.py sample --data-root "$data_root"
fi
shared=(--preset "$preset" --data-root "$data_root" --seed "$seed" --device "$device" ${output:+--output "$output"} $list)
for problem in p1 p2 p3; do
    bash "$root/scripts/train_$problem.sh" "${shared[@]}" ${options[@]+"${options[@]}"}
done
call scripts/render_report.py --preset "$preset" ${output:+--output "$output"}
