"""Operator that exports a DICOM store of the Cloud Healthcare API."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException

from airflow_provider_dicom.api import methods
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DicomStoreName, OperationName
from airflow_provider_dicom.exceptions import (
    DicomExportInvalidRequestError,
    DicomExportOperationFailedError,
)
from airflow_provider_dicom.links.dicom_store import EXPORT_LINKS
from airflow_provider_dicom.longrunning.outcome import outcome
from airflow_provider_dicom.operators._base import CONNECTION_PARAMETERS, STORE_PARAMETERS
from airflow_provider_dicom.operators._failures import FailureListingOperator
from airflow_provider_dicom.operators._filtering import FilteringOperator
from airflow_provider_dicom.operators._submission_record import earliest_snapshot, unknown_time
from airflow_provider_dicom.operators._submission_types import Submission, destination_error
from airflow_provider_dicom.validation import Kind, raise_if_invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from airflow.providers.common.compat.openlineage.facet import Dataset, RunFacet
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dicom.api.export_request import ExportBody
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.results import DicomExportResult

#: The key of the records in the task state. Running deployments have stored it: never rename it.
STATE_KEY = "dicom_export"


class DicomStoreExportOperator(FilteringOperator, FailureListingOperator):
    """
    Exports a DICOM store to Cloud Storage or BigQuery, and frees the worker slot while the export runs.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/export

    :param location: the location of the dataset, such as ``us-central1`` (templated).
    :param dataset_id: the dataset's id (templated).
    :param dicom_store_id: the DICOM store's id (templated).
    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table`` (templated).
    :param project_id: the project's id; the connection's if not given (templated).
    :param mime_type: Cloud Storage only: the format of the files, such as
        ``application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90``; as uploaded if not given. The API
        transcodes only files up to 1 GB, and frames up to 150 MB (templated).
    :param write_disposition: BigQuery only: ``WRITE_EMPTY`` (the API's default), ``WRITE_TRUNCATE`` or
        ``WRITE_APPEND`` (templated).
    :param bigquery_schema: BigQuery only: ``"flattened"`` or ``"json"``; the API's default schema if not
        given (templated).
    :param include_source_store: BigQuery only: add a column with the DICOM store's name.
    :param filter_uri: ``gs://bucket/object`` of a filter file with the resource paths to export; the whole
        DICOM store if not given. An empty file skips the task (templated).
    :param resource_paths: ``/studies/...`` paths to export, which the operator writes to ``filter_uri``
        first. An empty list skips the task (templated).
    :param max_failures: the number of instances that may fail before the task fails: a count (int), or a
        fraction of all instances (float).
    :param list_failures: if instances failed, read their errors from Cloud Logging: grouped by cause in the
        task's log, in its error and in the tab, and instance by instance in the XCom ``failures``.
    :param wait_for_completion: ``False`` returns the Operation's name at once.
    :param deferrable: ``False`` polls on the worker.
    :param poll_interval: the longest pause between polls, in seconds; pauses grow towards it, with jitter.
    :param durable: re-attach to the export on a retry or after a clear, where Airflow keeps task state
        (3.3+), and never resubmit an export that could duplicate rows.
    :param cancel_on_kill: cancel the Operation when the task is killed or its deadline passes.
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
        "project_id",
        "destination",
        "mime_type",
        "write_disposition",
        "bigquery_schema",
        "filter_uri",
        "resource_paths",
        "gcp_conn_id",
        "impersonation_chain",
        "api_endpoint",
    )
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        **STORE_PARAMETERS,
        "destination": Kind.REQUIRED,
        "mime_type": Kind.OPTIONAL,
        "write_disposition": Kind.OPTIONAL,
        "bigquery_schema": Kind.OPTIONAL,
        "include_source_store": Kind.OPTIONAL_FLAG,
        "filter_uri": Kind.RESTRICTION,
        "resource_paths": Kind.RESTRICTION,
        "max_failures": Kind.NUMBER,
        "list_failures": Kind.FLAG,
        "wait_for_completion": Kind.FLAG,
        "deferrable": Kind.FLAG,
        "poll_interval": Kind.NUMBER,
        "durable": Kind.FLAG,
        "cancel_on_kill": Kind.FLAG,
        **CONNECTION_PARAMETERS,
    }
    operator_extra_links = EXPORT_LINKS
    ui_color = "#e8f0fe"
    state_key = STATE_KEY

    def __init__(
        self,
        *,
        location: str,
        dataset_id: str,
        dicom_store_id: str,
        destination: str,
        project_id: str | None = None,
        mime_type: str | None = None,
        write_disposition: str | None = None,
        bigquery_schema: str | None = None,
        include_source_store: bool | None = None,
        filter_uri: str | None = None,
        resource_paths: Sequence[str] | None = None,
        max_failures: int | float = 0,
        list_failures: bool = True,
        wait_for_completion: bool = True,
        deferrable: bool = True,
        poll_interval: float = 30.0,
        durable: bool = True,
        cancel_on_kill: bool = True,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.location = location
        self.dataset_id = dataset_id
        self.dicom_store_id = dicom_store_id
        self.destination = destination
        self.project_id = project_id
        self.mime_type = mime_type
        self.write_disposition = write_disposition
        self.bigquery_schema = bigquery_schema
        self.include_source_store = include_source_store
        self.filter_uri = filter_uri
        self.resource_paths = resource_paths
        self.max_failures = max_failures
        self.list_failures = list_failures
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        self.validate_when_parsed()
        # The values of a mapped task are those of a run: execute() warns of them.
        is_known = not self.is_mapped_index and "mime_type" not in self.unrendered()
        for warning in self.export_request.warnings() if is_known else ():
            warnings.warn(warning, UserWarning, stacklevel=2)

    @property
    def export_request(self) -> ExportRequest:
        """The options of the export, as the first rendering of the templates decided them."""
        if self._decision is not None:
            return ExportRequest.of_body(cast("ExportBody", self._decision["request"]))
        return ExportRequest(
            destination=self.destination,
            mime_type=self.mime_type,
            write_disposition=self.write_disposition,
            bigquery_schema=self.bigquery_schema,
            include_source_store=self.include_source_store,
            filter_uri=self.filter_uri,
        )

    def execute(self, context: Context) -> DicomExportResult | str:
        """
        Submit the export, and wait for its end if the parameters say so.

        :param context: the task's context.
        :raises DicomExportError: if the export fails, or cannot be submitted or polled.
        """
        self._begin(context)
        self._check_submission()
        for warning in self.export_request.warnings():
            self.log.warning(warning)
        return self._submit(context, self.execution_deadline(context))

    def _check_submission(self) -> None:
        if self._decision is not None:
            # The first rendering decided everything but the connection.
            sentences, settled = self.kind_errors(frozenset(self.PARAMETERS.keys() - CONNECTION_PARAMETERS))
            raise_if_invalid(
                (*sentences, *self.export_request.validation_errors(), *self.polling_errors(settled))
            )
            return
        self.skip_if_nothing_is_missing(self.filter_uri)
        raise_if_invalid(self._validation_errors(frozenset()))
        if self.resource_paths is not None and not self.resource_paths:
            # An empty filter must never export the whole store.
            raise AirflowSkipException("resource_paths is empty: there is nothing to export.")

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Dataset, RunFacet]:
        """Describe the export to OpenLineage as far as the task's parameters tell."""
        return self._lineage(None)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Dataset, RunFacet]:
        """
        Describe the export to OpenLineage with its Operation and its counters.

        :param task_instance: the task instance.
        """
        return self._lineage(self._latest_operation)

    def get_openlineage_facets_on_failure(self, task_instance: object) -> OperatorLineage[Dataset, RunFacet]:
        """
        Describe the export to OpenLineage with the latest known state of its Operation, if there is one.

        :param task_instance: the task instance.
        """
        return self._lineage(self._latest_operation)

    def _lineage(self, operation: Operation | None) -> OperatorLineage[Dataset, RunFacet]:
        from airflow_provider_dicom.lineage.facets import export_lineage

        return export_lineage(self.export_request, self._store_for_lineage(operation), operation)

    def _store_for_lineage(self, operation: Operation | None) -> DicomStoreName | None:
        if operation is not None:
            return self.store_of(operation)
        try:
            with self.hook() as hook:
                return hook.dicom_store_name(
                    self.location, self.dataset_id, self.dicom_store_id, self.project_id
                )
        except AirflowException as error:
            # The task itself raises the same error.
            self.log.debug("The lineage is without the DICOM store: %s", error)
            return None

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, unrendered = self.kind_errors(unrendered)
        yield from sentences
        yield from self.store_errors(unrendered)
        yield from self.export_request.validation_errors(unrendered)
        yield from self._filter_errors(unrendered)
        yield from self.polling_errors(unrendered)

    @contextmanager
    def _submission(self, hook: DicomStoreHook) -> Iterator[Submission]:
        decision, request = self._decision, self.export_request
        store = (
            hook.dicom_store_name(self.location, self.dataset_id, self.dicom_store_id, self.project_id)
            if decision is None
            else DicomStoreName.parse(decision["dicom_store"])
        )
        with (
            self._filter(request.filter_uri)
            if decision is None
            else self._decided_filter(decision) as filter_
        ):
            yield Submission(
                request=methods.export(store, request),
                send=partial(hook.export, store, request),
                state_key=STATE_KEY,
                api_method="ExportDicomData",
                duplicate_risk=request.duplicate_risk,
                overwrites=request.overwrites,
                filter_digest=filter_.digest,
                is_filter_written=filter_.is_written,
                prepare=filter_.prepare,
            )

    def store_of(self, operation: Operation) -> DicomStoreName:
        """
        Return the DICOM store of an Operation, as the first rendering of the templates decided it.

        :param operation: the Operation.
        """
        if self._decision is not None:
            return DicomStoreName.parse(self._decision["dicom_store"])
        return DicomStoreName(OperationName.parse(operation["name"]).dataset, self.dicom_store_id)

    def _outcome(self, operation: Operation) -> DicomExportResult:
        request = self.export_request
        unknown = unknown_time(self._decision)
        try:
            return outcome(
                operation,
                max_failures=self.max_failures,
                dicom_store=str(self.store_of(operation)),
                destination=request.destination,
                filter_uri=request.filter_uri,
                mime_type=request.mime_type,
                earliest_submission=earliest_snapshot(unknown),
            )
        except (DicomExportInvalidRequestError, DicomExportOperationFailedError) as error:
            dataset = OperationName.parse(operation["name"]).dataset
            explained = unknown["unknown_since"] and destination_error(
                error,
                destination=request.destination,
                list_operations_command=dataset.list_operations_command,
            )
            if not explained or request.overwrites:
                raise
            raise explained from error
