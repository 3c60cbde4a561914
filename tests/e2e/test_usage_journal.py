"""The step `record`: every row of the table "what is billed", and what the journal has when."""

import json
import os
import resource
import signal
import time

import pytest
from support import paths
from support.engine import ScriptedEngine
from support.gateway import Gateway, Key, openai_error
from support.journal import of_type, only_close, records
from support.waiting import wait_until
from support.wire import Closed, events_of

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.fixture(scope="module")
def room(shared_directory):
    """One gateway for the rows of the table; a model of its own for what teaches chunks of several tokens."""

    class Room:
        plain = ScriptedEngine(shared_directory, "j-plain", model="plain")
        vllm = ScriptedEngine(shared_directory, "j-vllm", dialect="vllm", model="vllm")
        llamacpp = ScriptedEngine(shared_directory, "j-llamacpp", dialect="llamacpp", model="llamacpp")
        coarse = ScriptedEngine(shared_directory, "j-coarse", model="coarse")
        key = Key("tg_test_key_of_the_usage_journal")

        def __init__(self):
            quick = {"connect": "1s", "first_token": "1s", "inter_chunk": "1s", "total": "4s"}
            limits = {"tokens_per_minute": 60, "burst": {"tokens": 100}, "on_exceed": "cut"}
            self.limited = Key("tg_test_key_that_is_cut", limits=limits)
            config = {
                "workers": 2,
                "billing": {"epoch": "1h"},
                "models": {
                    "plain": {"engines": [self.plain.yaml()]},
                    "quick": {"engine_model": "plain", "engines": [self.plain.yaml()], "timeouts": quick},
                    "vllm": {"engines": [self.vllm.yaml(continuous_usage=True)]},
                    "llamacpp": {"engines": [self.llamacpp.yaml()]},
                    "coarse": {"engines": [self.coarse.yaml()]},
                },
                "tenants": {"acme": {"keys": {"ci": self.key.yaml(), "cut": self.limited.yaml()}}},
            }
            self.gateway = Gateway(shared_directory / "journal", config, key=self.key)

    made = None
    try:
        made = Room()
        yield made
        made.gateway.stop()
    finally:
        if made is not None:
            made.gateway.end_now()
        for engine in (Room.plain, Room.vllm, Room.llamacpp, Room.coarse):
            engine.stop()


def ask(gateway, model, words, stream=True, path=CHAT, key=None, **fields):
    """(request id, what came) of a request that may break off."""
    wire = gateway.wire(20)
    what = {"messages": [{"role": "user", "content": words}]} if path == CHAT else {"prompt": words}
    what = {"input": words} if path == EMBEDDINGS else {**what, "stream": stream}
    gateway.send(wire, path, {"model": model, **what, **fields}, key)
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
    return wire.headers["x-request-id"], received


def estimate_of(gateway, request_id):
    return of_type(records(gateway, request_id), "OPEN")[0]["input_estimate"]


def assert_billed(close, end, billed=True, **wanted):
    """@wanted: input=(tokens, source), output=(tokens, source)."""
    assert (close["end"], close["billed"]) == (end, billed), close
    for direction, pair in wanted.items():
        assert (close[f"{direction}_tokens"], close[f"{direction}_source"]) == pair, close


def contents(received):
    events = [event for event in events_of(received) if isinstance(event, dict)]
    return [event for event in events if any(c.get("delta", {}).get("content") for c in event.get("choices", []))]


# ---- complete ----


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["plain", "vllm", "llamacpp"])
def test_a_whole_answer_is_what_the_engine_counted(room, model, stream, path):
    request_id, _ = ask(room.gateway, model, "[[tokens=9]][[cached=3]]", stream, path)
    engine = getattr(room, model)
    close = only_close(room.gateway, request_id)
    told = engine.input_tokens(request_id)
    assert_billed(close, "complete", input=(told, "engine"), output=(engine.generated(request_id), "engine"))
    assert (close["tenant"], close["key"], close["model"]) == ("acme", "ci", model)
    assert close["cached_input_tokens"] == 3


def test_usage_missing(room):
    request_id, received = ask(room.gateway, "plain", "[[tokens=9]][[fault=no_usage]]")
    estimate = estimate_of(room.gateway, request_id)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "complete", input=(estimate, "estimated"), output=(9, "counted"))
    assert len(contents(received)) == 9


