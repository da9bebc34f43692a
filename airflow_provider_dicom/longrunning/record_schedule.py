"""
When a progress record is written, without I/O.

Invariants:

- A record is written only if somebody could see the difference: the counters have moved by ``VISIBLE_SHARE``,
  or they have changed at all and the last record is older than ``VISIBLE_AGE``. There is at most one record
  of an export in ``RECORD_PAUSE``. The first failed instance is written at once.
- All records of a process together take at most ``WRITE_SHARE`` of its time, whatever a write takes: a
  triggerer's supervisor executes the writes between the events and heartbeats of all its triggers.
- One slow write does not stop the records for long, because the first write of a process loads Airflow's API
  and any later one may have waited for a lock: it becomes a debt, which the next writes repay by pauses twice
  as long as otherwise. Nothing more is lent until the debt is repaid.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from airflow_provider_dicom.longrunning.outcome import counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api_types import Counters, Operation

#: The shortest time between two records of one export, in seconds.
RECORD_PAUSE = 15.0
#: The share of all instances by which the counters have to move for a new record.
VISIBLE_SHARE = 0.01
#: The age of a record after which the smallest change is worth a new one, in seconds.
VISIBLE_AGE = 60.0
#: The largest share of a process's time that its records may take.
WRITE_SHARE = 0.02
#: The longest time of a write that is not slow, in seconds: the pause after it is at most ``RECORD_PAUSE``.
SLOW = WRITE_SHARE * RECORD_PAUSE


class Throttle:
    """
    Decides which responses about one running export are worth a record.

    :param now: returns the time in seconds, from any origin.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._recorded: Counters | None = None
        #: The time of the last record; without one, the time since which one could have been written.
        self.recorded_at = now()

    def should_record(self, operation: Operation) -> bool:
        """
        Tell whether a response is worth a record; True counts as a record.

        :param operation: the Operation as the API returned it.
        """
        count = counters(operation)
        if not self.is_worth_a_record(count):
            return False
        self.record(count)
        return True

    def is_worth_a_record(self, count: Counters) -> bool:
        """
        Tell whether somebody could see the difference to the last record.

        :param count: the counters of the latest response.
        """
        before = self._recorded
        if before is None or self.is_first_failure(count):
            return True
        age = self._now() - self.recorded_at
        if count == before or age < RECORD_PAUSE:
            return False
        moved = max(count.done - before.done, abs(count.total - before.total))
        return age >= VISIBLE_AGE or moved >= VISIBLE_SHARE * count.total

    def is_first_failure(self, count: Counters) -> bool:
        """
        Tell whether instances have failed for the first time since the last record.

        :param count: the counters of the latest response.
        """
        return count.failure > 0 and (self._recorded is None or self._recorded.failure == 0)

    def record(self, count: Counters) -> None:
        """
        Note that a record is being written.

        :param count: the counters in the record.
        """
        self._recorded, self.recorded_at = count, self._now()


class WriteBudget:
    """
    Keeps the records of a process within ``WRITE_SHARE`` of its time.

    :param now: returns the time in seconds, from any origin.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._not_before = -math.inf
        #: The time that writes have taken beyond their share, in seconds, at ``_settled_at``.
        self._debt = 0.0
        self._settled_at = now()

    def pause(self) -> float:
        """Return the time until the next write may begin, in seconds."""
        return max(0.0, self._not_before - self._now())

    def hold(self) -> None:
        """Let no write begin for ``RECORD_PAUSE``: one is under way and takes long."""
        self._not_before = max(self._not_before, self._now() + RECORD_PAUSE)

    def spend(self, seconds: float) -> None:
        """
        Count a write that has ended.

        :param seconds: the time that the write took, in seconds.
        """
        now = self._now()
        owed = max(0.0, self._debt - WRITE_SHARE * (now - self._settled_at))
        self._debt, self._settled_at = owed + seconds, now
        pause = min(self._debt, 2 * seconds) / WRITE_SHARE
        if owed <= SLOW:
            pause = min(pause, RECORD_PAUSE)
        self._not_before = max(self._not_before, now + pause)
