#!/usr/bin/env bash
# Everything, from a fresh clone to a report: environment, data, training of P1, P2 and P3, plots, report.
#
#   bash scripts/run_all.sh                                      # built-in sample set, into runs/sample/
#   bash scripts/run_all.sh --preset cpu --data-root hw2_data    # the committed report and images
#   bash scripts/run_all.sh --preset full --data-root hw2_data --device cuda
#   SEEDS="0 1 2" bash scripts/run_all.sh --preset cpu ...       # P3 with three seeds
#
# Other options: --output DIR (unset: this repository; preset sample: runs/sample), --seed N (with an --output of its
# own), --fresh (delete the preset's runs and start anew). Stopped, it goes on where it was; parts whose arguments and
# code are as they were when they finished are skipped. The closing table is kept as summary.txt in the preset's runs,
# and the times of a call that began with nothing in results/run_all.json.
set -euo pipefail

preset=sample
data_root=""
output=""
device=auto
fresh=""
shared=()

fail() {
    echo "error: $1" >&2
    exit 2
}

while (($#)); do
    case "$1" in
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --*=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
    --preset | --data-root | --output | --seed | --device)
        (($# > 1)) || fail "$1: needs a value"
        case "$1" in
        --preset) preset=$2 ;;
        --data-root) data_root=$2 ;;
        --output) output=$2 ;;
        --seed) shared+=("$1" "$2") ;;
        --device) device=$2 shared+=("$1" "$2") ;;
        esac
        shift
        ;;
    --fresh) fresh=yes ;;
    *) fail "$1: unknown; bash scripts/run_all.sh --help lists what there is" ;;
    esac
    shift
done
case "$preset" in
sample | cpu | full) ;;
*) fail "--preset $preset: use sample, cpu or full" ;;
esac

if [[ -z $data_root && $preset != sample ]]; then
    fail "--data-root: preset $preset trains on real data; README.md tells how to get it"
fi

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# Where common.paths.workspace puts the results of a preset.
place=()
if [[ -n $output ]]; then
    base="$output" runs="$output/runs/$preset" place=(--output "$output")
elif [[ $preset == sample ]]; then
    base="$root/runs/sample" runs="$base"
else
    base="$root" runs="$root/runs/$preset"
fi
if [[ -n $fresh ]]; then
    "$python" -c '
import fcntl, pathlib, sys
for lock in pathlib.Path(sys.argv[1]).rglob("lock"):
    try:
        fcntl.flock(open(lock, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"error: --fresh: another run is using {lock.parent}; stop it first")
' "$runs" || exit 2
    rm -rf "$runs"
fi
# The time of what goes on from an earlier call, or from trainings started one by one, says nothing about a whole run.
whole=""
[[ -n $(find "$runs" -type f -print -quit 2>/dev/null) ]] || whole=yes
stamps="$runs/finished"
mkdir -p "$stamps" || fail "$stamps: cannot be made; choose another --output"

summary=()
seconds=() # name and number of every part that ran
done_in() { # NAME RESULT: since $began
    seconds+=("$1" "$((SECONDS - began))")
    summary+=("$1|$((SECONDS - began)) s|$2")
}

# part NAME RESULT SOURCES COMMAND...: run COMMAND unless it finished with the same arguments and sources.
part() {
    local name=$1 result=$2 sources=$3 key
    shift 3
    # shellcheck disable=SC2086 - SOURCES is a list
    key="$* $(cd "$root" && cat $sources | cksum)"
    [[ $name != p3 ]] || key+=" ${SEEDS:-}"
    if [[ -e $result && "$(cat "$stamps/$name" 2>/dev/null)" == "$key" ]]; then
        summary+=("$name|already there|$result")
        return
    fi
    echo "== $name"
    began=$SECONDS
    "$@" || {
        local code=$?
        echo "stopped in part $name; the same command goes on from there" >&2
        exit "$code"
    }
    echo "$key" >"$stamps/$name"
    done_in "$name" "$result"
}

if [[ -z $data_root ]]; then
    data_root="$base/hw2_data"
    part data "$data_root" "data/*.py" "$python" "$root/data/prepare.py" sample --data-root "$data_root" --force
fi
[[ -d $data_root ]] || fail "$data_root: no such data root; make one with python data/prepare.py"

common=(--preset "$preset" --data-root "$data_root" "${place[@]+"${place[@]}"}" "${shared[@]+"${shared[@]}"}")
problem() { # p1 folder
    part "$1" "$base/results/$1.json" "common/*.py $2/*.py scripts/options.sh scripts/train_$1.sh" \
        bash "$root/scripts/train_$1.sh" "${common[@]}"
}
problem p1 p1_gan
problem p2 p2_diffusion
problem p3 p3_dann
part tsne "$base/images/P3" "common/*.py p3_dann/*.py" \
    "$python" "$root/p3_dann/tsne.py" --modes dann source "${common[@]}"

began=$SECONDS
"$python" "$root/scripts/render_report.py" --preset "$preset" "${place[@]+"${place[@]}"}"
done_in report "$base/report.md"

if [[ -n $whole ]]; then
    PYTHONPATH="$root" "$python" -c '
import sys
from pathlib import Path
from common.device import pick_device
from common.results import record
results, preset, seeds, device, *parts = sys.argv[1:]
seconds = dict(zip(parts[::2], map(int, parts[1::2])))
values = {"p3_seeds": seeds, "parts": seconds, "seconds": sum(seconds.values())}
record(Path(results), "run_all", f"run_all/{preset}", values, pick_device(device))
' "$base/results" "$preset" "${SEEDS:-}" "$device" "${seconds[@]}"
fi

echo
{
    printf '%-8s %-14s %s\n' part time result
    for line in "${summary[@]}"; do
        IFS='|' read -r name took result <<<"$line"
        printf '%-8s %-14s %s\n' "$name" "$took" "$result"
    done
} | tee "$runs/summary.txt"
echo "pictures: $base/images; checkpoints and curves: $runs; $SECONDS s in all"
