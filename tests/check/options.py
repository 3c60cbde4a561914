#!/usr/bin/env python3
"""Every setting of conf/schema.def is explained, documented, shown in an example and really used. Usage: options.py [root]

Fields of conf/policy.h whose reader is still to come are lines of options_exceptions.txt, "<field> <reason>"; one that is
no longer needed is an error too."""
import pathlib
import re
import sys

ROW = re.compile(r'^X\((\w+),\s*"([^"]*)",\s*(\w+),', re.M)
FOLDERS = ("auth", "ratelimit", "billing", "backends", "gateway")  # they live by what conf/ gives them
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
# A field of a struct in conf/policy.h: "type name;" or "type name[N];", the type possibly with pointers.
FIELD = re.compile(r"^    (?:const )?(?:struct |enum )?\w+ (?:\*|const |\*const )*(\w+)(?:\[\w+\])?;", re.M)


def rows(definition):
    """(id, path, type, the doc line) of each setting."""
    starts = list(ROW.finditer(definition))
    for start, following in zip(starts, starts[1:] + [None]):
        text = definition[start.start():following.start() if following else len(definition)]
        # The doc is the run of string literals that ends the row.
        tail = re.search(r'((?:"(?:[^"\\]|\\.)*"\s*)+)\)\s*(?:/\*.*\*/\s*)?$', text.strip(), re.S)
        yield start[1], start[2], start[3], "".join(STRING.findall(tail[1])) if tail else ""


def texts(root, *patterns):
    return "\n".join(path.read_text() for pattern in patterns for path in sorted(root.glob(pattern)))


def exceptions(root):
    """The fields that may wait for their reader."""
    fields = set()
    for line in (root / "tests/check/options_exceptions.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            field, reason = line.split(None, 1)
            assert reason
            fields.add(field)
    return fields


def complaints(root):
    reference = texts(root, "docs/configuration.md")
    examples = texts(root, "conf/examples/**/*.yaml")
    loader = "\n".join(path.read_text() for path in (root / "conf").glob("*.c") if not path.name.startswith("schema"))
    users = texts(root, *(f"{folder}/*.c" for folder in FOLDERS), "conf/policy.c", "conf/reload.c")
    for name, path, kind, doc in rows((root / "conf/schema.def").read_text()):
        is_entry = not path or path.endswith(("[]", "<name>"))
        if not doc.strip():
            yield f"{path}: has no doc line"
        if path and path not in reference:
            yield f"{path}: is not in docs/configuration.md"
        if not is_entry and not re.search(rf"\b{path.split('.')[-1]}:", examples):
            yield f"{path}: is in no file of conf/examples"
        if not is_entry and not re.search(rf"\bSETTING_{name}\b", loader):
            yield f"{path}: is never read (SETTING_{name})"
    waiting = exceptions(root)
    for field in sorted(set(FIELD.findall((root / "conf/policy.h").read_text()))):
        if re.search(rf"(?:->|\.){field}\b", users):
            continue
        if field not in waiting:
            yield f"{field}: is a field of conf/policy.h that nobody reads"
        waiting.discard(field)
    for field in sorted(waiting):
        yield f"tests/check/options_exceptions.txt: {field} needs no exception"


def main():
    found = list(complaints(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
    for line in found:
        print(line)
    sys.exit(1 if found else 0)


main()
