# Sourced by run_all.sh and options.sh.

# Call a function for every value at once, one thread each: threads of one process wait for the slowest at every layer,
# processes do not wait for each other, not even on a busy machine. What ends one early ends them all.
side_by_side() { # FUNCTION VALUE...
    local pids=() status=0 value
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    set -m # a process group each, which a signal reaches as a whole
    for value in "${@:2}"; do
        (trap : INT TERM && "$1" "$value") &
        pids+=($!)
    done
    trap 'kill -TERM -- "${pids[@]/#/-}" 2>/dev/null || true; wait' INT TERM
    for value in "${pids[@]}"; do wait "$value" || status=$?; done
    [[ $status == 0 ]] || exit $status
}
