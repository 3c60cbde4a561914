"""HTTP/1.1 by hand, for tests that look at the bytes: one connection, bounded waits."""

import json
import socket
import time

from . import paths


class Closed(Exception):
    """The other side closed or reset the connection before what we waited for."""


class Wire:
    def __init__(self, address, seconds=10.0):
        self.socket = socket.create_connection(address, timeout=seconds * paths.SLOWNESS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.status, self.headers, self.head = None, {}, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def request(self, method, path, body=None, headers=(), version="1.1"):
        """One request with a Content-Length, built plainly."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/{version}", "Host: tollgate"]
        lines += [f"{name}: {value}" for name, value in dict(headers).items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def _more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError as error:
            raise Closed(f"reset; had {self.buffer[-300:]!r}") from error
        if not data:
            raise Closed(f"closed; had {self.buffer[-300:]!r}")
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self._more()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def exactly(self, count):
        while len(self.buffer) < count:
            self._more()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def read_head(self):
        """Status line and headers, names in lower case; sets status and headers."""
        self.head = self.until(b"\r\n\r\n")
        lines = self.head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            assert name.lower() not in self.headers or name.lower() == "set-cookie", f"two headers {name}"
            self.headers[name.lower()] = value.strip()
        return self.status

    def read_chunk(self):
        """One chunk's bytes; b"" is the last one."""
        size = int(self.until(b"\r\n").split(b";")[0], 16)
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data

    def read_chunks(self):
        """All chunks of a body in the chunked coding, each with the time it came."""
        while True:
            data = self.read_chunk()
            if not data:
                return
            yield time.monotonic(), data

    def read_body(self):
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(data for _, data in self.read_chunks())
        if "content-length" in self.headers:
            return self.exactly(int(self.headers["content-length"]))
        return self.read_to_end()

    def read_answer(self):
        self.read_head()
        return self.read_body()

    def read_to_end(self):
        """Everything until the other side closes; a reset ends it too."""
        try:
            while True:
                self._more()
        except Closed:
            found, self.buffer = self.buffer, b""
            return found

    def is_closed_within(self, seconds):
        """Whether the other side closes (what it sends until then is kept in the buffer)."""
        deadline = time.monotonic() + seconds * paths.SLOWNESS
        while time.monotonic() < deadline:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return False
            except ConnectionResetError:
                return True
            if not data:
                return True
            self.buffer += data
        return False


def events_of(data):
    """SSE bytes to the list of their data: parsed JSON, or "[DONE]", or (":", comment)."""
    found = []
    blocks = data.split(b"\n\n")
    assert blocks.pop() == b"", f"an event without its blank line: {data[-200:]!r}"
    for block in blocks:
        if block.startswith(b":"):
            found.append((":", block[1:].strip().decode()))
            continue
        assert block.startswith(b"data: "), f"no data line: {block!r}"
        text = block[6:].decode()
        found.append(text if text == "[DONE]" else json.loads(text))
    return found
