"""From a request to Stripe, once: a real gateway with its private Redis, a scripted engine, and the fake Stripe that
fails in every way before and after it has taken an event."""

import calendar
import collections
import json
import random
import re
import shutil
import subprocess
import time

import pytest
from support import paths, processes
from support.engine import ScriptedEngine
from support.gateway import Gateway, Key
from support.stripe import Clock, FakeStripe
from support.waiting import wait_until

HOUR_S = 3600
MEASURES = ("input_tokens", "output_tokens", "requests")
STRIPE_KEY, NEXT_STRIPE_KEY = "sk_test_canary_first_0123456789", "sk_test_canary_next_0123456789"


class Shop:
    """A gateway that sells, the engine behind it, and the provider of its invoices; and what was sold."""

    def __init__(self, directory, clock=None, meters=MEASURES, **billing):
        self.directory, self.clock = directory, clock
        directory.mkdir(parents=True, exist_ok=True)
        self.sold = collections.Counter()  # (customer, event name, UTC hour): what clients were told
        self.closed = {}  # by request id: the journals' CLOSEs that were seen
        self.keys = {name: Key(f"test-key-of-{name}") for name in ("acme", "globex", "nobody")}
        self.customers = {"acme": "cus_acme", "globex": "cus_globex"}
        self.sells_other = False  # whether there are meters for the other model
        self.meters = list(meters)
        self.key_file = directory / "stripe.key"
        self.write_key(STRIPE_KEY)
        self.engine = self.stripe = self.gateway = None
        self.billing = {"epoch": "1s", **billing}
        try:
            self.engine = ScriptedEngine(directory, "engine", model="m")
            offset_file = clock.file if clock else None
            customers = ("cus_acme", "cus_globex")
            self.stripe = FakeStripe(directory, customers, meters, key=STRIPE_KEY, clock_offset_file=offset_file)
            self.gateway = Gateway(
                directory / "g",
                self.config(),
                key=self.keys["acme"],
                environment=clock.environment if clock else None,
                binary=paths.TOLLGATE_TEST_CLOCK if clock else paths.TOLLGATE,
            )
        except BaseException:
            self.end()
            raise

    def end(self):
        try:
            if self.gateway is not None:
                self.gateway.stop()
        finally:
            for each in (self.gateway and self.gateway.end_now, self.stripe and self.stripe.stop):
                if each:
                    each()
            if self.engine is not None:
                self.engine.stop()

    # ---- the configuration ----

    def write_key(self, key):
        fresh = self.key_file.with_suffix(".new")
        fresh.write_text(key + "\n")
        fresh.chmod(0o600)
        fresh.rename(self.key_file)

    def config(self):
        meters = [{"event_name": name, "measure": name, "models": ["m"]} for name in self.meters]
        if self.sells_other:
            meters += [{"event_name": f"other_{name}", "measure": name, "models": ["other"]} for name in MEASURES]
        tenants = {}
        for name, key in self.keys.items():
            customer = {"customer": self.customers[name]} if name in self.customers else {}
            tenants[name] = {**customer, "keys": {"ci": key.yaml()}}
        stripe = {"api_key_file": str(self.key_file), "api_base": self.stripe.url, "meters": meters}
        return {
            "workers": 2,
            "models": {name: {"engine_model": "m", "engines": [self.engine.yaml()]} for name in ("m", "other")},
            "tenants": tenants,
            "billing": {**self.billing, "providers": [{"stripe": stripe}]},
        }

    def reload(self):
        self.gateway.write_config(self.config())
        self.gateway.reload_and_wait()

    # ---- selling ----

    def sell(self, tenant="acme", tokens=3, model="m"):
        """One answer; what it costs is remembered under the hour in which it was asked for."""
        hour = int(self.clock.now() if self.clock else time.time()) // HOUR_S * HOUR_S
        answer = self.gateway.chat(model, f"[[tokens={tokens}]] hello", key=self.keys[tenant])
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        customer, prefix = f"cus_{tenant}", "" if model == "m" else f"{model}_"
        counts = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"], "requests": 1}
        for name, count in counts.items():
            if model != "m" or name in self.meters:
                self.sold[(customer, prefix + name, hour)] += count

    # ---- what became of it ----

    def usage(self):
        answer = self.gateway.admin("/admin/v1/usage")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rows(self):
        """{state: how many}"""
        return self.of_provider("rows") or dict.fromkeys(("pending", "sent", "acked", "duplicate"), -1)

    def waiting(self):
        """The rows that wait for a person."""
        return self.of_provider("waiting") or []

    def of_provider(self, what):
        """None before the gateway's billing thread has looked."""
        providers = self.usage()["providers"]
        return providers[0][what] if providers else None

    def everything_is_told(self):
        """All that was sold is at the provider, and the gateway knows it."""
        if self.stripe.totals() != dict(self.sold):
            return False
        rows = self.rows()
        return rows["pending"] == rows["sent"] == 0 and rows["acked"] + rows["duplicate"] == len(self.stripe.events())

    def wait_told(self, seconds=20.0):
        try:
            wait_until(self.everything_is_told, "all that was sold to be at the provider", seconds, pause=0.1)
        except AssertionError as failure:
            raise AssertionError(f"{failure}: {self.difference()}") from None
        assert self.stripe.state()["identifiers_taken_twice"] == []

    def wait_told_later(self):
        """The same for what is asked for first."""
        deadline = time.monotonic() + 60 * paths.SLOWNESS
        while not self.everything_is_told():
            assert time.monotonic() < deadline, self.difference()
            self.clock.step(61)  # so long nothing may be sent before a total is believed
            time.sleep(0.5)

    def difference(self):
        told = self.stripe.totals()
        lines = [
            f"{key}: sold {self.sold.get(key, 0)}, told {told.get(key, 0)}"
            for key in sorted(set(told) | set(self.sold))
            if told.get(key, 0) != self.sold.get(key, 0)
        ]
        return f"{lines}; {json.dumps(self.usage())}"

    def wait_for_person(self, count, seconds=10.0):
        wait_until(lambda: len(self.waiting()) >= count, f"{count} rows to wait for a person", seconds, pause=0.1)
        return self.waiting()

    def command(self, *words):
        """A command line of the same binary in the same time."""
        return subprocess.run(
            [self.gateway.binary, *words],
            cwd=self.gateway.directory,
            env=self.gateway.environment,
            capture_output=True,
            text=True,
            timeout=60 * paths.SLOWNESS,
        )

    def change(self, verb, row):
        done = self.command("billing", verb, row)
        assert done.returncode == 0, (verb, row, done.stdout, done.stderr)

    def kill_gateway(self):
        """kill -9, and wait for the next one."""
        pid = self.gateway.gateway_pid()
        processes.kill_quietly(pid)
        wait_until(lambda: self.gateway.gateway_pid() not in (None, pid), "another gateway process")
        self.gateway.wait_ready()

    def wait_seen_time(self):
        """The states of rows know what time it is: else a gateway that dies finds them as old as a backup."""

        def knows():
            told = re.findall(r'"alive":(\d+)', (self.gateway.directory / "state/billing/stripe.states").read_text())
            return told and int(told[-1]) / 1000 > self.clock.now() - 15 * 60

        wait_until(knows, "the states to know the time")

    def stop_gateway(self):
        self.gateway.terminate()
        assert self.gateway.wait_end() == 0

    def redis_pid(self):
        for pid in processes.descendants(self.gateway.master_pid):
            if any(b"redis" in word for word in processes.command_line(pid)[:1]):
                return pid
        return None

    def wipe_redis(self):
        """kill -9, and its data with it."""
        pid = wait_until(self.redis_pid, "the private redis-server")
        data = self.gateway.directory / "state/redis"
        processes.kill_quietly(pid)
        for each in data.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        wait_until(lambda: self.redis_pid() not in (None, pid), "another redis-server")
        return pid

    def read_journals(self):
        """What the journals have now: they go when all is told, so this is to be asked for before that."""
        while True:
            done = self.command("journal", "dump", "--json", "state/journal")
            if done.returncode == 0:
                break
            assert "No such file" in done.stderr, done.stderr  # one went meanwhile
        for line in map(json.loads, done.stdout.splitlines()):
            if line["type"] == "CLOSE":
                self.closed[line["request_id"]] = line

    def closed_sums(self):
        """{(customer, event name, UTC hour): Σ of the journals' billed CLOSEs}"""
        found = collections.Counter()
        for line in self.closed.values():
            if line["billed"]:
                hour = calendar.timegm(time.strptime(line["when"][:13], "%Y-%m-%dT%H"))
                for name, count in (*((name, line[name]) for name in MEASURES[:2]), ("requests", 1)):
                    found[(f"cus_{line['tenant']}", name, hour)] += count
        return found


