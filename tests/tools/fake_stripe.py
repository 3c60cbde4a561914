#!/usr/bin/env python3
"""Stripe's Billing Meters as far as a sender of usage can tell: it remembers, deduplicates, totals, and misbehaves when
asked to. Standard library only.

As a program:   fake_stripe.py [--port N] [--control-port N] [--clock-offset-file FILE] [--key KEY] [--seed N]
prints          listening on 127.0.0.1:<port>, control on 127.0.0.1:<port>
In a test:      with FakeStripe(…) as stripe: stripe.url, stripe.control_url; stripe.books for what it knows

The control API, JSON in and out, on a port of its own (the other one goes away in an outage):
  GET    /_control/state              every accepted event, counters, calls
  GET    /_control/totals             what is billed, by customer, event name and UTC hour
  POST   /_control/faults             {"kind": …, "count": N | "probability": p, "path": …, …}: see FAULTS
  DELETE /_control/faults             none from now on; returns those that were left
  POST   /_control/down               {"seconds": s | null = until told, "mode": "refuse"|"hang"|"unavailable"}; 0 = up
  POST   /_control/customers          {"add": [ids], "remove": [ids]}
  POST   /_control/meters             {"event_name": …, …}: as POST /v1/billing/meters
  POST   /_control/keys               {"<API key>": "<account>"}: instead of those that are known
  POST   /_control/settings           see Settings
  POST   /_control/async_errors       {"identifier": …, "code": …}: an accepted event turns out to be of no use
  GET    /_control/error_reports      what Stripe would tell a webhook about those
"""

import argparse
import collections
import contextlib
import dataclasses
import http.server
import json
import os
import random
import re
import socket
import struct
import sys
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
BODY_BYTES_MAX = 1 << 20
CALLS_KEPT = 200_000

# What can go wrong. "after" = the event was taken nevertheless. Options: status (500), seconds (1), retry_after, skip
# (so many calls are spared first), path (a part of the URL's; "meter_events" when not given), then_down (an outage begins
# with the last of them).
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


# ---- one call ----


class Dropped(Exception):
    """No answer, or only a part of it."""


