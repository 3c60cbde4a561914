"""What /proc tells about processes."""

import os
import pathlib
import signal


def _stat(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def is_alive(pid):
    """Zombies count as gone."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def start_time(pid):
    stat = _stat(pid)
    return None if stat is None else int(stat[19])


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def executable(pid):
    """The path of the program it runs; None for a process that has ended, a zombie too."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return None


def environment(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def open_files(pid):
    """The paths of what it has open, as its links in /proc say them; none for a process that has ended."""
    try:
        links = list(pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [os.path.realpath(link) for link in links]


def descendants(pid):
    """Process ids of children, their children and so on; without @pid itself."""
    children = {}
    for entry in os.listdir("/proc"):
        stat = _stat(entry) if entry.isdigit() else None
        if stat is not None and stat[0] not in "ZX":
            children.setdefault(int(stat[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmRSS")


def kill_quietly(pid, what=signal.SIGKILL):
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        pass
