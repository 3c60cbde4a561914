#!/bin/sh
# What a refusal costs: CPU of the gateway per 429 against that per GET /health, in turns, with wrk (Debian's package wrk).
# Usage: bench/refusals.sh [rounds]. Needs `make` and `make tools`; uses ports 38700, 38701 and 38800 of this machine.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-5}
command -v wrk >/dev/null || {
    echo 'wrk is missing: apt-get install wrk' >&2
    exit 1
}
home=$(mktemp -d)
trap 'kill "$gateway" "$engine" 2>/dev/null || :; wait; rm -rf "$home"' EXIT
engine='' gateway=''

cat >"$home/tollgate.yaml" <<END
listen: 127.0.0.1:38700
admin: { listen: 127.0.0.1:38701 }
state_dir: state
runtime_dir: run
workers: 1
models: { m: { engines: [ { url: "http://127.0.0.1:38800", dialect: vllm } ] } }
tenants:
  acme: { keys: { ci: { sha256: $(printf bench | sha256sum | cut -c 1-64), limits: { requests_per_minute: 1 } } } }
END
echo 'wrk.method = "GET"' >"$home/health.lua"
cat >"$home/refused.lua" <<'END'
wrk.method = "POST"
wrk.body = '{"model":"m","prompt":"hi","max_tokens":1}'
wrk.headers["Authorization"] = "Bearer bench"
wrk.headers["Content-Type"] = "application/json"
END

build/release/tools/scripted_engine --port 38800 --model m --dialect vllm >/dev/null 2>&1 &
engine=$!
build/tollgate run --config "$home/tollgate.yaml" >/dev/null 2>&1 &
gateway=$!
until curl -sf http://127.0.0.1:38701/readyz >/dev/null; do sleep 0.1; done
worker=$(pgrep -P "$gateway" -f 'tollgate gateway')

# The process's clock ticks so far, user and system.
ticks() {
    awk '{ print $14 + $15 }' "/proc/$worker/stat"
}

# round <script> <path>: nanoseconds of CPU per request.
round() {
    before=$(ticks)
    wrk -t1 -c8 -d3s -s "$home/$1.lua" "http://127.0.0.1:38700$2" >"$home/out"
    count=$(awk '/requests in/ { print $1 }' "$home/out")
    echo $((($(ticks) - before) * 1000000000 / $(getconf CLK_TCK) / count))
}

health=0 refused=0
for i in $(seq "$rounds"); do
    h=$(round health /health)
    r=$(round refused /v1/completions)
    echo "round $i: GET /health $h ns, 429 $r ns"
    health=$((health + h)) refused=$((refused + r))
done
awk -v h="$health" -v r="$refused" 'BEGIN { printf "a refusal costs %.2f times GET /health\n", r / h }'