def test_usage_missing_from_a_whole_answer(room):
    for _ in range(3):  # from which the bytes of a token are learned
        ask(room.gateway, "coarse", "[[tokens=200]]", False, max_tokens=200)
    request_id, _ = ask(room.gateway, "coarse", "[[tokens=100]][[fault=no_usage]]", False, max_tokens=100)
    close = only_close(room.gateway, request_id)
    estimate = estimate_of(room.gateway, request_id)
    assert_billed(close, "complete", input=(estimate, "estimated"))
    assert close["output_source"] == "estimated" and 90 <= close["output_tokens"] <= 110


@pytest.mark.parametrize("stream", [True, False])
def test_usage_of_zeros_beside_content(room, stream):
    request_id, _ = ask(room.gateway, "plain", "[[tokens=9]][[fault=zero_usage]]", stream)
    close = only_close(room.gateway, request_id)
    estimate = estimate_of(room.gateway, request_id)
    assert_billed(close, "complete", input=(estimate, "estimated"))
    assert close["output_source"] == ("counted" if stream else "estimated") and close["output_tokens"] > 0


def test_an_explicit_zero_without_content(room):
    request_id, _ = ask(room.gateway, "plain", "[[tokens=0]]")
    close = only_close(room.gateway, request_id)
    assert_billed(close, "complete", output=(0, "engine"))
    assert close["input_source"] == "engine"


@pytest.mark.parametrize("stream", [True, False])
def test_usage_of_one_choice_only(room, stream):
    request_id, _ = ask(room.gateway, "llamacpp", "[[tokens=9]]", stream, n=3)
    close = only_close(room.gateway, request_id)
    told = room.llamacpp.input_tokens(request_id)
    assert_billed(close, "complete", input=(told, "engine"), output=(27, "counted"))


@pytest.mark.parametrize("model", ["plain", "llamacpp"])
def test_embeddings_have_no_output(room, model):
    request_id, _ = ask(room.gateway, model, "a few words", path=EMBEDDINGS)
    close = only_close(room.gateway, request_id)
    told = getattr(room, model).input_tokens(request_id)
    assert_billed(close, "complete", input=(told, "engine"))
    assert close["output_tokens"] == 0


def test_embeddings_without_usage(room):
    request_id, _ = ask(room.gateway, "plain", "a few words [[fault=no_usage]]", path=EMBEDDINGS)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "complete", input=(estimate_of(room.gateway, request_id), "estimated"))
    assert close["output_tokens"] == 0


# ---- the client leaves ----


def leave_after(gateway, chunks, model, words, **fields):
    """(request id, content chunks that were read) of a client that leaves."""
    wire = gateway.open_stream(model, words, **fields)
    seen = 0
    while seen < chunks:
        seen += len(contents(wire.read_chunk()))
    wire.close()
    return wire.headers["x-request-id"], seen


def test_client_gone_mid_stream(room):
    words = "[[tokens=1000]][[interval_ms=5]]"
    request_id, seen = leave_after(room.gateway, 10, "plain", words, max_tokens=1000)
    close = only_close(room.gateway, request_id)
    estimate = estimate_of(room.gateway, request_id)
    assert_billed(close, "client_gone", input=(estimate, "estimated"))
    assert close["output_source"] == "counted"
    assert seen <= close["output_tokens"] <= room.plain.generated(request_id)


def test_client_gone_mid_stream_with_usage_on_the_chunks(room):
    words = "[[tokens=1000]][[interval_ms=5]]"
    request_id, seen = leave_after(room.gateway, 10, "vllm", words, max_tokens=1000)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "client_gone", input=(room.vllm.input_tokens(request_id), "engine"))
    assert close["output_source"] == "engine"
    assert seen <= close["output_tokens"] <= room.vllm.generated(request_id)


def finish_then_leave(room, late_ms):
    wire = room.gateway.open_stream("plain", f"[[tokens=9]][[fault=late_usage={late_ms}]]")
    while b'"finish_reason":"stop"' not in wire.read_chunk():
        pass
    wire.close()
    left = time.monotonic()
    close = only_close(room.gateway, wire.headers["x-request-id"])
    return wire.headers["x-request-id"], close, time.monotonic() - left


def test_client_gone_after_finish_reason_and_usage_comes(room):
    request_id, close, _ = finish_then_leave(room, 300)
    told = room.plain.input_tokens(request_id)
    assert_billed(close, "client_gone", input=(told, "engine"), output=(9, "engine"))
    line = room.gateway.request_line(request_id)
    assert (line["outcome"], line["client"], line["output_source"]) == ("client_gone", "127.0.0.1", "engine")
    room.gateway.wait_idle()


