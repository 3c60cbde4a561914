"""The command line without a running gateway: help, mistakes, check, schema, keys; and reload when nobody answers."""

import fcntl
import hashlib
import http.server
import json
import os
import re
import socket
import socketserver
import stat
import subprocess
import tempfile
import threading
import time
import types
import zlib

import pytest
from support import paths

TOLLGATE = str(paths.TOLLGATE)
TIMEOUT = 60 * paths.SLOWNESS
COMMANDS = [
    "run", "check", "schema", "keys new", "keys list", "limits explain", "journal dump", "journal verify", "price",
    "reload", "simulate", "billing retry", "billing release", "billing hold", "usage status", "usage export",
    "usage reconcile", "version",
]
KEY = re.compile(r"tg_[a-z0-9]{1,8}_([0-9A-Za-z]{10})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})")
EXPLAIN = ["limits", "explain", "--model", "gemma", "--key"]
GOOD = """\
models:
  gemma:
    engines:
      - { url: "http://127.0.0.1:8000" }
  llama:
    engines:
      - { url: "http://127.0.0.1:8001" }
tenants:
  acme:
    keys:
      old: { sha256: "%s", user: alice, expires: 2020-01-01T00:00:00Z }
  globex: {}
keys_file: keys
state_dir: state
""" % hashlib.sha256(b"an imported key").hexdigest()


def tollgate(*words, cwd, code=0, stdin="", **environment):
    """Run one command to its end; the exit code must be @code."""
    done = subprocess.run(
        [TOLLGATE, *words],
        cwd=cwd, env={**os.environ, **environment}, input=stdin, capture_output=True, text=True, timeout=TIMEOUT,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


@pytest.fixture
def house(tmp_path):
    (tmp_path / "tollgate.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def quiet_house(house):
    """Its check has nothing to warn of."""
    (house / "keys").touch(0o600)
    return house


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


# help and mistakes


def test_help_lists_the_commands_on_standard_output(tmp_path):
    for word in ["--help", "-h", "help"]:
        done = tollgate(word, cwd=tmp_path)
        assert done.stderr == ""
        for command in COMMANDS:
            assert f"\n  {command} " in done.stdout
        assert "gateway " not in [line.split("  ")[1] for line in done.stdout.splitlines() if line.startswith("  ")]


def test_nothing_to_do_is_a_usage_error_with_the_help(tmp_path):
    for words in [[], ["keys"], ["limits"], ["usage"], ["billing"]]:
        done = tollgate(*words, cwd=tmp_path, code=2)
        assert done.stdout == ""
        assert f"Usage: tollgate {' '.join([*words, 'COMMAND'])}" in done.stderr


@pytest.mark.parametrize("group", sorted({command.split()[0] for command in COMMANDS if " " in command}))
def test_the_help_of_a_group_lists_its_commands(group, tmp_path):
    done = tollgate(group, "--help", cwd=tmp_path)
    assert done.stderr == "" and done.stdout.startswith(f"Usage: tollgate {group} COMMAND")
    assert [name.strip() for name in re.findall(r"^  (.{15}) ", done.stdout, re.M)] == [
        command for command in COMMANDS if command.startswith(group + " ")
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, tmp_path):
    done = tollgate(*command.split(), "--help", cwd=tmp_path)
    assert done.stdout.startswith(f"Usage: tollgate {command}")
    assert "--help" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words, meant",
    [
        (["chekc"], '"check"'),
        (["shema"], '"schema"'),
        (["keys", "nwe"], '"keys new"'),
        (["check", "--confg", "x"], '"--config"'),
        (["check", "--jsn"], '"--json"'),
        (["keys", "new", "--tennant=acme"], '"--tenant"'),
    ],
)
def test_a_mistyped_word_gets_the_one_that_was_meant(words, meant, house):
    done = tollgate(*words, cwd=house, code=2)
    assert done.stdout == ""
    assert f"did you mean {meant}?" in done.stderr
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        (["frobnicate"], 'unknown command "frobnicate"'),
        (["--frobnicate"], 'unknown option "--frobnicate"'),
        (["check", "tollgate.yaml"], 'unexpected argument "tollgate.yaml"'),
        (["check", "--config"], "--config needs a value"),
        (["check", "--config="], "--config needs a value"),
        (["check", "--config", "--json"], "--config needs a value"),
        (["check", "--config", "a", "--config", "b"], "--config is given twice"),
        (["check", "--json=yes"], "--json takes no value"),
        (["check", "--", "x"], 'unknown option "--"'),
        (["version", "-v"], 'unexpected argument "-v"'),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words, message, house):
    done = tollgate(*words, cwd=house, code=2)
    assert done.stdout == ""
    assert message in done.stderr


