#!/usr/bin/env python3
"""Stripe's Billing Meters as far as a sender of usage can tell: it remembers, deduplicates, totals, and misbehaves when
asked to. Standard library only.

As a program:   fake_stripe.py [--port N] [--control-port N] [--clock-offset-file FILE] [--key KEY] [--seed N]
prints          listening on 127.0.0.1:<port>, control on 127.0.0.1:<port>
In a test:      with FakeStripe(…) as stripe: stripe.url, stripe.control_url; stripe.books for what it knows

The control API, JSON in and out, on a port of its own (the other one goes away in an outage):
  GET    /_control/state              every accepted event, counters, calls
  GET    /_control/totals             what is billed, by customer, event name and UTC hour
  POST   /_control/faults             {"kind": …, "count": N | "probability": p, …}: see FAULTS in fake_stripe_books.py
  DELETE /_control/faults             none from now on; returns those that were left
  POST   /_control/down               {"seconds": s | null = until told, "mode": "refuse"|"hang"|"unavailable"}; 0 = up
  POST   /_control/customers          {"add": [ids], "remove": [ids]}
  POST   /_control/meters             {"event_name": …, …}: as POST /v1/billing/meters
  POST   /_control/keys               {"<API key>": "<account>"}: instead of those that are known
  POST   /_control/settings           see Settings there
  POST   /_control/async_errors       {"identifier": …, "code": …}: an accepted event turns out to be of no use
  GET    /_control/error_reports      what Stripe would tell a webhook about those
"""

import argparse
import contextlib
import dataclasses
import http.server
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse

from fake_stripe_books import (
    FAULTS,
    KEY_CHARACTERS_MAX,
    KEY_WINDOW_S,
    Books,
    Clock,
    Fault,
    Parameters,
    Refusal,
    Stored,
    invalid,
    locked,
    rate_limited,
    server_error,
    unauthorized,
)

BODY_BYTES_MAX = 1 << 20

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
        self.cut_off = books.cut_off
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
            self.cut_off.wait(late.seconds)
        if never:
            self.cut_off.wait(never.seconds)
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
            self.cut_off.wait(late.seconds)


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
                self.books.cut_off.set()  # whoever waits for a late answer is gone
                self.books.cut_off = threading.Event()
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
