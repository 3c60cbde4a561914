"""Limits as a client meets them: exact, said in full, and kept over reloads. What tokens cost: test_token_limits.py."""

import os
import select
import threading
import time

import pytest
from support import paths
from support.gateway import Key, openai_error
from support.official import Failure, PythonClient
from support.waiting import wait_until

# How often the exact counts are counted: each time by a key of its own, so with fresh buckets.
REPEATS = int(os.environ.get("LIMIT_REPEATS", "20" if paths.SLOWNESS == 1 else "3"))
ASKED, ADMITTED = 50, 10
KEYS = [Key(f"tg_test_limited_key_number_{i}") for i in range(REPEATS)]
SLOWLY = {"requests_per_minute": 1}  # what flows back during a test is far from a whole request


@pytest.fixture
def engine(make_engine):
    return make_engine(model="m")


@pytest.fixture
def limited(make_gateway, engine):
    """limited(key's limits, **more of the configuration): a gateway with one key, that of user nina."""

    def make(limits, **more):
        key = Key("tg_test_key_with_limits", user="nina", limits=limits)
        tenants = {"acme": {"keys": {"ci": key.yaml()}, **more.pop("tenant", {})}}
        model = {"engines": [engine.yaml(max_in_flight=64)], **more.pop("model", {})}
        return make_gateway({"models": {"m": model}, "tenants": tenants, **more}, key=key)

    return make


