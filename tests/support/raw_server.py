"""A TCP server on loopback whose every byte a test decides."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

#: How long a connection may stay silent before the server closes it, in seconds: the end of a failed test.
PATIENCE = 20.0


class Connection:
    """
    One connection of a client.

    :param connection: the socket.
    :param over: set when the server ends.
    """

    def __init__(self, connection: socket.socket, over: threading.Event) -> None:
        self._socket = connection
        self._over = over
        self._file = connection.makefile("rb")

    def read_head(self) -> bytes:
        """Read a request's line and headers, and its body if it has one; empty when the client has gone."""
        head = b""
        while (line := self._file.readline()) not in (b"\r\n", b""):
            head += line
        for line in head.splitlines():
            if line.lower().startswith(b"content-length:"):
                self._file.read(int(line.split(b":")[1]))
        return head

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def drip(self, data: bytes, pause: float = 0.05) -> None:
        """Send bytes one by one, until the client or the test has gone."""
        for number in range(len(data)):
            if self._over.wait(pause):
                return
            self._socket.sendall(data[number : number + 1])

    def stay_silent(self) -> None:
        """Send nothing until the test ends."""
        self._over.wait(PATIENCE)

    def wrap(self, context: ssl.SSLContext) -> None:
        """Go on with TLS."""
        self._file.close()
        self._socket = context.wrap_socket(self._socket, server_side=True)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        # The server holds another handle.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class RawServer:
    """
    Runs a function for each connection.

    :param serve: gets the connection, which is closed when it returns.
    """

    def __init__(self, serve: Callable[[Connection], object]) -> None:
        self._serve = serve
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        #: The number of connections so far.
        self.connections = 0
        self._handles: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._over.is_set():
                connection.close()
                return
            self.connections += 1
            self._handles.append(connection.dup())
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _run(self, accepted: socket.socket) -> None:
        connection = Connection(accepted, self._over)
        # The client may go at any time.
        with contextlib.suppress(OSError), contextlib.closing(connection):
            self._serve(connection)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._threads[0].join()
        for handle in self._handles:
            # A client may keep its connection open.
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)
            handle.close()
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """
    Build a response.

    :param body: the body.
    :param headers: more headers.
    :param status: the status line without the version.
    """
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def responder(response: bytes) -> Callable[[Connection], object]:
    """
    Build a server's function that gives the same response to every request.

    :param response: the response.
    """

    def serve(connection: Connection) -> None:
        while connection.read_head():
            connection.send(response)

    return serve
