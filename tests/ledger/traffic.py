"""The requests of a seed: what kinds there are, and the clients that send them, hang up, and note what they saw."""

import asyncio
import dataclasses
import json
import random
import socket
import struct
import sys
import time
import zlib

import wire
import world

GIVE_UP_SECONDS = 40  # longer than any request may take
CLIENTS = 64
REQUESTS_A_SECOND = 170  # so that there are some whenever something happens
FIRST_LESSONS = 6

# How a client leaves, by name; the number is what stands behind "=".
#   after_ms   so long after sending      tokens   when it has seen so many      finish   at the finish reason
#   body       after so many bytes of the body     done     right after the last event


@dataclasses.dataclass
class Plan:
    kind: str
    model: str
    endpoint: str = "chat"
    stream: bool = True
    words: str = ""  # for the engine
    leave: tuple = ()
    key: str = "acme-1"
    fields: dict = dataclasses.field(default_factory=dict)
    inputs: int = 1
    usage_is_told: bool = True  # by a stream or answer that ends as it should
    tag: str = ""


@dataclasses.dataclass
class Seen:
    """What the client knows of it."""

    plan: Plan
    sent: float = 0.0  # monotonic
    left: float = 0.0  # when it hung up; 0 = it did not
    ended: float = 0.0
    status: int = 0
    request_id: str = ""
    body_bytes: int = 0
    tokens: int = 0
    is_stream: bool = False
    has_finish: bool = False
    has_done: bool = False  # the last event, or the whole body of a 200
    has_error: bool = False
    error: str = ""
    gave_up: bool = False


def words(**values):
    return "".join(f"[[{name}={value}]]" for name, value in values.items())


# name -> (at least so many of 2,000, weight among the rest, make(random) -> Plan)
KINDS = {}


def kind(least, weight):
    def add(make):
        KINDS[make.__name__] = (least, weight, make)
        return make

    return add


def short_script(chance, **more):
    return words(tokens=chance.randint(1, 50), interval_ms=chance.choice([0, 0, 1, 3]), **more)


@kind(200, 30)
def stream(chance):
    fields = {"stream_options": {"include_usage": True}} if chance.random() < 0.5 else {}
    model = chance.choice(["open", "open", "vllm", "llama"])
    return Plan("", model, chance.choice(["chat", "completions"]), True, short_script(chance), fields=fields)


@kind(40, 5)
def stream_cached(chance):
    return Plan("", "open", "chat", True, short_script(chance, cached=chance.randint(1, 5)) + "input " * 20)


@kind(150, 20)
def whole(chance):
    model = chance.choice(["open", "open", "vllm", "llama"])
    return Plan("", model, chance.choice(["chat", "completions"]), False, short_script(chance))


@kind(20, 2)
def leave_at_done(chance):
    return Plan("", "open", "chat", True, short_script(chance), ("done",))


@kind(20, 2)
def late_usage(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault=f"late_usage={chance.randint(50, 400)}"))


@kind(40, 3)
def no_usage(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault="no_usage"), usage_is_told=False)


@kind(10, 1)
def no_usage_whole(chance):
    return Plan("", "open", "chat", False, short_script(chance, fault="no_usage"), usage_is_told=False)


@kind(30, 2)
def zero_usage(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault="zero_usage"), usage_is_told=False)


@kind(15, 1)
def nothing_generated(chance):
    return Plan("", "open", "chat", chance.random() < 0.5, words(tokens=0))


@kind(15, 1)
def usage_on_finish(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault="usage_on_finish"))


@kind(15, 1)
def no_done(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault="no_done"))


@kind(40, 4)
def choices_of_stream(chance):
    return Plan("", "llama", "chat", True, short_script(chance), fields={"n": chance.randint(2, 4)})


@kind(30, 3)
def choices_of_whole(chance):
    return Plan("", "llama", "chat", False, short_script(chance), fields={"n": chance.randint(2, 4)})


@kind(30, 2)
def prompts_of_stream(chance):
    model = chance.choice(["llama", "open"])
    return Plan("", model, "completions", True, short_script(chance), inputs=chance.randint(2, 3))


