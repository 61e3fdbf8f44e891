#!/usr/bin/env bash
# Everything that must hold before a change lands: environment, lint, format, types, tables of the pages, tests.
#
#   bash scripts/test.sh -k diffusion    # arguments go to pytest; all tests take minutes on two cores
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
"${install[@]}" --group dev
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy .
"$python" scripts/report_tables.py --check
# One process per core with one thread each: the networks of the tests gain nothing from more.
OMP_NUM_THREADS=1 "$python" -m pytest -n auto "$@"
