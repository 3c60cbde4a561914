#!/bin/sh
# Whether all counts of usage agree whatever dies: ledger.sh [SEEDS=n | SEED=n in the environment]. The line before the
# last has the figures; the last line is "N passed, M failed".
set -eu
cd "$(dirname "$0")/.."
scripts/setup_tests.sh
if ! build/venv-tests/bin/python -B tests/ledger/selftest.py >build/ledger-selftest.out; then
    cat build/ledger-selftest.out
    exit 1
fi
# A seed waits more than it works: two at once.
exec build/venv-tests/bin/python -B tests/ledger/run.py ${SEED:+--seed "$SEED" --keep} ${SEEDS:+--seeds "$SEEDS"} "$@"
