"""Operator that exports a DICOM store of the Cloud Healthcare API."""

from __future__ import annotations

import itertools
import time
import warnings
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException

from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DicomStoreName, OperationName, raise_on
from airflow_provider_dicom.api.retry import turn_pause
from airflow_provider_dicom.compat import (
    BUILDS_LINKS_ON_WORKER,
    TaskDeferralError,
    TaskDeferralTimeout,
    context_not_resumed_in,
    is_deferral_timeout,
)
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportTimeoutError,
)
from airflow_provider_dicom.links.dicom_store import (
    EXPORT_LINKS,
    OPERATION_NAME_KEY,
    store_links,
)
from airflow_provider_dicom.longrunning.outcome import (
    describe_cancellation,
    describe_speed,
    is_cancelled,
    outcome,
)
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.longrunning.progress import Throttle, store_from_worker
from airflow_provider_dicom.operators._outlets import note_on_outlets
from airflow_provider_dicom.operators._submission import Submitter
from airflow_provider_dicom.operators._waiting import WaitsForOperation
from airflow_provider_dicom.selection.filter_file import FilterFile, resource_path_mistakes, stored_filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from airflow.providers.common.compat.openlineage.facet import Dataset, RunFacet
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.longrunning.outcome import Operation
    from airflow_provider_dicom.operators._submission import Attachment
    from airflow_provider_dicom.results import DicomExportResult
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent

#: How long after the deadline Airflow itself ends a deferral whose trigger did not.
GRACE = timedelta(minutes=2)


class PreparedFilter(NamedTuple):
    """
    What an export is filtered by.

    :param digest: tells filters apart that select something else; None without a filter.
    :param prepare: has to be called before a submission.
    """

    digest: str | None
    prepare: Callable[[], None]


