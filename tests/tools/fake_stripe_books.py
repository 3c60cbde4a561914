"""What the fake Stripe knows, and Stripe's rules about it: meters, customers, events, summaries; and which faults are
asked for. No HTTP in here."""

import collections
import contextlib
import dataclasses
import random
import re
import threading
import time
import urllib.parse

HOUR_S, DAY_S = 3600, 86400
DEDUP_WINDOW_S = DAY_S  # "at least 24 hours"
KEY_WINDOW_S = DAY_S  # of an Idempotency-Key
CANCEL_WINDOW_S = DAY_S
BACKDATE_S = 35 * DAY_S
FUTURE_S = 300
VALUE_DIGITS_MAX, NAME_CHARACTERS_MAX, KEY_CHARACTERS_MAX = 15, 100, 255
PAGE_DEFAULT, PAGE_MAX = 10, 100
CALLS_KEPT = 200_000

# What can go wrong. "after" = the event was taken nevertheless. Options: status (500), seconds (1), retry_after, skip
# (so many calls are spared first), path (a part of the URL's; "meter_events" when not given), then_down (an outage
# begins with the last of them).
FAULTS = {
    "drop_before": "the connection is reset, nothing was done",
    "drop_after": "the connection is reset after it was done",
    "cut_after": "half of the answer, after it was done",
    "error_before": "500, and stored under the Idempotency-Key",
    "error_after": "500 after it was done, and stored under the Idempotency-Key",
    "rate_limit": "429 (retry_after: seconds, for the header)",
    "lock_timeout": "429 as for two calls at once",
    "unauthorized": "401",
    "delay": "the answer comes later (seconds), after it was done",
    "delay_before": "it is done later (seconds), and answered",
    "hang_before": "no answer for so many seconds, then a reset; nothing was done",
    "async_reject": "200, but it turns out to be of no use (code)",
}


@dataclasses.dataclass
class Settings:
    latency_ms: float = 0.0  # of every call, while its (customer, meter) is locked
    lag_s: float = 0.0  # so long an event is in no summary
    dedup_window_s: float = DEDUP_WINDOW_S
    calls_per_second: int = 0  # more get 429; 0 = no limit
    zero_summaries: bool = False  # hours without events are listed too
    unknown_customer: str = "reject"  # or "lose": 200, and an asynchronous error
    unknown_meter: str = "reject"
    rejected_is_known: bool = False  # the identifier of a refused event counts as taken: nobody knows about Stripe


class Clock:
    """The wall clock plus the milliseconds in a file, as the test build of Tollgate has it."""

    def __init__(self, offset_file=None):
        self.offset_file = offset_file

    def now_ms(self):
        offset = 0
        if self.offset_file:
            with contextlib.suppress(OSError, ValueError), open(self.offset_file, encoding="ascii") as file:
                offset = int(file.read().strip() or 0)
        return int(time.time() * 1000) + offset

    def now(self):
        return self.now_ms() / 1000


class Refusal(Exception):
    """An answer with an error. @stored: it is the result of having executed the call."""

    def __init__(self, status, message, type="invalid_request_error", code=None, param=None, headers=None, stored=True):
        super().__init__(message)
        self.status, self.headers, self.stored = status, headers or {}, stored
        self.error = {"message": message, "type": type}
        if code is not None:
            self.error["code"] = code
            self.error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param is not None:
            self.error["param"] = param


def invalid(message, param=None, code=None):
    """What is seen before anything is executed: not stored under the Idempotency-Key."""
    return Refusal(400, message, code=code, param=param, stored=False)


def missing(what, name, param, status=400):
    return Refusal(status, f"No such {what}: '{name}'", code="resource_missing", param=param)


def server_error(status):
    """Asked again with the same key, the same would come: the real one says so too."""
    message = "An unknown error occurred. Please contact support@stripe.com."
    return Refusal(status, message, type="api_error", headers={"Stripe-Should-Retry": "false"})