@kind(30, 4)
def embeddings(chance):
    return Plan("", chance.choice(["llama", "open"]), "embeddings", False, inputs=chance.randint(1, 4))


@kind(8, 0)
def embeddings_broken(chance):
    return Plan("", "llama", "embeddings", False, words(fault="close_after=0"), inputs=40)


# ---- clients that leave ----


@kind(30, 2)
def leave_before_first_byte(chance):
    return Plan("", "open", "chat", True, words(tokens=5, first_ms=3000), ("after_ms", chance.randint(5, 150)))


@kind(90, 10)
def leave_midstream(chance):
    script = words(tokens=600, interval_ms=chance.choice([2, 4, 8]))
    model = chance.choice(["open", "open", "llama"])
    return Plan("", model, chance.choice(["chat", "completions"]), True, script, ("tokens", chance.randint(1, 40)))


@kind(30, 3)
def leave_midstream_continuous(chance):
    return Plan("", "vllm", "chat", True, words(tokens=600, interval_ms=4), ("tokens", chance.randint(1, 40)))


@kind(40, 4)
def leave_anywhere(chance):
    return Plan("", "open", "chat", chance.random() < 0.7, words(tokens=50, interval_ms=4), ("after_ms", chance.randint(0, 250)))


@kind(25, 1)
def leave_at_finish(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault=f"late_usage={chance.randint(50, 400)}"), ("finish",))


@kind(12, 0)
def leave_at_finish_usage_too_late(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault="late_usage=3000"), ("finish",))


@kind(25, 2)
def leave_before_whole(chance):
    return Plan("", "open", "chat", False, words(tokens=100, interval_ms=30), ("after_ms", chance.randint(40, 300)))


@kind(15, 0)
def leave_inside_whole(chance):
    script = words(tokens=20000, per_chunk=20000, fault="stall_after=1")
    return Plan("", "open", "chat", False, script, ("body", chance.randint(1, 8000)))


@kind(15, 0)
def leave_inside_whole_with_usage(chance):
    return Plan("", "open", "chat", False, words(tokens=60000, per_chunk=60000), ("body", chance.randint(1, 8000)))


# ---- engines that fail ----


@kind(15, 0)
def whole_broken(chance):
    fault = chance.choice(["close_after=1", "reset_after=1", "truncated_json", "garbage_sse"])
    return Plan("", "open", "chat", False, words(tokens=chance.choice([20, 20000]), per_chunk=20000, fault=fault))


@kind(80, 6)
def stream_broken(chance):
    fault = chance.choice(["reset_after", "close_after", "garbage_sse", "truncated_json", "error_in_stream"])
    model = chance.choice(["open", "open", "vllm", "llama"])
    return Plan("", model, "chat", True, words(tokens=60, interval_ms=2, fault=f"{fault}={chance.randint(1, 50)}"))


@kind(15, 1)
def stream_without_finish(chance):
    return Plan("", "open", "chat", True, short_script(chance, fault="no_finish_reason"))


@kind(15, 0)
def stream_stalls(chance):
    return Plan("", "open", "chat", True, words(tokens=60, fault=f"stall_after={chance.randint(1, 40)}"))


@kind(10, 0)
def silent_after_head(chance):
    return Plan("", "open", "chat", True, words(fault="hang_after_headers"))


@kind(12, 0)
def too_long(chance):
    return Plan("", "short", "chat", True, words(tokens=1000, interval_ms=10))


@kind(60, 5)
def refused_by_engine(chance):
    fault = chance.choice(["status=500", "status=400", "status=429", "status=503", "reset_before_headers", "close_without_byte"])
    return Plan("", "open", "chat", chance.random() < 0.5, words(fault=fault))


@kind(8, 0)
def silent_before_head(chance):
    return Plan("", "open", "chat", True, words(fault="hang_before_headers"))


@kind(20, 2)
def never_dispatched(chance):
    return Plan("", "no-such-model", "chat", True)


@kind(30, 0)
def cut_by_limit(chance):
    script = words(tokens=1000, interval_ms=5)
    return Plan("", "long", "chat", True, script, key="bolt-1", fields={"max_tokens": 1000})


# ---- several tokens in a chunk ----


