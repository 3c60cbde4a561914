"""The fake Stripe (tests/tools/fake_stripe.py), asked by Stripe's official client: what the other tests lean on."""

import contextlib
import threading
import time
import urllib.request

import pytest
import stripe
from support import paths
from support.stripe import Clock, FakeStripe
from support.waiting import wait_until

HOUR_S, DAY_S = 3600, 86400
KEY = "sk_test_canary_of_the_fake_0123456789"


class Official:
    """The official client: @retries of its own, and quick about it."""

    def __init__(self, fake, key=KEY, retries=0):
        http = stripe.RequestsClient(timeout=10 * paths.SLOWNESS)
        self.client = stripe.StripeClient(
            key, base_addresses={"api": fake.url}, max_network_retries=retries, http_client=http
        )
        self.billing = self.client.v1.billing

    def send(self, identifier, value=1, customer="cus_1", event_name="tokens", key=None, **more):
        payload = {"stripe_customer_id": customer, "value": str(value)}
        params = {"event_name": event_name, "payload": payload, **more}
        if identifier is not None:
            params["identifier"] = identifier
        return self.billing.meter_events.create(params, {"idempotency_key": key} if key else {})

    def cancel(self, identifier, event_name="tokens"):
        return self.billing.meter_event_adjustments.create(
            {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}}
        )

    def meter(self, event_name="tokens"):
        meters = self.billing.meters.list({"limit": 100}).auto_paging_iter()
        return next(meter for meter in meters if meter.event_name == event_name)

    def summaries(self, start, end, customer="cus_1", **more):
        params = {"customer": customer, "start_time": start, "end_time": end, **more}
        return self.billing.meters.event_summaries.list(self.meter().id, params)

    def total(self, customer="cus_1"):
        """Of a day to each side of now."""
        hour = int(time.time()) // HOUR_S * HOUR_S
        return sum(each.aggregated_value for each in self.summaries(hour - DAY_S, hour + DAY_S, customer).data)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path)


@pytest.fixture
def fake(tmp_path, clock):
    made = FakeStripe(tmp_path, ["cus_1", "cus_2"], ["tokens"], key=KEY, clock_offset_file=clock.file)
    yield made
    made.stop()


@pytest.fixture
def official(fake):
    return Official(fake)


# ---- what is right ----


def test_an_event_is_taken_and_counted(fake, official):
    sent = official.send("tg1-a", 25, timestamp=int(time.time()) - 5)
    assert isinstance(sent, stripe.billing.MeterEvent)
    assert (sent.identifier, sent.event_name, sent.livemode) == ("tg1-a", "tokens", False)
    assert sent.payload["value"] == "25" and sent.last_response.headers["Request-Id"].startswith("req_")
    assert official.send(None, 5).identifier
    assert official.total() == 30 and official.total("cus_2") == 0
    assert [event["value"] for event in fake.events()] == [25, 5] and fake.total("cus_1", "tokens") == 30


def test_meters_are_made_listed_and_retired(fake, official):
    for number in range(25):
        official.billing.meters.create(
            {"display_name": "x", "event_name": f"meter_{number}", "default_aggregation": {"formula": "sum"}}
        )
    first = official.billing.meters.list({"limit": 10})
    assert first.has_more and len(first.data) == 10 and first.data[0].event_name == "meter_24"
    names = [meter.event_name for meter in official.billing.meters.list({"limit": 7}).auto_paging_iter()]
    assert len(names) == 26 and len(set(names)) == 26
    meter = official.meter("meter_3")
    assert official.billing.meters.retrieve(meter.id).value_settings.event_payload_key == "value"
    assert official.billing.meters.deactivate(meter.id).status == "inactive"
    with pytest.raises(stripe.InvalidRequestError, match="No active meter"):
        official.send("tg1-a", event_name="meter_3")
    assert official.billing.meters.reactivate(meter.id).status == "active"
    official.send("tg1-b", event_name="meter_3")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        fake_twin = {"display_name": "x", "event_name": "tokens", "default_aggregation": {"formula": "sum"}}
        official.billing.meters.create(fake_twin)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        official.billing.meters.retrieve("mtr_none")
    assert caught.value.http_status == 404 and caught.value.code == "resource_missing"


def test_customers_that_the_client_makes_are_known(official):
    customer = official.client.v1.customers.create({"name": "Acme"})
    official.send("tg1-a", 3, customer=customer.id)
    assert official.total(customer.id) == 3


