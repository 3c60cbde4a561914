"""Whether a seed's facts agree, exactly. Pure: facts in, problems and figures out. Letters are those of the five things
that have to hold: (a) sums, (b) complete answers, (c) clients that left, (d) the table of what is billed, (e) once."""

import collections
import re

import facts as reading

WITHIN_MS = 250  # so fast an engine hears of a client that left
USAGE_WAIT_S = 1.0  # so long usage is waited for after a client left at the finish reason
NEAR_S = 0.3  # nearer to a bound of time than this nothing is claimed
PROGRESS_STEP_TOKENS = 64
SLOW_DISK_TOKENS = 3 * 40  # what an engine writes, a token a millisecond, while three writes to the slow disk last
CHUNKS_SHARE = 0.05  # of the sum over the answers in chunks of several tokens
FAULT = re.compile(r"\[\[fault=(\w+)")

# The rows of DESIGN's table, in its order, and what is looked at apart inside of them.
ROWS = (
    "complete_stream",
    "complete_whole",
    "left_after_done",
    "usage_missing",
    "usage_missing_whole",
    "usage_zero_with_content",
    "nothing_generated",
    "client_gone_stream",
    "client_gone_stream_engine_counts",
    "engine_died_stream",
    "engine_died_stream_engine_counts",
    "gone_at_finish_usage_came",
    "gone_at_finish_usage_too_late",
    "gone_before_first_byte",
    "gone_before_whole",
    "gone_inside_whole",
    "died_inside_whole",
    "died_inside_whole_usage_seen",
    "cut_by_limit",
    "cut_by_total_timer",
    "cut_by_inter_chunk_timer",
    "cut_by_drain",
    "cut_by_master_gone",
    "one_choice_stream",
    "one_choice_whole",
    "embeddings",
    "error_before_first_byte",
    "never_dispatched",
    "crash_with_progress",
    "crash_open_only",
    "chunks_of_several_tokens",
)


# What the scripted engine can do wrong, each in requests that reached it.
ENGINE_FAULTS = (
    "hang_before_headers",
    "hang_after_headers",
    "stall_after",
    "reset_before_headers",
    "reset_after",
    "close_after",
    "close_without_byte",
    "close_reused",
    "truncated_json",
    "garbage_sse",
    "no_usage",
    "late_usage",
    "zero_usage",
    "usage_on_finish",
    "error_in_stream",
    "no_done",
    "no_finish_reason",
    "status",
    "huge_event",
    "slow_reader",
    "multi_token_chunks",
    "crash",
    "hold",
)


class Verdict:
    def __init__(self):
        self.rows = dict.fromkeys(ROWS, 0)
        self.engine_faults = {f"engine_{name}": 0 for name in ENGINE_FAULTS}
        self.problems = []
        self.chunks = [0, 0, 0]  # billed, and its bounds
        self.wholes = [0, 0]  # whole answers without usage: billed, and what was generated

    def fail(self, letter, what):
        self.problems.append(f"({letter}) {what}")

    def expect(self, letter, is_right, what):
        if not is_right:
            self.fail(letter, what)
        return is_right


def check(facts):
    verdict = Verdict()
    check_sums(facts, verdict)
    verdict.expect("a", facts.reconcile[0] == 0, f"usage reconcile says {facts.reconcile}")
    check_once(facts, verdict)
    check_requests(facts, verdict)
    check_chunks(verdict)
    return verdict


# ---- (a) ----


def check_sums(facts, verdict):
    verdict.expect("a", facts.journal_cells, "no usage at all")
    compare(verdict, "journal", facts.journal_cells, "ledger", facts.ledger_cells)
    compare(verdict, "journal", facts.journal_cells, "Redis", facts.redis_cells)
    used = reading.by_tenant_measure_hour(facts, facts.journal_cells)
    stripe, file = collections.Counter(), collections.Counter()
    tenants = {customer: tenant for tenant, customer in facts.customers.items()}
    for event in facts.events:
        name = (tenants.get(event["customer"]), facts.meters.get(event["event_name"]))
        stripe[(*name, reading.hour_of(event["timestamp"] * 1000))] += event["value"]
    for _, _, line in facts.file_lines:
        name = (line["tenant"], line["measure"], reading.hour_of(reading.milliseconds(line["ended"])))
        file[name] += line["quantity"]
    compare(verdict, "journal", used, "Stripe", stripe)
    compare(verdict, "journal", used, "files", file)


