"""Sensor that waits for an export that was started elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NoReturn, cast

import tenacity
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_dicom.api.resource_names import OperationName
from airflow_provider_dicom.compat import TaskDeferralError, TaskDeferralTimeout, is_deferral_timeout
from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportTimeoutError,
    DicomExportTransientError,
)
from airflow_provider_dicom.longrunning.outcome import outcome
from airflow_provider_dicom.longrunning.polling import MAX_CONSECUTIVE_ERRORS
from airflow_provider_dicom.operators._base import CONNECTION_PARAMETERS, PollingOperator, deferral_timeout
from airflow_provider_dicom.validation import Kind, parse_errors, raise_if_invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.results import DicomExportResult
    from airflow_provider_dicom.triggers.dicom_store import ExportEvent


#: The pause between a refused get and its repetition, in seconds.
REFUSAL_PAUSE = 2.0


class DicomStoreExportSensor(PollingOperator, BaseSensorOperator):
    """
    Waits until an Operation that was started elsewhere is done, and returns its result.

    The sensor never cancels the Operation, because it did not start it. ``timeout``, ``execution_timeout``,
    ``soft_fail`` and ``never_fail`` work as in a sensor that does not defer.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.operations/get

    :param operation_name: the full name of the Operation (templated).
    :param max_failures: the number of instances that may fail before the task fails: a count (int), or a
        fraction of all instances (float).
    :param deferrable: ``False`` polls on the worker, every ``poke_interval`` seconds.
    :param poll_interval: the longest pause between polls when deferred, in seconds.
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :param api_endpoint: another endpoint than Google's, such as a local Healthcare API (templated).
    :raises DicomExportInvalidRequestError: if a parameter is invalid; at parse time if its value is known
        then.
    """

    template_fields: Sequence[str] = ("operation_name", "gcp_conn_id", "impersonation_chain", "api_endpoint")
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        "operation_name": Kind.REQUIRED,
        "max_failures": Kind.NUMBER,
        "deferrable": Kind.FLAG,
        "poll_interval": Kind.NUMBER,
        **CONNECTION_PARAMETERS,
    }

    def __init__(
        self,
        *,
        operation_name: str,
        max_failures: int | float = 0,
        deferrable: bool = True,
        poll_interval: float = 30.0,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation_name = operation_name
        self.max_failures = max_failures
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        self.validate_when_parsed()

    def execute(self, context: Context) -> DicomExportResult | None:
        """
        Wait for the Operation.

        :param context: the task's context.
        :raises DicomExportError: if the export failed, or cannot be polled.
        """
        raise_if_invalid(self._validation_errors(frozenset()))
        with self._soft_failures():
            if not self.deferrable:
                return cast("DicomExportResult", super().execute(context))
            return self._defer(context, time.time() + self.timeout)

    def execute_complete(
        self,
        context: Context,
        event: ExportEvent,
        deadline: float | None = None,
        **_of_a_newer_version: object,
    ) -> DicomExportResult:
        """
        Return the result of the Operation in the trigger's event.

        :param context: the task's context.
        :param event: the trigger's event.
        :param deadline: the time at which ``timeout`` is over, in seconds since the epoch; ``timeout`` from
            now if not given.
        :raises DicomExportError: if the export failed, or cannot be polled.
        :raises AirflowSensorTimeout: if ``timeout`` passed first.
        :raises DicomExportTimeoutError: if ``execution_timeout`` passed first.
        :raises AirflowSkipException: if ``soft_fail`` or ``never_fail`` turns the failure into a skip.
        """
        with self._soft_failures():
            return self._complete(context, event, deadline)

    def _complete(self, context: Context, event: ExportEvent, deadline: float | None) -> DicomExportResult:
        try:
            operation = self.operation_of(event)
        except DicomExportTimeoutError as error:
            if self.execution_timeout is not None and self.execution_timeout.total_seconds() < self.timeout:
                raise
            raise AirflowSensorTimeout(str(error)) from error
        if operation is None:
            return self._defer(context, deadline or time.time() + self.timeout)
        return self.record_outcome(operation, context)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> object:
        """
        Resume after a deferral, with the same outcome as without deferrals.

        :param next_method: the name of the method that resumes.
        :param next_kwargs: the method's arguments.
        :param context: the task's context.
        """
        with self._soft_failures():
            try:
                # Not Airflow's own method for sensors, where soft_fail skips for more errors than in a poke.
                return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
            except (TaskDeferralTimeout, TaskDeferralError) as error:
                if not is_deferral_timeout(error):
                    raise DicomExportError(
                        f"The trigger failed ({error}); the export itself goes on. "
                        f"Operation: {self.operation_name}",
                        operation_name=self.operation_name,
                    ) from error
                message = f"The deferral timed out. Operation: {self.operation_name}"
                return self._complete(
                    context,
                    {"status": "timeout", "operation": {"name": self.operation_name}, "message": message},
                    None,
                )

    @contextmanager
    def _soft_failures(self) -> Iterator[None]:
        """Skip the task for the errors for which Airflow skips it in a poke."""
        try:
            yield
        except AirflowSkipException:
            raise
        except (AirflowSensorTimeout, AirflowTaskTimeout, AirflowFailException) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        except DicomExportTimeoutError as error:
            # What AirflowTaskTimeout is to a task that does not defer.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Check once whether the Operation is done.

        :param context: the task's context.
        :raises DicomExportError: if the export failed, or cannot be polled.
        """
        with self.hook() as hook:
            try:
                operation = _repeating_refusals(hook.get_operation, self.operation_name)
            except DicomExportTransientError as error:
                self.log.warning("%s. The export itself goes on; polling continues.", error)
                return PokeReturnValue(is_done=False)
        if not operation.get("done"):
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self.record_outcome(operation, context))

    def _outcome(self, operation: Operation) -> DicomExportResult:
        return outcome(operation, max_failures=self.max_failures)

    def _defer(self, context: Context, deadline: float) -> NoReturn:
        execution_deadline = self.execution_deadline(context)
        earliest = deadline if execution_deadline is None else min(deadline, execution_deadline)
        self.defer_until_done(
            self.operation_name,
            deadline=earliest,
            cancel_on_kill=False,
            timeout=deferral_timeout(earliest),
            kwargs={"deadline": deadline},
        )

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, unrendered = self.kind_errors(unrendered)
        yield from sentences
        if "operation_name" not in unrendered:
            yield from parse_errors(OperationName.parse, self.operation_name)
        yield from self.polling_errors(unrendered)


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, DicomExportError) and not isinstance(error, DicomExportTransientError)


#: Repeats a refused get: one 403 or 404 may come from a replica that lags behind.
_repeating_refusals = tenacity.Retrying(
    retry=tenacity.retry_if_exception(_is_refusal),
    stop=tenacity.stop_after_attempt(MAX_CONSECUTIVE_ERRORS),
    wait=tenacity.wait_fixed(REFUSAL_PAUSE),
    reraise=True,
)
