#!/bin/sh
# The tests that start the real binary: e2e.sh <mode> [pytest arguments]; TESTS names files when not all are to run. The
# last line is "N passed, M failed"; a test that was skipped has failed.
set -eu
cd "$(dirname "$0")/.."

mode=$1
shift
scripts/setup_tests.sh
results=build/e2e-$mode.xml
rm -f "$results"
export TOLLGATE="build/$mode/tollgate" SCRIPTED_ENGINE="build/$mode/tools/scripted_engine"
export NODE="$PWD/build/tools/node"
[ "$mode" = release ] || export SLOWNESS=3
export ASAN_OPTIONS="detect_stack_use_after_return=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
# A race ends the process that has it, and with it the test.
export TSAN_OPTIONS="halt_on_error=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
# ThreadSanitizer's shadow does not fit everywhere: without random addresses it does.
around=''
if [ "$mode" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    around="setarch $(uname -m) -R"
fi
# shellcheck disable=SC2086 # one word a file
$around build/venv-tests/bin/python -B -m pytest -p no:cacheprovider -ra --tb=short --durations=10 --junitxml="$results" "$@" ${TESTS:-tests/e2e} || :
build/venv-tests/bin/python - "$results" <<'END'
import sys
import xml.etree.ElementTree as tree

try:
    cases = list(tree.parse(sys.argv[1]).iter("testcase"))
except (OSError, tree.ParseError) as error:
    print(f"pytest left no results: {error}")
    cases = []
bad = sum(any(child.tag in ("failure", "error", "skipped") for child in case) for case in cases)
bad += not cases
print(f"{len(cases) - bad if cases else 0} passed, {bad} failed")
sys.exit(1 if bad else 0)
END
