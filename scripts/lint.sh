#!/bin/sh
# Every check of the source, each counted as one test; the last line is "N passed, M failed".
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# shellcheck disable=SC2086 # one word a package
need_packages $BUILD_PACKAGES $TEST_PACKAGES git python3
make=${MAKE:-make}
mkdir -p build
output=build/lint.out
passed=0
failed=0

check() {
    name=$1
    shift
    if "$@" >"$output" 2>&1; then
        passed=$((passed + 1))
        printf 'ok    %s\n' "$name"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n' "$name"
        grep -vE '^  (CC|LINK) ' "$output" || :
    fi
}

# Everything there is to compile, in a directory of its own, where a warning is an error.
compile_with() {
    "$make" -s -k -j "$(processors)" "CC=$1" "BUILD=build/lint-$1" WERROR=1 everything
}

check format tests/check/format.sh
check layering tests/check/layering.py
check sizes tests/check/sizes.py
check words tests/check/words.py
check syntax tests/check/syntax.sh
check 'gcc without a warning' compile_with gcc
check 'clang without a warning' compile_with clang
check options tests/check/options.py
check 'generated docs' tests/check/generated_docs.sh build/lint-gcc/release/tollgate
check 'the checks notice' tests/check/selftest.py

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
