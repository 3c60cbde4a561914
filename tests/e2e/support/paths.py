"""Where things are. Everything can be told by the environment, so that the same suite runs plain and under ASan."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]


def _path(name, default):
    # Not resolve(): a venv's python is a link, and what it points to has none of the venv's packages.
    return pathlib.Path(os.path.abspath(ROOT / os.environ.get(name, default)))


TOLLGATE = _path("TOLLGATE", "build/tollgate")
SCRIPTED_ENGINE = _path("SCRIPTED_ENGINE", "build/release/tools/scripted_engine")
TOLLGATE_TEST_CLOCK = SCRIPTED_ENGINE.parent / "tollgate_test_clock"  # adds what TOLLGATE_CLOCK_OFFSET_FILE has
DEMO_PYTHON = _path("DEMO_PYTHON", "build/venv-demo/bin/python")  # has the real engine in it
DEMO_MODEL = _path("DEMO_MODEL", "build/demo/model.gguf")
LLAMA_ENGINE = _path("LLAMA_ENGINE", "conf/examples/demo/llama_engine")
NODE_MODULES = _path("NODE_MODULES", "build/node/node_modules")  # npm ci of tests/node
NODE = os.environ.get("NODE", "node")
PROMTOOL = _path("PROMTOOL", "build/tools/promtool")
REDIS_SERVER = _path("REDIS_SERVER", "build/tools/redis-server")  # what a gateway without `redis` starts
VECTORS = ROOT / "tests/vectors"

# Sanitizers make everything slower: bounds are multiplied by it.
SLOWNESS = float(os.environ.get("SLOWNESS", "1"))
