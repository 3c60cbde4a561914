"""What goes wrong in a seed, and when: at random moments of the traffic, each thing once or a few times, spaced so that
no crash loop is declared."""

import asyncio
import os
import random
import signal
import sys
import time

import world

# A gateway that dies five times in a row within ten seconds of its start is given up; an engine after five deaths.
PROCESS_FAULTS = {
    "kill_gateway": 3,
    "kill_master": 1,
    "kill_engine": 3,
    "kill_redis": 1,
    "redis_removed": 1,
    "redis_flushed": 1,
    "disk_full": 1,
    "slow_disk": 1,
}
PROVIDER_FAULTS = {"provider_before_commit": 2, "provider_after_commit": 2}
LONG_OUTAGE_MS = 25 * 3600 * 1000
# So many requests may begin until it is over: a disk fills with what they leave behind.
REQUESTS_BESIDE = {"disk_full": 900}
REQUESTS_BESIDE_OTHERS = 300
REDIS_STALL_SECONDS = 3.5  # the store waits 3
DISK_FULL_SECONDS, SLOW_DISK_SECONDS, SLOW_DISK_MS = 10, 1.0, 40
BEFORE = (
    {"kind": "drop_before"},
    {"kind": "error_before"},
    {"kind": "rate_limit", "retry_after": 1},
    {"kind": "lock_timeout"},
)
AFTER = ({"kind": "drop_after"}, {"kind": "error_after"}, {"kind": "cut_after"})


