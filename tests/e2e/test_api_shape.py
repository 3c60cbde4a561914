"""What clients of OpenAI's API find: routes, bodies, headers, errors."""

import json

import pytest
from support.gateway import openai_error


def test_completions_answer_what_the_engine_said(gateway, engines):
    answer = gateway.complete("vllm", max_tokens=3)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["choices"][0]["text"] == "tok0 tok1 tok2 "
    assert body["usage"]["completion_tokens"] == engines.vllm.generated(answer.headers["x-request-id"]) == 3


def test_chat_completions_answer_what_the_engine_said(gateway):
    answer = gateway.chat("vllm", "[[tokens=2]]", max_tokens=9)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "tok0 tok1 "


@pytest.mark.parametrize("model", ["vllm", "openai", "llamacpp", "spawned"])
def test_embeddings_as_floats_and_as_base64(gateway, model):
    for form, kind in (("float", list), ("base64", str)):
        answer = gateway.post("/v1/embeddings", {"model": model, "input": ["a", "b"], "encoding_format": form})
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert [type(each["embedding"]) for each in data] == [kind, kind]


def test_every_answer_carries_an_id_and_the_time_it_took(gateway, keys):
    answers = [
        gateway.complete("vllm", max_tokens=1),
        gateway.complete("no-such-model"),
        gateway.get("/v1/models"),
        gateway.get("/v1/models", key=keys.unknown),
        gateway.get("/v1/nothing"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(len(each) >= 8 for each in ids) and len(set(ids)) == len(ids), ids
    for answer in answers:
        assert int(answer.headers["openai-processing-ms"]) >= 0


def test_the_engine_gets_the_request_id_and_not_the_clients(gateway, engines):
    answer = gateway.complete("vllm", max_tokens=1, headers={"x-request-id": "chosen-by-the-client"})
    assert answer.headers["x-request-id"] != "chosen-by-the-client"
    assert len(engines.vllm.seen(answer.headers["x-request-id"])) == 1


def test_an_alias_is_the_model(gateway, engines):
    for name in ("small", "gpt-small"):
        answer = gateway.complete(name, max_tokens=1)
        assert answer.status_code == 200
        assert engines.vllm.seen_body(answer.headers["x-request-id"])["model"] == "vllm"


def test_the_engines_name_of_the_model_is_spliced_in(gateway, engines):
    answer = gateway.complete("renamed")
    assert answer.status_code == 200
    assert engines.renamed.seen_body(answer.headers["x-request-id"])["model"] == "org/served name"
    assert answer.json()["model"] == "org/served name", "the answer keeps the engine's name"


def test_a_body_passes_with_its_bytes_unchanged_but_for_the_model(gateway, engines):
    body = (
        b' { "seed":1,\n\t"model" : "small",  "prompt":"\xc3\xa4 \\u00e4 \\ud83d\\ude00 \\"q\\" [[tokens=2]]",'
        b' "max_tokens":2,"logprobs":null , "ignore_eos":true,"repetition_penalty":1.10,'
        b'"x":{"y":[1,2.50,-0,1e3,{}],"":null}, "stop":["\\n"] } '
    )
    answer = gateway.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    assert engines.vllm.seen(answer.headers["x-request-id"])[-1]["body"] == body.replace(b'"small"', b'"vllm"')


def test_a_missing_token_cap_is_spliced_in(gateway, engines):
    def cap_sent(answer, name="max_tokens"):
        assert answer.status_code == 200, answer.text
        return engines.renamed.seen_body(answer.headers["x-request-id"]).get(name)

    assert cap_sent(gateway.complete("renamed")) == 5, "completions: the model's default_max_tokens"
    assert cap_sent(gateway.complete("renamed", max_tokens=None)) == 5, "an explicit null is no cap"
    assert cap_sent(gateway.chat("renamed")) == 100, "chat: the model's max_output_tokens"
    assert cap_sent(gateway.chat("renamed", max_tokens=7)) == 7
    answer = gateway.chat("renamed", max_completion_tokens=8)
    assert cap_sent(answer, "max_completion_tokens") == 8
    assert cap_sent(answer) is None, "one cap is enough"


def test_completions_default_to_16_tokens(gateway, engines):
    answer = gateway.complete("vllm", "[[tokens=50]]")
    assert engines.vllm.generated(answer.headers["x-request-id"]) == 16


def test_a_cap_above_the_models_maximum_is_refused_or_lowered(gateway, engines):
    answer = gateway.complete("renamed", max_tokens=101)
    if answer.status_code == 200:
        assert engines.renamed.seen_body(answer.headers["x-request-id"])["max_tokens"] == 100
    else:
        assert answer.status_code == 400
        assert openai_error(answer)["param"] == "max_tokens"


def test_no_client_header_reaches_the_engine_unasked(gateway, engines):
    answer = gateway.complete(
        "vllm", max_tokens=1, headers={"x-secret": "s", "cookie": "c=1", "x-forwarded-for": "1.2.3.4"}
    )
    headers = engines.vllm.seen(answer.headers["x-request-id"])[-1]["headers"]
    assert not {"authorization", "cookie", "x-secret", "x-forwarded-for"} & set(headers), headers


def test_an_engine_with_a_key_gets_its_own_key(gateway, engines):
    answer = gateway.complete("with_key", max_tokens=1)
    assert answer.status_code == 200
    headers = engines.with_key.seen(answer.headers["x-request-id"])[-1]["headers"]
    assert headers["authorization"] == "Bearer canary-engine-api-key-0123456789"


# ---- models ----


def test_models_are_listed_in_openais_shape(gateway):
    body = gateway.get("/v1/models").json()
    assert body["object"] == "list"
    for model in body["data"]:
        assert set(model) >= {"id", "object", "created", "owned_by"}
        assert model["object"] == "model" and isinstance(model["created"], int)
    names = [model["id"] for model in body["data"]]
    assert {"vllm", "openai", "llamacpp", "spawned", "pair"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_model_is_retrieved_by_name_and_by_alias(gateway):
    for name in ("vllm", "small"):
        answer = gateway.get(f"/v1/models/{name}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["object"] == "model"
    missing = gateway.get("/v1/models/nope")
    assert (missing.status_code, openai_error(missing)["code"]) == (404, "model_not_found")


def test_models_are_listed_within_the_scope(gateway, keys):
    def names(key):
        return {model["id"] for model in gateway.get("/v1/models", key=key).json()["data"]}

    assert names(keys.narrow) <= {"vllm", "openai", "small", "gpt-small"} and {"vllm", "openai"} <= names(keys.narrow)
    assert names(keys.of_scoped_tenant) == {"llamacpp"}
    assert gateway.get("/v1/models/llamacpp", key=keys.narrow).status_code in (403, 404)
    assert gateway.get("/v1/models/vllm", key=keys.narrow).status_code == 200


# ---- refusals ----


def test_an_unknown_model_is_404(gateway):
    for answer in (
        gateway.complete("nope"),
        gateway.chat("nope"),
        gateway.post("/v1/embeddings", {"model": "nope", "input": "x"}),
    ):
        assert answer.status_code == 404
        error = openai_error(answer)
        assert error["code"] == "model_not_found" and "nope" in error["message"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/audio/speech", "/v1/files", "/v1/images/generations"])
def test_known_routes_that_are_not_served_say_what_is(gateway, path):
    answer = gateway.post(path, {"model": "vllm"})
    assert answer.status_code == 404
    message = openai_error(answer)["message"]
    assert "/v1/chat/completions" in message, message


def test_unknown_routes_are_404(gateway):
    for path in ("/", "/v1", "/v2/completions", "/v1/completions/", "/admin/v1/engines", "/metrics", "/__seen"):
        answer = gateway.get(path)
        assert answer.status_code == 404, path
        openai_error(answer)


def test_wrong_methods_are_405_and_say_which_are_right(gateway):
    for method, path, allowed in (
        ("GET", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/vllm", "GET"),
    ):
        answer = gateway.client.request(method, path, headers=gateway.headers())
        assert answer.status_code == 405, (method, path)
        assert allowed in answer.headers["allow"]
        openai_error(answer)


def test_options_is_answered_without_opening_the_api_to_browsers(gateway):
    answer = gateway.client.options("/v1/chat/completions", headers={"origin": "https://evil.example"})
    assert answer.status_code < 500
    assert "access-control-allow-origin" not in answer.headers


def test_health_needs_no_key(gateway):
    assert gateway.client.get("/health").status_code == 200


BAD_BODIES = {
    "no JSON": b"{nope",
    "empty": b"",
    "a list": b"[]",
    "cut": b'{"model":"vllm","prompt":"x"',
    "two values": b'{"model":"vllm","prompt":"x"} {}',
    "no model": b'{"prompt":"x"}',
    "model is a number": b'{"model":1,"prompt":"x"}',
    "no prompt": b'{"model":"vllm"}',
    "model twice": b'{"model":"vllm","prompt":"x","model":"openai"}',
    "model in other letters": b'{"model":"vllm","prompt":"x","Model":"openai"}',
    "negative cap": b'{"model":"vllm","prompt":"x","max_tokens":-1}',
    "cap is text": b'{"model":"vllm","prompt":"x","max_tokens":"many"}',
    "cap is a fraction": b'{"model":"vllm","prompt":"x","max_tokens":1.5}',
    "cap without end": b'{"model":"vllm","prompt":"x","max_tokens":99999999999999999999}',
    "129 choices": b'{"model":"vllm","prompt":"x","n":129}',
    "no choices": b'{"model":"vllm","prompt":"x","n":0}',
    "stream is text": b'{"model":"vllm","prompt":"x","stream":"yes"}',
    "deep": b'{"model":"vllm","prompt":"x","d":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "broken UTF-8": b'{"model":"vllm","prompt":"\xff\xfe"}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_400_and_never_reaches_an_engine(gateway, engines, name):
    answer = gateway.post("/v1/completions", BAD_BODIES[name])
    assert answer.status_code == 400, answer.text
    openai_error(answer)
    assert engines.vllm.counts(answer.headers["x-request-id"]) == []


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "custom_host", "extra_headers"])
def test_a_body_may_not_choose_the_upstream(gateway, field):
    answer = gateway.complete("vllm", **{field: "http://127.0.0.1:1"})
    assert answer.status_code == 400
    assert field in openai_error(answer)["message"] or openai_error(answer)["param"] == field


def test_null_counts_as_absent(gateway):
    answer = gateway.complete("vllm", max_tokens=1, n=None, stream=None, stream_options=None, logprobs=None, seed=None)
    assert answer.status_code == 200, answer.text


def test_refusals_for_good_say_so_and_others_when_to_come_back(gateway, engines, keys):
    for answer in (
        gateway.complete("nope"),
        gateway.get("/v1/models", key=keys.unknown),
        gateway.complete("vllm", max_tokens=-1),
    ):
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
    busy = gateway.complete("quick", "[[fault=status=503]]")
    assert busy.status_code == 503
    assert int(busy.headers["retry-after"]) >= 1
    assert int(busy.headers["retry-after-ms"]) >= 1
    assert busy.headers.get("x-should-retry") != "false"


def test_a_refused_request_keeps_its_connection(gateway):
    with gateway.wire() as wire:
        for _ in range(3):
            gateway.send(wire, "/v1/completions", {"model": "nope", "prompt": "x"})
            assert json.loads(wire.read_answer())["error"]["code"] == "model_not_found"
        gateway.send(wire, "/v1/completions", {"model": "vllm", "prompt": "x", "max_tokens": 1})
        wire.read_answer()
        assert wire.status == 200


def test_requests_in_one_packet_are_answered_in_order(gateway):
    with gateway.wire() as wire:
        for tokens in (1, 2, 3):
            gateway.send(wire, "/v1/completions", {"model": "vllm", "prompt": "x", "max_tokens": tokens})
        found = [json.loads(wire.read_answer())["usage"]["completion_tokens"] for _ in range(3)]
    assert found == [1, 2, 3]


def test_several_choices_and_prompts_come_through(gateway):
    several = gateway.complete("vllm", max_tokens=2, n=3)
    assert [choice["index"] for choice in several.json()["choices"]] == [0, 1, 2]
    many = gateway.complete("llamacpp", ["a", "b"], max_tokens=2)
    assert len(many.json()["choices"]) == 2


def test_an_engines_refusal_is_passed_on_in_openais_shape(gateway):
    for model in ("vllm", "llamacpp", "openai"):
        answer = gateway.complete(model, "[[fault=status=400]]")
        assert answer.status_code == 400
        assert "scripted status" in openai_error(answer)["message"]
