#!/usr/bin/env bash
# Everything at toy size, offline after the installation: environment, sample data, P1, P2, P3, runs/sample/report.md.
# Options go to train_p1.sh, train_p2.sh and train_p3.sh. Rerun the same command to resume.
#
#   bash scripts/run_all.sh --device cpu --seed 1
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/side_by_side.sh"
sample="$root/runs/sample"
[[ -d $sample/data/digits/usps ]] || "$python" "$root/data/prepare.py" sample --data-root "$sample/data"
echo "training P1, P2 and P3 side by side; progress bars are in $sample/p1.log, p2.log and p3.log"
options=("$@")
problem() { # p1, p2 or p3
    bash "$root/scripts/train_$1.sh" --preset sample --data-root "$sample/data" ${options[@]+"${options[@]}"} \
        2>>"$sample/$1.log" || { local status=$? && tail -n 1 "$sample/$1.log" >&2 && exit $status; }
}
side_by_side problem p1 p2 p3
"$python" "$root/scripts/collect.py" "$sample" --results "$sample/results"
"$python" "$root/scripts/report_tables.py" --page "$sample/report.md" --results "$sample/results" --images "$sample"
