"""Long-running operations: their state, their form in the API, and their copies on disk.

Invariants:

- The state only moves forward: QUEUED, RUNNING, CLOSING, DONE. A restart of the server returns an operation
  that was QUEUED or RUNNING, or CLOSING with output that may be written twice, to QUEUED with its counters at
  zero (:meth:`.exports.runner.Runner.recover`).
- DONE is written to disk before any client can see it: no operation that a client has seen as done becomes
  unfinished after a crash.
- An operation that is done has an error, a response, or, with the setting ``partial_failure``, both. It never
  changes again; only ``vanished`` may still be set.
- Ids grow, also across restarts: the list of operations is sorted by submission, and its page tokens stay
  valid while operations are added.
- Operations and :class:`Operations` are used only on the server's event loop. The copies on disk are written
  by one thread, in the order of the changes.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NotRequired, TypedDict
from urllib.parse import quote

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.names import dataset_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_dicom.emulator.errors import RpcStatus
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.database import Database

EXPORT_METHOD = "google.cloud.healthcare.v1.dicom.DicomService.ExportDicomData"
IMPORT_METHOD = "google.cloud.healthcare.v1.dicom.DicomService.ImportDicomData"
_METADATA_TYPE = "type.googleapis.com/google.cloud.healthcare.v1.OperationMetadata"
#: Entries that an operation keeps of its log, so that a store of failing instances cannot fill the memory.
_MAX_LOG_ENTRIES = 1000
#: How long after the end of an operation its last log entries may be written.
_LATE_LOG_ENTRIES = timedelta(minutes=10)


class State(StrEnum):
    """The state of an operation."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    #: The destination is being closed, which makes the output visible. For BigQuery this must not happen
    #: twice.
    CLOSING = "CLOSING"
    DONE = "DONE"


class LogEntry(TypedDict):
    """The reason why an item failed.

    ``instance`` is the UID of an instance, a path of the filter file, or the URI of an imported object.
    Operations of earlier versions have entries without the fields that Cloud Logging shows.
    """

    instance: str
    message: str
    path: NotRequired[str]
    code: NotRequired[int]
    time: NotRequired[str]


class OperationBody(TypedDict):
    """An operation in the API's responses."""

    name: str
    metadata: JsonObject
    done: NotRequired[bool]
    error: NotRequired[RpcStatus]
    response: NotRequired[JsonObject]


class OperationReport(TypedDict):
    """An operation in the responses of the control endpoint."""

    name: str
    dicomStore: str
    request: JsonObject
    state: State
    log: list[LogEntry]


@dataclass
class Operation:
    """One long-running operation.

    The names of the fields are part of the data directory: all but ``_encoded`` are stored as JSON.

    :param id: the last part of its name; later operations have greater ids.
    :param method: the API's name of the method that started it.
    :param resource: the name of the DICOM store or the dataset that it works on.
    :param request: the request that started it.
    :param create_time: time of the submission, RFC 3339.
    :param end_time: time at which it became done, RFC 3339.
    :param success: instances that were exported or imported.
    :param failure: instances that could not be exported or imported.
    :param pending: instances that were not processed yet.
    :param cancel_requested: a client has cancelled it; it becomes done as soon as its job has noticed.
    :param vanished: a fault has made the API forget it.
    :param log: why instances failed.
    :param _encoded: the JSON of :meth:`body`; None if it must be encoded anew.
    """

    id: int
    name: str
    method: str
    resource: str
    request: JsonObject
    create_time: str
    state: State = State.QUEUED
    end_time: str | None = None
    success: int = 0
    failure: int = 0
    pending: int = 0
    cancel_requested: bool = False
    error: RpcStatus | None = None
    response: JsonObject | None = None
    vanished: bool = False
    log: list[LogEntry] = field(default_factory=list)
    _encoded: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def done(self) -> bool:
        """Whether the operation has ended."""
        return self.state is State.DONE

    def changed(self) -> None:
        """Discard the encoded JSON; must be called after every change of a field that :meth:`body` shows."""
        self._encoded = None

    def encoded(self) -> bytes:
        """Return the operation as JSON; encoded once per change, because thousands of polls may follow."""
        if self._encoded is None:
            self._encoded = json.dumps(self.body(), ensure_ascii=False, separators=(",", ":")).encode()
        return self._encoded

    def body(self) -> OperationBody:
        """Return the operation in the form of the API's responses."""
        body: OperationBody = {"name": self.name, "metadata": self._metadata()}
        if self.done:
            body["done"] = True
            if self.error is not None:
                body["error"] = self.error
            if self.response is not None or self.error is None:
                body["response"] = self.response or {}
        return body

    def _metadata(self) -> JsonObject:
        metadata: JsonObject = {
            "@type": _METADATA_TYPE,
            "apiMethodName": self.method,
            "createTime": self.create_time,
            "logsUrl": _logs_url(self),
        }
        if self.end_time is not None:
            metadata["endTime"] = self.end_time
        if self.cancel_requested:
            metadata["cancelRequested"] = True
        counts = {"success": self.success, "failure": self.failure, "pending": self.pending}
        counter: JsonObject = {name: str(count) for name, count in counts.items() if count}
        if counter:
            metadata["counter"] = counter
        return metadata

    def log_failure(self, instance: str, path: str, code: int, message: str) -> None:
        """Log why an instance was not exported or imported.

        :param instance: its UID, its path in the filter file, or the URI of an imported object.
        :param path: its path in the DICOM store, or the URI.
        :param code: the number of the ``google.rpc.Code``.
        :param message: the error message.
        """
        if len(self.log) < _MAX_LOG_ENTRIES:
            self.log.append(
                {
                    "instance": instance,
                    "message": message,
                    "path": path,
                    "code": code,
                    "time": timestamp(),
                }
            )

    def report(self) -> OperationReport:
        """Return the operation in the form of the control endpoint's responses."""
        return {
            "name": self.name,
            "dicomStore": self.resource,
            "request": self.request,
            "state": self.state,
            "log": self.log,
        }