def test_client_gone_after_finish_reason_and_usage_does_not_come(room):
    request_id, close, took = finish_then_leave(room, 8000)
    estimate = estimate_of(room.gateway, request_id)
    assert_billed(close, "client_gone", input=(estimate, "estimated"), output=(9, "counted"))
    assert took < 4 * paths.SLOWNESS, "it is waited for a second"
    room.plain.wait_for_event(request_id, "gone")
    room.gateway.wait_idle()


def test_client_gone_before_a_whole_answer(room):
    wire = room.gateway.wire()
    body = {"model": "plain", "prompt": "[[tag=whole]][[tokens=5000]][[interval_ms=20]]", "max_tokens": 5000}
    room.gateway.send(wire, COMPLETIONS, body)
    request_id = wait_until(
        lambda: next((s["headers"]["x-request-id"] for s in room.plain.seen() if b"tag=whole" in s["body"]), None),
        "the engine to see it",
    )
    wire.close()
    close = only_close(room.gateway, request_id)
    assert_billed(close, "client_gone", input=(estimate_of(room.gateway, request_id), "estimated"))
    assert close["output_tokens"] == 0


def test_a_hang_up_after_the_last_byte_changes_nothing(room):
    wire = room.gateway.open_stream("plain", "[[tokens=9]]")
    while b"[DONE]" not in wire.read_chunk():
        pass
    wire.close()
    close = only_close(room.gateway, wire.headers["x-request-id"])
    assert_billed(close, "complete", output=(9, "engine"))


# ---- the engine fails, or we end it ----


def test_engine_died_mid_stream(room):
    request_id, _ = ask(room.gateway, "plain", "[[tokens=9]][[fault=reset_after=4]]")
    close = only_close(room.gateway, request_id)
    estimate = estimate_of(room.gateway, request_id)
    assert_billed(close, "engine_error", input=(estimate, "estimated"), output=(4, "counted"))


def test_engine_died_inside_a_whole_answer(room):
    request_id, _ = ask(room.gateway, "plain", "[[tokens=9]][[fault=reset_after]]", False)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "engine_error", input=(estimate_of(room.gateway, request_id), "estimated"))
    assert close["output_tokens"] == 0


def test_engine_died_inside_a_whole_answer_after_its_usage(room):
    request_id, _ = ask(room.gateway, "llamacpp", "a few words [[fault=reset_after]]", path=EMBEDDINGS)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "engine_error", input=(room.llamacpp.input_tokens(request_id), "engine"))
    assert close["output_tokens"] == 0


def test_an_error_inside_a_stream(room):
    request_id, _ = ask(room.gateway, "plain", "[[tokens=9]][[fault=error_in_stream=4]]")
    assert_billed(only_close(room.gateway, request_id), "engine_error", output=(4, "counted"))


@pytest.mark.parametrize("fault", ["status=500", "status=400", "close_without_byte", "reset_before_headers"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_the_first_byte_costs_nothing(room, fault, stream):
    request_id, received = ask(room.gateway, "plain", f"[[tokens=9]][[fault={fault}]]", stream)
    openai_error(json.loads(received))
    close = only_close(room.gateway, request_id)
    assert_billed(close, "engine_error", False, input=(0, "none"), output=(0, "none"))


def test_nobody_could_be_reached(make_gateway, make_engine):
    engine = make_engine(model="m")
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})
    engine.stop()
    answer = own.complete("m", "hello")
    assert answer.status_code in (502, 503), answer.text
    rows = records(own, answer.headers["x-request-id"])
    if rows:  # it was tried before the probe had noticed
        close = only_close(own, answer.headers["x-request-id"])
        assert_billed(close, "engine_error", False, input=(0, "none"), output=(0, "none"))


def test_what_was_never_dispatched_is_not_recorded(room):
    before = len(records(room.gateway))
    assert room.gateway.complete("no-such-model").status_code == 404
    assert room.gateway.complete("plain", key=Key("tg_wrong")).status_code == 401
    assert room.gateway.complete("plain", max_tokens=-1).status_code == 400
    assert len(records(room.gateway)) == before


def test_the_inter_chunk_timer(room):
    request_id, _ = ask(room.gateway, "quick", "[[tokens=9]][[fault=stall_after=4]]")
    close = only_close(room.gateway, request_id)
    assert_billed(close, "cut", input=(estimate_of(room.gateway, request_id), "estimated"), output=(4, "counted"))


