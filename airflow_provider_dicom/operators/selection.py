"""Operators that select what to export: queries whose matches become a filter file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from airflow_provider_dicom.api.destinations import BigQueryTable, parse_destination, parse_gcs_uri
from airflow_provider_dicom.api.dicomweb import path_of_match
from airflow_provider_dicom.api.methods import SearchLevel
from airflow_provider_dicom.api.resource_names import id_mistake, raise_on, refusal
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators._base import ConnectedOperator
from airflow_provider_dicom.operators._waiting import seconds_mistake
from airflow_provider_dicom.selection.disk_set import DiskSet
from airflow_provider_dicom.selection.exported import exported_instances
from airflow_provider_dicom.selection.filter_file import FilterFile
from airflow_provider_dicom.selection.high_water_mark import advance_mark, parse_time, read_mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.results import DicomSelection


class SelectsForExport(ConnectedOperator):
    """Writes resource paths to a filter file, and skips itself when there are none."""

    filter_uri: str
    level: SearchLevel

    def selection_mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Say what is wrong with the parameters that every selection has.

        :param unrendered: parameters that are templates still.
        """
        if "level" not in unrendered and self.level not in get_args(SearchLevel):
            yield f"level={self.level!r} is not accepted; accepted: {', '.join(get_args(SearchLevel))}."
        if "filter_uri" not in unrendered:
            yield from refusal(parse_gcs_uri, self.filter_uri, "filter_uri", is_object=True)
        yield from self.connection_mistakes(unrendered)

    def write_selection(self, paths: Iterable[str]) -> int:
        """
        Write the filter file, and return how many paths it holds.

        :param paths: the resource paths; memory does not grow with their number.
        :raises AirflowSkipException: if there are none: nothing must not become everything.
        """
        with FilterFile.of(paths) as file:
            if not file.count:
                raise AirflowSkipException("The query matches nothing: there is nothing to export.")
            file.upload(
                self.filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
            )
        self.log.info("Wrote the paths of %d %s to %s.", file.count, self.level, self.filter_uri)
        return file.count


class DicomStoreSearchOperator(SelectsForExport):
    """
    Searches a DICOM store with QIDO-RS, and writes the resource paths of the matches to a filter file.

    Of a match only its UIDs are kept. Without a match the task is skipped.

    https://cloud.google.com/healthcare-api/docs/dicom#search_transaction

    :param location: the location of the dataset, such as ``us-central1`` (templated).
    :param dataset_id: the dataset's id (templated).
    :param dicom_store_id: the DICOM store's id (templated).
    :param filter_uri: ``gs://bucket/object`` that the paths are written to, for the export's ``filter_uri``
        (templated).
    :param filters: attributes and the values they must have, such as ``{"StudyDate": "{{ ds_nodash }}"}``
        (templated, but not among the rendered fields that Airflow stores and shows: they may name a patient).
    :param level: what to search for: ``"studies"``, ``"series"`` or ``"instances"`` (templated).
    :param exclude_exported_to: ``gs://bucket/prefix`` or ``bq://project.dataset.table``: of ``"instances"``,
        those that are there already are left out, also in folders below the prefix, such as one for each
        night (templated).
    :param project_id: the project's id; the connection's if not given (templated).
    :param page_size: matches on a page, which are held in memory at a time.
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :param api_endpoint: another endpoint than Google's, such as a local Healthcare API (templated).
    :raises DicomExportInvalidRequestError: if a parameter is wrong, at parse time where its value is known.
    """

    template_fields: Sequence[str] = (
        "location",
        "dataset_id",
        "dicom_store_id",
        "filter_uri",
        "level",
        "exclude_exported_to",
        "project_id",
        "gcp_conn_id",
        "impersonation_chain",
        "api_endpoint",
    )
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        location: str,
        dataset_id: str,
        dicom_store_id: str,
        filter_uri: str,
        filters: Mapping[str, str | int] | None = None,
        level: SearchLevel = "studies",
        exclude_exported_to: str | None = None,
        project_id: str | None = None,
        page_size: int = 5_000,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        # `search.output["filter_uri"]` is what an export takes.
        super().__init__(**{"multiple_outputs": True, **kwargs})
        self.location = location
        self.dataset_id = dataset_id
        self.dicom_store_id = dicom_store_id
        self.filter_uri = filter_uri
        self.filters = filters
        self.level = level
        self.exclude_exported_to = exclude_exported_to
        self.project_id = project_id
        self.page_size = page_size
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        raise_on(self._mistakes(self.unrendered()))

    def execute(self, context: Context) -> DicomSelection:
        """
        Search, and write the filter file.

        :param context: the task's context.
        :raises AirflowSkipException: if nothing matches.
        :raises DicomExportError: if the API refuses, or the file cannot be written.
        """
        raise_on(self._mistakes(frozenset()))
        filters = self.render_template(dict(self.filters or {}), context, self.get_template_env())
        with self.hook() as hook:
            matches = hook.search(
                hook.dicom_store_name(self.location, self.dataset_id, self.dicom_store_id, self.project_id),
                self.level,
                filters=filters,
                page_size=self.page_size,
            )
            paths = (path_of_match(match, self.level) for match in matches)
            count = self.write_selection(self._not_exported(paths))
        return {"filter_uri": self.filter_uri, "count": count, "since": None, "until": None}

    def _not_exported(self, paths: Iterator[str]) -> Iterator[str]:
        if self.exclude_exported_to is None:
            yield from paths
            return
        exported = exported_instances(
            self.exclude_exported_to,
            in_folders=True,
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
        )
        with DiskSet(exported) as there:
            self.log.info("%d instances are in %s already.", len(there), self.exclude_exported_to)
            yield from (path for path in paths if path not in there)

    def _mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        yield from self.store_mistakes(unrendered)
        yield from self.selection_mistakes(unrendered)
        if self.filters is not None and not hasattr(self.filters, "keys"):
            # Not the value: it may name a patient.
            yield f"filters is {type(self.filters).__name__}; accepted: a dictionary of attributes."
        if "exclude_exported_to" in unrendered or self.exclude_exported_to is None:
            return
        yield from refusal(parse_destination, self.exclude_exported_to, "exclude_exported_to")
        if "level" not in unrendered and self.level != "instances":
            yield f"exclude_exported_to with level={self.level!r}; accepted: level='instances'."


