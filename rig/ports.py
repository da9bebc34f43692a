"""Loopback ports for servers that run side by side."""

from __future__ import annotations

import atexit
import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"
#: Below the ports from which any system takes those of outgoing connections.
_PORTS = range(20_000, 32_000)
_reservations = contextlib.ExitStack()
atexit.register(_reservations.close)


def free_port() -> int:
    """Return a loopback port for a server; until this process ends, no other process of the rig gets it.

    A server listens seconds after its port was chosen, and suites run side by side: the UDP port of the same
    number is the reservation.
    """
    while True:
        port = random.choice(_PORTS)
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            reservation.bind((LOOPBACK, port))
            with socket.socket() as probe:
                probe.bind((LOOPBACK, port))
        except OSError:
            reservation.close()
            continue
        _reservations.enter_context(reservation)
        return port