@pytest.mark.parametrize(
    "words, offered",
    [
        (
            [""],
            {
                "run", "check", "schema", "keys", "limits", "journal", "price", "reload", "simulate", "billing",
                "usage", "version", "--help",
            },
        ),
        (["che"], {"check"}),
        (["keys", ""], {"new", "list", "--help"}),
        (["limits", ""], {"explain", "--help"}),
        (["journal", ""], {"dump", "verify", "--help"}),
        (["billing", ""], {"retry", "release", "hold", "--help"}),
        (["usage", ""], {"status", "export", "reconcile", "--help"}),
        (["keys", "new", "--te"], {"--tenant"}),
        (["check", ""], {"--config", "--json", "--help"}),
        (["check", "--json", "--c"], {"--config"}),
        (["check", "--config", "tollg"], {"tollgate.yaml"}),
    ],
)
def test_bash_completes_what_the_help_says(words, offered, house):
    script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tollgate; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", script, str(paths.ROOT / "deploy/completions/tollgate.bash"), TOLLGATE, *words],
        cwd=house, capture_output=True, text=True, timeout=TIMEOUT,
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


def test_output_that_cannot_be_written_is_a_failure(house):
    with open("/dev/full", "w") as full:
        for words in [["version"], ["schema"], ["check"], ["keys", "list"], ["--help"]]:
            done = subprocess.run([TOLLGATE, *words], cwd=house, stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT)
            assert done.returncode == 1, words


def test_version_names_the_libraries(tmp_path):
    assert re.fullmatch(r"tollgate \d+\.\d+\.\d+\n", tollgate("version", cwd=tmp_path).stdout)
    assert tollgate("--version", cwd=tmp_path).stdout == tollgate("version", cwd=tmp_path).stdout
    told = json.loads(tollgate("version", "--json", cwd=tmp_path).stdout)
    assert tollgate("version", cwd=tmp_path).stdout == f"tollgate {told['version']}\n"
    assert set(told["libraries"]) == {"openssl", "libmicrohttpd", "libcurl", "jansson", "libyaml"}


# check and schema


def test_check_counts_what_a_good_file_holds(quiet_house):
    done = tollgate("check", cwd=quiet_house)
    assert done.stdout == "./tollgate.yaml: ok (2 models, 2 tenants, 1 key)\n"
    assert done.stderr == ""
    for words in [["--config", "tollgate.yaml"], ["--config=tollgate.yaml"]]:
        assert tollgate("check", *words, cwd=quiet_house).stdout == "tollgate.yaml: ok (2 models, 2 tenants, 1 key)\n"
    told = json.loads(tollgate("check", "--json", cwd=quiet_house).stdout)
    assert told["ok"] is True
    assert (told["models"], told["tenants"], told["keys"]) == (2, 2, 1)
    assert (told["errors"], told["warnings"], told["problems"]) == (0, 0, [])


def test_check_shows_problems_at_their_places(quiet_house):
    (quiet_house / "bad.yaml").write_text(GOOD.replace("keys_file:", "key_file:").replace("state_dir:", "stat_dir:"))
    done = tollgate("check", "--config", "bad.yaml", cwd=quiet_house, code=1)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    for row, known in [(13, "keys_file"), (14, "state_dir")]:
        assert any(re.match(rf".*bad\.yaml:{row}:1: error: .*{known}", line) for line in lines), lines
    assert lines[-1] == "bad.yaml: 2 errors"
    told = json.loads(tollgate("check", "--config", "bad.yaml", "--json", cwd=quiet_house, code=1).stdout)
    assert told["ok"] is False
    assert told["errors"] == 2
    assert [(p["line"], p["column"], p["level"]) for p in told["problems"]] == [(13, 1, "error"), (14, 1, "error")]
    assert all(p["file"].endswith("bad.yaml") and p["message"] for p in told["problems"])


