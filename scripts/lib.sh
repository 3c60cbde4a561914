# What the other scripts share. Sourced with the repository's root as the working directory.
# Nothing here asks a question, starts a daemon, or touches the user's own Python, Node or Redis.

# Settings of the user's own Python that would reach into our virtual environments.
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX

say() {
    printf '== %s\n' "$*" >&2
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Run a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

package_is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'
}

# Install those of the named Debian packages that are missing; says which.
need_packages() {
    missing=''
    for package in "$@"; do
        package_is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        die "these packages are missing, and there is no apt-get to install them with:$missing"
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
        die "these packages are missing, and installing them needs root or sudo: apt-get install$missing"
    fi
    say "installing Debian packages:$missing"
    # shellcheck disable=SC2086 # one word a package
    install_packages $missing || {
        say "not found with the package lists at hand: fetching new ones"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update >&2 || die "apt-get update failed (no network?)"
        # shellcheck disable=SC2086
        install_packages $missing || die "apt-get could not install:$missing"
    }
}

install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install "$@" >&2
}

# The Python that makes our virtual environments: Debian's own, so that another one earlier in PATH stays untouched.
system_python() {
    if [ -x /usr/bin/python3 ]; then
        echo /usr/bin/python3
    else
        command -v python3 || die 'no python3 found'
    fi
}

# @1: directory of the environment, @2: requirements file with hashes. A stamp made last says that it is whole; a
# changed requirements file makes it anew.
need_venv() {
    stamp="$1/requirements.sha256"
    wanted=$(sha256sum <"$2")
    if [ -x "$1/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return 0
    fi
    say "installing the Python packages of $2 into $1"
    rm -f "$stamp"
    [ -x "$1/bin/python" ] && "$1/bin/python" -c 'import pip' 2>/dev/null || {
        rm -rf "$1"
        "$(system_python)" -m venv "$1" || die "could not make a Python environment in $1"
    }
    "$1/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar on --require-hashes -r "$2" >&2 || {
        die "could not fetch the Python packages of $2: is there a network? Run the same command again to go on."
    }
    printf '%s\n' "$wanted" >"$stamp"
}

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

# build/tools/redis-server: Redis's checker is the server when it is called so.
need_redis_server() {
    # shellcheck disable=SC2086 # one word a package
    need_packages $REDIS_PACKAGES
    [ ! -x build/tools/redis-server ] || return 0
    unpack_package redis-tools
    ln -sfn redis-tools/usr/bin/redis-check-rdb build/tools/redis-server
}

# make tells its children how to join it; ours are started on their own.
unset MAKEFLAGS MFLAGS MAKELEVEL

processors() {
    getconf _NPROCESSORS_ONLN
}

BUILD_PACKAGES='build-essential pkg-config libmicrohttpd-dev libcurl4-openssl-dev libjansson-dev libyaml-dev libssl-dev
libhiredis-dev uthash-dev'
DEMO_PACKAGES='ca-certificates curl python3 python3-venv'
TEST_PACKAGES='clang clang-format libclang-rt-14-dev libcmocka-dev procps util-linux'
REDIS_PACKAGES='libjemalloc2 liblzf1' # the libraries of redis-tools that a small system may not have
