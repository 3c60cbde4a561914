"""Three chats with the real engine and model, the private Redis, and the fake Stripe: the commands' figures are those of
the engine's own counters."""

import json
import re
import subprocess
import time

import httpx
import pytest
from support import paths, processes
from support.gateway import Gateway, Key
from support.stripe import FakeStripe
from support.waiting import wait_until

MODEL = "gemma-3-270m"
KEY = Key("tg_test_real_usage_0123456789abc")
STRIPE_KEY = "sk_test_canary_real_0123456789"
MEASURES = ("input_tokens", "output_tokens", "requests")


@pytest.fixture(scope="module")
def house(shared_directory):
    """(gateway, stripe)"""
    directory = shared_directory / "sold"
    directory.mkdir()
    key_file = directory / "stripe.key"
    key_file.write_text(STRIPE_KEY + "\n")
    key_file.chmod(0o600)
    stripe = FakeStripe(directory, ["cus_demo"], MEASURES, key=STRIPE_KEY)
    spawn = [str(paths.DEMO_PYTHON), str(paths.LLAMA_ENGINE), "--model", str(paths.DEMO_MODEL), "--socket", "{socket}"]
    meters = [{"event_name": name, "measure": name} for name in MEASURES]
    config = {
        "models": {
            MODEL: {
                "context_tokens": 2048,
                "max_output_tokens": 1024,
                "price": {"currency": "EUR", "input": "0.10", "output": "0.40"},
                "engines": [{"spawn": [*spawn, "--alias", MODEL, "--parallel", "2"], "dialect": "llamacpp"}],
            }
        },
        "tenants": {"demo": {"customer": "cus_demo", "keys": {"ci": KEY.yaml()}}},
        "billing": {
            "epoch": "1s",
            "providers": [
                {"file": {"dir": "usage"}},
                {"stripe": {"api_key_file": str(key_file), "api_base": stripe.url, "meters": meters}},
            ],
        },
    }
    gateway = Gateway(directory / "g", config, key=KEY, wait=False)
    try:
        gateway.wait_ready(120)
        gateway.client.timeout = httpx.Timeout(150 * paths.SLOWNESS)
        yield gateway, stripe
        gateway.stop()
    finally:
        gateway.end_now()
        stripe.stop()


def engine_counter(gateway, name):
    """Of llama.cpp's own /metrics, past the gateway."""
    for pid in processes.descendants(gateway.master_pid):
        line = processes.command_line(pid)
        if b"--socket" in line and b"llama_engine" in b" ".join(line):
            socket_path = line[line.index(b"--socket") + 1].decode()
            break
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket_path), base_url="http://engine", timeout=30) as client:
        return int(float(re.search(rf"^llamacpp:{name} (\S+)$", client.get("/metrics").text, re.M)[1]))


def command(gateway, *words, code=0):
    done = subprocess.run(
        [gateway.binary, *words, "--json", "--config", str(gateway.file)],
        cwd=gateway.directory, capture_output=True, text=True, timeout=60 * paths.SLOWNESS,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def sold_by(gateway, question):
    """The usage of one streamed chat, as its client sees it."""
    options = {"stream_options": {"include_usage": True}, "max_tokens": 24, "temperature": 0}
    _, events = gateway.stream(MODEL, question, seconds=120, **options)
    assert events[-1] == "[DONE]"
    return events[-2]["usage"]


def test_three_chats_are_sold_as_the_engine_counts_them(house):
    gateway, stripe = house
    before = engine_counter(gateway, "tokens_predicted_total")
    questions = ["What is the capital of France?", "Name three colours.", "Tell me about the sea."]
    hour = time.strftime("%Y-%m-%dT%H", time.gmtime())
    usage = [sold_by(gateway, question) for question in questions]
    sums = {
        "input_tokens": sum(each["prompt_tokens"] for each in usage),
        "output_tokens": sum(each["completion_tokens"] for each in usage),
        "requests": len(usage),
    }
    assert engine_counter(gateway, "tokens_predicted_total") - before == sums["output_tokens"]
    wait_until(lambda: {name: stripe.total(event_name=name) for name in MEASURES} == sums, "Stripe to have it all", 20)

    def is_told():
        status = {each["provider"]: each for each in command(gateway, "usage", "status")["providers"]}
        is_whole = status["stripe"]["rows"]["acked"] == len(stripe.events())
        return is_whole and status["file"]["rows"]["acked"] >= len(stripe.events())

    wait_until(is_told, "usage status to say so")
    next_hour = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + 3600))
    window = ["--from", hour, "--to", next_hour, "--format", "csv", "--out", "exports"]
    exported = command(gateway, "usage", "export", *window, code=3)  # the hour is not over
    assert {name: exported["sums"][name] for name in MEASURES} == sums
    told = command(gateway, "usage", "reconcile", "--verbose")
    assert told["agrees"] and told["complete"]
    provided = {name: 0 for name in MEASURES}
    for row in told["rows"]:
        if row["provider"] == "stripe":
            provided[row["meter"]] += row["quantities"]["provider"]
    assert provided == sums
