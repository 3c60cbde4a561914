"""What everybody wrote down about a seed's requests: the journals, Redis, the ledger files, the providers, the engines.
Reading only; what it proves is checks.py's."""

import collections
import dataclasses
import datetime
import json
import subprocess

import wire

HOUR_MS = 3600 * 1000


def milliseconds(text):
    """RFC 3339 to milliseconds since 1970."""
    when = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round(when.timestamp() * 1000)


@dataclasses.dataclass
class Session:
    """One attempt at one engine, by the engine's own count."""

    serial: tuple
    request_id: str = ""
    endpoint: str = ""
    began: bool = False
    input_tokens: int = 0
    choices: int = 1
    times: list = dataclasses.field(default_factory=list)  # (monotonic seconds, tokens of each choice so far)
    ended: float = 0.0  # when it had written everything
    gone: float = 0.0  # when it saw its client leave
    faults: list = dataclasses.field(default_factory=list)

    @property
    def tokens(self):
        return self.times[-1][1] * self.choices if self.times else 0

    def tokens_at(self, moment):
        """What it had written by then."""
        return max((tokens for when, tokens in self.times if when <= moment), default=0) * self.choices


@dataclasses.dataclass
class Record:
    """What the journals say of one request."""

    opens: list = dataclasses.field(default_factory=list)
    progresses: list = dataclasses.field(default_factory=list)
    closes: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Facts:
    seen: list = dataclasses.field(default_factory=list)
    sessions: dict = dataclasses.field(default_factory=dict)  # request id -> [Session]
    ids: dict = dataclasses.field(default_factory=dict)  # tag -> {request id}
    records: dict = dataclasses.field(default_factory=dict)  # request id -> Record
    finished: set = dataclasses.field(default_factory=set)  # writers
    seals: dict = dataclasses.field(default_factory=dict)  # (writer, epoch) -> (began, ended)
    seals_twice: list = dataclasses.field(default_factory=list)
    # Cells: (writer, epoch, tenant, key, model, measure, source) -> quantity
    journal_cells: dict = dataclasses.field(default_factory=dict)
    redis_cells: dict = dataclasses.field(default_factory=dict)
    ledger_cells: dict = dataclasses.field(default_factory=dict)
    ledger_heads: dict = dataclasses.field(default_factory=dict)  # (writer, epoch) -> (began, ended)
    events: list = dataclasses.field(default_factory=list)  # that Stripe accepted
    identifiers_taken_twice: list = dataclasses.field(default_factory=list)
    rows: dict = dataclasses.field(default_factory=dict)  # row id -> the last line of its state at Stripe
    file_lines: list = dataclasses.field(default_factory=list)  # (writer, epoch, line)
    timeline: list = dataclasses.field(default_factory=list)
    engine_deaths: list = dataclasses.field(default_factory=list)  # wall clock, ms
    reconcile: tuple = (0, "")  # exit status and words of `tollgate usage reconcile`
    late: list = dataclasses.field(default_factory=list)
    customers: dict = dataclasses.field(default_factory=dict)  # tenant -> customer
    meters: dict = dataclasses.field(default_factory=dict)  # event name -> measure


def add(cells, name, quantity):
    if quantity:
        cells[name] = cells.get(name, 0) + quantity


# ---- engines ----


def read_engines(directory, facts):
    for file in sorted(directory.glob("*.count")):
        sessions = {}
        for line in file.read_text().splitlines():
            read_count(facts, sessions, file.stem, json.loads(line))


def read_count(facts, sessions, engine, line):
    if line["id"] == "-":
        return  # a probe
    name = (engine, line["pid"], line["serial"])
    if name not in sessions:
        sessions[name] = Session(name, line["id"], line["endpoint"])
        facts.sessions.setdefault(line["id"], []).append(sessions[name])
    session, when = sessions[name], line["at_ms"] / 1000
    if line.get("tag"):
        facts.ids.setdefault(line["tag"], set()).add(line["id"])
    event = line["event"]
    if event == "begin":
        session.began, session.input_tokens, session.choices = True, line["tokens"], line["choices"]
    elif event == "held":
        session.began = True  # and nothing will come
    elif event == "token":
        session.times.append((when, line["tokens"]))
    elif event == "end":
        session.ended = when
    elif event == "gone":
        session.gone = when
    else:
        session.faults.append((event, when))


