"""Server-sent events: what a client of a stream may rely on, whatever the engine does."""

import json
import time

import pytest
from support import paths
from support.wire import events_of

DIALECTS = ["vllm", "openai", "llamacpp", "spawned"]
PATHS = ["/v1/completions", "/v1/chat/completions"]


def text_of(events):
    found = ""
    for event in events:
        for choice in event["choices"] if isinstance(event, dict) else []:
            found += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return found


def usages(events):
    return [event["usage"] for event in events if isinstance(event, dict) and event.get("usage")]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", DIALECTS)
def test_without_asking_no_usage_chunk_comes(gateway, model, path):
    wire, events = gateway.stream(model, "[[tokens=4]]", path)
    assert wire.headers["content-type"].startswith("text/event-stream")
    assert "x-request-id" in wire.headers
    assert events[-1] == "[DONE]" and events.count("[DONE]") == 1
    assert text_of(events) == "tok0 tok1 tok2 tok3 "
    assert usages(events) == []
    assert all(event["choices"] for event in events[:-1])
    assert [
        choice["finish_reason"] for event in events[:-1] for choice in event["choices"] if choice["finish_reason"]
    ] == ["stop"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", DIALECTS)
def test_whoever_asks_gets_one_usage_chunk_in_openais_place(gateway, model, path):
    _, events = gateway.stream(model, "[[tokens=4]]", path, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert len(usages(events)) == 1
    last = events[-2]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 4
    assert set(last) >= {"id", "object", "created", "model"}
    assert last["id"] == events[0]["id"]


@pytest.mark.parametrize("model", DIALECTS)
def test_include_usage_false_is_like_not_asking(gateway, model):
    _, events = gateway.stream(model, "[[tokens=2]]", "/v1/completions", stream_options={"include_usage": False})
    assert usages(events) == [] and events[-1] == "[DONE]"


def test_the_engine_is_always_asked_for_usage(gateway, engines):
    for options in ({}, {"stream_options": None}, {"stream_options": {}}, {"stream_options": {"include_usage": False}}):
        wire, _ = gateway.stream("vllm", "[[tokens=1]]", **options)
        body = engines.vllm.seen_body(wire.headers["x-request-id"])
        assert body["stream_options"]["include_usage"] is True


def test_usage_that_comes_late_or_beside_the_finish_gets_its_own_chunk(gateway):
    for fault in ("late_usage=300", "usage_on_finish"):
        _, events = gateway.stream("openai", f"[[tokens=3]][[fault={fault}]]", stream_options={"include_usage": True})
        assert [event["usage"]["completion_tokens"] for event in events[:-1] if event.get("usage")] == [3], fault
        assert events[-2]["choices"] == [] and events[-1] == "[DONE]", fault
        _, events = gateway.stream("openai", f"[[tokens=3]][[fault={fault}]]")
        assert usages(events) == [] and events[-1] == "[DONE]", fault


def test_cached_tokens_come_through(gateway):
    _, events = gateway.stream("vllm", "[[tokens=1]][[cached=7]]", stream_options={"include_usage": True})
    assert events[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 7


def test_continuous_usage_is_passed_on_where_the_engine_knows_it(gateway):
    options = {"include_usage": True, "continuous_usage_stats": True}
    _, events = gateway.stream("vllm", "[[tokens=3]]", "/v1/completions", stream_options=options)
    assert [event["usage"]["completion_tokens"] for event in events[:-1]] == [1, 2, 3, 3]


def test_tokens_arrive_one_by_one(gateway):
    with gateway.open_stream("vllm", "[[tokens=5]][[interval_ms=200]]", "/v1/completions") as wire:
        begun = time.monotonic()
        times = [when - begun for when, data in wire.read_chunks() if b"tok" in data]
    assert len(times) == 5
    assert times[0] < times[4] - 0.6, f"they came together: {times}"


@pytest.mark.parametrize("model", DIALECTS)
def test_no_event_is_split_over_two_writes(gateway, model):
    with gateway.open_stream(model, "[[tokens=200]]", max_tokens=200) as wire:
        for _, data in wire.read_chunks():
            assert data.endswith(b"\n\n"), data[-100:]


def test_a_huge_event_comes_whole(gateway):
    _, events = gateway.stream("openai", "[[tokens=2]][[fault=huge_event=900000]]", "/v1/completions")
    assert len(text_of(events)) == 900000 + len("tok0 tok1 ")
    assert events[-1] == "[DONE]"


def test_several_tokens_in_a_chunk_come_through(gateway):
    _, events = gateway.stream(
        "vllm", "[[tokens=7]][[fault=multi_token_chunks=3]]", stream_options={"include_usage": True}
    )
    assert text_of(events) == "tok0 tok1 tok2 tok3 tok4 tok5 tok6 "
    assert usages(events)[0]["completion_tokens"] == 7


def test_several_choices_in_one_stream(gateway):
    for model in DIALECTS:
        _, events = gateway.stream(
            model, "[[tokens=2]]", "/v1/completions", n=2, stream_options={"include_usage": True}
        )
        for index in (0, 1):
            own = [choice for event in events[:-1] for choice in event["choices"] if choice["index"] == index]
            assert "".join(choice["text"] for choice in own) == "tok0 tok1 ", model
            assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"], model
        assert len(usages(events)) == 1 and events[-1] == "[DONE]", model


def test_http_10_gets_the_same_bytes_without_chunk_framing(gateway):
    with gateway.wire() as wire:
        gateway.send(
            wire, "/v1/completions", {"model": "vllm", "prompt": "[[tokens=3]]", "stream": True}, version="1.0"
        )
        wire.read_head()
        assert wire.status == 200
        assert "transfer-encoding" not in wire.headers
        events = events_of(wire.read_to_end())
    assert text_of(events) == "tok0 tok1 tok2 " and events[-1] == "[DONE]"


def test_http_10_gets_plain_answers_too(gateway):
    with gateway.wire() as wire:
        gateway.send(wire, "/v1/completions", {"model": "vllm", "prompt": "x", "max_tokens": 1}, version="1.0")
        wire.read_head()
        assert wire.status == 200 and "transfer-encoding" not in wire.headers
        assert json.loads(wire.read_to_end())["usage"]["completion_tokens"] == 1


def test_the_connection_serves_further_requests_after_a_stream(gateway):
    with gateway.wire() as wire:
        for _ in range(3):
            gateway.send(wire, "/v1/completions", {"model": "vllm", "prompt": "[[tokens=2]]", "stream": True})
            assert events_of(wire.read_answer())[-1] == "[DONE]"
        gateway.send(wire, "/v1/completions", {"model": "vllm", "prompt": "x", "max_tokens": 1})
        wire.read_answer()
        assert wire.status == 200


def test_streams_may_be_pipelined(gateway):
    with gateway.wire() as wire:
        for tokens in (2, 3):
            gateway.send(wire, "/v1/completions", {"model": "vllm", "prompt": f"[[tokens={tokens}]]", "stream": True})
        assert [text_of(events_of(wire.read_answer())) for _ in range(2)] == ["tok0 tok1 ", "tok0 tok1 tok2 "]


def test_an_engines_comments_do_not_break_a_stream(gateway):
    _, events = gateway.stream("vllm", "[[tokens=3]][[interval_ms=500]][[comment_ms=100]]")
    assert text_of(events) == "tok0 tok1 tok2 " and events[-1] == "[DONE]"


def test_many_streams_at_once_are_all_whole(gateway):
    wires = [gateway.open_stream("vllm", "[[tokens=20]][[interval_ms=5]]", max_tokens=20) for _ in range(60)]
    for wire in wires:
        events = events_of(wire.read_body())
        assert text_of(events) == "".join(f"tok{i} " for i in range(20)) and events[-1] == "[DONE]"
        wire.close()
    gateway.wait_idle()


def test_a_client_that_does_not_read_stops_the_engine(gateway, engines):
    """Back-pressure: the gateway's memory is bounded, so the engine has to wait."""
    tokens = 3_000_000  # 30 MB: more than all socket buffers on the way hold
    prompt = f"[[tokens={tokens}]][[per_chunk=1000]]"
    wire = gateway.open_stream("openai", prompt, "/v1/completions", max_tokens=tokens, seconds=60)
    request_id = wire.headers["x-request-id"]

    def stands_still():
        first = engines.openai.generated(request_id)
        time.sleep(1)
        return engines.openai.generated(request_id) == first

    for _ in range(15):
        if stands_still():
            break
    generated = engines.openai.generated(request_id)
    assert generated < tokens, "the engine could generate everything"
    events = events_of(wire.read_body())
    wire.close()
    assert events[-1] == "[DONE]" and text_of(events).endswith(f"tok{tokens - 1} ")


@pytest.mark.slow
def test_a_silent_engine_makes_the_gateway_ping(gateway):
    with gateway.open_stream("openai", "[[tokens=2]][[first_ms=17000]]", seconds=40) as wire:
        chunks = [data for _, data in wire.read_chunks()]
    pings = [data for data in chunks if data.startswith(b":")]
    assert pings and all(data == b": ping\n\n" for data in pings)
    assert len(pings) <= 1 + 17 * paths.SLOWNESS / 15
    assert events_of(b"".join(chunks))[-1] == "[DONE]"
