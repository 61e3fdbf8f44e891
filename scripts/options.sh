# Sourced by the other scripts: reads their options, and gives them $python, and run for a command of the repository.
# $default_preset (unset: cpu), and $makes_environment where .venv is to be made, are set before.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
preset=${default_preset:-cpu} data_root="" output="" seed=0 device=auto list=""
options=() # everything else, for train.py
while (($#)); do
    case $1 in
    -h | --help)
        awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
        exit
        ;;
    --preset=* | --data-root=* | --output=* | --seed=* | --device=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        ;;
    --run-dir | --run-dir=* | --method | --method=* | --mode | --mode=*)
        echo "error: ${1%%=*}: this script runs several trainings; for one of them call train.py itself" >&2 && exit 2
        ;;
    --list) # only say what would be run
        list=--list
        shift
        ;;
    --preset | --data-root | --output | --seed | --device)
        (($# > 1)) || { echo "error: $1: needs a value" >&2 && exit 2; }
        name=${1#--}
        printf -v "${name/-/_}" %s "$2"
        shift 2
        ;;
    *)
        options+=("$1")
        shift
        ;;
    esac
done

# Where common.paths.workspace puts the trainings of a preset, and run_all.sh the sample set.
runs="${output:-$root}/runs"
sample_data="$runs/sample/hw2_data"
if [[ -z $data_root ]]; then
    if [[ $preset == sample ]]; then data_root="$sample_data"; else data_root=hw2_data; fi
fi

if [[ -n ${makes_environment:-} && -z $list ]]; then source "$root/scripts/setup.sh"; fi
# An environment that is active comes before .venv, any other Python after it.
for python in "${PYTHON:-}" ${VIRTUAL_ENV:+python} ${CONDA_PREFIX:+python} \
    "$root/.venv/bin/python" "$root/.venv/Scripts/python.exe" python3 python ""; do
    if "$python" -c 'import importlib.util as u; s = u.find_spec("torch"); exit(not (s and s.origin))' 2>/dev/null; then
        break
    fi
done
if [[ -z $python && -z $list ]]; then
    echo "error: no Python with torch; run bash scripts/run_all.sh, which makes .venv, or pip install -r requirements.txt" >&2
    exit 2
fi

call() { # SCRIPT OPTIONS...: one command of the repository, said before it runs
    printf '== python'
    printf ' %q' "$@"
    echo
    [[ -n $list ]] || "$python" "$root/$1" "${@:2}"
}
run() { # SCRIPT OPTIONS...: with what all of them take
    call "$1" --device "$device" ${output:+--output "$output"} --seed "$seed" "${@:2}"
}
finished() { # FOLDER of a training in $runs: stop here where --max-seconds ended it
    [[ -n $list || -f $runs/$1/weights.safetensors ]] && return
    echo "$runs/$1: not finished; the same command goes on" >&2
    exit 75 # "try again" of sysexits.h
}