def test_check_only_warns_of_what_may_be_elsewhere(quiet_house):
    (quiet_house / "tollgate.yaml").write_text(GOOD.replace("8001\" }", "8001\", api_key_file: missing.key }"))
    done = tollgate("check", cwd=quiet_house)
    assert done.stdout == "./tollgate.yaml: ok (2 models, 2 tenants, 1 key), 1 warning\n"
    assert ": warning: " in done.stderr


def test_a_named_file_is_never_replaced_by_a_default(house):
    done = tollgate("check", "--config", "missing.yaml", cwd=house, code=1)
    assert "missing.yaml" in done.stderr
    assert "ok" not in done.stdout


def test_without_any_file_the_places_are_named(tmp_path):
    if os.path.exists("/etc/tollgate/tollgate.yaml"):
        pytest.skip("this machine has a system-wide configuration")
    for words in [["check"], ["keys", "list"], ["keys", "new", "--tenant", "t"], ["reload"], [*EXPLAIN, "a/b"]]:
        done = tollgate(*words, cwd=tmp_path, code=1)
        assert "./tollgate.yaml" in done.stderr and "/etc/tollgate/tollgate.yaml" in done.stderr
        assert "--config" in done.stderr


def test_schema_is_json_schema(tmp_path):
    schema = json.loads(tollgate("schema", cwd=tmp_path).stdout)
    assert "draft-07" in schema["$schema"]
    assert {"models", "tenants", "keys_file"} <= set(schema["properties"])
    assert "| " in tollgate("schema", "--markdown", cwd=tmp_path).stdout


# keys


def test_a_new_key_is_shown_once_and_kept_as_its_digest(house):
    done = tollgate("keys", "new", "--tenant", "acme", "--name", "ci", cwd=house)
    key = done.stdout.strip()
    shape = KEY.fullmatch(key)
    assert shape and key.startswith("tg_live_") and done.stdout == key + "\n"
    assert done.stderr == ""  # the hint is for a terminal

    number = zlib.crc32(key[:-6].encode())
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    check = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        check = digits[digit] + check
    assert shape[3] == check

    kept = (house / "keys").read_text()
    assert digest(key) in kept
    for part in [key, shape[1], shape[2], shape[3]]:
        assert part not in kept
    assert stat.S_IMODE((house / "keys").stat().st_mode) == 0o600
    assert (house / "tollgate.yaml").read_text() == GOOD
    listed = json.loads(tollgate("keys", "list", "--json", cwd=house).stdout)
    assert [(k["tenant"], k["name"], k["state"], k["line"]) for k in listed] == [
        ("acme", "ci", "active", 1),
        ("acme", "old", "expired", None),
    ]
    assert listed[0]["sha256_prefix"] == digest(key)[:12]
    assert listed[0]["keys_file"].endswith("/keys")
    assert (listed[0]["models"], listed[0]["endpoints"], listed[0]["expires"]) == (None, None, None)
    assert tollgate("check", cwd=house).stdout.endswith("ok (2 models, 2 tenants, 2 keys)\n")


