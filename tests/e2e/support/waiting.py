"""Bounded waiting."""

import time

from . import paths


def wait_until(condition, what, seconds=10.0, pause=0.02):
    """The first true value of condition(); fails after @seconds (more under a sanitizer)."""
    deadline = time.monotonic() + seconds * paths.SLOWNESS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds * paths.SLOWNESS:.0f} s in vain: {what}")
        time.sleep(pause)
