"""Connections that the application can tell apart, and cut off."""

from __future__ import annotations

import socket
import struct
from itertools import count
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope

_KEY = "airflow_provider_dicom.connection"
_numbers = count(1)


class Connection:
    """A client's TCP connection.

    :param transport: what it is made of.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.number = next(_numbers)
        self._transport = transport

    def reset(self) -> None:
        """Cut the connection off with a TCP reset, as a crashed server or a load balancer does."""
        raw: socket.socket = self._transport.get_extra_info("socket")
        # Lingering for no time at all makes close() send RST in place of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def hang_up(self) -> None:
        """Close the connection after what was sent."""
        self._transport.close()


def connection_of(scope: Scope) -> Connection:
    """Return the connection that a request came on."""
    connection: Connection = scope[_KEY]
    return connection


class ConnectionProtocol(H11Protocol):
    """Uvicorn's protocol, which also tells the application about the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve a connection."""
        super().connection_made(transport)
        application, connection = self.app, Connection(transport)

        async def with_connection(scope: Any, receive: Any, send: Any) -> None:
            scope[_KEY] = connection
            await application(scope, receive, send)

        self.app = with_connection