@pytest.fixture(scope="module")
def shop(shared_directory):
    """One for all tests that leave it as it was: nothing waits, nothing is broken."""
    made = Shop(shared_directory / "shop")
    yield made
    made.end()


@pytest.fixture
def make_shop(directory, gateways):
    made = []

    def make(**options):
        made.append(Shop(directory / f"s{len(made)}", **options))
        gateways.append(made[-1].gateway)
        return made[-1]

    yield make
    for each in made:
        each.end()


# ---- nothing fails ----


def test_what_was_sold_is_told_once(shop):
    for tenant in ("acme", "globex", "acme"):
        shop.sell(tenant)
    shop.wait_told()
    state = shop.stripe.state()
    assert state["counters"].get("duplicates", 0) == 0 and state["counters"].get("lock_timeouts", 0) == 0
    assert all(event["identifier"].startswith("tg1-") for event in state["events"])
    assert shop.rows()["acked"] == len(state["events"])


# ---- the provider fails, and the answer is that it fails ----


@pytest.mark.parametrize(
    "kind", ["drop_before", "drop_after", "cut_after", "error_before", "error_after", "rate_limit", "lock_timeout"]
)
def test_every_fault_ends_in_once(shop, kind):
    before = shop.stripe.counter(f"fault_{kind}")
    shop.stripe.fault(kind, count=2)
    shop.sell("acme")
    shop.sell("globex")
    shop.wait_told()
    assert shop.stripe.counter(f"fault_{kind}") == before + 2 and shop.stripe.clear_faults() == []


