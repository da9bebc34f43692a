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
    |   |-- DicomExportDuplicateRiskError       a resubmission could write rows twice       not retried
    |   `-- DicomExportDestinationNotEmptyError the lost submission may have filled it  not retried
    |-- DicomExportOperationFailedError         the Operation ended with any other error    retried
    |-- DicomExportCancelledError               the Operation was cancelled                 retried
    |-- DicomExportTimeoutError                 the deadline passed                         retried
    |-- DicomExportTooManyFailuresError         more instances failed than max_failures     retried
    `-- DicomExportIncompleteError              instances are missing at the destination    retried

An Operation that ends with a code that the API also answers requests with, such as NOT_FOUND, ends the task
with the same error (``error_of_operation``); the error carries the Operation.

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
    from airflow_provider_dicom.results import DicomExportCheckResult, DicomExportFailures


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
        #: What Cloud Logging tells of the failed instances; None if it was not read.
        self.failures: DicomExportFailures | None = None

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

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        operation_name: str | None = None,
        operation: Operation | None = None,
    ) -> None:
        super().__init__(message, operation_name=operation_name, operation=operation)
        self.retry_after = retry_after


class DicomExportDuplicateRiskError(DicomExportSubmissionUnknownError, AirflowFailException):
    """A resubmission could write the same rows twice: Airflow does not retry the task."""


class DicomExportDestinationNotEmptyError(DicomExportSubmissionUnknownError, AirflowFailException):
    """
    The table has rows already, perhaps those of an earlier submission whose reply was lost: Airflow does not
    retry the task.
    """


class DicomExportOperationFailedError(DicomExportError):
    """
    The Operation ended with an error that a retry may mend, possibly after it had written part of its output.
    """


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


#: The error of each ``google.rpc.Code``, by its HTTP status and its number: the same whether the API answers
#: a request with it or an Operation ends with it. The errors of codes that no retry mends are not retried.
_CODES: tuple[tuple[int, int, type[DicomExportError]], ...] = (
    (400, 3, DicomExportInvalidRequestError),  # INVALID_ARGUMENT
    (400, 9, DicomExportInvalidRequestError),  # FAILED_PRECONDITION
    (400, 11, DicomExportInvalidRequestError),  # OUT_OF_RANGE
    (401, 16, DicomExportAuthenticationError),  # UNAUTHENTICATED
    (403, 7, DicomExportPermissionError),  # PERMISSION_DENIED
    (404, 5, DicomExportNotFoundError),  # NOT_FOUND
    (409, 6, DicomExportInvalidRequestError),  # ALREADY_EXISTS
    (429, 8, DicomExportQuotaExhaustedError),  # RESOURCE_EXHAUSTED
    (500, 2, DicomExportUnavailableError),  # UNKNOWN
    (500, 13, DicomExportUnavailableError),  # INTERNAL
    (500, 15, DicomExportUnavailableError),  # DATA_LOSS
    (501, 12, DicomExportInvalidRequestError),  # UNIMPLEMENTED
    (503, 14, DicomExportUnavailableError),  # UNAVAILABLE
    (504, 4, DicomExportUnavailableError),  # DEADLINE_EXCEEDED
)
_BY_STATUS = {status: error for status, _, error in _CODES} | dict.fromkeys(
    (408, 425, 502),
    DicomExportUnavailableError,  # statuses of HTTP alone
)
_BY_CODE = {code: error for _, code, error in _CODES}


def error_of_status(status: int) -> type[DicomExportError]:
    """
    Return the error that an HTTP status stands for.

    :param status: the status of the API's answer.
    """
    return _BY_STATUS.get(status, DicomExportInvalidRequestError)


def error_of_operation(code: int | None) -> type[DicomExportError]:
    """
    Return the error of an Operation that ended with a ``google.rpc.Code``.

    An Operation has no answer that could be better at the next attempt: what is transient for a request is
    the failure of that Operation.

    :param code: the code.
    """
    error = _BY_CODE.get(code or 0, DicomExportOperationFailedError)
    return DicomExportOperationFailedError if issubclass(error, DicomExportTransientError) else error
