"""What the gateway tells: metrics, log lines, health, the admin API. And what it never tells."""

import json
import pathlib
import re
import subprocess

import httpx
import pytest
from conftest import API_KEY_OF_ENGINE
from support import paths, processes
from support.waiting import wait_until

PROMPT_CANARY = "canary-of-a-prompt-7391"


@pytest.fixture
def traffic(gateway, keys):
    """Some of everything, so that every metric family has a series."""
    gateway.complete("vllm", PROMPT_CANARY, max_tokens=2)
    gateway.stream("llamacpp", PROMPT_CANARY)
    gateway.complete("vllm", PROMPT_CANARY, key=keys.unknown)
    gateway.complete("llamacpp", PROMPT_CANARY, key=keys.narrow)
    gateway.complete("quick", PROMPT_CANARY + "[[fault=status=500]]")
    gateway.complete("with_key", PROMPT_CANARY, max_tokens=1)
    gateway.complete("nope", PROMPT_CANARY)
    gateway.post("/v1/completions", f'{{"model": "vllm", "prompt": "{PROMPT_CANARY}", broken'.encode())
    gateway.complete("vllm", PROMPT_CANARY, max_tokens=-1)


def test_promtool_accepts_the_metrics(gateway, traffic):
    text = gateway.metrics_text()
    ran = subprocess.run([paths.PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr.strip() == "", "promtool's advice"


def test_requests_and_tokens_are_counted(gateway):
    labels = {"model": "vllm", "tenant": "acme"}
    requests = gateway.metric_sum("tollgate_requests_total", code="200", **labels)
    output = gateway.metric_sum("tollgate_tokens_total", type="output", source="engine", **labels)
    seconds = gateway.metric_sum("tollgate_request_duration_seconds_count", model="vllm")
    gateway.complete("vllm", max_tokens=7)
    gateway.complete("small", max_tokens=4)
    assert gateway.metric_sum("tollgate_requests_total", code="200", **labels) == requests + 2
    assert gateway.metric_sum("tollgate_tokens_total", type="output", source="engine", **labels) == output + 11
    assert gateway.metric_sum("tollgate_request_duration_seconds_count", model="vllm") == seconds + 2


def test_the_first_token_and_the_gaps_are_timed(gateway):
    first = gateway.metric_sum("tollgate_time_to_first_token_seconds_count", model="vllm")
    gaps = gateway.metric_sum("tollgate_inter_token_latency_seconds_count", model="vllm")
    gateway.stream("vllm", "[[tokens=5]]")
    assert gateway.metric_sum("tollgate_time_to_first_token_seconds_count", model="vllm") == first + 1
    assert gateway.metric_sum("tollgate_inter_token_latency_seconds_count", model="vllm") == gaps + 4


def test_labels_are_bounded(gateway):
    before = len(gateway.metrics())
    for i in range(50):
        gateway.complete(f"made-up-{i}")
        gateway.get(f"/made/up/{i}")
    assert len(gateway.metrics()) <= before + 5


def test_every_request_leaves_one_line_with_its_usage(gateway, engines):
    answer = gateway.complete("small", max_tokens=3)
    request_id = answer.headers["x-request-id"]
    line = gateway.request_line(request_id)
    assert line["tenant"] == "acme" and line["key"] == "full"
    assert line["model"] == "vllm" and "small" in line.values(), "the alias stands beside the name"
    assert line["endpoint"] == "completions" and line["status"] == 200
    assert line["input_tokens"] == engines.vllm.input_tokens(request_id)
    assert line["output_tokens"] == 3
    assert sum(request_id in each.values() for each in gateway.log("request")) == 1


@pytest.mark.parametrize("model", ["vllm", "openai", "llamacpp"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_usage_of_streams_is_the_engines(gateway, engines, model, path):
    wire, _ = gateway.stream(model, "[[tokens=9]][[cached=4]]", path)
    request_id = wire.headers["x-request-id"]
    line = gateway.request_line(request_id)
    engine = getattr(engines, model)
    assert line["input_tokens"] == engine.input_tokens(request_id)
    assert line["output_tokens"] == engine.generated(request_id) == 9
    assert line["cached_input_tokens"] == 4
    assert line["output_source"] == "engine"


@pytest.mark.parametrize("model", ["vllm", "llamacpp"])
def test_usage_of_embeddings(gateway, engines, model):
    answer = gateway.post("/v1/embeddings", {"model": model, "input": ["some", "words"]})
    line = gateway.request_line(answer.headers["x-request-id"])
    assert line["input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert line["output_tokens"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_usage_that_covers_one_choice_is_completed_by_counting(gateway, engines, stream):
    body = {"model": "llamacpp", "prompt": ["a [[tokens=5]]", "b"], "n": 2, "stream": stream}
    answer = gateway.post("/v1/completions", body)
    request_id = answer.headers["x-request-id"]
    line = gateway.request_line(request_id)
    assert line["output_tokens"] == 4 * engines.llamacpp.generated(request_id) == 20, line


def test_an_interrupted_stream_is_counted_by_what_was_relayed(gateway, engines):
    with gateway.open_stream("openai", "[[tokens=500]][[interval_ms=20]]", max_tokens=500) as wire:
        for _ in range(10):
            wire.read_chunk()
        request_id = wire.headers["x-request-id"]
    line = gateway.request_line(request_id)
    assert 7 <= line["output_tokens"] <= engines.openai.generated(request_id)
    assert line["output_source"] == "counted"


def test_log_lines_of_failures_name_the_engine(gateway):
    answer = gateway.complete("quick", "[[fault=status=500]]")
    line = gateway.request_line(answer.headers["x-request-id"])
    assert line["engine"] == "quick/1" and line["attempts"] == 1


# ---- secrets ----


def family(gateway):
    return [gateway.master_pid] + processes.descendants(gateway.master_pid)


def test_no_secret_is_told_anywhere(gateway, keys, traffic):
    wait_until(lambda: len(gateway.log("request")) >= 9, "the log")
    told = {
        "log": gateway.log_text(),
        "metrics": gateway.metrics_text(),
        "engines": gateway.admin("/admin/v1/engines").text,
        "requests": gateway.admin("/admin/v1/requests").text,
        "readyz": gateway.readyz(verbose=True).text,
    }
    for pid in family(gateway):
        told[f"command line of {pid}"] = str(processes.command_line(pid))
        told[f"environment of {pid}"] = str(processes.environment(pid))
    secrets = [key.bearer for key in (keys.full, keys.narrow, keys.unknown, keys.expired, keys.disabled)]
    secrets += [API_KEY_OF_ENGINE, PROMPT_CANARY, gateway.token_file.read_text().strip()]
    for place, text in told.items():
        for secret in secrets:
            assert secret not in text, f"{secret} in the {place}"
            assert secret[8:24] not in text, f"a part of {secret} in the {place}"


def test_errors_do_not_echo_secrets(gateway, keys, traffic):
    for body in (
        b'{"model": "vllm", "prompt": "' + PROMPT_CANARY.encode() + b'"',
        b'{"prompt": "' + PROMPT_CANARY.encode() + b'"}',
    ):
        assert PROMPT_CANARY not in gateway.post("/v1/completions", body).text


def test_state_files_are_private_and_hold_no_key(gateway, keys):
    state = gateway.directory / "state"
    for path in pathlib.Path(state).rglob("*"):
        if path.is_file():
            assert keys.full.bearer.encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0, path


# ---- the admin listener ----


def test_health_routes(gateway):
    assert httpx.get(f"{gateway.admin_url}/livez").status_code == 200
    assert gateway.readyz().status_code == 200
    verbose = gateway.readyz(verbose=True).text
    assert re.search(r"^\[\+\].*vllm", verbose, re.MULTILINE), verbose
    assert gateway.client.get("/health").status_code == 200


def test_the_data_listener_serves_no_admin_route(gateway):
    for path in ("/metrics", "/livez", "/readyz", "/admin/v1/engines", "/admin/v1/requests"):
        assert gateway.get(path).status_code == 404


def test_engines_are_shown_with_their_state(gateway, engines):
    shown = gateway.engines()
    assert {"vllm/1", "pair/1", "pair/2", "spawned/1"} <= set(shown)
    spawned = shown["spawned/1"]
    assert spawned["state"].upper() == "READY"
    assert spawned["pid"] == engines.spawned.pid
    assert spawned["restarts"] == 0
    assert set(spawned) >= {"evidence", "in_flight", "slots", "log"}
    wait_until(lambda: "listening on" in str(gateway.engines()["spawned/1"]["log"]), "the engine's last words")


def test_requests_are_shown_newest_first_without_bodies(gateway):
    ids = [gateway.complete("vllm", PROMPT_CANARY, max_tokens=1).headers["x-request-id"] for _ in range(3)]
    for request_id in ids:
        gateway.request_line(request_id)
    answer = gateway.admin("/admin/v1/requests")
    shown = answer.json()["requests"]
    assert len(shown) <= 200
    places = [next(i for i, each in enumerate(shown) if request_id in each.values()) for request_id in ids]
    assert places == sorted(places, reverse=True)
    assert PROMPT_CANARY not in answer.text


def test_reading_needs_no_token_on_this_machine_and_writing_does(gateway):
    assert gateway.admin("/admin/v1/engines", token=False).status_code == 200
    assert gateway.admin("/admin/v1/reload", "POST", token=False).status_code in (401, 403)
    wrong = httpx.post(f"{gateway.admin_url}/admin/v1/reload", headers={"authorization": "Bearer wrong"})
    assert wrong.status_code in (401, 403)
    wrong = httpx.get(f"{gateway.admin_url}/admin/v1/engines", headers={"authorization": "Bearer wrong"})
    assert wrong.status_code in (401, 403)


def test_a_page_in_a_browser_cannot_read_the_admin_api(gateway):
    """DNS rebinding: the Host is checked."""
    answer = httpx.get(f"{gateway.admin_url}/admin/v1/engines", headers={"host": "evil.example"})
    assert answer.status_code in (400, 403, 421)
    for name in ("localhost", "127.0.0.1", f"127.0.0.1:{gateway.admin_port}"):
        assert httpx.get(f"{gateway.admin_url}/livez", headers={"host": name}).status_code == 200


def test_unknown_admin_routes_are_404(gateway):
    assert gateway.admin("/admin/v1/nope").status_code == 404
    assert gateway.admin("/v1/models").status_code == 404


def test_lines_of_the_log_are_json_with_time_and_level(gateway, traffic):
    for line in gateway.log_text().splitlines():
        entry = json.loads(line)
        assert {"time", "level", "event"} <= set(entry), entry
