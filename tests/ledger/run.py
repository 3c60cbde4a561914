#!/usr/bin/env python3
"""`make ledger`: for each seed a whole gateway under 2,000 mixed requests, while everything around it is killed,
filled, slowed and taken away; then every count of everybody must be the same. Usage: run.py [--seeds N | --seed S]"""

import argparse
import asyncio
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import chaos as chaos_of
import checks
import facts as reading
import plans
import traffic as traffic_of
import world

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED_SECONDS_MAX = 180


# ---- one seed ----


async def one_seed(options):
    directory = pathlib.Path(options.directory) / f"seed-{options.seed}"
    around = world.World(options.seed, directory, options.program, options.tools)
    result = {"seed": options.seed, "problems": [], "rows": {}, "faults": {}, "engine_faults": {}, "requests": 0}
    begun = time.monotonic()
    try:
        async with asyncio.timeout(SEED_SECONDS_MAX):
            await around.begin()
            facts = await live(around, options, result)
        verdict = checks.check(facts)
        result["problems"] += verdict.problems
        result["rows"], result["engine_faults"] = verdict.rows, verdict.engine_faults
        result["chunks"], result["wholes"] = verdict.chunks, verdict.wholes
    except world.Failure as failure:
        result["problems"].append(f"(world) {failure}")
    except TimeoutError:
        result["problems"].append(f"(world) not over after {SEED_SECONDS_MAX} s: {around.log_tail()}")
    finally:
        around.end()
    result["problems"] += log_problems(directory)
    result["seconds"] = round(time.monotonic() - begun, 1)
    (directory / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


async def live(around, options, result):
    """Everything that happens in a seed; returns what everybody wrote down about it."""
    traffic = traffic_of.Traffic(around, plans.make_plans(options.seed, options.requests))
    chaos = chaos_of.Chaos(around, traffic, options.seed)
    beside = [asyncio.create_task(traffic.watch_lateness()), asyncio.create_task(keep(around))]
    try:
        await asyncio.gather(traffic.run(), chaos.run())
        await chaos.heal()
        await chaos.drain()
        result["held"] = await settle(around)
        facts = await collect(around, traffic, chaos)
    finally:
        for task in beside:
            task.cancel()
        result["faults"] = chaos.counts
        result["requests"] = len(traffic.seen)
        result["timeline"] = chaos.timeline
    return facts


async def keep(around):
    while True:
        around.keep_journals()
        await asyncio.sleep(0.2)


async def settle(around):
    """Wait until all is delivered. What is held waits for a person: somebody who looks it up at the provider."""
    held = await around.quiet()
    decided = 0
    if held:
        decided = await decide(around)
        held = await around.quiet()
    if held:
        raise world.Failure(f"held for good: {held}")
    return decided


async def decide(around):
    taken = {event["identifier"] for event in (await around.control("GET", "state"))["events"]}
    rows = reading.Facts()
    reading.read_states(around.state / "billing" / "stripe.states", rows)
    held = [row for row in rows.rows.values() if row["state"] == "held"]
    for row in held:
        verb = "delivered" if row["row"] in taken else "release"
        status, _, error = around.command("billing", verb, row["row"])
        if status != 0:
            raise world.Failure(f"billing {verb} {row['row']} ({row['reason']}): {status} {error}")
    return len(held)


async def collect(around, traffic, chaos):
    facts = reading.Facts(seen=traffic.seen, timeline=chaos.timeline, late=traffic.late)
    facts.engine_deaths = chaos.engine_deaths
    facts.customers, facts.meters = world.CUSTOMERS, world.METERS
    await reading.read_redis(around.redis_socket, facts)
    status, output, error = around.command("usage", "reconcile")
    facts.reconcile = (status, output + error)
    status = await around.stop()
    if status != 0:
        raise world.Failure(f"the last end: {status}; {around.log_tail()}")
    around.keep_journals()
    reading.read_stripe(await around.control("GET", "state"), facts)
    reading.read_engines(around.directory / "counts", facts)
    reading.read_journals(around.program, around.kept, facts)
    reading.read_ledger(around.state / "ledger", facts)
    reading.read_states(around.state / "billing" / "stripe.states", facts)
    reading.read_file_provider(around.directory / "usage", facts)
    return facts


def log_problems(directory):
    log = directory / "gateway.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    found = [line for line in text.splitlines() if "ENSURE" in line or "Sanitizer" in line or "UNREACHABLE" in line]
    return [f"(log) {line}" for line in found[:3]]


# ---- all seeds ----


def run_seed(options, seed):
    """In a process of its own, so that several use several processors."""
    directory = pathlib.Path(options.directory) / f"seed-{seed}"
    words = [sys.executable, "-B", __file__, "--one", "--seed", str(seed), "--requests", str(options.requests)]
    words += ["--directory", str(options.directory), "--program", options.program, "--tools", options.tools]
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * SEED_SECONDS_MAX)
    try:
        return json.loads((directory / "result.json").read_text())
    except (OSError, ValueError):
        return {"seed": seed, "problems": [f"(harness) {done.stdout} {done.stderr}"]}


def say_seed(result):
    seconds, requests = result.get("seconds", 0), result.get("requests", 0)
    problems = result["problems"]
    if not problems:
        print(f"seed {result['seed']}: right, {requests} requests, {seconds} s", flush=True)
        return
    print(f"seed {result['seed']}: {len(problems)} problems, {requests} requests, {seconds} s", flush=True)
    for problem in problems[:5]:
        print(f"  {problem}", flush=True)
    print(f"  again: make ledger SEED={result['seed']}; what it left is in seed-{result['seed']}/", flush=True)


def sums_of(results, part):
    found = {}
    for result in results:
        for name, count in result.get(part, {}).items():
            found[name] = found.get(name, 0) + count
    return found


def remove_right_ones(options, results):
    for result in results:
        if not result["problems"]:
            shutil.rmtree(pathlib.Path(options.directory) / f"seed-{result['seed']}", ignore_errors=True)


def run_all(options):
    seeds = [options.seed] if options.seed is not None else range(1, options.seeds + 1)
    results = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run_seed, options, seed) for seed in seeds]):
            results.append(done.result())
            say_seed(results[-1])
    failed = sorted(result["seed"] for result in results if result["problems"])
    figures = {}
    for part in ("faults", "engine_faults", "rows"):
        figures |= sums_of(results, part)
    missing = [name for name, count in figures.items() if not count]
    if not options.keep:
        remove_right_ones(options, results)
    if failed:
        print(f"failed: {', '.join(f'make ledger SEED={seed}' for seed in failed)}")
    if missing:
        print(f"never seen: {', '.join(missing)}")
    figures = {"requests": sum(result.get("requests", 0) for result in results), **figures}
    print("figures: " + ", ".join(f"{name} {count}" for name, count in figures.items()))
    bad = len(failed) + bool(missing)
    print(f"{len(results) - len(failed)} passed, {bad} failed")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once")
    parser.add_argument("--directory", type=os.path.abspath, default=str(ROOT / "build/ledger"))
    parser.add_argument("--program", type=os.path.abspath, default=str(ROOT / "build/release/tools/tollgate_ledger"))
    parser.add_argument("--tools", type=os.path.abspath, default=str(ROOT / "build/release/tools"))
    parser.add_argument("--keep", action="store_true", help="also what right seeds left")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return 1 if asyncio.run(one_seed(options))["problems"] else 0
    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