def test_a_new_key_has_what_was_asked_for(house):
    told = json.loads(
        tollgate(
            *["keys", "new", "--tenant", "globex", "--env", "test", "--user", "bob@globex", "--json"],
            *["--expires", "2099-01-02T03:04:05Z", "--models", "gemma,lla*", "--endpoints", "chat,models"],
            cwd=house,
        ).stdout
    )
    assert set(told) == {"key", "id", "tenant", "name", "sha256"}
    assert told["key"].startswith("tg_test_" + told["id"] + "_")
    assert (told["tenant"], told["name"], told["sha256"]) == ("globex", told["id"], digest(told["key"]))
    listed = json.loads(tollgate("keys", "list", "--json", cwd=house).stdout)[-1]
    assert (listed["tenant"], listed["name"], listed["user"]) == ("globex", told["id"], "bob@globex")
    assert (listed["models"], listed["endpoints"]) == (["gemma", "lla*"], ["chat", "models"])
    assert listed["expires"].startswith("2099-01-02T03:04:05")
    table = tollgate("keys", "list", cwd=house).stdout
    assert re.search(r"^TENANT +NAME +USER ", table)
    assert re.search(rf"^globex +{told['id']} +bob@globex +active +2099-\S+ +gemma,lla\* +chat,models +", table, re.M)
    for secret in [told["key"], told["key"].split("_")[3], told["sha256"]]:
        assert secret not in table


def test_a_key_may_last_a_number_of_days(house):
    tollgate("keys", "new", "--tenant", "acme", "--name", "short", "--expires", "90d", cwd=house)
    listed = json.loads(tollgate("keys", "list", "--json", cwd=house).stdout)
    assert re.match(r"\d{4}-\d\d-\d\dT", listed[-1]["expires"])
    assert listed[-1]["state"] == "active"


def test_names_are_unique_within_a_tenant(house):
    tollgate("keys", "new", "--tenant", "acme", "--name", "ci", cwd=house)
    before = (house / "keys").read_text()
    for name in ["ci", "old"]:  # from the keys file; from YAML
        done = tollgate("keys", "new", "--tenant", "acme", "--name", name, cwd=house, code=1)
        assert done.stdout == ""
        assert f'has a key called "{name}" already' in done.stderr
    assert (house / "keys").read_text() == before
    tollgate("keys", "new", "--tenant", "globex", "--name", "ci", cwd=house)
    tollgate("check", cwd=house)


def test_two_commands_at_once_cannot_take_one_name(house):
    with open(house / "tollgate.yaml") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # all of them wait for it, before they look whether the name is free
        running = [
            subprocess.Popen(
                [TOLLGATE, "keys", "new", "--tenant", "acme", "--name", "ci"],
                cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(8)
        ]
        time.sleep(0.5)  # without the lock they would be done by now
        assert [process.poll() for process in running] == [None] * 8
        assert not (house / "keys").exists()
    results = [(process.communicate(timeout=TIMEOUT), process.returncode) for process in running]
    assert sorted(code for _, code in results) == [0] + [1] * 7
    tollgate("check", cwd=house)
    assert len((house / "keys").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--tenant is missing"),
        (["--tenant", "acme", "--env", "Live"], "--env"),
        (["--tenant", "acme", "--env", "ninechars"], "--env"),
        (["--tenant", "acme", "--name", "two words"], "--name"),
        (["--tenant", "acme", "--name", "a\nb"], "--name"),
        (["--tenant", "acme", "--user", "two words"], "--user"),
        (["--tenant", "acme", "--user", "x\ny"], "--user"),
        (["--tenant", "acme", "--expires", "yesterday"], "--expires"),
        (["--tenant", "acme", "--expires", "2020-01-01"], "--expires"),
        (["--tenant", "acme", "--expires", "0d"], "--expires"),
        (["--tenant", "acme", "--expires", "9999999d"], "--expires"),
        (["--tenant", "acme", "--models", "a,,b"], "--models"),
        (["--tenant", "acme", "--models", "a b"], "--models"),
        (["--tenant", "acme", "--endpoints", "chat,completion"], 'did you mean "completions"?'),
        (["--tenant", "acme", "--endpoints", "zzz"], "embeddings"),
        (["--tenant", "acme", "--endpoints", "chat,"], "--endpoints"),
    ],
)
def test_absurd_wishes_are_usage_errors(words, message, house):
    done = tollgate("keys", "new", *words, cwd=house, code=2)
    assert message in done.stderr
    assert done.stdout == ""
    assert not (house / "keys").exists()


