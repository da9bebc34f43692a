"""How far an export is, kept where Airflow's web interface finds it; never in the way of a poll."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from airflow_provider_dicom.longrunning.outcome import counters, is_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.log import Log
    from airflow_provider_dicom.longrunning.outcome import Counters, Operation

#: The XCom that the progress page reads.
PROGRESS_KEY = "progress"
#: The shortest time between two records of one export, in seconds.
RECORD_PAUSE = 15.0
#: How much of an error's message is kept, in characters.
MESSAGE_LENGTH = 2000
#: How long the end of an export waits for a record that is being written, in seconds.
LAST_RECORD = 5.0

_NOT_STORED = "The progress could not be stored for the web interface: %s"

_recorders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Recorder] = weakref.WeakKeyDictionary()


class Progress(TypedDict):
    """One record of how far an export is; ``observed_at`` is this machine's time, the others the API's."""

    operation_name: str
    state: Literal["RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED"]
    success: int
    failure: int
    pending: int
    create_time: str | None
    end_time: str | None
    observed_at: str
    message: str | None


def progress_of(operation: Operation, *, is_good_enough: bool = True) -> Progress:
    """
    Say how far an export is.

    :param operation: the Operation as the API returned it.
    :param is_good_enough: how a finished Operation without an error was judged.
    :raises DicomExportUnavailableError: if its counters are not readable.
    """
    count = counters(operation)
    metadata = operation.get("metadata", {})
    message = operation.get("error", {}).get("message")
    return {
        "operation_name": operation["name"],
        "state": _state(operation, count, is_good_enough=is_good_enough),
        "success": count.success,
        "failure": count.failure,
        "pending": count.pending,
        "create_time": metadata.get("createTime"),
        "end_time": metadata.get("endTime"),
        "observed_at": datetime.now(UTC).isoformat(),
        "message": message[:MESSAGE_LENGTH] if message else None,
    }


def _state(
    operation: Operation, count: Counters, *, is_good_enough: bool
) -> Literal["RUNNING", "SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED"]:
    if not operation.get("done"):
        return "RUNNING"
    if is_cancelled(operation):
        return "CANCELLED"
    if "error" in operation or not is_good_enough:
        return "FAILED"
    return "PARTIAL" if count.failure else "SUCCEEDED"


class Throttle:
    """
    Tells which answers about one running export are worth a record.

    :param now: tells the time in seconds, of any beginning.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._told: Counters | None = None
        self._not_before = -math.inf

    def is_news(self, operation: Operation) -> bool:
        """
        Tell whether the counters have moved, and the last record is old enough.

        :param operation: the Operation as the API returned it.
        """
        if self._now() < self._not_before:
            return False
        count = counters(operation)
        if count == self._told:
            return False
        self._told, self._not_before = count, self._now() + RECORD_PAUSE
        return True


class BackgroundRecord:
    """
    Stores how far one export is, beside the event loop that follows it.

    :param write: stores a record; it may block, and it may fail.
    :param log: where to say that records cannot be stored.
    """

    def __init__(self, write: Callable[[Progress], None], *, log: Log) -> None:
        self.log = log
        self._write = write
        self._throttle = Throttle()
        self._next: Progress | None = None
        self._stored = asyncio.Event()
        self._stored.set()

    def seen(self, operation: Operation) -> None:
        """
        Take in an answer about the running Operation.

        :param operation: the Operation as the API returned it.
        """
        if not self._throttle.is_news(operation):
            return
        self._next = progress_of(operation)
        loop = asyncio.get_running_loop()
        recorder = _recorders.get(loop) or _recorders.setdefault(loop, _Recorder())
        recorder.store_soon(self)

    def drop(self) -> None:
        """Store nothing more."""
        self._next = None

    async def close(self) -> None:
        """Store nothing more, so that the task's own record of the end is the last one."""
        self.drop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_RECORD):
                await self._stored.wait()

    async def store(self) -> None:
        """Store the newest record, if there is one."""
        progress, self._next = self._next, None
        if progress is None:
            return
        self._stored.clear()
        try:
            await asyncio.to_thread(self._write, progress)
        finally:
            self._stored.set()


class _Recorder:
    """Stores the records of one event loop, one after the other: a thousand exports take one thread."""

    def __init__(self) -> None:
        self._waiting: dict[BackgroundRecord, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._has_failed = False

    def store_soon(self, record: BackgroundRecord) -> None:
        self._waiting[record] = None
        if self._task is None or self._task.done():
            # With an empty context: in that of one trigger, its task's log would get the lines of all.
            self._task = asyncio.get_running_loop().create_task(
                self._store_all(), context=contextvars.Context()
            )

    async def _store_all(self) -> None:
        while self._waiting:
            record = next(iter(self._waiting))
            del self._waiting[record]
            try:
                await record.store()
            except Exception as error:  # whatever Airflow raises: exports are followed all the same
                # Once, not a line per export and poll for as long as Airflow is in trouble.
                if not self._has_failed:
                    record.log.warning(_NOT_STORED, error)
                self._has_failed = True
            else:
                self._has_failed = False


class TaskInstance(Protocol):
    """The part of a running task instance that is used here."""

    def xcom_push(self, key: str, value: object) -> None:
        """Store an XCom."""


def store_from_worker(
    task_instance: TaskInstance, operation: Operation, *, is_good_enough: bool = True, log: Log
) -> None:
    """
    Store how far an export is, from the task itself; never raises.

    :param task_instance: the task instance.
    :param operation: the Operation as the API returned it.
    :param is_good_enough: how a finished Operation without an error was judged.
    :param log: where to say that it could not be stored.
    """
    try:
        task_instance.xcom_push(key=PROGRESS_KEY, value=progress_of(operation, is_good_enough=is_good_enough))
    except Exception as error:  # whatever Airflow raises: the export's own end is what counts
        log.warning(_NOT_STORED, error)