def buckets(own, **query):
    """{(scope, kind): row} of GET /admin/v1/limits, for key ci of acme and model m unless @query says otherwise."""
    answer = own.admin("/admin/v1/limits", params=query or {"tenant": "acme", "key": "ci", "model": "m"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["complete"] is True
    return {(row["scope"], row["kind"]): row for row in answer.json()["limits"]}


def state(own):
    """What a refusal must not change: whole units left and held of every bucket."""
    answer = own.admin("/admin/v1/limits").json()
    return {(row["name"], row["kind"]): (round(row["balance"]), row["held"]) for row in answer["limits"]}


def ask_at_once(own, key, prompt):
    wires = [own.wire(60) for _ in range(ASKED)]
    for wire in wires:
        own.send(wire, "/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 1}, key)
    return wires


def read_answered(wires, count):
    """Read @count answers in the order in which they come; returns the wires they came on."""
    answered = []
    while len(answered) < count:
        waiting = [wire.socket for wire in wires if wire not in answered]
        ready, _, _ = select.select(waiting, [], [], 30 * paths.SLOWNESS)
        assert ready, f"{len(answered)} of {count} answers came"
        for wire in [wire for wire in wires if wire.socket in ready and wire not in answered]:
            wire.read_answer()
            answered.append(wire)
    return answered


# ---- exact ----


@pytest.mark.parametrize("workers", [2, 8])
def test_requests_per_minute_is_exact(make_gateway, engine, workers):
    own = make_gateway(
        {
            "workers": workers,
            "models": {"m": {"engines": [engine.yaml(max_in_flight=64)]}},
            "defaults": {"key": {"limits": {"requests_per_minute": ADMITTED}}},
            "tenants": {"acme": {"keys": {f"k{i}": key.yaml() for i, key in enumerate(KEYS)}}},
        }
    )
    for key in KEYS:
        begun = time.monotonic()
        wires = ask_at_once(own, key, "x")
        read_answered(wires, ASKED)
        assert time.monotonic() - begun < 60 / ADMITTED, "so slow that an eleventh has flowed in"
        assert sorted(wire.status for wire in wires) == [200] * ADMITTED + [429] * (ASKED - ADMITTED)
        for wire in wires:
            wire.close()


@pytest.mark.parametrize("workers", [2, 8])
def test_concurrent_requests_is_exact(make_gateway, engine, workers):
    own = make_gateway(
        {
            "workers": workers,
            "models": {"m": {"engines": [engine.yaml(max_in_flight=64)]}},
            "tenants": {
                "acme": {
                    "limits": {"concurrent_requests": ADMITTED},
                    "keys": {f"k{i}": key.yaml() for i, key in enumerate(KEYS)},
                }
            },
        }
    )
    for key in KEYS:
        wires = ask_at_once(own, key, "[[fault=hold]]")
        refused = read_answered(wires, ASKED - ADMITTED)
        assert {wire.status for wire in refused} == {429}
        wait_until(lambda: engine.state()["held"] == ADMITTED, "the admitted ones to be at the engine")
        assert buckets(own, tenant="acme")["tenant", "seats"]["balance"] == 0
        engine.release()
        admitted = [wire for wire in wires if wire not in refused]
        read_answered(admitted, ADMITTED)
        assert {wire.status for wire in admitted} == {200}
        assert buckets(own, tenant="acme")["tenant", "seats"]["balance"] == ADMITTED
        for wire in wires:
            wire.close()


def test_a_seat_is_free_again_before_its_answer_has_ended(limited):
    own = limited({"concurrent_requests": 1}, workers=2)
    wires = [own.wire(60) for _ in range(4)]
    for turn in range(200):
        wire, streams = wires[turn % len(wires)], turn % 3 == 0
        body = {"model": "m", "prompt": "x", "max_tokens": 1, "stream": streams}
        own.send(wire, "/v1/completions", body)
        wire.read_answer()
        assert wire.status == 200, f"turn {turn}"


# ---- coming back when told to ----


def ask_and_obey(own, rounds):
    """One client alone: after a refusal it waits as long as it was told. Returns how often it was refused."""
    refused = 0
    for _ in range(rounds):
        answer = own.complete("m", max_tokens=16)
        if answer.status_code == 429:
            refused += 1
            time.sleep(int(answer.headers["retry-after-ms"]) / 1000)
            answer = own.complete("m", max_tokens=16)
        assert answer.status_code == 200, answer.text
    return refused


def test_who_obeys_retry_after_is_not_refused_twice_by_requests(limited):
    own = limited({"requests_per_minute": 1200, "burst": {"requests": 1}})
    assert ask_and_obey(own, 20) >= 15


def test_who_obeys_retry_after_is_not_refused_twice_by_tokens(limited):
    own = limited({"tokens_per_minute": 18000, "burst": {"tokens": 30}})
    assert ask_and_obey(own, 20) >= 15


def test_who_obeys_retry_after_is_not_refused_twice_by_several_limits(limited):
    own = limited(
        {"requests_per_minute": 1200, "burst": {"requests": 2}},
        tenant={"limits": {"tokens_per_minute": 12000, "burst": {"tokens": 40}}},
        model={"limits": {"tokens_per_minute": 30000, "strict_window": True, "burst": {"tokens": 20}}},
    )
    assert ask_and_obey(own, 20) >= 10


def test_the_official_clients_own_retries_succeed(limited):
    own = limited({"requests_per_minute": 60, "burst": {"requests": 1}})
    client = PythonClient(own.url, own.key.bearer, max_retries=2)
    for _ in range(3):
        assert client.complete(model="m", prompt="x", max_tokens=1)["usage"]["completion_tokens"] == 1
    retried = lambda: [line["status"] for line in own.log("request") if line.get("client_retry_count") == "1"]
    wait_until(lambda: retried() == [200, 200], "two retries in the log")
    assert own.metric_sum("tollgate_ratelimited_total", limit="requests", scope="key") == 2


def test_the_official_client_does_not_repeat_what_is_too_large(limited):
    own = limited({"tokens_per_minute": 100})
    client = PythonClient(own.url, own.key.bearer, max_retries=2)
    with pytest.raises(Failure) as failure:
        client.complete(model="m", prompt="word " * 500, max_tokens=1)
    assert (failure.value.status, failure.value.code) == (429, "request_too_large")
    assert own.metric_sum("tollgate_ratelimited_total") == 1


# ---- what is said ----


def test_answers_say_how_much_is_left(limited):
    own = limited(
        {"requests_per_minute": 10, "concurrent_requests": 5}, tenant={"limits": {"tokens_per_minute": 6000}}
    )
    answer = own.complete("m", max_tokens=8)
    head = answer.headers
    assert (head["x-ratelimit-limit-requests"], head["x-ratelimit-remaining-requests"]) == ("10", "9")
    assert (head["x-ratelimit-limit-seats"], head["x-ratelimit-remaining-seats"]) == ("5", "4")
    assert head["x-ratelimit-limit-tokens"] == "6000"
    assert 5980 <= int(head["x-ratelimit-remaining-tokens"]) <= 5991
    assert head["x-ratelimit-reset-requests"].endswith("s") and head["x-ratelimit-reset-tokens"].endswith("ms")
    assert "x-ratelimit-reset-seats" not in head and "retry-after" not in head
    with own.open_stream("m", max_tokens=8) as wire:
        assert (wire.status, wire.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert wire.headers["x-ratelimit-remaining-requests"] == "8"
        assert wire.headers["x-ratelimit-remaining-seats"] == "4"
        assert wire.headers["x-ratelimit-limit-tokens"] == "6000"
        wire.read_body()


def test_of_one_kind_the_limit_nearest_to_its_end_is_shown(limited):
    own = limited({"requests_per_minute": 100}, tenant={"limits": {"requests_per_minute": 8}})
    head = own.complete("m", max_tokens=1).headers
    assert (head["x-ratelimit-limit-requests"], head["x-ratelimit-remaining-requests"]) == ("8", "7")


def test_without_limits_there_are_no_headers(limited):
    own = limited({})
    assert not [name for name in own.complete("m", max_tokens=1).headers if name.startswith("x-ratelimit")]
    assert own.admin("/admin/v1/limits").json() == {"limits": [], "complete": True}


def test_a_refusal_says_which_limit_and_when(limited):
    own = limited({"requests_per_minute": 2})
    for _ in range(2):
        assert own.complete("m", max_tokens=1).status_code == 200
    answer = own.complete("m", max_tokens=1)
    assert answer.status_code == 429
    error = openai_error(answer)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    for part in ("for m by key acme/ci", "requests per min (RPM)", "Limit 2", "Used 2", "Requested 1", "try again in"):
        assert part in error["message"], error["message"]
    head = answer.headers
    assert 20000 < int(head["retry-after-ms"]) <= 30000
    assert int(head["retry-after"]) == -(-int(head["retry-after-ms"]) // 1000)
    assert "x-should-retry" not in head
    assert (head["x-ratelimit-limit-requests"], head["x-ratelimit-remaining-requests"]) == ("2", "0")


@pytest.mark.parametrize(
    "where, scope, whose",
    [
        ("key", "key", "by key acme/ci"),
        ("user", "user", "by user acme/user/nina"),
        ("tenant", "tenant", "by tenant acme"),
        ("model", "model", "for model m "),
        ("share", "tenant and model", "for tenant and model acme/m "),
    ],
)
def test_every_scope_refuses_by_its_name(limited, where, scope, whose):
    own = limited(
        SLOWLY if where == "key" else {},
        tenant={
            "limits": SLOWLY if where == "tenant" else {},
            "models": {"m": {"limits": SLOWLY if where == "share" else {}}},
        },
        model={"limits": SLOWLY if where == "model" else {}},
        defaults={"user": {"limits": SLOWLY if where == "user" else {}}},
    )
    assert own.complete("m", max_tokens=1).status_code == 200
    answer = own.complete("m", max_tokens=1)
    assert answer.status_code == 429
    assert whose in openai_error(answer)["message"], answer.text
    assert own.metrics()[f'tollgate_ratelimited_total{{limit="requests",scope="{scope}"}}'] == 1
    line = own.request_line(answer.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["code"]) == (429, "limited", "rate_limit_exceeded")


def test_what_never_fits_is_too_large(limited):
    own = limited({"tokens_per_minute": 100})
    answer = own.complete("m", "word " * 500, max_tokens=1)
    assert answer.status_code == 429
    error = openai_error(answer)
    assert (error["type"], error["code"]) == ("tokens", "request_too_large")
    for part in ("too large", "key acme/ci", "tokens per min (TPM)", "Limit 100", "Requested "):
        assert part in error["message"], error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers and "retry-after-ms" not in answer.headers
    assert answer.headers["x-ratelimit-remaining-tokens"] == "100"
    assert own.metric_sum("tollgate_ratelimited_total", limit="tokens", scope="key") == 1


def test_a_seats_refusal_guesses_when_to_come_back(limited, engine):
    own = limited({"concurrent_requests": 1})
    with own.wire(60) as holder:
        own.send(holder, "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]"})
        wait_until(lambda: engine.state()["held"] == 1, "the seat to be taken")
        answer = own.complete("m")
        assert answer.status_code == 429 and openai_error(answer)["type"] == "seats"
        assert int(answer.headers["retry-after-ms"]) == 1000
        engine.release()
        holder.read_answer()
    assert own.complete("m", max_tokens=1).status_code == 200


# ---- nothing is counted that was not served ----


def test_a_refusal_changes_no_counter(limited):
    slow_tokens = {"tokens_per_minute": 1, "burst": {"tokens": 1000}}
    own = limited(
        {**SLOWLY, "burst": {"requests": 3}},
        tenant={"limits": {**slow_tokens, "concurrent_requests": 9}, "models": {"m": {"limits": {**SLOWLY, "burst": {"requests": 50}}}}},
        model={"limits": {"tokens_per_minute": 1, "burst": {"tokens": 5000}}},
        defaults={"user": {"limits": {**SLOWLY, "burst": {"requests": 40}}}},
    )
    for _ in range(3):
        assert own.complete("m", max_tokens=4).status_code == 200
    before = state(own)
    assert len(before) == 6
    for answer in [own.complete("m", max_tokens=4) for _ in range(20)]:
        assert answer.status_code == 429
    for answer in [own.complete("m", "word " * 4000, max_tokens=4) for _ in range(3)]:
        assert openai_error(answer)["code"] == "request_too_large"
    assert state(own) == before


ALL_KINDS = {"requests_per_minute": 1, "tokens_per_minute": 1, "concurrent_requests": 9}
MANY = {**ALL_KINDS, "burst": {"requests": 50, "tokens": 50000}}


def test_what_found_the_queue_full_costs_nothing(limited, engine):
    model = {"engines": [engine.yaml(max_in_flight=1)], "queue": {"length": 0}, "limits": MANY}
    own = limited(MANY, model=model, tenant={"limits": MANY})
    with own.wire(60) as holder:
        own.send(holder, "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]"})
        wait_until(lambda: engine.state()["held"] == 1, "the slot to be taken")
        before = state(own)
        for _ in range(5):
            answer = own.complete("m", max_tokens=500)
            assert (answer.status_code, openai_error(answer)["code"]) == (503, "queue_full")
        assert state(own) == before
        engine.release()
        holder.read_answer()


def test_what_reached_no_engine_costs_nothing(limited, engine):
    own = limited(MANY, tenant={"limits": MANY}, model={"limits": MANY})
    before = state(own)
    engine.stop()
    answer = own.complete("m", max_tokens=500)
    assert answer.status_code in (502, 503), answer.text
    assert state(own) == before


def test_who_was_refused_by_one_engine_and_missed_the_other_is_counted(make_gateway, make_engine):
    first, second = make_engine("first", model="m"), make_engine("second", model="m")
    # Which engine is asked first is chance: one pair is asked in the wanted order for sure, or nearly.
    names = [f"pair{i}" for i in range(12)]
    model = {"engine_model": "m", "engines": [first.yaml(), second.yaml()]}
    key = Key("tg_test_key_of_pairs", limits={**SLOWLY, "burst": {"requests": 50}})
    own = make_gateway({"models": dict.fromkeys(names, model), "tenants": {"acme": {"keys": {"ci": key.yaml()}}}}, key=key)
    wait_until(lambda: own.metric_sum("tollgate_engine_up") == 2 * len(names), "all engines to be up")
    first.fault("status=503")
    second.stop()
    answers = [own.complete(name, max_tokens=1) for name in names]
    assert {answer.status_code for answer in answers} <= {502, 503}
    lines = [own.request_line(answer.headers["x-request-id"]) for answer in answers]
    assert any(line["attempts"] == 2 and line["engine"].endswith("/2") for line in lines), lines
    row = buckets(own, tenant="acme", key="ci", model=names[0])["key", "requests"]
    assert (round(row["balance"]), row["held"]) == (50 - len(names), 0)


def test_who_leaves_the_queue_costs_nothing(limited, engine):
    model = {"engines": [engine.yaml(max_in_flight=1)], "limits": MANY}
    own = limited(MANY, model=model, tenant={"limits": MANY})
    with own.wire(60) as holder:
        own.send(holder, "/v1/completions", {"model": "m", "prompt": "[[fault=hold]]"})
        wait_until(lambda: engine.state()["held"] == 1, "the slot to be taken")
        before = state(own)
        with own.wire(60) as leaver:
            own.send(leaver, "/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 500})
            wait_until(lambda: own.metric_sum("tollgate_queue_length", model="m") == 1, "it to wait")
            assert state(own) != before, "who waits holds"
        wait_until(lambda: own.metric_sum("tollgate_queue_length", model="m") == 0, "it to be gone")
        assert state(own) == before
        engine.release()
        holder.read_answer()


# ---- reload ----


class Load(threading.Thread):
    """One client without limits that asks all the time and remembers everything that is not 200."""

    def __init__(self, own, key):
        super().__init__(daemon=True)
        self.own, self.key, self.done = own, key, threading.Event()
        self.served, self.failures = 0, []

    def run(self):
        with self.own.wire(60) as wire:
            while not self.done.is_set():
                try:
                    self.own.send(wire, "/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 2}, self.key)
                    body = wire.read_answer()
                except Exception as failure:
                    self.failures.append(repr(failure))
                    return
                if wire.status == 200:
                    self.served += 1
                else:
                    self.failures.append(body)

    def end(self):
        self.done.set()
        self.join(30 * paths.SLOWNESS)


def test_four_limits_are_changed_by_a_reload_under_load(make_gateway, engine):
    key = Key("tg_test_limited_and_reloaded", user="nina")
    other = Key("tg_test_not_limited_at_all")

    def config(key_burst, user_burst, tenant_burst, seats):
        slow_tokens = {"tokens_per_minute": 6, "burst": {"tokens": tenant_burst}}
        key.settings["limits"] = {**SLOWLY, "burst": {"requests": key_burst}}
        return {
            "workers": 2,
            "models": {"m": {"engines": [engine.yaml(max_in_flight=64)], "limits": {"concurrent_requests": seats}}},
            "defaults": {"user": {"limits": {**SLOWLY, "burst": {"requests": user_burst}}}},
            "tenants": {
                "acme": {"limits": slow_tokens, "keys": {"ci": key.yaml()}},
                "other": {"keys": {"load": other.yaml()}},
            },
        }

    def change(*values):
        own.write_config(config(*values))
        own.reload_and_wait()

    own = make_gateway(config(500, 400, 100000, 100), key=key)
    loads = [Load(own, other) for _ in range(3)]
    for load in loads:
        load.start()
    for _ in range(20):
        assert own.complete("m", max_tokens=4).status_code == 200
    spent = 100000 - buckets(own)["tenant", "tokens"]["balance"]
    assert spent > 0

    change(490, 3, 99000, 50)
    found = buckets(own)
    # Not refilled: what is left stays left, and is cut to the new capacity.
    assert round(found["key", "requests"]["balance"]) == 480
    assert round(found["user", "requests"]["balance"]) == 3
    assert round(found["tenant", "tokens"]["balance"]) == 99000
    assert (found["model", "seats"]["limit"], found["tenant", "tokens"]["capacity"]) == (50, 99000)
    # The new ones hold from the next request on.
    assert [own.complete("m", max_tokens=4).status_code for _ in range(5)] == [200] * 3 + [429] * 2
    before = buckets(own)

    change(500, 400, 100000, 100)
    found = buckets(own)
    for where in [("key", "requests"), ("user", "requests"), ("tenant", "tokens")]:
        assert round(found[where]["balance"]) == round(before[where]["balance"]), where
    assert found["model", "seats"]["limit"] == 100
    assert own.complete("m", max_tokens=4).status_code == 429

    served = sum(load.served for load in loads)
    change(1, 1, 1, 1000)
    wait_until(lambda: sum(load.served for load in loads) > served, "the load to go on")
    for load in loads:
        load.end()
    assert [load.failures for load in loads] == [[], [], []]
    seats = buckets(own, model="m")["model", "seats"]
    assert (seats["balance"], seats["held"]) == (1000, 0)


# ---- the admin listener ----


def test_the_admin_listener_tells_buckets_and_where_they_come_from(limited):
    own = limited({"requests_per_minute": 10}, model={"aliases": ["small"], "limits": {"tokens_per_minute": 500}})
    assert own.complete("m", max_tokens=4).status_code == 200
    answer = own.admin("/admin/v1/limits?tenant=acme&key=ci&model=small", token=False)
    told = answer.json()
    assert (told["tenant"], told["key"], told["user"], told["model"]) == ("acme", "ci", "nina", "m")
    key, model = told["limits"]
    assert {name: key[name] for name in ("kind", "scope", "name", "limit", "capacity", "held", "on_exceed")} == {
        "kind": "requests", "scope": "key", "name": "acme/ci", "limit": 10, "capacity": 10, "held": 0, "on_exceed": "soft",
    }
    assert 9 <= key["balance"] < 10 and 0 < key["full_in_ms"] <= 6000
    lines = own.file.read_text().splitlines()
    for row, text in [(key, "requests_per_minute: 10"), (model, "tokens_per_minute: 500")]:
        file, line, column = row["origin"].rsplit(":", 2)
        assert file.endswith("tollgate.yaml")
        assert lines[int(line) - 1][int(column) - 1 :].startswith((text, "limits:")), row["origin"]
    assert set(buckets(own, tenant="acme", key="ci")) == {("key", "requests")}
    assert set(buckets(own, model="m")) == {("model", "tokens")}
    assert len(own.admin("/admin/v1/limits").json()["limits"]) == 2


@pytest.mark.parametrize(
    "query, status, message",
    [
        ("tenant=nobody", 404, "no such tenant"),
        ("tenant=acme&key=nothing", 404, "no such key"),
        ("model=nothing", 404, "no such model"),
        ("key=ci", 400, "go with a tenant"),
        ("user=nina", 400, "go with a tenant"),
        ("colour=red", 400, "may have"),
        ("tenant=acme&tenant=acme", 400, "each once"),
        ("tenant=", 400, "may have"),
        ("tenant=%zz", 400, "may have"),
        ("tenant=%00", 400, "may have"),
        ("tenant=a%4", 400, "may have"),
        ("tenant=" + "a" * 600, 400, "may have"),
    ],
)
def test_a_question_about_limits_that_makes_no_sense(gateway, query, status, message):
    answer = gateway.admin(f"/admin/v1/limits?{query}")
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"] or status == 404
