#!/bin/sh
# Every C file is as clang-format 14 leaves it: format.sh [--write] [root]
set -eu
if [ "${1:-}" = --write ]; then
    how=-i
    shift
else
    how='--dry-run --Werror'
fi
cd "${1:-$(dirname "$0")/../..}"

formatter=$(command -v clang-format-14 || command -v clang-format) || {
    echo 'error: clang-format is missing' >&2
    exit 1
}
case $("$formatter" --version) in
    *' version 14.'*) ;;
    *)
        echo "error: clang-format 14 is wanted (others format differently), this is: $("$formatter" --version)" >&2
        exit 1
        ;;
esac
# shellcheck disable=SC2086 # one word, or two
git ls-files -z --cached --others --exclude-standard -- '*.c' '*.h' ':!build' | xargs -0 "$formatter" $how
