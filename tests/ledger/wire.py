"""HTTP and RESP by hand on asyncio: as little as the ledger test needs, and fast."""

import asyncio
import json
import re

TOKEN = re.compile(rb"tok\d+ ")
FINISH = re.compile(rb'"finish_reason":"(stop|length)"')
DONE = b"data: [DONE]\n\n"


class Answer:
    """What a client has read of one answer so far."""

    def __init__(self):
        self.data = bytearray()
        self.head_length = 0  # 0 = the head is not whole yet
        self.status = 0
        self.request_id = ""
        self.content_length = None
        self.is_chunked = False
        self.is_stream = False

    def feed(self, piece):
        self.data += piece
        if self.head_length == 0:
            end = self.data.find(b"\r\n\r\n")
            if end >= 0:
                self.head_length = end + 4
                self._read_head(bytes(self.data[:end]).decode("latin-1"))

    def _read_head(self, text):
        first, *lines = text.split("\r\n")
        self.status = int(first.split()[1])
        for line in lines:
            name, value = line.split(":", 1)
            name, value = name.lower(), value.strip()
            if name == "x-request-id":
                self.request_id = value
            elif name == "content-length":
                self.content_length = int(value)
            elif name == "transfer-encoding":
                self.is_chunked = value == "chunked"
            elif name == "content-type":
                self.is_stream = value.startswith("text/event-stream")

    @property
    def body_bytes(self):
        return len(self.data) - self.head_length if self.head_length else 0

    def is_whole(self):
        """Nothing more can come of this answer."""
        if not self.head_length:
            return False
        if self.content_length is not None:
            return self.body_bytes >= self.content_length
        return self.is_chunked and self.data.endswith(b"0\r\n\r\n")

    def tokens(self):
        return sum(1 for _ in TOKEN.finditer(self.data))

    def has_finish(self):
        return FINISH.search(self.data) is not None

    def has_done(self):
        return DONE in self.data

    def has_error(self):
        return b'"error":{' in self.data


async def get(port, path, timeout=5.0, method="GET", body=None, token=None):
    """(status, body) of one exchange; (0, b"") when nobody answers."""
    try:
        return await asyncio.wait_for(_get(port, path, method, body, token), timeout)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return 0, b""


async def _get(port, path, method, body, token):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(data)}"]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines.append("Content-Type: application/json")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        answer = Answer()
        while not answer.is_whole():
            piece = await reader.read(1 << 20)
            if not piece:
                break
            answer.feed(piece)
        return answer.status, bytes(answer.data[answer.head_length :])
    finally:
        writer.close()


class RedisError(Exception):
    """What Redis answered instead."""


class Redis:
    """A few commands over a unix socket."""

    def __init__(self, path):
        self.path = str(path)

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self.path, limit=1 << 26)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def command(self, *words):
        packed = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            packed.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.writer.write(b"".join(packed))
        return await asyncio.wait_for(self._reply(), 10)

    async def _reply(self):
        line = (await self.reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            return (await self.reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return [await self._reply() for _ in range(int(rest))]
        return rest
