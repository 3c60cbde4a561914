"""SIGHUP: a bad file never replaces a good one, and a reload breaks no request."""

import os
import re
import threading
import time

import pytest
import yaml
from support import paths, processes
from support.engine import SpawnedEngine
from support.gateway import Key
from support.waiting import wait_until
from support.wire import events_of

SECONDS = float(os.environ.get("RELOAD_SECONDS", "15"))


@pytest.fixture
def engine(make_engine):
    return make_engine(model="m")


@pytest.fixture
def own(make_gateway, engine):
    return make_gateway({"models": {"m": {"engines": [engine.yaml()]}}})


def change(own, path, value):
    """Set config[path] (dots between names) and write the file."""
    *parents, last = path.split(".")
    at = own.config
    for name in parents:
        at = at.setdefault(name, {})
    if value is None:
        at.pop(last, None)
    else:
        at[last] = value
    own.write_config(own.config)


def test_a_new_alias_works_after_the_reload(own):
    assert own.complete("fresh").status_code == 404
    change(own, "models.m.aliases", ["fresh"])
    assert own.complete("fresh").status_code == 404, "not before the signal"
    own.reload_and_wait()
    assert own.complete("fresh", max_tokens=1).status_code == 200


def test_a_new_key_works_and_a_removed_one_does_not(own):
    new, old = Key("tg_test_fresh_key_0123456789"), own.key
    change(own, "tenants.acme.keys", {"new": new.yaml()})
    own.reload_and_wait()
    assert own.complete("m", key=new, max_tokens=1).status_code == 200
    assert own.complete("m", key=old).status_code == 401


def test_scopes_change(own):
    for scopes, status in (
        ({"models": ["x"]}, 403),
        ({"models": ["m"]}, 200),
        ({"endpoints": ["chat"]}, 403),
        (None, 200),
    ):
        change(own, "tenants.acme.scopes", scopes)
        own.reload_and_wait()
        assert own.complete("m", max_tokens=1).status_code == status, scopes


def test_a_removed_key_does_not_cut_its_stream(own):
    wire = own.open_stream("m", "[[tokens=60]][[interval_ms=30]]", max_tokens=60)
    change(own, "tenants.acme.keys", {"new": Key("another_key_0123456789").yaml()})
    own.reload_and_wait()
    assert own.complete("m").status_code == 401
    assert events_of(wire.read_body())[-1] == "[DONE]"
    wire.close()


def test_a_removed_model_does_not_cut_its_streams(own, make_engine):
    other = make_engine("other", model="n")
    wire = own.open_stream("m", "[[tokens=60]][[interval_ms=30]]", max_tokens=60)
    change(own, "models", {"n": {"engines": [other.yaml()]}})
    own.reload_and_wait()
    assert own.complete("m").status_code == 404
    assert own.complete("n", max_tokens=1).status_code == 200
    assert events_of(wire.read_body())[-1] == "[DONE]"
    wire.close()


def test_unchanged_engines_go_on_and_changed_ones_are_replaced(make_gateway, directory):
    kept, replaced = SpawnedEngine(directory, "kept", model="a"), SpawnedEngine(directory, "replaced", model="b")
    own = make_gateway({"models": {"a": {"engines": [kept.yaml()]}, "b": {"engines": [replaced.yaml()]}}})
    pids = kept.pid, replaced.pid
    own.config["models"]["b"]["engines"] = [replaced.yaml(env={"SOMETHING": "new"})]
    own.config["models"]["a"]["aliases"] = ["alpha"]
    own.write_config(own.config)
    own.reload_and_wait()
    assert own.complete("b", max_tokens=1).status_code == 200
    wait_until(lambda: not processes.is_alive(pids[1]), "the old engine to end", 20)
    assert own.complete("b", max_tokens=1).status_code == 200
    assert b"SOMETHING=new" in processes.environment(replaced.pid)
    assert kept.pid == pids[0]


def test_a_removed_engine_ends(make_gateway, directory):
    first, second = SpawnedEngine(directory, "first", model="m"), SpawnedEngine(directory, "second", model="m")
    own = make_gateway({"models": {"m": {"engines": [first.yaml(), second.yaml()]}}})
    wait_until(lambda: own.metric_sum("tollgate_engine_up") == 2, "both engines to be up")
    pid = second.pid
    own.config["models"]["m"]["engines"] = [first.yaml()]
    own.write_config(own.config)
    own.reload_and_wait()
    wait_until(lambda: not processes.is_alive(pid), "the engine to end", 20)
    assert own.complete("m", max_tokens=1).status_code == 200


