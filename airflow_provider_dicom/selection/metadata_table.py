"""
A BigQuery table with the metadata of a DICOM store: which instances have arrived, and which are there at all.

A metadata table is that of an export or of a stream of a DICOM store. ``high_water_mark.py`` keeps the time
from which the next query of arrivals begins. Every query is tried without being run first, so that its cost
is said, and can be limited, before there is any.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.dicomweb import resource_path
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.selection.conditions import Column, read_conditions
from airflow_provider_dicom.selection.filter_lines import SelectedPath
from airflow_provider_dicom.selection.google_errors import map_bigquery_errors
from airflow_provider_dicom.selection.metadata_query import (
    TableColumns,
    arrivals_query,
    instances_query,
    refuse_other_tables,
)
from airflow_provider_dicom.selection.volume import Volume, describe_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from google.cloud.bigquery import ArrayQueryParameter, Client, ScalarQueryParameter
    from google.cloud.bigquery.table import Row

    from airflow_provider_dicom.api.destinations import BigQueryTable
    from airflow_provider_dicom.api.dicomweb import SearchLevel
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.selection.conditions import Condition

    Parameter = ScalarQueryParameter | ArrayQueryParameter

#: Rows in memory at a time.
_PAGE_SIZE = 5_000
#: The first TIMESTAMP of BigQuery.
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
#: The name of the parameter, and of the connection's extra field.
MAXIMUM_BYTES_BILLED = "maximum_bytes_billed"


class MetadataTable:
    """
    A BigQuery table with the metadata of instances, from which only UIDs and sizes are read.

    :param table: the table.
    :param project_id: the project that pays for queries; the connection's if not given.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param maximum_bytes_billed: the number of bytes from which on a query is refused; the connection's
        ``maximum_bytes_billed`` if not given, or no limit.
    :param log: the log for the cost of a query.
    """

    def __init__(
        self,
        table: BigQueryTable,
        *,
        project_id: str | None = None,
        gcp_conn_id: str,
        impersonation_chain: str | Sequence[str] | None,
        maximum_bytes_billed: int | None = None,
        log: Log | None = None,
    ) -> None:
        self._table = table
        self._project_id = project_id
        self._gcp_conn_id = gcp_conn_id
        self._impersonation_chain = impersonation_chain
        self._maximum_bytes_billed = maximum_bytes_billed
        self._log = log or logging.getLogger(__name__)

    def arrived(
        self,
        level: SearchLevel,
        *,
        since: datetime | None,
        until: datetime,
        conditions: Mapping[str, object] | None = None,
        only_arrivals: bool = False,
    ) -> Iterator[SelectedPath]:
        """
        Yield the studies, series or instances that were last stored or changed in a window of time.

        :param level: studies, series or instances.
        :param since: the beginning of the window, exclusive; no limit if not given.
        :param until: the end of the window, inclusive.
        :param conditions: columns, and the values that the latest row of an instance must have there.
        :param only_arrivals: leave out instances that had arrived before the window.
        :raises DicomExportError: if the table cannot answer this, or BigQuery refuses.
        """
        from google.cloud.bigquery import ScalarQueryParameter

        with self._mapped_errors(), self._connected() as (client, limit):
            source = self._source(client)
            read = read_conditions(conditions, source.columns, self._table)
            query = arrivals_query(source, level, read, only_arrivals=only_arrivals)
            parameters: list[Parameter] = [
                ScalarQueryParameter("since", "TIMESTAMP", since or _BEGINNING),
                ScalarQueryParameter("until", "TIMESTAMP", until),
                *map(_array_parameter, read),
            ]
            for row in self._rows(client, query, parameters, limit):
                *uids, instances, size, priced = row.values()
                yield SelectedPath(resource_path(*uids), Volume(None, instances, size, priced))

    def instances(self) -> Iterator[tuple[str, int]]:
        """
        Yield the resource paths of all instances that are not deleted, and their numbers of frames.

        The number is 0 where the table does not hold it.

        :raises DicomExportError: if the table cannot answer this, or BigQuery refuses.
        """
        with self._mapped_errors(), self._connected() as (client, limit):
            for row in self._rows(client, instances_query(self._source(client)), [], limit):
                *uids, frames = row.values()
                yield resource_path(*uids), max(0, frames)

    def _mapped_errors(self) -> AbstractContextManager[None]:
        return map_bigquery_errors(self._table, self._gcp_conn_id)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Client, int | None]]:
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        hook = BigQueryHook(
            gcp_conn_id=self._gcp_conn_id,
            impersonation_chain=self._impersonation_chain,
            use_legacy_sql=False,
        )
        limit = self._maximum_bytes_billed
        if limit is None:
            limit = _limit_of_connection(hook._get_field(MAXIMUM_BYTES_BILLED), self._gcp_conn_id)
        with hook.get_client(self._project_id or hook.project_id) as client:
            yield client, limit

    def _source(self, client: Client) -> TableColumns:
        # The names were validated when the URI was parsed: none of them can contain a backtick.
        name = f"{self._table.project_id}.{self._table.dataset_id}.{self._table.table_id}"
        columns = {
            field.name.lower(): Column(field.name, field.field_type, field.mode == "REPEATED")
            for field in client.get_table(name).schema
        }
        source = TableColumns(str(self._table), name, columns)
        refuse_other_tables(source)
        return source

    def _rows(
        self, client: Client, query: str, parameters: Sequence[Parameter], limit: int | None
    ) -> Iterator[Row]:
        from google.cloud.bigquery import QueryJobConfig

        trial = QueryJobConfig(query_parameters=parameters, dry_run=True, use_query_cache=False)
        cost = client.query(query, job_config=trial).total_bytes_processed
        if cost is not None:
            exactly = f" ({cost} bytes)" if cost >= 1024 else ""
            allowed = "" if limit is None else f"; at most {limit} bytes are allowed"
            self._log.info(
                "The query reads %s%s of %s%s.", describe_bytes(cost), exactly, self._table, allowed
            )
            if limit is not None and cost > limit:
                raise DicomExportInvalidRequestError(
                    f"The query of {self._table} would read {cost} bytes, more than "
                    f"{MAXIMUM_BYTES_BILLED}={limit} allows. Nothing was read. Allow more bytes in the task, "
                    f"or in the connection {self._gcp_conn_id!r}; or make the table smaller: BigQuery reads "
                    "all rows of the columns that a query names."
                )
        config = QueryJobConfig(query_parameters=parameters)
        if limit is not None:
            config.maximum_bytes_billed = limit
        yield from client.query(query, job_config=config).result(page_size=_PAGE_SIZE)


def _array_parameter(condition: Condition) -> ArrayQueryParameter:
    from google.cloud.bigquery import ArrayQueryParameter

    return ArrayQueryParameter(condition.parameter, condition.type, condition.values)


def _limit_of_connection(value: object, gcp_conn_id: str) -> int | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise DicomExportInvalidRequestError(
            f"{MAXIMUM_BYTES_BILLED}={value!r} of the connection {gcp_conn_id!r} is not accepted; accepted: "
            "a number of bytes from 1."
        )
    return int(text)
