#!/usr/bin/env bash
# Everything that must hold before a change lands: environment, lint, format, all tests.
#
#   bash scripts/test.sh                 # minutes on two cores
#   bash scripts/test.sh -k diffusion    # arguments go to pytest
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
# One test process a core, each with one thread: small networks gain nothing from more.
OMP_NUM_THREADS=1 "$python" -m pytest -n auto "$@"
