#!/bin/sh
# The unit tests of what more than one thread or process touches, under ThreadSanitizer.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

threaded='base/test_loop base/test_metrics base/test_log base/test_transfers base/test_fetch conf/test_reload conf/test_policy
backends/test_fleet backends/test_children backends/test_queue backends/test_upstream gateway/test_server'
wanted=''
for test in $threaded; do
    [ -f "tests/unit/$test.c" ] && wanted="$wanted build/tsan/unit/$test"
done
# shellcheck disable=SC2086 # one word a program
"${MAKE:-make}" -s -j "$(processors)" MODE=tsan $wanted
# shellcheck disable=SC2086
exec scripts/unit.sh tsan $wanted
