#!/bin/bash
# `make test`: install what the tests need, run every suite, count. The last line is "N passed, M failed"; the exit
# status is 0 only when M is 0. Nothing is skipped: what cannot run has failed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

make=${MAKE:-make}
jobs=$(processors)
passed=0
failed=0
summary=''

# suite <name> <minutes at most> <command>…: the command's last "N passed, M failed" is what it found.
suite() {
    local name=$1 minutes=$2 begun status=0 found bad
    shift 2
    begun=$(date +%s)
    say "suite: $name"
    timeout -k 30 "${minutes}m" "$@" 2>&1 | tee "build/suite.log" || status=$?
    found=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' build/suite.log | tail -n 1 || :)
    [ -n "$found" ] || found='0 passed, 1 failed'
    bad=${found#*, }
    bad=${bad% failed}
    # A suite that ended badly without a failed test of its own is one.
    if [ "$bad" -eq 0 ] && [ "$status" -ne 0 ]; then
        bad=1
    fi
    passed=$((passed + ${found%% *}))
    failed=$((failed + bad))
    summary+=$(printf '%-14s %5d passed %4d failed %6d s' "$name" "${found%% *}" "$bad" $(($(date +%s) - begun)))$'\n'
}

begun=$(date +%s)
mkdir -p build
scripts/setup_tests.sh || die 'the tests could not be set up'
suite lint 10 scripts/lint.sh
suite unit 10 "$make" -s -j "$jobs" unit
suite unit-asan 10 "$make" -s -j "$jobs" MODE=asan unit
suite unit-tsan 10 scripts/tsan.sh
suite fuzz-replay 10 "$make" -s -j "$jobs" fuzz-replay
suite e2e 20 "$make" -s -j "$jobs" e2e
# Threads meet where requests wait, leave and see the policy change.
TESTS='tests/e2e/test_waiting_queue.py tests/e2e/test_client_gone.py tests/e2e/test_reload.py' \
    suite e2e-tsan 10 "$make" -s -j "$jobs" MODE=tsan e2e
SEEDS=3 suite ledger 10 "$make" -s -j "$jobs" ledger
suite e2e-asan 25 "$make" -s -j "$jobs" MODE=asan e2e

echo
printf '%s' "$summary"
say "all suites: $(($(date +%s) - begun)) s"
echo "$passed passed, $failed failed" | tee build/test.result
[ "$failed" -eq 0 ]
