#!/usr/bin/env bash
# Everything, from a fresh clone to a report: environment, data, training of P1, P2 and P3, plots, report.
#
#   bash scripts/run_all.sh                                      # built-in sample set, into runs/sample/
#   bash scripts/run_all.sh --preset cpu --data-root hw2_data    # the committed report and images
#   bash scripts/run_all.sh --preset full --data-root hw2_data --device cuda
#
# Also --output (unset: this repository; for preset sample: runs/sample) and --seed; other options go to every
# train.py, for example --fresh. Stopped, the same command goes on, and what was trained is not trained again.
[[ " $* " != *" --help "* && " $* " != *" -h "* ]] || exec sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "$0"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec "$python" "$root/scripts/launch.py" "$0" sample "$@" <<'COMMANDS'
if sample unless --data-root: data/prepare.py sample
scripts/train_p1.sh
scripts/train_p2.sh
scripts/train_p3.sh
scripts/render_report.py
COMMANDS