class Call:
    """One request to Stripe's API, from its headers to its answer. Sleeps outside of the lock."""

    def __init__(self, books, method, target, headers, body):
        self.books, self.method, self.headers = books, method, headers
        parts = urllib.parse.urlsplit(target)
        self.path, self.text = parts.path, body if method == "POST" else parts.query
        self.idempotency_key = headers.get("Idempotency-Key") if method == "POST" else None
        self.account, self.fault, self.event, self.lane = None, None, None, None
        self.cut = False  # only half of the answer goes out
        self.note = {"at_ms": books.clock.now_ms(), "method": method, "path": self.path, "outcome": "?"}
        self.note["mono_ms"] = int(time.monotonic() * 1000)
        self.note["idempotency_key"] = self.idempotency_key

    def answer(self):
        """(status, headers, object); raises Dropped."""
        with self.books.lock:
            self.books.calls.append(self.note)
            self.books.counters["calls"] += 1
        try:
            status, headers, body = self.checked()
            self.note["outcome"] = status
            return status, headers, body
        except Dropped:
            self.note["outcome"] = "dropped"
            raise
        except Refusal as refusal:
            self.note["outcome"] = refusal.status
            return refusal.status, refusal.headers, {"error": refusal.error}
        finally:
            self.leave()

    def checked(self):
        with self.books.lock:
            self.authenticate()
            self.limit_rate()
            route = self.find_route()
            self.fault = self.books.fault_for(self.path)
            self.hit("unauthorized", lambda fault: unauthorized(self.bearer()))
            self.hit("rate_limit", lambda fault: rate_limited(fault.retry_after))
            self.hit("lock_timeout", lambda fault: locked())
        if self.idempotency_key is None:
            return self.execute(route)
        replayed = self.enter_key()
        if replayed is not None:
            status, headers, body = replayed
            return status, {**headers, "Idempotent-Replayed": "true", "Idempotency-Key": self.idempotency_key}, body
        answer = None
        try:
            answer = self.execute(route)
        except Refusal as refusal:
            answer = (refusal.status, refusal.headers, {"error": refusal.error}) if refusal.stored else None
            raise
        except Dropped as dropped:
            answer = dropped.args[0] if dropped.args else None
            raise
        finally:
            self.leave_key(answer)
        return answer[0], {**answer[1], "Idempotency-Key": self.idempotency_key}, answer[2]

    # ---- who, how often, what ----

    def bearer(self):
        scheme, _, key = self.headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme == "Bearer" else ""

    def authenticate(self):
        self.account = self.books.keys.get(self.bearer())
        if self.account is None:
            self.books.counters["unauthorized"] += 1
            raise unauthorized(self.bearer())

    def limit_rate(self):
        books, second = self.books, int(time.monotonic())
        if second != books.second:
            books.second, books.calls_of_second = second, 0
        books.calls_of_second += 1
        if 0 < books.settings.calls_per_second < books.calls_of_second:
            books.counters["rate_limited"] += 1
            raise rate_limited(1)

    def find_route(self):
        for method, pattern, what in ROUTES:
            match = re.fullmatch(pattern, self.path)
            if match and method == self.method:
                return what, match.groups()
        message = f"Unrecognized request URL ({self.method}: {self.path}). Please see https://stripe.com/docs"
        raise Refusal(404, message, stored=False)

    # ---- faults ----

    def hit(self, kind, refusal=None):
        """The fault of this kind that this call has, if it gets so far; counted. @refusal makes the answer of it."""
        if self.fault is None or self.fault.kind != kind or not self.books.use_fault(self.fault):
            return None
        self.books.counters[f"fault_{kind}"] += 1
        self.note["fault"] = kind
        if refusal is not None:
            raise refusal(self.fault)
        return self.fault

    # ---- the Idempotency-Key ----

    def enter_key(self):
        """The stored answer, or None: execute, and then leave_key."""
        if len(self.idempotency_key) > KEY_CHARACTERS_MAX:
            raise invalid(f"Idempotency keys are at most {KEY_CHARACTERS_MAX} characters long")
        name, fingerprint = (self.account, self.idempotency_key), (self.path, self.text)
        with self.books.lock:
            now = self.books.clock.now()
            known = self.books.stored.get(name)
            if known is not None and known.answer is not None and now - known.since >= KEY_WINDOW_S:
                known = None
            if known is None:
                self.books.stored[name] = Stored(fingerprint, now)
                return None
            if known.fingerprint != fingerprint:
                self.books.counters["idempotency_errors"] += 1
                message = (
                    "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                    f"Try using a key other than '{self.idempotency_key}' if you meant to execute a different request."
                )
                raise Refusal(400, message, type="idempotency_error")
            if known.answer is None:
                self.books.counters["key_in_use"] += 1
                message = (
                    "There is currently another in-progress request using this Idempotent Key (that probably means you "
                    "submitted twice, and the other request is still going through): "
                    f"{self.idempotency_key}. Please try again later."
                )
                raise Refusal(409, message, code="idempotency_key_in_use")
            self.books.counters["replayed"] += 1
            self.note["replayed"] = True
            return known.answer

    def leave_key(self, answer):
        with self.books.lock:
            name = (self.account, self.idempotency_key)
            if answer is None:
                self.books.stored.pop(name, None)
            else:
                self.books.stored[name].answer = answer

    # ---- the call itself ----

    def execute(self, route):
        what, groups = route
        parameters = Parameters(self.text)
        if what is Books.take_event:
            with self.books.lock:
                self.event = self.books.read_event(parameters, self.account, self.idempotency_key)
                self.note.update(identifier=self.event.identifier, customer=self.event.customer)
                self.note.update(event_name=self.event.event_name, value=self.event.value)
                self.lock_lane()
        self.before()
        with self.books.lock:
            answer = (200, {}, self.commit(what, groups, parameters))
        self.after(answer)
        return answer

    def lock_lane(self):
        """One call at a time for each customer and meter."""
        lane = (self.account, self.event.customer, self.event.event_name)
        if lane in self.books.lanes:
            self.books.counters["lock_timeouts"] += 1
            raise locked()
        self.books.lanes.add(lane)
        self.lane = lane

    def leave(self):
        with self.books.lock:
            self.books.lanes.discard(self.lane)

    def before(self):
        time.sleep(self.books.settings.latency_ms / 1000)
        with self.books.lock:
            self.hit("error_before", lambda fault: server_error(fault.status))
            if self.hit("drop_before"):
                raise Dropped
            late, never = self.hit("delay_before"), self.hit("hang_before")
        if late:
            time.sleep(late.seconds)
        if never:
            time.sleep(never.seconds)
            raise Dropped

    def commit(self, what, groups, parameters):
        if what is Books.take_event:
            taken = self.books.take_event(self.event)
            if self.hit("async_reject"):
                self.event.async_error = self.fault.code
            return taken
        if what in (Books.adjust, Books.summaries):
            groups = (*groups, self.account)
        return what(self.books, parameters, *groups)

    def after(self, answer):
        with self.books.lock:
            self.hit("error_after", lambda fault: server_error(fault.status))
            if self.hit("drop_after"):
                raise Dropped(answer)
            self.cut = self.hit("cut_after") is not None
            late = self.hit("delay")
        if late:
            time.sleep(late.seconds)


