#!/bin/sh
# Every script of ours can at least be read by its interpreter: syntax.sh [root]
set -eu
cd "${1:-$(dirname "$0")/../..}"

status=0
for file in $(git ls-files); do
    [ -f "$file" ] || continue
    case $file in *.c | *.h | *.md | *.json | *.mjs | *.txt | tests/vectors/* | tests/fuzz/corpus/*) continue ;; esac
    case $(head -n 1 "$file" | tr -d '\0') in
        '#!/bin/sh'*) sh -n "$file" || status=1 ;;
        '#!'*bash*) bash -n "$file" || status=1 ;;
        '#!'*python3*) python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")' "$file" || status=1 ;;
    esac
    case $file in
        *.py) python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")' "$file" || status=1 ;;
        scripts/lib.sh) sh -n "$file" || status=1 ;;
        *.sh | .ci/run)
            [ -x "$file" ] || {
                echo "$file: not executable"
                status=1
            }
            ;;
    esac
done
exit $status
