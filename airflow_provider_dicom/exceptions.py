"""What can go wrong with a DICOM export, one class for each thing a user would handle differently.

All of them are importable without any HTTP or Google library, so that DAG files and Airflow 3.3 retry
policies can name them cheaply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from airflow_provider_dicom.longrunning.outcome import Counters, Operation
    from airflow_provider_dicom.results import DicomExportCheckResult


class DicomExportError(AirflowException):
    """
    Root of all errors of this provider.

    :param message: what failed, on which resource, with the API's own words, and what to do next.
    :param operation_name: the full name of the Operation concerned, where there is one.
    :param operation: the Operation as the API returned it last, where it was seen.
    """

    def __init__(
        self, message: str = "", *, operation_name: str | None = None, operation: Operation | None = None
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.operation_name = operation_name or (operation or {}).get("name")

    @property
    def message(self) -> str:
        """The whole text of the error."""
        return str(self)

    @property
    def counters(self) -> Counters | None:
        """How far the export had come, where an Operation was seen."""
        if self.operation is None:
            return None
        from airflow_provider_dicom.longrunning.outcome import counters

        return counters(self.operation)

    @property
    def logs_url(self) -> str | None:
        """The address of the Operation's logs, where an Operation is concerned."""
        if self.operation_name is None:
            return None
        from airflow_provider_dicom.longrunning.outcome import logs_url

        return logs_url(self.operation or {"name": self.operation_name})


class DicomExportInvalidRequestError(DicomExportError, AirflowFailException):
    """The request is wrong and stays wrong: Airflow does not retry the task."""


class DicomExportNotFoundError(DicomExportError, AirflowFailException):
    """A resource does not exist: Airflow does not retry the task."""


class DicomExportPermissionError(DicomExportError):
    """Somebody lacks an IAM role; the message names the role, its holder and the command that grants it."""


class DicomExportAuthenticationError(DicomExportError):
    """The API does not accept the connection's credentials, or none could be obtained."""


class DicomExportTransientError(DicomExportError):
    """
    A request that may succeed when it is sent again.

    :param not_accepted: the server certainly did not carry the request out.
    :param retry_after: the pause that the server asked for, in seconds.
    """

    def __init__(
        self,
        message: str = "",
        *,
        not_accepted: bool = False,
        retry_after: float | None = None,
        operation_name: str | None = None,
        operation: Operation | None = None,
    ) -> None:
        super().__init__(message, operation_name=operation_name, operation=operation)
        self.not_accepted = not_accepted
        self.retry_after = retry_after


class DicomExportQuotaExhaustedError(DicomExportTransientError):
    """A quota of the project is used up for the moment (HTTP 429)."""


class DicomExportUnavailableError(DicomExportTransientError):
    """The API could not be reached, or answered with a passing fault."""


class DicomExportSubmissionUnknownError(DicomExportError):
    """
    The reply to a submission was lost: the export may or may not have been accepted.

    :param retry_after: the pause that the server asked for, in seconds.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DicomExportDuplicateRiskError(DicomExportSubmissionUnknownError, AirflowFailException):
    """Submitting again could write the same rows twice: Airflow does not retry the task."""


class DicomExportOperationFailedError(DicomExportError):
    """The Operation ended with an error; it may have written part of its output."""


class DicomExportCancelledError(DicomExportError):
    """The Operation was cancelled; it may have written part of its output."""


class DicomExportTimeoutError(DicomExportError):
    """The deadline passed before the Operation ended."""


class DicomExportTooManyFailuresError(DicomExportError):
    """The Operation ended, but more instances failed than ``max_failures`` allows."""


class DicomExportIncompleteError(DicomExportError):
    """
    Instances that an export should have written are not at its destination.

    :param result: what the check found.
    """

    def __init__(self, message: str = "", *, result: DicomExportCheckResult | None = None) -> None:
        super().__init__(message)
        self.result = result
