#!/usr/bin/env python3
"""Who may include whom. The tables here are the architecture: change them on purpose. Usage: layering.py [root]"""
import pathlib
import re
import sys

FOLDERS = {
    "base": {"base"},
    "conf": {"base", "conf"},
    "auth": {"base", "conf", "auth"},
    "ratelimit": {"base", "conf", "ratelimit"},
    "billing": {"base", "conf", "billing"},
    "backends": {"base", "conf", "backends"},
    "gateway": {"base", "conf", "auth", "ratelimit", "billing", "backends", "gateway"},
}
# Header (or its folder) -> the only files that may include it. None of them may stand in a header of ours.
OWNERS = {
    "microhttpd.h": {"gateway/server.c"},
    "yaml.h": {"conf/document.c"},
    "curl/": {"base/transfers.c", "base/fetch.c", "backends/upstream.c"},
    "hiredis/": {"base/redis.c"},
    "jansson.h": None,  # any .c
    "openssl/": None,
    "uthash.h": None,
}
SYSTEM = {
    "arpa/inet.h", "ctype.h", "dirent.h", "dlfcn.h", "endian.h", "errno.h", "fcntl.h", "fnmatch.h", "getopt.h",
    "inttypes.h", "libgen.h", "limits.h", "locale.h", "math.h", "net/if.h", "netdb.h", "netinet/in.h",
    "netinet/tcp.h", "poll.h", "pthread.h", "pwd.h", "sched.h", "signal.h", "stdalign.h", "stdarg.h", "stdatomic.h",
    "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "stdnoreturn.h", "string.h", "strings.h",
    "syslog.h", "termios.h", "time.h", "unistd.h",
}
SYSTEM_FOLDERS = ("sys/", "linux/")
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def owner_row(header):
    for name, owners in OWNERS.items():
        if header == name or (name.endswith("/") and header.startswith(name)):
            return name, owners
    return None


def complaint(folder, file, quote, header):
    """What is wrong with this include, or None."""
    if quote == '"':
        other = header.split("/")[0] if "/" in header else None
        if other is None:
            return f'include by folder: "{folder}/{header}"'
        if other not in FOLDERS[folder]:
            return f"{folder}/ must not include {other}/"
        return None
    if header in SYSTEM or header.startswith(SYSTEM_FOLDERS):
        return None
    row = owner_row(header)
    if row is None:
        return f"<{header}> is not in the tables of tests/check/layering.py"
    if file.endswith(".h"):
        return f"<{header}> belongs to a library: it may not stand in a header"
    if row[1] is not None and file not in row[1]:
        return f"<{header}> belongs to {', '.join(sorted(row[1]))}"
    return None


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    found = 0
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*.[ch]")):
            file = f"{folder}/{path.name}"
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                wrong = match and complaint(folder, file, match[1], match[2])
                if wrong:
                    print(f"{file}:{number}: {wrong}")
                    found += 1
    sys.exit(1 if found else 0)


main()
