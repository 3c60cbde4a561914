"""The fake Stripe (tests/tools/fake_stripe.py) as a process, and everything a test wants to tell and ask it."""

import pathlib
import re
import subprocess
import sys
import time

import httpx

from . import paths
from .waiting import wait_until

PROGRAM = paths.ROOT / "tests/tools/fake_stripe.py"


class FakeStripe:
    """@customers and @meters (event names) are there from the beginning."""

    def __init__(self, directory, customers=(), meters=(), key="sk_test_fake", clock_offset_file=None, seed=0):
        self.key = key
        self.log_file = pathlib.Path(directory) / "stripe.log"
        arguments = [sys.executable, "-B", str(PROGRAM), "--key", key, "--seed", str(seed)]
        if clock_offset_file is not None:
            arguments += ["--clock-offset-file", str(clock_offset_file)]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            found = wait_until(self._listening, f"the fake Stripe: {self.log_file.read_text()}")
        except BaseException:
            self.stop()
            raise
        self.url, control_url = f"http://127.0.0.1:{found[1]}", f"http://127.0.0.1:{found[2]}"
        self.client = httpx.Client(base_url=control_url, timeout=10 * paths.SLOWNESS)
        if customers:
            self.add_customers(*customers)
        for event_name in meters:
            self.add_meter(event_name)

    def _listening(self):
        assert self.process.poll() is None, self.log_file.read_text()
        return re.search(
            r"listening on 127\.0\.0\.1:(\d+), control on 127\.0\.0\.1:(\d+)\n", self.log_file.read_text()
        )

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            if hasattr(self, "client"):
                self.client.close()

    def _control(self, method, what, value=None):
        answer = self.client.request(method, f"/_control/{what}", json=value)
        assert answer.status_code == 200, answer.text
        return answer.json()

    # ---- telling ----

    def add_customers(self, *customers):
        self._control("POST", "customers", {"add": customers})

    def add_meter(self, event_name, **more):
        return self._control("POST", "meters", {"event_name": event_name, **more})

    def set_keys(self, **accounts):
        """Which API keys there are, and whose."""
        self._control("POST", "keys", accounts)

    def set(self, **settings):
        self._control("POST", "settings", settings)

    def fault(self, kind, count=None, **more):
        """For the next @count calls (1), or with probability=p for all of them."""
        if "probability" not in more:
            more["count"] = 1 if count is None else count
        self._control("POST", "faults", {"kind": kind, **more})

    def clear_faults(self):
        """Those that were still there."""
        return self._control("DELETE", "faults")["left"]

    def down(self, seconds=None, mode="refuse"):
        """Until up() when @seconds are not given."""
        self._control("POST", "down", {"seconds": seconds, "mode": mode})

    def up(self):
        self._control("POST", "down", {"seconds": 0})

    def async_error(self, identifier, code):
        self._control("POST", "async_errors", {"identifier": identifier, "code": code})

    # ---- asking ----

    def state(self):
        return self._control("GET", "state")

    def events(self):
        return self.state()["events"]

    def calls(self, path="meter_events"):
        return [call for call in self.state()["calls"] if path in call["path"]]

    def counter(self, name):
        return self.state()["counters"].get(name, 0)

    def error_reports(self):
        return self._control("GET", "error_reports")["reports"]

    def totals(self):
        """{(customer, event name, UTC hour in seconds): value} of what is billed."""
        lines = self._control("GET", "totals")["totals"]
        return {(line["customer"], line["event_name"], line["hour"]): line["value"] for line in lines}

    def total(self, customer=None, event_name=None):
        return sum(
            value
            for (whose, what, _), value in self.totals().items()
            if customer in (None, whose) and event_name in (None, what)
        )


class Clock:
    """The wall clock of a test: a file with the milliseconds that the test build of the gateway and the fake Stripe add
    to the real one."""

    def __init__(self, directory, offset_s=0.0):
        self.file = pathlib.Path(directory) / "clock.offset"
        self.offset_ms = 0
        self.step(offset_s)

    def step(self, seconds):
        self.offset_ms += int(seconds * 1000)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{self.offset_ms}\n")
        fresh.rename(self.file)

    def now(self):
        return time.time() + self.offset_ms / 1000

    @property
    def environment(self):
        return {"TOLLGATE_CLOCK_OFFSET_FILE": str(self.file)}
