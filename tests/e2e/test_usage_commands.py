"""`tollgate usage status|export|reconcile` and `billing … --dry-run` at a gateway that sells to Stripe and into files:
figures are the engine's, exports are the same bytes, and whatever is changed behind the gateway's back is found."""

import collections
import csv
import hashlib
import json
import re
import shutil
import subprocess
import time
import urllib.parse

import httpx
import pytest
import yaml
from support import paths
from support.engine import ScriptedEngine
from support.gateway import Gateway, Key
from support.redis import Redis
from support.stripe import Clock, FakeStripe
from support.waiting import wait_until

HOUR = 3600
MEASURES = ("input_tokens", "output_tokens", "requests")
SECRET = "sk_test_canary_0123456789"


class House:
    """A gateway with both providers in a time of its own, at ten minutes past an hour; and what it sold."""

    def __init__(self, directory, models=("*",)):
        """Stripe's meters take @models."""
        self.meters = [{"event_name": name, "measure": name, "models": list(models)} for name in MEASURES]
        self.directory = directory / "house"
        self.directory.mkdir()
        self.clock = Clock(self.directory, HOUR - time.time() % HOUR + 600)
        self.hour = int(self.clock.now()) // HOUR * HOUR
        (self.directory / "later").mkdir()
        (self.directory / "week").mkdir()
        self.later = Clock(self.directory / "later", self.clock.offset_ms / 1000 + HOUR)
        self.next_week = Clock(self.directory / "week", self.clock.offset_ms / 1000 + 7 * 24 * HOUR + 2 * HOUR)
        self.keys = {name: Key(f"test-key-of-{name}") for name in ("acme", "globex", "nobody")}
        self.customers = {"acme": "cus_acme", "globex": "cus_globex"}
        self.sold = collections.Counter()  # (tenant, measure)
        self.key_file = self.directory / "stripe.key"
        self.key_file.write_text(SECRET + "\n")
        self.key_file.chmod(0o600)
        self.engine = self.stripe = self.gateway = None
        try:
            self.engine = ScriptedEngine(self.directory, "engine", model="m")
            self.stripe = FakeStripe(
                self.directory, ["cus_acme", "cus_globex"], MEASURES, key=SECRET, clock_offset_file=self.clock.file
            )
            self.gateway = Gateway(
                self.directory / "g",
                self.config(),
                key=self.keys["acme"],
                environment=self.clock.environment,
                binary=paths.TOLLGATE_TEST_CLOCK,
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

    def config(self):
        stripe = {"api_key_file": str(self.key_file), "api_base": self.stripe.url, "meters": self.meters}
        price = {"currency": "EUR", "input": "1", "output": "2"}
        tenants = {name: {"keys": {"ci": key.yaml()}} for name, key in self.keys.items()}
        for name, customer in self.customers.items():
            tenants[name]["customer"] = customer
        return {
            "workers": 2,
            "models": {"m": {"price": price, "engines": [self.engine.yaml()]}},
            "tenants": tenants,
            "billing": {"epoch": "1s", "providers": [{"file": {"dir": "usage"}}, {"stripe": stripe}]},
        }

    def reload(self):
        self.gateway.write_config(self.config())
        self.gateway.reload_and_wait()

    def sell(self, tenant="acme", tokens=3):
        answer = self.gateway.chat("m", f"[[tokens={tokens}]] hello", key=self.keys[tenant])
        assert answer.status_code == 200, answer.text
        self.count(tenant, answer.json()["usage"])

    def count(self, tenant, usage):
        counts = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"], "requests": 1}
        for measure, count in counts.items():
            self.sold[tenant, measure] += count

    def command(self, *words, code=0, file=None, later=False, clock=None):
        """In the house's time, an hour later, or in that of @clock."""
        done = subprocess.run(
            [str(paths.TOLLGATE_TEST_CLOCK), *words, "--config", str(file or self.gateway.file)],
            cwd=self.directory,
            env={**self.gateway.environment, **(clock or (self.later if later else self.clock)).environment},
            capture_output=True,
            text=True,
            timeout=60 * paths.SLOWNESS,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert SECRET not in done.stdout + done.stderr
        return done

    def json(self, *words, **more):
        return json.loads(self.command(*words, "--json", **more).stdout)

    def status(self):
        return {each["provider"]: each for each in self.json("usage", "status")["providers"]}

    def is_delivered(self):
        status = self.status()
        if set(status) != {"file", "stripe"}:
            return False
        rows, files = status["stripe"]["rows"], status["file"]["rows"]
        total = sum(count for (tenant, _), count in self.sold.items() if tenant != "nobody")
        events = self.stripe.events()
        return (
            files["pending"] == rows["pending"] == rows["sent"] == 0
            and files["acked"] == sum(rows.values())
            and rows["acked"] + rows["duplicate"] == len(events)
            and sum(event["value"] for event in events) == total
        )

    def wait_delivered(self):
        wait_until(self.is_delivered, "all that was sold to be delivered", 20, pause=0.1)

    def total(self, measure):
        return sum(count for (_, each), count in self.sold.items() if each == measure)

    @property
    def window(self):
        return ["--from", self.text(self.hour), "--to", self.text(self.hour + HOUR)]

    @staticmethod
    def text(seconds):
        return time.strftime("%Y-%m-%dT%H", time.gmtime(seconds))


@pytest.fixture(scope="module")
def house(shared_directory):
    made = House(shared_directory)
    for tenant in ("acme", "globex", "acme", "nobody"):
        made.sell(tenant)
    made.wait_delivered()
    yield made
    made.end()


@pytest.fixture
def copy(house, directory):
    """The configuration of a copy of the state, with the running Redis: to be tampered with."""
    shutil.copytree(house.gateway.directory / "state", directory / "state")
    shutil.copytree(house.gateway.directory / "usage", directory / "usage")
    config = yaml.safe_load(house.gateway.file.read_text())
    config["redis"] = {"url": f"unix:{house.gateway.directory}/run/redis.sock"}
    config["state_dir"] = str(directory / "state")
    config["admin"]["token_file"] = str(house.gateway.token_file)
    file = directory / "copy.yaml"
    file.write_text(yaml.dump(config))
    return file


# ---- status ----


def test_status_says_what_waits_and_what_lets_it_go(house):
    status = house.status()
    assert status["file"]["rows"]["acked"] >= 9 and status["file"]["waiting"] == []
    waiting = status["stripe"]["waiting"]
    assert {row["meter"] for row in waiting} == set(MEASURES) and {row["tenant"] for row in waiting} == {"nobody"}
    assert sum(row["quantity"] for row in waiting) == sum(
        count for (tenant, _), count in house.sold.items() if tenant == "nobody"
    )
    text = house.command("usage", "status").stdout
    head = r"^stripe\n  pending  0 rows, 0 more sent without an answer\n  taken    \d+ rows, the last at \S+Z\n"
    assert re.search(head, text, re.M)
    assert "waiting for you: 3 held, 0 rejected" in text
    for row in waiting:
        assert f"  held     {row['row']}\n" in text and f"tollgate billing release {row['row']}\n" in text
    assert "the tenant nobody has no customer" in text


def test_status_without_a_gateway_reads_the_files(house, copy):
    config = copy.read_text().replace(f"127.0.0.1:{house.gateway.admin_port}", "127.0.0.1:1")
    copy.write_text(config)
    done = house.command("usage", "status", "--json", file=copy)
    told = json.loads(done.stdout)
    assert "no gateway answers" in done.stderr and told["running"] is False
    assert {each["provider"]: each for each in told["providers"]} == house.status()
    assert told["epochs_without_rows"] == {"file": 0, "stripe": 0}
    assert len(house.status()["stripe"]["waiting"]) == 3
    text = house.command("usage", "status", file=copy).stdout
    assert text.startswith("file\n") and text in house.command("usage", "status").stdout


def without_gateway(house, copy):
    copy.write_text(copy.read_text().replace(f"127.0.0.1:{house.gateway.admin_port}", "127.0.0.1:1"))


def test_states_that_are_gone_are_said_by_whoever_reads_them(house, copy, directory):
    without_gateway(house, copy)
    (directory / "state/billing/stripe.states").unlink()
    commands = (["usage", "status"], ["usage", "reconcile"], ["billing", "retry", "--dry-run"])
    for words in commands:
        done = house.command(*words, code=1, file=copy)
        assert "billing/stripe.states in state_dir is gone: restore it from a backup" in done.stderr
    shutil.rmtree(directory / "state/billing")
    for words in commands:
        done = house.command(*words, code=1, file=copy)
        assert f"{directory}/state/billing is gone, and {directory}/state/ledger is there" in done.stderr


def test_epochs_without_rows_are_counted(house, copy, directory):
    without_gateway(house, copy)
    file = sorted((directory / "state/ledger").iterdir())[-1]
    text = file.read_text()
    writer, epoch = file.stem.split("-")
    file.with_name(f"{writer}-{int(epoch) + 1:08}.jsonl").write_text(
        text.replace(f'"epoch":{int(epoch)}', f'"epoch":{int(epoch) + 1}', 1)
    )
    done = house.command("usage", "status", file=copy)
    assert done.stdout.count("           and 1 epoch is not rows yet\n") == 2, done.stdout
    assert house.json("usage", "status", file=copy)["epochs_without_rows"] == {"file": 1, "stripe": 1}
    assert "2 epochs are not rows yet" in house.command("billing", "retry", "--dry-run", file=copy).stdout


def test_every_row_that_waits_is_listed(directory):
    house = House(directory)
    try:
        for _ in range(8):
            house.sell("nobody")
            time.sleep(1.1)  # another epoch
        wait_until(lambda: house.status()["stripe"]["rows"]["held"] >= 24, "all rows to be held", 20)
        stripe = house.status()["stripe"]
        text = house.command("usage", "status").stdout
        told = house.gateway.admin("/admin/v1/usage").json()["providers"][1]
        house.gateway.stop()
        assert {each["provider"]: each for each in house.json("usage", "status")["providers"]}["stripe"] == stripe
    finally:
        house.end()
    waiting = stripe["waiting"]
    assert len(waiting) == len({row["row"] for row in waiting}) == stripe["rows"]["held"] == stripe["waiting_total"]
    assert [row["ended"] for row in waiting] == sorted(row["ended"] for row in waiting)
    assert told["waiting"] == waiting[:20] and told["waiting_total"] == len(waiting)
    assert f"  and {len(waiting) - 20} more: `tollgate usage status --json` lists all\n" in text


# ---- what would be sent ----


def three_that_cannot_go(house):
    shown = house.json("billing", "retry", "--dry-run")
    return shown if [each["provider"] for each in shown] == ["stripe"] * 3 else None


def test_a_dry_run_shows_the_very_request_that_goes(house):
    assert house.json("billing", "retry", "--dry-run") == []
    house.stripe.down()
    try:
        house.sell("acme")
        shown = wait_until(lambda: three_that_cannot_go(house), "three rows that cannot go")
        text = house.command("billing", "retry", "--dry-run", shown[0]["row"]).stdout
    finally:
        house.stripe.up()
    assert all(each["method"] == "POST" and each["state"] in ("pending", "sent") for each in shown)
    assert {each["url"] for each in shown} == {f"{house.stripe.url}/v1/billing/meter_events"}
    assert shown[0]["body"] in text and f"Idempotency-Key: {shown[0]['idempotency_key']}" in text
    house.wait_delivered()
    events = {event["identifier"]: event for event in house.stripe.events()}
    for each in shown:
        form = dict(urllib.parse.parse_qsl(each["body"]))
        event = events[form["identifier"]]
        assert each["row"] == form["identifier"] == each["idempotency_key"]
        assert (event["event_name"], event["customer"]) == (form["event_name"], form["payload[stripe_customer_id]"])
        assert event["value"] == int(form["payload[value]"]) == each["quantity"]
    delivered = house.json("billing", "retry", shown[0]["row"], "--dry-run")[0]
    assert delivered["method"] is None and delivered["nothing_because"] == "it is delivered"


def test_a_dry_run_of_a_held_row_says_what_is_missing(house):
    row = house.status()["stripe"]["waiting"][0]["row"]
    (shown,) = house.json("billing", "release", row, "--dry-run")
    assert shown["method"] is None and "has no customer" in shown["nothing_because"]
    assert "no row is called" in house.command("billing", "retry", "tg1-" + "a" * 40, "--dry-run", code=1).stderr


def test_a_dry_run_promises_nothing_that_release_refuses(directory):
    house = House(directory, models=["another"])
    try:
        house.sell()
        wait_until(lambda: len(house.status()["stripe"]["waiting"]) == 3, "three rows that no meter takes", 20)
        (row,) = [each["row"] for each in house.status()["stripe"]["waiting"] if each["meter"] == "output_tokens/m"]
        words = ["billing", "release", row]
        few = {"event_name": "output_tokens", "measure": "output_tokens"}
        for meters, why in ([house.meters, "no meter takes"], [[few, {**few, "event_name": "requests"}], "both take"]):
            house.meters = meters
            house.reload()
            (shown,) = house.json(*words, "--dry-run")
            assert shown["method"] is None and why in shown["nothing_because"]
            assert shown["nothing_because"] in house.command(*words, code=1).stderr
        house.meters = [few]
        house.reload()
        (shown,) = house.json(*words, "--dry-run")
        house.command(*words)
        (event,) = wait_until(house.stripe.events, "the row at Stripe", 20)
    finally:
        house.end()
    form = dict(urllib.parse.parse_qsl(shown["body"]))
    assert (event["event_name"], event["identifier"]) == (form["event_name"], form["identifier"])
    assert event["event_name"] == "output_tokens" and event["value"] == shown["quantity"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["retry"], "which row?"),
        (["release", "--dry-run"], "which row?"),
        (["hold", "tg1-x"], "is no row"),
        (["retry", "a", "b"], 'unexpected argument "b"'),
        (["release", "tg1-" + "a" * 40, "--delivered", "--dry-run"], "--delivered sends nothing"),
    ],
)
def test_wrong_rows_are_usage_errors(house, words, message):
    assert message in house.command("billing", *words, code=2).stderr