@kind(80, 6)
def chunks_with_usage(chance):
    return Plan("", "multi", "chat", True, words(tokens=chance.randint(20, 100), interval_ms=1))


@kind(40, 3)
def chunks_without_usage(chance):
    script = words(tokens=chance.randint(20, 100), interval_ms=1, fault="no_usage")
    return Plan("", "multi", "chat", True, script, usage_is_told=False)


@kind(40, 3)
def chunks_left(chance):
    return Plan("", "multi", "chat", True, words(tokens=1000, interval_ms=4), ("tokens", chance.randint(60, 120)))


@kind(20, 2)
def chunks_broken(chance):
    script = words(tokens=200, interval_ms=1, fault=f"close_after={chance.randint(40, 120)}")
    return Plan("", "multi", "chat", True, script)


def make_plans(seed, count):
    """All requests of a seed in their order: a part of them of fixed kinds, so that nothing is missing."""
    chance = random.Random(f"plans {seed}")
    names = [name for name, (least, _, _) in KINDS.items() for _ in range(least * count // 2000)]
    weights = [weight for _, weight, _ in KINDS.values()]
    names += chance.choices(list(KINDS), weights, k=max(0, count - len(names)))
    chance.shuffle(names)
    # Tokens per chunk are learned from finished streams: of a new model nobody knows anything.
    names = ["chunks_with_usage"] * FIRST_LESSONS + names[: count - FIRST_LESSONS]
    plans = []
    for number, name in enumerate(names):
        plan = KINDS[name][2](chance)
        plan.kind, plan.tag = name, f"{seed}-{number}"
        if name != "cut_by_limit":
            plan.key = chance.choice(list(world.KEYS))
        plans.append(plan)
    return plans


# ---- bodies ----

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}


def body_of(plan):
    text = f"{plan.words}[[tag={plan.tag}]]"
    body = {"model": plan.model, **plan.fields}
    if plan.endpoint == "chat":
        body["messages"] = [{"role": "user", "content": text}]
    else:
        several = [text] + ["more"] * (plan.inputs - 1)
        body["input" if plan.endpoint == "embeddings" else "prompt"] = several if plan.inputs > 1 else text
    if plan.endpoint == "completions":
        body.setdefault("max_tokens", 1000)
    if plan.stream and plan.endpoint != "embeddings":
        body["stream"] = True
    return json.dumps(body).encode()


def request_of(plan):
    body = body_of(plan)
    head = (
        f"POST {PATHS[plan.endpoint]} HTTP/1.1\r\nHost: tollgate\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {world.bearer_of(plan.key)}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# ---- clients ----


class Client:
    def __init__(self, around, plan):
        self.around, self.plan = around, plan
        self.seen = Seen(plan)
        self.answer = wire.Answer()
        self.changed = asyncio.Event()  # something was read

    async def run(self):
        reader, writer = await self.connect()
        self.seen.sent = time.monotonic()
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                writer.write(request_of(self.plan))
                await self.read(reader)
        except TimeoutError:
            self.seen.gave_up = True
        except OSError:
            pass  # the gateway died: what was read until then was seen
        if self.leaves():
            self.seen.left = time.monotonic()
            self.hang_up(writer)
        writer.close()
        self.note()
        return self.seen

    async def connect(self):
        """While there is no master nobody listens; that is no request yet."""
        while True:
            await self.around.up.wait()
            try:
                return await asyncio.open_connection("127.0.0.1", self.around.port, limit=1 << 22)
            except OSError:
                await asyncio.sleep(0.05)

    async def read(self, reader):
        rule = self.plan.leave
        wait = rule[1] / 1000 if rule and rule[0] == "after_ms" else None
        try:
            async with asyncio.timeout(wait):
                while not self.is_over():
                    piece = await reader.read(65536)
                    if not piece:
                        return
                    self.answer.feed(piece)
                    self.changed.set()
        except TimeoutError:
            if wait is None:
                raise

    def is_over(self):
        return self.answer.is_whole() or self.leaves_at_what_it_saw()

    def leaves_at_what_it_saw(self):
        rule, answer = self.plan.leave, self.answer
        if not rule or answer.status != 200:
            return False
        if rule[0] == "tokens":
            return answer.tokens() >= rule[1]
        if rule[0] == "finish":
            return answer.has_finish()
        if rule[0] == "body":
            return answer.body_bytes >= rule[1]
        return rule[0] == "done" and answer.has_done()

    def leaves(self):
        if self.answer.is_whole() or not self.plan.leave:
            return False
        return self.plan.leave[0] == "after_ms" or self.leaves_at_what_it_saw()

    def hang_up(self, writer):
        """With a reset or in order, by turns."""
        linger = struct.pack("ii", 1, 0)
        own = writer.get_extra_info("socket")
        if own is not None and zlib.crc32(self.plan.tag.encode()) % 2 == 0:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    def note(self):
        seen, answer = self.seen, self.answer
        seen.ended = time.monotonic()
        seen.status, seen.request_id = answer.status, answer.request_id
        seen.body_bytes, seen.is_stream = answer.body_bytes, answer.is_stream
        seen.tokens = answer.tokens() if answer.is_stream else 0
        seen.has_finish = answer.is_stream and answer.has_finish()
        seen.has_error = answer.has_error()
        if answer.is_stream:
            seen.has_done = answer.has_done()
        else:
            seen.has_done = answer.status == 200 and answer.is_whole()
        if answer.status >= 400 or seen.has_error:
            seen.error = bytes(answer.data[-400:]).decode(errors="replace")


class Traffic:
    """Many clients, each with one request after the other."""

    def __init__(self, around, plans):
        self.around, self.plans = around, plans
        self.begun = 0
        self.allowed = len(plans)  # so many may have begun before chaos lets more
        self.next_at = 0.0  # when the next may begin
        self.seen = []
        self.victims = 0
        self.refusals = 0  # for want of room in the journal
        self.late = []  # (when, seconds) in which this program itself came too late

    async def run(self):
        """First what a new model's chunks hold is learned, which no crash may take back."""
        await asyncio.gather(*(self.one_client(FIRST_LESSONS) for _ in range(FIRST_LESSONS)))
        learned = self.around.state / "estimates"
        await self.around.until(learned.exists, "what was learned to be saved", 5)
        await asyncio.gather(*(self.one_client(sys.maxsize) for _ in range(CLIENTS)))

    async def one_client(self, until):
        while self.begun < min(until, len(self.plans)):
            wait = self.next_at - time.monotonic()
            if wait > 0 or self.begun >= self.allowed:
                await asyncio.sleep(max(wait, 0.005))
                continue
            self.next_at = max(self.next_at, time.monotonic() - 0.1) + 1 / REQUESTS_A_SECOND
            plan = self.plans[self.begun]
            self.begun += 1
            seen = await Client(self.around, plan).run()
            self.seen.append(seen)
            if "usage_not_recordable" in seen.error:
                # A full disk: no request was taken, and a client comes back.
                self.refusals += 1
                again = dataclasses.replace(plan, tag=f"{self.around.seed}-r{self.refusals}")
                self.plans.append(again)
                await asyncio.sleep(0.1)

    async def watch_lateness(self):
        """How late this machine lets a program be, for rules about time."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            late = time.monotonic() - before - 0.02
            if late > 0.02:
                self.late.append((before, late))

    def start(self, plan):
        """One more request, beside those that are planned: (its client, its task)."""
        self.victims += 1
        plan.tag = f"{self.around.seed}-v{self.victims}"
        client = Client(self.around, plan)
        task = asyncio.create_task(self.keep(client))
        return client, task

    async def keep(self, client):
        self.seen.append(await client.run())

    async def victims_at_work(self, cause):
        """A stream that has begun to come and one that is at its engine, for what is about to happen."""
        speaks, first = self.start(Plan(cause, "long", "chat", True, words(tokens=400, interval_ms=10)))
        silent, second = self.start(Plan(cause, "long", "chat", True, words(tokens=3, first_ms=2500)))
        async with asyncio.timeout(15):
            while speaks.answer.tokens() < 5 and not first.done():
                speaks.changed.clear()
                await speaks.changed.wait()
        await asyncio.sleep(0.05)
        return [first, second]