def test_a_key_needs_a_known_tenant(house):
    done = tollgate("keys", "new", "--tenant", "amce", cwd=house, code=1)
    assert 'did you mean "acme"?' in done.stderr
    done = tollgate("keys", "new", "--tenant", "somebody-else", cwd=house, code=1)
    assert 'no tenant is called "somebody-else"' in done.stderr
    assert not (house / "keys").exists()


def test_without_a_keys_file_the_missing_line_is_named(house):
    (house / "tollgate.yaml").write_text(GOOD.replace("keys_file: keys\n", ""))
    done = tollgate("keys", "new", "--tenant", "acme", cwd=house, code=1)
    assert "`keys_file: keys`" in done.stderr
    assert done.stdout == ""


def test_a_bad_configuration_gets_no_key(house):
    (house / "tollgate.yaml").write_text(GOOD + "nonsense: 1\n")
    done = tollgate("keys", "new", "--tenant", "acme", cwd=house, code=1)
    assert re.search(r"tollgate\.yaml:\d+:1: error: ", done.stderr)
    assert done.stdout == "" and not (house / "keys").exists()


def test_a_key_that_cannot_be_kept_is_not_shown(house):
    (house / "tollgate.yaml").write_text(GOOD.replace("keys_file: keys", "keys_file: no/such/directory/keys"))
    done = tollgate("keys", "new", "--tenant", "acme", cwd=house, code=1)
    assert done.stdout == ""
    assert "no/such/directory/keys" in done.stderr


# reload


class Admin:
    """What the command line sees of a gateway: one answer, whatever the question."""

    def __init__(self, status, answer, address=("127.0.0.1", 0)):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                seen.append((self.path, self.headers["authorization"], body))
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Server(socketserver.TCPServer):
            address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET

        self.server = Server(address, Handler)
        self.listen = f"unix:{address}" if isinstance(address, str) else "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def point_at(house, admin, token="the-token\n"):
    (house / "tollgate.yaml").write_text(GOOD + 'admin: { listen: "%s" }\n' % admin.listen)
    (house / "state").mkdir(exist_ok=True)
    (house / "state" / "admin.token").write_text(token)
    (house / "state" / "admin.token").chmod(0o600)


def test_reload_asks_with_the_token(house):
    with Admin(200, {"result": "accepted"}) as admin:
        point_at(house, admin)
        done = tollgate("reload", cwd=house, http_proxy="http://127.0.0.1:9")
        assert done.stdout == "./tollgate.yaml: reloaded\n"
        assert json.loads(tollgate("reload", "--json", cwd=house).stdout) == {"result": "accepted"}
    assert admin.seen == [("/admin/v1/reload", "Bearer the-token", b"{}")] * 2


def test_reload_asks_at_a_unix_socket(house):
    with tempfile.TemporaryDirectory(prefix="tg-") as short:
        with Admin(200, {"result": "accepted"}, short + "/admin.sock") as admin:
            point_at(house, admin)
            assert tollgate("reload", cwd=house).stdout == "./tollgate.yaml: reloaded\n"
    assert admin.seen == [("/admin/v1/reload", "Bearer the-token", b"{}")]


def test_reload_reads_the_token_file_that_is_configured(house):
    with Admin(200, {"result": "accepted"}) as admin:
        point_at(house, admin)
        (house / "state" / "admin.token").rename(house / "my.token")
        config = (house / "tollgate.yaml").read_text()
        (house / "tollgate.yaml").write_text(config.replace("admin: {", "admin: { token_file: my.token,"))
        tollgate("reload", cwd=house)
    assert admin.seen == [("/admin/v1/reload", "Bearer the-token", b"{}")]


def test_reload_shows_why_it_was_refused(house):
    problems = "/etc/tollgate.yaml:3:1: error: \u201cnonsense\u201d\n"
    with Admin(422, {"result": "refused", "problems": problems}) as admin:
        point_at(house, admin)
        done = tollgate("reload", cwd=house, code=1)
        assert done.stdout == ""
        assert done.stderr.startswith(problems)
        assert json.loads(tollgate("reload", "--json", cwd=house, code=1).stdout)["problems"] == problems