def compare(verdict, left_name, left, right_name, right):
    differing = sorted((name for name in {*left, *right} if left.get(name, 0) != right.get(name, 0)), key=str)
    for name in differing[:3]:
        verdict.fail("a", f"{name}: {left_name} {left.get(name, 0)}, {right_name} {right.get(name, 0)}")
    if len(differing) > 3:
        verdict.fail("a", f"{left_name} and {right_name} differ in {len(differing)} cells")


# ---- (e) ----


def check_once(facts, verdict):
    for identifier in facts.identifiers_taken_twice:
        verdict.fail("e", f"identifier {identifier} was accepted twice")
    lines = collections.Counter((writer, epoch, line["id"]) for writer, epoch, line in facts.file_lines)
    for name, count in lines.items():
        verdict.expect("e", count == 1, f"row {name} stands {count} times in the files")
    for name in facts.seals_twice:
        verdict.fail("e", f"epoch {name} was sealed twice")
    for request_id, record in facts.records.items():
        verdict.expect("e", len(record.opens) <= 1, f"{request_id}: {len(record.opens)} OPENs")
        verdict.expect("e", len(record.closes) <= 1, f"{request_id}: {len(record.closes)} CLOSEs")
        for close in record.closes:
            check_hour(facts, verdict, request_id, close)
    for name, (began, ended) in facts.seals.items():
        same = reading.hour_of(began) == reading.hour_of(ended) and began <= ended
        verdict.expect("e", same, f"epoch {name} lasts from {began} to {ended}")
    for event in facts.events:
        check_event(facts, verdict, event)


def check_hour(facts, verdict, request_id, close):
    bounds = facts.seals.get((close["writer"], close["epoch"]))
    if verdict.expect("e", bounds, f"{request_id}: epoch {close['epoch']} of its CLOSE was never sealed"):
        inside = bounds[0] <= close["ms"] <= bounds[1]
        verdict.expect("e", inside, f"{request_id}: CLOSE at {close['ms']} outside of its epoch {bounds}")


def check_event(facts, verdict, event):
    """An event's time lies in the epoch of its row."""
    row = facts.rows.get(event["identifier"])
    if not verdict.expect("e", row, f"Stripe has {event['identifier']}, which is no row"):
        return
    began, ended = facts.seals.get((row["writer"], row["epoch"]), (0, 0))
    inside = began // 1000 <= event["timestamp"] <= ended // 1000 + 1
    verdict.expect("e", inside, f"{event['identifier']}: at {event['timestamp']}, its epoch {began}-{ended}")


# ---- (b), (c), (d): request by request ----


class Case:
    """Everything about one request that reached the gateway."""

    def __init__(self, facts, request_id, seen):
        self.facts, self.id, self.seen = facts, request_id, seen
        self.plan = seen.plan
        self.record = facts.records.get(request_id, reading.Record())
        self.open = self.record.opens[0] if self.record.opens else None
        self.close = self.record.closes[0] if self.record.closes else None
        self.sessions = facts.sessions.get(request_id, [])
        began = [session for session in self.sessions if session.began]
        self.engine = max(began, key=lambda session: session.tokens, default=None)

    @property
    def written(self):
        return self.engine.tokens if self.engine else 0

    def used(self):
        return self.close["input_tokens"], self.close["output_tokens"]

    def sources(self):
        return self.close["input_source"], self.close["output_source"]

    def is_embeddings(self):
        return self.plan.endpoint == "embeddings"

    def is_one_choice(self):
        return self.plan.model == "llama" and self.engine is not None and self.engine.choices > 1

    def is_stream(self):
        return self.plan.stream and not self.is_embeddings()

    def happened(self, name, slack=1.5):
        """Whether such a thing happened while it ran."""
        spans = [(begun, ended) for what, begun, ended in self.facts.timeline if what == name]
        return any(begun - slack <= self.seen.ended and self.seen.sent <= ended + slack for begun, ended in spans)

    def __str__(self):
        close = {k: self.close[k] for k in ("input_tokens", "output_tokens", "end", "billed")} if self.close else None
        engine = f"{self.engine.tokens} tokens" if self.engine else "nothing"
        where = f"{self.id} ({self.plan.kind} at {self.plan.model})"
        return f"{where}: CLOSE {close}, engine {engine}, client {self.seen.tokens}"


