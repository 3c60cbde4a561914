"""The edge against raw bytes: what must be refused is refused, what crawls is cut off."""

import base64
import concurrent.futures
import json
import re
import socket
import threading
import time

import pytest
from support import paths

VECTORS = json.loads((paths.VECTORS / "http/http_vectors.json").read_text())
BOUND_S = 45 * paths.SLOWNESS  # the longest deadline of the edge is the body's, 30 s
QUIET_S = 1.5 * paths.SLOWNESS

# libmicrohttpd repairs these before any code of ours sees them: they are answered as one request, on a connection that
# may stay open; nothing of their framing goes on to an engine.
INVISIBLE = {
    "bare-lf-header",
    "bare-lf-all",
    "chunk-bare-lf-data",
    "chunk-ext-16k",
    "cl-nul",
    "obs-fold",
    "empty-name",
}
# What is wrong with these comes after the head, whose path is already unknown.
LATE = {"cl-1tb", "chunk-size-ffff"}


class Outcome:
    def __init__(self, data, closed, seconds):
        self.data, self.closed, self.seconds = data, closed, seconds
        self.statuses = [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", data) if code != b"100"]


def play(port, vector):
    """Send the bytes and listen: until the other side closes, or (unless it must) until it falls silent."""
    begun, data, closed = time.monotonic(), b"", False
    with socket.create_connection(("127.0.0.1", port)) as client:
        try:
            client.sendall(base64.b64decode(vector["raw_b64"]))
            while time.monotonic() - begun < BOUND_S:
                must_close = vector["must"] == "reject" and vector["id"] not in INVISIBLE
                waits = BOUND_S if must_close or not data else QUIET_S
                client.settimeout(max(0.01, min(waits, begun + BOUND_S - time.monotonic())))
                received = client.recv(65536)
                closed = not received
                if closed:
                    break
                data += received
        except TimeoutError:
            pass
        except OSError:
            closed = True
    return Outcome(data, closed, time.monotonic() - begun)


def crawl(port, first, pause, piece=b"a"):
    """Send @first (a list: with pauses between), then @piece after each @pause: the seconds until the other side
    closes."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as client:
        try:
            for packet in first if isinstance(first, list) else [first]:
                client.sendall(packet)
                time.sleep(0.1)
            while time.monotonic() - begun < 200 * paths.SLOWNESS:
                client.settimeout(pause)
                try:
                    while client.recv(65536):
                        pass
                    break
                except TimeoutError:
                    pass
                if piece:
                    client.sendall(piece)
        except OSError:
            pass
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def background(gateway, keys):
    """Everything that waits for a deadline runs at the same time."""
    pool = concurrent.futures.ThreadPoolExecutor(len(VECTORS) + 16)
    jobs = {vector["id"]: pool.submit(play, gateway.port, vector) for vector in VECTORS}
    post = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {keys.full.bearer}\r\n".encode()
    crawlers = {
        "head": (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Slow: ", 0.5),
        "request line": (b"GET /v1/", 0.5),
        "nothing": (b"", 0.5, None),
        "silent head": (b"GET /v1/models HTTP/1.1\r\n", 0.5, None),
        "silent second head": (post + b"Content-Length: 2\r\n\r\n{}GET /v1/mod", 0.5, None),
        "idle after a request": (post + b"Content-Length: 2\r\n\r\n{}", 0.5, None),
        "idle after pieces": ([post, b"Content-Length: 2\r\n\r\n", b"{", b"}"], 0.5, None),
        "body": (post + b"Content-Length: 100000\r\n\r\n{", 0.5),
        "silent body": (post + b"Content-Length: 100000\r\n\r\n{", 0.5, None),
        "chunked body": (post + b"Transfer-Encoding: chunked\r\n\r\n", 0.5, b"1\r\na\r\n"),
    }
    for name, arguments in crawlers.items():
        jobs[name] = pool.submit(crawl, gateway.port, *arguments)
    yield jobs
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_vector(background, vector):
    outcome = background[vector["id"]].result()
    said = (outcome.statuses, outcome.data[:300], f"{outcome.seconds:.1f} s")
    if vector["must"] == "accept":
        assert outcome.statuses and set(outcome.statuses) <= {401, 404}, f"no answer of a handler: {said}"
        assert b"x-request-id" in outcome.data.lower(), said
        assert len(outcome.statuses) == (2 if vector["id"] == "ok-pipeline-2" else 1), said
    elif vector["must"] == "reject":
        assert all(400 <= status < 600 and status != 500 for status in outcome.statuses), said
        assert outcome.data.lower().count(b"x-request-id") <= 1, f"more than one answer: {said}"
        assert b"/smuggled" not in outcome.data, f"the smuggled request was answered: {said}"
        if vector["id"] not in INVISIBLE:
            assert outcome.closed, f"still open: {said}"
        if vector["id"] not in INVISIBLE | LATE:
            assert b"unknown_url" not in outcome.data, f"a handler answered: {said}"
    else:
        assert outcome.closed or outcome.statuses, f"neither answered nor closed: {said}"
        assert 500 not in outcome.statuses, said
        assert b"/smuggled" not in outcome.data, said


def test_no_vector_reached_an_engine(background, engines):
    for vector in VECTORS:
        background[vector["id"]].result()
    for engine in engines.each_remote():
        assert not [
            seen
            for seen in engine.seen()
            if seen["path"] not in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings")
        ]
        assert not [seen for seen in engine.seen() if seen["body"] in (b"hello", b"0123456789")]


def test_good_requests_are_served_meanwhile(background, gateway):
    for _ in range(20):
        assert gateway.complete("vllm", max_tokens=1).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["head", "request line", "silent head", "silent second head"])
def test_a_head_must_come_within_5_s(background, name):
    seconds = background[name].result()
    assert 3 < seconds < 20 * paths.SLOWNESS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["body", "silent body", "chunked body"])
def test_a_body_must_come_within_30_s(background, name):
    seconds = background[name].result()
    assert 20 < seconds < 120 * paths.SLOWNESS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nothing", "idle after a request", "idle after pieces"])
def test_an_idle_connection_goes_after_60_s(background, name):
    assert 40 < background[name].result() < 240 * paths.SLOWNESS


def test_what_is_refused_is_counted(background, gateway):
    for vector in VECTORS:
        background[vector["id"]].result()
    assert gateway.metric_sum("tollgate_guard_refusals_total") >= 10


def test_a_credential_in_a_trailer_is_none(gateway, keys):
    with gateway.wire() as wire:
        wire.send(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer "
            + keys.full.bearer.encode()
            + b"\r\n\r\n"
        )
        wire.read_answer()
        assert wire.status == 401


def test_two_credentials_are_refused(gateway, keys):
    line = f"Authorization: Bearer {keys.full.bearer}\r\n"
    with gateway.wire() as wire:
        wire.send(f"GET /v1/models HTTP/1.1\r\nHost: a\r\n{line}{line}\r\n".encode())
        wire.read_head()
        assert wire.status in (400, 401)


def test_300_connections_at_once_are_all_answered(gateway, keys):
    request = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {keys.full.bearer}\r\n\r\n".encode()
    wires, failed = [gateway.wire(30) for _ in range(300)], []

    def ask(wire):
        try:
            wire.send(request)
            wire.read_answer()
            if wire.status != 200:
                failed.append(wire.status)
        except Exception as error:
            failed.append(error)
        wire.close()

    threads = [threading.Thread(target=ask, args=(wire,)) for wire in wires]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