@pytest.mark.parametrize(
    "status, answer, message",
    [
        (401, {"error": "no"}, "admin.token"),
        (500, {"error": "no"}, "HTTP status 500"),
        (200, b"<html>hello</html>", "does not answer like a gateway"),
        (200, {"result": "refused"}, "does not answer like a gateway"),
        (422, {"result": "accepted"}, "does not answer like a gateway"),
    ],
)
def test_reload_is_only_done_when_the_gateway_says_so(status, answer, message, house):
    with Admin(status, answer) as admin:
        point_at(house, admin)
        done = tollgate("reload", cwd=house, code=1)
    assert message in done.stderr
    assert done.stdout == ""
    assert "the-token" not in done.stderr


def test_reload_says_how_to_start_a_gateway_that_is_not_there(house):
    with Admin(200, {}) as admin:
        point_at(house, admin)
    done = tollgate("reload", cwd=house, code=1)
    assert "tollgate run --config ./tollgate.yaml" in done.stderr
    (house / "state" / "admin.token").unlink()
    assert "admin.token" in tollgate("reload", cwd=house, code=1).stderr


# usage status


def test_usage_status_without_the_token_asks_the_gateway_all_the_same(house):
    status = {"providers": [], "redis": {"up": True}, "journals": []}
    with Admin(200, status) as admin:
        point_at(house, admin)
        (house / "state" / "admin.token").unlink()
        done = tollgate("usage", "status", cwd=house)
        assert "redis: up" in done.stdout and "no gateway answers" not in done.stderr
    assert admin.seen[0][:2] == ("/admin/v1/usage", None)
    with Admin(401, {}) as admin:
        point_at(house, admin)
        (house / "state" / "admin.token").unlink()
        done = tollgate("usage", "status", cwd=house, code=1)
    assert "state/admin.token: No such file or directory" in done.stderr and "nothing is being sent" not in done.stderr


def test_a_provider_that_the_gateway_has_not_looked_at_is_no_missing_one(house):
    with Admin(200, {"providers": [], "redis": {"up": True}, "journals": []}) as admin:
        point_at(house, admin)
        assert tollgate("usage", "status", cwd=house).stdout.startswith("no provider: usage is recorded, and")
        config = (house / "tollgate.yaml").read_text()
        (house / "tollgate.yaml").write_text(config + "billing: { providers: [ { file: { dir: usage } } ] }\n")
        assert tollgate("usage", "status", cwd=house).stdout.startswith("no provider is in use, although the configu")


def test_a_gateway_that_is_stopped_is_said(house):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(house, types.SimpleNamespace(listen="127.0.0.1:%d" % silent.getsockname()[1]))
        begun = time.monotonic()
        done = tollgate("usage", "status", cwd=house, code=1)
    assert "the gateway is there and gave no answer in 10 s" in done.stderr, done.stderr
    assert time.monotonic() - begun < 10 + 5 * paths.SLOWNESS


# limits explain


def bucket(**other):
    row = {"kind": "requests", "scope": "key", "name": "acme/old", "origin": "tollgate.yaml:9:7", "limit": 600}
    row |= {"capacity": 60, "balance": 12.5, "held": 0, "full_in_ms": 4750, "on_exceed": "soft"}
    return {**row, **other}


def limits(*rows):
    return {"tenant": "acme", "key": "old", "user": "alice", "model": "gemma", "limits": rows, "complete": True}