def check_requests(facts, verdict):
    known = set()
    for seen in facts.seen:
        ids = {seen.request_id} - {""} | facts.ids.get(seen.plan.tag, set())
        verdict.expect("e", len(ids) <= 1, f"one request, {len(ids)} ids: {ids}")
        verdict.expect("b", not seen.gave_up, f"{seen.plan.kind} {ids}: no end within the client's patience")
        if not ids:
            judge_unknown(verdict, seen)
        for request_id in ids:
            known.add(request_id)
            judge(verdict, Case(facts, request_id, seen))
    for request_id in set(facts.sessions) - known:
        verdict.fail("b", f"{request_id}: an engine had it, no client sent it")
    for request_id in set(facts.records) - known:
        judge_unseen(facts, verdict, facts.records[request_id], request_id)


def judge_unknown(verdict, seen):
    """No answer and no engine: it cannot be told from others in the journal, and judge_unseen looks at it there."""
    verdict.expect("b", seen.status != 200, f"{seen.plan.kind}: an answer without an id")
    if seen.status == 0:
        verdict.rows["never_dispatched"] += 1


def judge_unseen(facts, verdict, record, request_id):
    for close in record.closes:
        nothing = (close["input_tokens"], close["output_tokens"]) == (0, 0)
        # An engine that was killed may have had it in its socket and never have read it.
        near = any(-200 <= close["ms"] - death <= 1500 for death in facts.engine_deaths)
        unread = near and close["end"] == "client_gone" and close["output_tokens"] == 0
        verdict.expect("d", nothing or unread, f"{request_id}: no engine had it, and its CLOSE says {close}")


def count_fault(verdict, case):
    found = FAULT.search(case.plan.words)
    if found and case.sessions:
        verdict.engine_faults[f"engine_{found[1]}"] += 1


def judge(verdict, case):
    count_fault(verdict, case)
    if case.open is None:
        verdict.expect("b", not case.sessions, f"{case}: an engine had it, the journal has not")
        verdict.expect("b", case.seen.status != 200, f"{case}: answered, not in the journal")
        verdict.rows["never_dispatched"] += 1
    elif case.close is None:
        verdict.expect("b", not case.sessions and not case.seen.has_done, f"{case}: no CLOSE")
    else:
        verdict.expect("d", case.close["output_tokens"] >= 0, f"{case}: below nothing")
        JUDGES[case.close["end"]](verdict, case)


def inputs_agree(verdict, case):
    """By whose count it says it is, it is."""
    used, source = case.close["input_tokens"], case.close["input_source"]
    if source == "engine":
        right = case.engine is not None and used == case.engine.input_tokens
    else:
        right = source == "estimated" and used == case.open["input_estimate"]
    verdict.expect("d", right, f"{case}: input {used} {source}, estimate {case.open['input_estimate']}")


def is_nothing(case):
    return case.used() == (0, 0)


