"""
What operators and sensor share: the connection, the validation of parameters, the deferral, and the result.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict, cast

from airflow.providers.common.compat.sdk import AirflowSkipException, Asset, AssetAlias

from airflow_provider_dicom.api.destinations import asset_uri
from airflow_provider_dicom.api.endpoint import api_endpoint_error
from airflow_provider_dicom.api.resource_names import id_error
from airflow_provider_dicom.compat import AssetRef
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportTimeoutError
from airflow_provider_dicom.longrunning.outcome import describe_accepted_error
from airflow_provider_dicom.longrunning.progress import write_from_worker
from airflow_provider_dicom.operators._parameters import ParameterOperator
from airflow_provider_dicom.results import MISSING_URI_KEY
from airflow_provider_dicom.validation import Kind, is_text_or_texts, max_failures_error, seconds_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import NoReturn

    from airflow.providers.common.compat.sdk import Context
    from pydantic import JsonValue

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.results import DicomExportResult
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent


#: How long after the deadline Airflow itself ends a deferral that its trigger did not end.
GRACE = timedelta(minutes=2)
#: The kinds of the parameters that name a DICOM store. Without its project, a task reaches another store.
STORE_PARAMETERS = {
    "location": Kind.REQUIRED,
    "dataset_id": Kind.REQUIRED,
    "dicom_store_id": Kind.REQUIRED,
    "project_id": Kind.RESTRICTION,
}
#: The kinds of the connection's parameters. Without the account to impersonate, a task has other rights.
CONNECTION_PARAMETERS = {
    "gcp_conn_id": Kind.REQUIRED,
    "impersonation_chain": Kind.RESTRICTION,
    "api_endpoint": Kind.OPTIONAL,
}


class ConnectionArguments(TypedDict):
    """The connection's arguments of every hook and trigger of this provider."""

    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    api_endpoint: str | None


class ConnectedOperator(ParameterOperator):
    """
    An operator with a connection to the Healthcare API.

    The hook is imported where it is used: DAG files must stay cheap to parse.
    """

    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    api_endpoint: str | None

    @property
    def connection_arguments(self) -> ConnectionArguments:
        """The connection's arguments for a hook or a trigger."""
        return {
            "gcp_conn_id": self.gcp_conn_id,
            "impersonation_chain": self.impersonation_chain,
            "api_endpoint": self.api_endpoint,
        }

    @property
    def _has_rendered_endpoint(self) -> bool:
        """Whether the endpoint comes from a template or another task, not from the DAG's own text."""
        return self.api_endpoint is not None and not self.is_literal("api_endpoint")

    def hook(self) -> DicomStoreHook:
        """Build the hook."""
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        hook = DicomStoreHook(**self.connection_arguments)
        if self._has_rendered_endpoint:
            hook.refuse_unlisted_endpoint()
        return hook

    def skip_if_nothing_is_missing(self, filter_uri: str | None) -> None:
        """
        Skip the task if its filter file is the ``missing_uri`` of a check that found nothing missing.

        :param filter_uri: the parameter's value; from anywhere else, None is refused.
        :raises AirflowSkipException: if nothing is missing.
        """
        if filter_uri in (None, "None") and MISSING_URI_KEY in self._origins.get("filter_uri", ""):
            raise AirflowSkipException("Nothing is missing: there is nothing to export.")

    def connection_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Yield the validation errors of the connection's parameters.

        :param unrendered: the names of the parameters that are still templates.
        """
        if "gcp_conn_id" not in unrendered and not (isinstance(self.gcp_conn_id, str) and self.gcp_conn_id):
            yield f"gcp_conn_id={self.gcp_conn_id!r} is not accepted; accepted: the id of a connection."
        chain = [] if self.impersonation_chain is None else self.impersonation_chain
        if "impersonation_chain" not in unrendered and not is_text_or_texts(chain):
            yield (
                f"impersonation_chain is {type(chain).__name__}, or an account in it is no text or empty; "
                "accepted: the e-mail address of a service account, or a list of them."
            )
        if "api_endpoint" not in unrendered and (error := api_endpoint_error(self.api_endpoint)):
            yield error

    def store_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Yield the validation errors of the parameters that name a DICOM store.

        :param unrendered: the names of the parameters that are still templates.
        """
        for name in ("location", "dataset_id", "dicom_store_id", "project_id"):
            value = getattr(self, name)
            if name in unrendered or (name == "project_id" and value is None):
                continue
            if error := id_error(name, value):
                yield error


