#!/usr/bin/env python3
"""The checks notice what they are for: each is run on a copy of the tree with one violation planted in it."""
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = "int planted(void)\n{\n" + "    planted();\n" * 60 + "}\n"
DEEP = "void planted(int a)\n{\n    if (a) {\n        while (a) {\n            do {\n                if (a) {\n" \
       "                    planted(a);\n                }\n            } while (a);\n        }\n    }\n}\n"
WIDE = "int planted(int a, int b, int c, int d, int (*e)(int x, int y), int f)\n{\n    return a;\n}\n"
# (check, file, what is added to its end, a piece of the complaint)
PLANTS = [
    ("layering.py", "base/text.c", '#include "conf/policy.h"\n', "base/ must not include conf/"),
    ("layering.py", "auth/auth.c", '#include "backends/sse.h"\n', "auth/ must not include backends/"),
    ("layering.py", "base/text.c", "#include <microhttpd.h>\n", "belongs to gateway/server.c"),
    ("layering.py", "auth/auth.h", "#include <openssl/evp.h>\n", "may not stand in a header"),
    ("layering.py", "base/text.c", "#include <zlib.h>\n", "not in the tables"),
    ("layering.py", "base/text.c", '#include "arena.h"\n', "include by folder"),
    ("sizes.py", "base/text.c", LONG, "lines 63, at most 60"),
    ("sizes.py", "base/text.c", DEEP, "nesting 4, at most 3"),
    ("sizes.py", "base/text.c", WIDE, "parameters 6, at most 5"),
    ("sizes.py", "base/text.c", "\n" * 601, "at most 600"),
    ("sizes.py", "tests/check/sizes_exceptions.txt", "base/text.c file 700 planted\n", "needs no exception"),
    ("options.py", "conf/schema.def", 'X(P, "planted", STRING, NULL, 0, 0, 0, "", "")\n', "planted: has no doc line"),
    ("options.py", "conf/schema.def", 'X(P, "planted", STRING, NULL, 0, 0, 0, "", "D.")\n', "planted: is not in docs/"),
    ("options.py", "conf/schema.def", 'X(P, "planted", STRING, NULL, 0, 0, 0, "", "D.")\n', "planted: is in no file of"),
    ("options.py", "conf/schema.def", 'X(P, "planted", STRING, NULL, 0, 0, 0, "", "D.")\n', "planted: is never read"),
    ("options.py", "conf/policy.h", "struct p {\n    int planted;\n};\n", "planted: is a field of conf/policy.h"),
    ("options.py", "tests/check/options_exceptions.txt", "planted for no reason\n", "planted needs no exception"),
    ("words.py", "base/text.c", "/* " + "TO" + "DO */\n", "unfinished work"),
    ("words.py", "base/text.c", "/* /" + "home/somebody */\n", "path of somebody's machine"),
    ("words.py", "base/text.c", '"resolve' + 'd": ""\n', "download addresses"),
    ("format.sh", "base/text.c", "int  planted;\n", "clang-format"),
    ("syntax.sh", "scripts/lib.sh", "if\n", "yntax error"),
    ("syntax.sh", "tests/check/words.py", "def\n", "SyntaxError"),
]


def copy_of_tree(target):
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/vectors/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q", target], check=True)
    subprocess.run(["git", "-C", target, "add", "-A", "-f"], check=True, capture_output=True)


def notices(tree, check, file, text, complaint):
    path = tree / file
    before = path.read_bytes()
    path.write_bytes(before + text.encode())
    ran = subprocess.run([ROOT / "tests/check" / check, tree], capture_output=True, text=True)
    path.write_bytes(before)
    said = ran.stdout + ran.stderr
    if ran.returncode != 0 and complaint in said:
        return True
    print(f"{check} did not notice what was planted in {file} ({complaint}): exit status {ran.returncode}\n{said}")
    return False


def main():
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory)
        copy_of_tree(tree)
        results = [notices(tree, *plant) for plant in PLANTS]
    sys.exit(0 if all(results) else 1)


main()
