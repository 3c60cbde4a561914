#!/usr/bin/env python3
"""Breaks one rule at a time in a copy of the tree and runs seeds until one notices: a check that no broken rule can get
past. Prints which seed caught what; the last line is "N passed, M failed". Usage: mutations.py [NAME …]"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("base", "conf", "auth", "ratelimit", "billing", "backends", "gateway", "tests/tools")

# name -> (the rule that is broken, the letters of the checks that must notice,
#          [(file, what stands there, what stands there instead)])
MUTATIONS = {
    "no_fence": (
        "records that Redis has are not applied again",
        "a",
        [
            (
                "billing/ship.lua",
                "if first > mark + 1 or last <= mark then\n    return mark\nend",
                "if first > last then\n    return last\nend",
            ),
            ("billing/ship.lua", "if tonumber(ARGV[i]) > mark then", "if tonumber(ARGV[i]) > 0 then"),
        ],
    ),
    "ack_before_send": (
        "a row is acknowledged when the provider said so",
        "a",
        [
            (
                "billing/sender.c",
                "    flight->phase = FLIGHT_MARKED;\n",
                '    flight->phase = FLIGHT_MARKED;\n    (void) sender_move(sender, flight->id, ROW_ACKED, "");\n',
            )
        ],
    ),
    "close_after_last_byte": (
        "the last byte leaves when the CLOSE is in the journal",
        "b",
        [
            (
                "gateway/steps_record.c",
                "enum step_result step_record(struct request *request)\n{\n",
                "enum step_result step_record(struct request *request)\n{\n"
                "    if (request->recording != RECORDING_OPENING)\n        return STEP_NEXT;\n",
            ),
            (
                "gateway/request.c",
                "    request->times.ended = clock_mono_us();\n",
                "    request->times.ended = clock_mono_us();\n    request_close_record(request);\n",
            ),
        ],
    ),
    "random_identifier": (
        "a row has one identifier for ever",
        "ae",
        [
            (
                "billing/row.c",
                "    SHA256((const uint8_t *) whole.at, whole.length, digest);\n",
                "    SHA256((const uint8_t *) whole.at, whole.length, digest);\n"
                "    digest[0] = (uint8_t) (digest[0] ^ clock_mono_us());\n",
            )
        ],
    ),
    "dedup_window_passed": (
        "what may have arrived and is too old is asked for first",
        "ae",
        [
            (
                "billing/deliver.c",
                "    return can->can_tell ? DELIVERY_RECONCILE : DELIVERY_HOLD;",
                "    return DELIVERY_SEND;",
            )
        ],
    ),
    "crash_without_proof": (
        "an OPEN without PROGRESS owes nothing",
        "d",
        [
            (
                "billing/recover.c",
                ".input_tokens = request->has_progress ? request->input_tokens : 0,",
                ".input_tokens = request->input_tokens,",
            )
        ],
    ),
    "crash_forgets_progress": (
        "a crash bills the last PROGRESS",
        "d",
        [("billing/recover.c", ".output_tokens = request->output_tokens,", ".output_tokens = 0,")],
    ),
    "no_progress": (
        "PROGRESS begins at the engine's first byte",
        "d",
        [
            (
                "gateway/steps_record.c",
                "    journal_progress(request->worker->journal,",
                "    if (output_tokens > 1000000)\n        journal_progress(request->worker->journal,",
            )
        ],
    ),
    "epoch_over_the_hour": (
        "epochs are cut at the UTC hour",
        "e",
        [
            (
                "billing/journal.c",
                "journal->epoch_due = when + journal->epoch_ms < hour + HOUR_MS ?"
                " when + journal->epoch_ms : hour + HOUR_MS;",
                "journal->epoch_due = hour + 2 * HOUR_MS;",
            )
        ],
    ),
    "works_on_for_nobody": (
        "an engine hears within 250 ms that its client left",
        "c",
        [("gateway/linger.c", "return is_at_it && relay_has_finished(relay) &&", "return is_at_it &&")],
    ),
    "lost_answer_is_taken": (
        "no answer is no acknowledgement",
        "a",
        [("billing/sender.c", "    return ROW_SENT;\n}\n\n/* Write down", "    return ROW_ACKED;\n}\n\n/* Write down")],
    ),
}


def copy_tree(to, build):
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    shutil.copy2(ROOT / "Makefile", to)
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, to / folder, ignore=ignore)
    shutil.copytree(build / "release", to / "build/release", ignore=shutil.ignore_patterns("unit", "bench", "*.d"))


def break_rule(tree, changes):
    """Each place must be there exactly once: a change that no longer applies proves nothing."""
    for file, old, new in changes:
        path = tree / file
        text = path.read_text()
        found = flexible(old).findall(text)
        if len(found) != 1:
            raise ValueError(f"{file}: {len(found)} places where one was expected: {old.strip()!r}")
        path.write_text(flexible(old).sub(lambda _: new, text))
        os.utime(path)


def flexible(text):
    """White space may have been laid out in another way."""
    pattern = r"\s+".join(re.escape(word) for word in text.split())
    ahead = text[: len(text) - len(text.lstrip())]
    behind = text[len(text.rstrip()) :]
    return re.compile(re.escape(ahead) + pattern + re.escape(behind))


def build_mutant(tree):
    target = "build/release/tools/tollgate_ledger"
    own = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "BUILD"}
    done = subprocess.run(["make", "-s", "-j2", target], cwd=tree, capture_output=True, text=True, env=own)
    if done.returncode != 0:
        raise ValueError(f"it does not build: {done.stderr[-2000:]}")
    return tree / target


def first_catch(options, letters, program, directory):
    """(seed, the first problem of such a letter), or None."""
    for seed in range(1, options.seeds + 1):
        words = [sys.executable, "-B", str(ROOT / "tests/ledger/run.py"), "--one", "--seed", str(seed)]
        words += ["--program", str(program), "--tools", str(options.build / "release/tools")]
        words += ["--directory", str(directory)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
        file = directory / f"seed-{seed}" / "result.json"
        if not file.exists():
            raise ValueError(f"seed {seed} left no result: {done.stderr[-2000:]}")
        result = json.loads(file.read_text())
        found = [problem for problem in result["problems"] if problem[1] in letters and problem[2] == ")"]
        if found:
            return seed, found[0]
    return None


def absolute(path):
    return pathlib.Path(os.path.abspath(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--seeds", type=int, default=10, help="how many may try")
    parser.add_argument("--build", type=absolute, default=ROOT / "build", help="what `make ledger` built is there")
    parser.add_argument("--directory", type=absolute, default=ROOT / "build/mutants")
    options = parser.parse_args()
    lines, missed = [], 0
    for name in options.names or MUTATIONS:
        rule, letters, changes = MUTATIONS[name]
        tree = options.directory / name
        try:
            copy_tree(tree, options.build)
            break_rule(tree, changes)
            caught = first_catch(options, letters, build_mutant(tree), options.directory / f"{name}-seeds")
        except ValueError as error:
            caught = None
            print(f"{name}: {error}", flush=True)
        missed += caught is None
        found = f"seed {caught[0]}: {caught[1].splitlines()[0][:150]}" if caught else "NOT CAUGHT"
        lines.append(f"{name:24} | {rule:55} | {found}")
        print(lines[-1], flush=True)
        shutil.rmtree(tree, ignore_errors=True)
    print("\nmutation                 | the rule that was broken                                | what noticed")
    print("\n".join(lines))
    print(f"{len(lines) - missed} passed, {missed} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
