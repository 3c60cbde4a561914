"""What a test sees of a Redis behind a unix socket, and one that the test itself runs."""

import socket
import subprocess

from . import paths, processes
from .waiting import wait_until


class Redis:
    """A connection for each question: the server may have been started again in between."""

    def __init__(self, path):
        self.path = str(path)

    def ask(self, *words):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10 * paths.SLOWNESS)
            connection.connect(self.path)
            request = b"*%d\r\n" % len(words)
            for word in words:
                word = str(word).encode()
                request += b"$%d\r\n%s\r\n" % (len(word), word)
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                return self._read(stream)

    def _read(self, stream):
        line = stream.readline().strip()
        if not line:
            raise ConnectionError("Redis hung up")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self._read(stream) for _ in range(int(rest))]
        raise ValueError(line)

    def answers(self):
        try:
            return self.ask("PING") == "PONG"
        except (OSError, RuntimeError, ValueError):
            return False

    def cells(self):
        """{(writer, epoch, tenant, key, model, measure, source): quantity} of everything that was shipped."""
        found = {}
        for key in self.ask("KEYS", "tg:*:cells:*"):
            _, writer, _, epoch = key.split(":")
            flat = self.ask("HGETALL", key)
            for field, quantity in zip(flat[::2], flat[1::2], strict=True):
                found[writer.strip("{}"), int(epoch), *field.split("\x1f")] = int(quantity)
        return found

    def total(self, measure):
        return sum(quantity for (*_, each, _), quantity in self.cells().items() if each == measure)


class RunningRedis(Redis):
    """A server of the test's own, in @directory."""

    def __init__(self, directory):
        super().__init__(directory / "own-redis.sock")
        self.directory = directory
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [paths.REDIS_SERVER, "--port", "0", "--unixsocket", self.path, "--dir", str(self.directory), "--save", ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_until(self.answers, "the test's own Redis to answer")

    def stop(self):
        processes.kill_quietly(self.process.pid)
        self.process.wait()
