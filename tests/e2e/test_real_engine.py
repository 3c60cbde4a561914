"""llama.cpp with a real small model, spawned from the YAML as `make run` does it."""

import json
import threading
import time

import httpx
import pytest
from support import paths, processes
from support.gateway import Gateway, Key
from support.official import NodeClient, PythonClient
from support.waiting import wait_until
from support.wire import events_of

MODEL = "gemma-3-270m"
SLOTS = 4
KEY = Key("tg_test_real_engine_0123456789abc")


@pytest.fixture(scope="module")
def own(tmp_path_factory, shared_directory):
    directory = shared_directory / "real"
    directory.mkdir()
    spawn = [str(paths.DEMO_PYTHON), str(paths.LLAMA_ENGINE), "--model", str(paths.DEMO_MODEL), "--socket", "{socket}"]
    spawn += ["--alias", MODEL, "--parallel", str(SLOTS), "--embeddings"]
    config = {
        "models": {
            MODEL: {
                "aliases": ["small"],
                "context_tokens": 2048,
                "max_output_tokens": 1024,
                "queue": {"wait": "120s"},
                "engines": [{"spawn": spawn, "dialect": "llamacpp"}],
            }
        },
        "tenants": {"acme": {"keys": {"ci": KEY.yaml()}}},
    }
    gateway = Gateway(directory, config, key=KEY, wait=False)
    try:
        gateway.wait_ready(120)
        gateway.client.timeout = httpx.Timeout(150 * paths.SLOWNESS)  # 40 clients share two cores with the engine
        yield gateway
        gateway.stop()
    finally:
        gateway.end_now()


def text_of(events):
    return "".join(
        choice.get("text") or "" for event in events if isinstance(event, dict) for choice in event["choices"]
    )


def test_completions(own):
    answer = own.complete(MODEL, "The capital of France is", max_tokens=8, temperature=0)
    assert answer.status_code == 200
    body = answer.json()
    assert body["choices"][0]["text"].strip()
    assert body["usage"]["completion_tokens"] == 8
    line = own.request_line(answer.headers["x-request-id"])
    assert (line["output_tokens"], line["input_tokens"]) == (8, body["usage"]["prompt_tokens"])


def test_chat(own):
    answer = own.chat("small", "Say hello.", max_tokens=16)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"].strip()


