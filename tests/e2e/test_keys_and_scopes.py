"""Who may call what, and what the others hear."""

import re

import pytest
from support.gateway import Key, openai_error

BAD = ["unknown", "expired", "disabled", "of_disabled_tenant"]


def without_request_id(answer):
    """Status, headers and body as they came, the request's own numbers taken out."""
    own = {"x-request-id", "openai-processing-ms", "date"}
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in own)
    body = answer.text.replace(answer.headers["x-request-id"], "ID")
    return answer.status_code, headers, body


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/models/vllm"]
)
def test_every_bad_key_gets_the_same_401_bytes(gateway, keys, path):
    method = "GET" if "models" in path else "POST"
    body = None if method == "GET" else {"model": "vllm", "prompt": "x", "messages": [], "input": "x"}

    def ask(headers):
        return gateway.client.request(method, path, json=body, headers=headers)

    bad = [getattr(keys, name) for name in BAD] + [
        Key(keys.full.bearer + "x"),
        Key(keys.full.bearer[:-1]),
        Key(keys.full.bearer.upper()),
        Key("x"),
        Key("a" * 3000),
        Key("a.b.c"),
    ]
    answers = [ask(key.headers) for key in bad]
    answers += [
        ask({}),
        ask({"authorization": ""}),
        ask({"authorization": "Basic dTpw"}),
        ask({"authorization": keys.full.bearer}),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({str(without_request_id(answer)) for answer in answers}) == 1, [
        without_request_id(answer) for answer in answers
    ]
    error = openai_error(answers[0])
    assert "Incorrect API key provided" in error["message"], "LiteLLM goes by this text"
    assert error["code"] == "invalid_api_key"
    assert "bearer" in answers[0].headers["www-authenticate"].lower()


def test_a_bad_key_is_not_echoed(gateway, keys):
    for key in (keys.unknown, keys.expired):
        assert key.bearer not in gateway.get("/v1/models", key=key).text


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}"])
def test_the_scheme_is_not_case_sensitive(gateway, keys, form):
    answer = gateway.client.get("/v1/models", headers={"authorization": form.format(keys.full.bearer)})
    assert answer.status_code == 200


def test_a_key_in_the_query_is_no_key(gateway, keys):
    for name in ("api_key", "key", "token"):
        assert gateway.client.get(f"/v1/models?{name}={keys.full.bearer}").status_code == 401


def test_a_key_without_the_models_scope_gets_403(gateway, keys, engines):
    for answer in (
        gateway.complete("llamacpp", key=keys.narrow),
        gateway.chat("pair", key=keys.narrow),
        gateway.post("/v1/embeddings", {"model": "llamacpp", "input": "x"}, keys.narrow),
        gateway.complete("vllm", key=keys.of_scoped_tenant),
    ):
        assert answer.status_code == 403
        assert openai_error(answer)["type"] == "permission_error", "LiteLLM goes by this type"
        assert answer.headers["x-should-retry"] == "false"
        for engine in engines.each_remote():
            assert engine.counts(answer.headers["x-request-id"]) == []
    assert gateway.complete("openai", key=keys.narrow, max_tokens=1).status_code == 200
    assert gateway.complete("llamacpp", key=keys.of_scoped_tenant, max_tokens=1).status_code == 200


def test_the_scope_holds_for_the_model_behind_an_alias(gateway, keys):
    assert gateway.complete("small", key=keys.narrow, max_tokens=1).status_code == 200
    assert gateway.complete("small", key=keys.of_scoped_tenant, max_tokens=1).status_code == 403


def test_a_key_without_the_endpoints_scope_gets_403(gateway, keys):
    assert gateway.chat("vllm", key=keys.chat_only, max_tokens=1).status_code == 200
    for answer in (
        gateway.complete("vllm", key=keys.chat_only),
        gateway.post("/v1/embeddings", {"model": "vllm", "input": "x"}, keys.chat_only),
        gateway.get("/v1/models", key=keys.chat_only),
        gateway.chat("llamacpp", key=keys.of_scoped_tenant),
    ):
        assert answer.status_code == 403
        assert openai_error(answer)["type"] == "permission_error"


def test_a_tenants_scope_bounds_its_keys(gateway, keys):
    assert gateway.complete("vllm", key=keys.of_scoped_tenant).status_code == 403


def test_the_user_is_the_keys_and_not_the_bodys(gateway, keys):
    answer = gateway.complete("vllm", key=keys.narrow, max_tokens=1, user="mallory")
    line = gateway.request_line(answer.headers["x-request-id"])
    assert "mallory" not in line.values() and "nina" in line.values()


def test_keys_of_another_file_work(make_gateway, make_engine, directory):
    key, other = Key("tg_test_from_the_keys_file_0001"), Key("tg_test_from_the_keys_file_0002")
    keys_file = directory / "keys"
    keys_file.write_text(
        "# made by hand\n"
        f"acme ci {key.yaml()['sha256']} user=robot models=m,n* endpoints=completions,models\n\n"
        f"acme old {other.yaml()['sha256']} disabled\n"
    )
    keys_file.chmod(0o600)
    config = {
        "models": {name: {"engines": [make_engine(name, model=name).yaml()]} for name in ("m", "x")},
        "keys_file": str(keys_file),
        "tenants": {"acme": {}},
    }
    own = make_gateway(config, key=key)
    assert own.complete("m", max_tokens=1).status_code == 200
    assert own.complete("x", max_tokens=1).status_code == 403
    assert own.chat("m", max_tokens=1).status_code == 403
    assert own.complete("m", key=other).status_code == 401


def test_the_request_id_of_a_401_is_in_the_log_without_the_key(gateway, keys):
    answer = gateway.get("/v1/models", key=keys.unknown)
    line = gateway.request_line(answer.headers["x-request-id"])
    assert 401 in line.values()
    assert not re.search("canary", str(line))
