"""The scripted engine (tests/tools/scripted_engine.c) as a process, and the view of one that the gateway spawned."""

import json
import pathlib
import re
import subprocess

import httpx

from . import paths, processes
from .waiting import wait_until


class EngineFacts:
    """What a scripted engine wrote down, whoever started it. Needs `count_file` and `client`."""

    def counts(self, request_id=None):
        """Lines of its own count: {id, serial, endpoint, event, tokens, at_ms}."""
        if not self.count_file.exists():
            return []
        lines = [json.loads(line) for line in self.count_file.read_text().splitlines()]
        return [line for line in lines if request_id is None or line["id"] == request_id]

    def events(self, request_id):
        return [line["event"] for line in self.counts(request_id)]

    def generated(self, request_id):
        """Output tokens (of each choice) it generated for the request, over all attempts."""
        last = {}
        for line in self.counts(request_id):
            if line["event"] == "token":
                last[line["serial"]] = line["tokens"]
        return sum(last.values())

    def input_tokens(self, request_id):
        return next(line["tokens"] for line in self.counts(request_id) if line["event"] == "begin")

    def attempts(self, request_id):
        """How often the request was on the wire."""
        return len({line["serial"] for line in self.counts(request_id)})

    def wait_for_event(self, request_id, event, seconds=5.0):
        return wait_until(
            lambda: next((line for line in self.counts(request_id) if line["event"] == event), None),
            f"{event!r} of {request_id} in the engine's count: {self.counts(request_id)}",
            seconds,
        )

    def seen(self, request_id=None):
        """The last 100 requests as they came: {connection, method, path, http, headers, body}; body as exact bytes."""
        found = self.client.get("/__seen").json()["requests"]
        for request in found:
            request["body"] = request["body"].encode("latin-1")
        return [each for each in found if request_id is None or each["headers"].get("x-request-id") == request_id]

    def seen_body(self, request_id):
        return json.loads(self.seen(request_id)[-1]["body"])

    def state(self):
        return self.client.get("/__state").json()

    def fault(self, name=""):
        """From now on every request has this fault; "" = none."""
        self.client.post("/__fault", content=name)

    def release(self):
        self.client.post("/__release")


class ScriptedEngine(EngineFacts):
    """A remote one: ours to start and stop."""

    def __init__(self, directory, name="engine", dialect="openai", model="scripted", **options):
        self.count_file = pathlib.Path(directory) / f"{name}.count"
        self.log_file = pathlib.Path(directory) / f"{name}.log"
        self.dialect, self.model = dialect, model
        self.arguments = [str(paths.SCRIPTED_ENGINE), "--dialect", dialect, "--model", model]
        self.arguments += ["--count-file", str(self.count_file)]
        self.socket = options.get("socket")  # instead of a port
        for option, value in options.items():
            self.arguments += [f"--{option.replace('_', '-')}"] + ([] if value is True else [str(value)])
        self.port, self.process = 0, None
        self.start()

    def start(self):
        with self.log_file.open("ab") as log:
            log.truncate(0)
            arguments = self.arguments + ([] if self.socket else ["--port", str(self.port)])
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        found = wait_until(self._listening, f"the scripted engine: {self.log_file.read_text()}")
        self.port = int(found[1] or 0)
        transport = httpx.HTTPTransport(uds=str(self.socket) if self.socket else None)
        self.client = httpx.Client(base_url=self.url, transport=transport, timeout=10 * paths.SLOWNESS)

    def _listening(self):
        return re.search(r"listening on (?:127\.0\.0\.1:(\d+)|/)", self.log_file.read_text())

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def yaml(self, **more):
        return {"url": self.url, "dialect": self.dialect, **more}

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.client.close()


class SpawnedEngine(EngineFacts):
    """One that the gateway starts from its YAML."""

    def __init__(self, directory, name, dialect="llamacpp", model="scripted", **options):
        self.count_file = pathlib.Path(directory) / f"{name}.count"
        self.dialect, self.model, self.options = dialect, model, options

    def yaml(self, **more):
        arguments = [str(paths.SCRIPTED_ENGINE), "--socket", "{socket}", "--dialect", self.dialect]
        arguments += ["--model", self.model, "--count-file", str(self.count_file)]
        for option, value in self.options.items():
            arguments += [f"--{option.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return {"spawn": arguments, "dialect": self.dialect, **more}

    @property
    def pid(self):
        """Found by its command line, so that it is the operating system's word and not the gateway's."""
        wanted = str(self.count_file).encode()
        found = [
            int(entry.name)
            for entry in pathlib.Path("/proc").iterdir()
            if entry.name.isdigit()
            and wanted in processes.command_line(entry.name)
            and processes.is_alive(entry.name)
            and b"--socket" in processes.command_line(entry.name)
        ]
        return min(found, default=None)

    @property
    def socket_path(self):
        line = processes.command_line(self.pid)
        return line[line.index(b"--socket") + 1].decode()

    @property
    def client(self):
        transport = httpx.HTTPTransport(uds=self.socket_path)
        return httpx.Client(base_url="http://engine", transport=transport, timeout=10 * paths.SLOWNESS)