def rate_limited(retry_after=None):
    headers = {"Stripe-Rate-Limited-Reason": "global-rate"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    message = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."
    return Refusal(429, message, code="rate_limit", headers=headers, stored=False)


def locked():
    message = (
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request."
    )
    return Refusal(429, message, code="lock_timeout", headers={"Stripe-Should-Retry": "true"}, stored=False)


def unauthorized(key):
    """As the real one, it repeats a part of the key."""
    message = "You did not provide an API key."
    if key:
        message = f"Invalid API Key provided: {key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:]}"
    return Refusal(401, message, headers={"WWW-Authenticate": 'Basic realm="Stripe"'}, stored=False)


class Parameters:
    """A form or a query: a[b]=c becomes {"a": {"b": "c"}}; whoever takes all of them ends with done()."""

    def __init__(self, text):
        self.values = {}
        for name, value in urllib.parse.parse_qsl(text, keep_blank_values=True):
            parts = re.fullmatch(r"([^\[\]]+)((?:\[[^\[\]]*\])*)", name)
            if parts is None:
                raise invalid(f"Invalid parameter name: {name}")
            at, path = self.values, [parts[1], *re.findall(r"\[([^\[\]]*)\]", parts[2])]
            for step in path[:-1]:
                at = at.setdefault(step, {})
                if not isinstance(at, dict):
                    raise invalid(f"Invalid parameter: {name}")
            at[path[-1]] = value
        self.values.pop("expand", None)

    def text(self, name, required=False, limit=5000, choices=None):
        value = self.values.pop(name, None)
        if value is None or value == "":
            if required:
                raise invalid(f"Missing required param: {name}.", name, "parameter_missing")
            return None
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {value}", name)
        if len(value) > limit:
            message = f"Invalid string: {value[:8]}…; must be at most {limit} characters"
            raise invalid(message, name, "parameter_invalid_string")
        if choices is not None and value not in choices:
            raise invalid(f"Invalid {name}: must be one of {', '.join(choices)}", name)
        return value

    def number(self, name, required=False, default=None):
        value = self.text(name, required)
        if value is None:
            return default
        if re.fullmatch(r"-?[0-9]{1,18}", value) is None:
            raise invalid(f"Invalid integer: {value}", name, "parameter_invalid_integer")
        return int(value)

    def map(self, name, required=False):
        value = self.values.pop(name, None)
        if value is None and required:
            raise invalid(f"Missing required param: {name}.", name, "parameter_missing")
        if value is not None and not isinstance(value, dict):
            raise invalid("Invalid object", name)
        return value or {}

    def done(self):
        for name in self.values:
            raise invalid(f"Received unknown parameter: {name}", name, "parameter_unknown")


@dataclasses.dataclass
class Event:
    """One that was accepted."""

    account: str
    identifier: str
    event_name: str
    customer: str
    value: int
    timestamp: int  # s, as told
    received_ms: int
    idempotency_key: str | None
    payload: dict
    async_error: str = ""  # not billed
    canceled: bool = False

    def counts(self):
        return not self.canceled and not self.async_error


@dataclasses.dataclass
class Fault:
    kind: str
    count: int | None = None
    probability: float | None = None
    path: str = "meter_events"
    skip: int = 0
    status: int = 500
    seconds: float = 1.0
    retry_after: int | None = None
    code: str = "meter_event_invalid_value"
    then_down: bool = False


@dataclasses.dataclass
class Stored:
    """What is known of an Idempotency-Key."""

    fingerprint: tuple
    since: float
    answer: tuple | None = None  # None while it is executed


class Books:
    """Everything it knows, and Stripe's rules about it. One lock."""

    def __init__(self, clock, keys=None, seed=0):
        self.clock, self.random = clock, random.Random(seed)
        self.settings = Settings()
        self.keys = keys or {"sk_test_fake": "acct_fake"}
        self.lock = threading.RLock()
        self.meters, self.customers, self.events = [], set(), []
        self.by_identifier = {}  # (account, identifier) -> its last event
        self.rejected_ms = {}  # (account, identifier) -> when
        self.stored, self.lanes, self.faults = {}, set(), []
        self.counters = collections.Counter()
        self.calls = collections.deque(maxlen=CALLS_KEPT)
        self.serial = 0
        self.second, self.calls_of_second = 0, 0
        self.begin_outage = lambda: None  # FakeStripe's
        self.cut_off = threading.Event()  # set when those who are connected are not any more

    # ---- small things ----

    def new_id(self, prefix):
        self.serial += 1
        return f"{prefix}_{self.serial:08d}{self.random.getrandbits(32):08x}"

    def seconds(self):
        return int(self.clock.now())

    def find_meter(self, event_name, active=True):
        found = [each for each in self.meters if each["event_name"] == event_name]
        return next((each for each in found if not active or each["status"] == "active"), None)

    def meter_of(self, meter_id):
        meter = next((each for each in self.meters if each["id"] == meter_id), None)
        if meter is None:
            raise missing("meter", meter_id, "id", status=404)
        return meter

    def page(self, items, parameters, url):
        """A page of @items, which are in order."""
        limit = parameters.number("limit", default=PAGE_DEFAULT)
        after, before = parameters.text("starting_after"), parameters.text("ending_before")
        parameters.done()
        if not 1 <= limit <= PAGE_MAX:
            raise invalid(f"Invalid limit: must be between 1 and {PAGE_MAX}", "limit")
        ids = [each["id"] for each in items]
        first, last = 0, len(items)
        for cursor in filter(None, (after, before)):
            if cursor not in ids:
                raise missing("object", cursor, "starting_after" if after else "ending_before")
        if after:
            first = ids.index(after) + 1
        if before:
            last = ids.index(before)
        rest = items[first:last]
        data = rest[-limit:] if before and not after else rest[:limit]
        return {"object": "list", "url": url, "has_more": len(rest) > limit, "data": data}

    # ---- meters and customers ----

    def create_meter(self, parameters):
        display_name = parameters.text("display_name", required=True, limit=250)
        event_name = parameters.text("event_name", required=True, limit=NAME_CHARACTERS_MAX)
        formula = parameters.map("default_aggregation", required=True).get("formula")
        customer_key = parameters.map("customer_mapping").get("event_payload_key", "stripe_customer_id")
        value_key = parameters.map("value_settings").get("event_payload_key", "value")
        window = parameters.text("event_time_window", choices=("hour", "day"))
        parameters.done()
        if formula not in ("sum", "count", "last"):
            raise invalid("Invalid formula: must be one of sum, count, last", "default_aggregation[formula]")
        if self.find_meter(event_name):
            raise Refusal(400, f"An active meter with event name {event_name} already exists.", param="event_name")
        now = self.seconds()
        meter = {
            "id": self.new_id("mtr"),
            "object": "billing.meter",
            "created": now,
            "customer_mapping": {"event_payload_key": customer_key, "type": "by_id"},
            "default_aggregation": {"formula": formula},
            "display_name": display_name,
            "event_name": event_name,
            "event_time_window": window,
            "livemode": False,
            "status": "active",
            "status_transitions": {"deactivated_at": None},
            "updated": now,
            "value_settings": {"event_payload_key": value_key},
        }
        self.meters.insert(0, meter)  # lists begin with the newest
        return meter

    def list_meters(self, parameters):
        status = parameters.text("status", choices=("active", "inactive"))
        found = [each for each in self.meters if status in (None, each["status"])]
        return self.page(found, parameters, "/v1/billing/meters")

    def retrieve_meter(self, parameters, meter_id):
        parameters.done()
        return self.meter_of(meter_id)

    def update_meter(self, parameters, meter_id):
        meter = self.meter_of(meter_id)
        meter["display_name"] = parameters.text("display_name", limit=250) or meter["display_name"]
        parameters.done()
        meter["updated"] = self.seconds()
        return meter

    def deactivate_meter(self, parameters, meter_id):
        parameters.done()
        meter = self.meter_of(meter_id)
        meter.update(status="inactive", updated=self.seconds(), status_transitions={"deactivated_at": self.seconds()})
        return meter

    def reactivate_meter(self, parameters, meter_id):
        parameters.done()
        meter = self.meter_of(meter_id)
        meter.update(status="active", updated=self.seconds(), status_transitions={"deactivated_at": None})
        return meter

    def create_customer(self, parameters):
        name = parameters.text("name")
        parameters.done()
        customer = self.new_id("cus")
        self.customers.add(customer)
        return {"id": customer, "object": "customer", "created": self.seconds(), "livemode": False, "name": name}

    def retrieve_customer(self, parameters, customer):
        parameters.done()
        if customer not in self.customers:
            raise missing("customer", customer, "id", status=404)
        return {"id": customer, "object": "customer", "created": self.seconds(), "livemode": False, "name": None}

    # ---- events ----

    def read_event(self, parameters, account, idempotency_key):
        """What is wrong with it as it stands is told here, before anything is executed."""
        event_name = parameters.text("event_name", required=True, limit=NAME_CHARACTERS_MAX)
        identifier = parameters.text("identifier", limit=NAME_CHARACTERS_MAX)
        now = self.clock.now()
        timestamp = parameters.number("timestamp", default=int(now))
        payload = parameters.map("payload", required=True)
        parameters.done()
        meter = self.find_meter(event_name)
        customer_key = meter["customer_mapping"]["event_payload_key"] if meter else "stripe_customer_id"
        value_key = meter["value_settings"]["event_payload_key"] if meter else "value"
        for key in (customer_key, value_key):
            if not payload.get(key):
                raise invalid(f"Missing required payload key: {key}.", f"payload[{key}]", "parameter_missing")
        value = payload[value_key]
        if re.fullmatch(r"-?[0-9]+", value) is None:
            raise invalid(f"Invalid value: {value}; must be a whole number", f"payload[{value_key}]")
        if len(value.lstrip("-0")) > VALUE_DIGITS_MAX:
            raise invalid(f"Invalid value: at most {VALUE_DIGITS_MAX} digits are taken", f"payload[{value_key}]")
        if timestamp < now - BACKDATE_S:
            raise invalid("Invalid timestamp: it must be within the past 35 calendar days", "timestamp")
        if timestamp > now + FUTURE_S:
            raise invalid("Invalid timestamp: it must not be more than 5 minutes in the future", "timestamp")
        return Event(
            account=account,
            identifier=identifier or self.new_id("evt"),
            event_name=event_name,
            customer=payload[customer_key],
            value=int(value),
            timestamp=timestamp,
            received_ms=0,
            idempotency_key=idempotency_key,
            payload=payload,
        )

    def take_event(self, event):
        """The commit."""
        now_ms, name = self.clock.now_ms(), (event.account, event.identifier)
        last = self.by_identifier.get(name)
        known_ms = last.received_ms if last is not None else self.rejected_ms.get(name)
        if known_ms is not None and now_ms - known_ms < self.settings.dedup_window_s * 1000:
            self.counters["duplicates"] += 1
            message = f"An event already exists with identifier {event.identifier}."
            raise Refusal(400, message, headers={"Stripe-Should-Retry": "false"})
        try:
            self.check_meter_and_customer(event)
        except Refusal:
            if self.settings.rejected_is_known:
                self.rejected_ms[name] = now_ms
            raise
        event.received_ms = now_ms
        self.events.append(event)
        self.by_identifier[name] = event
        self.counters["accepted" if last is None else "accepted_again"] += 1
        return {
            "object": "billing.meter_event",
            "created": now_ms // 1000,
            "event_name": event.event_name,
            "identifier": event.identifier,
            "livemode": False,
            "payload": event.payload,
            "timestamp": event.timestamp,
        }

    def check_meter_and_customer(self, event):
        if self.find_meter(event.event_name) is None:
            if self.settings.unknown_meter == "reject":
                self.counters["unknown_meter"] += 1
                message = f"No active meter found for event name {event.event_name}."
                raise Refusal(400, message, code="resource_missing", param="event_name")
            event.async_error = "archived_meter" if self.find_meter(event.event_name, active=False) else "no_meter"
        if event.customer not in self.customers:
            if self.settings.unknown_customer == "reject":
                self.counters["unknown_customer"] += 1
                raise missing("customer", event.customer, "payload[stripe_customer_id]")
            event.async_error = event.async_error or "meter_event_customer_not_found"

    def adjust(self, parameters, account):
        event_name = parameters.text("event_name", required=True, limit=NAME_CHARACTERS_MAX)
        parameters.text("type", required=True, choices=("cancel",))
        identifier = parameters.map("cancel", required=True).get("identifier", "")
        parameters.done()
        event = self.by_identifier.get((account, identifier))
        if event is None or event.event_name != event_name:
            raise missing("meter event", identifier, "cancel[identifier]")
        if self.clock.now_ms() - event.received_ms > CANCEL_WINDOW_S * 1000:
            raise Refusal(400, "Events can be canceled within 24 hours only.", param="cancel[identifier]")
        event.canceled = True
        self.counters["canceled"] += 1
        return {
            "object": "billing.meter_event_adjustment",
            "cancel": {"identifier": identifier},
            "event_name": event_name,
            "livemode": False,
            "status": "complete",
            "type": "cancel",
        }

    # ---- summaries ----

    def summaries(self, parameters, meter_id, account):
        meter = self.meter_of(meter_id)
        customer = parameters.text("customer", required=True)
        start, end = parameters.number("start_time", required=True), parameters.number("end_time", required=True)
        window = parameters.text("value_grouping_window", choices=("hour", "day"))
        step = {None: 60, "hour": HOUR_S, "day": DAY_S}[window]
        for name, value in (("start_time", start), ("end_time", end)):
            if value % step != 0:
                raise invalid(f"Invalid {name}: must be aligned with {window or 'minute'} boundaries", name)
        if start >= end:
            raise invalid("start_time must be before end_time", "start_time")
        if customer not in self.customers:
            raise missing("customer", customer, "customer")
        width = step if window else end - start
        visible_ms = self.clock.now_ms() - self.settings.lag_s * 1000
        sums = {at: [] for at in range(start, end, width)} if self.settings.zero_summaries else {}
        for event in self.events:
            mine = (event.account, event.event_name, event.customer) == (account, meter["event_name"], customer)
            if mine and start <= event.timestamp < end and event.counts() and event.received_ms <= visible_ms:
                sums.setdefault(event.timestamp - (event.timestamp - start) % width, []).append(event)
        formula = meter["default_aggregation"]["formula"]
        found = [
            {
                "id": f"mtrusg_{meter_id}_{customer}_{at}_{width}",
                "object": "billing.meter_event_summary",
                "aggregated_value": float(aggregate(formula, sums[at])),
                "end_time": at + width,
                "livemode": False,
                "meter": meter_id,
                "start_time": at,
            }
            for at in sorted(sums, reverse=True)
        ]
        return self.page(found, parameters, f"/v1/billing/meters/{meter_id}/event_summaries")

    def totals(self):
        """[{customer, event_name, hour, value, events}] of what is billed."""
        found = {}
        for event in self.events:
            if event.counts():
                key = (event.customer, event.event_name, event.timestamp - event.timestamp % HOUR_S)
                line = found.setdefault(key, [0, 0])
                line[0] += event.value
                line[1] += 1
        return [
            {"customer": key[0], "event_name": key[1], "hour": key[2], "value": line[0], "events": line[1]}
            for key, line in sorted(found.items())
        ]

    def error_reports(self):
        reports = {}
        for event in self.events:
            if event.async_error:
                reports.setdefault((event.event_name, event.async_error), []).append(event)
        types = {"no_meter": "v1.billing.meter.no_meter_found"}
        return [
            {
                "type": types.get(code, "v1.billing.meter.error_report_triggered"),
                "event_name": name,
                "data": {
                    "validation_start": min(event.received_ms for event in events) // 1000,
                    "validation_end": max(event.received_ms for event in events) // 1000 + 1,
                    "reason": {
                        "error_count": len(events),
                        "error_types": [
                            {
                                "code": code,
                                "error_count": len(events),
                                # Samples only, as there: nobody learns all of them from a report.
                                "sample_errors": [
                                    {
                                        "error_message": code,
                                        "request": {"identifier": event.idempotency_key or event.identifier},
                                    }
                                    for event in events[:5]
                                ],
                            }
                        ],
                    },
                },
            }
            for (name, code), events in sorted(reports.items())
        ]

    # ---- faults ----

    def fault_for(self, path):
        """The first one that hits this call, or None."""
        for fault in self.faults:
            if fault.path not in path:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.probability is None or self.random.random() < fault.probability:
                return fault
        return None

    def use_fault(self, fault):
        """Whether it is still there; one less of it now."""
        if fault.count is None:
            return True
        if fault not in self.faults:
            return False
        fault.count -= 1
        if fault.count <= 0:
            self.faults.remove(fault)
            if fault.then_down:
                self.begin_outage()
        return True

    def state(self):
        identifiers = collections.Counter((event.account, event.identifier) for event in self.events)
        return {
            "now_ms": self.clock.now_ms(),
            "events": [dataclasses.asdict(event) for event in self.events],
            "identifiers_taken_twice": sorted(name for (_, name), count in identifiers.items() if count > 1),
            "counters": dict(self.counters),
            "calls": list(self.calls),
            "faults": [dataclasses.asdict(fault) for fault in self.faults],
            "customers": sorted(self.customers),
            "meters": self.meters,
        }


def aggregate(formula, events):
    if formula == "count":
        return len(events)
    if formula == "last":
        return max(events, key=lambda event: event.timestamp).value if events else 0
    return sum(event.value for event in events)