def test_a_row_that_is_not_there_is_said(house):
    assert "no row has this id" in house.command("billing", "hold", "tg1-" + "a" * 40, code=1).stderr


# ---- export ----


@pytest.mark.parametrize(
    "words, message",
    [
        (["--to", "2026-11-22"], "--from is missing"),
        (["--from", "2026-11-22"], "--to is missing"),
        (["--from", "yesterday", "--to", "2026-11-22"], "write 2026-11-22, 2026-11-22T16 or"),
        (["--from", "2026-11-22T16:30:00Z", "--to", "2026-11-23"], "write 2026-11-22T16 or 2026-11-22T17"),
        (["--from", "2026-11-22T16:30", "--to", "2026-11-23"], "write 2026-11-22T16 or 2026-11-22T17"),
        (["--from", "2026-11-22T16:00", "--to", "2026-11-22T16"], "--from must be before --to"),
        (["--from", "2026-11-22T16:00:00+05:30", "--to", "2026-11-23"], "write 2026-11-22T10 or 2026-11-22T11"),
        (["--from", "2026-11-22", "--to", "2026-11-22"], "--from must be before --to"),
        (["--from", "2026-11-22", "--to", "2026-11-23", "--format", "xml"], "csv or jsonl"),
        (["--from", "2026-11-22", "--to", "2026-11-23", "--format", "csv", "--group-by", "hours"], '"hour"'),
        (["--from", "2026-11-22", "--to", "2026-11-23", "--format", "csv", "--group-by", ""], "--group-by needs"),
    ],
)
def test_wrong_windows_are_usage_errors_that_say_what_to_write(house, words, message):
    assert message in house.command("usage", "export", *words, code=2).stderr