@pytest.mark.parametrize("mode", ["refuse", "unavailable"])
def test_an_outage_ends_in_once(shop, mode):
    shop.stripe.down(mode=mode)
    shop.sell("acme")
    wait_until(lambda: shop.rows()["pending"] + shop.rows()["sent"] >= 3, "rows that cannot go")
    shop.stripe.up()
    shop.sell("globex")
    shop.wait_told()


def test_one_call_at_a_time_for_a_customer_and_meter(shop):
    """While the rows of an epoch wait for a slow answer, those of the next do not go."""
    before, calls = shop.stripe.counter("lock_timeouts"), len(shop.stripe.calls())
    shop.stripe.fault("delay", count=3, seconds=3)
    shop.sell("acme")
    wait_until(lambda: len(shop.stripe.calls()) == calls + 3, "the first calls")
    shop.sell("acme")
    shop.wait_told()
    assert shop.stripe.counter("lock_timeouts") == before and shop.stripe.clear_faults() == []


def test_retry_after_is_kept(shop):
    before = len(shop.stripe.calls())
    shop.stripe.fault("rate_limit", retry_after=3)
    shop.sell("acme")
    shop.wait_told()
    calls = shop.stripe.calls()[before:]
    (refused,) = (call for call in calls if call["outcome"] == 429)
    key = refused["idempotency_key"]
    again = next(call for call in calls if call["idempotency_key"] == key and call["outcome"] == 200)
    assert again["mono_ms"] >= refused["mono_ms"] + 2900


