"""An engine that misbehaves: a clear error, never a silent [DONE], nothing hangs, one request on the wire unless the
retry rule says otherwise."""

import json
import time

import pytest
from support import paths
from support.gateway import openai_error
from support.waiting import wait_until
from support.wire import Closed, events_of


def ask(gateway, model, fault, stream, tokens=6):
    """(status, body as bytes, request id) of a request with the fault; the body may be cut."""
    wire = gateway.wire(15)
    body = {"model": model, "prompt": f"[[tokens={tokens}]][[fault={fault}]]", "stream": stream}
    gateway.send(wire, "/v1/completions", body)
    wire.read_head()
    received = b""
    try:
        if wire.headers.get("transfer-encoding") == "chunked":
            for _, data in wire.read_chunks():
                received += data
        else:
            received = wire.read_body()
    except Closed:
        pass
    wire.close()
    return wire.status, received, wire.headers["x-request-id"]


def assert_clear_error(status, received, stream):
    if status != 200:
        assert status in (500, 502, 503, 504)
        openai_error(json.loads(received))
        return
    assert stream, f"a broken answer went out as 200: {received[:300]!r}"
    events = events_of(received)
    errors = [event for event in events if isinstance(event, dict) and "error" in event]
    assert errors, f"the stream ended without a word: {events[-2:]}"
    openai_error(errors[-1])
    assert b"[DONE]" not in received.split(b'"error"')[0], "a silent [DONE]"


BREAKS = [
    "hang_before_headers",
    "hang_after_headers",
    "stall_after=2",
    "reset_before_headers",
    "reset_after=2",
    "close_after=2",
    "close_without_byte",
    "truncated_json",
    "garbage_sse",
    "status=500",
    "status=502",
    "status=503",
    "status=504",
    "status=429",
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_answer_is_a_clear_error(gateway, engines, fault, stream):
    begun = time.monotonic()
    status, received, request_id = ask(gateway, "quick", fault, stream)
    assert time.monotonic() - begun < 4 * 4 * paths.SLOWNESS, "the model's total timer is 4 s"
    assert_clear_error(status, received, stream)
    line = gateway.request_line(request_id)
    assert "served" not in line.values(), line
    gateway.wait_idle()
    assert gateway.complete("quick", max_tokens=1).status_code == 200, "the only engine of a model is never given up"


@pytest.mark.parametrize("fault", ["error_in_stream", "no_finish_reason"])
def test_a_stream_that_did_not_finish_says_so(gateway, fault):
    status, received, request_id = ask(gateway, "quick", fault, True)
    assert_clear_error(status, received, True)
    assert "served" not in gateway.request_line(request_id).values()


def test_timeouts_are_504(gateway):
    for fault in ("hang_before_headers", "hang_after_headers"):
        status, _, _ = ask(gateway, "quick", fault, False)
        assert status == 504


def test_an_engine_that_never_ends_is_cut_off(gateway, engines):
    """The total timer: 4 s for this model."""
    begun = time.monotonic()
    wire = gateway.open_stream(
        "quick", "[[tokens=100000]][[interval_ms=50]]", "/v1/completions", max_tokens=100000, seconds=30
    )
    events = events_of(wire.read_body())
    wire.close()
    assert 3 < time.monotonic() - begun < 16 * paths.SLOWNESS
    assert "error" in events[-1] or "error" in events[-2]
    engines.quick.wait_for_event(wire.headers["x-request-id"], "gone")


def test_comments_of_an_engine_are_no_progress(gateway):
    begun = time.monotonic()
    wire = gateway.open_stream("quick", "[[tokens=10]][[interval_ms=20000]][[comment_ms=100]]", seconds=30)
    events = [event for event in events_of(wire.read_body()) if not isinstance(event, tuple)]
    wire.close()
    assert "error" in events[-1]
    assert time.monotonic() - begun < 3.5 * paths.SLOWNESS, "the inter-chunk timer is 1 s, the total one 4 s"


def test_without_done_a_finished_stream_is_ended_properly(gateway):
    """Everything came but [DONE]: the client sees an end, or an error, and no cut connection."""
    status, received, _ = ask(gateway, "quick", "no_done", True)
    assert status == 200
    last = events_of(received)[-1]
    assert last == "[DONE]" or "error" in last


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", ["no_usage", "zero_usage"])
def test_without_the_engines_usage_tokens_are_counted(gateway, fault, stream):
    status, received, request_id = ask(gateway, "quick", fault, stream)
    assert status == 200
    if stream:
        assert events_of(received)[-1] == "[DONE]"
    line = gateway.request_line(request_id)
    assert "served" in line.values()
    sources = {str(value) for name, value in line.items() if "source" in name}
    assert sources & {"counted", "estimated"}, line
    if stream:
        assert line["output_tokens"] == 6, line


def test_a_slow_reader_gets_everything(gateway, engines):
    answer = gateway.complete("openai", "[[fault=slow_reader]]" + "a" * 400_000, max_tokens=1)
    assert answer.status_code == 200
    assert len(engines.openai.seen(answer.headers["x-request-id"])[-1]["body"]) > 400_000


def test_an_error_page_of_a_proxy_is_no_answer(gateway):
    status, received, _ = ask(gateway, "quick", "garbage_sse", False)
    assert status == 502 and b"html" not in received


# ---- the retry rule ----


def attempts(engines, request_id):
    return engines.first.attempts(request_id), engines.second.attempts(request_id)


@pytest.mark.parametrize("status", [502, 503])
def test_502_and_503_go_to_another_instance(gateway, engines, status):
    def sent_to_both(answer):
        return attempts(engines, answer.headers["x-request-id"]) == (1, 1)

    # Which one is asked first is chance; failing more often than needed would open its breaker.
    engines.first.fault(f"status={status}")
    try:
        answers = [gateway.complete("pair", max_tokens=1)]
        while not sent_to_both(answers[-1]) and len(answers) < 40:
            answers.append(gateway.complete("pair", max_tokens=1))
    finally:
        engines.first.fault()
    assert {answer.status_code for answer in answers} == {200}
    assert sent_to_both(answers[-1]), "none of them was sent to the faulty one first"
    assert gateway.metric_sum("tollgate_upstream_retries_total", model="pair") >= 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "fault",
    [
        "status=500",
        "status=504",
        "status=429",
        "status=400",
        "hang_before_headers",
        "hang_after_headers",
        "reset_after=1",
        "close_after=1",
        "truncated_json",
    ],
)
def test_nothing_else_is_sent_twice(gateway, engines, fault, stream):
    _, _, request_id = ask(gateway, "pair", fault, stream)
    gateway.request_line(request_id)
    assert sum(attempts(engines, request_id)) == 1


