"""A server that answers a search with what was searched for, in all the ways in which it can be wrong."""

from __future__ import annotations

import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Self
from urllib.parse import unquote_plus

#: Ways to answer: the bytes of the answer; {} stands for the request's target, as it was sent and decoded.
ANSWERS = {
    "malformed header": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno header {}\r\n\r\n[]",
    "status line": b"HTTP/1.1 {} OK\r\n\r\n",
    "error text": b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n"
    b'{"error": {"status": "INVALID_ARGUMENT", "message": "invalid {}"}}',
    "forbidden": b"HTTP/1.1 403 No\r\nConnection: close\r\n\r\n"
    b'{"error": {"status": "PERMISSION_DENIED", "message": "{}"}}',
    "not found": b"HTTP/1.1 404 No {}\r\nConnection: close\r\n\r\n<html>{} was not found</html>",
    "page": b"HTTP/1.1 502 Bad\r\nConnection: close\r\nContent-Type: text/html\r\n\r\n<html>{}</html>",
    "no JSON": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/{}\r\n\r\n{}",
    "no UID": b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[{"0020000D": {"Value": ["{}"]}}]',
    "redirect": b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {}\r\n\r\n",
    "encoding": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n{}",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
    "hang-up": b"",
}


class EchoingServer(ThreadingTCPServer):
    """
    Answers every request on loopback in one way.

    :param answer: a key of ``ANSWERS``.
    """

    daemon_threads = True

    def __init__(self, answer: str) -> None:
        template = ANSWERS[answer]

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                target = self.rfile.readline().split()[1].decode()
                while self.rfile.readline().strip():
                    pass
                echo = f"{target} {unquote_plus(target)}".replace("\r", "").replace("\n", "").replace('"', "")
                self.wfile.write(template.replace(b"{}", echo.encode()))

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
