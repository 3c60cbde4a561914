#!/bin/sh
# Every C file is as clang-format 14 leaves it: format.sh [--write] [root]
set -eu
write=no
if [ "${1:-}" = --write ]; then
    write=yes
    shift
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

# Whatever git knows or would know: what is not committed yet is looked at too.
files() {
    git ls-files -z --cached --others --exclude-standard -- '*.c' '*.h'
}

if [ "$write" = yes ]; then
    files | xargs -0 "$formatter" -i
    exit
fi
wrong=$(files | xargs -0 "$formatter" --dry-run 2>&1 | sed -n 's/^\([^:]*:[0-9]*\):.*Wclang-format-violations.*/\1/p' | sort -u)
[ -n "$wrong" ] || exit 0
printf '%s\n' "$wrong" | sed 's/$/: not as clang-format leaves it (make format)/'
exit 1
