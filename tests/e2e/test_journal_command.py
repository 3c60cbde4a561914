"""`tollgate journal dump` and `journal verify`, on segments that this file writes by itself."""

import json
import os
import struct
import subprocess

import pytest
from support import paths
from support.waiting import wait_until

TIMEOUT = 60 * paths.SLOWNESS
HOUR_MS = 3600 * 1000
NOON = 1795348800000  # 2026-11-22T12:00:00Z
OPEN, PROGRESS, CLOSE, SEAL, FINISH = 1, 2, 3, 4, 5


def crc32c(data):
    """Castagnoli, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def names(*texts):
    return b"".join(bytes([len(text.encode())]) + text.encode() for text in texts)


def record(sequence, kind, when, rest=b""):
    payload = struct.pack("<q", when) + rest
    body = struct.pack("<QB", sequence, kind) + payload
    length = struct.pack("<I", len(payload))
    return length + struct.pack("<I", crc32c(length + body)) + body


def opened(sequence, request, when=NOON, model="gemma"):
    return record(sequence, OPEN, when, names(request, "acme", "key-1", model) + struct.pack("<q", 7))


def progress(sequence, request, when=NOON):
    return record(sequence, PROGRESS, when, names(request) + struct.pack("<q", 64))


def closed(sequence, request, when=NOON, epoch=1):
    usage = struct.pack("<qqqBBBBQ", 11, 3, 22, 1, 2, 1, 1, epoch)
    return record(sequence, CLOSE, when, names(request, "acme", "key-1", "gemma") + usage)


def seal(sequence, epoch=1, began=NOON, ended=NOON):
    return record(sequence, SEAL, ended, struct.pack("<Qq", epoch, began))


def finish(sequence):
    return record(sequence, FINISH, NOON)


GOOD = [
    opened(1, "req-a"),
    opened(2, "req-b"),
    progress(3, "req-b"),
    closed(4, "req-a"),
    seal(5),
    closed(6, "req-b", NOON + HOUR_MS, 2),
    seal(7, 2, NOON + HOUR_MS, NOON + HOUR_MS),
    finish(8),
]


def write(directory, *segments, first=1):
    directory.mkdir(parents=True, exist_ok=True)
    for number, records in enumerate(segments, first):
        (directory / f"{number:08}.seg").write_bytes(b"".join(records).ljust(4096, b"\0"))
    return directory


def tollgate(*words, code=0):
    done = subprocess.run(
        [str(paths.TOLLGATE), "journal", *map(str, words)], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


def test_dump_prints_every_record(tmp_path):
    writer = write(tmp_path / "0-abc", GOOD[:4], GOOD[4:])
    lines = tollgate("dump", writer).stdout.splitlines()
    assert len(lines) == len(GOOD)
    assert lines[0].endswith('OPEN     request_id "req-a" tenant "acme" key "key-1" model "gemma" input_estimate 7')
    assert lines[0].startswith(f"{writer}/00000001.seg:0 #1 2026-11-22T12:00:00.000Z ")
    for word in ("CLOSE", "input_tokens 11", "cached_input_tokens 3", "input_source engine", "output_tokens 22"):
        assert word in lines[3]
    for word in ("output_source counted", "end complete", "billed yes", "epoch 1"):
        assert word in lines[3]
    assert lines[4].startswith(f"{writer}/00000002.seg:0 #5 ") and "began 2026-11-22T12:00:00.000Z" in lines[4]


def test_dump_json(tmp_path):
    writer = write(tmp_path / "0-abc", GOOD)
    rows = [json.loads(line) for line in tollgate("dump", "--json", writer / "00000001.seg").stdout.splitlines()]
    assert [row["sequence"] for row in rows] == list(range(1, 9))
    types = ["OPEN", "OPEN", "PROGRESS", "CLOSE", "SEAL", "CLOSE", "SEAL", "FINISH"]
    assert [row["type"] for row in rows] == types
    assert rows[2]["output_tokens"] == 64 and rows[2]["request_id"] == "req-b"
    assert rows[1]["offset"] == len(GOOD[0])
    assert rows[3]["billed"] is True and rows[3]["output_source"] == "counted" and rows[5]["epoch"] == 2
    assert rows[6]["began"] == rows[6]["when"] == "2026-11-22T13:00:00.000Z"


def test_dump_shows_no_time_where_there_is_none(tmp_path):
    writer = write(tmp_path / "0-abc", [*GOOD[:-1], record(8, FINISH, 0)])
    rows = [json.loads(line) for line in tollgate("dump", "--json", writer).stdout.splitlines()]
    assert [row["when"] is None for row in rows] == [False] * 7 + [True]
    text = tollgate("dump", writer).stdout
    assert text.splitlines()[-1].endswith(" #8 - FINISH  ") and "1970" not in text


def test_dump_does_not_obey_names(tmp_path):
    writer = write(tmp_path / "0-abc", [opened(1, "req\x1b[2J\n", model="m" * 128)])
    output = tollgate("dump", writer).stdout
    assert "\x1b" not in output and output.count("\n") == 1


def test_verify_good_journals(tmp_path):
    write(tmp_path / "journal" / "0-abc", GOOD[:4], GOOD[4:])
    write(tmp_path / "journal" / "1-def", GOOD[:3])
    said = tollgate("verify", tmp_path / "journal").stdout
    assert said == "ok: 2 writer(s), 3 segment(s), 11 records; 4 requests, 2 of them open; 2 epochs sealed\n"
    tollgate("verify", tmp_path / "journal" / "0-abc" / "00000002.seg")
    # The first segments are gone when all that is in them is done with.
    tollgate("verify", write(tmp_path / "2-ghi", GOOD[3:], first=4))


def size(*records):
    return sum(map(len, records))


@pytest.mark.parametrize(
    ("records", "at", "what"),
    [
        ([*GOOD[:2], GOOD[3]], 2, "a gap in the sequence"),
        ([GOOD[0], closed(2, "req-x")], 1, "a CLOSE without an OPEN"),
        ([GOOD[0], closed(2, "req-a"), closed(3, "req-a")], 2, "the second CLOSE"),
        ([GOOD[0], opened(2, "req-a")], 1, "a second OPEN"),
        ([GOOD[0], closed(2, "req-a", epoch=2)], 1, "a CLOSE of another epoch"),
        ([*GOOD[:4], closed(5, "req-b", NOON + HOUR_MS)], 4, "a CLOSE in an epoch of another hour"),
        ([GOOD[0], seal(2)], 1, "a SEAL of an epoch without a CLOSE"),
        ([GOOD[0], closed(2, "req-a"), seal(3, 2)], 2, "a SEAL of another epoch"),
        ([GOOD[0], closed(2, "req-a"), seal(3, 1, NOON - 1)], 2, "a SEAL of an epoch that spans an hour"),
        ([GOOD[0], closed(2, "req-a"), seal(3, 1, NOON, NOON + 1)], 2, "a SEAL with other times"),
        ([GOOD[0], closed(2, "req-a"), finish(3)], 2, "a FINISH before the SEAL"),
        ([*GOOD, opened(9, "req-c")], 8, "a record after the FINISH"),
        ([*GOOD[:3], b"\0" * 40, GOOD[3]], 3, "zeros where a record should be"),
        ([*GOOD[:3], GOOD[3][:-12]], 3, "no whole record"),
        ([*GOOD[:3], GOOD[3][:30] + b"?" + GOOD[3][31:], *GOOD[4:]], 3, "no whole record"),
    ],
)
def test_verify_says_where(tmp_path, records, at, what):
    writer = write(tmp_path / "0-abc", records)
    said = tollgate("verify", writer, code=1)
    assert said.stderr.startswith(f"tollgate journal verify: {writer}/00000001.seg:{size(*records[:at])}: "), said.stderr
    assert what in said.stderr
    assert said.stdout == ""


def test_a_segment_that_ends_with_its_last_record(tmp_path):
    writer = write(tmp_path / "0-abc", GOOD[:5], GOOD[5:])
    os.truncate(writer / "00000002.seg", size(*GOOD[5:]))
    assert " 2 segment(s), 8 records; 2 requests, 0 of them open" in tollgate("verify", writer).stdout
    os.truncate(writer / "00000002.seg", size(*GOOD[5:]) - 1)
    assert f"00000002.seg:{size(*GOOD[5:7])}: no whole record" in tollgate("verify", writer, code=1).stderr


def test_a_missing_segment(tmp_path):
    writer = write(tmp_path / "0-abc", GOOD[:2], GOOD[2:4], GOOD[4:])
    os.unlink(writer / "00000002.seg")
    said = tollgate("verify", writer, code=1).stderr
    assert "00000003.seg:0: a gap in the sequence" in said


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"\xff" * 20, "no whole record"),
        (b"\0" * 600, "zeros where a record should be"),
        (GOOD[2][:30] + b"?" + GOOD[2][31:], "no whole record"),
    ],
)
def test_dump_goes_on_behind_damage(tmp_path, damage, what):
    """A person sees what no program dares to bill."""
    writer = write(tmp_path / "journal" / "0-abc", [*GOOD[:2], damage, *GOOD[3:6]], GOOD[6:])
    write(tmp_path / "journal" / "1-def", GOOD[:3])
    said = tollgate("dump", "--json", tmp_path / "journal", code=1)
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert [row["sequence"] for row in rows] == [1, 2, 4, 5, 6, 7, 8, 1, 2, 3]
    assert rows[2]["offset"] == size(*GOOD[:2]) + len(damage)
    assert f"{writer}/00000001.seg:{size(*GOOD[:2])}: {what}" in said.stderr and said.stderr.count("\n") == 1


def test_a_gateway_cuts_what_is_torn_and_leaves_what_is_damaged(make_gateway, make_engine):
    own = make_gateway({"models": {"m": {"engines": [make_engine(model="m").yaml()]}}})
    own.stop()
    journal = own.directory / "state/journal"
    write(journal / ("0-" + "a" * 32), [*GOOD[:3], GOOD[3][:-12]])
    damaged = write(journal / ("1-" + "b" * 32), [*GOOD[:3], GOOD[3][:30] + b"?" + GOOD[3][31:], *GOOD[4:6]])
    before = (damaged / "00000001.seg").read_bytes()
    own.start()
    trouble = f"it is damaged, or its disk fails, at 00000001.seg:{size(*GOOD[:3])}\n"
    wait_until(lambda: trouble in own.readyz(verbose=True).text, "the damage to be said")
    wait_until(lambda: [line for line in own.log("journal_recovered") if line["writer"] == "a" * 32], "the torn one")
    (recovered,) = [line for line in own.log("journal_recovered") if line["writer"] in ("a" * 32, "b" * 32)]
    assert (recovered["level"], recovered["torn_bytes"]) == ("warning", len(GOOD[3][:-12].rstrip(b"\0")))
    assert recovered["crashed_requests"] == 2
    (said,) = [line for line in own.log("journal") if line.get("writer") == "b" * 32]
    assert said["level"] == "error"
    assert (damaged / "00000001.seg").read_bytes() == before


def test_mistakes(tmp_path):
    assert "FILE or DIR is missing" in tollgate("dump", code=2).stderr
    assert "FILE or DIR is missing" in tollgate("verify", code=2).stderr
    assert "unexpected argument" in tollgate("verify", "a", "b", code=2).stderr
    assert "No such file" in tollgate("dump", tmp_path / "nothing", code=1).stderr
    assert "no journal is there" in tollgate("verify", tmp_path, code=1).stderr
    assert tollgate("dump", "--help").stdout.startswith("Usage: tollgate journal dump FILE|DIR [--json]")
