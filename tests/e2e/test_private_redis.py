"""The Redis that collects usage: a private one as the master's child, one that the configuration names, or none."""

import os
import pathlib
import shutil
import signal
import stat

import pytest
from support import paths, processes
from support.redis import Redis, RunningRedis
from support.waiting import wait_until

TOKENS = 3


@pytest.fixture
def engine(make_engine):
    return make_engine(model="m")


def config(engine, **more):
    return {"workers": 2, "models": {"m": {"engines": [engine.yaml()]}}, **more}


def redis_of(own):
    return Redis(own.directory / "run" / "redis.sock")


def redis_pid(own):
    for pid in processes.descendants(own.master_pid):
        if b"redis-server" in b" ".join(processes.command_line(pid)):
            return pid
    return None


def other_redis(own, old):
    return wait_until(lambda: redis_pid(own) not in (None, old) and redis_pid(own), "another redis-server", 20)


def ask(own, count=3):
    for _ in range(count):
        assert own.complete("m", max_tokens=TOKENS).status_code == 200
    return count


def wait_for(redis, requests):
    """The cells, as soon as so many requests were shipped."""
    wait_until(lambda: redis.answers() and redis.total("requests") >= requests, f"{requests} requests in Redis", 20)
    assert redis.total("requests") == requests
    assert redis.total("output_tokens") == requests * TOKENS
    return redis.cells()


def verbose(own):
    answer = own.readyz(verbose=True)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_it_is_started_for_its_user_alone_and_gets_the_usage(make_gateway, engine):
    own = make_gateway(config(engine), environment={"SECRET_OF_THE_TEST": "canary-environment-0123456789"})
    redis = redis_of(own)
    wait_for(redis, ask(own))
    assert "[+]redis answers" in verbose(own)
    assert own.metric_sum("tollgate_redis_up") == 1
    pid = redis_pid(own)
    assert os.getpgid(pid) not in (os.getpgid(own.master_pid), os.getpgid(own.gateway_pid()))
    assert b"canary" not in processes.environment(pid)
    assert redis.ask("CONFIG", "GET", "port") == ["port", "0"]
    assert redis.ask("CONFIG", "GET", "appendonly") == ["appendonly", "yes"]
    assert stat.S_IMODE(os.stat(redis.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(own.directory / "state" / "redis").st_mode) == 0o700


def test_no_child_has_the_lock_of_the_state_directory(make_gateway, engine):
    own = make_gateway(config(engine))
    wait_until(lambda: redis_pid(own), "the redis-server")
    lock = os.path.realpath(own.directory / "state" / "lock")
    family = [own.master_pid, *processes.descendants(own.master_pid)]
    assert [pid for pid in family if lock in processes.open_files(pid)] == [own.gateway_pid()]


def test_killed_and_robbed_it_comes_back_and_is_filled_again(make_gateway, engine):
    own = make_gateway(config(engine))
    redis = redis_of(own)
    before = wait_for(redis, ask(own))
    old = redis_pid(own)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not processes.is_alive(old), "its end")
    shutil.rmtree(own.directory / "state" / "redis" / "appendonlydir")
    count = 3 + ask(own, 2)  # nobody waits for it
    assert other_redis(own, old)
    after = wait_for(redis, count)
    assert all(after[cell] >= quantity for cell, quantity in before.items())
    wait_until(lambda: "[+]redis answers" in verbose(own), "the gateway to see it again")
    assert any("killed by signal 9" in line["message"] for line in own.log("redis"))


def test_it_outlives_the_gateway_process(make_gateway, engine):
    own = make_gateway(config(engine))
    redis = redis_of(own)
    wait_for(redis, ask(own))
    pid, old = redis_pid(own), own.gateway_pid()
    started = redis.ask("INFO", "server")
    run_id = next(line for line in started.splitlines() if line.startswith("run_id"))
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: own.gateway_pid() not in (None, old), "a new gateway process")
    own.wait_ready()
    wait_for(redis, 3 + ask(own))
    assert redis_pid(own) == pid
    assert run_id in redis.ask("INFO", "server")
    assert own.metric_sum("tollgate_redis_regressions") == 0
    assert any("runs on" in line["message"] for line in own.log("redis"))


