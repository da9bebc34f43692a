"""Processes that tests observe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from rig.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

_BOUND = 60.0


def wait_for_end(processes: Sequence[psutil.Process]) -> None:
    """
    Wait until processes have ended.

    An orphan of a test becomes a child of pytest's worker, which does not reap it: it stays as a zombie.

    :param processes: the processes.
    :raises TimeoutError: if one of them runs on.
    """
    wait_for("the end of processes", lambda: not any(map(_runs, processes)), timeout=_BOUND)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
