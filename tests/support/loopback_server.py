"""HTTP servers on loopback, in a thread of their own, which stand in for Google's."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from rig.ports import LOOPBACK

if TYPE_CHECKING:
    from typing import Self


class JsonHandler(BaseHTTPRequestHandler):
    """Answers requests with JSON, and logs nothing."""

    #: The server object of the test.
    owner: Any

    def respond(self, status: int, body: bytes, **headers: str) -> None:
        """
        Send a response.

        :param status: the status.
        :param body: the body, as JSON.
        :param headers: further headers.
        """
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class LoopbackServer:
    """
    A server that answers within its context.

    :param handler: the class that answers requests; its ``owner`` is this object.
    """

    def __init__(self, handler: type[JsonHandler]) -> None:
        owned = type(handler.__name__, (handler,), {"owner": self})
        self._server = ThreadingHTTPServer((LOOPBACK, 0), owned)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
