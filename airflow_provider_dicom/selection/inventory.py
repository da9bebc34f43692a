"""BigQuery tables that hold the metadata of DICOM instances, by an export or a stream of a DICOM store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.dicomweb import resource_path
from airflow_provider_dicom.exceptions import DicomExportNotFoundError, DicomExportPermissionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from airflow_provider_dicom.api.destinations import BigQueryTable
    from airflow_provider_dicom.api.methods import SearchLevel

#: Rows that are held in memory at a time.
_PAGE_SIZE = 10_000
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_DEPTH: dict[SearchLevel, int] = {"studies": 1, "series": 2, "instances": 3}

# A streamed table has a row for each change, so that the latest one of an instance decides: one that was
# deleted cannot be exported, and one that was stored again after @until belongs to the next window.
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
    Reads UIDs, and nothing else, from a table.

    :param table: the table.
    :param project_id: the project that queries are billed to; the connection's if not given.
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
        Find the resource paths of what was stored last within a window of time.

        :param level: studies, series or instances.
        :param since: stored after this; from the beginning if not given.
        :param until: stored not after this.
        :raises DicomExportError: if BigQuery refuses.
        """
        window = {"since": since or until.replace(year=1), "until": until}
        return self._paths(_ARRIVED, level, window)

    def instances(self) -> Iterator[str]:
        """
        List the resource paths of all instances that the table has rows of.

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
        with self._explained(), hook.get_client(self._project_id or hook.project_id) as client:
            for row in client.query(query, job_config=config).result(page_size=_PAGE_SIZE):
                yield resource_path(*row.values())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from google.api_core.exceptions import Forbidden, NotFound

        try:
            yield
        except Forbidden as error:
            raise DicomExportPermissionError(
                f"Could not query {self._table}: {error}. Needed for the account of the connection "
                f"{self._gcp_conn_id!r}: roles/bigquery.dataViewer on the table, and roles/bigquery.jobUser "
                "on the project of the query. Grant the latter with: gcloud projects add-iam-policy-binding "
                "PROJECT --member=serviceAccount:CALLER_EMAIL --role=roles/bigquery.jobUser"
            ) from error
        except NotFound as error:
            raise DicomExportNotFoundError(f"Could not query {self._table}: {error}") from error


def _quoted(table: BigQueryTable) -> str:
    # The names were checked when the URI was parsed: none of them can hold a backtick.
    return f"{table.project_id}.{table.dataset_id}.{table.table_id}"
