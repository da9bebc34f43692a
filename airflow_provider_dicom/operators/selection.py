"""Operators that select instances for an export: the matches of a query become a filter file."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, cast

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import BigQueryTable, parse_destination
from airflow_provider_dicom.api.dicomweb import SearchLevel, number_of_frames, path_of_match
from airflow_provider_dicom.api.resource_names import id_error
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.operators._base import CONNECTION_PARAMETERS, STORE_PARAMETERS
from airflow_provider_dicom.operators._parameters import ParameterOperator, reveal
from airflow_provider_dicom.operators._selection import SelectionOperator
from airflow_provider_dicom.selection.high_water_mark import (
    advance_mark,
    mark_name_error,
    parse_time,
    read_mark,
    selection_errors,
)
from airflow_provider_dicom.selection.inventory import Inventory
from airflow_provider_dicom.selection.metadata_table import MetadataTable
from airflow_provider_dicom.selection.search_filters import search_filter_errors, search_queries
from airflow_provider_dicom.validation import Kind, is_count, parse_errors, raise_if_invalid, seconds_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import DicomJson
    from airflow_provider_dicom.results import DicomExportResult, DicomSelection


class DicomStoreSearchOperator(SelectionOperator):
    """
    Searches a DICOM store with QIDO-RS, and writes the resource paths of the matches to a filter file.

    Only the UIDs of a match are kept. A search without matches skips the task.

    https://cloud.google.com/healthcare-api/docs/dicom#search_transaction

    :param location: the location of the dataset, such as ``us-central1`` (templated).
    :param dataset_id: the dataset's id (templated).
    :param dicom_store_id: the DICOM store's id (templated).
    :param filter_uri: ``gs://bucket/object`` of the filter file, which becomes the export's ``filter_uri``
        (templated).
    :param filters: attributes and the values that they must have, such as ``{"StudyDate": "{{ ds_nodash
        }}"}``: a text, a whole number, a date, a list of UIDs, or ``*`` for all. Airflow stores and shows the
        attributes only, because the values may name a patient (templated).
    :param level: the level of the matches: ``"studies"``, ``"series"`` or ``"instances"`` (templated).
    :param exclude_exported_to: ``gs://bucket/prefix`` or ``bq://project.dataset.table``: instances that are
        there already, as a whole or with all their frames, are left out, folders below the prefix included,
        such as one for each night; only with the level ``"instances"`` (templated).
    :param project_id: the project's id; the connection's if not given (templated).
    :param page_size: matches on a page, all of them in memory at a time.
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :param api_endpoint: another endpoint than Google's, such as a local Healthcare API (templated).
    :raises DicomExportInvalidRequestError: if a parameter is invalid; at parse time if its value is known
        then.
    """

    template_fields: Sequence[str] = (
        "location",
        "dataset_id",
        "dicom_store_id",
        "filter_uri",
        "filters",
        "level",
        "exclude_exported_to",
        "project_id",
        "gcp_conn_id",
        "impersonation_chain",
        "api_endpoint",
    )
    PRIVATE: ClassVar[frozenset[str]] = frozenset({"filters"})
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        **STORE_PARAMETERS,
        "filter_uri": Kind.REQUIRED,
        "filters": Kind.RESTRICTION,
        "level": Kind.REQUIRED,
        "exclude_exported_to": Kind.RESTRICTION,
        "page_size": Kind.NUMBER,
        **CONNECTION_PARAMETERS,
    }
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        location: str,
        dataset_id: str,
        dicom_store_id: str,
        filter_uri: str,
        filters: Mapping[str, str | int | date | Sequence[str]] | None = None,
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
        self.validate_when_parsed()

    def execute(self, context: Context) -> DicomSelection:
        """
        Search, and write the filter file.

        :param context: the task's context.
        :raises AirflowSkipException: if nothing matches.
        :raises DicomExportError: if the API refuses, or the file cannot be written.
        """
        raise_if_invalid(self._validation_errors(frozenset()))
        queries = list(search_queries(cast("Mapping[str, object] | None", reveal(self.filters))))
        with self.hook() as hook:
            store = hook.dicom_store_name(
                self.location, self.dataset_id, self.dicom_store_id, self.project_id
            )
            matches = chain.from_iterable(
                hook.search(
                    store,
                    self.level,
                    filters=query,
                    include_fields=() if self.exclude_exported_to is None else ("NumberOfFrames",),
                    page_size=self.page_size,
                )
                for query in queries
            )
            count = self.write_selection(
                self._not_exported(matches),
                if_empty=(
                    "The search matches nothing"
                    if self.exclude_exported_to is None
                    else f"The search matches nothing that is not in {self.exclude_exported_to} already"
                ),
            )
        return self.selection(count, dicom_store=str(store))

    def _not_exported(self, matches: Iterator[DicomJson]) -> Iterator[str]:
        if self.exclude_exported_to is None:
            yield from (path_of_match(match, self.level) for match in matches)
            return
        with Inventory(
            self.exclude_exported_to,
            in_folders=True,
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
        ) as exported:
            self.log.info("%d instances are in %s already.", len(exported), self.exclude_exported_to)
            exported.warn_of_ignored(self.log)
            for match in matches:
                path = path_of_match(match, self.level)
                if not exported.holds(path, number_of_frames(match)):
                    yield path

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, settled = self.kind_errors(unrendered - {"filters"})
        yield from sentences
        if "filters" not in settled:
            yield from search_filter_errors(reveal(self.filters), is_rendered="filters" not in unrendered)
        unrendered = settled
        yield from self.store_errors(unrendered)
        yield from self.selection_errors(unrendered)
        if not is_count(self.page_size):
            yield f"page_size={self.page_size!r} is not accepted; accepted: a count from 1."
        if "exclude_exported_to" in unrendered or self.exclude_exported_to is None:
            return
        yield from parse_errors(parse_destination, self.exclude_exported_to, "exclude_exported_to")
        if "level" not in unrendered and self.level != "instances":
            yield f"exclude_exported_to with level={self.level!r}; accepted: level='instances'."


class DicomMetadataQueryOperator(SelectionOperator):
    """
    Queries a BigQuery table for what arrived since the last export, and writes the paths to a filter file.

    This operator only reads the high-water mark. :class:`DicomHighWaterMarkOperator` moves it after the
    export has succeeded, so that the next run exports what a failed one missed. If nothing arrived, the task
    is skipped.

    https://cloud.google.com/healthcare-api/docs/how-tos/dicom-bigquery-schema

    :param table: ``bq://project.dataset.table`` to which the DICOM store is exported or streamed (templated).
    :param filter_uri: ``gs://bucket/object`` of the filter file, which becomes the export's ``filter_uri``
        (templated).
    :param high_water_mark: the Airflow Variable with the time up to which everything has been exported;
        without a value, everything is selected (templated).
    :param until: the end of the selection, an RFC 3339 time such as the end of the data interval, or the
        result of the export that filled the table; ``settling_time`` before now if not given (templated).
    :param settling_time: the time after which a streamed table holds everything that arrived, in seconds.
    :param level: ``"studies"`` or ``"series"`` select the whole studies or series of the instances that
        arrived, ``"instances"`` the instances alone (templated).
    :param project_id: the project that pays for the query; the connection's if not given (templated).
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :raises DicomExportInvalidRequestError: if a parameter is invalid; at parse time if its value is known
        then.
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
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        "table": Kind.REQUIRED,
        "filter_uri": Kind.REQUIRED,
        "high_water_mark": Kind.REQUIRED,
        "until": Kind.RESTRICTION,
        "settling_time": Kind.NUMBER,
        "level": Kind.REQUIRED,
        "project_id": Kind.RESTRICTION,
        "gcp_conn_id": Kind.REQUIRED,
        "impersonation_chain": Kind.RESTRICTION,
    }
    ui_color = "#e8f0fe"
    api_endpoint = None

    def __init__(
        self,
        *,
        table: str,
        filter_uri: str,
        high_water_mark: str,
        until: str | DicomExportResult | None = None,
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
        self.validate_when_parsed()

    def execute(self, context: Context) -> DicomSelection:
        """
        Query, and write the filter file.

        :param context: the task's context.
        :raises AirflowSkipException: if nothing arrived.
        :raises DicomExportError: if BigQuery refuses, or the file cannot be written.
        """
        raise_if_invalid(self._validation_errors(frozenset()))
        since = read_mark(self.high_water_mark)
        if self.until is None:
            until = datetime.now(UTC) - timedelta(seconds=self.settling_time)
        else:
            until = parse_time(self.until, "until")
        if since is not None and since >= until:
            raise AirflowSkipException(
                f"Everything that arrived until {until} has been exported: the high-water mark is {since}."
            )
        self.log.info("Selecting what arrived after %s and until %s.", since or "the beginning", until)
        table = MetadataTable(
            _table(self.table),
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
        )
        count = self.write_selection(
            table.arrived(self.level, since=since, until=until),
            if_empty=f"Nothing arrived after {since or 'the beginning'} and until {until}",
        )
        return self.selection(
            count, since=None if since is None else since.isoformat(), until=until.isoformat()
        )

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, unrendered = self.kind_errors(unrendered)
        yield from sentences
        if "table" not in unrendered:
            yield from parse_errors(_table, self.table)
        if "high_water_mark" not in unrendered and (error := mark_name_error(self.high_water_mark)):
            yield error
        if "until" not in unrendered and self.until is not None:
            yield from parse_errors(parse_time, self.until, "until")
        if error := seconds_error("settling_time", self.settling_time):
            yield error
        if "project_id" not in unrendered and self.project_id is not None:
            yield from filter(None, [id_error("project_id", self.project_id)])
        yield from self.selection_errors(unrendered)


class DicomHighWaterMarkOperator(ParameterOperator):
    """
    Saves the time up to which everything has been exported; to be placed after the export.

    The high-water mark never moves backwards, and never past an instance that was not exported.

    :param high_water_mark: the name of the Airflow Variable (templated).
    :param selection: the output of the :class:`DicomMetadataQueryOperator` (templated).
    :raises DicomExportInvalidRequestError: if a parameter is invalid; at parse time if its value is known
        then.
    """

    template_fields: Sequence[str] = ("high_water_mark", "selection")
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        "high_water_mark": Kind.REQUIRED,
        "selection": Kind.REQUIRED,
    }
    ui_color = "#e8f0fe"

    def __init__(self, *, high_water_mark: str, selection: DicomSelection, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.high_water_mark = high_water_mark
        self.selection = selection
        self.validate_when_parsed()

    def execute(self, context: Context) -> str:
        """
        Move the high-water mark, and return it.

        :param context: the task's context.
        :raises DicomExportInvalidRequestError: if the selection is none, or has no times.
        :raises DicomExportError: if the mark was moved back since the query, or cannot be moved.
        """
        raise_if_invalid(self._validation_errors(frozenset()))
        mark = advance_mark(self.high_water_mark, self.selection)
        self.log.info("Everything that arrived until %s has been exported.", mark)
        return mark.isoformat()

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, unrendered = self.kind_errors(unrendered)
        yield from sentences
        if "high_water_mark" not in unrendered and (error := mark_name_error(self.high_water_mark)):
            yield error
        if "selection" not in unrendered:
            yield from selection_errors(self.selection)


def _table(uri: str) -> BigQueryTable:
    table = parse_destination(uri, "table")
    if not isinstance(table, BigQueryTable):
        raise DicomExportInvalidRequestError(f"table={uri!r}; accepted: 'bq://project.dataset.table'.")
    return table