def test_without_its_socket_it_is_replaced(make_gateway, engine):
    own = make_gateway(config(engine))
    redis = redis_of(own)
    before = wait_for(redis, ask(own))
    pid, old = redis_pid(own), own.gateway_pid()
    os.unlink(redis.path)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: own.gateway_pid() not in (None, old), "a new gateway process")
    own.wait_ready()
    count = 3 + ask(own)
    assert other_redis(own, pid)
    after = wait_for(redis, count)
    assert all(after[cell] >= quantity for cell, quantity in before.items())
    wait_until(lambda: "[+]redis answers" in verbose(own), "the gateway to see it again")
    assert not processes.is_alive(pid)
    assert any("runs without its socket" in line["message"] for line in own.log("redis"))
    # The one after it stays: it can be reached.
    pid = redis_pid(own)
    wait_for(redis, count + ask(own))
    assert redis_pid(own) == pid


def test_it_ends_with_the_master(make_gateway, engine):
    own = make_gateway(config(engine))
    pid = wait_until(lambda: redis_pid(own), "the redis-server")
    os.kill(own.master_pid, signal.SIGKILL)
    own.process.wait()
    wait_until(lambda: not processes.is_alive(pid), "the redis-server to end")


def test_it_ends_with_an_orderly_stop_and_keeps_its_data(make_gateway, engine):
    own = make_gateway(config(engine))
    before = wait_for(redis_of(own), ask(own))
    own.stop()
    own.start()
    after = wait_for(redis_of(own), 3)
    assert before.items() <= after.items()
    assert own.metric_sum("tollgate_redis_regressions") == 0


def test_with_damaged_data_it_says_what_to_do(make_gateway, engine):
    own = make_gateway(config(engine))
    wait_for(redis_of(own), ask(own))
    own.terminate()
    assert own.wait_end() == 0
    data = own.directory / "state" / "redis" / "appendonlydir"
    for file in data.glob("*.rdb"):
        file.write_bytes(b"no database")
    own.start()
    ask(own)
    wait_until(lambda: any("it said last: " in line["message"] for line in own.log("redis")), "its last words")
    lines = verbose(own)
    assert "[-]redis does not answer" in lines and "exit status 1" in lines and f"remove {data}" in lines
    shutil.rmtree(data)
    wait_for(redis_of(own), 6)


def test_without_the_program_requests_are_served_and_the_trouble_is_told(make_gateway, engine):
    own = make_gateway(config(engine), environment={"REDIS_SERVER": "/nonexistent/redis-server"})
    ask(own)
    told = wait_until(
        lambda: next((line["message"] for line in own.log("redis") if "cannot execute" in line["message"]), None),
        "the log to say it",
    )
    assert "/nonexistent/redis-server" in told and "install" in told and "redis: { url" in told
    lines = verbose(own)
    assert "[-]redis does not answer" in lines and "install" in lines and lines.endswith("ready\n")
    usage = own.admin("/admin/v1/usage").json()
    assert usage["redis"]["up"] is False and "cannot execute" in usage["redis"]["error"]
    wait_until(lambda: own.admin("/admin/v1/usage").json()["redis"]["oldest_unshipped"], "the age of what waits")
    assert own.metric_sum("tollgate_redis_up") == 0
    own.stop()
    own.environment["REDIS_SERVER"] = str(paths.REDIS_SERVER)
    own.start()
    wait_for(redis_of(own), 3)


def test_one_that_the_configuration_names(make_gateway, engine, directory):
    redis = RunningRedis(directory)
    try:
        own = make_gateway(config(engine, redis={"url": f"unix:{redis.path}"}))
        wait_for(redis, ask(own))
        assert redis_pid(own) is None
        assert not (own.directory / "state" / "redis").exists()
        redis.stop()
        wait_until(lambda: "[-]redis does not answer" in verbose(own), "the gateway to miss it")
        count = 3 + ask(own)
        redis.start()  # it kept nothing
        wait_for(redis, count)
        wait_until(lambda: own.metric_sum("tollgate_redis_up") == 1, "the gateway to see it again")
    finally:
        redis.stop()
