"""
How a trigger writes the progress record of its export: beside the event loop that polls.

Invariants:

- The records of all triggers of an event loop are written one after the other by one background task, so that
  a thousand exports do not occupy a thousand threads; polls and events never wait for them.
  ``record_schedule.py`` decides when. Of the records that wait, first failures are written first, then the
  export whose last record is the oldest, so that none starves. Only the newest record of an export is
  written.
- A write that takes longer than ``SLOW_WRITE`` does not hold up the records of other exports; at most
  ``MAX_SLOW_WRITES`` go on beside the current one. Two writes of one export never overlap.
- A record of the end is the last one: ``ProgressRecord.close`` discards what waits, and waits at most
  ``LAST_RECORD`` for a write that is under way. A write that takes even longer may replace the task's own
  record of the end, and is followed at once by the end as the API returned it.
- A record that cannot be written is logged once per outage, and so is one that takes long; neither fails
  anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import heapq
import itertools
import threading
import weakref
from typing import TYPE_CHECKING

from airflow_provider_dicom.longrunning.outcome import counters
from airflow_provider_dicom.longrunning.progress import NOT_STORED, progress_of
from airflow_provider_dicom.longrunning.record_schedule import Throttle, WriteBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api_types import Counters, Operation
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.longrunning.progress import Progress

#: How long the event of an export waits for a record that is being written, in seconds.
LAST_RECORD = 0.5
#: How long a write may hold up others, in seconds, and the number of longer ones that may be under way.
SLOW_WRITE = 5.0
MAX_SLOW_WRITES = 4

#: Not a first failure, and the time of the last record: the lowest rank is written first.
Rank = tuple[bool, float]

_writers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _RecordWriter] = weakref.WeakKeyDictionary()


class ProgressRecord:
    """
    The progress record of one export, written beside the event loop that polls the export.

    :param write: writes a record; it may block and may fail.
    :param log: the log for records that cannot be written.
    """

    def __init__(self, write: Callable[[Progress], None], *, log: Log) -> None:
        self.log = log
        #: The export has ended: what is left to write must not wait.
        self.is_closed = False
        #: The rank with which the record waits; None if it does not wait.
        self.waits_as: Rank | None = None
        self._write = write
        self._throttle = Throttle(_now)
        self._next: tuple[Progress, Counters] | None = None
        self._under_way: asyncio.Future[None] | None = None

    @property
    def rank(self) -> Rank:
        """The place among the records that wait."""
        is_urgent = self._next is not None and self._throttle.is_first_failure(self._next[1])
        return not is_urgent, self._throttle.recorded_at

    def on_response(self, operation: Operation) -> None:
        """
        Schedule a record if somebody could see the difference to the last one.

        :param operation: the running Operation as the API returned it.
        """
        count = counters(operation)
        if self._throttle.is_worth_a_record(count):
            self._next = progress_of(operation), count
            _writer().schedule(self)

    def discard(self) -> None:
        """Discard the record that waits to be written."""
        self._next = self.waits_as = None

    async def close(self, operation: Operation) -> None:
        """
        Discard the record that waits, and wait for the one that is being written.

        :param operation: the Operation as the API returned it last.
        """
        self.discard()
        if self._under_way is None:
            return
        await asyncio.wait({self._under_way}, timeout=LAST_RECORD)
        if self._under_way is not None and operation.get("done"):
            self.is_closed = True
            self._next = progress_of(operation), counters(operation)

    def start_write(self) -> asyncio.Future[None] | None:
        """Begin to write the newest record, if one waits and no other is being written."""
        if self._next is None or self._under_way is not None:
            return None
        (progress, count), self._next = self._next, None
        self._throttle.record(count)
        self._under_way = _run_in_thread(functools.partial(self._write, progress))
        return self._under_way

    def end_write(self) -> bool:
        """Note the end of a write, and tell whether another record waits."""
        self._under_way = None
        return self._next is not None


def _now() -> float:
    # The bound method of a loop would keep the loop, and so its writer, alive for ever.
    return asyncio.get_running_loop().time()


def _writer() -> _RecordWriter:
    loop = asyncio.get_running_loop()
    return _writers.get(loop) or _writers.setdefault(loop, _RecordWriter())


class _RecordWriter:
    """Writes the records of one event loop, one after the other."""

    def __init__(self) -> None:
        #: An entry is void unless its rank is still the one with which its record waits.
        self._waiting: list[tuple[Rank, int, ProgressRecord]] = []
        self._numbers = itertools.count()
        self._under_way: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._budget = WriteBudget(_now)
        self._is_outage = False

    def schedule(self, record: ProgressRecord) -> None:
        if (rank := record.rank) == record.waits_as:
            return
        record.waits_as = rank
        heapq.heappush(self._waiting, (rank, next(self._numbers), record))
        if self._task is None or self._task.done():
            # With an empty context: in the context of one trigger, its log would get the lines of all
            # triggers.
            self._task = asyncio.get_running_loop().create_task(
                self._write_all(), context=contextvars.Context()
            )

    async def _write_all(self) -> None:
        while self._waiting:
            if pause := self._budget.pause():
                await asyncio.sleep(pause)
                continue
            rank, _, record = heapq.heappop(self._waiting)
            if record.waits_as != rank:
                continue
            record.waits_as = None
            if (write := self._start_write(record)) is None:
                continue
            await asyncio.wait({write}, timeout=SLOW_WRITE)
            if not write.done():
                self._budget.hold()
                self._report(record, f"no answer after {SLOW_WRITE:.0f} s")
            while len(self._under_way) > MAX_SLOW_WRITES:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def _start_write(self, record: ProgressRecord) -> asyncio.Future[None] | None:
        start = _now()
        if (write := record.start_write()) is not None:
            self._under_way.add(write)
            write.add_done_callback(functools.partial(self._end_write, record, start))
        return write

    def _end_write(self, record: ProgressRecord, start: float, write: asyncio.Future[None]) -> None:
        self._under_way.discard(write)
        took = _now() - start
        self._budget.spend(took)
        if record.end_write():
            if record.is_closed:
                self._start_write(record)
            else:
                self.schedule(record)
        if (error := write.exception()) is None:
            self._is_outage = False
        elif took < SLOW_WRITE:  # else it has been reported
            self._report(record, error)

    def _report(self, record: ProgressRecord, reason: object) -> None:
        if not self._is_outage:
            record.log.warning(NOT_STORED, reason)
        self._is_outage = True


def _run_in_thread(call: Callable[[], None]) -> asyncio.Future[None]:
    """
    Run a call that may hang in a thread of its own, which holds up neither the event loop's other threads nor
    the end of the process.
    """
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if error is None:
            end.set_result(None)
        else:
            end.set_exception(error)

    def run() -> None:
        error = None
        try:
            call()
        except Exception as caught:  # Airflow may raise anything here
            error = caught
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="dicom-export-progress", daemon=True).start()
    return end
