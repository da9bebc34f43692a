"""Operators for what arrived since the last export: the query of a metadata table, the high-water mark."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, cast

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import parse_table
from airflow_provider_dicom.api.resource_names import id_error
from airflow_provider_dicom.operators._parameters import ParameterOperator, reveal
from airflow_provider_dicom.operators._selection import SelectionOperator
from airflow_provider_dicom.operators._selection_output import mappable
from airflow_provider_dicom.selection.conditions import condition_errors
from airflow_provider_dicom.selection.high_water_mark import (
    advance_mark,
    mark_name_error,
    parse_time,
    read_mark,
    selection_errors,
)
from airflow_provider_dicom.selection.metadata_table import MAXIMUM_BYTES_BILLED, MetadataTable
from airflow_provider_dicom.validation import (
    Kind,
    optional_count_error,
    parse_errors,
    raise_if_invalid,
    seconds_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api.dicomweb import SearchLevel
    from airflow_provider_dicom.results import DicomExportResult, DicomSelection
    from airflow_provider_dicom.selection.conditions import Value


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
    :param conditions: columns of the table, or data elements, and the value or values that they must have,
        such as ``{"Modality": ["CT", "MR"], "StorageClass": "STANDARD"}``. Airflow stores and shows the names
        only, because the values may name a patient (templated).
    :param only_arrivals: leave out instances that were only changed, such as those that were moved to another
        storage class. This needs a table that keeps the earlier rows of an instance, as that of a stream.
    :param max_paths_per_file: the largest number of paths in a file of ``filter_uris``, each of which becomes
        an export of its own; one file if not given.
    :param maximum_bytes_billed: the bytes that the query may read: if it would read more, nothing is read and
        the task fails; the connection's ``maximum_bytes_billed`` if not given, or no limit.
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
        "conditions",
        "project_id",
        "gcp_conn_id",
        "impersonation_chain",
    )
    PRIVATE: ClassVar[frozenset[str]] = frozenset({"conditions"})
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        "table": Kind.REQUIRED,
        "filter_uri": Kind.REQUIRED,
        "high_water_mark": Kind.REQUIRED,
        "until": Kind.RESTRICTION,
        "settling_time": Kind.NUMBER,
        "level": Kind.REQUIRED,
        "conditions": Kind.RESTRICTION,
        "only_arrivals": Kind.FLAG,
        "max_paths_per_file": Kind.OPTIONAL_NUMBER,
        "maximum_bytes_billed": Kind.OPTIONAL_NUMBER,
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
        conditions: Mapping[str, Value | Sequence[Value]] | None = None,
        only_arrivals: bool = False,
        max_paths_per_file: int | None = None,
        maximum_bytes_billed: int | None = None,
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
        self.conditions = conditions
        self.only_arrivals = only_arrivals
        self.max_paths_per_file = max_paths_per_file
        self.maximum_bytes_billed = maximum_bytes_billed
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
        self.log.info(
            "Selecting what arrived%s after %s and until %s.",
            "" if self.only_arrivals else " or changed",
            since or "the beginning",
            until,
        )
        table = MetadataTable(
            parse_table(self.table, "table"),
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
            maximum_bytes_billed=self.maximum_bytes_billed,
            log=self.log,
        )
        arrived = table.arrived(
            self.level,
            since=since,
            until=until,
            conditions=cast("Mapping[str, object] | None", reveal(self.conditions)),
            only_arrivals=self.only_arrivals,
        )
        nothing = "Nothing" if self.conditions is None else "Nothing that meets the conditions"
        written = self.write_selection(
            arrived, context, if_empty=f"{nothing} arrived after {since or 'the beginning'} and until {until}"
        )
        return mappable(
            {
                **written,
                "since": None if since is None else since.isoformat(),
                "until": until.isoformat(),
            }
        )

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, settled = self.kind_errors(unrendered - {"conditions"})
        yield from sentences
        if "conditions" not in settled:
            is_rendered = "conditions" not in unrendered
            yield from condition_errors(reveal(self.conditions), is_rendered=is_rendered)
        unrendered = settled
        if "table" not in unrendered:
            yield from parse_errors(parse_table, self.table, "table")
        if "high_water_mark" not in unrendered and (error := mark_name_error(self.high_water_mark)):
            yield error
        if "until" not in unrendered and self.until is not None:
            yield from parse_errors(parse_time, self.until, "until")
        if error := seconds_error("settling_time", self.settling_time):
            yield error
        if "project_id" not in unrendered and self.project_id is not None:
            yield from filter(None, [id_error("project_id", self.project_id)])
        if error := optional_count_error(MAXIMUM_BYTES_BILLED, self.maximum_bytes_billed):
            yield error
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