def test_summaries_by_hour_and_day(clock, official):
    hour = int(clock.now()) // HOUR_S * HOUR_S
    for number in range(1, 31):  # one an hour, of 1 to 30
        official.send(f"tg1-{number}", number, timestamp=hour - number * HOUR_S)
    official.send("tg1-edge", 1000, timestamp=hour)
    first = official.summaries(hour - 30 * HOUR_S, hour, value_grouping_window="hour", limit=10)
    assert first.has_more and first.data[0].end_time == hour and first.data[0].start_time == hour - HOUR_S
    by_hour = {each.start_time: each.aggregated_value for each in first.auto_paging_iter()}
    assert by_hour == {hour - number * HOUR_S: number for number in range(1, 31)}
    whole = official.summaries(hour - 30 * HOUR_S, hour)
    assert [each.aggregated_value for each in whole.data] == [30 * 31 / 2]
    day = hour // DAY_S * DAY_S
    days = official.summaries(day - 2 * DAY_S, day + DAY_S, value_grouping_window="day")
    assert sum(each.aggregated_value for each in days.data) == 30 * 31 / 2 + 1000
    assert all(each.start_time % DAY_S == 0 for each in days.data)


def test_summaries_say_what_is_wrong_with_the_question(clock, official):
    hour = int(clock.now()) // HOUR_S * HOUR_S
    for start, end, more in [
        (hour + 1, hour + HOUR_S, {}),
        (hour + 60, hour + HOUR_S, {"value_grouping_window": "hour"}),
        (hour, hour, {}),
        (hour, hour + HOUR_S, {"customer": "cus_none"}),
        (hour, hour + HOUR_S, {"value_grouping_window": "week"}),
        (hour, hour + HOUR_S, {"limit": 101}),
    ]:
        with pytest.raises(stripe.InvalidRequestError):
            official.summaries(start, end, **more)


def test_summaries_can_lag_and_can_list_empty_hours(fake, clock, official):
    fake.set(lag_s=600, zero_summaries=True)
    official.send("tg1-a", 5)
    hour = int(clock.now()) // HOUR_S * HOUR_S
    before = official.summaries(hour - HOUR_S, hour + HOUR_S, value_grouping_window="hour")
    assert [each.aggregated_value for each in before.data] == [0, 0]
    clock.step(601)
    after = official.summaries(hour - HOUR_S, hour + HOUR_S, value_grouping_window="hour")
    assert [each.aggregated_value for each in after.data] == [5, 0]


def test_an_event_can_be_canceled_for_a_day(clock, official):
    official.send("tg1-a", 5)
    official.send("tg1-b", 7)
    assert official.cancel("tg1-a").status == "complete"
    assert official.total() == 7
    with pytest.raises(stripe.InvalidRequestError, match="No such"):
        official.cancel("tg1-none")
    clock.step(DAY_S + 1)
    with pytest.raises(stripe.InvalidRequestError, match="24 hours"):
        official.cancel("tg1-b")


