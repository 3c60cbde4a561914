"""Request bodies: sizes, codings, and answers that come although the body was not wanted."""

import json

import httpx
import pytest
from support.gateway import openai_error

MIB = 1024 * 1024


def body_of(size, model="vllm"):
    head, tail = f'{{"model":"{model}","max_tokens":1,"prompt":"'.encode(), b'"}'
    return head + b"a" * (size - len(head) - len(tail)) + tail


def test_a_large_body_is_served(gateway, engines):
    body = body_of(5 * MIB)
    answer = gateway.post("/v1/completions", body)
    assert answer.status_code == 200
    assert engines.vllm.seen(answer.headers["x-request-id"])[-1]["body"] == body


def test_a_body_above_10_mib_is_413(gateway):
    answer = gateway.post("/v1/completions", body_of(10 * MIB + 1))
    assert answer.status_code == 413
    openai_error(answer)
    assert gateway.post("/v1/completions", body_of(10 * MIB)).status_code == 200


def test_a_chunked_body_above_10_mib_is_413(gateway):
    def pieces():
        for _ in range(12):
            yield b" " * MIB

    answer = gateway.client.post("/v1/completions", content=pieces(), headers=gateway.headers())
    assert answer.status_code == 413
    openai_error(answer)


def test_a_body_far_above_the_limit_is_refused_without_reading_it(gateway):
    with gateway.wire() as wire:
        wire.send(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1099511627776\r\nAuthorization: "
            + gateway.key.headers["authorization"].encode()
            + b"\r\n\r\n{"
        )
        wire.read_head()
        assert wire.status == 413
        assert wire.is_closed_within(10)


@pytest.mark.parametrize("model", ["vllm", "openai", "llamacpp"])
def test_a_chunked_body_is_served(gateway, engines, model):
    def pieces():
        for letter in body_of(300, model).decode():
            yield letter.encode()

    answer = gateway.client.post("/v1/completions", content=pieces(), headers=gateway.headers())
    assert answer.status_code == 200, answer.text
    seen = getattr(engines, model).seen(answer.headers["x-request-id"])[-1]
    assert seen["body"] == body_of(300, model)
    assert seen["headers"].get("content-length") == "300", "our own framing, with a length"
    assert "expect" not in seen["headers"]


def test_expect_100_continue_is_answered(gateway):
    body = body_of(1000)
    with gateway.wire() as wire:
        head = [
            "POST /v1/completions HTTP/1.1",
            "Host: a",
            f"Authorization: {gateway.key.headers['authorization']}",
            "Expect: 100-continue",
            f"Content-Length: {len(body)}",
        ]
        wire.send("\r\n".join(head).encode() + b"\r\n\r\n")
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        wire.send(body)
        wire.read_answer()
        assert wire.status == 200


@pytest.mark.parametrize("key", ["unknown", "chat_only"])
def test_8_mb_with_a_bad_key_are_read_and_then_refused(gateway, keys, key):
    """Answering before the body is read makes clients fail while they send."""
    wanted = 401 if key == "unknown" else 403
    body = body_of(8 * MIB)
    for _ in range(5):
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            for _ in range(2):
                answer = client.post("/v1/completions", content=body, headers=getattr(keys, key).headers)
                assert answer.status_code == wanted


def test_a_body_for_an_unknown_route_is_read_too(gateway):
    answer = gateway.post("/v1/nothing", body_of(4 * MIB))
    assert answer.status_code == 404


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br"])
def test_an_encoded_body_is_415(gateway, coding):
    answer = gateway.post("/v1/completions", body_of(100), headers={"content-encoding": coding})
    assert answer.status_code == 415
    openai_error(answer)


def test_identity_is_no_coding(gateway):
    answer = gateway.post("/v1/completions", body_of(100), headers={"content-encoding": "identity"})
    assert answer.status_code == 200


def test_a_body_in_small_packets_is_served(gateway):
    body = body_of(200)
    with gateway.wire() as wire:
        request = (
            f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: {gateway.key.headers['authorization']}\r\n\r\n"
        ).encode() + body
        for i in range(0, len(request), 7):
            wire.send(request[i : i + 7])
        assert json.loads(wire.read_answer())["choices"]


def test_a_head_that_is_too_large_is_431(gateway):
    answer = gateway.get("/v1/models", headers={"x-large": "a" * 100_000})
    assert answer.status_code == 431


def test_many_large_bodies_at_once_stay_within_bounds(gateway):
    """Each waits half sent: memory is taken for what came, and nobody else is refused."""
    body = body_of(4 * MIB)
    wires = []
    for _ in range(12):
        wire = gateway.wire()
        wire.send(
            f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: {gateway.key.headers['authorization']}\r\n\r\n".encode()
            + body[: 2 * MIB]
        )
        wires.append(wire)
    assert gateway.complete("vllm", max_tokens=1).status_code == 200
    for wire in wires:
        wire.send(body[2 * MIB :])
    for wire in wires:
        wire.read_answer()
        assert wire.status in (200, 503)
        wire.close()
