"""
Progress records: the XCom that the tab "DICOM export" shows while an export runs.

Invariants:

- A record is written only if the counters have changed, and at most once in ``RECORD_PAUSE`` per export.
- A trigger's records are written one after the other by one background task per event loop, so that a
  thousand exports do not occupy a thousand threads; polls and events never wait for them. Only the newest
  record of an export is written: a newer one replaces one that still waits.
- A write that takes longer than ``SLOW_WRITE`` does not hold up the records of other exports; at most
  ``MAX_SLOW_WRITES`` go on beside the current one. Two writes of one export never overlap.
- A record of the end is the last one: ``ProgressRecord.close`` discards what waits, and waits at most
  ``LAST_RECORD`` for a write that is under way. A write that takes even longer may replace the task's own
  record of the end, and is followed by the end as the API returned it.
- A record that cannot be written is logged once per outage, and fails nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import math
import threading
import time
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from airflow_provider_dicom.api_types import is_cancelled
from airflow_provider_dicom.longrunning.outcome import counters
from airflow_provider_dicom.results import PROGRESS_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api_types import Counters, Operation
    from airflow_provider_dicom.compat import Log, TaskInstance

#: The shortest time between two records of one export, in seconds.
RECORD_PAUSE = 15.0
#: The longest error message in a record, in characters.
MESSAGE_LENGTH = 2000
#: How long the end of an export waits for a record that is being written, in seconds.
LAST_RECORD = 5.0
#: How long a write may hold up others, in seconds, and the number of longer ones that may be under way.
SLOW_WRITE = 5.0
MAX_SLOW_WRITES = 4

_NOT_STORED = "The progress could not be stored for the web interface: %s"

_writers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _RecordWriter] = weakref.WeakKeyDictionary()

State = Literal["RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED"]


class Progress(TypedDict):
    """
    One progress record; ``observed_at`` is this machine's time, the other times are the API's.

    ``expected`` is the number of instances that was known before the submission; only the first record of an
    export has it.
    """

    operation_name: str
    state: State
    success: int
    failure: int
    pending: int
    create_time: str | None
    end_time: str | None
    observed_at: str
    message: str | None
    expected: NotRequired[int]


def progress_of(
    operation: Operation, *, is_accepted: bool | None = None, expected: int | None = None
) -> Progress:
    """
    Build the progress record of an Operation.

    :param operation: the Operation as the API returned it.
    :param is_accepted: the outcome of a finished Operation: the task returns its result; None if the task has
        not decided yet, so that an error of the Operation counts as a failure.
    :param expected: the number of instances that was known before the submission.
    :raises DicomExportUnavailableError: if the Operation's counters are not readable.
    """
    count = counters(operation)
    metadata = operation.get("metadata", {})
    message = operation.get("error", {}).get("message")
    progress: Progress = {
        "operation_name": operation["name"],
        "state": _state(operation, count, is_accepted=is_accepted),
        "success": count.success,
        "failure": count.failure,
        "pending": count.pending,
        "create_time": metadata.get("createTime"),
        "end_time": metadata.get("endTime"),
        "observed_at": datetime.now(UTC).isoformat(),
        "message": message[:MESSAGE_LENGTH] if message else None,
    }
    if expected is not None:
        progress["expected"] = expected
    return progress


def _state(operation: Operation, count: Counters, *, is_accepted: bool | None) -> State:
    if not operation.get("done"):
        return "RUNNING"
    if is_cancelled(operation):
        return "CANCELLED"
    if is_accepted is None:
        is_accepted = "error" not in operation
    if not is_accepted:
        return "FAILED"
    return "PARTIAL" if count.failure else "SUCCEEDED"


class Throttle:
    """
    Limits the records of one running export.

    :param now: returns the time in seconds, from any origin.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._recorded: Counters | None = None
        self._not_before = -math.inf

    def should_record(self, operation: Operation) -> bool:
        """
        Tell whether the counters have changed and ``RECORD_PAUSE`` is over; True counts as a record.

        :param operation: the Operation as the API returned it.
        """
        if self._now() < self._not_before:
            return False
        count = counters(operation)
        if count == self._recorded:
            return False
        self._recorded, self._not_before = count, self._now() + RECORD_PAUSE
        return True


