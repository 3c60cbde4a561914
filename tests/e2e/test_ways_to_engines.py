"""Every way to reach an engine, and every address to listen on."""

import pathlib
import socket
import ssl
import subprocess
import threading

import httpx
import pytest
from support.engine import SpawnedEngine
from support.gateway import free_port
from support.waiting import wait_until
from support.wire import events_of


def test_a_unix_socket_of_an_engine_that_runs_already(make_gateway, make_engine, directory):
    path = directory / "engine.sock"
    engine = make_engine(model="m", socket=path)
    own = make_gateway({"models": {"m": {"engines": [{"url": f"unix:{path}"}]}}})
    assert own.complete("m", max_tokens=1).status_code == 200
    assert own.stream("m", "[[tokens=2]]")[1][-1] == "[DONE]"
    assert engine.process.poll() is None


def test_a_spawned_engine_on_a_port(make_gateway, directory):
    engine = SpawnedEngine(directory, "spawned", model="m")
    yaml = engine.yaml()
    yaml["spawn"][yaml["spawn"].index("--socket") : yaml["spawn"].index("{socket}") + 1] = ["--port", "{port}"]
    own = make_gateway({"models": {"m": {"engines": [yaml]}}})
    assert own.complete("m", max_tokens=1).status_code == 200
    assert own.stream("m", "[[tokens=2]]")[1][-1] == "[DONE]"


def test_a_port_that_somebody_else_took_is_not_our_engine(make_gateway, make_engine, directory):
    """An impostor that answers on the port must not get the requests."""
    impostor = make_engine("impostor", model="m")
    engine = SpawnedEngine(directory, "spawned", model="m")
    yaml = engine.yaml()
    yaml["spawn"][yaml["spawn"].index("--socket") : yaml["spawn"].index("{socket}") + 1] = [
        "--port",
        str(impostor.port),
    ]
    yaml["spawn"].append("--model={port}")
    own = make_gateway({"models": {"m": {"engines": [yaml], "queue": {"wait": "1s"}}}}, wait=False)
    wait_until(own.answers_admin, "the gateway to start")
    assert own.complete("m", max_tokens=1).status_code == 503
    assert impostor.seen() == []


class TlsFront:
    """TLS with a certificate nobody trusts, in front of an engine."""

    def __init__(self, directory, engine):
        key, certificate = directory / "tls.key", directory / "tls.crt"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        subprocess.run([*make, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port, self.engine, self.handshakes = self.listener.getsockname()[1], engine, 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                self.listener.accept()
                self.handshakes += 1
            except ssl.SSLError:
                continue
            except OSError:
                return


def test_an_engine_with_an_untrusted_certificate_gets_nothing(make_gateway, make_engine, directory):
    front = TlsFront(directory, make_engine(model="m"))
    engines = [{"url": f"https://127.0.0.1:{front.port}"}]
    own = make_gateway({"models": {"m": {"engines": engines, "queue": {"wait": "1s"}}}}, wait=False)
    wait_until(own.answers_admin, "the gateway to start")
    wait_until(lambda: "certificate" in str(own.engines()["m/1"]["evidence"]), "the reason in the engine's evidence")
    assert own.complete("m").status_code == 503
    assert front.handshakes == 0
    front.listener.close()


def test_an_engine_for_embeddings_only_is_tested_with_an_embedding(make_gateway, make_engine):
    engine = make_engine(model="m")
    own = make_gateway({"models": {"m": {"engines": [engine.yaml(embeddings_only=True)]}}})
    assert {seen["path"] for seen in engine.seen()} == {"/v1/embeddings"}
    assert own.post("/v1/embeddings", {"model": "m", "input": "x"}).status_code == 200


def test_continuous_usage_counts_interrupted_streams_exactly(make_gateway, make_engine):
    engine = make_engine(dialect="vllm", model="m")
    own = make_gateway({"models": {"m": {"engines": [engine.yaml(continuous_usage=True)]}}})
    with own.open_stream("m", "[[tokens=500]][[per_chunk=3]][[interval_ms=20]]", max_tokens=500) as wire:
        chunks = [wire.read_chunk() for _ in range(8)]
        request_id = wire.headers["x-request-id"]
    for event in events_of(b"".join(chunks)):
        assert not event.get("usage"), "the client did not ask for it"
    line = own.request_line(request_id)
    assert line["output_source"] == "engine" and line["input_source"] == "engine"
    assert line["output_tokens"] % 3 == 0 and line["output_tokens"] >= 18
    assert line["input_tokens"] == engine.input_tokens(request_id)


def test_the_trace_goes_on_to_the_engine(gateway, engines):
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = gateway.complete("vllm", max_tokens=1, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert trace in engines.vllm.seen(answer.headers["x-request-id"])[-1]["headers"]["traceparent"]
    answer = gateway.complete("vllm", max_tokens=1, headers={"traceparent": "00-nonsense"})
    assert answer.status_code == 200
    assert "nonsense" not in str(engines.vllm.seen(answer.headers["x-request-id"])[-1]["headers"])


# ---- listening ----


def test_listening_on_a_unix_socket(make_gateway, make_engine, directory):
    engine, path = make_engine(model="m"), directory / "front.sock"
    own = make_gateway({"listen": f"unix:{path}", "models": {"m": {"engines": [engine.yaml()]}}})
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://tollgate") as client:
        body = {"model": "m", "prompt": "x", "max_tokens": 1}
        assert client.post("/v1/completions", json=body, headers=own.key.headers).status_code == 200
    own.stop()
    own.start()
    assert pathlib.Path(path).is_socket()


def test_listening_on_ipv6(make_gateway, make_engine):
    engine, port = make_engine(model="m"), free_port()
    own = make_gateway({"listen": f"[::1]:{port}", "models": {"m": {"engines": [engine.yaml()]}}})
    answer = httpx.get(f"http://[::1]:{port}/v1/models", headers=own.key.headers)
    assert answer.status_code == 200


def test_values_come_from_the_environment(make_gateway, make_engine):
    engine = make_engine(model="m")
    config = {
        "models": {"m": {"engines": [{"url": "http://127.0.0.1:${ENGINE_PORT}"}], "aliases": ["${ALIAS:-other}"]}}
    }
    own = make_gateway(config, environment={"ENGINE_PORT": str(engine.port)})
    assert own.complete("other", max_tokens=1).status_code == 200


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llamacpp"])
def test_the_dialect_may_be_left_out(make_gateway, make_engine, dialect):
    """An engine of any kind works as `openai`, which every one of them resembles."""
    engine = make_engine(dialect=dialect, model="m")
    own = make_gateway({"models": {"m": {"engines": [{"url": engine.url}]}}})
    for path in ("/v1/completions", "/v1/chat/completions"):
        _, events = own.stream("m", "[[tokens=3]]", path, stream_options={"include_usage": True})
        assert events[-1] == "[DONE]"
        assert [event["usage"]["completion_tokens"] for event in events[:-1] if event.get("usage")] == [3]
