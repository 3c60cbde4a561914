"""A client that leaves: the engine hears of it at once, wherever the request stood."""

import socket
import struct
import time

import pytest
from support import paths
from support.waiting import wait_until

WITHIN_S = 1.0  # the rule says 250 ms


def last_request_of(engine, marker, seconds=5.0):
    """The request id under which the engine saw a request with @marker in its body."""

    def find():
        for seen in engine.seen():
            if marker.encode() in seen["body"]:
                return seen["headers"]["x-request-id"]
        return None

    return wait_until(find, f"the engine to see {marker}", seconds)


def leave(wire, how):
    if how == "reset":
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-close":
        wire.socket.shutdown(socket.SHUT_WR)
    else:
        wire.close()
    return time.monotonic()


def assert_gone(gateway, engine, request_id, left):
    event = engine.wait_for_event(request_id, "gone", WITHIN_S)
    assert event["at_ms"] / 1000 - left < WITHIN_S * paths.SLOWNESS
    gateway.wait_idle(WITHIN_S)


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("stream", [True, False])
def test_before_the_first_byte(gateway, engines, how, stream):
    marker = f"before-{how}-{stream}"
    wire = gateway.wire()
    gateway.send(
        wire,
        "/v1/chat/completions",
        {
            "model": "openai",
            "stream": stream,
            "messages": [{"role": "user", "content": f"{marker} [[fault=hang_before_headers]]"}],
        },
    )
    request_id = last_request_of(engines.openai, marker)
    assert_gone(gateway, engines.openai, request_id, leave(wire, how))
    wire.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_in_the_middle_of_a_stream(gateway, engines, how):
    wire = gateway.open_stream("openai", "[[tokens=5000]][[interval_ms=20]]", max_tokens=5000)
    request_id = wire.headers["x-request-id"]
    wire.read_chunk()
    left = leave(wire, how)
    assert_gone(gateway, engines.openai, request_id, left)
    assert engines.openai.generated(request_id) < 5000
    wire.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_while_a_whole_answer_is_generated(gateway, engines, how):
    marker = f"whole-{how}"
    wire = gateway.wire()
    gateway.send(
        wire,
        "/v1/completions",
        {"model": "openai", "prompt": f"{marker} [[tokens=5000]][[interval_ms=20]]", "max_tokens": 5000},
    )
    request_id = last_request_of(engines.openai, marker)
    assert_gone(gateway, engines.openai, request_id, leave(wire, how))
    wire.close()


def test_in_the_queue(gateway, engines):
    holder = gateway.wire()
    gateway.send(holder, "/v1/completions", {"model": "narrow", "prompt": "[[fault=hold]]"})
    wait_until(lambda: engines.narrow.state()["held"] == 1, "the slot to be taken")
    waiting = gateway.wire()
    gateway.send(waiting, "/v1/completions", {"model": "narrow", "prompt": "leaves-the-queue"})
    wait_until(lambda: gateway.metric_sum("tollgate_queue_length", model="narrow") == 1, "the request to wait")
    waiting.close()
    wait_until(
        lambda: gateway.metric_sum("tollgate_queue_length", model="narrow") == 0, "the place to be free", WITHIN_S
    )
    engines.narrow.release()
    holder.read_answer()
    holder.close()
    gateway.wait_idle()
    assert gateway.complete("narrow", max_tokens=1).status_code == 200
    assert not [seen for seen in engines.narrow.seen() if b"leaves-the-queue" in seen["body"]]


def test_while_the_body_is_sent(gateway):
    wire = gateway.wire()
    wire.send(
        f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
        f"Authorization: {gateway.key.headers['authorization']}\r\n\r\n".encode()
        + b'{"model"'
    )
    wait_until(lambda: gateway.metric_sum("tollgate_requests_in_flight") >= 1, "the request to be read")
    wire.close()
    wait_until(lambda: gateway.metric_sum("tollgate_requests_in_flight") == 0, "the request to end", 2)
    wait_until(lambda: gateway.metric_sum("tollgate_request_body_bytes") == 0, "its memory to be free", 2)


def test_leaving_at_done_is_no_abort(gateway):
    """openai-python closes at [DONE], before the last chunk."""
    wire = gateway.open_stream("vllm", "[[tokens=3]]")
    wire.until(b"[DONE]\n\n")
    request_id = wire.headers["x-request-id"]
    wire.close()
    line = gateway.request_line(request_id)
    assert "client_gone" not in line.values() and 499 not in line.values(), line
    assert "served" in line.values(), line


def test_an_abort_is_told_as_such(gateway):
    wire = gateway.open_stream("openai", "[[tokens=5000]][[interval_ms=20]]", max_tokens=5000)
    request_id = wire.headers["x-request-id"]
    wire.read_chunk()
    wire.close()
    line = gateway.request_line(request_id)
    assert "client_gone" in line.values(), line


def test_100_aborts_leave_every_slot_free(gateway, engines):
    for i in range(100):
        wire = gateway.wire()
        what = ["[[fault=hang_before_headers]]", "[[tokens=500]][[interval_ms=20]]", "[[tokens=500]][[first_ms=300]]"][
            i % 3
        ]
        gateway.send(
            wire, "/v1/completions", {"model": "spawned", "prompt": what, "max_tokens": 500, "stream": i % 2 == 0}
        )
        time.sleep(0.005 * (i % 5))
        wire.close()
    gateway.wait_idle(1)
    wait_until(lambda: engines.spawned.state()["slots_taken"] == 0, "the engine's slots to be free", 1)
    assert gateway.complete("spawned", max_tokens=1).status_code == 200
