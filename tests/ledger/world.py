"""One gateway with everything around it, in a directory of its own: engines, a private Redis, a payment provider, a
clock and a disk that can be tampered with."""

import asyncio
import hashlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import wire

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEGMENT_BYTES = 48 * 1024  # full after some hundred requests
PORTS_FROM, PORTS = 20000, 12000  # below what the system gives away by itself
READY_SECONDS = 20
LIVE_MS = 10 * 60 * 1000  # so often the states of rows are told that they are in use
HOUR_MS, HOUR_AFTER_MS = 3600 * 1000, 7000
QUIET_SECONDS, QUIET_FOR_SECONDS = 45, 1.5

KEYS = {"acme-1": "acme", "acme-2": "acme", "bolt-1": "bolt"}
CUSTOMERS = {"acme": "cus_acme", "bolt": "cus_bolt"}
METERS = {
    "tokens_in": "input_tokens",
    "tokens_cached": "cached_input_tokens",
    "tokens_out": "output_tokens",
    "calls": "requests",
}
PROVIDER_KEY = "sk_test_ledger"

REMOTE = ("long",)  # these engines are ours, so they outlive a master; the others are its children
# name -> (dialect, engines, options of each engine, what stands in the YAML)
QUICK = {"connect": "1s", "first_token": "1s", "inter_chunk": "1s", "total": "60s"}
MODELS = {
    "open": ("openai", 3, (), {"timeouts": QUICK}),
    "vllm": ("vllm", 2, (), {"timeouts": QUICK}),
    "llama": ("llamacpp", 2, ("--slots", "256", "--context", "200000"), {"timeouts": QUICK}),
    "multi": ("openai", 1, ("--tokens-per-chunk", "4"), {"timeouts": QUICK}),
    "short": ("openai", 1, (), {"timeouts": {**QUICK, "total": "1s"}}),
    "long": ("openai", 2, (), {"timeouts": {**QUICK, "first_token": "30s"}}),
}


def bearer_of(key):
    return f"bearer-of-{key}-0123456789abcdef"


