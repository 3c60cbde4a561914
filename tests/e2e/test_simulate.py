"""`tollgate simulate`: a recorded load against the limits of a configuration."""

import hashlib
import json
import subprocess

import pytest

from support import paths

TOLLGATE = str(paths.TOLLGATE)
TIMEOUT = 60 * paths.SLOWNESS
TRACES = paths.ROOT / "tests/vectors/traces"
SHARE = ("seats", "tenant and model")
HEADER = "arrival,input,output\n"
MODELS = 'models: { gemma: { aliases: [small], engines: [ { url: "http://127.0.0.1:8000" } ], %s } }\n'
KEY = 'sha256: "%s"' % hashlib.sha256(b"a key").hexdigest()
OTHER_KEY = 'sha256: "%s"' % hashlib.sha256(b"another key").hexdigest()


def simulate(folder, *words, code=0):
    done = subprocess.run(
        [TOLLGATE, "simulate", *words], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


def result_of(folder, *words):
    return json.loads(simulate(folder, "--json", *words).stdout)


def write(folder, key="", tenant="", model="", more=""):
    """A configuration with one tenant and one key; the arguments are the `limits` of each place."""
    folder.joinpath("tollgate.yaml").write_text(
        MODELS % (f"limits: {{ {model} }}" if model else "")
        + f"tenants:\n  acme:\n    limits: {{ {tenant} }}\n"
        + f"    keys: {{ ci: {{ {KEY}, user: alice, limits: {{ {key} }} }} }}\n{more}"
    )


def write_trace(folder, rows):
    folder.joinpath("load.csv").write_text(HEADER + "".join(f"{a},{i},{o}\n" for a, i, o in rows))
    return ["--trace", "load.csv"]


def refusals(result):
    return {(row["kind"], row["scope"]): row["requests"] for row in result["refusals"]}


def test_without_limits_everything_is_admitted(tmp_path):
    write(tmp_path)
    result = result_of(tmp_path, *write_trace(tmp_path, [(i, 100, 100) for i in range(20)]))
    assert (result["requests"], result["admitted"], result["refused"]) == (20, 20, 0)
    assert (result["limited"], result["running_most"], result["used_tokens"]) == (False, 2, 4000)
    assert (result["tenant"], result["key"], result["model"]) == ("acme", "ci", "gemma")
    assert result["refusals"] == []
    text = simulate(tmp_path, "--trace", "load.csv").stdout
    assert text.startswith("20 requests in 21s for gemma by key acme/ci\nNo limit applies to them.\n")


def test_each_limit_is_blamed_by_kind_and_scope(tmp_path):
    load = write_trace(tmp_path, [(i / 1000, 100, 50) for i in range(50)])
    cases = [
        (dict(key="requests_per_minute: 10"), ("requests", "key"), 40),
        (dict(tenant="concurrent_requests: 12"), ("seats", "tenant"), 38),
        (dict(model="requests_per_minute: 7"), ("requests", "model"), 43),
        (dict(more="    models: { gemma: { limits: { concurrent_requests: 3 } } }\n"), SHARE, 47),
        (dict(more="defaults: { user: { limits: { requests_per_minute: 4 } } }\n"), ("requests", "user"), 46),
    ]
    for limits, place, refused in cases:
        write(tmp_path, **limits)
        result = result_of(tmp_path, *load)
        assert result["limited"] and result["refused"] == refused
        assert refusals(result) == {place: refused}
        assert result["refusals"][0]["too_large"] is False
    write(tmp_path, key="requests_per_minute: 10")
    assert "by the requests of the key (10 a minute)" in simulate(tmp_path, *load).stdout


def test_the_time_of_a_token_says_when_a_seat_is_free(tmp_path):
    write(tmp_path, tenant="concurrent_requests: 1")
    load = write_trace(tmp_path, [(i, 10, 100) for i in range(10)])
    assert result_of(tmp_path, *load)["admitted"] == 5
    assert result_of(tmp_path, *load, "--token-ms", "10")["admitted"] == 10
    assert result_of(tmp_path, *load, "--token-ms=25")["admitted"] == 4


def test_a_request_above_its_limit_is_too_large(tmp_path):
    write(tmp_path, key="tokens_per_minute: 500")
    result = result_of(tmp_path, *write_trace(tmp_path, [(0, 501, 1), (1000, 100, 1)]))
    assert result["refusals"] == [{"kind": "tokens", "scope": "key", "limit": 500, "too_large": True, "requests": 1}]
    assert result["admitted"] == 1
    assert "too large" in simulate(tmp_path, "--trace", "load.csv").stdout


def test_a_cut_stream_and_a_hard_cap(tmp_path):
    load = write_trace(tmp_path, [(0, 3000, 4000)])
    write(tmp_path, key="tokens_per_minute: 6000, on_exceed: cut")
    result = result_of(tmp_path, *load, "--token-ms", "1")
    assert (result["admitted"], result["ended_early"], result["debt_tokens"]) == (1, 1, 0)
    assert 5900 < result["used_tokens"] < 7000
    write(tmp_path, key="tokens_per_minute: 6000, on_exceed: hard")
    assert result_of(tmp_path, *load)["refusals"][0]["too_large"] is True
    result = result_of(tmp_path, *load, "--cap", "2000")
    assert (result["admitted"], result["capped"], result["used_tokens"]) == (1, 1, 5000)


def test_real_traces_against_limits(tmp_path):
    write(tmp_path, tenant="tokens_per_minute: 200000", key="requests_per_minute: 300")
    result = result_of(tmp_path, "--trace", str(TRACES / "conv.csv"))
    assert result["requests"] == 11618
    assert result["admitted"] + sum(refusals(result).values()) == 11618
    assert refusals(result)["tokens", "tenant"] > 1000
    most = 200000 * (1 + result["seconds"] / 60)
    assert 0.9 * most < result["used_tokens"] <= most * 1.01
    assert result["debt_tokens"] == 0
    assert result["under_reserved_requests"] <= 0.12 * result["admitted"]
    again = result_of(tmp_path, "--trace", str(TRACES / "conv.csv"))
    assert again == result
    text = simulate(tmp_path, "--trace", str(TRACES / "code.csv")).stdout
    assert text.startswith("5290 requests in ")


def test_who_sends_it_can_be_left_out_only_when_it_is_clear(tmp_path):
    load = write_trace(tmp_path, [(0, 1, 1)])
    write(tmp_path, more=f"  globex: {{ keys: {{ one: {{ {OTHER_KEY} }} }} }}\n  nobody: {{}}\n")
    assert "there are 3 tenants: name one with --tenant" in simulate(tmp_path, *load, code=2).stderr
    assert result_of(tmp_path, *load, "--tenant", "globex")["key"] == "one"
    assert result_of(tmp_path, *load, "--tenant", "nobody")["key"] == ""
    assert result_of(tmp_path, *load, "--tenant", "acme", "--model", "small")["model"] == "gemma"
    for words, message in [
        (["--tenant", "globx"], '--tenant: there is no "globx"; did you mean "globex"?'),
        (["--tenant", "acme", "--key", "co"], '--key: the tenant "acme" has no "co"'),
        (["--tenant", "acme", "--model", "gema"], '--model: there is no "gema"; did you mean "gemma"?'),
    ]:
        done = simulate(tmp_path, *load, *words, code=2)
        assert message in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--trace FILE is missing"),
        (["--trace", "load.csv", "--token-ms", "fast"], '--token-ms: "fast" is no whole number from 0 to 60000'),
        (["--trace", "load.csv", "--cap", "0"], '--cap: "0" is no whole number from 1 to 1000000000'),
        (["--tracee", "load.csv"], 'did you mean "--trace"?'),
    ],
)
def test_usage_errors(words, message, tmp_path):
    write(tmp_path)
    write_trace(tmp_path, [(0, 1, 1)])
    done = simulate(tmp_path, *words, code=2)
    assert message in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "content, message",
    [
        ("arrival,input\n1,2\n", "load.csv:1: the first line must name the columns TIMESTAMP, "),
        (HEADER + "1,2,3\n1,x,3\n", 'load.csv:3: "x" is no number of input tokens'),
        (HEADER + "1,2,3\n\n1,2\n", "load.csv:4: 2 fields, but the first line has 3"),
        (HEADER, "load.csv: there is no request in it"),
        (HEADER + "y" * 10000, "load.csv:2: a line of more than 4096 bytes"),
    ],
)
def test_a_bad_trace_is_refused_by_file_and_line(content, message, tmp_path):
    write(tmp_path)
    tmp_path.joinpath("load.csv").write_text(content)
    done = simulate(tmp_path, "--trace", "load.csv", "--json", code=1)
    assert done.stderr.startswith(f"tollgate simulate: {message}")
    assert done.stdout == ""


def test_a_bad_configuration_or_no_file_is_said(tmp_path):
    write(tmp_path, key="requests_per_minut: 1")
    load = write_trace(tmp_path, [(0, 1, 1)])
    assert "tollgate.yaml:5:" in simulate(tmp_path, *load, code=1).stderr
    write(tmp_path)
    assert "nothing.csv: No such file or directory" in simulate(tmp_path, "--trace", "nothing.csv", code=1).stderr


def test_nothing_is_contacted_or_written(tmp_path):
    write(tmp_path, key="requests_per_minute: 10")
    load = write_trace(tmp_path, [(0, 1, 1)])
    before = sorted(path.name for path in tmp_path.iterdir())
    simulate(tmp_path, *load)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
