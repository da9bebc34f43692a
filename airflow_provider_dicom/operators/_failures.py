"""
The causes of failed instances in a task: in its log, its error, its XComs and the tab.

The outcome is decided before, by the counters. Whatever happens while causes are looked up, the task ends as
it would without them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.foreign_text import printable
from airflow_provider_dicom.exceptions import DicomExportError, DicomExportTimeoutError
from airflow_provider_dicom.longrunning.failures import (
    WAIT_SECONDS,
    describe_cause,
    describe_causes,
    describe_known,
)
from airflow_provider_dicom.longrunning.outcome import counters
from airflow_provider_dicom.longrunning.progress import write_from_worker
from airflow_provider_dicom.operators._long_running import LongRunningOperator
from airflow_provider_dicom.results import FAILURES_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.results import DicomExportFailures, DicomExportResult

#: The time before the deadline in which nothing is read any more, in seconds: longer than a read may take.
RESERVE = 30.0


class FailureListingOperator(LongRunningOperator):
    """An operator that lists the instances that its Operation could not export."""

    list_failures: bool

    def store_of(self, operation: Operation) -> DicomStoreName:
        """
        Return the DICOM store of an Operation.

        :param operation: the Operation.
        """
        raise NotImplementedError

    def record_outcome(self, operation: Operation, context: Context) -> DicomExportResult:
        """
        Return the result of a finished Operation, after listing the instances that failed.

        :param operation: the finished Operation.
        :param context: the task's context.
        :raises DicomExportError: if the Operation failed, or more instances failed than ``max_failures``
            allows.
        """
        try:
            result = super().record_outcome(operation, context)
        except DicomExportError as error:
            if (failures := self._list_failures(operation, context, is_accepted=False)) is not None:
                error.failures = failures
                error.args = (f"{error} {describe_causes(failures)}",)
            raise
        self._list_failures(operation, context, is_accepted=True)
        return result

    def _list_failures(
        self, operation: Operation, context: Context, *, is_accepted: bool
    ) -> DicomExportFailures | None:
        if not self.list_failures:
            return None
        try:
            if not counters(operation).failure:
                return None
            failures = self._read_failures(operation, context)
            self.log.warning("%s.", describe_known(failures))
            for cause in failures["causes"]:
                self.log.warning("%s", describe_cause(cause))
            if failures["more_causes"]:
                self.log.warning("Further causes, in the logs of the operation: %d.", failures["more_causes"])
        except Exception as error:  # the outcome is decided, and must not depend on the causes
            text = str(error) if isinstance(error, DicomExportError) else type(error).__name__
            self.log.warning("The causes of the failed instances are not known: %s", printable(text))
            return None
        write_from_worker(context["ti"], operation, is_accepted=is_accepted, failures=failures, log=self.log)
        try:
            context["ti"].xcom_push(key=FAILURES_KEY, value=failures["failures"])
        except Exception as error:  # Airflow may raise anything here
            self.log.warning("Airflow did not store the XCom with the failed instances: %s", error)
        return failures

    def _read_failures(self, operation: Operation, context: Context) -> DicomExportFailures:
        deadline = self.execution_deadline(context)
        seconds = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.time() - RESERVE)
        if seconds <= 0:
            raise DicomExportTimeoutError("the deadline of the task leaves no time to read Cloud Logging")
        with self.hook() as hook:
            return hook.list_failures(
                operation, self.store_of(operation), wait_seconds=seconds, sleep=self._guard.sleep
            )