class Chaos:
    def __init__(self, around, traffic, seed):
        self.around, self.traffic = around, traffic
        self.chance = random.Random(f"chaos {seed}")
        self.timeline = []  # (name, begun, ended), monotonic
        self.counts = dict.fromkeys(
            [*PROCESS_FAULTS, "redis_stalls", *PROVIDER_FAULTS, "outage_of_25_hours", "drain"], 0
        )
        several = {model: row[1] for model, row in world.MODELS.items() if row[1] > 1 and model not in world.REMOTE}
        self.engines = [f"{model}-{number}" for model, count in several.items() for number in range(count)]
        self.chance.shuffle(self.engines)
        self.engine_deaths = []  # wall clock, ms
        self.gateway_kills = 0
        self.provider, self.redis = asyncio.Lock(), asyncio.Lock()
        self.process = asyncio.Lock()  # while it is held no process dies

    def moments(self, faults):
        """[(after so many requests, name)]"""
        count = len(self.traffic.plans)
        names = [name for name, times in faults.items() for _ in range(times)]
        self.chance.shuffle(names)
        if "disk_full" in names[len(names) * 2 // 3 :]:
            names.remove("disk_full")
            names.insert(self.chance.randrange(len(names) // 2), "disk_full")
        places = sorted(self.chance.sample(range(count * 3 // 100, count * 94 // 100), len(names)))
        return list(zip(places, names))

    async def run(self):
        every = [self.follow_closely(self.moments(PROCESS_FAULTS)), self.follow(self.moments(PROVIDER_FAULTS))]
        place = self.chance.randrange(len(self.traffic.plans) * 4 // 10, len(self.traffic.plans) * 7 // 10)
        stall = self.chance.randrange(len(self.traffic.plans) // 10, len(self.traffic.plans) // 2)
        alone = [self.follow([(place, "outage_of_25_hours")]), self.follow([(stall, "redis_stalls")])]
        await asyncio.gather(*every, *alone)

    async def follow_closely(self, moments):
        """The faults of processes; the traffic does not run away from them."""
        for place, name in moments:
            self.traffic.allowed = place + REQUESTS_BESIDE.get(name, REQUESTS_BESIDE_OTHERS)
            await self.reach(place)
            async with self.process:
                await self.happen(name)
        self.traffic.allowed = sys.maxsize

    async def follow(self, moments):
        for place, name in moments:
            await self.reach(place)
            await self.happen(name)

    async def reach(self, place):
        while self.traffic.begun < place:
            await asyncio.sleep(0.01)

    async def happen(self, name):
        begun = time.monotonic()
        happened = await getattr(self, name)()
        self.timeline.append((name, begun, time.monotonic()))
        self.counts[name] += bool(happened)

    # ---- processes ----

    async def kill_gateway(self):
        """Every second one while its records are on their way to a slow disk."""
        await self.traffic.victims_at_work("kill_gateway")
        self.gateway_kills += 1
        begun, is_slow = time.monotonic(), self.gateway_kills % 2 == 0
        self.around.slow_disk(SLOW_DISK_MS if is_slow else 0)
        await asyncio.sleep(0.1 * is_slow + self.chance.random() * 0.1)
        killing = asyncio.create_task(self.around.kill_gateway())
        await asyncio.sleep(0)  # it is dead now
        self.around.slow_disk(0)
        if is_slow:
            self.timeline.append(("slow_disk", begun, time.monotonic()))
        return await killing

    async def kill_master(self):
        await self.traffic.victims_at_work("kill_master")
        self.engine_deaths.append(self.around.wall_ms())
        return await self.around.kill_master()

    async def kill_engine(self):
        name = self.engines.pop()
        pid = self.around.engine_pid(name)
        self.engine_deaths.append(self.around.wall_ms())
        world.kill(pid)
        return pid is not None

    async def kill_redis(self):
        async with self.redis:
            return await self.around.kill_redis()

    async def redis_removed(self):
        async with self.redis:
            return await self.around.kill_redis(wipe=True)

    async def redis_flushed(self):
        async with self.redis:
            return await self.again(self.around.flush_redis)

    async def redis_stalls(self):
        async with self.redis:
            return await self.again(self.stall_redis)

    async def again(self, what):
        """What something else may have prevented: Redis was away, or its master died."""
        for _ in range(5):
            if await what():
                return True
            await asyncio.sleep(0.5)
        return False

    async def stall_redis(self):
        """Longer than its answers are waited for: what was asked is done when nobody listens any more."""
        pid = self.around.redis_pid()
        born = world.start_time(pid) if pid else None
        if born is None:
            return False
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(REDIS_STALL_SECONDS)
        if world.start_time(pid) != born:
            return False
        os.kill(pid, signal.SIGCONT)
        return True

    # ---- the disk ----

    async def disk_full(self):
        """Until requests are refused for want of room, and a little longer."""
        before = self.traffic.refusals
        self.around.fill_disk(True)
        deadline = time.monotonic() + DISK_FULL_SECONDS
        while self.traffic.refusals < before + 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await asyncio.sleep(self.chance.random() * 0.5)
        self.around.fill_disk(False)
        await self.around.ready_again()
        return self.traffic.refusals > before

    async def slow_disk(self):
        self.around.slow_disk(SLOW_DISK_MS)
        await asyncio.sleep(SLOW_DISK_SECONDS)
        self.around.slow_disk(0)
        return True

    # ---- the provider ----

    async def provider_before_commit(self):
        async with self.provider:
            if self.chance.random() < 0.5:
                mode = self.chance.choice(["refuse", "unavailable"])
                await self.around.control("POST", "down", {"seconds": None, "mode": mode})
                await asyncio.sleep(self.chance.uniform(0.3, 1.2))
                await self.around.control("POST", "down", {"seconds": 0})
                return True
            return await self.fault_for_a_while(self.chance.choice(BEFORE))

    async def provider_after_commit(self):
        async with self.provider:
            return await self.fault_for_a_while(self.chance.choice(AFTER))

    async def fault_for_a_while(self, fault):
        await self.around.control("POST", "faults", {**fault, "probability": 0.7})
        await asyncio.sleep(self.chance.uniform(0.3, 1.2))
        await self.around.control("DELETE", "faults")
        return True

    async def outage_of_25_hours(self):
        """Events are taken and the answers lost; then nothing is there for longer than Stripe remembers them."""
        async with self.provider:
            await self.around.control("POST", "faults", {"kind": "drop_after", "probability": 1.0})
            taken = len((await self.around.control("GET", "state"))["events"])
            deadline = time.monotonic() + 12
            while time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                if len((await self.around.control("GET", "state"))["events"]) > taken:
                    break
            await self.around.control("POST", "down", {"seconds": None, "mode": "refuse"})
            await self.around.control("DELETE", "faults")
            async with self.process:  # one that is killed before it sees the time finds states as old as a backup
                self.around.set_clock(self.around.clock_ms + LONG_OUTAGE_MS)
                await self.around.states_live()
            await asyncio.sleep(self.chance.uniform(0.5, 1.5))
            await self.around.control("POST", "down", {"seconds": 0})
            return len((await self.around.control("GET", "state"))["events"]) > taken

    # ---- the end ----

    async def drain(self):
        """SIGTERM while streams run that are longer than the drain may take."""
        begun = time.monotonic()
        await self.traffic.victims_at_work("drain")
        status = await self.around.drain()
        self.timeline.append(("drain", begun, time.monotonic()))
        self.counts["drain"] += status == 0
        if status != 0:
            raise world.Failure(f"the drain ended with {status}")

    async def heal(self):
        self.around.slow_disk(0)
        self.around.fill_disk(False)
        await self.around.control("POST", "down", {"seconds": 0})
        await self.around.control("DELETE", "faults")
