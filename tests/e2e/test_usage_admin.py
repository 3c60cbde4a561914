"""GET /admin/v1/usage and POST /admin/v1/billing of a real gateway; usage that reaches a provider; a disk that is full."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest
import yaml
from support import paths, processes
from support.gateway import openai_error
from support.stripe import FakeStripe
from support.waiting import wait_until

TOKENS = 4
STRANGER = "tg1-" + "a" * 40


@pytest.fixture
def engine(make_engine):
    return make_engine(model="m")


@pytest.fixture
def stripe(directory):
    made = FakeStripe(directory, customers=["cus_1"], meters=["tokens_out"])
    yield made
    made.stop()


def config(engine, **more):
    return {"workers": 2, "models": {"m": {"engines": [engine.yaml()]}}, **more}


def to_files():
    return {"epoch": "1s", "providers": [{"file": {"dir": "usage"}}]}


def to_stripe(directory, stripe):
    key = directory / "stripe.key"
    key.write_text(stripe.key + "\n")
    key.chmod(0o600)
    meters = [{"event_name": "tokens_out", "measure": "output_tokens"}]
    provider = {"api_key_file": str(key), "api_base": stripe.url, "meters": meters}
    return {"epoch": "1s", "providers": [{"stripe": provider}]}


def ask(own, count=3):
    for _ in range(count):
        assert own.complete("m", max_tokens=TOKENS).status_code == 200
    return count


def usage(own):
    answer = own.admin("/admin/v1/usage")
    assert answer.status_code == 200, answer.text
    return answer.json()


def provider_of(own):
    return usage(own)["providers"][0]


def delivered(own):
    """The lines of all files; a name is delivered once for ever."""
    lines = []
    for file in sorted((own.directory / "usage").glob("*.jsonl")):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    return lines


def total(lines, measure):
    return sum(line["quantity"] for line in lines if line["measure"] == measure)


def change(own, action, row, **options):
    return own.admin("/admin/v1/billing", "POST", json={"action": action, "row": row}, **options)


def restart(own):
    own.terminate()
    assert own.wait_end() == 0
    own.start()


# ---- what is told ----


def test_the_answer_has_every_part(make_gateway, engine):
    own = make_gateway(config(engine))
    ask(own)
    wait_until(lambda: usage(own)["redis"]["up"], "Redis to be up")
    wait_until(lambda: usage(own)["redis"]["writers"] == 2, "both journals to be shipped")
    found = usage(own)
    assert [journal["worker"] for journal in found["journals"]] == [0, 1]
    assert all(journal["trouble"] == "" for journal in found["journals"])
    assert max(journal["slowest_write_seconds"] for journal in found["journals"]) < 1
    assert found["redis"]["error"] == "" and "appendfsync" in found["redis"]["durability"]
    assert (found["redis"]["stuck_writers"], found["redis"]["regressions"]) == (0, 0)
    assert found["providers"] == [] and found["error"] == ""
    assert (found["recovered_writers"], found["crashed_requests"]) == (0, 0)
    assert own.admin("/admin/v1/usage", token=False).status_code == 200, "to read needs no token on this machine"


def test_changes_need_the_token_and_a_body_that_says_which(make_gateway, engine):
    own = make_gateway(config(engine, billing=to_files()))
    assert change(own, "retry", STRANGER, token=False).status_code == 401
    assert own.admin("/admin/v1/billing").status_code == 405
    bodies = [b"", b"{", b"[]", b'{"action":"retry"}', b'{"action":"sell","row":"%s"}' % STRANGER.encode()]
    for body in bodies:
        answer = own.admin("/admin/v1/billing", "POST", content=body)
        assert answer.status_code == 400 and answer.json()["error"]["message"], body
    assert own.admin("/admin/v1/billing", "POST", content=b" " * 100_000).status_code == 413
    answer = change(own, "retry", STRANGER)
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_who_hangs_up_while_a_change_is_made_breaks_nothing(make_gateway, engine):
    own = make_gateway(config(engine, billing=to_files()))
    token = own.token_file.read_text().strip()
    body = json.dumps({"action": "hold", "row": STRANGER}).encode()
    head = (
        f"POST /admin/v1/billing HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", own.admin_port)) as wire:
            wire.sendall(head.encode() + body)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert change(own, "hold", STRANGER).status_code == 404


# ---- providers ----


def test_usage_becomes_files_once_whatever_ends(make_gateway, engine):
    own = make_gateway(config(engine, billing=to_files()))
    count = ask(own)
    wait_until(lambda: total(delivered(own), "requests") >= count, "the files", 20)
    restart(own)
    count += ask(own)
    old = own.gateway_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: own.gateway_pid() not in (None, old), "a new gateway process")
    own.wait_ready()
    count += ask(own)
    wait_until(lambda: total(delivered(own), "requests") >= count, "the files of all", 30)
    restart(own)
    wait_until(lambda: usage(own)["oldest_unflushed"] is None, "nothing to be left", 20)
    lines = delivered(own)
    assert total(lines, "requests") == count
    assert total(lines, "output_tokens") == count * TOKENS
    assert {line["tenant"] for line in lines} == {"acme"} and {line["model"] for line in lines} == {"m"}
    assert len({line["id"] for line in lines}) == len(lines)
    found = provider_of(own)
    assert found["provider"] == "file" and found["last_acked"] is not None and found["waiting"] == []
    assert found["rows"]["acked"] + found["rows"]["duplicate"] == len(lines)
    assert sum(found["rows"].values()) == len(lines)


def test_a_provider_can_come_with_a_reload(make_gateway, engine):
    own = make_gateway(config(engine, billing={"epoch": "1s"}))
    ask(own)
    own.write_config({**own.config, "billing": to_files()})
    own.reload_and_wait()
    wait_until(lambda: usage(own)["providers"], "the provider to be known")
    ask(own)
    wait_until(lambda: total(delivered(own), "requests") >= 3, "what came after it", 20)


def test_a_row_without_a_customer_waits_for_a_person(make_gateway, engine, directory, stripe):
    own = make_gateway(config(engine, billing=to_stripe(directory, stripe)))
    count = ask(own)
    row = wait_until(lambda: provider_of(own)["waiting"], "a row that is held", 20)[0]
    assert row["state"] == "held" and "customer" in row["reason"], row
    assert row["tenant"] == "acme" and row["meter"] == "tokens_out" and row["quantity"] % TOKENS == 0
    assert row["ended"].endswith("Z")
    assert usage(own)["oldest_unflushed"] is None, "it waits for a person and no longer for us"
    assert own.readyz().status_code == 200

    refused = change(own, "release", row["row"])
    assert refused.status_code == 409 and "customer" in refused.json()["error"]["message"]
    assert change(own, "retry", row["row"]).status_code == 409

    own.config["tenants"]["acme"]["customer"] = "cus_1"
    own.write_config(own.config)
    own.reload_and_wait()
    for held in provider_of(own)["waiting"]:
        released = change(own, "release", held["row"])
        assert released.status_code == 200 and released.json()["row"] == held["row"]
        assert released.json()["state"] == "pending"
    wait_until(lambda: stripe.total("cus_1", "tokens_out") == count * TOKENS, "it to arrive at the provider", 20)
    wait_until(lambda: provider_of(own)["rows"]["held"] == 0, "no row to be held")


# ---- the state directory ----


def test_a_start_without_the_rows_of_before_is_said(make_gateway, engine):
    own = make_gateway(config(engine, billing=to_files()))
    ask(own)
    wait_until(lambda: total(delivered(own), "requests") >= 3, "the files", 20)
    restart(own)
    assert "billing/ in state_dir is gone" not in own.log_text()
    own.terminate()
    assert own.wait_end() == 0
    shutil.rmtree(own.directory / "state" / "billing")
    own.start()
    (line,) = [line for line in own.log("billing") if line["level"] == "warning"]
    assert line["message"].startswith("billing/ in state_dir is gone"), line


def test_a_second_gateway_on_the_same_state_directory_is_refused(make_gateway, engine, directory):
    own = make_gateway(config(engine))
    other = {**own.config, "listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}}
    other["runtime_dir"] = str(directory / "other-run")
    file = own.directory / "other.yaml"
    file.write_text(yaml.safe_dump(other))
    ran = subprocess.run(
        [paths.TOLLGATE, "run", "--config", file], capture_output=True, text=True, timeout=20 * paths.SLOWNESS
    )
    assert ran.returncode == 1
    assert str(own.directory / "state") in ran.stderr and "another gateway" in ran.stderr, ran.stderr
    assert f"process {own.gateway_pid()}" in ran.stderr, ran.stderr
    ask(own, 1)


@pytest.mark.parametrize("bytes_max", [2048, 256 * 1024], ids=["hardly a log line", "no segment"])
def test_a_gateway_that_starts_on_a_full_disk_refuses_and_says_so(make_gateway, engine, bytes_max):
    own = make_gateway(config(engine, billing=to_files()))
    count = ask(own)
    old = own.gateway_pid()
    # What the next one inherits: no file grows beyond this, as on a disk that is full.
    resource.prlimit(own.master_pid, resource.RLIMIT_FSIZE, (bytes_max, resource.RLIM_INFINITY))
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: own.gateway_pid() not in (None, old), "a new gateway process")
    wait_until(own.answers_admin, "the gateway to start")
    wait_until(lambda: own.readyz(verbose=True).status_code == 503, "it to be unready")
    assert "[-]journal of worker 0 refuses new requests: " in own.readyz(verbose=True).text
    assert usage(own)["journals"][0]["trouble"]
    answer = own.complete("m", max_tokens=TOKENS)
    assert answer.status_code == 503
    openai_error(answer)

    for pid in (own.master_pid, own.gateway_pid()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    own.wait_ready()
    count += ask(own)
    wait_until(lambda: total(delivered(own), "requests") >= count, "the files", 30)
    assert total(delivered(own), "requests") == count


# ---- the end ----


def records(own):
    """Lines of `journal dump` of every segment, in order."""
    lines = []
    for segment in sorted((own.directory / "state" / "journal").glob("*/*.seg")):
        ran = subprocess.run([paths.TOLLGATE, "journal", "dump", segment, "--json"], capture_output=True, text=True, timeout=20)
        lines += [json.loads(line) for line in ran.stdout.splitlines()]
    return lines


@pytest.mark.parametrize("round", range(4))
def test_who_asks_while_it_ends_breaks_nothing(make_gateway, engine, round):
    own = make_gateway(config(engine, billing=to_files()))
    stopping = threading.Event()

    def keep_asking(question):
        while not stopping.is_set():
            with contextlib.suppress(httpx.TransportError):
                question()

    questions = [lambda: change(own, "hold", STRANGER)] * 3 + [lambda: own.admin("/admin/v1/usage")]
    questions += [lambda: own.readyz(verbose=True), lambda: httpx.get(f"{own.admin_url}/metrics")]
    threads = [threading.Thread(target=keep_asking, args=[question]) for question in questions]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    own.terminate()
    status = own.wait_end()
    stopping.set()
    for thread in threads:
        thread.join()
    assert status == 0


def test_the_masters_death_closes_what_was_open(make_gateway, engine):
    own = make_gateway(config(engine))
    wire = own.open_stream("m", "[[tokens=10000]][[interval_ms=20]]", max_tokens=10000)
    for _ in range(5):
        wire.read_chunk()
    gateway = own.gateway_pid()
    os.kill(own.master_pid, signal.SIGKILL)
    own.process.wait()
    wait_until(lambda: not processes.is_alive(gateway), "the gateway to end", 8)
    wire.close()
    closes = [record for record in records(own) if record["type"] == "CLOSE"]
    assert len(closes) == 1, records(own)
    assert closes[0]["request_id"] == wire.headers["x-request-id"] and closes[0]["end"] == "cut"
    assert closes[0]["billed"] and closes[0]["output_tokens"] >= 3
