"""The clients of a seed: they send requests, hang up, and note what they saw."""

import asyncio
import contextlib
import dataclasses
import socket
import struct
import sys
import time
import zlib

import wire
from plans import FIRST_LESSONS, Plan, request_of, words

GIVE_UP_SECONDS = 40  # longer than any request may take
CLIENTS = 64
REQUESTS_A_SECOND = 170  # so that there are some whenever something happens


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
        with contextlib.suppress(OSError):  # the gateway died meanwhile
            if zlib.crc32(self.plan.tag.encode()) % 2 == 0:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
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
