#!/bin/sh
# The unit tests of what more than one thread or process touches, under ThreadSanitizer.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

threaded='base/test_loop base/test_loop_inbox base/test_frame base/test_metrics base/test_log conf/test_reload
billing/test_journal billing/test_journal_sync billing/test_store backends/test_fleet backends/test_children backends/test_queue
ratelimit/test_limiter_threads ratelimit/test_estimate'
wanted=''
for test in $threaded; do
    [ -f "tests/unit/$test.c" ] || die "tests/unit/$test.c is gone: mend the list in scripts/tsan.sh"
    wanted="$wanted build/tsan/unit/$test"
done
# shellcheck disable=SC2086 # one word a program
"${MAKE:-make}" -s -j "$(processors)" MODE=tsan $wanted
# shellcheck disable=SC2086
exec scripts/unit.sh tsan $wanted
