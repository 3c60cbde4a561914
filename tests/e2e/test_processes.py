"""The master and what it keeps: crashes of the gateway, of engines and of the master itself, and orderly ends."""

import os
import signal
import socket
import threading
import time

import httpx
import pytest
from support import paths, processes
from support.engine import SpawnedEngine
from support.waiting import wait_until
from support.wire import Closed, events_of


@pytest.fixture
def engine(directory):
    return SpawnedEngine(directory, "spawned", model="m")


@pytest.fixture
def own(make_gateway, engine):
    return make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})


class Load:
    """Clients that open a connection for each request, until told to stop."""

    def __init__(self, own, clients=4):
        self.own, self.stopping = own, False
        self.statuses, self.refused, self.broken = [], [], []
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self):
        body = {"model": "m", "prompt": "[[tokens=3]][[interval_ms=5]]"}
        while not self.stopping:
            try:
                with self.own.wire(30) as wire:
                    self.own.send(wire, "/v1/completions", body)
                    wire.read_answer()
                    self.statuses.append(wire.status)
            except ConnectionRefusedError as error:
                self.refused.append(error)
            except (OSError, Closed) as error:
                self.broken.append(error)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()
        return self


def read_rest(wire):
    """What still came, until the end or the break."""
    received = b""
    try:
        for _, data in wire.read_chunks():
            received += data
    except (Closed, OSError, ValueError):
        pass
    return received + wire.buffer


def kill_gateway_and_wait(own):
    """kill -9 of the gateway process; returns the seconds until the next one is ready."""
    old = own.gateway_pid()
    os.kill(old, signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: own.gateway_pid() not in (None, old), "a new gateway process", 5)
    own.wait_ready(10)
    return time.monotonic() - begun


def test_kill_of_the_gateway_refuses_no_connection_and_keeps_the_engines(own, engine):
    pid, load = engine.pid, Load(own)
    streams = [own.open_stream("m", "[[tokens=10000]][[interval_ms=20]]", max_tokens=10000) for _ in range(4)]
    for wire in streams:
        wire.read_chunk()
    seconds = [kill_gateway_and_wait(own)]
    for wire in streams:
        assert b"[DONE]" not in read_rest(wire), "an interrupted stream ended as if it were complete"
        wire.close()
    seconds.append(kill_gateway_and_wait(own))
    time.sleep(0.3)
    load.stop()
    assert load.refused == []
    assert set(load.statuses) == {200}
    assert len(load.broken) <= 2 * len(load.threads), "only what was in flight may break"
    assert max(seconds) < 4 * paths.SLOWNESS, f"the rule is 1 s: {seconds}"
    assert engine.pid == pid and processes.is_alive(pid)
    assert own.complete("m", max_tokens=1).status_code == 200


def test_the_engine_drops_what_a_killed_gateway_had_asked(own, engine):
    wire = own.open_stream("m", "[[tokens=10000]][[interval_ms=20]]", max_tokens=10000)
    kill_gateway_and_wait(own)
    engine.wait_for_event(wire.headers["x-request-id"], "gone")
    wire.close()


def test_after_a_kill_the_old_policy_rules_whatever_stands_on_disk(own):
    own.write_raw("models: [this is\n  no: configuration\n")
    kill_gateway_and_wait(own)
    assert own.complete("m", max_tokens=1).status_code == 200
    own.file.unlink()
    kill_gateway_and_wait(own)
    assert own.complete("m", max_tokens=1).status_code == 200


def test_after_a_kill_a_changed_file_is_not_loaded_unasked(own):
    own.write_config({**own.config, "models": {"other": own.config["models"]["m"]}})
    kill_gateway_and_wait(own)
    assert own.complete("m", max_tokens=1).status_code == 200
    assert own.complete("other").status_code == 404


def test_the_last_accepted_reload_rules_after_a_kill(own):
    own.config["models"]["m"]["aliases"] = ["fresh"]
    own.write_config(own.config)
    own.reload_and_wait()
    own.write_raw("{")
    kill_gateway_and_wait(own)
    assert own.complete("fresh", max_tokens=1).status_code == 200


def test_kill_of_the_master_leaves_nothing(own, engine):
    family = [(pid, processes.start_time(pid)) for pid in processes.descendants(own.master_pid)]
    assert len(family) >= 2
    wire = own.open_stream("m", "[[tokens=10000]][[interval_ms=20]]", max_tokens=10000)
    wire.read_chunk()
    os.kill(own.master_pid, signal.SIGKILL)
    own.process.wait()

    def left():
        return [pid for pid, born in family if processes.is_alive(pid) and processes.start_time(pid) == born]

    wait_until(lambda: not left(), "everything to end", 8)
    received = read_rest(wire)
    assert b"[DONE]" not in received
    wire.close()
    # A process is a zombie as soon as its first thread is one; its sockets go with its last.
    wait_until(lambda: not listens(own.port), "the port to be nobody's", 4)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_after_the_master_was_killed_a_start_finds_a_clean_house(own, engine):
    family = processes.descendants(own.master_pid)
    os.kill(own.master_pid, signal.SIGKILL)
    own.process.wait()
    wait_until(lambda: not any(processes.is_alive(pid) for pid in family), "everything to end", 8)
    own.start()
    assert own.complete("m", max_tokens=1).status_code == 200


def test_a_killed_engine_is_started_again(own, engine):
    old = engine.pid
    wire = own.open_stream("m", "[[tokens=10000]][[interval_ms=20]]", max_tokens=10000)
    wire.read_chunk()
    os.kill(old, signal.SIGKILL)
    events = events_of(wire.read_body())
    assert "error" in events[-1] and "[DONE]" not in events
    wire.close()
    answer = own.complete("m", max_tokens=1)
    assert answer.status_code == 200, "it waits in the queue for the new one"
    assert engine.pid not in (None, old)
    assert engine.attempts(answer.headers["x-request-id"]) == 1
    assert own.metric_sum("tollgate_engine_restarts_total", model="m") == 1


