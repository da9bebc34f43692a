"""The floor: a trigger that wakes as often as the others, without a request."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class SleepingTrigger(BaseTrigger):
    """
    Knows beforehand how an operation ends, and when.

    :param number: the operation's number.
    :param end: when it ends, in the clock of ``time.monotonic``.
    :param interval: seconds between looks at the clock.
    :param failed: how it ends.
    """

    def __init__(self, number: int, end: float, interval: float, failed: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = number
        self.end = end
        self.interval = interval
        self.failed = failed

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return the trigger's class path and arguments."""
        return (
            "benchmarks.sleeping.SleepingTrigger",
            {name: getattr(self, name) for name in ("number", "end", "interval", "failed")},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep until the operation has ended, and yield one event."""
        while time.monotonic() < self.end:  # noqa: ASYNC110 - sleeping is what it is for
            await asyncio.sleep(self.interval)
        yield TriggerEvent({"number": str(self.number), "failed": self.failed})
