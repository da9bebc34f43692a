"""Reservation of loopback ports for the rig's servers."""

from __future__ import annotations

import subprocess
import sys

from rig.servers import ROOT

RESERVE_TWO = """
from rig.ports import free_port
print(*{free_port(), free_port()})
"""


def test_reservations_of_ports_are_closed_at_the_end_of_the_process() -> None:
    # A socket that is still open at the end of an interpreter is a warning on stderr.
    command = [sys.executable, "-W", "always", "-c", RESERVE_TWO]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.split()) == 2