def test_a_revoked_key_stops_everything_until_it_is_replaced(make_shop):
    shop = make_shop(meters=["output_tokens"])
    shop.stripe.set_keys(**{NEXT_STRIPE_KEY: "acct_fake"})
    shop.sell("acme")
    wait_until(lambda: shop.stripe.counter("unauthorized") == 1, "a call with the old key")
    for _ in range(3):
        shop.sell("acme")
        shop.sell("globex")
    wait_until(lambda: shop.rows()["pending"] >= 2, "rows that wait")
    time.sleep(1.5)
    assert len(shop.stripe.calls()) == 1  # nothing goes; the next probe is half a minute away
    assert STRIPE_KEY not in json.dumps(shop.usage()) and STRIPE_KEY not in shop.gateway.log_text()
    shop.write_key(NEXT_STRIPE_KEY)
    shop.reload()
    shop.wait_told()


# ---- something is missing ----


def test_a_customer_that_the_provider_does_not_know(make_shop):
    shop = make_shop(meters=["output_tokens"])
    shop.stripe.set(rejected_is_known=True)
    shop.customers["acme"] = "cus_typo"
    shop.reload()
    shop.sell("acme")
    shop.sell("globex")
    (row,) = shop.wait_for_person(1)
    assert (row["state"], row["tenant"], row["meter"]) == ("rejected", "acme", "output_tokens")
    assert "No such customer: 'cus_typo'" in row["reason"]
    shop.customers["acme"] = "cus_acme"
    shop.reload()
    time.sleep(1)
    assert shop.stripe.total("cus_acme") == 0  # a person says so
    shop.change("retry", row["row"])
    shop.wait_told()
    assert shop.waiting() == []


def test_a_tenant_without_customer_is_held(make_shop):
    shop = make_shop(meters=["output_tokens"])
    shop.sell("nobody")
    (row,) = shop.wait_for_person(1)
    assert (row["state"], row["tenant"]) == ("held", "nobody") and "customer" in row["reason"]
    again = shop.command("billing", "release", row["row"])
    assert again.returncode == 1 and "customer" in again.stdout + again.stderr
    assert shop.stripe.calls() == []
    shop.customers["nobody"] = "cus_nobody"
    shop.stripe.add_customers("cus_nobody")
    shop.reload()
    shop.change("release", row["row"])
    shop.wait_told()


def test_a_model_without_meter_is_held(make_shop):
    shop = make_shop(meters=["output_tokens"])
    shop.sell("acme", model="other")
    rows = shop.wait_for_person(3)
    assert {row["meter"] for row in rows} == {f"{measure}/other" for measure in MEASURES}
    assert {row["state"] for row in rows} == {"held"} and all("meter" in row["reason"] for row in rows)
    shop.sells_other = True
    for measure in MEASURES:
        shop.stripe.add_meter(f"other_{measure}")
    shop.reload()
    for row in rows:
        shop.change("release", row["row"])
    shop.wait_told()


# ---- the gateway dies ----


def test_killed_between_send_and_answer(make_shop):
    """On the way to the provider, on the way back, and at a random moment around them."""
    shop = make_shop()
    shop.stripe.set(latency_ms=400)
    shop.sell("acme")
    wait_until(shop.stripe.calls, "a call", pause=0.005)
    shop.kill_gateway()
    wait_until(lambda: shop.stripe.total() == sum(shop.sold.values()), "it to be taken, though nobody waits for it")

    shop.stripe.set(latency_ms=0)
    shop.stripe.fault("delay", count=3, seconds=1)
    shop.sell("globex")
    wait_until(lambda: shop.stripe.total() == sum(shop.sold.values()), "it to be taken", pause=0.005)
    shop.kill_gateway()

    shop.stripe.set(latency_ms=120)
    shop.sell("acme")
    time.sleep(random.uniform(0, 1.5))
    shop.kill_gateway()
    shop.stripe.set(latency_ms=0)
    shop.wait_told()


# ---- a day without the provider ----


