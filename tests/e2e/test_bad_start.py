"""Starts that cannot succeed: a clear word on standard error, exit status 1, nothing left behind."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile

import pytest
import yaml
from support import paths, processes
from support.engine import ScriptedEngine
from support.gateway import Key, openai_error
from support.waiting import wait_until

KEY = Key("tg_test_bad_start_0123456789abcd")


def config_for(directory, **more):
    config = {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "state_dir": "state",
        "runtime_dir": str(directory / "run"),
        "models": {"m": {"engines": [{"url": "http://127.0.0.1:9"}]}},
        "tenants": {"acme": {"keys": {"ci": KEY.yaml()}}},
        **more,
    }
    (directory / "tollgate.yaml").write_text(yaml.safe_dump(config))
    return directory / "tollgate.yaml"


def run(*arguments, **options):
    """(exit status, what it said) of `tollgate run`, which must end by itself."""
    ran = subprocess.run(
        [paths.TOLLGATE, "run", *arguments],
        capture_output=True,
        text=True,
        timeout=20 * paths.SLOWNESS,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert "Sanitizer" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout + ran.stderr


def test_a_missing_config_file(directory):
    status, said = run("--config", directory / "nope.yaml")
    assert status == 1
    assert "nope.yaml" in said


def test_no_config_file_at_all(directory):
    status, said = run(cwd=directory)
    assert status in (1, 2)
    assert "tollgate.yaml" in said


def test_a_bad_config_file(directory):
    (directory / "tollgate.yaml").write_text("models:\n  m: { engine: [] }\n")
    status, said = run("--config", directory / "tollgate.yaml")
    assert status == 1
    assert re.search(r"tollgate\.yaml:2:\d+", said) and "did you mean" in said


@pytest.mark.parametrize("which", ["listen", "admin"])
def test_a_port_in_use(directory, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        value = address if which == "listen" else {"listen": address}
        status, said = run("--config", config_for(directory, **{which: value}))
    assert status == 1
    assert address in said and "in use" in said


def test_a_unix_socket_path_that_is_too_long(directory):
    status, said = run("--config", config_for(directory, runtime_dir=str(directory / ("r" * 120))))
    assert status == 1
    assert "runtime_dir" in said


def test_an_unwritable_state_directory():
    """As nobody: root may write everywhere."""
    base = tempfile.mkdtemp(prefix="tg-")
    try:
        os.chmod(base, 0o755)
        directory = os.path.join(base, "config")
        os.mkdir(directory, 0o755)
        import pathlib

        file = config_for(pathlib.Path(directory), runtime_dir=os.path.join(base, "run"))
        file.chmod(0o644)
        binary = shutil.copy(paths.TOLLGATE, os.path.join(base, "tollgate"))
        nobody = pwd.getpwnam("nobody")
        options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        if not options:
            os.chmod(directory, 0o555)
        ran = subprocess.run(
            [binary, "run", "--config", file], capture_output=True, text=True, timeout=20 * paths.SLOWNESS, **options
        )
        assert ran.returncode == 1, ran.stderr
        assert "state" in ran.stderr and "ermission" in ran.stderr
    finally:
        os.chmod(os.path.join(base, "config"), 0o755)
        shutil.rmtree(base)


def test_a_key_file_that_others_may_read_is_told_of(directory, make_engine):
    engine = make_engine(model="m")
    secret = directory / "engine.key"
    secret.write_text("a-secret-nobody-should-see\n")
    secret.chmod(0o644)
    file = config_for(directory, models={"m": {"engines": [engine.yaml(api_key_file=str(secret))]}})
    ran = subprocess.run([paths.TOLLGATE, "check", "--config", file], capture_output=True, text=True, timeout=20)
    assert "api_key_file" in ran.stdout + ran.stderr and "0644" in ran.stdout + ran.stderr
    assert "a-secret-nobody-should-see" not in ran.stdout + ran.stderr


def test_a_missing_engine_binary_is_shown_and_answered_503(make_gateway):
    own = make_gateway(
        {"models": {"m": {"engines": [{"spawn": ["./no-such-engine", "{socket}"]}], "queue": {"wait": "1s"}}}},
        wait=False,
    )
    wait_until(own.answers_admin, "the gateway to start")
    wait_until(lambda: own.engine_state("m/1") in ("BACKOFF", "FAILED"), "the engine's state", 20)
    shown = own.engines()["m/1"]
    assert "no-such-engine" in str(shown) and "No such file" in str(shown), shown
    answer = own.complete("m")
    assert answer.status_code == 503
    openai_error(answer)
    assert own.readyz().status_code == 503
    assert "no-such-engine" in own.log_text()


def test_a_model_that_the_engine_does_not_have(make_gateway, make_engine):
    engine = make_engine(model="another")
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()], "queue": {"wait": "1s"}}}}, wait=False)
    wait_until(own.answers_admin, "the gateway to start")
    wait_until(
        lambda: "another" in str(own.engines()["m/1"]) or "not" in str(own.engines()["m/1"]["evidence"]), "evidence", 20
    )
    assert own.engine_state("m/1") != "READY"
    assert own.complete("m").status_code == 503


def test_an_engine_that_is_not_there_yet(make_gateway, directory):
    engine = ScriptedEngine(directory, "late", model="m")
    engine.stop()
    own = make_gateway({"models": {"m": {"engines": [engine.yaml()], "queue": {"wait": "1s"}}}}, wait=False)
    try:
        wait_until(own.answers_admin, "the gateway to start")
        assert own.complete("m").status_code == 503
        engine.start()
        own.wait_ready(60)
        assert own.complete("m", max_tokens=1).status_code == 200
    finally:
        engine.stop()


def test_nothing_is_left_of_a_start_that_failed(directory):
    before = set(processes.descendants(os.getpid()))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run("--config", config_for(directory, listen=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert set(processes.descendants(os.getpid())) <= before