def test_the_total_timer(room):
    words = "[[tokens=2000]][[interval_ms=100]]"
    request_id, received = ask(room.gateway, "quick", words, max_tokens=2000)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "cut", output=(len(contents(received)), "counted"))


def test_a_timer_before_the_first_byte_costs_nothing(room):
    request_id, _ = ask(room.gateway, "quick", "[[fault=hang_before_headers]]")
    close = only_close(room.gateway, request_id)
    assert_billed(close, "cut", False, input=(0, "none"), output=(0, "none"))


def test_a_limit_that_cuts(room):
    words = "[[tokens=1000]][[interval_ms=5]]"
    request_id, received = ask(room.gateway, "plain", words, key=room.limited, max_tokens=1000)
    close = only_close(room.gateway, request_id)
    assert_billed(close, "cut", output=(len(contents(received)), "counted"))
    assert close["key"] == "cut"


def end_of_a_drained_gateway(make_gateway, engine, end):
    """(gateway, id of a stream with 5 chunks, id of a whole answer that was not begun, close of each) after @end."""
    own = make_gateway({"drain_timeout": "300ms", "models": {"m": {"engines": [engine.yaml()]}}})
    wire = own.open_stream("m", "[[tokens=1000]][[interval_ms=20]]", max_tokens=1000)
    seen = 0
    while seen < 5:
        seen += len(contents(wire.read_chunk()))
    whole = own.wire()
    own.send(whole, COMPLETIONS, {"model": "m", "prompt": "[[tag=whole]][[fault=hang_before_headers]]"})
    wait_until(lambda: [s for s in engine.seen() if b"tag=whole" in s["body"]], "the engine to see it")
    request_id = next(s["headers"]["x-request-id"] for s in engine.seen() if b"tag=whole" in s["body"])
    end(own)
    closes = [only_close(own, wire.headers["x-request-id"], 10), only_close(own, request_id, 10)]
    wire.close()
    whole.close()
    return own, closes


def test_the_drain_limit(make_gateway, make_engine):
    engine = make_engine(model="m")
    own, (stream, whole) = end_of_a_drained_gateway(make_gateway, engine, lambda own: own.terminate())
    assert_billed(stream, "cut")
    assert stream["output_source"] == "counted" and stream["output_tokens"] >= 5
    assert_billed(whole, "cut", False, input=(0, "none"), output=(0, "none"))
    assert own.wait_end() == 0
    assert of_type(records(own), "FINISH"), "the journal was ended in order"


def test_the_master_is_gone(make_gateway, make_engine):
    engine = make_engine(model="m")
    own, (stream, _) = end_of_a_drained_gateway(
        make_gateway, engine, lambda own: os.kill(own.master_pid, signal.SIGKILL)
    )
    assert_billed(stream, "cut")
    assert stream["output_source"] == "counted" and stream["output_tokens"] >= 5
    own.process.wait()
    own.end_now()


# ---- what is not billed ----


def test_bill_says_no(make_gateway, make_engine):
    engine = make_engine(model="m")
    config = {
        "models": {"m": {"engines": [engine.yaml()]}},
        "billing": {"bill": {"client_gone": False, "engine_error": False, "estimated": False}},
    }
    own = make_gateway(config)
    request_id, _ = ask(own, "m", "[[tokens=9]]")
    assert_billed(only_close(own, request_id), "complete", True, output=(9, "engine"))
    request_id, _ = ask(own, "m", "[[tokens=9]][[fault=no_usage]]")
    assert_billed(only_close(own, request_id), "complete", False, output=(9, "counted"))
    request_id, _ = ask(own, "m", "[[tokens=9]][[fault=reset_after=4]]")
    assert_billed(only_close(own, request_id), "engine_error", False, output=(4, "counted"))
    request_id, _ = leave_after(own, 3, "m", "[[tokens=1000]][[interval_ms=5]]", max_tokens=1000)
    assert_billed(only_close(own, request_id), "client_gone", False)


# ---- chunks of several tokens ----