class DicomStoreExportOperator(WaitsForOperation):
    """
    Exports a DICOM store to Cloud Storage or BigQuery, and frees the worker slot while the export runs.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/export

    :param location: the location of the dataset, such as ``us-central1`` (templated).
    :param dataset_id: the dataset's id (templated).
    :param dicom_store_id: the DICOM store's id (templated).
    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table`` (templated).
    :param project_id: the project's id; the connection's if not given (templated).
    :param mime_type: Cloud Storage only: the form of the files, such as
        ``application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90``; as uploaded if not given (templated).
    :param write_disposition: BigQuery only: ``WRITE_EMPTY`` (the API's default), ``WRITE_TRUNCATE`` or
        ``WRITE_APPEND`` (templated).
    :param bigquery_schema: BigQuery only: ``"flattened"`` or ``"json"``; the API's default schema if not
        given (templated).
    :param include_source_store: BigQuery only: add a column with the DICOM store's name.
    :param filter_uri: ``gs://bucket/object`` of a file with the resource paths to export, everything if not
        given; an empty file skips the task (templated).
    :param resource_paths: ``/studies/...`` paths to export, which are written to ``filter_uri`` first; an
        empty list skips the task (templated).
    :param max_failures: instances that may fail before the task fails: a count (int), or a share of all
        (float).
    :param wait_for_completion: ``False`` returns the Operation's name at once.
    :param deferrable: ``False`` polls on the worker.
    :param poll_interval: the longest pause between polls, in seconds; pauses grow towards it, with jitter.
    :param durable: re-attach to the export on a retry or after a clear, where Airflow keeps task state
        (3.3+), and never submit twice what could add rows twice.
    :param cancel_on_kill: cancel the Operation when the task is killed or runs out of time.
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :param api_endpoint: another endpoint than Google's, such as a local Healthcare API (templated).
    :raises DicomExportInvalidRequestError: if a parameter is wrong, at parse time where its value is known.
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
    operator_extra_links = EXPORT_LINKS
    ui_color = "#e8f0fe"

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
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.durable = durable
        self.cancel_on_kill = cancel_on_kill
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        self._running_operation: str | None = None
        self._seen_operation: Operation | None = None
        self._is_resumed = False
        self._filtered_by = [
            name
            for name, value in (("filter_uri", filter_uri), ("resource_paths", resource_paths))
            if value is not None
        ]
        unrendered = self.unrendered()
        raise_on(self._mistakes(unrendered))
        for warning in self.export_request.warnings() if "mime_type" not in unrendered else ():
            warnings.warn(warning, UserWarning, stacklevel=2)

    @property
    def export_request(self) -> ExportRequest:
        """What to export to where."""
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
        Submit the export, and wait for it as the parameters say.

        :param context: the task's context.
        :raises DicomExportError: if the export fails, or cannot be submitted or followed.
        """
        raise_on(self._mistakes(frozenset()))
        for warning in self.export_request.warnings():
            self.log.warning(warning)
        if self.resource_paths is not None and not self.resource_paths:
            # An empty filter must never turn into an export of everything.
            raise AirflowSkipException("resource_paths is empty: there is nothing to export.")
        deadline = self._deadline(context)
        return self._submit(context, deadline)

    def submit_again(
        self,
        context: Context,
        event: object = None,
        turn: int = 0,
        deadline: float | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult | str:
        """
        Submit an export that a quota stood in the way of, after a pause.

        :param context: the task's context.
        :param event: the trigger's event, which only says that the pause is over.
        :param turn: how often that was waited for already.
        :param deadline: when to give up, in seconds since the epoch; never if not given.
        :raises DicomExportError: if the export fails, or cannot be submitted or followed.
        """
        return self._submit(context, deadline, turn)

    def execute_complete(
        self,
        context: Context,
        event: ExportEvent,
        reattached: bool = False,
        deadline: float | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult | str:
        """
        Turn the trigger's event into the task's result.

        :param context: the task's context.
        :param event: the trigger's event.
        :param reattached: an earlier try submitted the Operation.
        :param deadline: when to give up, in seconds since the epoch; never if not given.
        :raises DicomExportError: if the export failed, or cannot be followed.
        """
        self._running_operation = event["operation"]["name"]
        self._seen_operation = event["operation"]
        try:
            operation = self.operation_of(event)
        except DicomExportTimeoutError as error:
            raise self._timed_out(error) from None
        if operation is None:
            return self._defer(event["operation"]["name"], deadline, reattached=reattached)
        if reattached and is_cancelled(operation):
            return self._submit_afresh(operation, context, deadline)
        return self._finish(operation, context)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> object:
        """
        Resume after the deferral; a deferral that Airflow ended itself does not lose the Operation.

        :param next_method: the method to go on with.
        :param next_kwargs: its arguments.
        :param context: the task's context.
        """
        self._is_resumed = True
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            if next_method == self.submit_again.__name__:  # nothing was submitted
                raise
            operation_name = self._deferred_operation(context)
            self._seen_operation = {"name": operation_name} if operation_name else None
            if is_deferral_timeout(error):
                raise self._timed_out(
                    DicomExportTimeoutError(
                        f"The deferral timed out. Operation: {operation_name}", operation_name=operation_name
                    )
                ) from error
            raise DicomExportError(
                f"The trigger failed ({error}); the export itself goes on. Operation: {operation_name}",
                operation_name=operation_name,
            ) from error

    def _deferred_operation(self, context: Context) -> str | None:
        task_instance = context["ti"]
        operation_name: str | None = task_instance.xcom_pull(
            task_ids=self.task_id, key=OPERATION_NAME_KEY, map_indexes=task_instance.map_index
        )
        return operation_name

    def on_kill(self) -> None:
        """Cancel the Operation that this task has submitted or is waiting for."""
        operation_name = self._running_operation
        if not self._is_resumed and (context := context_not_resumed_in()) is not None:
            operation_name = self._deferred_operation(context)
        if operation_name is not None and self.cancel_on_kill:
            self.log.info(self._cancel(operation_name))

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Dataset, RunFacet]:
        """Describe the export to OpenLineage, as far as it is known before the task runs."""
        return self._lineage(None)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Dataset, RunFacet]:
        """
        Describe the export to OpenLineage with its Operation and its counts.

        :param task_instance: the task instance.
        """
        return self._lineage(self._seen_operation)

    def get_openlineage_facets_on_failure(self, task_instance: object) -> OperatorLineage[Dataset, RunFacet]:
        """
        Describe the export to OpenLineage with the Operation as it was seen last, if there is one.

        :param task_instance: the task instance.
        """
        return self._lineage(self._seen_operation)

    def _lineage(self, operation: Operation | None) -> OperatorLineage[Dataset, RunFacet]:
        from airflow_provider_dicom.lineage.facets import export_lineage

        return export_lineage(self.export_request, self._store_for_lineage(operation), operation)

    def _store_for_lineage(self, operation: Operation | None) -> DicomStoreName | None:
        if operation is not None:
            return self._store_of(operation)
        try:
            with self.hook() as hook:
                return hook.dicom_store_name(
                    self.location, self.dataset_id, self.dicom_store_id, self.project_id
                )
        except AirflowException as error:
            # The task is about to say so itself.
            self.log.debug("The lineage is without the DICOM store: %s", error)
            return None

    def _mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        yield from self.store_mistakes(unrendered)
        yield from self.export_request.mistakes(unrendered)
        yield from self._resource_path_mistakes(unrendered)
        yield from self.waiting_mistakes(unrendered)

    def _resource_path_mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        # Neither the filter file of an earlier run nor everything must stand in for a filter.
        if "filter_uri" in self._filtered_by and self.filter_uri is None:
            yield "filter_uri=None; accepted: the filter file that the DAG asks for, 'gs://bucket/object'."
        if self.resource_paths is None:
            if "resource_paths" in self._filtered_by:
                yield "resource_paths=None; accepted: a list, empty if there is nothing to export."
            return
        if self.filter_uri is None:
            yield (
                "resource_paths without filter_uri; accepted: a filter_uri='gs://bucket/object' that the "
                "paths are written to, and that the Healthcare API reads them from."
            )
        if "resource_paths" not in unrendered:
            yield from resource_path_mistakes(self.resource_paths)

    def _deadline(self, context: Context) -> float | None:
        if self.execution_timeout is None:
            return None
        start = context["ti"].start_date
        return (start.timestamp() if start else time.time()) + self.execution_timeout.total_seconds()

    def _submit(
        self, context: Context, deadline: float | None, first_turn: int = 0
    ) -> DicomExportResult | str:
        for turn in itertools.count(first_turn):
            with self.hook() as hook:
                try:
                    attachment = self._attach(hook, context)
                except DicomExportQuotaExhaustedError as error:
                    refusal = error
                else:
                    return self._follow(hook, attachment, context, deadline)
            self._wait_for_quota(refusal, turn, deadline)
        raise AssertionError("the turns ended")

    def _attach(self, hook: DicomStoreHook, context: Context) -> Attachment:
        with self._filter() as filter_file:
            return Submitter(
                hook=hook,
                store=hook.dicom_store_name(
                    self.location, self.dataset_id, self.dicom_store_id, self.project_id
                ),
                request=self.export_request,
                context=context,
                log=self.log,
                filter_digest=filter_file.digest,
                prepare=filter_file.prepare,
                judge=self._outcome,
                durable=self.durable,
            ).attach()

    @contextmanager
    def _filter(self) -> Iterator[PreparedFilter]:
        """Look at what is filtered by, and skip the task if that is nothing."""
        if self.filter_uri is None:
            yield PreparedFilter(None, lambda: None)
        elif self.resource_paths is None:
            yield PreparedFilter(self._digest_of_stored_filter(self.filter_uri), lambda: None)
        else:
            with FilterFile.of(self.resource_paths) as file:
                yield PreparedFilter(file.digest, partial(self._upload, file, self.filter_uri))

    def _upload(self, file: FilterFile, filter_uri: str) -> None:
        file.upload(filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain)
        self.log.info("Wrote %d resource paths to %s.", file.count, filter_uri)

    def _digest_of_stored_filter(self, filter_uri: str) -> str | None:
        try:
            stored = stored_filter(
                filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
            )
        except DicomExportPermissionError as error:
            # Only the Healthcare Service Agent has to be able to read it.
            self.log.warning("%s. Submitting it unseen.", error)
            return None
        if stored.is_empty:
            raise AirflowSkipException(f"The filter file {filter_uri} is empty: there is nothing to export.")
        return stored.digest

    def _wait_for_quota(
        self, refusal: DicomExportQuotaExhaustedError, turn: int, deadline: float | None
    ) -> None:
        pause = turn_pause(turn, refusal.retry_after)
        if deadline is not None and time.time() + pause > deadline:
            raise DicomExportTimeoutError(
                f"{refusal}. It stayed so until the task's time was over; nothing was submitted."
            ) from refusal
        self.log.warning("%s. Nothing was submitted; trying again in %.0f s.", refusal, pause)
        if not self.deferrable:
            time.sleep(pause)
            return
        from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=pause)),
            method_name=self.submit_again.__name__,
            kwargs={"turn": turn + 1, "deadline": deadline},
        )

    def _follow(
        self, hook: DicomStoreHook, attachment: Attachment, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        operation = self._seen_operation = attachment.operation
        name = self._running_operation = operation["name"]
        context["ti"].xcom_push(key=OPERATION_NAME_KEY, value=name)
        if not (self.deferrable and BUILDS_LINKS_ON_WORKER):
            store_links(self, context["ti"], name)
        if not self.wait_for_completion:
            self._running_operation = None
            note_on_outlets(context, self.outlets, {OPERATION_NAME_KEY: name})
            return name
        if operation.get("done"):
            return self._finish(operation, context)
        if self.deferrable:
            return self._defer(name, deadline, reattached=attachment.reattached)
        operation = self._wait_on_worker(hook, name, context, deadline)
        if attachment.reattached and is_cancelled(operation):
            return self._submit_afresh(operation, context, deadline)
        return self._finish(operation, context)

    def _submit_afresh(
        self, cancelled: Operation, context: Context, deadline: float | None
    ) -> DicomExportResult | str:
        # A cleared task may start before the trigger of the try before it has cancelled the Operation.
        self.log.info("%s was cancelled with the try that submitted it.", cancelled["name"])
        return self._submit(context, deadline)

    def _wait_on_worker(
        self, hook: DicomStoreHook, operation_name: str, context: Context, deadline: float | None
    ) -> Operation:
        throttle = Throttle()

        def show(operation: Operation) -> None:
            if throttle.is_news(operation):
                store_from_worker(context["ti"], operation, log=self.log)

        watch = OperationWatch(
            operation_name,
            poll_interval=self.poll_interval,
            deadline=deadline,
            log=self.log,
            on_progress=show,
        )
        try:
            return hook.wait_for_operation(watch)
        except DicomExportTimeoutError as error:
            raise self._timed_out(error) from None

    def _defer(self, operation_name: str, deadline: float | None, *, reattached: bool) -> NoReturn:
        timeout = None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time())) + GRACE
        self.defer_until_done(
            operation_name,
            deadline=deadline,
            cancel_on_kill=self.cancel_on_kill,
            timeout=timeout,
            kwargs={"reattached": reattached, "deadline": deadline},
        )

    def _store_of(self, operation: Operation) -> DicomStoreName:
        return DicomStoreName(OperationName.parse(operation["name"]).dataset, self.dicom_store_id)

    def _outcome(self, operation: Operation) -> DicomExportResult:
        return outcome(
            operation,
            max_failures=self.max_failures,
            dicom_store=str(self._store_of(operation)),
            destination=self.destination,
            filter_uri=self.filter_uri,
        )

    def _finish(self, operation: Operation, context: Context) -> DicomExportResult:
        self._running_operation = None
        self._seen_operation = operation
        result = self.judged(operation, context)
        self.log.info(
            "Export ended as %s: %d exported, %d failed%s, from %s to %s. Operation: %s",
            result["state"],
            result["success"],
            result["failure"],
            describe_speed(operation),
            result["dicom_store"],
            self.destination,
            result["operation_name"],
        )
        return result

    def _timed_out(self, error: DicomExportTimeoutError) -> DicomExportTimeoutError:
        if not self.cancel_on_kill or error.operation_name is None:
            return DicomExportTimeoutError(
                f"{error}. The export itself goes on.",
                operation=error.operation,
                operation_name=error.operation_name,
            )
        return DicomExportTimeoutError(
            f"{error}. {self._cancel(error.operation_name)}",
            operation=error.operation,
            operation_name=error.operation_name,
        )

    def _cancel(self, operation_name: str) -> str:
        """Ask for the Operation to be cancelled, and say what came of it."""
        try:
            with self.hook() as hook:
                return describe_cancellation(hook.cancel_and_confirm(operation_name))
        except DicomExportError as error:
            return f"The operation could not be cancelled and may go on: {error}"
