"""TCP connections that the application can identify, reset and close."""

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

    :param transport: asyncio's transport of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.number = next(_numbers)
        self._transport = transport

    def reset(self) -> None:
        """Reset the connection (TCP RST), as a crashed server or a load balancer does."""
        raw: socket.socket = self._transport.get_extra_info("socket")
        # With a linger time of zero, closing the socket sends RST instead of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def hang_up(self) -> None:
        """Close the connection after all data has been sent."""
        self._transport.close()


def connection_of(scope: Scope) -> Connection:
    """Return the connection that a request was received on."""
    connection: Connection = scope[_KEY]
    return connection


class ConnectionProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 protocol, which adds the connection to the ASGI scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start serving a connection."""
        super().connection_made(transport)
        application, connection = self.app, Connection(transport)

        async def with_connection(scope: Any, receive: Any, send: Any) -> None:
            scope[_KEY] = connection
            await application(scope, receive, send)

        self.app = with_connection
