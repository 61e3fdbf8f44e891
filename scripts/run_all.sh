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
train() { # "PROBLEM...", one after the other
    for problem in $1; do
        bash "$root/scripts/train_$problem.sh" "${options[@]}" ${target:+--target "$target"} ${extra[@]+"${extra[@]}"} \
            2>>"$sample/$problem.log" || { local status=$? && tail -n 1 "$sample/$problem.log" >&2 && exit $status; }
    done
}
echo "P2 beside P1 and P3; their progress bars are in $sample/p1.log, p2.log and p3.log"
side_by_side train p2 "p1 p3"
run scripts/collect.py "$sample" --results "$sample/results"
run scripts/report_tables.py --page "$sample/report.md" --results "$sample/results" --images "$sample"
