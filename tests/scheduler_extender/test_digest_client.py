"""The GET of a poll against servers that answer in every way HTTP/1.1 has, and in some that it has not."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_extender.digest_client import DigestClient, Reply, ReplyError

BODY = b'{"node": "one"}'
CHUNKS = b"6\r\n" + BODY[:6] + b"\r\n9;name=value\r\n" + BODY[6:] + b"\r\n0\r\nTrailer: x\r\n\r\n"


def ask(answer: bytes, most_body_bytes: int = 100, stays_open: bool = False) -> tuple[Reply, bytes]:
    """What `get` makes of the answer, and what it asked."""
    asked = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if stays_open:
            await reader.read()  # until the client hangs up
        writer.close()

    async def play() -> Reply:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, asyncio.timeout(5):
            client = DigestClient()
            try:
                return await client.get(
                    f"http://127.0.0.1:{port}/v1/node?a=b", {"If-None-Match": '"1-2"'}, most_body_bytes
                )
            finally:
                client.close()

    return asyncio.run(play()), asked


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "1-3"\r\nContent-Length: 15\r\n\r\n' + BODY + b"what nobody asked for",
        b'HTTP/1.1 200 OK\r\netag:"1-3"\r\nTransfer-Encoding: chunked\r\n\r\n' + CHUNKS,
    ],
)
def test_a_body_of_known_end_is_read_though_the_connection_stays_open(answer: bytes) -> None:
    reply, asked = ask(answer, stays_open=True)
    assert (reply.status, reply.headers["etag"], reply.body) == (200, '"1-3"', BODY)
    lines = asked.decode().split("\r\n")
    assert lines[0] == "GET /v1/node?a=b HTTP/1.1"
    assert 'If-None-Match: "1-2"' in lines


def test_a_body_may_end_with_the_connection() -> None:
    assert ask(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)[0].body == BODY


def test_not_modified_has_no_body_whatever_it_announces() -> None:
    answer = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 15\r\n\r\n"
    assert ask(answer, stays_open=True)[0] == Reply(304, {"content-length": "15"}, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 oops\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY[:7],
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + b"x" * 64 + b"\r\n40\r\n" + b"x" * 66,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
)
def test_what_is_no_answer_is_said(answer: bytes) -> None:
    with pytest.raises(ReplyError):
        ask(answer)


def test_nobody_there_is_an_error_of_the_socket() -> None:
    with pytest.raises(OSError):
        asyncio.run(DigestClient().get("http://127.0.0.1:1/v1/node", {}, 100))


class Exporter:
    """Answers `most` questions a connection, then hangs up; counts connections and questions."""

    def __init__(self, most: int, extra: bytes = b"") -> None:
        self.connections = 0
        self.questions = 0
        self.open = 0
        self._most, self._extra = most, extra

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            for _ in range(self._most):
                await reader.readuntil(b"\r\n\r\n")
                self.questions += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY + self._extra)
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.open -= 1
            writer.close()


def poll(exporter: Exporter, times: int, most_kept: int | None = None) -> None:
    """Ask it one after another; every answer must be the body."""

    async def play() -> None:
        server = await asyncio.start_server(exporter.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/node"
        client = DigestClient(most_kept)
        async with server, asyncio.timeout(10):
            for _ in range(times):
                assert (await client.get(url, {}, 100)).body == BODY
            client.forget(url)
            while exporter.open:
                await asyncio.sleep(0.02)

    asyncio.run(play())


def test_a_connection_is_kept_and_made_again_when_the_exporter_hangs_up() -> None:
    kept, closing, crowded = Exporter(most=100), Exporter(most=2), Exporter(most=100)
    poll(kept, 6)
    poll(closing, 6)
    poll(crowded, 6, most_kept=0)
    assert (kept.connections, closing.connections, crowded.connections) == (1, 3, 6)
    assert kept.questions == closing.questions == crowded.questions == 6


def test_what_follows_an_answer_does_not_stand_for_the_next_one() -> None:
    chatty = Exporter(most=100, extra=b"what nobody asked for\r\n\r\n")
    poll(chatty, 4)
    assert chatty.questions >= 4


def test_two_nodes_may_have_one_url() -> None:
    exporter = Exporter(most=100)

    async def play() -> None:
        server = await asyncio.start_server(exporter.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/node"
        client = DigestClient()
        async with server, asyncio.timeout(10):
            for _ in range(3):
                await asyncio.gather(*(client.get(url, {}, 100) for _ in range(2)))
                while exporter.open > 1:  # one is kept, the other's is closed
                    await asyncio.sleep(0.02)
            client.close()

    asyncio.run(play())
    assert exporter.questions == 6