def test_limits_explain_shows_each_bucket_and_where_it_comes_from(house):
    tokens = bucket(kind="tokens", scope="model", name="gemma", balance=-7, held=1300, on_exceed="cut", origin="m.yaml:2:3")
    seats = bucket(kind="seats", scope="tenant", name="acme", limit=4, capacity=4, balance=1, full_in_ms=0)
    with Admin(200, limits(bucket(), tokens, seats)) as admin:
        point_at(house, admin)
        done = tollgate(*EXPLAIN, "acme/old", cwd=house)
        told = tollgate(*EXPLAIN, "acme/old", "--json", cwd=house)
    lines = done.stdout.splitlines()
    assert lines[0] == "key acme/old, user alice, model gemma: 3 limits"
    assert re.split("  +", lines[2]) == [
        "SCOPE", "NAME", "KIND", "LIMIT", "BURST", "BALANCE", "HELD", "FULL IN", "ON EXCEED", "FROM",
    ]
    assert [line.split() for line in lines[3:]] == [
        ["key", "acme/old", "requests", "600/min", "60", "12.5", "0", "4.75s", "-", "tollgate.yaml:9:7"],
        ["model", "gemma", "tokens", "600/min", "60", "-7", "1300", "4.75s", "cut", "m.yaml:2:3"],
        ["tenant", "acme", "seats", "4", "4", "1", "0", "-", "-", "tollgate.yaml:9:7"],
    ]
    assert json.loads(told.stdout) == json.loads(json.dumps(limits(bucket(), tokens, seats)))
    question = ("/admin/v1/limits?tenant=acme&key=old&model=gemma", "Bearer the-token", b"")
    assert admin.seen == [question] * 2


def test_limits_explain_may_say_that_nothing_is_limited(house):
    with Admin(200, limits()) as admin:
        point_at(house, admin)
        done = tollgate(*EXPLAIN, "acme/old", cwd=house)
    assert done.stdout == "key acme/old, user alice, model gemma: nothing is limited\n"


@pytest.mark.parametrize("typed", [True, False])
def test_limits_explain_looks_a_key_up_by_its_digest(typed, house):
    with Admin(200, limits(bucket())) as admin:
        point_at(house, admin)
        words = [*EXPLAIN, "an imported key" if typed else "-", "--user", "bob & co/\u00e9"]
        done = tollgate(*words, cwd=house, stdin="" if typed else "an imported key\n")
    assert admin.seen[0][0] == "/admin/v1/limits?tenant=acme&key=old&model=gemma&user=bob%20%26%20co%2F%C3%A9"
    assert "imported" not in done.stdout + done.stderr + str(admin.seen)


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["--model", "gemma"], 2, "--key is missing"),
        (["--key", "acme/old"], 2, "--model is missing"),
        (["--key", "acme/old", "--model", "gemna"], 1, 'did you mean "gemma"?'),
        (["--key", "acme/canary-text", "--model", "gemma"], 1, "tollgate keys list"),
        (["--key", "-", "--model", "gemma"], 1, "tollgate keys list"),
        (["--key", "acme/old", "--model", "gemma", "--user", "x" * 5000], 2, "--user is too long"),
    ],
)
def test_limits_explain_asks_only_about_what_there_is(words, code, message, house):
    with Admin(200, limits()) as admin:
        point_at(house, admin)
        done = tollgate("limits", "explain", *words, cwd=house, code=code)
    assert message in done.stderr and done.stdout == ""
    assert "canary-text" not in done.stderr and admin.seen == []


@pytest.mark.parametrize(
    "status, answer, message",
    [
        (404, {"error": {"message": "The configuration in force has no such key."}}, "no such key. Has ./tollgate.yaml"),
        (404, {}, "HTTP status 404"),
        (401, {}, "admin.token"),
        (500, {}, "HTTP status 500"),
        (200, b"<html>hello</html>", "does not answer like a gateway"),
        (200, {"limits": 7}, "does not answer like a gateway"),
    ],
)
def test_limits_explain_believes_only_a_gateway(status, answer, message, house):
    with Admin(status, answer) as admin:
        point_at(house, admin)
        done = tollgate(*EXPLAIN, "acme/old", cwd=house, code=1)
    assert message in done.stderr and done.stdout == ""


def test_limits_explain_survives_absurd_numbers(house):
    row = bucket(balance=1e300, held=-1e300, limit=10**18, full_in_ms=2**62, origin="/long" * 100 + ":1:2")
    with Admin(200, limits(*[row] * 40)) as admin:
        point_at(house, admin)
        done = tollgate(*EXPLAIN, "acme/old", cwd=house)
    assert done.stdout.splitlines()[-1].endswith(":1:2")
