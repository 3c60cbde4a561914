"""The real gateway as a process, with everything a test wants to ask it."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import httpx
import yaml

from . import paths, processes
from .waiting import wait_until
from .wire import Wire, events_of


class Key:
    """A bearer and the digest that goes into the YAML."""

    def __init__(self, bearer, **settings):
        self.bearer, self.settings = bearer, settings

    @property
    def headers(self):
        return {"authorization": f"Bearer {self.bearer}"}

    def yaml(self):
        return {"sha256": hashlib.sha256(self.bearer.encode()).hexdigest(), **self.settings}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _PlainDumper(yaml.SafeDumper):
    """Writes shared values out each time: the gateway refuses anchors."""

    def ignore_aliases(self, data):
        return True


class Gateway:
    """Starts `tollgate run --config` in @directory. @config: the YAML as a dictionary, without listeners and
    directories, which are added. @key: the default one of the request helpers."""

    def __init__(self, directory, config, key=None, wait=True, environment=None, binary=paths.TOLLGATE):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.key, self.binary = key, str(binary)
        self.port, self.admin_port = free_port(), free_port()
        self.file = self.directory / "tollgate.yaml"
        self.log_file = self.directory / "gateway.log"
        self.token_file = self.directory / "admin.token"
        self.token_file.write_text("admin-token-of-the-tests-0123456789\n")
        self.token_file.chmod(0o600)
        self.environment = {**os.environ, "REDIS_SERVER": str(paths.REDIS_SERVER), **(environment or {})}
        self.write_config(config)
        self.process = None
        self.client = httpx.Client(base_url=self.url, timeout=30 * paths.SLOWNESS)
        try:
            self.start(wait)
        except BaseException:
            self.end_now()
            raise

    # ---- life ----

    def write_config(self, config):
        self.config = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin_port}", "token_file": "admin.token"},
            "state_dir": "state",
            "runtime_dir": str(self.directory / "run"),
            "drain_timeout": "3s",
            **config,
        }
        self.write_raw(yaml.dump(self.config, Dumper=_PlainDumper, sort_keys=False))

    def write_raw(self, text):
        """Replace the file at once, as editors do."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.file)

    def start(self, wait=True):
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "run", "--config", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.directory,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=20.0):
        def ready():
            assert self.process.poll() is None, f"the gateway ended with {self.process.returncode}:\n{self.log_text()}"
            return self.readyz().status_code == 200 if self.answers_admin() else False

        wait_until(ready, "the gateway to be ready", seconds)

    def answers_admin(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.admin_port), timeout=1).close()
            return True
        return False

    def readyz(self, verbose=False):
        try:
            return httpx.get(f"{self.admin_url}/readyz" + ("?verbose" if verbose else ""), timeout=10 * paths.SLOWNESS)
        except httpx.TransportError as error:
            return httpx.Response(599, text=str(error))

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_end(self, seconds=15.0):
        return self.process.wait(timeout=seconds * paths.SLOWNESS)

    def stop(self):
        """A clean stop: exit status 0, nothing left behind, no sanitizer's word in the log."""
        if self.process is None or self.process.poll() is not None:
            self.check_log()
            return
        family = [(pid, processes.start_time(pid)) for pid in processes.descendants(self.process.pid)]
        self.terminate()
        try:
            status = self.wait_end()
        finally:
            self.end_now()
        left = [pid for pid, born in family if processes.is_alive(pid) and processes.start_time(pid) == born]
        assert status == 0, f"exit status {status}"
        assert left == [], f"left behind: {[(pid, processes.command_line(pid)) for pid in left]}"
        self.check_log()

    def end_now(self):
        """Whatever the state: nothing of it runs afterwards."""
        if self.process is None:
            return
        family = processes.descendants(self.process.pid)
        processes.kill_quietly(self.process.pid)
        for pid in family:
            processes.kill_quietly(pid)
        self.process.wait()
        self.client.close()

    def check_log(self):
        text = self.log_text()
        for word in ("Sanitizer", "runtime error:", "ENSURE", "Assertion"):
            assert word not in text, f"{word} in the log:\n{text[-4000:]}"

    # ---- processes ----

    @property
    def master_pid(self):
        return self.process.pid

    def gateway_pid(self):
        """The child of the master that is the same binary; None while there is none."""
        program = processes.executable(self.process.pid)
        children = processes.descendants(self.process.pid) if program else []
        return next((pid for pid in children if processes.executable(pid) == program), None)

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def reload_counts(self):
        metrics = self.metrics()
        return tuple(
            metrics.get(f'tollgate_config_reloads_total{{result="{result}"}}', 0) for result in ("accepted", "refused")
        )

    def reload_and_wait(self, accepted=True):
        """SIGHUP, then wait until the metric says what came of it."""
        before = self.reload_counts()
        self.reload()
        index = 0 if accepted else 1
        wait_until(lambda: self.reload_counts() != before, f"the reload to end: {self.reload_counts()}", 10)
        after = self.reload_counts()
        assert after[index] == before[index] + 1, (
            f"reloads (accepted, refused) went {before} -> {after}:\n{self.log_text()[-3000:]}"
        )

    # ---- asking ----

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def headers(self, key=None, more=None):
        key = key or self.key
        return {**(key.headers if key else {}), **(more or {})}

    def get(self, path, key=None, headers=None, **options):
        return self.client.get(path, headers=self.headers(key, headers), **options)

    def post(self, path, body=None, key=None, headers=None, **options):
        if isinstance(body, bytes):
            headers = {"content-type": "application/json", **(headers or {})}
            return self.client.post(path, content=body, headers=self.headers(key, headers), **options)
        return self.client.post(path, json=body, headers=self.headers(key, headers), **options)

    def complete(self, model, prompt="hello", key=None, headers=None, **fields):
        return self.post("/v1/completions", {"model": model, "prompt": prompt, **fields}, key, headers)

    def chat(self, model, content="hello", key=None, headers=None, **fields):
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return self.post("/v1/chat/completions", body, key, headers)

    def wire(self, seconds=10.0):
        return Wire(("127.0.0.1", self.port), seconds)

    def send(self, wire, path, body, key=None, method="POST", version="1.1", **headers):
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        wire.request(method, path, body, {**self.headers(key), **extra}, version)

    def open_stream(self, model, content="hello", path="/v1/chat/completions", key=None, seconds=10.0, **fields):
        """A wire on which a streamed request was sent and the head of its answer was read."""
        wire = self.wire(seconds)
        what = {"messages": [{"role": "user", "content": content}]} if "chat" in path else {"prompt": content}
        self.send(wire, path, {"model": model, "stream": True, **what, **fields}, key)
        wire.read_head()
        return wire

    def stream(self, model, content="hello", path="/v1/chat/completions", key=None, seconds=10.0, **fields):
        """(wire, events) of a whole stream that was answered 200."""
        with self.open_stream(model, content, path, key, seconds, **fields) as wire:
            assert wire.status == 200, wire.read_body()
            return wire, events_of(wire.read_body())

    # ---- what it says about itself ----

    def admin(self, path, method="GET", token=True, **options):
        headers = {"authorization": f"Bearer {self.token_file.read_text().strip()}"} if token else {}
        return httpx.request(method, f"{self.admin_url}{path}", headers=headers, timeout=10 * paths.SLOWNESS, **options)

    def metrics_text(self):
        answer = httpx.get(f"{self.admin_url}/metrics", timeout=10 * paths.SLOWNESS)
        assert answer.status_code == 200, answer.text
        return answer.text

    def metrics(self):
        """{'name{label="value",…}': number}, as exposed."""
        found = {}
        for line in self.metrics_text().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
        return found

    def metric_sum(self, name, **labels):
        """The sum over all series of @name whose labels contain @labels."""
        total = 0.0
        for series, value in self.metrics().items():
            family, _, rest = series.partition("{")
            if family == name and all(f'{label}="{wanted}"' in rest for label, wanted in labels.items()):
                total += value
        return total

    def engines(self):
        """The instances of /admin/v1/engines, by name."""
        answer = self.admin("/admin/v1/engines")
        assert answer.status_code == 200, answer.text
        return {engine["name"]: engine for model in answer.json()["models"] for engine in model["engines"]}

    def engine_state(self, name):
        return self.engines()[name]["state"].upper()

    def log_text(self):
        return self.log_file.read_text(errors="replace")

    def log(self, event=None):
        """The JSON lines of the log (those of event @event)."""
        found = []
        for line in self.log_text().splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return [line for line in found if event is None or line.get("event") == event]

    def request_line(self, request_id, seconds=5.0):
        """The log line of a request."""
        return wait_until(
            lambda: next((line for line in self.log("request") if request_id in line.values()), None),
            f"a log line of request {request_id}",
            seconds,
        )

    def in_flight(self):
        return self.metric_sum("tollgate_engine_in_flight")

    def wait_idle(self, seconds=5.0):
        """Every slot is free again."""
        wait_until(lambda: self.in_flight() == 0, "all engine slots to be free", seconds)


def openai_error(answer):
    """The error object of an answer, checked for OpenAI's shape."""
    body = answer if isinstance(answer, dict) else answer.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert set(error) >= {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"], error
    assert isinstance(error["type"], str) and error["type"], error
    assert error["param"] is None or isinstance(error["param"], str), error
    assert error["code"] is None or isinstance(error["code"], str), error
    return error


def milliseconds():
    return time.monotonic() * 1000


REQUEST_ID = re.compile(r"^req_[A-Za-z0-9]{8,64}$")