class ProgressRecord:
    """
    The progress record of one export, written beside the event loop that polls the export.

    :param write: writes a record; it may block and may fail.
    :param log: the log for records that cannot be written.
    """

    def __init__(self, write: Callable[[Progress], None], *, log: Log) -> None:
        self.log = log
        self._write = write
        self._throttle = Throttle()
        self._next: Progress | None = None
        self._under_way: asyncio.Future[None] | None = None

    def on_response(self, operation: Operation) -> None:
        """
        Schedule a record, unless the throttle forbids it.

        :param operation: the running Operation as the API returned it.
        """
        if self._throttle.should_record(operation):
            self._schedule(operation)

    def _schedule(self, operation: Operation) -> None:
        self._next = progress_of(operation)
        loop = asyncio.get_running_loop()
        writer = _writers.get(loop) or _writers.setdefault(loop, _RecordWriter())
        writer.schedule(self)

    def discard(self) -> None:
        """Discard the record that waits to be written."""
        self._next = None

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
            self._schedule(operation)

    def start_write(self) -> asyncio.Future[None] | None:
        """Begin to write the newest record, if one waits and no other is being written."""
        if self._next is None or self._under_way is not None:
            return None
        progress, self._next = self._next, None
        self._under_way = _run_in_thread(functools.partial(self._write, progress))
        return self._under_way

    def end_write(self) -> bool:
        """Note the end of a write, and tell whether another record waits."""
        self._under_way = None
        return self._next is not None


class _RecordWriter:
    """Writes the records of one event loop, one after the other."""

    def __init__(self) -> None:
        self._waiting: dict[ProgressRecord, None] = {}
        self._under_way: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_failed = False

    def schedule(self, record: ProgressRecord) -> None:
        self._waiting[record] = None
        if self._task is None or self._task.done():
            # With an empty context: in the context of one trigger, its log would get the lines of all
            # triggers.
            self._task = asyncio.get_running_loop().create_task(
                self._write_all(), context=contextvars.Context()
            )

    async def _write_all(self) -> None:
        while self._waiting:
            record = next(iter(self._waiting))
            del self._waiting[record]
            if (write := record.start_write()) is None:
                continue
            self._under_way.add(write)
            write.add_done_callback(functools.partial(self._end_write, record))
            await asyncio.wait({write}, timeout=SLOW_WRITE)
            while len(self._under_way) > MAX_SLOW_WRITES:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def _end_write(self, record: ProgressRecord, write: asyncio.Future[None]) -> None:
        self._under_way.discard(write)
        if record.end_write():
            self.schedule(record)
        if (error := write.exception()) is not None and not self._has_failed:
            record.log.warning(_NOT_STORED, error)
        self._has_failed = error is not None


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


def write_from_worker(
    task_instance: TaskInstance,
    operation: Operation,
    *,
    is_accepted: bool | None = None,
    expected: int | None = None,
    log: Log,
) -> None:
    """
    Write a progress record from the task itself; never raises.

    :param task_instance: the task instance.
    :param operation: the Operation as the API returned it.
    :param is_accepted: the outcome of a finished Operation: the task returns its result; None if the task has
        not decided yet, so that an error of the Operation counts as a failure.
    :param expected: the number of instances that was known before the submission.
    :param log: the log for a record that cannot be written.
    """
    try:
        progress = progress_of(operation, is_accepted=is_accepted, expected=expected)
        task_instance.xcom_push(key=PROGRESS_KEY, value=progress)
    except (
        Exception
    ) as error:  # Airflow may raise anything here, and the export's outcome must not depend on it
        log.warning(_NOT_STORED, error)