def test_an_engine_that_crashes_on_a_request_is_not_asked_again(own, engine):
    answer = own.complete("m", "[[fault=crash=2]]")
    assert answer.status_code == 502
    assert engine.attempts(answer.headers["x-request-id"]) == 1
    wait_until(
        lambda: own.metric_sum("tollgate_engine_restarts_total", model="m") == 1, "the engine to be started again"
    )
    assert own.complete("m", max_tokens=1).status_code == 200


def test_a_grandchild_of_an_engine_goes_with_it(make_gateway, directory):
    engine = SpawnedEngine(directory, "spawned", model="m", grandchild=True)
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})

    def grandchildren():
        return [pid for pid in processes.descendants(own.master_pid) if b"scripted_grand" in comm(pid)]

    first = wait_until(grandchildren, "the grandchild")
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: not any(processes.is_alive(pid) for pid in first), "the grandchild to end", 10)
    own.wait_ready()
    second = wait_until(grandchildren, "the next grandchild")
    own.stop()
    assert not any(processes.is_alive(pid) for pid in second)


def comm(pid):
    try:
        return open(f"/proc/{pid}/comm", "rb").read()
    except OSError:
        return b""


def test_an_engine_that_ignores_sigterm_is_killed(make_gateway, directory):
    engine = SpawnedEngine(directory, "stubborn", model="m", ignore_sigterm=True)
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})
    pid = engine.pid
    own.terminate()
    assert own.wait_end(60) == 0
    assert not processes.is_alive(pid)


def test_a_gateway_that_keeps_dying_is_given_up(own, engine):
    for _ in range(5):
        pid = wait_until(own.gateway_pid, "a gateway process", 10)
        wait_until(lambda: own.answers_admin() or own.process.poll() is not None, "it to start", 10)
        processes.kill_quietly(pid)
        wait_until(
            lambda: own.process.poll() is not None or own.gateway_pid() not in (None, pid), "what comes next", 10
        )
    assert own.wait_end(30) == 1
    wait_until(lambda: engine.pid is None, "the engine to end", 8)


# ---- orderly ends ----


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_streams_finish(own, how):
    wire = own.open_stream("m", "[[tokens=40]][[interval_ms=30]]", max_tokens=40)
    wire.read_chunk()
    own.process.send_signal(how)
    events = events_of(wire.read_body())
    wire.close()
    assert events[-1] == "[DONE]"
    assert own.wait_end() == 0


def test_a_stop_cuts_streams_at_the_drain_limit(own):
    wire = own.open_stream("m", "[[tokens=100000]][[interval_ms=20]]", max_tokens=100000, seconds=30)
    begun = time.monotonic()
    own.terminate()
    events = events_of(wire.read_body())
    wire.close()
    assert "error" in events[-1] and "[DONE]" not in events
    assert 2 < time.monotonic() - begun < 12 * paths.SLOWNESS, "drain_timeout is 3 s"
    assert own.wait_end() == 0


def test_a_stop_refuses_who_waits_and_who_comes(make_gateway, make_engine):
    engine = make_engine(model="m")
    own = make_gateway({"drain_timeout": "4s", "models": {"m": {"engines": [engine.yaml(max_in_flight=1)]}}})
    running = own.open_stream("m", "[[tokens=60]][[interval_ms=50]]", max_tokens=60)
    waiting, idle = own.wire(), own.wire()
    own.send(waiting, "/v1/completions", {"model": "m", "prompt": "x"})
    wait_until(lambda: own.metric_sum("tollgate_queue_length") == 1, "the request to wait")
    own.terminate()
    waiting.read_answer()
    assert waiting.status == 503
    wait_until(lambda: own.readyz().status_code == 503, "the gateway to say that it is not ready")
    try:
        own.send(idle, "/v1/completions", {"model": "m", "prompt": "x"})
        idle.read_answer()
        assert idle.status == 503
    except (Closed, OSError):
        pass
    assert events_of(running.read_body())[-1] == "[DONE]"
    assert own.wait_end() == 0


def test_a_second_signal_ends_at_once(own):
    wire = own.open_stream("m", "[[tokens=100000]][[interval_ms=20]]", max_tokens=100000)
    own.config["drain_timeout"] = "60s"
    own.write_config(own.config)
    own.reload_and_wait()
    own.terminate()
    wait_until(lambda: own.readyz().status_code != 200, "the drain to begin")
    own.terminate()
    own.wait_end(10)
    wire.close()


def test_an_idle_stop_is_quick(own):
    begun = time.monotonic()
    own.stop()
    assert time.monotonic() - begun < 4 * paths.SLOWNESS
    with pytest.raises(httpx.ConnectError):
        httpx.get(own.url)


def test_engines_run_without_our_secrets_and_in_their_own_group(own, engine):
    pid = engine.pid
    assert os.getpgid(pid) not in (os.getpgid(own.master_pid), os.getpgid(0))
    assert own.key.bearer.encode() not in processes.environment(pid)
    assert (
        oct(os.stat(engine.socket_path).st_mode)[-2:] in ("00", "05")
        or os.stat(os.path.dirname(engine.socket_path)).st_mode & 0o077 == 0
    )


def test_two_gateways_cannot_share_a_state_directory(own):
    import subprocess

    other = subprocess.run(
        [paths.TOLLGATE, "run", "--config", own.file], capture_output=True, timeout=20 * paths.SLOWNESS, text=True
    )
    assert other.returncode == 1
    assert own.complete("m", max_tokens=1).status_code == 200