ROUTES = [
    ("POST", r"/v1/billing/meter_events", Books.take_event),
    ("POST", r"/v1/billing/meter_event_adjustments", Books.adjust),
    ("POST", r"/v1/billing/meters", Books.create_meter),
    ("GET", r"/v1/billing/meters", Books.list_meters),
    ("GET", r"/v1/billing/meters/([^/]+)", Books.retrieve_meter),
    ("POST", r"/v1/billing/meters/([^/]+)", Books.update_meter),
    ("POST", r"/v1/billing/meters/([^/]+)/deactivate", Books.deactivate_meter),
    ("POST", r"/v1/billing/meters/([^/]+)/reactivate", Books.reactivate_meter),
    ("GET", r"/v1/billing/meters/([^/]+)/event_summaries", Books.summaries),
    ("POST", r"/v1/customers", Books.create_customer),
    ("GET", r"/v1/customers/([^/]+)", Books.retrieve_customer),
]


# ---- HTTP ----


class Listener:
    """Accepts on a port of 127.0.0.1 that it keeps while it is closed, so that it can open there again."""

    def __init__(self, port, handle):
        self.handle, self.sockets, self.lock = handle, set(), threading.Lock()
        self.place = self.bind(port)  # bound, never listening: connections are refused by it
        self.port = self.place.getsockname()[1]
        self.listening = None
        self.open()

    def bind(self, port):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
        return made

    def open(self):
        if self.listening is None:
            self.listening = self.bind(self.port)
            self.listening.listen(256)
            threading.Thread(target=self.accept, args=(self.listening,), daemon=True).start()

    def close(self):
        """Who is connected is cut off."""
        if self.listening is not None:
            with contextlib.suppress(OSError):
                self.listening.shutdown(socket.SHUT_RDWR)
            self.listening.close()
            self.listening = None
        with self.lock:
            for connection in self.sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def end(self):
        self.close()
        self.place.close()

    def accept(self, listening):
        while True:
            try:
                connection, address = listening.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection, address), daemon=True).start()

    def serve(self, connection, address):
        with self.lock:
            self.sockets.add(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                self.handle(connection, address)
        finally:
            with self.lock:
                self.sockets.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()


class Handler(http.server.BaseHTTPRequestHandler):
    """What both ports share."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves whole

    def __init__(self, stripe, connection, address):
        self.stripe = stripe
        super().__init__(connection, address, None)

    def log_message(self, *_):
        pass

    def read_body(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            raise ConnectionError("too long a body")
        return self.rfile.read(length).decode()

    def reply(self, status, value, headers=(), share=1.0):
        body = json.dumps(value, indent=2).encode() + b"\n"
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: int(len(body) * share)])
        self.wfile.flush()
        if share < 1:
            self.reset()

    def reset(self):
        """The other side sees a reset, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def do_GET(self):
        self.do()

    def do_POST(self):
        self.do()

    def do_DELETE(self):
        self.do()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()


class ApiHandler(Handler):
    def do(self):
        body = self.read_body()
        outage = self.stripe.outage
        if outage == "hang":
            self.stripe.up.wait()
            return self.reset()
        if outage == "unavailable":
            self.stripe.books.counters["unavailable"] += 1
            return self.reply(503, {"error": {"message": "Service unavailable", "type": "api_error"}})
        call = Call(self.stripe.books, self.command, self.path, self.headers, body)
        try:
            status, headers, value = call.answer()
        except Dropped:
            return self.reset()
        with self.stripe.books.lock:
            request_id = self.stripe.books.new_id("req")
        headers = {"Request-Id": request_id, "Stripe-Version": self.headers.get("Stripe-Version", "fake"), **headers}
        return self.reply(status, value, headers, share=0.5 if call.cut else 1.0)


class ControlHandler(Handler):
    def do(self):
        try:
            body = self.read_body()
            value = self.stripe.control(self.command, urllib.parse.urlsplit(self.path).path, json.loads(body or "{}"))
        except Refusal as refusal:
            return self.reply(refusal.status, {"error": refusal.error})
        except (KeyError, TypeError, ValueError) as error:
            return self.reply(400, {"error": f"{type(error).__name__}: {error}"})
        return self.reply(200, value)


class FakeStripe:
    """A running one."""

    def __init__(self, port=0, control_port=0, clock_offset_file=None, keys=None, seed=0):
        self.books = Books(Clock(clock_offset_file), keys, seed)
        self.outage, self.up, self.generation = None, threading.Event(), 0
        self.books.begin_outage = self.set_down
        self.api = Listener(port, lambda *connection: ApiHandler(self, *connection))
        self.controls = Listener(control_port, lambda *connection: ControlHandler(self, *connection))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.api.port}"

    @property
    def control_url(self):
        return f"http://127.0.0.1:{self.controls.port}"

    def stop(self):
        self.up.set()
        self.api.end()
        self.controls.end()

    # ---- outages ----

    def set_down(self, seconds=None, mode="refuse"):
        """Away for so many seconds of the real clock; None: until told. 0 = back."""
        if mode not in ("refuse", "hang", "unavailable"):
            raise ValueError(mode)
        with self.books.lock:
            self.generation += 1
            if seconds == 0:
                return self.set_up(self.generation)
            self.outage = mode
            self.up.clear()
            self.books.counters["outages"] += 1
            if mode == "refuse":
                self.api.close()
            if seconds is not None:
                timer = threading.Timer(seconds, self.set_up, (self.generation,))
                timer.daemon = True
                timer.start()

    def set_up(self, generation):
        with self.books.lock:
            if generation == self.generation:
                self.outage = None
                self.up.set()
                self.api.open()

    # ---- the control API ----

    def control(self, method, path, value):
        with self.books.lock:
            return self._control(f"{method} {path}", value)

    def _control(self, what, value):
        books = self.books
        if what == "GET /_control/state":
            return books.state()
        if what == "GET /_control/totals":
            return {"totals": books.totals()}
        if what == "GET /_control/error_reports":
            return {"reports": books.error_reports()}
        if what == "POST /_control/faults":
            fault = Fault(**value)
            if fault.kind not in FAULTS or (fault.count is None) == (fault.probability is None):
                raise ValueError("kind is one of FAULTS; either count or probability")
            books.faults.append(fault)
        elif what == "DELETE /_control/faults":
            left, books.faults = [dataclasses.asdict(fault) for fault in books.faults], []
            return {"left": left}
        elif what == "POST /_control/down":
            self.set_down(value.get("seconds"), value.get("mode", "refuse"))
        elif what == "POST /_control/customers":
            books.customers |= set(value.get("add", ()))
            books.customers -= set(value.get("remove", ()))
        elif what == "POST /_control/meters":
            form = {"display_name": value["event_name"], "default_aggregation[formula]": "sum", **value}
            return books.create_meter(Parameters(urllib.parse.urlencode(form)))
        elif what == "POST /_control/keys":
            books.keys = {str(key): str(account) for key, account in value.items()}
        elif what == "POST /_control/settings":
            books.settings = dataclasses.replace(books.settings, **value)
        elif what == "POST /_control/async_errors":
            event = next(each for each in books.events if each.identifier == value["identifier"])
            event.async_error = value["code"]
        else:
            raise Refusal(404, f"no such control: {what}")
        return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--clock-offset-file", default=os.environ.get("TOLLGATE_CLOCK_OFFSET_FILE"))
    parser.add_argument("--key", default="sk_test_fake")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keys = {options.key: "acct_fake"}
    with FakeStripe(options.port, options.control_port, options.clock_offset_file, keys, options.seed) as stripe:
        addresses = f"127.0.0.1:{stripe.api.port}, control on 127.0.0.1:{stripe.controls.port}"
        print(f"listening on {addresses}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                threading.Event().wait(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
