"""Runs exports: in the background, step by step, or at once."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports import request as export
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, EXPORT_RESPONSE, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.instances import ExportDestination, StoredInstance
    from airflow_provider_dicom.emulator.models.operations import Operation, Operations
    from airflow_provider_dicom.emulator.server.discovery import JsonObject
    from airflow_provider_dicom.emulator.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

_THREADS = 8
_log = logging.getLogger(__name__)


class _Cancelled(Exception):  # noqa: N818 - not an error
    """The export was asked to stop."""


@dataclass(eq=False)
class _Job:
    """An unfinished export.

    :param steps: in manual mode, how many instances it may still write.
    :param due: in time mode, when it may write the next one, by the loop's clock.
    :param wake: set when there may be something to do.
    :param still: set while it waits to be stepped, and when it has ended.
    """

    operation: Operation
    destination: ExportDestination
    due: float
    steps: float = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    still: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Runner:
    """Runs exports; lives on the server's loop, reads and writes in threads.

    :param archive: where the instances are.
    :param operations: where the progress is told.
    :param settings: how exports advance; may be changed at any time, then call :meth:`settings_changed`.
    """

    def __init__(self, archive: Archive, operations: Operations, settings: Settings) -> None:
        self._archive = archive
        self._operations = operations
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="export")
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.highest_running = 0
        self.highest_unfinished = 0

    def forget_highest(self) -> None:
        """Count the highest numbers from now on."""
        self.highest_running, self.highest_unfinished = len(self._running), len(self._jobs)

    async def recover(self) -> None:
        """Go on with the exports that the last process did not finish."""
        for operation in self._operations.exports():
            if operation.done:
                continue
            if operation.state is State.CLOSING and not export.repeatable(operation.request):
                # The rows may be there or not; adding them again could double them.
                error = ApiError.unavailable("The server stopped while it made the output visible.")
                await self._finish(operation, error)
                continue
            operation.success = operation.failure = operation.pending = 0
            operation.log.clear()
            try:
                destination = await self._in_thread(export.destination, operation.request)
            except ApiError as error:
                await self._finish(operation, error)
                continue
            operation.state = State.QUEUED
            self._queue.append(self._job(operation, destination, delay=0.0))
        self._admit()

    async def submit(self, store: str, request: JsonObject) -> Operation:
        """Accept an export.

        :raises ApiError: the request makes no sense, or too many exports are under way.
        """
        # Not in the threads of the exports, which may all be held up by a slow destination.
        destination = await asyncio.to_thread(export.destination, request)
        await asyncio.to_thread(self._archive.store, store)
        metrics = await asyncio.to_thread(self._archive.metrics, store)
        quota = self._settings.export_quota
        if quota is not None and len(self._jobs) >= quota:
            raise ApiError.resource_exhausted(
                "Quota exceeded for quota metric 'DICOM store operations' and limit "
                f"'DICOM store long-running operations per minute per region' ({quota}) of service "
                "'healthcare.googleapis.com'."
            )
        operation = self._operations.create(EXPORT_METHOD, store, request)
        if export.filter_uri(request) is None:
            operation.pending = metrics["instances"]
        job = self._job(operation, destination, delay=self._settings.start_delay_seconds)
        await self._operations.save(operation)
        self._queue.append(job)
        self._admit()
        if self._settings.advance == "immediate":
            await job.ended.wait()
        return operation

    def _job(self, operation: Operation, destination: ExportDestination, *, delay: float) -> _Job:
        job = _Job(operation, destination, due=asyncio.get_running_loop().time() + delay)
        self._jobs[operation.name] = job
        self.highest_unfinished = max(self.highest_unfinished, len(self._jobs))
        return job

    def _admit(self) -> None:
        while self._queue and len(self._running) < self._settings.max_running_exports:
            job = self._queue.popleft()
            name = job.operation.name
            job.operation.state = State.RUNNING
            self._running[name] = asyncio.create_task(self._run(job), name=name)
            self.highest_running = max(self.highest_running, len(self._running))

    async def cancel(self, name: str) -> None:
        """Ask an operation to stop; one that has ended is left as it is.

        :raises ApiError: there is no such operation.
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
        """Make the API forget an operation; what it does goes on."""
        operation = self._operations.get(name)
        operation.vanished = True
        await self._operations.save(operation)

    def settings_changed(self) -> None:
        """Look at the settings again, in every export."""
        self._admit()
        for job in self._jobs.values():
            job.wake.set()

    async def step(self, name: str | None, instances: int | None) -> list[Operation]:
        """Let exports write some instances, and wait until they have.

        :param name: which export; all that run if None.
        :param instances: how many each; up to its end if None.
        :raises ApiError: exports are not stepped now, or this one is not running.
        """
        if self._settings.advance != "manual":
            raise ApiError.failed_precondition('exports are stepped only with "advance": "manual"')
        jobs = self._to_step(name, instances)
        for job in jobs:
            job.steps = math.inf if instances is None else job.steps + instances
            job.still.clear()
            job.wake.set()
        for job in jobs:
            await (job.ended if instances is None else job.still).wait()
        return [job.operation for job in jobs]

    def _to_step(self, name: str | None, instances: int | None) -> list[_Job]:
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
            raise ApiError.failed_precondition(f"operation {operation.name} waits for others to end")
        return [job]

    async def close(self) -> None:
        """Stop where everything stands; :meth:`recover` goes on from there."""
        self._queue.clear()
        tasks = dict(self._running)
        for name, task in tasks.items():
            # Nobody could tell later whether output that is just becoming visible is so.
            if self._jobs[name].operation.state is not State.CLOSING:
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))
        return await call

    # -- one export

    async def _run(self, job: _Job) -> None:
        error: ApiError | None
        try:
            await self._write_all(job)
            error = self._wanted_error()
        except _Cancelled:
            error = _cancelled()
        except ApiError as refused:
            error = refused
        except Exception as broken:
            error = _internal(job, broken)
        try:
            if error is None:
                job.operation.state = State.CLOSING
                await self._operations.save(job.operation)
            await self._in_thread(job.destination.close, cancelled=error is not None)
        except ApiError as refused:
            error = error or refused
        except Exception as broken:
            error = error or _internal(job, broken)
        await self._end(job, error)

    async def _write_all(self, job: _Job) -> None:
        operation = job.operation
        await self._turn(job)
        instances, missing = await self._in_thread(
            export.selection, self._archive, operation.resource, operation.request
        )
        await self._in_thread(job.destination.open)
        for path in missing:
            operation.failure += 1
            operation.note(str(path), "the DICOM store holds nothing of this path")
        operation.pending = len(instances)
        operation.changed()
        for instance in instances:
            await self._turn(job)
            job.due = asyncio.get_running_loop().time() + self._settings.seconds_per_instance
            problem = await self._in_thread(self._write, job.destination, instance)
            if problem is None:
                operation.success += 1
            else:
                operation.failure += 1
                operation.note(instance.instance_uid, problem)
            operation.pending -= 1
            operation.changed()
            job.steps = max(job.steps - 1, 0)

    def _write(self, destination: ExportDestination, instance: StoredInstance) -> str | None:
        from airflow_provider_dicom.emulator.imaging.transcode import CannotTranscode

        if instance.instance_uid in self._settings.failing_instances:
            return "the settings of this server make it fail"
        try:
            destination.write(instance)
        except CannotTranscode as reason:
            return str(reason)
        except FileNotFoundError:
            return "deleted since the export began"
        return None

    async def _turn(self, job: _Job) -> None:
        """Wait until the export may write its next instance."""
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
                job.still.set()
            else:
                timeout = job.due - clock()
                if timeout <= 0:
                    return
            try:
                await asyncio.wait_for(job.wake.wait(), timeout)
            except TimeoutError:
                continue

    def _wanted_error(self) -> ApiError | None:
        wanted = self._settings.operation_error
        return None if wanted is None else ApiError(500, wanted.code, "", wanted.message)

    async def _end(self, job: _Job, error: ApiError | None) -> None:
        await self._finish(job.operation, error)
        del self._jobs[job.operation.name]
        self._running.pop(job.operation.name, None)
        job.ended.set()
        job.still.set()
        self._admit()

    async def _finish(self, operation: Operation, error: ApiError | None) -> None:
        if error is None:
            await self._operations.finish(operation, response={"@type": EXPORT_RESPONSE})
        else:
            await self._operations.finish(operation, error=error.rpc_status())


def _cancelled() -> ApiError:
    return ApiError.cancelled("The operation was cancelled.")


def _internal(job: _Job, broken: Exception) -> ApiError:
    _log.error("%s", job.operation.name, exc_info=broken)
    return ApiError.internal(f"Internal error encountered: {type(broken).__name__}")
