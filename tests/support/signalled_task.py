"""A signal to a task on its worker, while it polls."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rig.servers import wait_for
from tests.support.healthcare_requests import request_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.compat.sdk import BaseOperator

    from rig.control import Control


class WorkerGone(BaseException):
    """The end of a process in the middle of a task."""


@contextmanager
def signal_during_a_poll(task: BaseOperator, control: Control, *, dies: bool = False) -> Iterator[None]:
    """
    Signal a task that polls, as Airflow's task runner does: a handler calls ``on_kill``, between any two
    instructions.

    :param task: the task, which runs in the main thread.
    :param control: the local Healthcare API, which has not counted any poll yet.
    :param dies: the process dies after ``on_kill``.
    """

    def on_signal(*_: object) -> None:
        task.on_kill()
        if dies:
            raise WorkerGone

    def send() -> None:
        wait_for("a poll", lambda: request_count(control, "operations.get"), timeout=60, pause=0.05)
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, on_signal)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join(60)
        signal.signal(signal.SIGUSR1, before)
