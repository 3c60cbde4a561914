"""The fake itself, asked straight by HTTP clients: what the other tests lean on."""

import base64
import json
import struct
import subprocess

import httpx
import openai
import pytest
from support import paths
from support.waiting import wait_until
from support.wire import Wire, events_of


@pytest.fixture(params=["openai", "vllm", "llamacpp"])
def engine(request, make_engine):
    return make_engine(dialect=request.param, model="m")


@pytest.fixture
def client(engine):
    return openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0)


def post(engine, path, body, **options):
    return httpx.post(engine.url + path, json=body, timeout=5, **options)


def stream_of(engine, path, body):
    return events_of(post(engine, path, {**body, "stream": True}).content)


def test_the_official_client_reads_its_answers(client):
    done = client.completions.create(model="m", prompt="hi", max_tokens=3)
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("tok0 tok1 tok2 ", "length")
    assert done.usage.completion_tokens == 3
    said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "[[tokens=2]]"}])
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("tok0 tok1 ", "stop")
    assert [model.id for model in client.models.list()] == ["m"]


def test_the_official_client_reads_its_streams(client):
    messages = [{"role": "user", "content": "[[tokens=4]]"}]
    chunks = list(
        client.chat.completions.create(
            model="m", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "tok0 tok1 tok2 tok3 "
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [4]


def test_the_official_client_reads_its_embeddings(client):
    as_base64 = client.embeddings.create(model="m", input=["a", "b"])
    as_floats = client.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    assert len(as_base64.data) == 2
    assert as_base64.data[1].embedding == pytest.approx(as_floats.data[1].embedding)


def test_base64_and_floats_are_the_same_numbers(engine):
    numbers = post(engine, "/v1/embeddings", {"model": "m", "input": "x"}).json()["data"][0]["embedding"]
    coded = post(engine, "/v1/embeddings", {"model": "m", "input": "x", "encoding_format": "base64"}).json()
    assert list(struct.unpack("<8f", base64.b64decode(coded["data"][0]["embedding"]))) == pytest.approx(numbers)


def test_it_counts_before_the_tokens_leave(engine):
    post(engine, "/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 5}, headers={"x-request-id": "r1"})
    assert engine.events("r1") == ["begin", "token", "token", "token", "token", "token", "end"]
    assert (engine.generated("r1"), engine.attempts("r1")) == (5, 1)


def test_it_notes_a_client_that_hangs_up(engine):
    with httpx.stream(
        "POST",
        f"{engine.url}/v1/completions",
        json={"model": "m", "prompt": "[[tokens=1000]][[interval_ms=20]]", "stream": True},
        headers={"x-request-id": "r2"},
    ) as answer:
        next(answer.iter_lines())
    assert engine.wait_for_event("r2", "gone")["tokens"] < 1000
    assert engine.state()["slots_taken"] == 0


def test_it_shows_the_exact_bytes_it_was_sent(engine):
    body = '{"model": "m",  "prompt":"ä\\u0001\\"", "max_tokens":1}'.encode()
    httpx.post(f"{engine.url}/v1/completions", content=body, headers={"X-Odd": "Value"})
    seen = engine.seen()[-1]
    assert seen["body"] == body
    assert seen["headers"]["x-odd"] == "Value"


def test_usage_stands_where_the_dialect_puts_it(make_engine):
    body = {"model": "m", "prompt": ["a", "b"], "max_tokens": 2, "stream_options": {"include_usage": True}}
    proper = stream_of(make_engine("one", dialect="openai"), "/v1/completions", body)
    assert (proper[-1], proper[-2]["choices"]) == ("[DONE]", [])
    assert proper[-2]["usage"]["completion_tokens"] == 4
    beside = stream_of(make_engine("two", dialect="llamacpp"), "/v1/completions", body)
    assert beside[-2]["choices"][0]["finish_reason"] == "length"
    assert beside[-2]["usage"]["completion_tokens"] == 2, "llama.cpp reports one choice only"


def test_continuous_usage_counts_in_every_chunk(make_engine):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = stream_of(
        make_engine(dialect="vllm"),
        "/v1/completions",
        {"model": "m", "prompt": "[[tokens=3]]", "stream_options": options},
    )
    assert [event["usage"]["completion_tokens"] for event in events[:-1]] == [1, 2, 3, 3]


def test_llamacpp_says_keep_alive_and_closes_after_a_stream(make_engine):
    for dialect, closes in (("llamacpp", True), ("vllm", False)):
        engine = make_engine(dialect, dialect=dialect)
        with Wire(("127.0.0.1", engine.port)) as wire:
            wire.request("POST", "/v1/completions", {"model": "m", "prompt": "x", "stream": True})
            wire.read_answer()
            assert wire.headers["connection"] == "keep-alive"
            assert wire.is_closed_within(0.5) == closes


def test_loading_answers_503(make_engine):
    engine = make_engine(dialect="llamacpp", load_ms=500)
    assert httpx.get(f"{engine.url}/health").status_code == 503
    assert post(engine, "/v1/completions", {"model": "m", "prompt": "x"}).status_code == 503
    wait_until(lambda: httpx.get(f"{engine.url}/health").status_code == 200, "the load to end")


def test_slots_bound_what_runs_at_once(make_engine):
    engine = make_engine(slots=1)
    with httpx.stream(
        "POST",
        f"{engine.url}/v1/completions",
        json={"model": "m", "prompt": "[[tokens=1000]][[interval_ms=50]]", "stream": True},
    ) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the answer with its iterator
        next(lines)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{engine.url}/v1/completions", json={"model": "m", "prompt": "x"}, timeout=0.4)
    assert post(engine, "/v1/completions", {"model": "m", "prompt": "x"}).status_code == 200


def test_held_requests_wait_for_the_release(make_engine):
    engine = make_engine()
    with Wire(("127.0.0.1", engine.port)) as wire:
        wire.request("POST", "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]"})
        wait_until(lambda: engine.state()["held"] == 1, "the request to be held")
        assert not wire.is_closed_within(0.2)
        engine.release()
        wire.read_answer()
        assert wire.status == 200


@pytest.mark.parametrize(
    "fault", ["reset_before_headers", "close_without_byte", "reset_after=2", "close_after=2", "crash=2"]
)
def test_faults_that_break_the_connection(make_engine, fault):
    engine = make_engine()
    with Wire(("127.0.0.1", engine.port)) as wire:
        wire.request("POST", "/v1/completions", {"model": "m", "prompt": f"[[fault={fault}]]", "stream": True})
        received = wire.read_to_end()
    assert received.count(b'"text":"tok') == (2 if "=" in fault else 0)
    assert b"[DONE]" not in received


def test_a_fault_for_all_can_be_set_and_cleared(make_engine):
    engine = make_engine()
    body = {"model": "m", "prompt": "x"}
    engine.fault("status=503")
    refused = post(engine, "/v1/completions", body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    engine.fault()
    assert post(engine, "/v1/completions", body).status_code == 200


def test_faults_inside_streams(make_engine):
    engine = make_engine()

    def last(fault):
        body = {"model": "m", "prompt": f"[[fault={fault}]]", "stream": True, "stream_options": {"include_usage": True}}
        return post(engine, "/v1/completions", body).content.split(b"\n\n")[:-1]

    assert not last("no_done")[-1].endswith(b"[DONE]")
    assert b'"finish_reason":"stop"' not in b"".join(last("no_finish_reason"))
    assert b'"usage":{' not in b"".join(last("no_usage"))
    assert b'"completion_tokens":0' in last("zero_usage")[-2]
    assert b'"finish_reason":"stop"' in last("usage_on_finish")[-2] and b'"usage":{' in last("usage_on_finish")[-2]
    assert b'"error"' in last("error_in_stream")[-2]
    assert len(last("huge_event=100000")[0]) > 100000
    assert b"tok0 tok1 tok2 tok3 " in last("multi_token_chunks=4")[0]
    with pytest.raises(json.JSONDecodeError):
        json.loads(last("truncated_json")[-1][6:])


def test_unknown_options_are_refused():
    answer = subprocess.run([paths.SCRIPTED_ENGINE, "--no-such"], capture_output=True, timeout=5)
    assert answer.returncode == 2
