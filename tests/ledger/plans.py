"""The requests of a seed: what kinds there are, and how each looks on the wire."""

import dataclasses
import json
import random

import world

FIRST_LESSONS = 6

# How a client leaves, by name, with a number where it needs one:
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
    script = chance.choice([words(tokens=5, first_ms=3000), words(fault="hold")])
    return Plan("", "open", "chat", True, script, ("after_ms", chance.randint(5, 150)))


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
    return Plan(
        "", "open", "chat", chance.random() < 0.7, words(tokens=50, interval_ms=4), ("after_ms", chance.randint(0, 250))
    )


@kind(25, 1)
def leave_at_finish(chance):
    return Plan(
        "", "open", "chat", True, short_script(chance, fault=f"late_usage={chance.randint(50, 400)}"), ("finish",)
    )


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
    fault = chance.choice(
        ["status=500", "status=400", "status=429", "status=503", "reset_before_headers", "close_without_byte"]
    )
    return Plan("", "open", "chat", chance.random() < 0.5, words(fault=fault))


@kind(8, 0)
def silent_before_head(chance):
    return Plan("", "open", "chat", True, words(fault="hang_before_headers"))


@kind(10, 1)
def connection_gone(chance):
    """An idle connection that the engine closes: once more, on a fresh one."""
    return Plan("", "open", "chat", chance.random() < 0.5, short_script(chance, fault="close_reused"))


@kind(6, 0)
def huge_event(chance):
    """At a model of its own: what a token of it holds is learned."""
    return Plan("", "short", "chat", True, words(tokens=5, fault="huge_event=200000"))


@kind(6, 0)
def slow_reader(chance):
    return Plan("", "open", "chat", True, words(tokens=5, fault="slow_reader") + "input " * 2000)


@kind(1, 0)
def engine_crash(chance):
    """With everything else that is at this engine."""
    return Plan("", "vllm", "chat", True, words(tokens=60, interval_ms=2, fault="crash=10"))


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


@kind(10, 1)
def chunks_of_a_request(chance):
    script = words(tokens=chance.randint(20, 100), fault="multi_token_chunks=4")
    return Plan("", "multi", "chat", True, script)


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
