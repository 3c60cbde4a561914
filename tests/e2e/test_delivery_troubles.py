"""What goes wrong beside the provider while usage is delivered: the clock, the disk, the configuration, a person."""

import resource
import time

import test_delivery
from support.stripe import Clock, FakeStripe
from support.waiting import wait_until
from test_delivery import HOUR_S, make_shop  # noqa: F401

METERS = ["output_tokens"]


def billing_line(shop):
    """What /readyz says of billing."""
    lines = shop.gateway.readyz(verbose=True).text.splitlines()
    return next(line for line in lines if line[3:].startswith("billing"))


def wait_all_well(shop):
    wait_until(lambda: billing_line(shop) == "[+]billing", "no trouble of billing")


def test_a_clock_that_is_ahead_loses_no_row(make_shop, directory, monkeypatch):  # noqa: F811
    """The provider refuses what ended more than five minutes ahead of its own clock; nobody has to do it again."""
    clock, stripe_clock = Clock(directory), []

    def make_stripe(at, *given, **more):
        stripe_clock.append(Clock(at))
        return FakeStripe(at, *given, **{**more, "clock_offset_file": stripe_clock[0].file})

    monkeypatch.setattr(test_delivery, "FakeStripe", make_stripe)
    shop = make_shop(clock=clock, meters=METERS)
    clock.step(600)
    shop.sell("acme")
    wait_until(lambda: "clock of this machine is more than 5 minutes ahead" in billing_line(shop), "the trouble")
    assert shop.rows()["pending"] >= 1 and shop.rows()["rejected"] == 0 and shop.stripe.total() == 0
    stripe_clock[0].step(600)
    shop.wait_told()
    wait_all_well(shop)


def test_what_ended_ahead_of_the_clock_waits(make_shop, directory):  # noqa: F811
    clock = Clock(directory)
    shop = make_shop(clock=clock, meters=METERS)
    shop.stripe.down()
    clock.step(600)
    shop.sell("acme")
    wait_until(lambda: shop.rows()["pending"] == 1, "a row that cannot go")
    shop.stop_gateway()
    clock.step(-600)
    calls = len(shop.stripe.calls())
    shop.stripe.up()
    shop.gateway.start()
    shop.gateway.wait_ready()
    wait_until(lambda: "rows wait for the clock" in billing_line(shop), "the trouble")
    shop.sold.clear()  # this one is told ten minutes later
    assert len(shop.stripe.calls()) == calls and shop.rows()["pending"] == 1
    shop.sell("globex")
    wait_until(lambda: shop.stripe.totals() == dict(shop.sold), "what others used to be told")


def test_a_row_that_cannot_be_held_is_held_later(make_shop):  # noqa: F811
    shop = make_shop(meters=METERS)
    shop.stripe.down()
    shop.sell("acme")
    wait_until(lambda: shop.rows()["pending"] + shop.rows()["sent"] == 1, "a row that cannot go")
    customer = shop.customers.pop("acme")
    shop.reload()
    pid = shop.gateway.gateway_pid()
    size = (shop.gateway.directory / "state/billing/stripe.states").stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    shop.stripe.up()
    wait_until(lambda: "cannot be written" in billing_line(shop), "the trouble")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    shop.customers["acme"] = customer
    shop.reload()
    shop.wait_told()
    assert shop.gateway.gateway_pid() == pid


def test_what_was_billed_by_hand_proves_nothing(make_shop, directory):  # noqa: F811
    """As much as a row that may have arrived: whether the provider's total is of one or of the other is not known."""
    clock = Clock(directory)
    clock.step(HOUR_S - time.time() % HOUR_S + 60)  # all in one hour
    shop = make_shop(clock=clock, meters=METERS)
    customer = shop.customers.pop("acme")
    shop.reload()
    shop.gateway.chat("m", "[[tokens=3]] hello", key=shop.keys["acme"])
    (row,) = shop.wait_for_person(1)
    shop.customers["acme"] = customer
    shop.reload()
    done = shop.command("billing", "release", "--delivered", row["row"])
    assert done.returncode == 0, done.stderr
    shop.stripe.fault("cut_after")
    shop.sell("acme")
    wait_until(lambda: shop.stripe.total() == 3, "an event of which the gateway does not know")
    shop.stripe.down()
    clock.step(25 * HOUR_S)
    shop.stripe.up()
    (row,) = shop.wait_for_person(1, seconds=60)
    assert "has 3 of this hour, known are 0, by hand 3" in row["reason"]
    assert shop.stripe.total() == 3


def test_a_provider_that_is_taken_out_is_no_trouble(make_shop):  # noqa: F811
    """Unless there are rows for it; and it hides no other trouble."""
    shop = make_shop(meters=METERS)
    shop.sell("acme")
    shop.wait_told()
    config = shop.config()
    blocked = shop.directory / "blocked"
    blocked.write_text("")
    config["billing"]["providers"] = [{"file": {"dir": str(blocked)}}]
    shop.gateway.write_config(config)
    shop.gateway.reload_and_wait()
    wait_all_well(shop)
    shop.sell("acme")
    wait_until(lambda: "the directory of the provider file" in billing_line(shop), "the trouble")
    assert "stripe" not in billing_line(shop)
    blocked.unlink()
    wait_all_well(shop)


def test_no_trouble_outlasts_its_rows(make_shop):  # noqa: F811
    shop = make_shop(meters=METERS)
    shop.stripe.down(mode="refuse")
    shop.sell("acme")
    wait_until(lambda: "stripe: not reached" in billing_line(shop), "the trouble")
    states = (shop.gateway.directory / "state/billing/stripe.states").read_text().splitlines()
    row = states[-1].split('"row":"')[1].split('"')[0]
    shop.change("hold", row)
    wait_all_well(shop)
