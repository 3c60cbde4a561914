"""What stands in the usage journals of a gateway, as `tollgate journal dump` tells it."""

import json
import subprocess

from . import paths
from .waiting import wait_until


def records(gateway, request_id=None):
    """All records (of one request), by writer and in order; of the live journals as well."""
    found = []
    for writer in sorted((gateway.directory / "state/journal").glob("*-*")):
        done = subprocess.run(
            [str(paths.TOLLGATE), "journal", "dump", "--json", str(writer)],
            capture_output=True,
            text=True,
            timeout=60 * paths.SLOWNESS,
        )
        for line in done.stdout.splitlines():
            row = json.loads(line)
            if request_id is None or row.get("request_id") == request_id:
                found.append(row)
    return found


def of_type(rows, kind):
    return [row for row in rows if row["type"] == kind]


def only_close(gateway, request_id, seconds=5.0):
    """The CLOSE of the request; there is one OPEN before it, and no second CLOSE."""
    wait_until(lambda: of_type(records(gateway, request_id), "CLOSE"), f"the CLOSE of {request_id}", seconds)
    rows = records(gateway, request_id)
    kinds = [row["type"] for row in rows]
    assert kinds[0] == "OPEN" and kinds[-1] == "CLOSE", kinds
    assert set(kinds[1:-1]) <= {"PROGRESS"}, kinds
    return rows[-1]
