"""The official clients for Python and Node, as people use them."""

import pytest
from support.official import AsyncPythonClient, Failure, NodeClient, PythonClient
from support.waiting import wait_until

CLIENTS = {"python": PythonClient, "python-async": AsyncPythonClient, "node": NodeClient}
MODELS = ["vllm", "llamacpp", "openai"]


@pytest.fixture(params=CLIENTS, ids=list(CLIENTS))
def make_client(request, gateway, keys):
    def make(key=keys.full, **options):
        return CLIENTS[request.param](gateway.url, key.bearer, **options)

    return make


@pytest.fixture
def client(make_client):
    return make_client()


def words(text):
    return [{"role": "user", "content": text}]


def text_of(chunks):
    return "".join(
        choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        for chunk in chunks
        for choice in chunk["choices"]
    )


@pytest.mark.parametrize("model", MODELS)
def test_completions(client, model):
    answer = client.complete(model=model, prompt="hi", max_tokens=3)
    assert answer["choices"][0]["text"] == "tok0 tok1 tok2 "
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("model", MODELS)
def test_chat(client, model):
    answer = client.chat(model=model, messages=words("[[tokens=2]]"))
    assert answer["choices"][0]["message"]["content"] == "tok0 tok1 "


@pytest.mark.parametrize("model", MODELS)
def test_streams(client, model):
    for chat in (True, False):
        body = {"messages": words("[[tokens=4]]")} if chat else {"prompt": "[[tokens=4]]"}
        chunks = client.stream(chat=chat, model=model, **body)
        assert text_of(chunks) == "tok0 tok1 tok2 tok3 "
        assert not [chunk for chunk in chunks if chunk.get("usage")]
        chunks = client.stream(chat=chat, model=model, stream_options={"include_usage": True}, **body)
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")] == [4]


@pytest.mark.parametrize("model", MODELS)
def test_embeddings_come_as_base64_unasked(client, model):
    by_default = client.embed(model=model, input=["a", "b"])
    as_floats = client.embed(model=model, input=["a", "b"], encoding_format="float")
    assert len(by_default) == 2
    assert by_default[1] == pytest.approx(as_floats[1], rel=1e-5)


def test_models_are_listed_and_retrieved(client):
    assert {"vllm", "llamacpp"} <= set(client.models())
    assert client.model("vllm") == "vllm"
    with pytest.raises(Failure) as failure:
        client.model("nope")
    assert (failure.value.name, failure.value.code) == ("NotFoundError", "model_not_found")


def test_the_request_id_is_found(client, engines):
    request_id = client.request_id(model="vllm", prompt="x", max_tokens=1)
    assert engines.vllm.attempts(request_id) == 1


def test_an_abort_reaches_the_engine(client, engines):
    before = len([line for line in engines.openai.counts() if line["event"] == "gone"])
    chunks = client.stream(
        stop_after=2, model="openai", messages=words("[[tokens=2000]][[interval_ms=20]]"), max_tokens=2000
    )
    assert len(chunks) == 2
    wait_until(
        lambda: len([line for line in engines.openai.counts() if line["event"] == "gone"]) == before + 1,
        "the engine to hear of it",
    )


ERRORS = {
    "AuthenticationError": ("unknown", {"model": "vllm"}),
    "PermissionDeniedError": ("narrow", {"model": "llamacpp"}),
    "NotFoundError": ("full", {"model": "nope"}),
    "BadRequestError": ("full", {"model": "vllm", "max_tokens": -1}),
    "InternalServerError": ("full", {"model": "quick", "prompt": "[[fault=status=500]]"}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_classes(make_client, keys, name):
    key, body = ERRORS[name]
    with pytest.raises(Failure) as failure:
        make_client(getattr(keys, key), max_retries=2).complete(**{"prompt": "x", **body})
    assert failure.value.name == name
    assert failure.value.request_id


def test_an_error_in_a_stream_is_raised(client):
    with pytest.raises(Failure) as failure:
        client.stream(model="quick", messages=words("[[tokens=6]][[fault=close_after=2]]"))
    assert failure.value.name == "APIError"


def test_503_is_retried_until_it_works(make_client, engines):
    """The engine answers 503 to the first request, then serves."""
    client = make_client(max_retries=3, timeout=60)
    engines.quick.fault("status=503")
    import threading

    timer = threading.Timer(0.3, engines.quick.fault)
    timer.start()
    try:
        answer = client.complete(model="quick", prompt="retried", max_tokens=1)
    finally:
        timer.join()
    assert answer["choices"][0]["text"] == "tok0 "


def test_hard_refusals_are_not_retried(make_client, keys, gateway):
    before = gateway.metric_sum("tollgate_requests_total", code="403")
    with pytest.raises(Failure):
        make_client(keys.narrow, max_retries=3).complete(model="llamacpp", prompt="x")
    assert gateway.metric_sum("tollgate_requests_total", code="403") == before + 1