def test_completions_without_a_cap_end_after_16_tokens(own):
    answer = own.complete(MODEL, "Once upon a time", temperature=0, ignore_eos=True)
    assert answer.json()["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_streams_come_token_by_token_with_usage_as_asked(own, path):
    for options in ({}, {"stream_options": {"include_usage": True}}):
        with own.open_stream(
            MODEL, "Count to ten.", path, max_tokens=24, ignore_eos=True, seconds=60, **options
        ) as wire:
            chunks = list(wire.read_chunks())
        events = events_of(b"".join(data for _, data in chunks))
        assert events[-1] == "[DONE]"
        usages = [event["usage"] for event in events[:-1] if event.get("usage")]
        assert len(usages) == len(options)
        if options:
            assert events[-2]["choices"] == [] and usages[0]["completion_tokens"] == 24
        assert chunks[-1][0] - chunks[0][0] > 0.05, "everything came at once"
        assert len(chunks) > 12


def test_embeddings(own):
    floats = own.post("/v1/embeddings", {"model": MODEL, "input": ["one", "two"]})
    assert floats.status_code == 200, floats.text
    data = floats.json()["data"]
    assert len(data) == 2 and len(data[0]["embedding"]) > 100
    assert own.request_line(floats.headers["x-request-id"])["input_tokens"] == floats.json()["usage"]["prompt_tokens"]
    coded = own.post("/v1/embeddings", {"model": MODEL, "input": "one", "encoding_format": "base64"})
    assert isinstance(coded.json()["data"][0]["embedding"], str)


def test_several_choices_are_counted_whole(own):
    answer = own.complete(MODEL, ["one", "two"], max_tokens=6, n=1, ignore_eos=True)
    assert len(answer.json()["choices"]) == 2
    assert own.request_line(answer.headers["x-request-id"])["output_tokens"] >= 11


def test_a_prompt_beyond_the_context_is_the_clients_error(own):
    answer = own.complete(MODEL, "word " * 4000, max_tokens=4)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("client", [PythonClient, NodeClient])
def test_official_clients(own, client):
    asked = client(own.url, KEY.bearer, timeout=60)
    assert asked.complete(model=MODEL, prompt="Hello", max_tokens=4)["choices"][0]["text"]
    chunks = asked.stream(model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=8)
    assert "".join((chunk["choices"][0]["delta"].get("content") or "") for chunk in chunks if chunk["choices"])
    assert len(asked.embed(model=MODEL, input="Hello")[0]) > 100
    assert MODEL in asked.models()


def busy_slots(own):
    """What the engine itself says."""
    transport = httpx.HTTPTransport(uds=own.engines()[f"{MODEL}/1"]["socket"])
    with httpx.Client(transport=transport, base_url="http://engine", timeout=20 * paths.SLOWNESS) as client:
        return sum(slot["is_processing"] for slot in client.get("/slots").json())


def test_an_abort_of_a_stream_frees_the_engines_slot(own):
    wire = own.open_stream(MODEL, "Once", "/v1/completions", max_tokens=1000, ignore_eos=True, seconds=60)
    wait_until(lambda: busy_slots(own) == 1, "the slot to be taken")
    wire.close()
    wait_until(lambda: busy_slots(own) == 0, "the slot to be free", 10)
    own.wait_idle(1)


def test_an_abort_of_a_whole_answer_frees_our_slot(own):
    """This llama.cpp notices a lost connection only while it streams: it generates such an answer to its end."""
    wire = own.wire(60)
    own.send(wire, "/v1/completions", {"model": MODEL, "prompt": "Once", "max_tokens": 150, "ignore_eos": True})
    wait_until(lambda: busy_slots(own) == 1, "the slot to be taken")
    wire.close()
    own.wait_idle(1)
    wait_until(lambda: busy_slots(own) == 0, "the answer to end", 60)


def test_40_clients_on_4_slots(own):
    """Nobody hangs, nobody is refused, no engine is declared dead."""
    pid, results = own.engines()[f"{MODEL}/1"]["pid"], []

    def ask(number):
        body = {"max_tokens": 12, "ignore_eos": True}
        try:
            if number % 2:
                answer = own.complete(MODEL, f"Number {number}", **body)
                results.append(
                    answer.status_code if answer.json().get("usage", {}).get("completion_tokens") == 12 else answer.text
                )
            else:
                _, events = own.stream(MODEL, f"Number {number}", "/v1/completions", seconds=150, **body)
                results.append(200 if events[-1] == "[DONE]" and text_of(events) else events[-1])
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert own.in_flight() <= SLOTS
        time.sleep(0.2)
    assert results == [200] * 40
    shown = own.engines()[f"{MODEL}/1"]
    assert (shown["pid"], shown["state"].upper(), shown["restarts"]) == (pid, "READY", 0)


def test_100_aborts_leave_every_slot_free(own):
    for number in range(100):
        wire = own.wire(60)
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 500, "ignore_eos": True, "stream": True}
        own.send(wire, "/v1/completions", body)
        time.sleep(0.01 * (number % 6))
        wire.close()
    wait_until(lambda: own.in_flight() == 0, "our slots to be free", 4)
    wait_until(lambda: busy_slots(own) == 0, "the engine's slots to be free", 10)
    assert own.complete(MODEL, "Hi", max_tokens=2).status_code == 200


def test_it_survives_a_crash_of_the_gateway(own):
    import os
    import signal

    pid, old = own.engines()[f"{MODEL}/1"]["pid"], own.gateway_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: own.gateway_pid() not in (None, old), "a new gateway process")
    own.wait_ready(4)
    assert own.engines()[f"{MODEL}/1"]["pid"] == pid and processes.is_alive(pid)
    assert json.loads(own.complete(MODEL, "Hi", max_tokens=2).text)["usage"]["completion_tokens"] == 2
