#!/bin/sh
# docs/configuration.md is what the binary says: generated_docs.sh <tollgate> [root]
set -eu
binary=$(realpath "$1")
cd "${2:-$(dirname "$0")/../..}"
"$binary" schema --markdown | diff -u docs/configuration.md - || {
    echo 'docs/configuration.md is not what the schema says: run make docs'
    exit 1
}
