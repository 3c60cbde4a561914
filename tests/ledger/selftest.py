#!/usr/bin/env python3
"""Whether checks.py notices: a small world in which all is right, and one wrong thing at a time in it. The last line is
"N passed, M failed"."""

import copy
import sys

import checks
import facts as reading
from plans import Plan
from traffic import Seen

HOUR = 1_795_467_600_000  # some full hour, ms
WRITER = "a" * 32
NEXT_WRITER = "b" * 32


def request(facts, number, plan, **more):
    """One request that everybody agrees on. @more: tokens, end, seen (fields of Seen), progress, input, source."""
    request_id, tokens, end = f"req_{number}", more.get("tokens", 10), more.get("end", "complete")
    writer = NEXT_WRITER if end == "crash" else WRITER
    start = 100.0 + number
    plan.kind, plan.tag = plan.kind or "stream", f"t-{number}"
    seen = Seen(plan, sent=start, ended=start + 0.5, status=200, request_id=request_id, is_stream=plan.stream)
    seen.tokens = tokens if plan.stream else 0
    seen.has_done = end == "complete"
    for name, value in more.get("seen", {}).items():
        setattr(seen, name, value)
    facts.seen.append(seen)
    session = reading.Session(("e", 1, number), request_id, plan.endpoint, True, 7)
    session.times = [(start + 0.01 * i, i) for i in range(1, more.get("written", tokens) + 1)]
    session.ended = start + 0.4 if end == "complete" else 0.0
    session.gone = 0.0 if end == "complete" else start + 0.45
    facts.sessions[request_id] = [session]
    facts.ids[plan.tag] = {request_id}
    names = {"writer": writer, "tenant": "acme", "key": "acme-1", "model": plan.model, "ms": HOUR + number * 1000}
    record = facts.records[request_id] = reading.Record([{**names, "input_estimate": 9}])
    told = end == "complete"
    close = {**names, "epoch": 1, "end": end, "billed": more.get("billed", True)}
    close |= {"input_tokens": 7 if told else 9, "cached_input_tokens": 0, "output_tokens": tokens}
    close |= {"input_source": "engine" if told else "estimated", "output_source": "engine" if told else "counted"}
    if "progress" in more:
        record.progresses.append({**names, "output_tokens": more["progress"]})
        close["output_tokens"] = more["progress"]
    close |= more.get("close", {})
    record.closes.append(close)
    if close["billed"]:
        reading.add_close(facts.journal_cells, close)
    return seen


def right_world():
    facts = reading.Facts(
        customers={"acme": "cus_acme"}, meters={"in": "input_tokens", "out": "output_tokens", "n": "requests"}
    )
    request(facts, 1, Plan("stream", "open"))
    request(facts, 2, Plan("whole", "open", stream=False))
    request(
        facts,
        3,
        Plan("leave", "open", leave=("tokens", 4)),
        end="client_gone",
        tokens=5,
        written=6,
        seen={"tokens": 4, "left": 103.06, "has_done": False},
    )
    request(facts, 4, Plan("broken", "open"), end="engine_error", tokens=6, seen={"has_error": True})
    request(facts, 5, Plan("kill_gateway", "long"), end="crash", progress=8, tokens=12, seen={"status": 200})
    request(
        facts,
        6,
        Plan("kill_gateway", "long"),
        end="crash",
        tokens=0,
        written=0,
        seen={"status": 0},
        billed=False,
        close={"input_tokens": 0, "input_source": "none", "output_source": "none"},
    )
    request(facts, 7, Plan("embeddings", "open", "embeddings", stream=False), tokens=0)
    request(
        facts,
        8,
        Plan("chunks", "multi", usage_is_told=False),
        tokens=100,
        close={"input_tokens": 9, "input_source": "estimated", "output_source": "counted", "output_tokens": 99},
    )
    facts.timeline = [("kill_gateway", 105.2, 106.5)]
    for writer in (WRITER, NEXT_WRITER):
        facts.seals[writer, 1] = facts.ledger_heads[writer, 1] = (HOUR + 1000, HOUR + 9000)
        facts.finished.add(writer)
    facts.redis_cells, facts.ledger_cells = dict(facts.journal_cells), dict(facts.journal_cells)
    deliver(facts)
    return facts


