#!/bin/sh
# Whether all counts of usage agree whatever dies: ledger.sh <build directory>; SEEDS (how many) or SEED (this one) in the
# environment. The line before the last has the figures; the last line is "N passed, M failed".
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
tools=$build/release/tools
scripts/setup_tests.sh
if ! build/venv-tests/bin/python -B tests/ledger/selftest.py >build/ledger-selftest.out; then
    cat build/ledger-selftest.out
    exit 1
fi
# A seed waits more than it works: two at once.
exec build/venv-tests/bin/python -B tests/ledger/run.py --tools "$tools" --program "$tools/tollgate_ledger" \
    --directory "$build/ledger" ${SEED:+--seed "$SEED" --keep} ${SEEDS:+--seeds "$SEEDS"}