def complete(verdict, case):
    """[DONE] or the whole answer went out; or would have, had the client been there to read it."""
    if not verdict.expect("b", case.engine is not None, f"{case}: complete, and no engine had it"):
        return
    verdict.expect("b", case.close["billed"], f"{case}: complete, not billed")
    inputs_agree(verdict, case)
    if case.plan.leave and not case.seen.has_done:
        verdict.rows["left_after_done"] += 1
    if case.plan.leave and case.plan.leave[0] == "done" and case.seen.has_done:
        verdict.rows["left_after_done"] += 1
    if case.is_embeddings():
        verdict.rows["embeddings"] += 1
        exact(verdict, case, 0, told=True)
    elif case.plan.model == "multi" and not case.plan.usage_is_told:
        add_chunks(verdict, case, case.written, case.written)
    elif not case.plan.usage_is_told:
        without_usage(verdict, case)
    else:
        row = "complete_stream" if case.is_stream() else "complete_whole"
        if case.is_one_choice():
            row = "one_choice_stream" if case.is_stream() else "one_choice_whole"
        if case.written == 0:
            row = "nothing_generated"
        verdict.rows[row] += 1
        exact(verdict, case, case.written, told=True)


def exact(verdict, case, output, told):
    """@told: the engine said so itself."""
    used, source = case.close["output_tokens"], case.close["input_source"]
    verdict.expect("b", used == output, f"{case}: the engine's own count is {output}")
    if told:
        verdict.expect("b", source == "engine", f"{case}: the input is {source}, and the engine told it")
    if told and "cached=" in case.plan.words:
        cached = int(case.plan.words.split("cached=")[1].split("]")[0])
        verdict.expect("b", case.close["cached_input_tokens"] == cached, f"{case}: {cached} came from the cache")


def without_usage(verdict, case):
    verdict.expect("d", case.sources()[0] == "estimated", f"{case}: the engine told no usage")
    if case.is_stream():
        zero = "zero_usage" in case.plan.words
        verdict.rows["usage_zero_with_content" if zero else "usage_missing"] += 1
        exact(verdict, case, case.written, told=False)
    else:
        verdict.rows["usage_missing_whole"] += 1
        verdict.wholes[0] += case.close["output_tokens"]
        verdict.wholes[1] += case.written


def client_gone(verdict, case):
    verdict.expect("c", case.seen.left or case.seen.status == 0 or not case.seen.has_done, f"{case}: it had not left")
    if case.engine is None:
        verdict.expect("d", is_nothing(case), f"{case}: no engine had begun it")
        return
    if not case.close["billed"]:
        # The engine died before its first byte, and the client left while it waited for another one.
        died = not case.engine.ended and not case.engine.gone
        verdict.expect("d", is_nothing(case) and died, f"{case}: not billed, and an engine worked for it")
        return
    if case.is_stream():
        gone_stream(verdict, case)
    elif case.is_embeddings():
        inputs_agree(verdict, case)
    else:
        gone_whole(verdict, case)


def gone_stream(verdict, case):
    seen, engine = case.seen, case.engine
    if case.written == 0:
        verdict.rows["gone_before_first_byte"] += 1
        verdict.expect("d", case.close["output_tokens"] == 0, f"{case}: nothing was generated")
        return
    inputs_agree(verdict, case)
    if case.plan.model == "multi":
        add_chunks(verdict, case, seen.tokens, case.written)
        return
    if seen.has_finish and seen.left:
        gone_at_finish(verdict, case)
    elif case.sources()[0] == "engine":
        verdict.rows["client_gone_stream_engine_counts"] += 1
    else:
        verdict.rows["client_gone_stream"] += 1
    within(verdict, case)
    if seen.left:
        heard_in_time(verdict, case, engine)


def within(verdict, case):
    """Client saw <= billed <= engine wrote."""
    used = case.close["output_tokens"]
    verdict.expect("c", case.seen.tokens <= used, f"{case}: the client saw more")
    verdict.expect("c", used <= case.written, f"{case}: more than the engine wrote")


