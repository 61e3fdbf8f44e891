#!/usr/bin/env bash
# Everything at toy size, offline after the installation: environment, sample data, P1, P2, P3, runs/sample/report.md.
# Options go to train_p1.sh, train_p2.sh and train_p3.sh. Rerun the same command to resume.
#
#   bash scripts/run_all.sh --device cpu --seed 1
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
sample="$root/runs/sample"
set -- --preset sample --data-root "$sample/data" "$@"
source "$root/scripts/options.sh"
[[ -d $sample/data/digits/usps ]] || run data/prepare.py sample --data-root "$sample/data"
problem() { # p1, p2 or p3
    bash "$root/scripts/train_$1.sh" "${options[@]}" ${target:+--target "$target"} ${extra[@]+"${extra[@]}"} \
        2>>"$sample/$1.log" || { local status=$? && tail -n 1 "$sample/$1.log" >&2 && exit $status; }
}
echo "P1, P2 and P3 side by side; their progress bars are in $sample/p1.log, p2.log and p3.log"
side_by_side problem p1 p2 p3
run scripts/collect.py "$sample" --results "$sample/results"
run scripts/report_tables.py --page "$sample/report.md" --results "$sample/results" --images "$sample"
