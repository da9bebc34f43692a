"""
Sessions of requests with the bounds that requests lacks, and with the environment that aiohttp gets as well.

Invariants:

- An exchange ends after its ``max_seconds``, whatever the server does: a timer shuts its sockets down. The
  timeouts of requests limit single reads, and a server that sends a byte now and then never reaches them.
- A body is read within the exchange, and is never larger than its ``max_bytes``, decoded.
- ``Exchange.is_sent`` is False as long as no byte of the request can have reached the server: while
  the connection, its proxy tunnel and its TLS handshake are being made.
- Proxies and CAs are those of ``environment``; ``.netrc`` and cookies are ignored.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import socket
import threading
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from airflow_provider_dicom.api.body import ACCEPT_ENCODING, Body, UnreadableBodyError
from airflow_provider_dicom.api.environment import ca_bundle, proxy_for, proxy_headers

if TYPE_CHECKING:
    from typing import Self

    from urllib3 import BaseHTTPResponse, PoolManager

#: The bounds of an exchange with a token endpoint.
TOKEN_SECONDS = 30.0
TOKEN_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024

_current: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("exchange", default=None)


class Exchange:
    """
    The bounds of one request and its response, for the sessions that are used within the context.

    :param max_seconds: the time from the start until the body is complete, in seconds.
    :param max_bytes: the size of the decoded body, in bytes.
    """

    def __init__(self, max_seconds: float, max_bytes: int) -> None:
        self.max_seconds = max_seconds
        self.max_bytes = max_bytes
        self.is_sent = False
        self.is_over = False
        self._lock = threading.Lock()
        self._handles: list[socket.socket] = []
        self._timer = threading.Timer(max_seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        _current.reset(self._token)
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def watch(self, connection: socket.socket) -> None:
        """
        Shut a connection down when the time is over.

        :param connection: the connection's socket.
        """
        # A handle of its own: TLS takes the socket over, and urllib3 closes it while its response is read.
        handle = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._handles.append(handle)
            if self.is_over:
                _shut_down(handle)

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            for handle in self._handles:
                _shut_down(handle)


def _shut_down(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the connection is closed already
        handle.shutdown(socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    """A connection that tells the current exchange of its socket, and of the first byte of the request."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        if (exchange := _current.get()) is not None:
            exchange.watch(connection)
        return connection

    def request(self, *args: Any, **kwargs: Any) -> None:
        is_kept = self.sock is not None
        if not is_kept:
            self.connect()
        if (exchange := _current.get()) is not None:
            if is_kept:
                exchange.watch(self.sock)
            exchange.is_sent = True
        super().request(*args, **kwargs)


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_watched_pools(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        _use_watched_pools(manager)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return proxy_headers(proxy)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        exchange = _current.get()
        if exchange is None:
            with Exchange(TOKEN_SECONDS, TOKEN_BYTES):
                return self.send(request, *args, **kwargs)
        try:
            response = super().send(request, *args, **kwargs)
        except UnreadableBodyError as error:
            raise requests.exceptions.ContentDecodingError(str(error), request=request) from None
        except (requests.RequestException, HTTPError) as error:
            if exchange.is_over:
                raise _timeout(exchange, request) from error
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError(error, request=request) from error
        if exchange.is_over:
            # The end of a body without a length looks like this, too.
            raise _timeout(exchange, request)
        return response

    def build_response(self, req: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        """Read the body here, within the exchange."""
        exchange = _current.get()
        assert exchange is not None
        try:
            body = Body(resp.headers.get("Content-Encoding"), exchange.max_bytes)
            for chunk in resp.stream(_CHUNK_BYTES, decode_content=False):
                body.feed(chunk)
            content = body.content()
        except BaseException:
            # What is left of the body must not be taken for the next response.
            resp.close()
            raise
        resp.headers.pop("Content-Encoding", None)
        resp.headers.pop("Transfer-Encoding", None)
        resp.headers["Content-Length"] = str(len(content))
        return super().build_response(
            req,
            HTTPResponse(
                io.BytesIO(content),
                headers=resp.headers,
                status=resp.status,
                reason=resp.reason,
                preload_content=False,
            ),
        )


def _timeout(exchange: Exchange, request: requests.PreparedRequest) -> requests.ReadTimeout:
    return requests.ReadTimeout(f"no complete response within {exchange.max_seconds:g} s", request=request)


def _use_watched_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


class BoundedSession(requests.Session):
    """A session for the API or for a token endpoint."""

    def __init__(self) -> None:
        super().__init__()
        # A password from .netrc would replace the token.
        self.trust_env = False
        self.headers["Accept-Encoding"] = ACCEPT_ENCODING
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter())

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Take proxies and CAs from the same place as the other transport."""
        proxy = proxy_for(url)
        return {
            "proxies": {} if proxy is None else {"http": proxy, "https": proxy},
            "stream": True,
            "verify": ca_bundle(),
            "cert": None,
        }
