"""`tollgate schema` is a JSON Schema: ajv takes it in strict mode, and it accepts every example."""

import subprocess

from support import paths

EXAMPLES = sorted((paths.ROOT / "conf/examples").glob("*.yaml")) + sorted((paths.ROOT / "conf/examples/demo").glob("*.yaml"))


def judge(tmp_path, *files):
    schema = tmp_path / "schema.json"
    schema.write_text(subprocess.run([paths.TOLLGATE, "schema"], capture_output=True, text=True, check=True).stdout)
    command = [paths.NODE, paths.ROOT / "tests/check/schema_ajv.mjs", paths.NODE_MODULES.parent, schema, *files]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_example_is_accepted(tmp_path):
    assert len(EXAMPLES) >= 3
    verdict = judge(tmp_path, *EXAMPLES)
    assert verdict.returncode == 0, verdict.stderr


def test_mistakes_are_not(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("models: { m: { engines: [ { url: 'http://127.0.0.1:1', wheight: 2 } ] } }\ntenants: {}\n")
    assert judge(tmp_path, bad).returncode == 1
    assert judge(tmp_path, "--bad", bad).returncode == 0
