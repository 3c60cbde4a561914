"""Token limits: what is held while a request runs, what it costs in the end, and the three ways to run out."""

import pytest
from support import paths
from support.gateway import Key, openai_error
from support.waiting import wait_until
from support.wire import events_of

PER_MINUTE = 60  # one a second: what flows back during a test is little, and known to be


@pytest.fixture
def engine(make_engine):
    return make_engine(model="m")


@pytest.fixture
def limited(make_gateway, engine):
    """limited(on_exceed, burst, **more of the configuration): one key with a token limit."""

    def make(on_exceed, burst, **more):
        limits = {"tokens_per_minute": PER_MINUTE, "burst": {"tokens": burst}, "on_exceed": on_exceed}
        key = Key("tg_test_key_with_token_limit", limits=limits)
        models = {"m": {"engines": [engine.yaml(max_in_flight=64)]}}
        return make_gateway({"models": models, "tenants": {"acme": {"keys": {"ci": key.yaml()}}}, **more}, key=key)

    return make


def bucket(own):
    rows = own.admin("/admin/v1/limits?tenant=acme&key=ci").json()["limits"]
    return next(row for row in rows if row["kind"] == "tokens")


def contents(events):
    return [
        event
        for event in events
        if isinstance(event, dict)
        and any(choice.get("text") or choice.get("delta", {}).get("content") for choice in event["choices"])
    ]


def finish_reasons(events):
    """By choice."""
    return {
        choice["index"]: choice["finish_reason"]
        for event in events
        if isinstance(event, dict)
        for choice in event["choices"]
        if choice.get("finish_reason")
    }


# ---- soft ----


@pytest.mark.parametrize("stream", [True, False])
def test_soft_finishes_and_the_next_one_waits(limited, stream):
    own = limited("soft", 100)
    if stream:
        wire, events = own.stream("m", "[[tokens=300]]", max_tokens=300)
        assert len(contents(events)) == 300 and events[-1] == "[DONE]"
        request_id = wire.headers["x-request-id"]
    else:
        answer = own.complete("m", "[[tokens=300]]", max_tokens=300)
        assert answer.json()["usage"]["completion_tokens"] == 300
        request_id = answer.headers["x-request-id"]
    line = own.request_line(request_id)
    assert (line["status"], line["output_tokens"], line["output_source"]) == (200, 300, "engine")
    cost = line["input_tokens"] + 300
    assert 100 - cost <= bucket(own)["balance"] < 100 - cost + 15 * paths.SLOWNESS
    assert bucket(own)["held"] == 0
    assert own.metric_sum("tollgate_limit_debt_tokens_total", model="m") >= 0
    refused = own.complete("m", max_tokens=5)
    assert refused.status_code == 429 and openai_error(refused)["type"] == "tokens"
    used = cost - 15 * paths.SLOWNESS
    wait_s = int(refused.headers["retry-after-ms"]) / 1000
    assert used - 100 < wait_s <= cost - 100 + 10, "until the debt is paid, and what it needs itself"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"


def test_a_stream_holds_more_as_it_goes_on(limited, engine):
    own = limited("soft", 5000)
    # Short answers are what it learns, then comes a long one.
    for _ in range(35):
        assert own.complete("m", "[[tokens=4]]", max_tokens=2000).status_code == 200
    with own.open_stream("m", "[[tokens=400]][[interval_ms=2]]", "/v1/completions", seconds=60, max_tokens=2000) as wire:
        begun = bucket(own)
        assert begun["held"] < 200, "little more than what is learned, and a step"
        wait_until(lambda: bucket(own)["balance"] < begun["balance"] - 200, "it to take more", 20)
        assert bucket(own)["held"] < 300, "what is sent is spent, and not held any more"
        events = events_of(wire.read_body())
    assert len(contents(events)) == 400
    assert bucket(own)["held"] == 0


# ---- hard ----