def lateness(case):
    """How late this machine ran programs about when the client left, and the disk was slow."""
    around = [late for when, late in case.facts.late if abs(when - case.seen.left) < 0.6]
    slow = 1.0 if case.happened("slow_disk", 0.5) or case.happened("disk_full", 0.5) else 0.0
    return sum(around) + slow


def heard_in_time(verdict, case, engine):
    """The engine wrote no more than a quarter of a second for nobody, and nothing after that is billed."""
    used, left, late = case.close["output_tokens"], case.seen.left, lateness(case)
    before = engine.tokens_at(left - 0.05 - late)
    in_time = engine.tokens_at(left + WITHIN_MS / 1000 + late)
    for_nobody = case.written - used
    said = f"{case}: {for_nobody} tokens of the engine are not billed, {in_time - before} were written in time"
    verdict.expect("c", for_nobody <= in_time - before, said)
    verdict.expect("c", used <= in_time, f"{case}: the engine had written {in_time} when it had to stop")


def gone_at_finish(verdict, case):
    engine, source = case.engine, case.sources()[0]
    verdict.expect("d", case.close["output_tokens"] == case.written, f"{case}: it had finished")
    since = engine.ended - case.seen.left if engine.ended else None
    if since is not None and since < USAGE_WAIT_S - NEAR_S and not case.happened("slow_disk"):
        verdict.rows["gone_at_finish_usage_came"] += 1
        verdict.expect("d", source == "engine", f"{case}: usage came {since:.3f} s after the client left")
    elif since is None and (engine.gone == 0 or engine.gone - case.seen.left > USAGE_WAIT_S - NEAR_S):
        verdict.rows["gone_at_finish_usage_too_late"] += 1
        verdict.expect("d", source == "estimated", f"{case}: usage never came")


def gone_whole(verdict, case):
    told = case.engine.ended > 0
    if case.seen.status == 0 or case.seen.body_bytes == 0:
        verdict.rows["gone_before_whole"] += 1
    else:
        verdict.rows["gone_inside_whole"] += 1
    whole_by_source(verdict, case, told)


def whole_by_source(verdict, case, told):
    """The engine's usage when it was seen, else the estimate and nothing."""
    inputs_agree(verdict, case)
    if case.sources()[0] == "engine":
        verdict.expect("d", told and case.close["output_tokens"] == case.written, f"{case}: not the engine's own count")
    else:
        verdict.expect("d", case.close["output_tokens"] == 0, f"{case}: nobody told how much")


def engine_error(verdict, case):
    if not case.close["billed"]:
        verdict.expect("d", is_nothing(case), f"{case}: not billed, and it says more than nothing")
        verdict.expect("d", case.seen.tokens == 0, f"{case}: not billed, and the client got something")
        verdict.rows["error_before_first_byte"] += 1
    elif case.is_stream():
        row = "engine_died_stream_engine_counts" if case.sources()[0] == "engine" else "engine_died_stream"
        ended_early_stream(verdict, case, row)
    else:
        row = "died_inside_whole_usage_seen" if case.sources()[0] == "engine" else "died_inside_whole"
        verdict.rows[row] += 1
        if case.is_embeddings():
            verdict.expect("d", case.close["output_tokens"] == 0, f"{case}: embeddings have no output")
            inputs_agree(verdict, case)
        else:
            whole_by_source(verdict, case, told=case.engine is not None)


def ended_early_stream(verdict, case, row):
    """What was relayed is billed: exactly, when the client read it to its end."""
    verdict.rows[row] += 1
    inputs_agree(verdict, case)
    read_all = (case.seen.has_error or case.seen.has_done) and not case.seen.left
    if case.plan.model == "multi":
        add_chunks(verdict, case, case.seen.tokens, case.seen.tokens if read_all else case.written)
        return
    within(verdict, case)
    if read_all:
        right = case.close["output_tokens"] == case.seen.tokens
        verdict.expect("d", right, f"{case}: what was relayed is what the client got")


