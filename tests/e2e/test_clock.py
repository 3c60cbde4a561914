"""The wall clock that a test can step is in a binary of its own; the product has none."""

import datetime
import json
import os
import subprocess

from support import paths

YAML = """\
models:
  llama:
    price:
      - { currency: USD, input: "3", output: "4" }
      - { currency: USD, input: "5", output: "6", valid_from: 2999-01-01 }
    engines: [ { url: "http://127.0.0.1:8001" } ]
tenants: { acme: {} }
"""
VARIABLE = "TOLLGATE_CLOCK_OFFSET_FILE"


def price_of_a_million(binary, folder, offset):
    (folder / "tollgate.yaml").write_text(YAML)
    (folder / "offset").write_text(offset)
    done = subprocess.run(
        [str(binary), "price", "--model", "llama", "--input", "1000000", "--output", "0", "--json"],
        cwd=folder,
        env={**os.environ, VARIABLE: str(folder / "offset")},
        capture_output=True,
        text=True,
        timeout=60 * paths.SLOWNESS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["amount"]


def ms_until(year):
    until = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) - datetime.datetime.now(datetime.UTC)
    return int(until.total_seconds() * 1000)


def test_the_test_build_adds_what_the_file_says(tmp_path):
    binary = paths.TOLLGATE_TEST_CLOCK
    assert price_of_a_million(binary, tmp_path, "0") == "3"
    assert price_of_a_million(binary, tmp_path, "") == "3"
    assert price_of_a_million(binary, tmp_path, f"{ms_until(2999) + 1000 * 3600}\n") == "5"
    assert price_of_a_million(binary, tmp_path, f"{ms_until(2999) - 1000 * 3600}\n") == "3"


def test_the_product_has_no_such_thing(tmp_path):
    assert price_of_a_million(paths.TOLLGATE, tmp_path, f"{ms_until(2999) + 1000 * 3600}\n") == "3"
    assert VARIABLE.encode() in paths.TOLLGATE_TEST_CLOCK.read_bytes()
    assert VARIABLE.encode() not in paths.TOLLGATE.read_bytes()