GOOD = "models: { m: { engines: [ { url: 'http://127.0.0.1:1' } ] } }\n"
BAD_FILES = {
    "no YAML": ("models: [\n  a: }\n", 2),
    "a tab": ("models:\n\tm: 1\n", 2),
    "unknown key": (GOOD + "lisen: 127.0.0.1:1\n", 2),
    "unknown key below": ("models:\n  m:\n    engine: []\n", 3),
    "wrong type": (GOOD + "workers: many\n", 2),
    "out of bounds": (GOOD + "workers: 100000\n", 2),
    "duplicate key": (GOOD + "workers: 1\nworkers: 1\n", 3),
    "anchor": ("a: &x 1\n" + GOOD, 1),
    "no engine": ("models:\n  m: { aliases: [x] }\n", 2),
    "both spawn and url": (
        "models: { m: { engines: [ { url: 'http://127.0.0.1:1', spawn: [x, '{socket}'] } ] } }\n",
        1,
    ),
    "bad digest": (GOOD + "tenants: { a: { keys: { k: { sha256: zz } } } }\n", 2),
    "unset variable": (GOOD + "state_dir: '${NO_SUCH_VARIABLE_HERE}'\n", 2),
    "empty": ("", 1),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_place(own, name):
    text, line = BAD_FILES[name]
    before = len(own.log())
    own.write_raw(text)
    own.reload_and_wait(accepted=False)
    said = "\n".join(str(entry) for entry in own.log()[before:])
    assert re.search(rf"tollgate\.yaml:{line}:\d+", said), said
    assert own.complete("m", max_tokens=1).status_code == 200


def test_a_misspelt_key_is_answered_with_the_right_one(own):
    own.write_raw(GOOD + "drain_timout: 3s\n")
    own.reload_and_wait(accepted=False)
    assert "did you mean" in own.log_text() and "drain_timeout" in own.log_text()


def test_a_missing_file_is_refused(own):
    own.file.unlink()
    own.reload_and_wait(accepted=False)
    assert own.complete("m", max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    "path, value",
    [("listen", "127.0.0.1:1"), ("state_dir", "elsewhere"), ("workers", 7), ("admin", {"listen": "127.0.0.1:2"})],
)
def test_what_cannot_change_refuses_the_whole_file(own, path, value):
    own.config["models"]["m"]["aliases"] = ["fresh"]
    change(own, path, value)
    own.write_raw(yaml.safe_dump({**yaml.safe_load(own.file.read_text()), path: value}))
    own.reload_and_wait(accepted=False)
    assert re.search("needs (a )?restart", own.log_text())
    assert own.complete("fresh").status_code == 404, "nothing of the refused file is in force"


def test_the_admin_api_reloads_and_tells_what_is_wrong(own):
    change(own, "models.m.aliases", ["fresh"])
    answer = own.admin("/admin/v1/reload", "POST")
    assert answer.status_code == 200, answer.text
    assert own.complete("fresh", max_tokens=1).status_code == 200
    own.write_raw("models: {\n")
    answer = own.admin("/admin/v1/reload", "POST")
    assert 400 <= answer.status_code < 500
    assert re.search(r"tollgate\.yaml:\d+:\d+", answer.text)


def test_reloads_under_load_break_nothing(own, engine):
    """Good and bad files alternate every 100 ms. RELOAD_SECONDS=60 is the full length."""
    good, failed, stopping = own.file.read_text(), [], threading.Event()

    def ask():
        while not stopping.is_set():
            try:
                answer = own.complete("m", "[[tokens=3]][[interval_ms=2]]")
                if answer.status_code != 200:
                    failed.append(answer.text)
            except Exception as error:
                failed.append(error)

    def ask_for_streams():
        while not stopping.is_set():
            try:
                _, events = own.stream("m", "[[tokens=10]][[interval_ms=10]]")
                if events[-1] != "[DONE]":
                    failed.append(events[-1])
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=target) for target in (ask, ask, ask_for_streams, ask_for_streams)]
    for thread in threads:
        thread.start()
    begun, rounds, early_bytes = time.monotonic(), 0, None
    while time.monotonic() - begun < SECONDS:
        rounds += 1
        own.write_raw(good if rounds % 2 else "models: [\n")
        own.reload()
        time.sleep(0.1)
        if early_bytes is None and time.monotonic() - begun > min(10, SECONDS * 2 / 3):
            early_bytes = processes.resident_bytes(own.gateway_pid())
    late_bytes = processes.resident_bytes(own.gateway_pid())
    stopping.set()
    for thread in threads:
        thread.join()
    assert failed == []
    accepted, refused = own.reload_counts()
    assert min(accepted, refused) >= rounds / 2 * (0.66 if paths.SLOWNESS == 1 else 0.2), (accepted, refused, rounds)
    if paths.SLOWNESS == 1:
        assert late_bytes <= early_bytes * 1.05, f"{early_bytes} -> {late_bytes} bytes resident"