class World:
    def __init__(self, seed, directory, program, tools):
        self.seed = seed
        self.directory = pathlib.Path(directory)
        self.program, self.tools = pathlib.Path(program), pathlib.Path(tools)
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.directory / "counts").mkdir(parents=True)
        self.runtime = pathlib.Path(tempfile.mkdtemp(prefix="tg-ledger-"))
        self.state = self.directory / "state"
        self.clock_file = self.directory / "clock"
        self.slow_file = self.directory / "slow"
        self.kept = self.directory / "kept"
        self.process = self.log = self.provider = None
        self.remote = []
        self.up = asyncio.Event()
        self.clock_ms = 0
        self.log_problems = []

    # ---- life ----

    async def begin(self):
        # A full hour comes while the seed runs.
        self.set_clock(round(HOUR_MS - time.time() * 1000 % HOUR_MS - HOUR_AFTER_MS))
        await self.start_provider()
        self.port, self.admin_port = free_ports(self.seed)
        self.write_config()
        await self.start()

    def end(self):
        """Whatever the state: nothing of it runs afterwards."""
        family = self.family()
        for pid in [self.process.pid if self.process else None, *family]:
            kill(pid)
        if self.process:
            self.process.wait()
        for ours in [self.provider, *self.remote]:
            if ours:
                ours.kill()
                ours.wait()
        if self.log:
            self.log.wait(5)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def write_config(self):
        models = {}
        for name, (dialect, count, options, more) in MODELS.items():
            engines = [self.engine(name, number, dialect, options) for number in range(count)]
            models[name] = {"context_tokens": 200000, "max_output_tokens": 100000, "engines": engines, **more}
        models["vllm"]["engines"] = [{**engine, "continuous_usage": True} for engine in models["vllm"]["engines"]]
        tenants = {}
        for key, tenant in KEYS.items():
            digest = hashlib.sha256(bearer_of(key).encode()).hexdigest()
            tenants.setdefault(tenant, {"customer": CUSTOMERS[tenant], "keys": {}})["keys"][key] = {"sha256": digest}
        # A stream of 200 tokens a second uses it up within a second, and a few seconds fill it again.
        cut = {"tokens_per_minute": 6000, "burst": {"tokens": 150}, "on_exceed": "cut"}
        tenants["bolt"]["models"] = {"long": {"limits": cut}}
        key_file = self.directory / "stripe.key"
        key_file.write_text(PROVIDER_KEY + "\n")
        key_file.chmod(0o600)
        meters = [{"event_name": name, "measure": measure} for name, measure in METERS.items()]
        stripe = {"api_key_file": "stripe.key", "api_base": f"http://127.0.0.1:{self.provider_port}", "meters": meters}
        sync = "group" if self.seed % 2 == 0 else "os"
        config = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "state_dir": "state",
            "runtime_dir": str(self.runtime),
            "workers": 2,
            "drain_timeout": "1s",
            "models": models,
            "tenants": tenants,
            "billing": {"epoch": "1s", "sync": sync, "providers": [{"file": {"dir": "usage"}}, {"stripe": stripe}]},
        }
        (self.directory / "tollgate.yaml").write_text(json.dumps(config, indent=1))  # which is YAML too

    def engine(self, model, number, dialect, options):
        count_file = self.directory / "counts" / f"{model}-{number}.count"
        address = str(self.runtime / f"ours-{number}.sock") if model in REMOTE else "{socket}"
        arguments = [str(self.tools / "scripted_engine"), "--socket", address, "--dialect", dialect]
        arguments += ["--model", model, "--count-file", str(count_file), *options]
        if model not in REMOTE:
            return {"spawn": arguments, "dialect": dialect, "max_in_flight": 64}
        log = (self.directory / f"{model}-{number}.log").open("wb")
        self.remote.append(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        log.close()
        return {"url": f"unix:{address}", "dialect": dialect, "max_in_flight": 64}

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE"))}
        return {
            **kept,
            "PATH": f"{ROOT / 'build/tools'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LD_PRELOAD": str(self.tools / "slow_disk.so"),
            "SLOW_DISK_FILE": str(self.slow_file),
            "TOLLGATE_SEGMENT_BYTES": str(SEGMENT_BYTES),
            "TOLLGATE_CLOCK_OFFSET_FILE": str(self.clock_file),
        }

    async def start(self):
        """Start the master, and again while its predecessor still holds something."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.spawn()
            if await self.wait_ready(deadline):
                self.up.set()
                return
            if time.monotonic() > deadline:
                raise Failure(f"the gateway does not start: {self.log_tail()}")
            await asyncio.sleep(0.2)

    def spawn(self):
        log_file = (self.directory / "gateway.log").open("ab")
        # Through a pipe: a log that is a file would meet the limit on its size that stands for a full disk.
        self.log = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log_file)
        self.process = subprocess.Popen(
            [str(self.program), "run", "--config", str(self.directory / "tollgate.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=self.log.stdin,
            stderr=self.log.stdin,
            env=self.environment(),
            cwd=self.directory,
        )
        self.log.stdin.close()
        log_file.close()

    async def wait_ready(self, deadline):
        """False when the process ended before."""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if (await wire.get(self.admin_port, "/readyz", 2))[0] == 200:
                return True
            await asyncio.sleep(0.05)
        return False

    async def ready_again(self):
        if not await self.wait_ready(time.monotonic() + READY_SECONDS):
            status, body = await wire.get(self.admin_port, "/readyz?verbose", 2)
            raise Failure(f"not ready again: {status} {body.decode()} {self.log_tail()}")

    def log_tail(self):
        return (self.directory / "gateway.log").read_text(errors="replace")[-1500:]

    # ---- processes ----

    def family(self):
        return descendants(self.process.pid) if self.process and self.process.poll() is None else []

    def gateway_pid(self):
        wanted = os.path.realpath(self.program)
        for pid in children_of(self.process.pid):
            if exe_of(pid) == wanted:
                return pid
        return None

    def redis_pid(self):
        return next((pid for pid in self.family() if b"redis.sock" in b" ".join(command_line(pid))), None)

    def engine_pid(self, name):
        """@name: of its count file."""
        wanted = str(self.directory / "counts" / f"{name}.count").encode()
        return next((pid for pid in children_of(self.process.pid) if wanted in command_line(pid)), None)

    async def kill_gateway(self):
        pid = self.gateway_pid()
        if pid is None:
            return False
        kill(pid)
        await self.until(lambda: self.gateway_pid() not in (None, pid), "another gateway", 10)
        await self.ready_again()
        return True

    async def kill_master(self):
        family = [(pid, start_time(pid)) for pid in self.family()]
        self.up.clear()
        kill(self.process.pid)
        self.process.wait()
        await self.until(lambda: not any(start_time(pid) == born for pid, born in family), "all of it to end", 10)
        await self.start()
        return True

    async def kill_redis(self, wipe=False):
        pid = self.redis_pid()
        if pid is None:
            return False
        if wipe:
            os.kill(pid, signal.SIGSTOP)  # or it goes on to write beside
            for entry in (self.state / "redis").iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        kill(pid)
        await self.until(lambda: self.redis_pid() not in (None, pid), "another Redis", 15)
        return True

    async def flush_redis(self):
        try:
            async with wire.Redis(self.redis_socket) as redis:
                await redis.command("FLUSHALL")
        except (OSError, wire.RedisError):  # away, or it loads its data
            return False
        return True

    @property
    def redis_socket(self):
        return self.runtime / "redis.sock"

    async def drain(self):
        """A clean end and a new beginning. Returns the exit status of the end."""
        self.up.clear()
        status = await self.stop()
        await self.start()
        return status

    async def stop(self):
        self.process.send_signal(signal.SIGTERM)
        await self.until(lambda: self.process.poll() is not None, "the end after SIGTERM", 15)
        return self.process.returncode

    async def until(self, condition, what, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise Failure(f"waited {seconds} s in vain: {what}; {self.log_tail()}")
            await asyncio.sleep(0.02)

    # ---- clock and disk ----

    def set_clock(self, offset_ms):
        self.keep_journals()
        self.clock_ms = offset_ms
        fresh = self.clock_file.with_suffix(".new")
        fresh.write_text(f"{offset_ms}\n")
        fresh.rename(self.clock_file)

    async def states_live(self):
        """Wait until the states of rows know what time it is."""

        def know():
            told = re.findall(rb'"alive":(\d+)', (self.state / "billing/stripe.states").read_bytes())
            return told and int(told[-1]) > self.wall_ms() - LIVE_MS

        await self.until(know, "the states of rows to know the time", READY_SECONDS)

    def wall_ms(self):
        """The gateway's wall clock."""
        return round(time.time() * 1000) + self.clock_ms

    def fill_disk(self, is_full):
        """No file of the gateway's can grow to a segment's size: the next segment cannot be allocated."""
        pid = self.gateway_pid()
        if pid is None:
            return False
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (SEGMENT_BYTES - 1 if is_full else hard, hard))
        return True

    def slow_disk(self, milliseconds):
        if milliseconds:
            self.slow_file.write_text(f"{milliseconds}\n")
        else:
            self.slow_file.unlink(missing_ok=True)

    def keep_journals(self):
        """A second name for every segment, so that all can be read when the gateway has removed them."""
        for segment in self.state.glob("journal/*/*.seg"):
            kept = self.kept / segment.parent.name / segment.name
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(segment, kept)
                except FileNotFoundError:
                    pass

    # ---- the provider ----

    async def start_provider(self):
        arguments = [sys.executable, "-B", str(ROOT / "tests/tools/fake_stripe.py"), "--key", PROVIDER_KEY]
        arguments += ["--clock-offset-file", str(self.clock_file), "--seed", str(self.seed)]
        output = (self.directory / "provider.log").open("wb")
        self.provider = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        output.close()
        log = self.directory / "provider.log"
        pattern = re.compile(r"listening on 127\.0\.0\.1:(\d+), control on 127\.0\.0\.1:(\d+)")
        await self.until(lambda: pattern.search(log.read_text()), "the provider", 10)
        self.provider_port, self.control_port = map(int, pattern.search(log.read_text()).groups())
        await self.control("POST", "customers", {"add": list(CUSTOMERS.values())})
        for name in METERS:
            await self.control("POST", "meters", {"event_name": name})

    async def control(self, method, what, value=None):
        status, body = await wire.get(self.control_port, f"/_control/{what}", 20, method, value)
        if status != 200:
            raise Failure(f"the provider's control: {status} {body.decode()}")
        return json.loads(body)

    # ---- the end of a seed ----

    async def quiet(self, seconds=QUIET_SECONDS):
        """Wait until everything used is in Redis, in the ledger, and with every provider. Returns what is held."""
        deadline, since = time.monotonic() + seconds, None
        while True:
            metrics = await self.metrics()
            unflushed = metrics.get("tollgate_billing_oldest_unflushed_seconds")
            waiting = {
                name: value
                for name, value in metrics.items()
                if name.startswith("tollgate_billing_rows") and re.search(r'"(pending|sent)"', name) and value
            }
            active = metrics.get("tollgate_requests_in_flight", 0)
            if unflushed != 0 or waiting or active:
                since = None
            else:
                since = since or time.monotonic()
            # Who has just started may not have looked yet, and the last epoch is sealed within a second.
            if since and time.monotonic() > since + QUIET_FOR_SECONDS:
                return {name: v for name, v in metrics.items() if v and re.search(r'rows.*"(held|rejected)"', name)}
            if time.monotonic() > deadline:
                raise Failure(f"not delivered after {seconds} s: unflushed {unflushed} s, {waiting}, {active} active")
            await asyncio.sleep(0.1)

    async def metrics(self):
        _, body = await wire.get(self.admin_port, "/metrics")
        found = {}
        for line in body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
        return found

    def command(self, *words):
        """The command line's exit status and output."""
        arguments = [str(self.program), *words]
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, env=self.environment(), cwd=self.directory, timeout=30
            )
        except subprocess.TimeoutExpired:
            return -1, "", "no end after 30 s"
        return done.returncode, done.stdout, done.stderr


class Failure(Exception):
    """The world did not do what it must, whatever the figures say."""


# ---- the operating system ----


def free_ports(seed):
    """Two that nobody listens on. Not the kernel's to give away: a restarted gateway needs them again."""
    found = []
    for step in range(PORTS):
        port = PORTS_FROM + (seed * 37 + os.getpid() * 7 + step) % PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == 2:
            return found
    raise Failure("no free port")


def kill(pid):
    try:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def stat_of(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else fields


def start_time(pid):
    """None for one that is gone, also for a zombie."""
    stat = stat_of(pid)
    return None if stat is None else int(stat[19])


def children_of(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return [child for child in found if stat_of(child) is not None]


def descendants(pid):
    found, todo = [], [pid]
    while todo:
        more = children_of(todo.pop())
        found += more
        todo += more
    return found


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def exe_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
