"""Waiting for an Operation: what the operator and the sensor have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportTimeoutError
from airflow_provider_dicom.longrunning.outcome import max_failures_mistake
from airflow_provider_dicom.longrunning.progress import store_from_worker
from airflow_provider_dicom.operators._base import ConnectedOperator
from airflow_provider_dicom.operators._outlets import note_on_outlets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta
    from typing import NoReturn

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.longrunning.outcome import Operation
    from airflow_provider_dicom.results import DicomExportResult
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent


class WaitsForOperation(ConnectedOperator):
    """
    Follows an Operation to its end with the task's own settings.

    The trigger is imported where it is used: DAG files must stay cheap to parse.
    """

    poll_interval: float
    max_failures: int | float

    def waiting_mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Say what is wrong with the parameters that waiting needs.

        :param unrendered: parameters that are templates still.
        """
        if mistake := max_failures_mistake(self.max_failures):
            yield mistake
        if mistake := seconds_mistake("poll_interval", self.poll_interval):
            yield mistake
        yield from self.connection_mistakes(unrendered)

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

    def _outcome(self, operation: Operation) -> DicomExportResult:
        raise NotImplementedError

    def judged(self, operation: Operation, context: Context) -> DicomExportResult:
        """
        Judge how an export ended, and tell the progress page and the assets of it.

        :param operation: the finished Operation.
        :param context: the task's context.
        :raises DicomExportError: if it is not good enough.
        """
        is_good_enough = False
        try:
            result = self._outcome(operation)
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