# ---- journals ----


def read_journals(program, directory, facts):
    for writer in sorted(directory.iterdir()):
        done = subprocess.run(
            [str(program), "journal", "dump", str(writer), "--json"], capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise ValueError(f"journal dump {writer.name}: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            read_record(facts, writer.name.split("-", 1)[1], json.loads(line))


def read_record(facts, writer, line):
    if line["type"] == "FINISH":
        facts.finished.add(writer)
        return
    line["writer"], line["ms"] = writer, milliseconds(line["when"])
    if line["type"] == "SEAL":
        name = (writer, line["epoch"])
        if name in facts.seals:
            facts.seals_twice.append(name)
        facts.seals[name] = (milliseconds(line["began"]), line["ms"])
    else:
        record = facts.records.setdefault(line["request_id"], Record())
        {"OPEN": record.opens, "PROGRESS": record.progresses, "CLOSE": record.closes}[line["type"]].append(line)
        if line["type"] == "CLOSE" and line["billed"]:
            add_close(facts.journal_cells, line)


def add_close(cells, close):
    place = (close["writer"], close["epoch"], close["tenant"], close["key"], close["model"])
    add(cells, (*place, "requests", "none"), 1)
    add(cells, (*place, "input_tokens", close["input_source"]), close["input_tokens"])
    add(cells, (*place, "cached_input_tokens", close["input_source"]), close["cached_input_tokens"])
    add(cells, (*place, "output_tokens", close["output_source"]), close["output_tokens"])


# ---- Redis, ledger files, providers ----


async def read_redis(path, facts):
    async with wire.Redis(path) as redis:
        for key in await redis.command("KEYS", "tg:{*}:cells:*"):
            writer, epoch = key.decode().removeprefix("tg:{").split("}:cells:")
            flat = await redis.command("HGETALL", key)
            for field, quantity in zip(flat[::2], flat[1::2]):
                names = field.decode().split("\x1f")
                add(facts.redis_cells, (writer, int(epoch), *names), int(quantity))


def read_ledger(directory, facts):
    for file in sorted(directory.glob("*.jsonl")):
        head, *cells = [json.loads(line) for line in file.read_text().splitlines()]
        name = (head["writer"], head["epoch"])
        facts.ledger_heads[name] = (head["began"], head["ended"])
        for cell in cells:
            names = [cell[column] for column in ("tenant", "key", "model", "measure", "source")]
            add(facts.ledger_cells, (*name, *names), cell["quantity"])


def read_states(file, facts):
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("{"):
            row = json.loads(line[: line.rindex(" ")])
            if "row" in row:
                facts.rows[row["row"]] = row


def read_file_provider(directory, facts):
    for file in sorted(directory.glob("usage-*.jsonl")):
        _, writer, epoch = file.stem.split("-")
        for line in file.read_text().splitlines():
            facts.file_lines.append((writer, int(epoch), json.loads(line)))


def read_stripe(state, facts):
    facts.events = [event for event in state["events"] if not event["canceled"] and not event["async_error"]]
    facts.identifiers_taken_twice = state["identifiers_taken_twice"]


# ---- sums ----


def hour_of(ms):
    return ms - ms % HOUR_MS


def by_tenant_measure_hour(facts, cells):
    """(tenant, measure, hour) -> quantity, the hour being that of the epoch."""
    found = collections.Counter()
    for (writer, epoch, tenant, _, _, measure, _), quantity in cells.items():
        ended = facts.seals.get((writer, epoch), (0, 0))[1]
        found[tenant, measure, hour_of(ended)] += quantity
    return found