def deliver(facts):
    names = {measure: event for event, measure in facts.meters.items()}
    sums = {}
    for (writer, epoch, tenant, _, _, measure, _), quantity in facts.journal_cells.items():
        reading.add(sums, (writer, epoch, tenant, measure), quantity)
    for number, ((writer, epoch, tenant, measure), quantity) in enumerate(sums.items()):
        identifier = f"tg1-{number}"
        event = {"identifier": identifier, "event_name": names[measure], "customer": facts.customers[tenant]}
        facts.events.append({**event, "value": quantity, "timestamp": HOUR // 1000 + 9})
        facts.rows[identifier] = {"writer": writer, "epoch": epoch, "state": "acked"}
        ended = "2026-11-23T21:00:09Z"
        line = {"id": identifier, "tenant": tenant, "measure": measure, "quantity": quantity, "ended": ended}
        facts.file_lines.append((writer, epoch, line))


# ---- what can be wrong ----

WRONG = {}


def wrong(letter):
    def add(change):
        WRONG[change.__name__] = (letter, change)
        return change

    return add


def first(cells):
    return next(iter(cells))


def close_of(facts, number):
    return facts.records[f"req_{number}"].closes[0]


@wrong("a")
def redis_has_one_more(facts):
    facts.redis_cells[first(facts.redis_cells)] += 1


@wrong("a")
def redis_lost_a_cell(facts):
    del facts.redis_cells[first(facts.redis_cells)]


@wrong("a")
def the_ledger_has_one_less(facts):
    facts.ledger_cells[first(facts.ledger_cells)] -= 1


@wrong("a")
def stripe_has_an_event_less(facts):
    facts.events.pop()


@wrong("a")
def stripe_has_it_in_another_hour(facts):
    facts.events[0]["timestamp"] += 3600


@wrong("a")
def a_file_has_a_line_twice(facts):
    facts.file_lines.append(facts.file_lines[0])


@wrong("b")
def a_token_too_many_of_a_stream(facts):
    close_of(facts, 1)["output_tokens"] += 1


@wrong("b")
def a_token_too_few_of_a_whole_answer(facts):
    close_of(facts, 2)["output_tokens"] -= 1


@wrong("d")
def not_the_engines_input(facts):
    close_of(facts, 1)["input_tokens"] += 1


@wrong("b")
def estimated_though_told(facts):
    close_of(facts, 1).update(input_source="estimated", input_tokens=9)


@wrong("b")
def the_last_event_before_the_record(facts):
    """A client saw [DONE], and the gateway died before the CLOSE was written."""
    facts.seen[4].has_done = True


@wrong("b")
def answered_and_not_journaled(facts):
    del facts.records["req_1"]


@wrong("b")
def opened_and_never_closed(facts):
    facts.records["req_1"].closes.clear()


@wrong("b")
def nobody_sent_it(facts):
    facts.sessions["req_99"] = facts.sessions["req_1"]


@wrong("c")
def the_client_saw_more(facts):
    facts.seen[2].tokens = 6


@wrong("c")
def more_than_the_engine_wrote(facts):
    close_of(facts, 3)["output_tokens"] = 7


@wrong("c")
def the_engine_worked_on_for_nobody(facts):
    session = facts.sessions["req_3"][0]
    session.times += [(103.7 + i / 100, 7 + i) for i in range(20)]


@wrong("c")
def what_the_engine_wrote_for_nobody_is_billed(facts):
    session = facts.sessions["req_3"][0]
    session.times += [(103.7 + i / 100, 7 + i) for i in range(20)]
    close_of(facts, 3)["output_tokens"] = session.tokens


@wrong("d")
def not_what_was_relayed_before_the_engine_died(facts):
    facts.seen[3].tokens = 5


@wrong("d")
def a_crash_bills_not_the_last_progress(facts):
    close_of(facts, 5)["output_tokens"] = 9


@wrong("d")
def a_crash_bills_without_proof(facts):
    close_of(facts, 6)["input_tokens"] = 9


@wrong("d")
def more_than_a_step_is_lost(facts):
    facts.seen[4].tokens = 120


@wrong("d")
def a_crash_that_nobody_caused(facts):
    facts.timeline.clear()


@wrong("b")
def embeddings_with_output(facts):
    close_of(facts, 7)["output_tokens"] = 3


@wrong("d")
def chunks_counted_as_tokens(facts):
    close_of(facts, 8)["output_tokens"] = 25


@wrong("e")
def an_identifier_twice(facts):
    facts.identifiers_taken_twice.append("tg1-0")


@wrong("e")
def a_request_twice(facts):
    facts.records["req_1"].closes.append(close_of(facts, 1))


@wrong("e")
def a_close_outside_of_its_epoch(facts):
    close_of(facts, 1)["ms"] += 3600_000


@wrong("e")
def an_epoch_over_two_hours(facts):
    facts.seals[WRITER, 1] = (HOUR - 1, HOUR + 9000)


@wrong("e")
def an_epoch_that_was_never_sealed(facts):
    del facts.seals[NEXT_WRITER, 1]


@wrong("e")
def an_event_outside_of_its_epoch(facts):
    facts.events[0]["timestamp"] += 60


@wrong("e")
def an_event_of_no_row(facts):
    facts.rows.clear()


def main():
    passed = failed = 0
    problems = checks.check(right_world()).problems
    for problem in problems:
        print(f"FAIL  right, and: {problem}")
    for name, (letter, change) in WRONG.items():
        facts = copy.deepcopy(right_world())
        change(facts)
        found = [problem for problem in checks.check(facts).problems if problem.startswith(f"({letter})")]
        passed += bool(found)
        failed += not found
        print(f"ok    {name}: {found[0][:100]}" if found else f"FAIL  {name}: not noticed")
    print(f"{passed + (not problems)} passed, {failed + bool(problems)} failed")
    return 1 if failed or problems else 0


if __name__ == "__main__":
    sys.exit(main())
