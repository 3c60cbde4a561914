"""`tollgate price`: what so many tokens of a model cost."""

import json
import subprocess

import pytest
from support import paths

TOLLGATE = str(paths.TOLLGATE)
TIMEOUT = 60 * paths.SLOWNESS
YAML = """\
models:
  gemma:
    aliases: [small]
    price: { currency: EUR, input: "0.10", cached_input: "0.05", output: "0.546875" }
    engines: [ { url: "http://127.0.0.1:8000" } ]
  llama:
    price:
      - { currency: USD, input: "1", output: "2" }
      - { currency: USD, input: "3", output: "4", valid_from: 2020-01-01 }
      - { currency: USD, input: "5", output: "6", valid_from: 2999-01-01 }
    engines: [ { url: "http://127.0.0.1:8001" } ]
  free:
    engines: [ { url: "http://127.0.0.1:8002" } ]
  later:
    price: { currency: EUR, input: "1", output: "1", valid_from: 2999-01-01 }
    engines: [ { url: "http://127.0.0.1:8003" } ]
tenants: { acme: {} }
"""


def price(folder, *words, code=0):
    (folder / "tollgate.yaml").write_text(YAML)
    done = subprocess.run(
        [TOLLGATE, "price", *words], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done


def test_each_part_is_exact(tmp_path):
    words = ["--model", "small", "--input", "1000", "--cached", "400", "--output", "3"]
    told = json.loads(price(tmp_path, *words, "--json").stdout)
    assert (told["model"], told["currency"], told["valid_from"]) == ("gemma", "EUR", None)
    assert [(p["part"], p["tokens"], p["per_million"], p["amount"]) for p in told["parts"]] == [
        ("input", 600, "0.10", "0.00006"),
        ("cached_input", 400, "0.05", "0.00002"),
        ("output", 3, "0.546875", "0.000001640625"),
    ]
    assert (told["amount"], told["amount_rounded"], told["amount_pico"]) == ("0.000081640625", "0.000082", "81640625")
    text = price(tmp_path, *words).stdout
    assert "0.000081640625" in text and "0.000082 EUR" in text


def test_the_price_of_today_counts(tmp_path):
    told = json.loads(price(tmp_path, "--model", "llama", "--input", "1000000", "--output", "0", "--json").stdout)
    assert (told["amount"], told["valid_from"]) == ("3", "2020-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["--model", "free", "--input", "1", "--output", "1"], 1, "has no price: give it one"),
        (["--model", "later", "--input", "1", "--output", "1"], 1, "no price yet"),
        (["--model", "gema", "--input", "1", "--output", "1"], 1, 'did you mean "gemma"?'),
        (["--input", "1", "--output", "1"], 2, "--model is missing"),
        (["--model", "gemma", "--output", "1"], 2, "--input is missing"),
        (["--model", "gemma", "--input", "-1", "--output", "1"], 2, "--input must be a number of tokens"),
        (["--model", "gemma", "--input", "1", "--output", "1e3"], 2, "--output must be a number of tokens"),
        (["--model", "gemma", "--input", "1", "--output", "1", "--cached", "2"], 2, "cannot be more"),
    ],
)
def test_what_cannot_be_priced_says_why(words, code, message, tmp_path):
    assert message in price(tmp_path, *words, code=code).stderr