def test_a_day_without_the_provider(make_shop, directory):
    """25 hours; Redis wiped and the gateway killed meanwhile. The answers to the first rows were lost: the provider has
    some of them, and has forgotten their identifiers when it is back."""
    clock = Clock(directory)
    clock.step(HOUR_S - clock.now() % HOUR_S + 20 * 60)  # away from the ends of hours, whatever the real time is
    shop = make_shop(clock=clock)
    shop.stripe.set(lag_s=30)
    shop.sell("acme")
    shop.wait_told()  # one hour begins with what was acknowledged
    shop.read_journals()

    shop.stripe.fault("delay", count=3, seconds=120)
    shop.sell("acme", tokens=5)
    wait_until(lambda: shop.stripe.total() == sum(shop.sold.values()), "rows that are taken, without an answer")
    taken, calls = shop.stripe.total(), len(shop.stripe.calls())
    shop.stripe.fault("hang_before", count=3, seconds=120)
    shop.sell("globex", tokens=7)
    wait_until(lambda: len(shop.stripe.calls()) == calls + 3, "rows that are not taken, without an answer")
    shop.stripe.down()
    wait_until(lambda: shop.rows()["sent"] == 6, "the gateway to know neither")

    for hour in range(25):
        for tenant in ("acme", "globex")[: 1 + hour % 2]:
            shop.sell(tenant, tokens=2 + hour % 5)
        if hour == 9:
            shop.wipe_redis()
        if hour in (12, 24):
            shop.wait_seen_time()
            shop.kill_gateway()
        shop.read_journals()
        clock.step(HOUR_S)
    assert shop.stripe.total() == taken
    shop.stripe.up()

    shop.wait_told_later()
    state = shop.stripe.state()
    assert state["identifiers_taken_twice"] == [] and "accepted_again" not in state["counters"]
    assert shop.stripe.totals() == shop.sold == shop.closed_sums()
    assert shop.waiting() == []
    assert len(shop.stripe.calls("event_summaries")) >= 6  # the rows without an answer were asked for

    clock.step(61)  # the summaries lag
    done = shop.command("usage", "reconcile")
    assert done.returncode == 0 and "all agree" in done.stdout, done.stdout + done.stderr
    lost = state["events"][-1]
    shop.stripe.async_error(lost["identifier"], "meter_event_customer_not_found")
    done = shop.command("usage", "reconcile", "--json")
    assert done.returncode == 1 and lost["event_name"] in done.stdout, done.stdout + done.stderr


# ---- what the gateway knew is lost ----


@pytest.mark.parametrize("down_s", [0, 4.5 * HOUR_S])
def test_an_old_backup_of_what_was_delivered_sells_nothing_twice(make_shop, directory, down_s):
    """It comes back 25 hours later: the provider has taken what is pending in it, and what it does not know of, and has
    forgotten the identifiers of both. Rows that the provider still knew then are too old when it is back."""
    clock = Clock(directory)
    clock.step(HOUR_S - clock.now() % HOUR_S + 20 * 60)
    shop = make_shop(clock=clock)
    shop.sell("acme")
    shop.wait_told()
    shop.stripe.down()
    shop.sell("globex")
    wait_until(lambda: shop.rows()["pending"] + shop.rows()["sent"] == 3, "rows that wait")
    shop.stop_gateway()
    backup = shutil.copytree(shop.gateway.directory / "state/billing", directory / "backup")
    shop.stripe.up()
    shop.gateway.start()
    shop.wait_told()
    for tokens in range(2, 7):
        shop.sell("acme", tokens=tokens)
        shop.wait_told()
        clock.step(5 * HOUR_S)
    shop.stop_gateway()
    shutil.rmtree(shop.gateway.directory / "state/billing")
    shutil.copytree(backup, shop.gateway.directory / "state/billing")
    if down_s:
        shop.stripe.down()
    shop.gateway.start()
    if down_s:
        wait_until(lambda: sum(shop.rows().values()) >= 21, "the rows to be made again")
        clock.step(down_s)
        shop.stripe.up()
    shop.sell("globex")
    shop.wait_told_later()
    state = shop.stripe.state()
    assert state["identifiers_taken_twice"] == [] and "accepted_again" not in state["counters"]
    assert shop.waiting() == []