def test_hard_refuses_up_front_what_may_not_fit(limited, engine):
    own = limited("hard", 100)
    answer = own.complete("m", "[[tokens=3]]", max_tokens=200)
    assert answer.status_code == 429 and openai_error(answer)["code"] == "request_too_large"
    assert answer.headers["x-should-retry"] == "false"
    assert bucket(own)["balance"] == 100

    answer = own.complete("m", "[[tokens=3]]", max_tokens=60)
    assert answer.status_code == 200
    assert bucket(own)["balance"] > 85, "only what was used is gone"

    with own.wire(60) as holder:
        own.send(holder, "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]", "max_tokens": 60})
        wait_until(lambda: engine.state()["held"] == 1, "it to be at the engine")
        assert bucket(own)["held"] >= 60, "the whole cap"
        answer = own.complete("m", "[[tokens=3]]", max_tokens=60)
        assert answer.status_code == 429 and openai_error(answer)["code"] == "rate_limit_exceeded"
        engine.release()
        holder.read_answer()
        assert holder.status == 200
    assert own.complete("m", "[[tokens=3]]", max_tokens=60).status_code == 200


def test_hard_never_goes_into_debt(limited):
    own = limited("hard", 300)
    wire, events = own.stream("m", "[[tokens=1000]]", "/v1/completions", max_tokens=200)
    assert len(contents(events)) == 200
    assert bucket(own)["balance"] > 0


# ---- cut ----


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("usage", [True, False])
def test_cut_ends_the_stream_as_one_that_reached_its_cap(limited, engine, path, usage):
    own = limited("cut", 100)
    more = {"stream_options": {"include_usage": True}} if usage else {}
    wire, events = own.stream("m", "[[tokens=1000]][[interval_ms=5]]", path, seconds=60, max_tokens=1000, **more)
    request_id = wire.headers["x-request-id"]
    assert events[-1] == "[DONE]"
    assert finish_reasons(events) == {0: "length"}
    count = len(contents(events))
    assert 80 <= count <= 100 + 10 * paths.SLOWNESS, "the bucket is used up, and no more"

    line = own.request_line(request_id)
    assert (line["status"], line["outcome"]) == (200, "limit_cut")
    assert (line["output_tokens"], line["output_source"]) == (count, "counted")
    chunks = [event for event in events[:-1] if event.get("usage")]
    if usage:
        assert chunks == [events[-2]] and events[-2]["choices"] == []
        told = events[-2]["usage"]
        assert (told["prompt_tokens"], told["completion_tokens"]) == (line["input_tokens"], count)
        assert told["total_tokens"] == told["prompt_tokens"] + count
    else:
        assert chunks == []
    ids = {event["id"] for event in events[:-1]}
    assert len(ids) == 1, "the closing chunk looks like the others"

    engine.wait_for_event(request_id, "gone")
    assert engine.generated(request_id) < 1000
    assert bucket(own)["held"] == 0
    assert bucket(own)["balance"] > -10, "a cut stream leaves no debt to speak of"
    own.wait_idle()


def test_cut_ends_every_choice(limited):
    own = limited("cut", 100)
    wire, events = own.stream("m", "[[tokens=1000]][[interval_ms=5]]", seconds=60, max_tokens=1000, n=2)
    assert finish_reasons(events) == {0: "length", 1: "length"}
    assert events[-1] == "[DONE]"


def test_a_stream_that_has_ended_is_not_cut_by_its_usage(limited):
    own = limited("cut", 60)
    prompt = "[[tokens=100]][[per_chunk=10]]"  # ten chunks: only the usage chunk tells what they were
    wire, events = own.stream("m", prompt, max_tokens=100, stream_options={"include_usage": True})
    ends = [choice["finish_reason"] for event in events[:-1] for choice in event["choices"] if choice["finish_reason"]]
    assert ends == ["length"] and events[-2]["usage"]["completion_tokens"] == 100
    line = own.request_line(wire.headers["x-request-id"])
    assert (line["outcome"], line["output_tokens"], line["output_source"]) == ("served", 100, "engine")
    assert bucket(own)["balance"] < -35, "what exceeds is debt all the same"


def test_a_cut_stream_is_nothing_special_to_the_official_client(limited):
    from support.official import PythonClient

    own = limited("cut", 100)
    client = PythonClient(own.url, own.key.bearer)
    messages = [{"role": "user", "content": "[[tokens=1000]][[interval_ms=5]]"}]
    chunks = client.stream(model="m", messages=messages, max_tokens=1000, stream_options={"include_usage": True})
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_cut_does_not_touch_who_stays_below(limited):
    own = limited("cut", 300)
    wire, events = own.stream("m", "[[tokens=150]]", max_tokens=1000)
    assert finish_reasons(events) == {0: "stop"}
    assert len(contents(events)) == 150