class Operations:
    """All operations, in memory, each with a copy on disk.

    :param database: contains the copies.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # One thread, so that the copies of an operation are written in the order of its changes.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="operations")
        self._by_name: dict[str, Operation] = {}
        self._by_dataset: dict[str, list[Operation]] = {}
        self._last_id = 0
        self._saves: Counter[int] = Counter()
        for (record,) in database.rows("SELECT record FROM operations ORDER BY id"):
            self._add(_load(record))

    def _add(self, operation: Operation) -> None:
        self._by_name[operation.name] = operation
        self._by_dataset.setdefault(dataset_of(operation.name), []).append(operation)
        self._last_id = operation.id

    def create(self, method: str, resource: str, request: JsonObject) -> Operation:
        """Return a new operation; the caller has to :meth:`save` it.

        :param method: the API's name of the method that starts it.
        :param resource: the name of the DICOM store or the dataset that it works on.
        :param request: the request that starts it.
        """
        # Microseconds since 1970: greater than the ids before a restart, and as long as the ids of the real
        # API.
        number = max(self._last_id + 1, time.time_ns() // 1000)
        name = f"{dataset_of(resource)}/operations/{number}"
        operation = Operation(number, name, method, resource, request, timestamp())
        self._add(operation)
        return operation

    async def save(self, operation: Operation) -> None:
        """Write an operation to disk, and return when it is there."""
        record = {name: value for name, value in vars(operation).items() if name != "_encoded"}
        row = (operation.id, operation.name, operation.state, json.dumps(record))
        self._saves[operation.id] += 1
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write, row)

    def _write(self, row: tuple[int, str, str, str]) -> None:
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?)", row)

    async def finish(
        self, operation: Operation, *, error: RpcStatus | None = None, response: JsonObject | None = None
    ) -> None:
        """Make an operation done: on disk first, then for clients."""
        end_time = timestamp()
        while True:
            own_save = self._saves[operation.id] + 1
            await self.save(
                replace(operation, state=State.DONE, error=error, response=response, end_time=end_time)
            )
            # A cancellation meanwhile has written the unfinished operation over it: write it again.
            if self._saves[operation.id] == own_save:
                break
        operation.error, operation.response, operation.end_time = error, response, end_time
        operation.state = State.DONE
        operation.changed()

    def close(self) -> None:
        """Wait until all copies are written."""
        self._writer.shutdown()

    def get(self, name: str) -> Operation:
        """Return an operation.

        :raises ApiError: the operation does not exist, or has vanished.
        """
        operation = self._by_name.get(name)
        if operation is None or operation.vanished:
            raise ApiError.not_found(f"operation {name} does not exist")
        return operation

    def all(self) -> Iterable[Operation]:
        """Return all operations, including vanished ones, in the order of their ids."""
        return self._by_name.values()

    def started_by(self, *methods: str) -> list[Operation]:
        """Return the operations of some methods, in the order of their submission.

        :param methods: the API's names of the methods.
        """
        return [operation for operation in self.all() if operation.method in methods]

    def page(
        self, dataset: str, *, before: int | None, size: int, done: bool | None
    ) -> tuple[list[Operation], int | None]:
        """Return a page of the operations of a dataset, the newest first, and ``before`` of the next page.

        :param before: only operations with smaller ids; None for the first page.
        :param size: the maximum number of operations.
        :param done: only operations that are done, or that are not; None for both.
        """
        operations = self._by_dataset.get(dataset, [])
        end = len(operations) if before is None else bisect_left(operations, before, key=lambda o: o.id)
        found: list[Operation] = []
        for operation in reversed(operations[:end]):
            if operation.vanished or (done is not None and operation.done is not done):
                continue
            if len(found) == size:
                return found, found[-1].id
            found.append(operation)
        return found, None


def _load(record: str) -> Operation:
    operation = Operation(**json.loads(record))
    operation.state = State(operation.state)
    return operation


def timestamp() -> str:
    """Return the current time in the format of Google's APIs: RFC 3339, UTC, microseconds."""
    return _rfc3339(datetime.now(UTC))


def _rfc3339(time_: datetime) -> str:
    return time_.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _logs_url(operation: Operation) -> str:
    """
    Return the address of a query for the log entries of an operation.

    Google's samples hide the query of a real ``logsUrl``: this one asks for what their log entries hold.
    """
    dataset, _, store = operation.resource.partition("/dicomStores/")
    _, project, _, location, _, dataset_id = dataset.split("/")
    labels = {"project_id": project, "location": location, "dataset_id": dataset_id}
    if store:
        labels["dicom_store_id"] = store
    restrictions = [
        f'resource.type="{"healthcare_dicom_store" if store else "healthcare_dataset"}"',
        *(f'resource.labels.{label}="{value}"' for label, value in labels.items()),
        f'operation.id:"{operation.name}"',
        f'timestamp>="{operation.create_time}"',
    ]
    if operation.end_time is not None:
        last = datetime.fromisoformat(operation.end_time) + _LATE_LOG_ENTRIES
        restrictions.append(f'timestamp<="{_rfc3339(last)}"')
    query = quote("\n".join(restrictions), safe="")
    return f"https://console.cloud.google.com/logs/query;query={query}?project={project}"
