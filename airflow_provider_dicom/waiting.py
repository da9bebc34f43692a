"""Waiting for an Operation: what the operator and the sensor have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_dicom.endpoint import api_endpoint_mistake
from airflow_provider_dicom.exceptions import DicomExportTimeoutError
from airflow_provider_dicom.operation import max_failures_mistake
from airflow_provider_dicom.outlets import note_on_outlets
from airflow_provider_dicom.progress import store_from_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta
    from typing import NoReturn

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.operation import DicomExportResult, Operation
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent


class ConnectionArguments(TypedDict):
    """What every hook and trigger of this provider is told about the connection."""

    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    api_endpoint: str | None


class WaitsForOperation(BaseOperator):
    """
    Follows an Operation to its end with the task's own settings.

    The hook and the trigger are imported where they are used: DAG files must stay cheap to parse.
    """

    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    api_endpoint: str | None
    poll_interval: float
    max_failures: int | float

    @property
    def connection_arguments(self) -> ConnectionArguments:
        """The connection as every hook and trigger gets it."""
        return {
            "gcp_conn_id": self.gcp_conn_id,
            "impersonation_chain": self.impersonation_chain,
            "api_endpoint": self.api_endpoint,
        }

    def hook(self) -> DicomStoreHook:
        """Build the hook."""
        from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook

        return DicomStoreHook(**self.connection_arguments)

    def unrendered(self) -> frozenset[str]:
        """Name the parameters that are templates still."""
        return frozenset(name for name in self.template_fields if is_template(getattr(self, name)))

    def waiting_mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Say what is wrong with the parameters that waiting needs.

        :param unrendered: parameters that are templates still.
        """
        if mistake := max_failures_mistake(self.max_failures):
            yield mistake
        if mistake := seconds_mistake("poll_interval", self.poll_interval):
            yield mistake
        if "gcp_conn_id" not in unrendered and not (isinstance(self.gcp_conn_id, str) and self.gcp_conn_id):
            yield f"gcp_conn_id={self.gcp_conn_id!r} is not accepted; accepted: the id of a connection."
        if "api_endpoint" not in unrendered and (mistake := api_endpoint_mistake(self.api_endpoint)):
            yield mistake

    def defer_until_done(
        self,
        operation_name: str,
        *,
        deadline: float | None,
        cancel_on_kill: bool,
        timeout: timedelta | None,
        kwargs: dict[str, object],
    ) -> NoReturn:
        """
        Free the worker slot until the Operation has ended.

        :param operation_name: the full name of the Operation.
        :param deadline: when to give up, in seconds since the epoch; never if not given.
        :param cancel_on_kill: cancel the Operation when the task is killed.
        :param timeout: when Airflow itself has to end the deferral.
        :param kwargs: more arguments for ``execute_complete``.
        """
        from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger

        self.defer(
            trigger=DicomStoreExportTrigger(
                operation_name,
                poll_interval=self.poll_interval,
                deadline=deadline,
                cancel_on_kill=cancel_on_kill,
                **self.connection_arguments,
            ),
            method_name="execute_complete",
            kwargs=kwargs,
            timeout=timeout,
        )
        raise AssertionError("defer() returned")

    def operation_of(self, event: ExportEvent) -> Operation | None:
        """
        Find the finished Operation that a trigger's event is about; None if it is still running.

        :param event: the trigger's event.
        :raises DicomExportTimeoutError: if the deadline passed.
        :raises DicomExportError: if the Operation cannot be followed.
        """
        operation = event["operation"]
        if event["status"] == "timeout":
            raise DicomExportTimeoutError(event["message"] or "The deadline passed.", operation=operation)
        if operation.get("done"):
            return operation
        # The trigger could not follow the Operation. Asking once more either brings the error with all that
        # is known about it, or shows that the trouble is over.
        self.log.warning("The trigger gave up: %s", event["message"])
        with self.hook() as hook:
            operation = hook.get_operation(operation["name"])
        return operation if operation.get("done") else None

    def judged(
        self, operation: Operation, context: Context, judge: Callable[[Operation], DicomExportResult]
    ) -> DicomExportResult:
        """
        Judge how an export ended, and tell the progress page and the assets of it.

        :param operation: the finished Operation.
        :param context: the task's context.
        :param judge: returns the result, or raises if it is not good enough.
        :raises DicomExportError: if it is not good enough.
        """
        is_good_enough = False
        try:
            result = judge(operation)
            is_good_enough = True
        finally:
            store_from_worker(context["ti"], operation, is_good_enough=is_good_enough, log=self.log)
        note_on_outlets(context, self.outlets, result)
        return result


def seconds_mistake(parameter: str, value: object) -> str | None:
    """
    Say what is wrong with a number of seconds, or return None.

    :param parameter: the parameter's name, for the sentence.
    :param value: the parameter's value.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value < float("inf"):  # type: ignore[operator]
        return None
    return f"{parameter}={value!r} is not accepted; accepted: a number of seconds above 0."


def is_template(value: object) -> bool:
    """
    Tell whether a parameter gets its value only when the task runs.

    :param value: the parameter's value at parse time.
    """
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, list | tuple):
        return any(is_template(item) for item in value)
    # Outputs of other tasks, and whatever else has a rendering of its own.
    return hasattr(value, "resolve")
