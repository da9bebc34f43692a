"""
Queries of a BigQuery metadata table: which instances have arrived, and which have rows at all.

A metadata table is that of an export or of a stream of a DICOM store. ``high_water_mark.py`` keeps the time
from which the next query of arrivals begins.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.dicomweb import resource_path
from airflow_provider_dicom.selection.google_errors import map_bigquery_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_dicom.api.destinations import BigQueryTable
    from airflow_provider_dicom.api.dicomweb import SearchLevel

#: Rows in memory at a time.
_PAGE_SIZE = 10_000
#: The first TIMESTAMP of BigQuery.
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_DEPTH: dict[SearchLevel, int] = {"studies": 1, "series": 2, "instances": 3}

# A streamed table has a row for each change, and the latest row of an instance decides: a deleted instance
# cannot be exported, and an instance that was stored again after @until belongs to the next window.
_ARRIVED = """
SELECT DISTINCT {uids}
FROM (
  SELECT {all_uids}, LastUpdated, Type,
    ROW_NUMBER() OVER (PARTITION BY {all_uids} ORDER BY LastUpdated DESC) AS age
  FROM `{table}`
)
WHERE age = 1 AND LastUpdated > @since AND LastUpdated <= @until AND COALESCE(Type, '') <> 'DELETE'
"""
_ALL = "SELECT DISTINCT {uids} FROM `{table}`"


class MetadataTable:
    """
    A BigQuery table with the metadata of instances, from which only UIDs are read.

    :param table: the table.
    :param project_id: the project that pays for queries; the connection's if not given.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    """

    def __init__(
        self,
        table: BigQueryTable,
        *,
        project_id: str | None = None,
        gcp_conn_id: str,
        impersonation_chain: str | Sequence[str] | None,
    ) -> None:
        self._table = table
        self._project_id = project_id
        self._gcp_conn_id = gcp_conn_id
        self._impersonation_chain = impersonation_chain

    def arrived(self, level: SearchLevel, *, since: datetime | None, until: datetime) -> Iterator[str]:
        """
        Yield the resource paths of studies, series or instances that were last stored in a window of time.

        :param level: studies, series or instances.
        :param since: the beginning of the window, exclusive; no limit if not given.
        :param until: the end of the window, inclusive.
        :raises DicomExportError: if BigQuery refuses.
        """
        window = {"since": since or _BEGINNING, "until": until}
        return self._paths(_ARRIVED, level, window)

    def instances(self) -> Iterator[str]:
        """
        Yield the resource paths of all instances that have rows in the table.

        :raises DicomExportError: if BigQuery refuses.
        """
        return self._paths(_ALL, "instances", {})

    def _paths(self, sql: str, level: SearchLevel, parameters: dict[str, datetime]) -> Iterator[str]:
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
        from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter

        uids = _UIDS[: _DEPTH[level]]
        hook = BigQueryHook(
            gcp_conn_id=self._gcp_conn_id,
            impersonation_chain=self._impersonation_chain,
            use_legacy_sql=False,
        )
        query = sql.format(uids=", ".join(uids), all_uids=", ".join(_UIDS), table=_quoted(self._table))
        config = QueryJobConfig(
            query_parameters=[
                ScalarQueryParameter(name, "TIMESTAMP", value) for name, value in parameters.items()
            ]
        )
        with (
            map_bigquery_errors(self._table, self._gcp_conn_id),
            hook.get_client(self._project_id or hook.project_id) as client,
        ):
            for row in client.query(query, job_config=config).result(page_size=_PAGE_SIZE):
                yield resource_path(*row.values())


def _quoted(table: BigQueryTable) -> str:
    # The names were validated when the URI was parsed: none of them can contain a backtick.
    return f"{table.project_id}.{table.dataset_id}.{table.table_id}"