def test_both_refuse_then_the_client_hears_it(gateway, engines):
    status, received, request_id = ask(gateway, "pair", "status=503", False)
    assert status == 503
    openai_error(json.loads(received))
    assert attempts(engines, request_id) == (1, 1), "once more, and on the other one"


def test_an_instance_that_cannot_be_reached_is_passed_over(make_gateway, make_engine):
    first, second = make_engine("first", model="m"), make_engine("second", model="m")
    own = make_gateway({"models": {"m": {"engines": [first.yaml(), second.yaml()]}}})
    wait_until(lambda: own.metric_sum("tollgate_engine_up") == 2, "both engines to be up")
    first.stop()
    answers = [own.complete("m", max_tokens=1) for _ in range(12)]
    assert {answer.status_code for answer in answers} == {200}
    assert {second.attempts(answer.headers["x-request-id"]) for answer in answers} == {1}


def test_the_only_instance_that_cannot_be_reached_is_502_or_503(make_gateway, make_engine):
    engine = make_engine("only", model="m")
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()], "queue": {"wait": "1s"}}}})
    engine.stop()
    answer = own.complete("m", max_tokens=1)
    assert answer.status_code in (502, 503)
    openai_error(answer)
    engine.start()
    own.wait_ready(60)
    wait_until(
        lambda: own.complete("m", max_tokens=1).status_code == 200, "service after the engine came back", 60, 0.3
    )


class TestConnectionsThatCloseWithoutAByte:
    @pytest.fixture
    def engine(self, make_engine):
        return make_engine(model="m")

    @pytest.fixture
    def own(self, make_gateway, engine):
        return make_gateway({"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}})

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_a_reused_one_is_tried_once_more_on_a_fresh_one(self, own, engine, stream):
        assert own.complete("m", max_tokens=1).status_code == 200
        status, received, request_id = ask(own, "m", "close_reused", stream)
        assert status == 200
        assert b"tok5" in received
        assert engine.attempts(request_id) == 2
        connections = {seen["connection"] for seen in engine.seen(request_id)}
        assert len(connections) == 2

    def test_the_fresh_one_that_closes_too_is_an_error(self, own, engine):
        assert own.complete("m", max_tokens=1).status_code == 200
        status, received, request_id = ask(own, "m", "close_without_byte", False)
        assert status == 502
        assert engine.attempts(request_id) == 2

    def test_a_fresh_one_is_not_tried_again(self, own, engine):
        status, received, request_id = ask(own, "m", "close_without_byte", False)
        assert status == 502
        openai_error(json.loads(received))
        assert engine.attempts(request_id) == 1

    def test_one_that_closed_while_idle_is_never_seen_by_a_client(self, own, engine):
        """The engine closes idle connections after 5 s: none is used that long."""
        for _ in range(3):
            answer = own.complete("m", max_tokens=1)
            assert answer.status_code == 200
            assert engine.attempts(answer.headers["x-request-id"]) == 1
            time.sleep(4.9)


def test_connections_to_an_engine_are_reused(make_gateway, make_engine):
    engine = make_engine(model="m", dialect="vllm")
    own = make_gateway({"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}})
    ids = [own.complete("m", max_tokens=1).headers["x-request-id"] for _ in range(10)]
    assert len({engine.seen(each)[0]["connection"] for each in ids}) <= 2