def export(house, out, *words, **more):
    """(manifest, rows) of one export; with the checks that hold for all."""
    told = house.json("usage", "export", *house.window, "--out", str(out), *words, **more)
    file = out / told["file"]
    content = file.read_bytes()
    manifest = json.loads((out / (told["file"] + ".manifest.json")).read_text())
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert {name: told[name] for name in manifest} == manifest
    if file.suffix == ".csv":
        rows = list(csv.DictReader(content.decode().splitlines()))
    else:
        rows = [json.loads(line) for line in content.decode().splitlines()]
    for measure in MEASURES:
        assert sum(int(row[measure]) for row in rows) == manifest["sums"][measure] == house.total(measure)
    return manifest, rows


def test_an_hour_that_is_not_over_is_exported_and_not_complete(house, directory):
    manifest, rows = export(house, directory / "out", "--format", "csv", code=3)
    assert manifest["complete"] is False and len(rows) == 3
    done = house.command("usage", "export", *house.window, "--format", "csv", "--out", str(directory), code=3)
    assert f"not over yet: ask again after {house.text(house.hour + HOUR)}:00:00Z" in done.stderr


def test_a_journal_that_is_ahead_of_the_ledger_is_not_complete(house, copy, directory):
    """As if nobody had made the last epoch's file."""
    ledger = sorted((directory / "state/ledger").iterdir(), key=lambda file: file.stat().st_mtime)
    words = ["usage", "export", *house.window, "--format", "csv", "--out", str(directory / "out")]
    told = house.json(*words, file=copy, later=True)
    assert told["complete"] is True and told["missing"] == []
    ledger[-1].unlink()
    told = house.json(*words, file=copy, later=True, code=3)
    assert told["complete"] is False
    assert ["sealed epoch of it is not in the ledger yet" in each for each in told["missing"]] == [True]