class DicomMetadataQueryOperator(SelectsForExport):
    """
    Finds in a BigQuery table what arrived since the last export, and writes its paths to a filter file.

    The high-water mark is only read; :class:`DicomHighWaterMarkOperator` moves it once the export has
    succeeded, so that the next run makes up for one that failed. If nothing arrived the task is skipped.

    https://cloud.google.com/healthcare-api/docs/how-tos/dicom-bigquery-schema

    :param table: ``bq://project.dataset.table`` that the DICOM store is exported or streamed to (templated).
    :param filter_uri: ``gs://bucket/object`` that the paths are written to, for the export's ``filter_uri``
        (templated).
    :param high_water_mark: the Airflow Variable that holds up to when everything has been exported;
        everything is selected while there is none (templated).
    :param until: select what arrived up to this RFC 3339 time: the start of the export that filled the table,
        or the end of the data interval; ``settling_time`` before now if not given (templated).
    :param settling_time: after how many seconds a streamed table holds all that arrived.
    :param level: select whole ``"studies"`` or ``"series"`` of what arrived, or only the ``"instances"``
        themselves (templated).
    :param project_id: the project that the query is billed to; the connection's if not given (templated).
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :raises DicomExportInvalidRequestError: if a parameter is wrong, at parse time where its value is known.
    """

    template_fields: Sequence[str] = (
        "table",
        "filter_uri",
        "high_water_mark",
        "until",
        "level",
        "project_id",
        "gcp_conn_id",
        "impersonation_chain",
    )
    ui_color = "#e8f0fe"
    api_endpoint = None

    def __init__(
        self,
        *,
        table: str,
        filter_uri: str,
        high_water_mark: str,
        until: str | None = None,
        settling_time: float = 900.0,
        level: SearchLevel = "instances",
        project_id: str | None = None,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"multiple_outputs": True, **kwargs})
        self.table = table
        self.filter_uri = filter_uri
        self.high_water_mark = high_water_mark
        self.until = until
        self.settling_time = settling_time
        self.level = level
        self.project_id = project_id
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self._is_until_given = until is not None
        raise_on(self._mistakes(self.unrendered()))

    def execute(self, context: Context) -> DicomSelection:
        """
        Query, and write the filter file.

        :param context: the task's context.
        :raises AirflowSkipException: if nothing arrived.
        :raises DicomExportError: if BigQuery refuses, or the file cannot be written.
        """
        from airflow_provider_dicom.selection.inventory import MetadataTable

        raise_on(self._mistakes(frozenset()))
        since = read_mark(self.high_water_mark)
        if self.until is None:
            until = datetime.now(UTC) - timedelta(seconds=self.settling_time)
        else:
            until = parse_time(self.until, "until")
        if since is not None and since >= until:
            raise AirflowSkipException(
                f"All that arrived until {until} is exported, and more: until {since}."
            )
        self.log.info("Looking for what arrived after %s, until %s.", since or "the beginning", until)
        table = MetadataTable(
            _table(self.table),
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
        )
        return {
            "filter_uri": self.filter_uri,
            "count": self.write_selection(table.arrived(self.level, since=since, until=until)),
            "since": None if since is None else since.isoformat(),
            "until": until.isoformat(),
        }

    def _mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        if "table" not in unrendered:
            yield from refusal(_table, self.table)
        if "high_water_mark" not in unrendered and not self.high_water_mark:
            yield "high_water_mark is empty; accepted: the name of an Airflow Variable."
        # Rendered to nothing, it must not stand for a later time than the table was filled at.
        if "until" not in unrendered and self._is_until_given:
            yield from refusal(parse_time, self.until, "until")
        if mistake := seconds_mistake("settling_time", self.settling_time):
            yield mistake
        if "project_id" not in unrendered and self.project_id is not None:
            yield from filter(None, [id_mistake("project_id", self.project_id)])
        yield from self.selection_mistakes(unrendered)


class DicomHighWaterMarkOperator(BaseOperator):
    """
    Moves a high-water mark to the end of what was exported; to be put after the export.

    It never moves backwards, and never past something that was not exported.

    :param high_water_mark: the Airflow Variable (templated).
    :param selection: the output of the :class:`DicomMetadataQueryOperator` (templated).
    """

    template_fields: Sequence[str] = ("high_water_mark", "selection")
    ui_color = "#e8f0fe"

    def __init__(self, *, high_water_mark: str, selection: DicomSelection, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.high_water_mark = high_water_mark
        self.selection = selection

    def execute(self, context: Context) -> str:
        """
        Move the mark, and return where it is.

        :param context: the task's context.
        :raises DicomExportError: if somebody moved it back since the query.
        """
        mark = advance_mark(self.high_water_mark, self.selection)
        self.log.info("Everything that arrived until %s is exported.", mark)
        return mark.isoformat()


def _table(uri: str) -> BigQueryTable:
    table = parse_destination(uri, "table")
    if not isinstance(table, BigQueryTable):
        raise DicomExportInvalidRequestError(f"table={uri!r}; accepted: 'bq://project.dataset.table'.")
    return table
