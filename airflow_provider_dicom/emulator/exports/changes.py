"""Tells BigQuery and Pub/Sub about changes of DICOM stores, as the configurations of the stores say.

Invariants:

- Rows and messages are made when the change happens, and delivered later, by one thread, in the order of the
  changes. A change that is reported to the client may therefore not be delivered yet.
- What cannot be delivered is logged and kept in :attr:`Changes.failed`, as the real API writes it to Cloud
  Logging; it is not repeated. What a crash interrupts is lost.
- Rows are only ever appended. A deleted instance is one more row, which has its UIDs and ``DELETE``.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypedDict, cast

from pydicom import dcmread

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.notifications import Message, Publisher, check_topic
from airflow_provider_dicom.emulator.exports.request import bigquery_destination, schema_kind
from airflow_provider_dicom.emulator.models.archive import DELETE_INSTANCES, IMPORT_DICOM_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.emulator.exports.bigquery_columns import Columns
    from airflow_provider_dicom.emulator.exports.bigquery_schema import Row
    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.archive import Archive
    from airflow_provider_dicom.emulator.models.instances import StoredInstance

#: BigQuery's limit for a row that is streamed.
MAX_ROW_BYTES = 1_000_000
#: Changes that are delivered together.
_BATCH = 500
#: Failures that are kept; a bound on memory.
_MAX_FAILED = 1000
#: Seconds that deliveries under way have to end, when the server stops.
_CLOSE_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Failure(TypedDict):
    """A row or message that was not delivered.

    :param destination: the table's URI or the topic.
    """

    destination: str
    instance: str
    message: str


class DeliveriesReport(TypedDict):
    """What was delivered, in numbers, and what failed."""

    pending: int
    delivered: int
    failed: list[Failure]


class _Row(NamedTuple):
    """A row of a table, and the columns that it needs."""

    destination: JsonObject
    instance: str
    row: Row
    columns: Columns


class Changes:
    """Delivers changes; a listener of the archive, which any thread may call.

    :param archive: contains the configurations of the stores.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._queue: queue.Queue[_Row | Message | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._publisher = Publisher()
        self._pending = 0
        self._delivered = 0
        self.failed: deque[Failure] = deque(maxlen=_MAX_FAILED)

    def __call__(self, action: str, instances: list[StoredInstance]) -> None:
        """Note a change of instances of one store; their files exist.

        :param action: the action of notifications, such as ``StoreInstances``.
        """
        if not instances:
            return
        with suppress(ApiError):  # the store was deleted meanwhile
            config = self._archive.store(instances[0].dicom_store)
            for instance in instances:
                for row in self._rows(config, action, instance):
                    self._add(row)
                for message in _messages(config, action, instance):
                    self._add(message)

    def _rows(self, config: JsonObject, action: str, instance: StoredInstance) -> Iterator[_Row]:
        for stream in cast("list[dict[str, JsonObject]]", config.get("streamConfigs") or []):
            from airflow_provider_dicom.emulator.exports.bigquery_schema import RowMaker

            destination = stream.get("bigqueryDestination", {})
            maker = RowMaker(
                schema_kind(destination), include_source_store=destination.get("includeSourceStore") is True
            )
            try:
                row = maker.deletion(instance) if action == DELETE_INSTANCES else maker.row(instance)
            except Exception as error:  # damaged files make pydicom raise errors of any type
                self._fail(
                    _table(destination), instance.instance_uid, f"{type(error).__name__} in the metadata"
                )
                continue
            if len(json.dumps(row, default=str)) > MAX_ROW_BYTES:
                reason = f"the row is larger than {MAX_ROW_BYTES} bytes, so that it is not streamed"
                self._fail(_table(destination), instance.instance_uid, reason)
                continue
            yield _Row(destination, instance.instance_uid, row, maker.columns)

    def _add(self, delivery: _Row | Message) -> None:
        with self._lock:
            self._pending += 1
            self._queue.put(delivery)
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver_all, name="changes", daemon=True)
                self._thread.start()

    def _deliver_all(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            with suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._queue.get_nowait())
            ended = None in batch
            deliveries = [delivery for delivery in batch if delivery is not None]
            self._stream([delivery for delivery in deliveries if isinstance(delivery, _Row)])
            self._publish([delivery for delivery in deliveries if isinstance(delivery, Message)])
            with self._lock:
                self._pending -= len(deliveries)

    def _stream(self, batch: list[_Row]) -> None:
        tables: dict[str, list[_Row]] = {}
        for row in batch:
            tables.setdefault(json.dumps(row.destination), []).append(row)
        for rows in tables.values():
            try:
                self._delivered += self._append(rows)
            except Exception as error:
                for row in rows:
                    self._fail(_table(row.destination), row.instance, _reason(error))

    def _append(self, rows: list[_Row]) -> int:
        """Append rows to a table, and return their number."""
        destination = bigquery_destination(rows[0].destination, "WRITE_APPEND")
        destination.open()
        appended = 0
        try:
            for row in rows:
                try:
                    destination.write_row(row.row, row.columns)
                except ValueError as error:
                    self._fail(_table(row.destination), row.instance, str(error))
                else:
                    appended += 1
        except BaseException:
            destination.close(cancelled=True)
            raise
        destination.close(cancelled=False)
        return appended

    def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            try:
                self._publisher.publish(message)
            except Exception as error:
                self._fail(message.topic, message.instance, _reason(error))
            else:
                self._delivered += 1

    def _fail(self, destination: str, instance: str, message: str) -> None:
        _log.warning("Instance %s was not sent to %s: %s", instance, destination, message)
        self.failed.append({"destination": destination, "instance": instance, "message": message})

    def report(self) -> DeliveriesReport:
        """Return what was delivered, and what failed."""
        with self._lock:
            return {"pending": self._pending, "delivered": self._delivered, "failed": list(self.failed)}

    def close(self) -> None:
        """Deliver what is pending, within a few seconds, and close the connections."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(_CLOSE_SECONDS)
        self._publisher.close()


def check_config(config: JsonObject) -> None:
    """Check the streams and notifications of a DICOM store.

    :param config: the store, or some of its fields.
    :raises ApiError: a table or a topic is invalid, or two streams have the same table.
    """
    old = cast("dict[str, str]", config.get("notificationConfig") or {})
    for notification in (old, *cast("list[dict[str, str]]", config.get("notificationConfigs") or [])):
        check_topic(notification.get("pubsubTopic", ""))
    streams = cast("list[JsonObject]", config.get("streamConfigs") or [])
    tables = [cast("JsonObject", stream.get("bigqueryDestination") or {}) for stream in streams]
    for table in tables:
        bigquery_destination(table, "WRITE_APPEND")
    if len({_table(table) for table in tables}) < len(tables):
        raise ApiError.invalid_argument("Each of stream_configs must contain a unique destination.")


def _messages(config: JsonObject, action: str, instance: StoredInstance) -> Iterator[Message]:
    topics = [
        topic
        for notification in cast("list[dict[str, str]]", config.get("notificationConfigs") or [])
        if (topic := notification.get("pubsubTopic"))
    ]
    if topics:
        attributes = _attributes(action, instance)
        yield from (Message(topic, instance.instance_uid, instance.name, attributes) for topic in topics)
    old = cast("JsonObject", config.get("notificationConfig") or {})
    old_topic = cast("str", old.get("pubsubTopic", ""))
    if old_topic and (action != IMPORT_DICOM_DATA or old.get("sendForBulkImport") is True):
        yield Message(old_topic, instance.instance_uid, instance.name, {"action": action})


def _attributes(action: str, instance: StoredInstance) -> dict[str, str]:
    """Return the attributes that the document lists for ``notificationConfigs``."""
    with instance.path.open("rb") as file:
        modality = dcmread(file, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
    return {
        "action": action,
        "lastUpdatedTime": instance.last_updated.isoformat().replace("+00:00", "Z"),
        "storeName": instance.dicom_store,
        "studyInstanceUID": instance.study_uid,
        "seriesInstanceUID": instance.series_uid,
        "sopInstanceUID": instance.instance_uid,
        "versionId": str(int(instance.last_updated.timestamp() * 1_000_000)),
        "modality": str(modality or ""),
        "storageClass": "STANDARD",
    }


def _table(destination: JsonObject) -> str:
    return cast("str", destination.get("tableUri", ""))


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, ApiError) else f"{type(error).__name__}: {error}"
