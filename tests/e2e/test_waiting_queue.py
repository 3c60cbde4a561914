"""When all slots are taken: a bounded line, first come first served, and a clear word to those who cannot wait."""

import time

import pytest
from support import paths
from support.gateway import openai_error
from support.waiting import wait_until


@pytest.fixture
def engine(make_engine):
    return make_engine(model="m")


@pytest.fixture
def own(make_gateway, engine):
    return make_gateway(
        {"models": {"m": {"engines": [engine.yaml(max_in_flight=1)], "queue": {"length": 4, "wait": "3s"}}}}
    )


def take_slot(own, engine):
    wire = own.wire(60)
    own.send(wire, "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]"})
    wait_until(lambda: engine.state()["held"] == 1, "the slot to be taken")
    return wire


def wait_in_line(own, prompt, length):
    wire = own.wire(60)
    own.send(wire, "/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 1})
    wait_until(lambda: own.metric_sum("tollgate_queue_length", model="m") == length, f"{length} in the queue")
    return wire


def test_first_come_first_served(own, engine):
    holder = take_slot(own, engine)
    wires = [wait_in_line(own, f"place-{i}", i + 1) for i in range(4)]
    engine.release()
    for wire in [holder] + wires:
        wire.read_answer()
        assert wire.status == 200
    places = [seen["body"] for seen in engine.seen() if b"place-" in seen["body"]]
    assert [f"place-{i}".encode() in body for i, body in enumerate(places)] == [True] * 4


def test_never_more_at_the_engine_than_max_in_flight(own, engine):
    wires = []
    for _ in range(5):
        wire = own.wire(60)
        own.send(wire, "/v1/completions", {"model": "m", "prompt": "[[tokens=5]][[interval_ms=20]]"})
        wires.append(wire)
    most = 0
    while own.metric_sum("tollgate_requests_in_flight") > 0:
        most = max(most, engine.state()["slots_taken"])
    for wire in wires:
        wire.read_answer()
        assert wire.status == 200
    assert most == 1


def test_a_full_queue_is_503_at_once(own, engine):
    holder = take_slot(own, engine)
    wires = [wait_in_line(own, "x", i + 1) for i in range(4)]
    begun = time.monotonic()
    answer = own.complete("m")
    assert time.monotonic() - begun < 1.5 * paths.SLOWNESS, "it waited"
    assert answer.status_code == 503
    assert openai_error(answer)["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1 and int(answer.headers["retry-after-ms"]) >= 1
    assert answer.headers.get("x-should-retry") != "false"
    engine.release()
    for wire in [holder] + wires:
        wire.read_answer()
        assert wire.status == 200


def test_who_waited_too_long_is_503(own, engine):
    holder = take_slot(own, engine)
    begun = time.monotonic()
    answer = own.complete("m", "too-late")
    waited = time.monotonic() - begun
    assert answer.status_code == 503
    assert openai_error(answer)["code"] == "queue_timeout"
    assert "retry-after" in answer.headers
    assert 2.5 < waited < 12 * paths.SLOWNESS
    engine.release()
    holder.read_answer()
    assert not [seen for seen in engine.seen() if b"too-late" in seen["body"]]
    assert own.metric_sum("tollgate_queue_length", model="m") == 0


def test_a_free_slot_goes_to_who_waits(own, engine):
    holder = take_slot(own, engine)
    waiting = wait_in_line(own, "x", 1)
    holder.close()
    waiting.read_answer()
    assert waiting.status == 200


def test_requests_wait_while_an_engine_starts(make_gateway, directory):
    from support.engine import SpawnedEngine

    engine = SpawnedEngine(directory, "loading", model="m", load_ms=2500)
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()]}}}, wait=False)
    wait_until(own.answers_admin, "the gateway to start")
    assert own.readyz().status_code == 503
    answer = own.complete("m", max_tokens=1)
    assert answer.status_code == 200
    assert own.readyz().status_code == 200


def test_when_every_engine_has_failed_it_is_503_at_once(make_gateway):
    own = make_gateway(
        {"models": {"m": {"engines": [{"spawn": ["/bin/false", "{socket}"]}], "queue": {"wait": "60s"}}}}, wait=False
    )
    wait_until(own.answers_admin, "the gateway to start")
    wait_until(lambda: own.engine_state("m/1") == "FAILED", "the engine to be given up", 60)
    begun = time.monotonic()
    answer = own.complete("m")
    assert time.monotonic() - begun < 3 * paths.SLOWNESS
    assert answer.status_code == 503
    openai_error(answer)


def test_the_least_loaded_instance_is_taken(make_gateway, make_engine):
    first, second = make_engine("first", model="m"), make_engine("second", model="m")
    own = make_gateway({"models": {"m": {"engines": [first.yaml(max_in_flight=4), second.yaml(max_in_flight=4)]}}})
    wait_until(lambda: own.metric_sum("tollgate_engine_up") == 2, "both engines to be up")
    wires = []
    for i in range(8):
        wire = own.wire(30)
        own.send(wire, "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]"})
        wires.append(wire)
        wait_until(lambda: first.state()["held"] + second.state()["held"] == i + 1, "the request to arrive")
        assert abs(first.state()["held"] - second.state()["held"]) <= 1
    first.release()
    second.release()
    for wire in wires:
        wire.read_answer()
        assert wire.status == 200


def test_slots_are_asked_of_the_engine(make_gateway, make_engine):
    engine = make_engine(dialect="llamacpp", model="m", slots=3)
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})
    assert own.metric_sum("tollgate_engine_slots", model="m") == 3
