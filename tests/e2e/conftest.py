"""Fixtures. A test that kills or reloads its gateway makes one with make_gateway; the others share one.

Environment: see support/paths.py (TOLLGATE is the binary; SLOWNESS multiplies every bound, for sanitizers)."""

import pathlib
import shutil
import tempfile

import pytest
from support import paths
from support.engine import ScriptedEngine, SpawnedEngine
from support.gateway import Gateway, Key

LOG_LINES_SHOWN = 25


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: waits for a deadline of the product (5 s or more)")
    config.addinivalue_line("markers", "real: needs the real engine and its model")
    config.addinivalue_line("markers", "node: needs Node and tests/node installed")
    if not config.getoption("--timeout", None):
        config.option.timeout = 120 * paths.SLOWNESS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            for gateway in value if isinstance(value, list) else [getattr(value, "gateway", value)]:
                if isinstance(gateway, Gateway) and gateway.log_file.exists():
                    lines = gateway.log_text().splitlines()[-LOG_LINES_SHOWN:]
                    report.sections.append((f"log of the gateway ({name})", "\n".join(lines)))
    return report


def _short_directory():
    """Short, because unix socket paths are limited."""
    return pathlib.Path(tempfile.mkdtemp(prefix="tg-"))


@pytest.fixture
def directory():
    made = _short_directory()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_directory():
    made = _short_directory()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def gateways():
    """Those of this test, for the report of a failure."""
    return []


@pytest.fixture
def make_engine(directory):
    """make_engine(name, **options of ScriptedEngine): stopped after the test."""
    made = []

    def make(name="engine", **options):
        made.append(ScriptedEngine(directory, name, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.stop()


@pytest.fixture
def make_gateway(directory, gateways, request):
    """make_gateway(config, …of Gateway): after the test it must end cleanly, unless it has ended already."""

    def make(config, **options):
        key = options.pop("key", None) or Key("test-key-of-one-gateway")
        config.setdefault("tenants", {"acme": {"keys": {"ci": key.yaml()}}})
        gateways.append(Gateway(directory / f"g{len(gateways)}", config, key=key, **options))
        return gateways[-1]

    yield make
    failures = []
    for gateway in gateways:
        try:
            gateway.stop()
        except Exception as failure:
            failures.append(failure)
        finally:
            gateway.end_now()
    if failures:
        raise failures[0]


# ---- the shared gateway ----


class Keys:
    """The shared gateway's keys. Their texts are canaries: they must appear nowhere."""

    full = Key("tg_test_canaryfull_0123456789abcdef")
    chat_only = Key("tg_test_canarychat_0123456789abcdef", scopes={"endpoints": ["chat"]})
    narrow = Key("tg_test_canarynarrow_0123456789abcdef", scopes={"models": ["vllm", "open*"]}, user="nina")
    expired = Key("tg_test_canaryexpired_0123456789abcdef", expires="2020-01-01T00:00:00Z")
    disabled = Key("tg_test_canarydisabled_0123456789abcdef", disabled=True)
    of_disabled_tenant = Key("tg_test_canarytenant_0123456789abcdef")
    of_scoped_tenant = Key("tg_test_canaryscoped_0123456789abcdef", scopes={"models": ["*"]})
    unknown = Key("tg_test_canaryunknown_0123456789abcdef")


class Engines:
    """The shared gateway's scripted engines."""

    def __init__(self, directory):
        def remote(name, **options):
            return ScriptedEngine(directory, name, model=options.pop("model", name), **options)

        self.vllm = remote("vllm", dialect="vllm", comment_interval_ms=200)
        self.openai = remote("openai")
        self.llamacpp = remote("llamacpp", dialect="llamacpp")
        self.first = remote("first", model="pair")
        self.second = remote("second", model="pair")
        self.narrow = remote("narrow")
        self.quick = remote("quick")
        self.renamed = remote("renamed", model="org/served name")
        self.with_key = remote("with_key")
        self.spawned = SpawnedEngine(directory, "spawned", model="spawned")

    def each_remote(self):
        return [engine for engine in vars(self).values() if isinstance(engine, ScriptedEngine)]


API_KEY_OF_ENGINE = "canary-engine-api-key-0123456789"


def shared_config(engines, directory):
    api_key = pathlib.Path(directory) / "engine.key"
    api_key.write_text(API_KEY_OF_ENGINE + "\n")
    api_key.chmod(0o600)
    quick = {"connect": "1s", "first_token": "1s", "inter_chunk": "1s", "total": "4s"}
    return {
        "workers": 2,
        "models": {
            "vllm": {"aliases": ["small", "gpt-small"], "engines": [engines.vllm.yaml()]},
            "openai": {"engines": [engines.openai.yaml()]},
            "llamacpp": {"engines": [engines.llamacpp.yaml()]},
            "pair": {"engines": [engines.first.yaml(), engines.second.yaml()], "timeouts": quick},
            "narrow": {
                "engines": [engines.narrow.yaml(max_in_flight=1)],
                "queue": {"length": 3, "wait": "2s"},
            },
            "quick": {"engines": [engines.quick.yaml()], "timeouts": quick},
            "renamed": {
                "engine_model": "org/served name",
                "max_output_tokens": 100,
                "default_max_tokens": 5,
                "engines": [engines.renamed.yaml()],
            },
            "with_key": {"engines": [engines.with_key.yaml(api_key_file=str(api_key))]},
            "spawned": {"engines": [engines.spawned.yaml()]},
        },
        "tenants": {
            "acme": {
                "keys": {
                    "full": Keys.full.yaml(),
                    "chat-only": Keys.chat_only.yaml(),
                    "narrow": Keys.narrow.yaml(),
                    "expired": Keys.expired.yaml(),
                    "disabled": Keys.disabled.yaml(),
                }
            },
            "closed": {"disabled": True, "keys": {"ci": Keys.of_disabled_tenant.yaml()}},
            "scoped": {
                "scopes": {"models": ["llama*"], "endpoints": ["completions", "models"]},
                "keys": {"ci": Keys.of_scoped_tenant.yaml()},
            },
        },
    }


@pytest.fixture(scope="session")
def keys():
    return Keys


@pytest.fixture(scope="session")
def engines(shared_directory):
    made = Engines(shared_directory)
    yield made
    for engine in made.each_remote():
        engine.stop()


@pytest.fixture(scope="session")
def gateway(shared_directory, engines):
    config = shared_config(engines, shared_directory)
    shared = Gateway(shared_directory / "shared", config, key=Keys.full)
    yield shared
    try:
        shared.stop()
    finally:
        shared.end_now()