def test_tokens_per_chunk_are_learned_and_kept(make_gateway, make_engine):
    engine = make_engine(model="m")
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})
    for tokens in (50, 61, 72):
        ask(own, "m", f"[[tokens={tokens}]][[per_chunk=5]]", max_tokens=1000)
    request_id, _ = ask(own, "m", "[[tokens=100]][[per_chunk=5]][[fault=no_usage]]", max_tokens=1000)
    assert_billed(only_close(own, request_id), "complete", output=(100, "counted"))
    words = "[[tokens=1000]][[per_chunk=5]][[interval_ms=5]]"
    request_id, seen = leave_after(own, 4, "m", words, max_tokens=1000)
    close = only_close(own, request_id)
    assert close["output_tokens"] % 5 == 0 and 5 * seen <= close["output_tokens"] <= engine.generated(request_id)
    own.terminate()
    own.wait_end()
    own.start()
    request_id, _ = ask(own, "m", "[[tokens=200]][[per_chunk=5]][[fault=no_usage]]", max_tokens=1000)
    assert_billed(only_close(own, request_id), "complete", output=(200, "counted"))


# ---- when ----


def test_progress_at_the_first_byte_and_every_64_tokens(room):
    request_id, _ = ask(room.gateway, "plain", "[[tokens=200]]", max_tokens=200)
    only_close(room.gateway, request_id)
    steps = [row["output_tokens"] for row in of_type(records(room.gateway, request_id), "PROGRESS")]
    assert steps[0] == 0 and steps == sorted(steps)
    assert all(64 <= after - before < 128 for before, after in zip(steps[:-1], steps[1:], strict=True)) or (
        paths.SLOWNESS > 1
    ), steps
    assert steps[-1] > 100


def test_progress_every_second(room):
    words = "[[tokens=12]][[interval_ms=300]]"
    request_id, _ = ask(room.gateway, "plain", words, max_tokens=200)
    only_close(room.gateway, request_id)
    steps = [row["output_tokens"] for row in of_type(records(room.gateway, request_id), "PROGRESS")]
    assert 3 <= len(steps) <= 6, steps


