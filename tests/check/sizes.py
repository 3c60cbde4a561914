#!/usr/bin/env python3
"""Functions stay short, shallow and with few parameters, files stay readable at a sitting. Usage: sizes.py [root]

Reads C as clang-format leaves it: a function's braces stand in column one. Exceptions are lines of sizes_exceptions.txt,
"<file>[:<function>] <measure> <most> <reason>"; one that is no longer needed is an error too."""
import pathlib
import re
import sys

PRODUCT = ("base", "conf", "auth", "ratelimit", "billing", "backends", "gateway")
TESTS = ("tests/tools", "tests/lib", "tests/fuzz", "tests/unit/*")
MOST = {"lines": 60, "parameters": 5, "nesting": 3, "file": 600}
CONTROL = re.compile(r"(\)|\belse|\bdo)\s*\{$")
NAME = re.compile(r"(\w+)\(")


def without_comments_and_strings(text):
    """The same number of lines, with comments and the insides of literals blanked."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: '""' if m[0][0] in "\"'" else re.sub(r"[^\n]", "", m[0]), text)


def parameters(signature):
    depth = commas = 0
    inside = signature[signature.index("(") + 1:]
    for char in inside:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            break
        commas += char == "," and depth == 0
    return 0 if re.match(r"\s*(void)?\s*\)", inside) else commas + 1


def nesting(body):
    """The deepest stack of control blocks; braces of initialisers do not count."""
    stack, deepest = [], 0
    for line in body:
        code = line.strip()
        for position, char in enumerate(code):
            if char == "{":
                stack.append(bool(CONTROL.search(code[:position + 1])))
                deepest = max(deepest, sum(stack))
            elif char == "}" and stack:
                stack.pop()
    return deepest


def functions(text):
    """(name, first line, lines, parameters, nesting) of each function definition."""
    lines = without_comments_and_strings(text).split("\n")
    opened = None
    for number, line in enumerate(lines):
        if line == "{":
            opened = number
        elif line == "}" and opened is not None:
            first = opened - 1
            while first > 0 and lines[first - 1].strip() and not re.search(r"[;}]$|^#", lines[first - 1]):
                first -= 1
            signature = " ".join(lines[first:opened])
            name = NAME.search(signature)
            if name:
                yield (name[1], first + 1, number - first + 1, parameters(signature), nesting(lines[opened + 1:number]))
            opened = None


def measures(root):
    """(place, measure, value, where to look) of everything that has a limit."""
    for folder in PRODUCT + TESTS:
        for path in sorted(root.glob(f"{folder}/*.[ch]")):
            file = path.relative_to(root).as_posix()
            text = path.read_text()
            yield file, "file", text.count("\n"), file
            for name, line, count, arguments, depth in functions(text):
                place = f"{file}:{name}"
                yield place, "lines", count, f"{file}:{line}"
                yield place, "parameters", arguments, f"{file}:{line}"
                yield place, "nesting", depth, f"{file}:{line}"


def exceptions(path):
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.strip() and not line.startswith("#"):
            place, measure, most, reason = line.split(None, 3)
            rows[place, measure] = int(most)
            assert reason
    return rows


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    allowed = exceptions(root / "tests/check/sizes_exceptions.txt")
    found = 0
    for place, measure, value, where in measures(root):
        most = allowed.get((place, measure), MOST[measure])
        if value > MOST[measure]:
            allowed.pop((place, measure), None)
        if value > most:
            print(f"{where}: {place}: {measure} {value}, at most {most}")
            found += 1
    for place, measure in allowed:
        print(f"tests/check/sizes_exceptions.txt: {place} {measure} needs no exception")
        found += 1
    sys.exit(1 if found else 0)


main()
