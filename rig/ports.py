"""Loopback ports for servers that run side by side."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
#: Below the ports from which any system takes those of outgoing connections.
_PORTS = range(20_000, 32_000)
_reserved: list[socket.socket] = []


def free_port() -> int:
    """Return a loopback port for a server, which no other process of the rig gets as long as this one lives.

    Servers listen seconds after their port was chosen, and suites run side by side: the UDP port of the same
    number stands for the reservation.
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
        _reserved.append(reservation)
        return port
