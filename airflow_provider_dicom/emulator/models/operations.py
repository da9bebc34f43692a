"""Long-running operations, as they are seen from outside and as they are kept."""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NotRequired, TypedDict
from urllib.parse import quote

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.names import dataset_of, project_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_dicom.emulator.errors import RpcStatus
    from airflow_provider_dicom.emulator.models.database import Database
    from airflow_provider_dicom.emulator.server.discovery import JsonObject

EXPORT_METHOD = "google.cloud.healthcare.v1.dicom.DicomService.ExportDicomData"
EXPORT_RESPONSE = "type.googleapis.com/google.cloud.healthcare.v1.dicom.ExportDicomDataResponse"
_METADATA_TYPE = "type.googleapis.com/google.cloud.healthcare.v1.OperationMetadata"
#: Cloud Logging is capped, too.
_MOST_LOG_ENTRIES = 1000


class State(StrEnum):
    """Where an operation stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    #: Its output is being made visible, which cannot be done twice.
    CLOSING = "CLOSING"
    DONE = "DONE"


class LogEntry(TypedDict):
    """What went wrong with one instance."""

    instance: str
    message: str


class OperationBody(TypedDict):
    """An operation as the API answers it."""

    name: str
    metadata: JsonObject
    done: NotRequired[bool]
    error: NotRequired[RpcStatus]
    response: NotRequired[JsonObject]


class OperationReport(TypedDict):
    """An operation as the control endpoint tells it."""

    name: str
    dicomStore: str
    request: JsonObject
    state: State
    log: list[LogEntry]


@dataclass
class Operation:
    """One long-running operation.

    :param id: the last part of its name; later operations have greater ones.
    :param resource: what it works on: a DICOM store or a dataset.
    :param request: what was asked for.
    :param vanished: the API does not know it any more.
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
        """Whether it has ended."""
        return self.state is State.DONE

    def changed(self) -> None:
        """Forget the encoded form; to be called after every change."""
        self._encoded = None

    def encoded(self) -> bytes:
        """Return the operation as JSON, made once per change because thousands of polls ask for it."""
        if self._encoded is None:
            self._encoded = json.dumps(self.body(), ensure_ascii=False, separators=(",", ":")).encode()
        return self._encoded

    def body(self) -> OperationBody:
        """Return the operation as the API answers it."""
        body: OperationBody = {"name": self.name, "metadata": self._metadata()}
        if self.done:
            body["done"] = True
            if self.error is not None:
                body["error"] = self.error
            else:
                body["response"] = self.response or {}
        return body

    def _metadata(self) -> JsonObject:
        metadata: JsonObject = {
            "@type": _METADATA_TYPE,
            "apiMethodName": self.method,
            "createTime": self.create_time,
            "logsUrl": _logs_url(self.name),
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

    def note(self, instance: str, message: str) -> None:
        """Log what went wrong with an instance."""
        if len(self.log) < _MOST_LOG_ENTRIES:
            self.log.append({"instance": instance, "message": message})

    def report(self) -> OperationReport:
        """Return the operation as the control endpoint tells it."""
        return {
            "name": self.name,
            "dicomStore": self.resource,
            "request": self.request,
            "state": self.state,
            "log": self.log,
        }


class Operations:
    """All operations, in memory, with a copy on disk.

    Used on the server's loop only.

    :param database: where the copies are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # One thread, so that the copies of an operation are written in the order of its changes.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="operations")
        self._by_name: dict[str, Operation] = {}
        self._by_dataset: dict[str, list[Operation]] = {}
        self._last_id = 0
        for (record,) in database.rows("SELECT record FROM operations ORDER BY id"):
            self._add(_load(record))

    def _add(self, operation: Operation) -> None:
        self._by_name[operation.name] = operation
        self._by_dataset.setdefault(dataset_of(operation.name), []).append(operation)
        self._last_id = operation.id

    def create(self, method: str, resource: str, request: JsonObject) -> Operation:
        """Return a new operation, which is not on disk yet."""
        # Microseconds: unique without remembering, and as long as the ids of the real API.
        number = max(self._last_id + 1, time.time_ns() // 1000)
        name = f"{dataset_of(resource)}/operations/{number}"
        operation = Operation(number, name, method, resource, request, timestamp())
        self._add(operation)
        return operation

    async def save(self, operation: Operation) -> None:
        """Write an operation to disk."""
        record = {name: value for name, value in vars(operation).items() if name != "_encoded"}
        row = (operation.id, operation.name, operation.state, json.dumps(record))
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write, row)

    def _write(self, row: tuple[int, str, str, str]) -> None:
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?)", row)

    async def finish(
        self, operation: Operation, *, error: RpcStatus | None = None, response: JsonObject | None = None
    ) -> None:
        """End an operation; nobody sees that it is done before it is on disk."""
        end_time = timestamp()
        await self.save(
            replace(operation, state=State.DONE, error=error, response=response, end_time=end_time)
        )
        operation.error, operation.response, operation.end_time = error, response, end_time
        operation.state = State.DONE
        operation.changed()

    def close(self) -> None:
        """Wait for the last copy to be written."""
        self._writer.shutdown()

    def get(self, name: str) -> Operation:
        """Return an operation.

        :raises ApiError: the API does not know it, or not any more.
        """
        operation = self._by_name.get(name)
        if operation is None or operation.vanished:
            raise ApiError.not_found(f"operation {name} does not exist")
        return operation

    def all(self) -> Iterable[Operation]:
        """Return every operation, also those that vanished, in order of their creation."""
        return self._by_name.values()

    def exports(self) -> list[Operation]:
        """Return every accepted export, in order of their submission."""
        return [operation for operation in self.all() if operation.method == EXPORT_METHOD]

    def page(
        self, dataset: str, *, before: int | None, size: int, done: bool | None
    ) -> tuple[list[Operation], int | None]:
        """Return some operations of a dataset, the newest first, and where the next page goes on.

        :param before: only operations with smaller ids.
        :param done: only those that have ended, or have not.
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
    """Return now, as Google's APIs write times."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _logs_url(name: str) -> str:
    resource_filter = f'resource.type="healthcare_dicom_store"\noperation.id="{name.rsplit("/", 1)[1]}"'
    query = quote(resource_filter, safe="")
    return f"https://console.cloud.google.com/logs/query;query={query}?project={project_of(name)}"