def test_an_open_request_keeps_its_hour_open(house, directory):
    words = ["usage", "export", *house.window, "--format", "csv", "--out", str(directory / "out")]
    house.command(*words, later=True)
    with house.gateway.wire() as wire:
        body = {"model": "m", "prompt": "[[tokens=2]][[fault=hold]]"}
        house.gateway.send(wire, "/v1/completions", body, key=house.keys["acme"])
        wait_until(lambda: house.engine.state()["held"], "the request to be held")
        done = house.command(*words, later=True, code=3)
        house.engine.release()
        wire.read_head()
        house.count("acme", json.loads(wire.read_body())["usage"])
    assert "1 request began before its end and may still count" in done.stderr
    house.wait_delivered()
    house.command(*words, later=True)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_complete_hour_has_the_same_bytes_whenever_it_is_asked_for(house, directory, form):
    first, second = directory / "first", directory / "second"
    manifest, rows = export(house, first, "--format", form, later=True)
    assert manifest["complete"] is True and manifest["from"] == house.text(house.hour) + ":00:00Z"
    assert [row["tenant"] for row in rows] == ["acme", "globex", "nobody"]
    assert [row["customer"] for row in rows] == ["cus_acme", "cus_globex", ""]
    exact = sum(house.total(measure) * price for measure, price in (("input_tokens", 1), ("output_tokens", 2)))
    assert float(manifest["amounts"]["EUR"]) == pytest.approx(exact / 1e6)
    house.later.step(50 * HOUR)
    export(house, second, "--format", form, later=True)
    for file in first.iterdir():
        assert (second / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("groups, count", [("tenant", 3), ("key", 1), ("hour,tenant", 3), ("model,hour", 1)])
def test_groups_sum_over_the_rest(house, directory, groups, count):
    manifest, rows = export(house, directory, "--format", "jsonl", "--group-by", groups, later=True)
    assert len(rows) == count and sorted(manifest["group_by"]) == sorted(groups.split(","))
    for name in ("tenant", "key", "model"):
        assert all((row[name] != "") == (name in groups.split(",")) for row in rows)


# ---- reconcile ----


def crc32c(data):
    """Bit by bit: it is only a line."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_everything_agrees(house):
    done = house.command("usage", "reconcile")
    assert done.stdout.startswith("all agree\n") and done.stderr == ""
    told = house.json("usage", "reconcile", "--verbose")
    assert told["agrees"] and told["complete"] and told["differing_cells"] == [] and told["epochs"] >= 1
    by_column = collections.Counter()
    for row in told["rows"]:
        assert not row["differs"]
        if row["provider"] == "stripe":
            for column, quantity in row["quantities"].items():
                by_column[row["meter"], column] += quantity
    for measure in MEASURES:
        held = house.sold["nobody", measure]
        assert by_column[measure, "ledger"] == by_column[measure, "redis"] == house.total(measure)
        assert by_column[measure, "held"] == held
        assert by_column[measure, "delivered"] == by_column[measure, "provider"] == house.total(measure) - held


def test_a_changed_cell_of_redis_is_found(house):
    redis = Redis(house.gateway.directory / "run/redis.sock")
    (writer, epoch, *names), quantity = next(
        (cell, quantity) for cell, quantity in redis.cells().items() if "output_tokens" in cell
    )
    key, field = f"tg:{{{writer}}}:cells:{epoch}", "\x1f".join(names)
    redis.ask("HSET", key, field, quantity + 1)
    try:
        told = house.json("usage", "reconcile", code=1)
        text = house.command("usage", "reconcile", code=1).stdout
    finally:
        redis.ask("HSET", key, field, quantity)
    (cell,) = told["differing_cells"]
    assert (cell["writer"], cell["epoch"], cell["measure"]) == (writer, epoch, "output_tokens")
    assert (cell["ledger"], cell["redis"]) == (quantity, quantity + 1)
    assert len(told["rows"]) == 2  # through both providers' meters
    line = rf"^{writer}-0*{epoch}  \S+ +ci +m +output_tokens +engine +- +{quantity} +{quantity + 1}$"
    assert re.search(line, text, re.M)
    house.command("usage", "reconcile")


def test_redis_is_compared_for_a_week(house):
    told = house.json("usage", "reconcile", clock=house.next_week)
    assert told["agrees"] and told["complete"] and told["epochs_too_old_for_redis"] == told["epochs"] >= 1
    assert house.json("usage", "reconcile")["epochs_too_old_for_redis"] == 0
    redis = Redis(house.gateway.directory / "run/redis.sock")
    (writer, epoch, *names), quantity = next(iter(redis.cells().items()))
    key, field = f"tg:{{{writer}}}:cells:{epoch}", "\x1f".join(names)
    redis.ask("HSET", key, field, quantity + 1)
    try:
        text = house.command("usage", "reconcile", clock=house.next_week).stdout
    finally:
        redis.ask("HSET", key, field, quantity)
    assert text.startswith("all agree\n")
    assert f"not compared with Redis, which has the last days only: epochs {told['epochs']}\n" in text
    assert "not compared with Redis" not in house.command("usage", "reconcile").stdout


def test_a_changed_ledger_file_is_found(house, copy, directory):
    house.command("usage", "reconcile", file=copy)
    file = sorted((directory / "state/ledger").iterdir())[0]
    lines = file.read_text().splitlines()
    cell = json.loads(lines[1])
    cell["quantity"] += 5
    file.write_text("\n".join([lines[0], json.dumps(cell, separators=(",", ":")), *lines[2:]]) + "\n")
    told = house.json("usage", "reconcile", code=1, file=copy)
    assert {each["measure"] for each in told["differing_cells"]} == {cell["measure"]}
    assert {each["ledger"] for each in told["differing_cells"]} == {cell["quantity"]}
    sides = [(each["journal"], each["redis"]) for each in told["differing_cells"]]
    assert sorted(sides, key=str) == sorted([(cell["quantity"] - 5, None), (None, cell["quantity"] - 5)], key=str)
    assert {row["provider"] for row in told["rows"]} == {"file", "stripe"}


def test_what_cannot_be_read_is_named(house, copy, directory):
    file = sorted((directory / "state/ledger").iterdir())[0]
    good = file.read_text()
    file.write_text(good[:-20])
    export = ["usage", "export", *house.window, "--format", "csv", "--out", str(directory / "out")]
    for words in (["usage", "reconcile"], export):
        assert f"{file} is damaged: put it back" in house.command(*words, code=1, file=copy).stderr
    file.write_text(good)
    shutil.rmtree(directory / "state/journal")
    for words in (["usage", "reconcile"], export):
        assert f"{directory}/state/journal is not there" in house.command(*words, code=1, file=copy).stderr
    (directory / "state/journal").mkdir()
    (directory / "state/install_id").unlink()
    (directory / "state/install_id").mkdir()
    done = house.command("usage", "reconcile", code=1, file=copy)
    assert f"{directory}/state/install_id: Is a directory" in done.stderr


def test_a_lost_ledger_file_is_found(house, copy, directory):
    """Its rows are there, and its segment."""
    sorted((directory / "state/ledger").iterdir())[0].unlink()
    told = house.json("usage", "reconcile", code=1, file=copy)
    sums = [row["quantities"] for row in told["rows"]]
    assert sums and all(each["ledger"] < each["delivered"] + each["held"] for each in sums)


def test_a_changed_line_of_the_states_is_found(house, copy, directory):
    file = directory / "state/billing/stripe.states"
    good = file.read_text()
    file.write_text(good.replace('"quantity":', '"quantity":9', 1))
    assert "it is damaged" in house.command("usage", "reconcile", code=1, file=copy).stderr
    lines = good.splitlines()
    entry = json.loads(lines[-1][:-9])
    entry["quantity"] += 3
    body = json.dumps(entry, separators=(",", ":"))
    file.write_text("\n".join([*lines[:-1], f"{body} {crc32c(body.encode()):08x}"]) + "\n")
    told = house.json("usage", "reconcile", code=1, file=copy)
    assert told["differing_cells"] == []
    (row,) = told["rows"]
    assert (row["provider"], row["tenant"], row["meter"]) == ("stripe", entry["tenant"], entry["meter"])


def test_a_changed_file_of_the_provider_is_found(house, copy, directory):
    config = yaml.safe_load(copy.read_text())
    config["billing"]["providers"][0]["file"]["dir"] = str(directory / "usage")
    copy.write_text(yaml.dump(config))
    house.command("usage", "reconcile", file=copy)
    file = sorted((directory / "usage").iterdir())[0]
    file.write_text(file.read_text().replace('"quantity":', '"quantity":1', 1))
    told = house.json("usage", "reconcile", code=1, file=copy)
    assert {row["provider"] for row in told["rows"]} == {"file"}
    file.unlink()  # somebody has collected it
    house.command("usage", "reconcile", file=copy)


def test_what_somebody_else_sent_is_found(house):
    """By the same customer's meter; afterwards it is cancelled."""
    event = {
        "event_name": "requests",
        "payload[stripe_customer_id]": "cus_acme",
        "payload[value]": "2",
        "identifier": "of-another-program",
        "timestamp": str(house.hour + 700),
    }
    post(house, "meter_events", event)
    try:
        told = house.json("usage", "reconcile", code=1)
    finally:
        cancel = {"event_name": "requests", "type": "cancel", "cancel[identifier]": "of-another-program"}
        post(house, "meter_event_adjustments", cancel)
    (row,) = told["rows"]
    assert (row["tenant"], row["meter"], row["provider"]) == ("acme", "requests", "stripe")
    assert row["quantities"]["provider"] == row["quantities"]["delivered"] + 2
    house.command("usage", "reconcile")


def post(house, what, form):
    done = subprocess.run(
        ["curl", "-sS", "-f", "-H", f"Authorization: Bearer {SECRET}", f"{house.stripe.url}/v1/billing/{what}"]
        + [word for item in form.items() for word in ("--data-urlencode", "=".join(item))],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def stripe_call(house, method, path, **more):
    """Its answer, by the house's key."""
    authorization = {"Authorization": f"Bearer {SECRET}"}
    answer = httpx.request(method, f"{house.stripe.url}/v1/billing/{path}", headers=authorization, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_meter_that_is_gone_leaves_only_its_lines_unasked(house):
    listed = stripe_call(house, "GET", "meters")["data"]
    (meter,) = [each["id"] for each in listed if each["event_name"] == "requests"]
    stripe_call(house, "POST", f"meters/{meter}/deactivate")
    try:
        told = house.json("usage", "reconcile", "--verbose", code=3)
        text = house.command("usage", "reconcile", code=3)
    finally:
        stripe_call(house, "POST", f"meters/{meter}/reactivate")
    (missing,) = told["missing"]
    assert missing.startswith("stripe cannot be asked for the meter requests: ")
    assert missing in text.stderr
    lines = [row for row in told["rows"] if row["provider"] == "stripe" and row["tenant"] != "nobody"]
    assert {row["meter"] for row in lines} == set(MEASURES) and not any(row["differs"] for row in lines)
    for row in lines:
        assert (row["quantities"]["provider"] is None) == (row["meter"] == "requests"), row
    assert all(row["quantities"]["provider"] is not None for row in told["rows"] if row not in lines)


def waiting_at_stripe(house, state):
    rows = [row for row in house.status()["stripe"]["waiting"] if row["state"] == state]
    return {row["meter"]: row for row in rows} if len(rows) == len(MEASURES) else None


def test_what_is_billed_by_hand_is_a_column_of_its_own(directory):
    """It was held for want of a customer, or rejected for the wrong one; the provider may have it or not."""
    house = House(directory)
    try:
        house.stripe.set(rejected_is_known=True)
        house.sell("globex")
        house.wait_delivered()
        house.sell("nobody")
        held = wait_until(lambda: waiting_at_stripe(house, "held"), "three rows of nobody's", 20)
        house.customers.update(nobody="cus_globex", acme="cus_typo")
        house.reload()
        house.sell("acme")
        rejected = wait_until(lambda: waiting_at_stripe(house, "rejected"), "three rejected rows", 20)
        words = ["billing", "release", "--delivered"]
        for row in [*held.values(), rejected["requests"], rejected["input_tokens"]]:
            assert house.command(*words, row["row"]).stdout == f"{row['row']}: acked\n"
        told = house.json("usage", "reconcile", "--verbose")  # without asking for a customer that Stripe does not know
        by_hand = {(row["tenant"], row["meter"]): row["quantities"] for row in told["rows"] if row["provider"] == "stripe"}
        for measure in MEASURES:
            columns = by_hand["nobody", measure]
            assert columns["by_hand"] == columns["ledger"] == house.sold["nobody", measure]
            assert columns["delivered"] == columns["provider"] == 0 and by_hand["globex", measure]["by_hand"] == 0
        assert by_hand["acme", "requests"]["by_hand"] == 1 and by_hand["acme", "output_tokens"]["rejected"] == 3
        # The third goes once more, as what Stripe has not rejected yet.
        row = rejected["output_tokens"]["row"]
        assert house.command("billing", "hold", row).stdout == f"{row}: held\n"
        (waiting,) = house.status()["stripe"]["waiting"]
        assert waiting["reason"].startswith("held by a person; it was rejected: ")
        house.customers["acme"] = "cus_acme"
        house.reload()
        (shown,) = house.json("billing", "release", row, "--dry-run")
        house.command("billing", "release", row)
        mine = wait_until(lambda: [each for each in house.stripe.events() if each["customer"] == "cus_acme"], "it", 20)
        assert [each["identifier"] for each in mine] == [shown["idempotency_key"]] != [row]
        assert mine[0]["value"] == house.sold["acme", "output_tokens"]
        # A person enters what was nobody's, then too much.
        for number, (value, code) in enumerate([(1, 0), (1, 1)]):
            event = {
                "event_name": "requests",
                "payload[stripe_customer_id]": "cus_globex",
                "payload[value]": str(value),
                "identifier": f"by-hand-{number}",
                "timestamp": str(house.hour + 700),
            }
            post(house, "meter_events", event)
            assert " BY HAND " in house.command("usage", "reconcile", "--verbose", code=code).stdout
    finally:
        house.end()


def test_what_cannot_be_asked_is_said(house, copy):
    house.stripe.down()
    try:
        done = house.command("usage", "reconcile", code=3)
    finally:
        house.stripe.up()
    assert done.stdout.startswith("what could be asked agrees\n") and "stripe cannot be asked" in done.stderr
    copy.write_text(copy.read_text().replace("/run/redis.sock", "/run/nothing.sock"))
    done = house.command("usage", "reconcile", code=3, file=copy)
    assert "Redis cannot be asked" in done.stderr
