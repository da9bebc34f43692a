"""Runs exports and imports: in the background, step by step, or before the submission is answered.

Invariants:

- Work is accepted only after its operation is on disk. From then on it has exactly one job, until the
  operation is done.
- Jobs start in the order of their submission, at most ``max_running_exports`` at a time; the others wait in a
  queue. A queued job that is cancelled ends without ever starting.
- One job is sequential: begin, process item by item, close, end the operation. A started job closes its work
  exactly once, also after a failure or a cancellation; only :meth:`Runner.close` abandons jobs midway.
- The operation is CLOSING on disk before its output becomes visible. A server that finds such an operation
  when it starts repeats the work only if that cannot duplicate output (Cloud Storage, imports); otherwise
  (BigQuery) the operation ends with UNAVAILABLE.
- A cancellation takes effect between two instances, never in the middle of one, and not once the output is
  being made visible. The first error ends the operation; later errors, while closing, are dropped.
- An instance that cannot be exported or imported is counted as a failure and never ends the operation.
- Jobs, queue and counters belong to the event loop. Only reading and writing happens in threads: in
  ``_THREADS`` threads of the jobs, so that slow destinations never delay the threads that serve requests.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.request import Export
from airflow_provider_dicom.emulator.exports.work import ItemFailedError
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, IMPORT_METHOD, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.emulator.exports.work import Item, Work
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.operations import Operation, Operations
    from airflow_provider_dicom.emulator.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

#: More than the default of ``max_running_exports``, so that jobs rarely wait for a thread.
_THREADS = 8
_log = logging.getLogger(__name__)


class _Cancelled(Exception):  # noqa: N818 - not an error
    """A client has cancelled the operation."""


@dataclass(eq=False)
class _Job:
    """An unfinished export or import.

    :param due: in time mode, the earliest time of the next instance, by the event loop's clock.
    :param steps: in manual mode, the number of instances that may still be written.
    :param wake: set when the job has to look again at steps, settings and cancellation.
    :param idle: set while the job waits for steps, and when it has ended.
    :param ended: set when the operation is done.
    """

    operation: Operation
    work: Work
    due: float
    steps: float = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Runner:
    """Runs the exports and imports of all DICOM stores.

    :param archive: contains the instances.
    :param operations: contains the operations of the exports and imports.
    :param settings: how they advance; after a change, :meth:`settings_changed` must be called.
    """

    def __init__(self, archive: Archive, operations: Operations, settings: Settings) -> None:
        self._archive = archive
        self._operations = operations
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="job")
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.highest_running = 0
        self.highest_unfinished = 0

    def reset_highest(self) -> None:
        """Reset both maxima to the current numbers of jobs."""
        self.highest_running, self.highest_unfinished = len(self._running), len(self._jobs)

    async def recover(self) -> None:
        """Continue the jobs that were unfinished when the server stopped, each from its beginning."""
        for operation in self._operations.started_by(EXPORT_METHOD, IMPORT_METHOD):
            if operation.done:
                continue
            try:
                work = await self._in_thread(
                    self._work, operation.method, operation.resource, operation.request
                )
                if operation.state is State.CLOSING and not work.repeatable:
                    # The rows may be in the table already; another load would duplicate them.
                    raise ApiError.unavailable("The server stopped while it made the output visible.")
            except ApiError as error:
                await self._finish(operation, error)
                continue
            operation.success = operation.failure = operation.pending = 0
            operation.log.clear()
            operation.state = State.QUEUED
            self._queue.append(self._job(operation, work, delay=0.0))
        self._start_queued()

    def _work(self, method: str, store: str, request: JsonObject) -> Work:
        if method == EXPORT_METHOD:
            return Export(self._archive, store, request, self._settings)
        # The client library of Cloud Storage takes a second to import: only when it is needed.
        from airflow_provider_dicom.emulator.exports.gcs_source import Import

        return Import(self._archive, store, request)

    async def submit(self, method: str, store: str, request: JsonObject) -> Operation:
        """Accept an export or an import.

        :param method: the API's name of the method.
        :param store: the name of the DICOM store.
        :param request: an ``ExportDicomDataRequest`` or ``ImportDicomDataRequest``.
        :raises ApiError: the request is invalid, the store does not exist, or the quota is exhausted.
        """
        # Not in the threads of the jobs: slow destinations may occupy all of them.
        work = await asyncio.to_thread(self._work, method, store, request)
        pending = await asyncio.to_thread(work.check)
        quota = self._settings.export_quota
        if quota is not None and len(self._jobs) >= quota:
            raise ApiError.resource_exhausted(
                "Quota exceeded for quota metric 'DICOM store operations' and limit "
                f"'DICOM store long-running operations per minute per region' ({quota}) of service "
                "'healthcare.googleapis.com'."
            )
        operation = self._operations.create(method, store, request)
        operation.pending = pending
        job = self._job(operation, work, delay=self._settings.start_delay_seconds)
        await self._operations.save(operation)
        self._queue.append(job)
        self._start_queued()
        if self._settings.advance == "immediate":
            await job.ended.wait()
        return operation

    def _job(self, operation: Operation, work: Work, *, delay: float) -> _Job:
        job = _Job(operation, work, due=asyncio.get_running_loop().time() + delay)
        self._jobs[operation.name] = job
        self.highest_unfinished = max(self.highest_unfinished, len(self._jobs))
        return job

    def _start_queued(self) -> None:
        while self._queue and len(self._running) < self._settings.max_running_exports:
            job = self._queue.popleft()
            name = job.operation.name
            job.operation.state = State.RUNNING
            self._running[name] = asyncio.create_task(self._run(job), name=name)
            self.highest_running = max(self.highest_running, len(self._running))

    async def cancel(self, name: str) -> None:
        """Request the cancellation of an operation; one that is done stays unchanged.

        :raises ApiError: the operation does not exist.
        """
        operation = self._operations.get(name)
        job = self._jobs.get(name)
        if job is None:
            return
        operation.cancel_requested = True
        operation.changed()
        await self._operations.save(operation)
        job.wake.set()
        if job in self._queue:
            self._queue.remove(job)
            await self._end(job, _cancelled())

    async def vanish(self, name: str) -> None:
        """Make the API forget an operation; its export continues."""
        operation = self._operations.get(name)
        operation.vanished = True
        await self._operations.save(operation)

    def settings_changed(self) -> None:
        """Apply changed settings to all jobs."""
        self._start_queued()
        for job in self._jobs.values():
            job.wake.set()

    async def step(self, name: str | None, instances: int | None) -> list[Operation]:
        """Let jobs process some more instances, and return their operations when they have.

        :param name: the operation of one job; None for all.
        :param instances: the number of instances per job; None lets jobs run to their end.
        :raises ApiError: ``advance`` is not ``manual``, or the job is not running.
        """
        if self._settings.advance != "manual":
            raise ApiError.failed_precondition('exports are stepped only with "advance": "manual"')
        jobs = self._jobs_to_step(name, instances)
        for job in jobs:
            job.steps = math.inf if instances is None else job.steps + instances
            job.idle.clear()
            job.wake.set()
        for job in jobs:
            await (job.ended if instances is None else job.idle).wait()
        return [job.operation for job in jobs]

    def _jobs_to_step(self, name: str | None, instances: int | None) -> list[_Job]:
        if name is None:
            return [
                job
                for job in self._jobs.values()
                if instances is None or job.operation.state is not State.QUEUED
            ]
        operation = self._operations.get(name)
        job = self._jobs.get(name)
        if job is None:
            raise ApiError.failed_precondition(f"operation {operation.name} has ended")
        if operation.state is State.QUEUED:
            raise ApiError.failed_precondition(
                f"operation {operation.name} is queued: it waits for others to end"
            )
        return [job]

    async def close(self) -> None:
        """Stop all jobs; after a restart, :meth:`recover` continues them."""
        self._queue.clear()
        tasks = dict(self._running)
        for name, task in tasks.items():
            # A job that is CLOSING is waited for: after a restart nobody could tell whether its output is
            # visible.
            if self._jobs[name].operation.state is not State.CLOSING:
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))
        return await call

    # -- one job

    async def _run(self, job: _Job) -> None:
        error: ApiError | None
        try:
            await self._process_all(job)
            error = self._configured_error()
        except _Cancelled:
            error = _cancelled()
        except ApiError as caught:
            error = caught
        except Exception as unexpected:
            error = _internal(job, unexpected)
        try:
            if error is None:
                job.operation.state = State.CLOSING
                await self._operations.save(job.operation)
            await self._in_thread(job.work.close, cancelled=error is not None)
        except ApiError as caught:
            error = error or caught
        except Exception as unexpected:
            error = error or _internal(job, unexpected)
        await self._end(job, error)

    async def _process_all(self, job: _Job) -> None:
        operation = job.operation
        await self._may_continue(job)
        items, failed = await self._in_thread(job.work.begin)
        for entry in failed:
            operation.failure += 1
            operation.log_failure(*entry)
        operation.pending = len(items)
        operation.changed()
        for item in items:
            await self._may_continue(job)
            job.due = asyncio.get_running_loop().time() + self._settings.seconds_per_instance
            failure = await self._in_thread(_failure_of, item)
            if failure is None:
                operation.success += 1
            else:
                operation.failure += 1
                operation.log_failure(item.name, item.path, failure.code, failure.message)
            operation.pending -= 1
            operation.changed()
            job.steps = max(job.steps - 1, 0)

    async def _may_continue(self, job: _Job) -> None:
        """Wait until the job may begin, or process its next item.

        :raises _Cancelled: the cancellation was requested.
        """
        clock = asyncio.get_running_loop().time
        while True:
            job.wake.clear()
            if job.operation.cancel_requested:
                raise _Cancelled
            timeout: float | None = None
            if self._settings.advance == "immediate":
                return
            if self._settings.advance == "manual":
                if job.steps > 0:
                    return
                job.idle.set()
            else:
                timeout = job.due - clock()
                if timeout <= 0:
                    return
            try:
                await asyncio.wait_for(job.wake.wait(), timeout)
            except TimeoutError:
                continue

    def _configured_error(self) -> ApiError | None:
        error = self._settings.operation_error
        return None if error is None else ApiError(500, error.code, "", error.message)

    async def _end(self, job: _Job, error: ApiError | None) -> None:
        await self._finish(job.operation, error, job.work)
        del self._jobs[job.operation.name]
        self._running.pop(job.operation.name, None)
        job.ended.set()
        job.idle.set()
        self._start_queued()

    async def _finish(self, operation: Operation, error: ApiError | None, work: Work | None = None) -> None:
        form = "response"
        if work is not None and error is None and operation.failure:
            form = work.partial_failure or self._settings.partial_failure
        if work is not None and form != "response":
            error = ApiError.unknown(f"{operation.failure} instances could not be {work.done}; see the logs.")
        succeeded = work is not None and (error is None or form == "both")
        await self._operations.finish(
            operation,
            error=None if error is None else error.rpc_status(),
            response={"@type": work.response} if work is not None and succeeded else None,
        )


def _failure_of(item: Item) -> ItemFailedError | None:
    """Process one item, and return the reason if it fails."""
    try:
        item.process()
    except ItemFailedError as reason:
        return reason
    return None


def _cancelled() -> ApiError:
    return ApiError.cancelled("The operation was cancelled.")


def _internal(job: _Job, unexpected: Exception) -> ApiError:
    _log.error("%s failed unexpectedly", job.operation.name, exc_info=unexpected)
    return ApiError.internal(f"Internal error encountered: {type(unexpected).__name__}")