def cut(verdict, case):
    if not case.close["billed"]:
        verdict.expect("d", is_nothing(case) and case.seen.tokens == 0, f"{case}: not billed, and it owed something")
        verdict.rows["error_before_first_byte"] += 1
        return
    verdict.expect("b", not case.seen.has_done or case.plan.kind == "cut_by_limit", f"{case}: ended by us, not whole")
    row = cut_by(case)
    if not verdict.expect("d", row, f"{case}: ended by us, and nobody knows why"):
        return
    if case.is_stream():
        ended_early_stream(verdict, case, row)
    else:
        verdict.rows[row] += 1
        whole_by_source(verdict, case, told=case.engine is not None)


def cut_by(case):
    if case.plan.kind == "cut_by_limit" and case.seen.has_done:
        return "cut_by_limit"
    if case.plan.kind in ("kill_master", "drain"):  # the victims
        return "cut_by_master_gone" if case.plan.kind == "kill_master" else "cut_by_drain"
    if case.happened("kill_master", 0.2):
        return "cut_by_master_gone"
    if case.happened("drain", 0.2):
        return "cut_by_drain"
    if case.plan.model == "short":
        return "cut_by_total_timer"
    if case.seen.ended - case.seen.sent > 0.9:
        return "cut_by_inter_chunk_timer"
    return None


def crash(verdict, case):
    verdict.expect("b", not case.seen.has_done, f"{case}: the client saw the last event, the journal says it crashed")
    verdict.expect("d", case.happened("kill_gateway", 3), f"{case}: no gateway was killed")
    if not case.record.progresses:
        verdict.rows["crash_open_only"] += 1
        nothing = is_nothing(case) and not case.close["billed"]
        verdict.expect("d", nothing, f"{case}: no proof that an engine read it")
        proof = case.seen.tokens >= 3 and not case.happened("disk_full", 0.5)
        verdict.expect("d", not proof, f"{case}: it was being relayed, and no PROGRESS says so")
        step(verdict, case)
        return
    verdict.rows["crash_with_progress"] += 1
    verdict.expect("d", case.close["billed"], f"{case}: an engine worked for it")
    last = case.record.progresses[-1]
    right = case.close["output_tokens"] == last["output_tokens"] and case.close["ms"] == last["ms"]
    verdict.expect("d", right, f"{case}: the last PROGRESS says {last['output_tokens']} at {last['ms']}")
    inputs_agree(verdict, case)
    if case.plan.model != "multi":
        verdict.expect("d", case.close["output_tokens"] <= case.written, f"{case}: more than the engine wrote")
    step(verdict, case)


def step(verdict, case):
    missing = case.seen.tokens - case.close["output_tokens"]
    # One turn of the loop relays what has come since the last; on a slow disk that is more.
    most = PROGRESS_STEP_TOKENS + (SLOW_DISK_TOKENS if case.happened("slow_disk", 0.5) else 16)
    verdict.expect("d", missing <= most, f"{case}: {missing} tokens more were seen than billed, a step is {most}")


JUDGES = {
    "complete": complete,
    "client_gone": client_gone,
    "engine_error": engine_error,
    "cut": cut,
    "crash": crash,
}


# ---- chunks of several tokens ----


def add_chunks(verdict, case, least, most):
    if case.sources()[1] == "engine":
        return
    verdict.rows["chunks_of_several_tokens"] += 1
    for place, tokens in enumerate((case.close["output_tokens"], least, most)):
        verdict.chunks[place] += tokens


def check_chunks(verdict):
    """Whole answers without usage show nothing but bytes: what those hold differs from answer to answer."""
    billed, generated = verdict.wholes
    verdict.expect(
        "d", generated / 2 <= billed <= generated * 2, f"whole answers: {billed} billed, {generated} generated"
    )
    billed, least, most = verdict.chunks
    right = least * (1 - CHUNKS_SHARE) <= billed <= most * (1 + CHUNKS_SHARE)
    verdict.expect("d", right, f"chunks of several tokens: {billed} billed, {least} to {most} were relayed")
