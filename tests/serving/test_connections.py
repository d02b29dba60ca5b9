"""serving.http.edge.connections in a real uvicorn server, without Ray: what a client may do before its request."""

import asyncio
import contextlib
import json
import socket
from unittest import mock

import pytest
import uvicorn
from error_bodies import error_in

from serving.http.edge.connections import BoundedConnection

GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
HALF = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"


async def application(scope, receive, send):
    """Answers with as many bytes as the query says, 2 by default; before it reads the body where the path is /early."""
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        pass
    size = int(scope["query_string"] or b"2")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": b"x" * size})


@contextlib.asynccontextmanager
async def serving(**limits):
    """The port of a server whose connections have these limits."""
    protocol = type("Protocol", (BoundedConnection,), {"_idle": {}, **limits})
    config = uvicorn.Config(application, http=protocol, log_config=None, lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await running


class Client:
    """A connection, closed with the others at the end."""

    def __init__(self, streams):
        self._reader, self._writer = streams

    def send(self, content):
        self._writer.write(content)

    async def is_answered(self):
        read = await asyncio.wait_for(self._reader.readuntil(b"xx"), 60)
        assert read.startswith(b"HTTP/1.1 200")

    async def rest(self):
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self._reader.read(), 60)
        return b""

    async def close(self):
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def with_clients(work, **limits):
    """Runs `work(connect)` beside a server with these limits; `connect()` is a Client that the server knows."""

    async def main():
        async with serving(**limits) as port, contextlib.AsyncExitStack() as stack:

            async def connect():
                client = Client(await asyncio.open_connection("127.0.0.1", port))
                stack.push_async_callback(client.close)
                for _ in range(10):  # turns of the loop, in which the server takes the connection
                    await asyncio.sleep(0)
                return client

            await work(connect)

    asyncio.run(main())


def answer(content, **limits):
    """What a client that sends `content`, and no more, reads until the server closes."""

    read = []

    async def work(connect):
        client = await connect()
        client.send(content)
        read.append(await client.rest())

    with_clients(work, **limits)
    return read[0]


def error_of(read):
    head, _, body = read.partition(b"\r\n\r\n")
    return int(head.split()[1]), error_in(json.loads(body))["type"]


def test_an_answer_is_one_write_so_that_nobody_gets_its_head_without_its_body(monkeypatch):
    writes = []
    connected = BoundedConnection.connection_made

    def connection_made(self, transport):
        write = transport.write
        counted = mock.Mock(wraps=transport, write=lambda data: (writes.append(bytes(data)), write(data)))
        connected(self, counted)

    monkeypatch.setattr(BoundedConnection, "connection_made", connection_made)
    read = answer(GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert read.endswith(b"\r\n\r\nxx")
    assert writes == [read]


@pytest.mark.parametrize("content", [b"", b"GE", b"GET / HTTP/1.1\r\nA: b", GOOD[:-2], b"\r\n" * 9])
def test_a_head_that_does_not_end_is_answered_and_closed(content):
    assert error_of(answer(content, head_s=0.5)) == (408, "request_timeout")


def test_the_head_of_a_later_request_has_a_deadline_too_and_the_answer_before_it_stays_whole():
    read = answer(GOOD + b"GET /again HT", head_s=0.5)
    first, second = read[: read.rindex(b"HTTP/1.1")], read[read.rindex(b"HTTP/1.1") :]
    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"xx")
    assert error_of(second) == (408, "request_timeout")


@pytest.mark.parametrize(
    "content",
    [b"GET /" + b"a" * 10**6, b"GET / HTTP/1.1\r\nA: " + b"b" * 10**6, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10**6,
     b"\r\n" * 10**6, CHUNKED + b"0\r\n" + b"A: b\r\n" * 10**6, CHUNKED + b"0\r\nA: " + b"b" * 10**7],
    ids=["path", "one header", "many headers", "empty lines", "many trailers", "one trailer"],
)  # fmt: skip
def test_a_head_that_grows_without_an_end_is_refused(content):
    # Where the client still sends when the server closes, the answer may not reach it; behind a body there is none.
    read = answer(content, max_head_bytes=2000)
    assert read == b"" or error_of(read) == (431, "headers_too_large")


def test_bodies_and_requests_one_after_another_do_not_count_as_heads():
    async def work(connect):
        client = await connect()
        for size in (10, 10**6, 3_000):
            client.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size)
            await client.is_answered()
        client.send(GOOD * 200)
        for _ in range(200):
            await client.is_answered()

    with_clients(work, max_head_bytes=2000)


def test_a_body_that_nobody_reads_does_not_keep_the_connection():
    read = answer(b"POST /early HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"b" * 100)
    assert read.endswith(b"xx")


def test_an_answer_that_is_not_read_does_not_keep_the_connection():
    async def main():
        async with serving(unread_s=0.2) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /?50000000 HTTP/1.1\r\nHost: x\r\n\r\n")
                client.setblocking(False)
                await asyncio.sleep(1.0)
                read = 0
                with contextlib.suppress(ConnectionError):
                    while part := await asyncio.get_running_loop().sock_recv(client, 2**20):
                        read += len(part)
            assert read < 50_000_000

    asyncio.run(main())


def test_beyond_the_number_of_connections_the_one_idle_longest_is_closed_and_a_busy_one_is_not():
    async def work(connect):
        busy, used, idle = [await connect() for _ in range(3)]
        busy.send(HALF)
        used.send(GOOD)  # so the third one has been idle longer
        await used.is_answered()
        newest = await connect()
        assert await idle.rest() == b""
        for client in (newest, used):
            client.send(GOOD)
            await client.is_answered()
        busy.send(b"c")
        await busy.is_answered()

    with_clients(work, max_connections=3)


def test_where_every_connection_is_busy_a_new_one_is_told():
    async def work(connect):
        (await connect()).send(HALF)
        newest = await connect()
        assert error_of(await newest.rest()) == (503, "head_unavailable")

    with_clients(work, max_connections=1)
