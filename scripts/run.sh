#!/bin/sh
# `make run`: everything from a fresh clone to a model that answers, in the foreground. Ctrl-C stops all of it.
# What is made lives in build/ (downloads) and .tollgate/ (configuration, key, state); both may be deleted.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

home=.tollgate
config=$home/tollgate.yaml
ready_seconds_max=180

# A directory of the user's own with the demo's configuration: copied once, then the user's to edit.
make_home() {
    if [ ! -f "$config" ]; then
        say "copying conf/examples/demo to $home"
        (
            umask 077
            mkdir -p "$home"
        )
        cp conf/examples/demo/tollgate.yaml "$config.new"
        mv "$config.new" "$config"
    fi
    # The engine's program runs in the Python that has llama.cpp, wherever this clone stands today.
    here=$(pwd | sed "s/'/'\\\\''/g")
    printf '#!/bin/sh\nexec '\''%s/build/venv-demo/bin/python'\'' '\''%s/conf/examples/demo/llama_engine'\'' "$@"\n' \
        "$here" "$here" >"$home/llama_engine.new"
    chmod +x "$home/llama_engine.new"
    mv "$home/llama_engine.new" "$home/llama_engine"
    ln -sfn ../build/demo/model.gguf "$home/model.gguf"
}

# The demo key is made here, at the first run, and kept 0600: no key is published with the source.
make_key() {
    if [ -s "$home/demo.key" ] && grep -q "$(printf %s "$(cat "$home/demo.key")" | sha256sum | cut -c 1-64)" "$home/keys" 2>/dev/null; then
        return 0
    fi
    say "making an API key for the tenant demo: $home/demo.key"
    (
        umask 077
        build/tollgate keys new --tenant demo --config "$config" >"$home/demo.key.new"
    ) || die 'could not make a key'
    key=$(grep -o 'tg_[A-Za-z0-9_]*' "$home/demo.key.new" | head -n 1)
    printf '%s\n' "$key" >"$home/demo.key.new"
    mv "$home/demo.key.new" "$home/demo.key"
}

# The address in the configuration's line "@1", or @2 when there is none.
address_of() {
    found=$(sed -n "s/^ *$1 *[\"']\{0,1\}\([^ \"',}#]*\).*/\1/p" "$config" | head -n 1)
    echo "${found:-$2}"
}

stop() {
    set +e # the terminal may be gone, and writing to it an error: go on
    kill -TERM "$gateway" 2>/dev/null
    trap 'kill -TERM "$gateway" 2>/dev/null' INT TERM
    trap '' HUP
    say 'stopping (again Ctrl-C: at once)'
    wait_for_gateway
    exit "$status"
}

# wait returns early at every signal that has a trap.
wait_for_gateway() {
    status=0
    wait "$gateway" || status=$?
    while kill -0 "$gateway" 2>/dev/null; do
        status=0
        wait "$gateway" || status=$?
    done
}

# Its answers would be taken for those of the gateway that is started here, and cannot get the port.
refuse_second() {
    if curl -sS -o /dev/null --max-time 5 "http://$admin/livez" 2>/dev/null; then
        die "something answers at http://$admin already: does this gateway run in another terminal?"
    fi
}

wait_until_ready() {
    begun=$(date +%s)
    told=0
    until curl -fsS -o /dev/null --max-time 5 "http://$admin/readyz" 2>/dev/null; do
        kill -0 "$gateway" 2>/dev/null || {
            wait_for_gateway
            die "tollgate ended before the model was ready (exit status $status); what it said stands above"
        }
        waited=$(($(date +%s) - begun))
        if [ "$waited" -ge "$ready_seconds_max" ]; then
            say "the model is not ready after $waited s. What the gateway knows about its engines:"
            curl -sS --max-time 5 "http://$admin/admin/v1/engines" >&2 || :
            echo >&2
            stop
        fi
        if [ "$waited" -ge $((told + 2)) ]; then
            told=$waited
            say "waiting for the model to be ready: $waited s"
        fi
        sleep 0.2
    done
    kill -0 "$gateway" 2>/dev/null || die 'tollgate ended, and another one answers in its place; what it said stands above'
}

print_how_to_call() {
    key=$(cat "$home/demo.key")
    cat <<END

Tollgate is ready: the model gemma-3-270m is served at http://$listen/v1
The demo key (kept in $home/demo.key): $key

curl:

curl http://$listen/v1/completions -H 'Authorization: Bearer $key' -H 'Content-Type: application/json' -d '{"model": "gemma-3-270m", "prompt": "The capital of France is", "max_tokens": 16}'

Python (pip install openai), demo.py:

from openai import OpenAI

client = OpenAI(base_url="http://$listen/v1", api_key="$key")
stream = client.completions.create(model="gemma-3-270m", prompt="The capital of France is", max_tokens=32, stream=True)
for chunk in stream:
    print(chunk.choices[0].text, end="", flush=True)
print()

JavaScript (Node 22 or newer, npm install openai), demo.mjs, started with node demo.mjs:

import OpenAI from "openai";

const client = new OpenAI({ baseURL: "http://$listen/v1", apiKey: "$key" });
const stream = await client.completions.create({
  model: "gemma-3-270m", prompt: "The capital of France is", max_tokens: 32, stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0].text);
console.log();

Admin (loopback only): http://$admin/readyz?verbose  http://$admin/metrics  http://$admin/admin/v1/engines
Ctrl-C stops the gateway and its engine.

END
}

# shellcheck disable=SC2086 # one word a package
need_packages $BUILD_PACKAGES $DEMO_PACKAGES
say 'building build/tollgate'
"${MAKE:-make}" -s -j "$(processors)" all || die 'tollgate could not be built'
scripts/setup_demo.sh
# What collects usage: the user's own program, or one that is unpacked and never installed. The gateway starts it.
command -v redis-server >/dev/null 2>&1 || {
    need_redis_server
    export REDIS_SERVER="$PWD/build/tools/redis-server"
}
make_home
make_key
listen=$(address_of 'listen:' 127.0.0.1:8700)
admin=$(address_of 'admin: *{ *listen:' 127.0.0.1:8701)

refuse_second
# Out of the terminal's reach: Ctrl-C comes to this script only, which passes on one SIGTERM (a second one skips draining).
setsid build/tollgate run --config "$config" &
gateway=$!
trap stop INT TERM HUP
sleep 0.2
wait_until_ready
print_how_to_call
wait_for_gateway
exit "$status"
