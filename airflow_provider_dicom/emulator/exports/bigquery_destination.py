"""Exports to BigQuery, through the emulator at ``BIGQUERY_EMULATOR_HOST``.

Rows are collected in a temporary file and loaded into the table at the end, by one load job of
newline-delimited JSON: an export that is cancelled, fails or crashes leaves no rows. Unlike BigQuery's, the
emulator's load jobs never change the schema of an existing table: they silently drop the values of columns
that the table lacks. Therefore a table whose rows are not kept is deleted first, and a table with
``WRITE_APPEND`` that lacks a column is read, deleted, and loaded again together with its old rows.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import IO, TYPE_CHECKING

import requests
from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound, RetryError
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.bigquery_columns import Column, Columns, covers, merge
from airflow_provider_dicom.emulator.exports.bigquery_schema import RowMaker, SchemaKind
from airflow_provider_dicom.emulator.imaging.transcode import CannotTranscode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_dicom.emulator.exports.bigquery_schema import Row
    from airflow_provider_dicom.emulator.models.instances import StoredInstance

DISPOSITIONS = ("WRITE_EMPTY", "WRITE_TRUNCATE", "WRITE_APPEND")
MAX_URI_LENGTH = 2000
RETRY = DEFAULT_RETRY.with_timeout(30.0).with_delay(initial=0.1, maximum=2.0, multiplier=2.0)
TIMEOUT_SECONDS = 60.0

# A project of a domain is domain.com:project.
_TABLE_URI = re.compile(r"bq://(?P<project>(?:[\w.-]+:)?[\w-]+)\.(?P<dataset>\w+)\.(?P<table>[^./\s]+)")


class BigQueryDestination:
    """Writes one row per instance.

    :param table_uri: ``bq://project.dataset.table``.
    :param write_disposition: one of ``DISPOSITIONS``; None means ``WRITE_EMPTY``.
    :param schema: the schema of the API that rows follow.
    :param include_source_store: whether rows have a column with the name of the DICOM store.
    :raises ApiError: the URI or the disposition is invalid.
    """

    def __init__(
        self,
        table_uri: str,
        write_disposition: str | None,
        schema: SchemaKind,
        include_source_store: bool,
    ) -> None:
        match = _TABLE_URI.fullmatch(table_uri)
        if match is None or len(table_uri) > MAX_URI_LENGTH:
            raise ApiError.invalid_argument(
                f"Invalid BigQuery URI: {table_uri[:200]!r} is not of the form bq://projectId.bqDatasetId.tableId."
            )
        self.disposition = write_disposition or "WRITE_EMPTY"
        if self.disposition not in DISPOSITIONS:
            raise ApiError.invalid_argument(f"Invalid write disposition: {write_disposition!r}.")
        self._table = bigquery.TableReference(
            bigquery.DatasetReference(match["project"], match["dataset"]), match["table"]
        )
        self._rows = RowMaker(schema, include_source_store=include_source_store)
        self._client: bigquery.Client | None = None
        self._spool: IO[bytes] | None = None

    def open(self) -> None:
        """Check that the dataset exists and that the table may be written to.

        :raises ApiError: the dataset does not exist, access is denied, or the disposition is ``WRITE_EMPTY``
            and the table has rows.
        """
        self._client = _client(self._table.project)
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            with self._errors():
                dataset = bigquery.DatasetReference(self._table.project, self._table.dataset_id)
                self._client.get_dataset(dataset, retry=RETRY, timeout=TIMEOUT_SECONDS)
                self._check_empty(self._client, self._existing(self._client))
        except ApiError:
            self.close(cancelled=True)
            raise

    def write(self, instance: StoredInstance) -> None:
        """Add the row of one instance to the temporary file.

        :raises CannotTranscode: the metadata of the instance cannot be read.
        """
        if self._spool is None:
            raise RuntimeError("write() before open()")
        try:
            row = self._rows.row(instance)
        except Exception as error:
            # Damaged files make pydicom raise errors of any type, whose messages may contain patient data.
            raise CannotTranscode(f"{type(error).__name__} while reading the metadata") from error
        self._spool.write(_line(row))

    def write_row(self, row: Row, columns: Columns) -> None:
        """Add a row to the temporary file.

        :param columns: those that the row needs.
        :raises ValueError: a column has another type than in an earlier row.
        """
        if self._spool is None:
            raise RuntimeError("write_row() before open()")
        self._rows.add_columns(columns)
        self._spool.write(_line(row))

    def close(self, *, cancelled: bool) -> None:
        """Load the rows into the table, unless the export was cancelled, and close the connections.

        :raises ApiError: the rows cannot be loaded; the table contains none of them.
        """
        if self._client is None or self._spool is None:
            return
        try:
            if not cancelled:
                with self._errors():
                    self._load(self._client, self._spool)
        finally:
            self._spool.close()
            self._client.close()
            self._client = self._spool = None

    def _load(self, client: bigquery.Client, spool: IO[bytes]) -> None:
        existing = self._existing(client)
        self._check_empty(client, existing)
        columns = self._rows.columns
        if existing is not None and self.disposition == "WRITE_APPEND":
            present = _columns(existing.schema)
            if covers(present, columns):
                columns = present
            else:
                columns = self._grown(present)
                for row in client.list_rows(existing, retry=RETRY, timeout=TIMEOUT_SECONDS):
                    spool.write(_line(dict(row.items())))
                client.delete_table(self._table, retry=RETRY, timeout=TIMEOUT_SECONDS)
        elif existing is not None:
            client.delete_table(self._table, retry=RETRY, timeout=TIMEOUT_SECONDS)
        schema = _fields(columns)
        if not spool.tell():
            # A load job must not be empty.
            table = bigquery.Table(self._table, schema=schema)
            client.create_table(table, exists_ok=True, retry=RETRY, timeout=TIMEOUT_SECONDS)
            return
        job = client.load_table_from_file(
            spool,
            self._table,
            rewind=True,
            # Never retried: a second load would duplicate the rows.
            num_retries=0,
            job_config=bigquery.LoadJobConfig(
                schema=schema,
                source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
                write_disposition=self.disposition,
            ),
            timeout=TIMEOUT_SECONDS,
        )
        job.result(retry=RETRY)

    def _grown(self, present: Columns) -> Columns:
        try:
            merge(present, self._rows.columns)
        except ValueError as error:
            raise ApiError.invalid_argument(
                f"Provided Schema does not match Table {self._name}: {error}."
            ) from error
        return present

    def _existing(self, client: bigquery.Client) -> bigquery.Table | None:
        try:
            return client.get_table(self._table, retry=RETRY, timeout=TIMEOUT_SECONDS)
        except NotFound:
            return None

    def _check_empty(self, client: bigquery.Client, table: bigquery.Table | None) -> None:
        if table is None or self.disposition != "WRITE_EMPTY" or not table.schema:
            return
        # A row is read, because num_rows of the table's metadata may be outdated.
        for _ in client.list_rows(table, max_results=1, retry=RETRY, timeout=TIMEOUT_SECONDS):
            raise ApiError.already_exists(
                f"Already Exists: Table {self._name} has rows, and the write disposition is WRITE_EMPTY."
            )

    @property
    def _name(self) -> str:
        return f"{self._table.project}:{self._table.dataset_id}.{self._table.table_id}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Map errors of the client library to errors of the Healthcare API."""
        try:
            yield
        except NotFound as error:
            dataset = f"{self._table.project}:{self._table.dataset_id}"
            raise ApiError.not_found(f"Not found: Dataset {dataset}") from error
        except Forbidden as error:
            raise ApiError.permission_denied(f"BigQuery: {error.message} ({self._name})") from error
        except GoogleAPICallError as error:
            message = f"BigQuery: {error.message} ({self._name})"
            raise ApiError.of_http_status(error.code or 500, message) from error
        except (RetryError, requests.RequestException, ConnectionError) as error:
            raise ApiError.unavailable(f"BigQuery cannot be reached: {error} ({self._name})") from error


def _client(project: str) -> bigquery.Client:
    # Never the real service: without the variable, the client library would use Google's.
    if not os.environ.get("BIGQUERY_EMULATOR_HOST"):
        raise ApiError.failed_precondition(
            "The local Healthcare API uses BigQuery through an emulator only: "
            "start it with BIGQUERY_EMULATOR_HOST set."
        )
    return bigquery.Client(project=project, credentials=AnonymousCredentials())


def _line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, default=_plain).encode() + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a row")


def _fields(columns: Columns) -> list[bigquery.SchemaField]:
    return [
        bigquery.SchemaField(name, column.type, column.mode, fields=_fields(column.fields))
        for name, column in columns.items()
        # BigQuery refuses records without fields, which sequences become that are empty in all instances.
        if column.type != "RECORD" or column.fields
    ]


def _columns(fields: Iterable[bigquery.SchemaField]) -> Columns:
    return {
        field.name: Column(
            field.field_type,
            "REPEATED" if field.mode == "REPEATED" else "NULLABLE",
            _columns(field.fields),
        )
        for field in fields
    }