class PollingOperator(ConnectedOperator):
    """
    An operator or sensor that waits for an Operation with the task's own settings.

    The trigger is imported where it is used: DAG files must stay cheap to parse.
    """

    poll_interval: float
    max_failures: int | float

    def polling_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Yield the validation errors of the parameters for polling.

        :param unrendered: the names of the parameters that are still templates.
        """
        if error := max_failures_error(self.max_failures):
            yield error
        if error := seconds_error("poll_interval", self.poll_interval):
            yield error
        yield from self.connection_errors(unrendered)

    def execution_deadline(self, context: Context) -> float | None:
        """
        Return the time at which ``execution_timeout`` is over, in seconds since the epoch.

        Airflow does not enforce it while a task is deferred.

        :param context: the task's context.
        """
        if self.execution_timeout is None:
            return None
        start = context["ti"].start_date
        return (start.timestamp() if start else time.time()) + self.execution_timeout.total_seconds()

    def defer_until_done(
        self,
        operation_name: str,
        *,
        deadline: float | None,
        cancel_on_kill: bool,
        timeout: timedelta | None,
        kwargs: dict[str, object],
        method_name: str = "execute_complete",
    ) -> NoReturn:
        """
        Free the worker slot until the Operation is done.

        :param operation_name: the full name of the Operation.
        :param deadline: the time at which the trigger gives up, in seconds since the epoch; never if not
            given.
        :param cancel_on_kill: cancel the Operation when the task is killed.
        :param timeout: the time after which Airflow itself ends the deferral.
        :param kwargs: further arguments of the method that resumes.
        :param method_name: the name of the method that resumes.
        """
        from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger

        if self._has_rendered_endpoint:
            self.hook().close()
        self.defer(
            trigger=DicomStoreExportTrigger(
                operation_name,
                poll_interval=self.poll_interval,
                deadline=deadline,
                cancel_on_kill=cancel_on_kill,
                **self.connection_arguments,
            ),
            method_name=method_name,
            kwargs=kwargs,
            timeout=timeout,
        )
        raise AssertionError("defer() returned")

    def operation_of(self, event: ExportEvent) -> Operation | None:
        """
        Return the finished Operation of a trigger's event; None if the Operation is still running.

        :param event: the trigger's event.
        :raises DicomExportTimeoutError: if the deadline passed.
        :raises DicomExportError: if the Operation cannot be read.
        """
        operation = event["operation"]
        if operation.get("done"):
            return operation
        if event["status"] == "timeout":
            # The triggerer may have been away: the Operation may have ended before the deadline.
            latest = self._final_state(operation["name"]) or operation
            if latest.get("done"):
                return latest
            raise DicomExportTimeoutError(event["message"] or "The deadline passed.", operation=latest)
        # The trigger could not read the Operation. One more get either raises the error with all its details,
        # or shows that the API answers again.
        self.log.warning("The trigger gave up: %s", event["message"])
        with self.hook() as hook:
            operation = hook.get_operation(operation["name"])
        return operation if operation.get("done") else None

    def _final_state(self, operation_name: str) -> Operation | None:
        try:
            with self.hook() as hook:
                return hook.get_operation(operation_name)
        except DicomExportError as error:
            self.log.warning("The deadline has passed, and the export's state is not known: %s", error)
            return None

    def _outcome(self, operation: Operation) -> DicomExportResult:
        """Return the result of a finished Operation, or raise its error."""
        raise NotImplementedError

    def record_outcome(self, operation: Operation, context: Context) -> DicomExportResult:
        """
        Return the result of a finished Operation, after writing it to the progress record and the asset
        events.

        :param operation: the finished Operation.
        :param context: the task's context.
        :raises DicomExportError: if the Operation failed, or more instances failed than ``max_failures``
            allows.
        """
        is_accepted = False
        try:
            result = self._outcome(operation)
            is_accepted = True
        finally:
            write_from_worker(context["ti"], operation, is_accepted=is_accepted, log=self.log)
        if "error" in operation:
            # Not where the outcome is decided: a later try decides it twice.
            self.log.warning("%s", describe_accepted_error(operation, result["dicom_store"]))
        set_outlet_extra(context, self.outlets, result, log=self.log)
        return result


def deferral_timeout(deadline: float | None) -> timedelta | None:
    """
    Return the time after which Airflow itself ends a deferral, in case no triggerer does.

    :param deadline: the time at which the trigger gives up, in seconds since the epoch; never if not given.
    """
    return None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time())) + GRACE


def set_outlet_extra(
    context: Context, outlets: Iterable[object], extra: Mapping[str, object], *, log: Log
) -> None:
    """
    Write a result to the event of every asset that the task updates.

    Airflow drops what is written before a deferral: the process that ends the task has to call this function.

    :param context: the task's context.
    :param outlets: the task's outlets; an alias stands for the asset of the result's destination.
    :param extra: the result.
    :param log: the log for an asset that Airflow does not know.
    """
    values = cast("dict[str, JsonValue]", dict(extra))
    destination = extra.get("destination")
    for outlet in outlets:
        try:
            if isinstance(outlet, AssetAlias) and isinstance(destination, str):
                context["outlet_events"][outlet].add(Asset(asset_uri(destination)), extra=values)
            elif isinstance(outlet, (Asset, AssetRef)):
                context["outlet_events"][outlet].extra.update(values)
        except Exception as error:  # Airflow looks references up, and the task has its result
            log.warning("The event of %s gets no result: %s", outlet, error)
