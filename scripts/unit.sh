#!/bin/sh
# Run unit test programs one after the other and count their tests: unit.sh <mode> <program>…
# One line a program; the whole output of one that fails. The last line is "N passed, M failed".
set -eu
cd "$(dirname "$0")/.."

mode=$1
shift
output=$(mktemp)
trap 'rm -f "$output"' EXIT
[ -x build/tools/promtool ] && [ -x build/tools/redis-server ] || scripts/setup_tests.sh
export PROMTOOL="$PWD/build/tools/promtool" REDIS_SERVER="$PWD/build/tools/redis-server"
export ASAN_OPTIONS="detect_stack_use_after_return=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export TSAN_OPTIONS="second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"

# gcc 12's ThreadSanitizer does not find room in the address space of kernels that randomise it by 32 bits.
around=''
if [ "$mode" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    around="setarch $(uname -m) -R"
fi

passed=0
failed=0
for program in "$@"; do
    status=0
    # shellcheck disable=SC2086 # no word, or three
    timeout -k 5 300 $around "$program" >"$output" 2>&1 || status=$?
    ran=$(sed -n 's/^\[==========\].* \([0-9][0-9]*\) test(s) run\.$/\1/p' "$output" | awk '{n += $1} END {print n + 0}')
    good=$(sed -n 's/^\[  PASSED  \] \([0-9][0-9]*\) test(s)\.$/\1/p' "$output" | awk '{n += $1} END {print n + 0}')
    skipped=$(sed -n 's/^\[  SKIPPED \] \([0-9][0-9]*\) test(s).*$/\1/p' "$output" | awk '{n += $1} END {print n + 0}')
    # A skipped test has failed, but for those that need root where there is no root: they are neither.
    note=''
    if [ "$(id -u)" -ne 0 ] && [ "$skipped" -gt 0 ]; then
        note=" ($skipped more need root)"
        ran=$((ran - skipped))
    fi
    bad=$((ran - good))
    # A program that crashed, leaked, hung or ran nothing is a failure, whatever it printed before.
    if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$ran" -eq 0 ]; }; then
        bad=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        printf 'ok    %4d  %s%s\n' "$good" "${program#*/unit/}" "$note"
    else
        printf 'FAIL  %4d  %s (exit status %d)\n' "$bad" "${program#*/unit/}" "$status"
        cat "$output"
    fi
done
if [ $((passed + failed)) -eq 0 ]; then
    echo 'there are no unit tests here'
    failed=1
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