# ---- what is wrong ----


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"event_name": "none"}, "No active meter"),
        ({"customer": "cus_none"}, "No such customer: 'cus_none'"),
        ({"customer": ""}, "payload key"),
        ({"value": "1.5"}, "whole number"),
        ({"value": "many"}, "whole number"),
        ({"value": 10**15}, "15 digits"),
        ({"identifier": "x" * 101}, "100 characters"),
        ({"event_name": "x" * 101}, "100 characters"),
        ({"timestamp": -35 * DAY_S - 600}, "35 calendar days"),
        ({"timestamp": 3600}, "5 minutes"),
        ({"colour": "red"}, "unknown parameter"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_refused(fake, official, what, words):
    if "timestamp" in what:
        what = {"timestamp": int(time.time()) + what["timestamp"]}
    with pytest.raises(stripe.InvalidRequestError, match=words) as caught:
        official.send(**{"identifier": "tg1-a", **what})
    assert caught.value.http_status == 400
    assert fake.events() == []
    assert official.send("tg1-a", 10**15 - 1, timestamp=int(time.time()) + 200).identifier == "tg1-a"


def test_a_wrong_key_is_refused_and_keys_can_change(fake, official):
    with pytest.raises(stripe.AuthenticationError) as caught:
        Official(fake, key="sk_test_wrong_0123456789").send("tg1-a")
    assert caught.value.http_status == 401 and "sk_test_" in str(caught.value)
    assert fake.counter("unauthorized") == 1
    fake.set_keys(sk_test_next_0123456789="acct_fake", sk_test_other_0123456789="acct_other")
    with pytest.raises(stripe.AuthenticationError):
        official.send("tg1-a")
    renewed, other = Official(fake, key="sk_test_next_0123456789"), Official(fake, key="sk_test_other_0123456789")
    renewed.send("tg1-a")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        renewed.send("tg1-a")
    other.send("tg1-a", 3)  # another account's identifiers are its own
    assert fake.counter("accepted") == 2


def test_an_unknown_path_is_404(fake):
    asked = urllib.request.Request(fake.url + "/v1/none", headers={"Authorization": f"Bearer {KEY}"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked, timeout=10)
    assert caught.value.code == 404


# ---- the same again ----


def test_a_duplicate_is_a_400_that_is_not_retried(fake):
    patient = Official(fake, retries=3)
    patient.send("tg1-a", 5)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        patient.send("tg1-a", 5)
    assert str(caught.value.user_message) == "An event already exists with identifier tg1-a."
    assert caught.value.code is None and caught.value.headers["Stripe-Should-Retry"] == "false"
    assert len(fake.calls()) == 2 and fake.counter("duplicates") == 1 and patient.total() == 5


def test_after_the_window_a_repeat_is_billed_again(fake, clock, official):
    official.send("tg1-a", 5)
    clock.step(DAY_S - 60)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        official.send("tg1-a", 5)
    clock.step(61)
    official.send("tg1-a", 5)
    state = fake.state()
    assert state["identifiers_taken_twice"] == ["tg1-a"] and state["counters"]["accepted_again"] == 1
    assert fake.total() == 10


def test_the_same_key_gets_the_same_answer_for_a_day(fake, clock, official):
    first = official.send("tg1-a", 5, key="k1", timestamp=int(clock.now()))
    again = official.send("tg1-a", 5, key="k1", timestamp=first.timestamp)
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.created == first.created and fake.total() == 5
    clock.step(DAY_S)
    official.send("tg1-a", 5, key="k1", timestamp=first.timestamp)
    assert fake.total() == 10


def test_the_same_key_with_other_parameters(fake, official):
    official.send("tg1-a", 5, key="k1", timestamp=1 + int(time.time()))
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        official.send("tg1-a", 6, key="k1")
    assert fake.total() == 5


def test_what_was_not_executed_is_not_stored(fake, official):
    with pytest.raises(stripe.InvalidRequestError, match="whole number"):
        official.send("tg1-a", "many", key="k1")
    fake.fault("rate_limit")
    with pytest.raises(stripe.RateLimitError):
        official.send("tg1-a", 5, key="k1")
    official.send("tg1-a", 5, key="k1")
    assert fake.total() == 5


def test_a_refusal_is_stored_too(fake, official):
    now = int(time.time())
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
            official.send("tg1-a", 5, customer="cus_new", key="k1", timestamp=now)
        fake.add_customers("cus_new")
    official.send("tg1-a", 5, customer="cus_new", key="k2", timestamp=now)
    assert fake.total("cus_new") == 5 and fake.counter("replayed") == 1


# ---- two at once ----


@contextlib.contextmanager
def meanwhile(what):
    """what() in a thread of its own."""
    thread = threading.Thread(target=what)
    thread.start()
    yield
    thread.join()


def test_one_call_at_a_time_for_a_customer_and_meter(fake, official):
    fake.add_meter("other")
    fake.fault("delay", seconds=1.5 * paths.SLOWNESS)
    with meanwhile(lambda: Official(fake).send("tg1-a")):
        wait_until(fake.calls, "the first call")
        wait_until(lambda: fake.counter("accepted"), "the first event")
        with pytest.raises(stripe.RateLimitError) as caught:
            official.send("tg1-b")
        assert caught.value.headers["Stripe-Should-Retry"] == "true"
        official.send("tg1-c", customer="cus_2")
        official.send("tg1-d", event_name="other")
    official.send("tg1-b")
    assert fake.counter("lock_timeouts") == 1 and len(fake.events()) == 4


def test_one_call_at_a_time_with_a_key(fake, official):
    now = int(time.time())
    fake.fault("delay_before", seconds=1.5 * paths.SLOWNESS)
    with meanwhile(lambda: Official(fake).send("tg1-a", key="k1", timestamp=now)):
        wait_until(fake.calls, "the first call")
        with pytest.raises(stripe.APIError) as caught:
            official.send("tg1-a", key="k1", timestamp=now)
        assert caught.value.http_status == 409
    replayed = official.send("tg1-a", key="k1", timestamp=now)
    assert replayed.last_response.headers["Idempotent-Replayed"] == "true"
    assert fake.counter("key_in_use") == 1 and len(fake.events()) == 1


# ---- faults ----


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "cut_after"])
def test_a_lost_answer_leaves_open_whether_it_was_done(fake, official, kind):
    fake.fault(kind)
    with pytest.raises(stripe.APIConnectionError):
        official.send("tg1-a", 5)
    assert fake.total() == (0 if kind == "drop_before" else 5)
    with contextlib.suppress(stripe.InvalidRequestError):
        official.send("tg1-a", 5)
    assert fake.total() == 5 and fake.counter(f"fault_{kind}") == 1


@pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
def test_the_client_repeats_a_lost_call_itself(fake, kind):
    """With its own idempotency key: the second answer is the first one's."""
    fake.fault(kind, count=2)
    Official(fake, retries=3).send("tg1-a", 5)
    counters = fake.state()["counters"]
    assert (counters["accepted"], counters.get("duplicates", 0)) == (1, 0)
    assert counters.get("replayed", 0) == (0 if kind == "drop_before" else 1)


@pytest.mark.parametrize("kind", ["error_before", "error_after"])
def test_a_stored_500_comes_back_under_its_key(fake, official, kind):
    now = int(time.time())
    fake.fault(kind)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as caught:
            official.send("tg1-a", 5, key="k1", timestamp=now)
        assert caught.value.http_status == 500
    assert fake.counter("replayed") == 1 and fake.total() == (0 if kind == "error_before" else 5)
    with contextlib.suppress(stripe.InvalidRequestError):
        official.send("tg1-a", 5, key="k1:g1", timestamp=now)
    assert fake.total() == 5


def test_429_says_when_to_come_back(fake, official):
    fake.fault("rate_limit", retry_after=7)
    with pytest.raises(stripe.RateLimitError) as caught:
        official.send("tg1-a")
    assert caught.value.headers["Retry-After"] == "7"
    fake.set(calls_per_second=2)
    refused = 0
    for number in range(6):
        try:
            official.send(f"tg1-{number}")
        except stripe.RateLimitError:
            refused += 1
    assert refused >= 1 and fake.counter("rate_limited") == refused


def test_401_for_a_while(fake, official):
    fake.fault("unauthorized", count=2)
    for _ in range(2):
        with pytest.raises(stripe.AuthenticationError):
            official.send("tg1-a")
    official.send("tg1-a")


def test_faults_by_chance_and_for_other_paths(fake, official):
    fake.fault("drop_before", probability=0.5)
    lost = 0
    for number in range(40):
        try:
            official.send(f"tg1-{number}")
        except stripe.APIConnectionError:
            lost += 1
    assert 5 < lost < 35 and fake.counter("fault_drop_before") == lost and fake.total() == 40 - lost
    assert len(fake.clear_faults()) == 1
    fake.fault("error_before", path="event_summaries")
    official.send("tg1-last")
    with pytest.raises(stripe.APIError):
        official.total()
    assert official.total() == 41 - lost


def test_an_outage_ends_by_itself(fake, official):
    fake.down(0.5)
    with pytest.raises(stripe.APIConnectionError):
        official.send("tg1-a")
    wait_until(lambda: _is_up(official), "the end of the outage")
    fake.down(mode="unavailable")
    with pytest.raises(stripe.APIError) as caught:
        Official(fake, retries=1).send("tg1-c")
    assert caught.value.http_status == 503 and fake.counter("unavailable") == 2
    fake.up()
    official.send("tg1-c")


def _is_up(official):
    try:
        return official.send(None)
    except stripe.APIConnectionError:
        return False


def test_a_hanging_provider(fake):
    quick = stripe.RequestsClient(timeout=0.3)
    client = stripe.StripeClient(KEY, base_addresses={"api": fake.url}, max_network_retries=0, http_client=quick)
    fake.down(mode="hang")
    with pytest.raises(stripe.APIConnectionError):
        client.v1.billing.meters.list()
    fake.up()
    assert Official(fake).meter().event_name == "tokens"


# ---- what is found out later ----


def test_an_event_that_was_taken_can_be_of_no_use(fake, official):
    fake.fault("async_reject", code="meter_event_customer_not_found")
    official.send("tg1-a", 5, key="k1")
    official.send("tg1-b", 7)
    assert official.total() == 7
    fake.async_error("tg1-b", "archived_meter")
    assert official.total() == 0
    errors = [report["data"]["reason"]["error_types"][0] for report in fake.error_reports()]
    assert {error["code"]: error["error_count"] for error in errors} == {
        "meter_event_customer_not_found": 1,
        "archived_meter": 1,
    }
    assert errors[1]["sample_errors"][0]["request"]["identifier"] == "k1"  # the idempotency key, when there is one


def test_what_nobody_knows_about_the_real_one_can_be_chosen(fake, official):
    fake.set(unknown_customer="lose", unknown_meter="lose")
    official.send("tg1-a", 5, customer="cus_none")
    official.send("tg1-b", 5, event_name="none")
    assert fake.total() == 0 and len(fake.error_reports()) == 2
    fake.set(unknown_customer="reject", rejected_is_known=True)
    for words in ("No such customer", "already exists"):
        with pytest.raises(stripe.InvalidRequestError, match=words):
            official.send("tg1-c", 5, customer="cus_none")