# ---- what was learned ----


def held_by_one(own, engine):
    with own.wire(60) as holder:
        body = {"model": "m", "prompt": "[[fault=hold]][[tokens=5]]", "max_tokens": 1000}
        own.send(holder, "/v1/completions", body)
        wait_until(lambda: engine.state()["held"] == 1, "it to be at the engine")
        held = bucket(own)["held"]
        engine.release()
        holder.read_answer()
        assert holder.status == 200
    return held


def test_what_was_learned_survives_a_restart(limited, engine):
    own = limited("soft", 100000)
    assert held_by_one(own, engine) > 1000, "nothing is known yet: the cap is held"
    for _ in range(35):
        assert own.complete("m", "[[tokens=5]]", max_tokens=1000).status_code == 200
    learned = held_by_one(own, engine)
    assert learned < 60, "answers are known to be short"
    own.terminate()
    assert own.wait_end() == 0
    assert (own.directory / "state" / "estimates").stat().st_size > 0
    own.start()
    assert held_by_one(own, engine) == pytest.approx(learned, abs=5)


def test_what_was_learned_survives_a_reload(limited, engine):
    own = limited("soft", 100000)
    for _ in range(35):
        assert own.complete("m", "[[tokens=5]]", max_tokens=1000).status_code == 200
    learned = held_by_one(own, engine)
    assert learned < 60
    own.reload_and_wait()
    assert held_by_one(own, engine) == pytest.approx(learned, abs=5)


def test_estimates_that_cannot_be_read_are_left_behind(limited, engine):
    own = limited("soft", 100000)
    own.terminate()
    assert own.wait_end() == 0
    (own.directory / "state" / "estimates").write_bytes(b"tollgate estimates of another world\n")
    own.start()
    assert held_by_one(own, engine) > 1000
    assert [line for line in own.log("estimates") if "learning starts anew" in line.get("message", "")]


# ---- the end of a request ----


def test_embeddings_cost_their_input(limited):
    own = limited("hard", 1000)
    answer = own.post("/v1/embeddings", {"model": "m", "input": ["one two three", "four"]})
    assert answer.status_code == 200
    cost = answer.json()["usage"]["prompt_tokens"]
    assert cost > 0 and 1000 - cost <= bucket(own)["balance"] <= 1000 - cost + 5 * paths.SLOWNESS


def test_several_choices_and_prompts_are_held_and_paid(limited, engine):
    own = limited("soft", 5000)
    with own.wire(60) as holder:
        body = {"model": "m", "prompt": ["[[fault=hold]]", "b"], "n": 3, "max_tokens": 50}
        own.send(holder, "/v1/completions", body)
        wait_until(lambda: engine.state()["held"] == 1, "it to be at the engine")
        assert bucket(own)["held"] >= 2 * 3 * 50
        engine.release()
        holder.read_answer()


def test_who_leaves_in_the_middle_pays_for_what_was_sent(limited, engine):
    own = limited("soft", 10000)
    with own.open_stream("m", "[[tokens=2000]][[interval_ms=2]]", seconds=60, max_tokens=2000) as wire:
        request_id = wire.headers["x-request-id"]
        for number, _ in enumerate(wire.read_chunks()):
            if number == 30:
                break
    line = own.request_line(request_id)
    assert line["outcome"] == "client_gone" and line["output_tokens"] >= 30
    gone = bucket(own)
    assert gone["held"] == 0
    left = 10000 - line["input_tokens"] - line["output_tokens"]
    assert left <= gone["balance"] <= left + 15 * paths.SLOWNESS


def test_an_engines_error_before_the_first_byte_costs_no_tokens(limited):
    own = limited("soft", 10000)
    answer = own.complete("m", "[[fault=status=400]]", max_tokens=500)
    assert answer.status_code == 400
    assert (bucket(own)["balance"], bucket(own)["held"]) == (10000, 0)