@pytest.fixture
def slow_gateway(make_gateway, make_engine, directory):
    """A gateway whose journal takes 400 ms longer to write while the file `slow` is there."""
    engine = make_engine(model="m")
    slow = directory / "slow"
    options = os.environ.get("ASAN_OPTIONS", "")
    environment = {
        "LD_PRELOAD": str(paths.SCRIPTED_ENGINE.parent / "slow_disk.so"),
        "SLOW_DISK_FILE": str(slow),
        "ASAN_OPTIONS": f"{options}:verify_asan_link_order=0",
    }
    own = make_gateway({"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}}, environment=environment)
    return own, slow


@pytest.mark.parametrize("sync", ["os", "group"])
@pytest.mark.parametrize("stream", [True, False])
def test_close_is_written_before_the_last_byte_leaves(slow_gateway, stream, sync):
    own, slow = slow_gateway
    own.write_config({**own.config, "billing": {"sync": sync}})
    if sync == "group":
        own.terminate()
        own.wait_end()
        own.start()
    ask(own, "m", "[[tokens=3]]", stream)
    slow.write_text("400")
    request_id, received = ask(own, "m", "[[tokens=3]]", stream)
    assert of_type(records(own, request_id), "CLOSE"), "it was not there when the client had the last byte"
    assert b"[DONE]" in received if stream else json.loads(received)


def gateway_limit(own, file_bytes):
    limit = resource.RLIM_INFINITY if file_bytes is None else file_bytes
    resource.prlimit(own.gateway_pid(), resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def is_refused(answer):
    if answer.status_code != 503:
        return False
    error = openai_error(answer)
    assert (error["type"], error["code"]) == ("server_error", "usage_not_recordable")
    assert int(answer.headers["retry-after"]) > 0
    return True


def test_a_disk_that_refuses(make_gateway, make_engine):
    engine = make_engine(model="m")
    own = make_gateway({"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}})
    wire = own.open_stream("m", "[[tokens=40]][[interval_ms=100]]")
    wire.read_chunk()
    gateway_limit(own, 1)
    refused = own.complete("m", "[[tag=refused]]")
    assert is_refused(refused)
    assert not [seen for seen in engine.seen() if b"tag=refused" in seen["body"]], "it was dispatched all the same"
    events = events_of(wire.read_body())
    assert events[-1] == "[DONE]", "who was admitted gets the whole answer"
    assert not of_type(records(own, wire.headers["x-request-id"]), "CLOSE")
    wire.close()

    gateway_limit(own, None)
    close = only_close(own, wire.headers["x-request-id"])
    assert_billed(close, "complete", output=(40, "engine"))
    wait_until(lambda: own.complete("m", "hello").status_code == 200, "work to be taken again")
    assert_billed(only_close(own, refused.headers["x-request-id"]), "cut", False, input=(0, "none"), output=(0, "none"))
    assert own.metric_sum("tollgate_usage_records_total", end="complete") >= 2
    assert own.metric_sum("tollgate_journal_write_seconds_count") >= 4


def test_a_disk_that_is_full_when_the_next_segment_is_due(make_gateway, make_engine):
    """With small segments; what is left of the last one is kept for the requests that are open."""
    engine = make_engine(model="m")
    binary = paths.SCRIPTED_ENGINE.parent / "tollgate_ledger"
    segment_bytes = 64 * 1024
    own = make_gateway(
        {"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}},
        binary=binary,
        environment={"TOLLGATE_SEGMENT_BYTES": str(segment_bytes)},
    )
    wire = own.open_stream("m", "[[tokens=1000]][[interval_ms=20]]", seconds=60, max_tokens=1000)
    wire.read_chunk()
    gateway_limit(own, segment_bytes - 1)  # of those there are all but the last byte may be written
    served = []
    for _ in range(3000):
        answer = own.complete("m", "hello")
        if is_refused(answer):
            break
        assert answer.status_code == 200, answer.text
        served.append(answer.headers["x-request-id"])
    else:
        raise AssertionError("the disk never was full")
    assert len(served) > 100 and is_refused(own.complete("m", "hello")), "it stays so"
    wire.close()
    assert_billed(only_close(own, wire.headers["x-request-id"]), "client_gone")
    closes = {row["request_id"] for row in of_type(records(own), "CLOSE")}
    assert set(served) <= closes

    gateway_limit(own, None)
    wait_until(lambda: own.complete("m", "hello").status_code == 200, "work to be taken again")


def test_a_journal_that_cannot_be_made(make_gateway, make_engine):
    engine = make_engine(model="m")
    own = make_gateway({"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}})
    before = own.gateway_pid()
    limits = (1024 * 1024, resource.RLIM_INFINITY)  # a journal's first segment is larger
    resource.prlimit(own.master_pid, resource.RLIMIT_FSIZE, limits)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: own.gateway_pid() not in (None, before), "another gateway")
    wait_until(lambda: own.answers_admin(), "it to answer")
    wait_until(lambda: is_refused(own.complete("m", "hello")), "work to be refused", 20)
    gateway_limit(own, None)
    wait_until(lambda: own.complete("m", "hello").status_code == 200, "work to be taken again")


# ---- kill -9 ----


def kill_mid_way(make_gateway, engine, words):
    own = make_gateway({"workers": 1, "models": {"m": {"engines": [engine.yaml()]}}})
    wire = own.wire()
    body = {"model": "m", "prompt": f"[[tag=killed]]{words}", "stream": True, "max_tokens": 1000}
    own.send(wire, COMPLETIONS, body)
    wait_until(lambda: [s for s in engine.seen() if b"tag=killed" in s["body"]], "the engine to see it")
    request_id = next(s["headers"]["x-request-id"] for s in engine.seen() if b"tag=killed" in s["body"])
    if "hang" not in words:
        wait_until(lambda: engine.generated(request_id) >= 150, "150 tokens")
    before = of_type(records(own, request_id), "PROGRESS")
    os.kill(own.gateway_pid(), signal.SIGKILL)
    wire.read_to_end()
    wire.close()
    return request_id, before, only_close(own, request_id, 20), own


def test_a_killed_gateway_leaves_progress(make_gateway, make_engine):
    engine = make_engine(model="m")
    request_id, before, close, own = kill_mid_way(make_gateway, engine, "[[tokens=1000]][[interval_ms=5]]")
    assert before[0]["output_tokens"] == 0 and len(before) >= 3
    assert_billed(close, "crash", input=(estimate_of(own, request_id), "estimated"))
    last = of_type(records(own, request_id), "PROGRESS")[-1]
    assert (close["output_tokens"], close["when"]) == (last["output_tokens"], last["when"])
    assert close["output_tokens"] >= engine.generated(request_id) - 2 * 64


def test_a_killed_gateway_without_a_byte_of_an_engine(make_gateway, make_engine):
    engine = make_engine(model="m")
    _, before, close, _ = kill_mid_way(make_gateway, engine, "[[fault=hang_before_headers]]")
    assert before == []
    assert_billed(close, "crash", False, input=(0, "none"), output=(0, "none"))
