#!/usr/bin/env python3
"""What may not stand in a tracked file: paths of somebody's machine, hosts of package registries, unfinished work, keys.
Usage: words.py [root]. The patterns are written so that they do not match themselves."""
import pathlib
import re
import subprocess
import sys

RULES = {
    "a path of somebody's machine": r"/w[o]rk/|/h[o]me/\w|/r[o]ot/|/f[a]rm/",
    "the host of a package registry": r"registry[.]npm|py[p]i[.]org|python[h]osted|proxy[.]gol|deb[.]deb",
    "a lock file with download addresses": r'"resolve[d]":',
    "unfinished work": r"\bTO[D]O\b|\bFIX[M]E\b|\bX[X]X\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE [K]EY",
}
NOT_OURS = ("tests/vectors/", "tests/fuzz/corpus/", "tests/fuzz/regressions/")


def tracked(root):
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name and not name.startswith(NOT_OURS)]


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    found = 0
    for name in tracked(root):
        path = root / name
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for what, pattern in RULES.items():
                if re.search(pattern, line):
                    print(f"{name}:{number}: {what}")
                    found += 1
    sys.exit(1 if found else 0)


main()
