#!/bin/sh
# fuzz.sh replay: every input that once crashed a parser, and every seed, again. fuzz.sh search: look for new ones,
# $FUZZ_SECONDS for each parser; what is found is written to tests/fuzz/regressions/<parser>/.
# tests/fuzz/{corpus,regressions}/<parser>/ belong to tests/fuzz/fuzz_<parser>.c. The last line is "N passed, M failed".
set -eu
cd "$(dirname "$0")/.."

export UBSAN_OPTIONS=print_stacktrace=1
passed=0
failed=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT
for program in build/fuzz/fuzz/fuzz_*; do
    case $program in *.[od]) continue ;; esac
    [ -x "$program" ] || continue
    parser=${program##*/fuzz_}
    regressions=tests/fuzz/regressions/$parser
    seeds=''
    for directory in "tests/fuzz/corpus/$parser" "$regressions"; do
        [ -d "$directory" ] && seeds="$seeds $directory"
    done
    if [ "$1" = search ]; then
        grown=build/fuzz/grown/$parser
        mkdir -p "$grown" "$regressions"
        echo "== $parser: searching for ${FUZZ_SECONDS:-60} s"
        # shellcheck disable=SC2086 # one word a directory
        set -- search -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="$regressions/" "$grown" $seeds
    else
        # shellcheck disable=SC2086
        set -- replay -runs=0 -timeout=10 -rss_limit_mb=2048 $seeds
    fi
    how=$1
    shift
    status=0
    "$program" "$@" >"$output" 2>&1 || status=$?
    set -- "$how"
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok    $parser"
        [ "$how" = replay ] || grep -E '^stat::(number_of_executed_units|average_exec)' "$output" || :
    else
        failed=$((failed + 1))
        echo "FAIL  $parser (exit status $status)"
        tail -n 60 "$output"
    fi
    rmdir "$regressions" 2>/dev/null || :
done
[ $((passed + failed)) -gt 0 ] || failed=1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
