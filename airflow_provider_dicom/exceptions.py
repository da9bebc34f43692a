"""
The error hierarchy. Its root is an ``AirflowException``.

::

    DicomExportError
    |-- DicomExportInvalidRequestError          a parameter or the request is wrong         not retried
    |-- DicomExportNotFoundError                a resource does not exist                   not retried
    |-- DicomExportPermissionError              an IAM role is missing                      retried
    |-- DicomExportAuthenticationError          credentials are missing or not accepted     retried
    |-- DicomExportTransientError               the same request may succeed later          retried
    |   |-- DicomExportQuotaExhaustedError      HTTP 429                                    retried
    |   `-- DicomExportUnavailableError         no answer, a 5xx, or an unreadable answer   retried
    |-- DicomExportSubmissionUnknownError       the reply to a submission was lost          retried
    |   `-- DicomExportDuplicateRiskError       a resubmission could write rows twice       not retried
    |-- DicomExportOperationFailedError         the Operation ended with an error           retried
    |-- DicomExportCancelledError               the Operation was cancelled                 retried
    |-- DicomExportTimeoutError                 the deadline passed                         retried
    |-- DicomExportTooManyFailuresError         more instances failed than max_failures     retried
    `-- DicomExportIncompleteError              instances are missing at the destination    retried

"retried" means that Airflow applies the task's ``retries``; errors that are "not retried" are also
``AirflowFailException``, so that Airflow fails the task at once. The table above is about whole tasks:
requests that fail with a transient error are repeated within one try already (``api/retry.py``).

This module imports no HTTP or Google library, so that DAG files and the retry policies of Airflow 3.3 can
name the errors cheaply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dicom import console
from airflow_provider_dicom.api_types import Counters

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.results import DicomExportCheckResult


class DicomExportError(AirflowException):
    """
    Root of all errors of this provider.

    :param message: what failed, on which resource, the API's own message, and what to do next.
    :param operation_name: the full name of the Operation, if the error is about one.
    :param operation: the Operation as the API returned it last, if the API returned it at all.
    """

    def __init__(
        self, message: str = "", *, operation_name: str | None = None, operation: Operation | None = None
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.operation_name = operation_name or (operation["name"] if operation else None)

    @property
    def message(self) -> str:
        """The whole text of the error."""
        return str(self)

    @property
    def counters(self) -> Counters | None:
        """The counters of the Operation; None if the error carries no Operation with readable counters."""
        if self.operation is None:
            return None
        try:
            return Counters.of(self.operation)
        except ValueError:
            return None

    @property
    def logs_url(self) -> str | None:
        """The address of the Operation's logs; None if the error is not about an Operation."""
        if self.operation_name is None:
            return None
        return console.logs_url(self.operation or {"name": self.operation_name})


class DicomExportInvalidRequestError(DicomExportError, AirflowFailException):
    """
    A parameter or the request is wrong, and a retry cannot change that: Airflow does not retry the task.
    """


class DicomExportNotFoundError(DicomExportError, AirflowFailException):
    """A resource does not exist: Airflow does not retry the task."""


class DicomExportPermissionError(DicomExportError):
    """An IAM role is missing; the message names the role, its holder and the command that grants it."""


class DicomExportAuthenticationError(DicomExportError):
    """The API does not accept the connection's credentials, or the connection yields none."""


class DicomExportTransientError(DicomExportError):
    """
    A request failed that may succeed when it is sent again.

    :param safe_to_resend: the server certainly did not process the request, so that even a request that is
        not idempotent may be sent again.
    :param retry_after: the pause that the server asked for, in seconds.
    """

    def __init__(
        self,
        message: str = "",
        *,
        safe_to_resend: bool = False,
        retry_after: float | None = None,
        operation_name: str | None = None,
        operation: Operation | None = None,
    ) -> None:
        super().__init__(message, operation_name=operation_name, operation=operation)
        self.safe_to_resend = safe_to_resend
        self.retry_after = retry_after


class DicomExportQuotaExhaustedError(DicomExportTransientError):
    """A quota of the project is exhausted at the moment (HTTP 429)."""


class DicomExportUnavailableError(DicomExportTransientError):
    """The API could not be reached, failed temporarily, or sent an unreadable answer."""


class DicomExportSubmissionUnknownError(DicomExportError):
    """
    The reply to a submission was lost: the export may or may not have been accepted.

    :param retry_after: the pause that the server asked for, in seconds.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DicomExportDuplicateRiskError(DicomExportSubmissionUnknownError, AirflowFailException):
    """A resubmission could write the same rows twice: Airflow does not retry the task."""


class DicomExportOperationFailedError(DicomExportError):
    """The Operation ended with an error, possibly after it had written part of its output."""


class DicomExportCancelledError(DicomExportError):
    """The Operation was cancelled, possibly after it had written part of its output."""


class DicomExportTimeoutError(DicomExportError):
    """The deadline passed before the Operation ended."""


class DicomExportTooManyFailuresError(DicomExportError):
    """The Operation ended, but more instances failed than ``max_failures`` allows."""


class DicomExportIncompleteError(DicomExportError):
    """
    Instances that an export should have written are not at its destination.

    :param result: the result of the check.
    """

    def __init__(self, message: str = "", *, result: DicomExportCheckResult | None = None) -> None:
        super().__init__(message)
        self.result = result
