"""A mail server for tests."""

from __future__ import annotations

import socketserver

from rig.ports import LOOPBACK


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that keeps every mail."""

    daemon_threads = True

    def __init__(self) -> None:
        self.mails: list[str] = []
        super().__init__((LOOPBACK, 0), _Smtp)

    @property
    def port(self) -> int:
        """The port of the server."""
        return int(self.server_address[1])


class _Smtp(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while command := self.rfile.readline().decode().strip().upper():
            if command == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(b"".join(lines).decode())
            self.wfile.write(b"221 bye\r\n" if command == "QUIT" else b"250 fine\r\n")
            if command == "QUIT":
                return
