"""What is submitted, what a deferral carries of it, and what an attempt to submit it may lead to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from airflow_provider_dicom.exceptions import DicomExportDestinationNotEmptyError
from airflow_provider_dicom.operators._submission_record import record_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.exceptions import DicomExportError, DicomExportQuotaExhaustedError
    from airflow_provider_dicom.operators._submission_record import Unknown
    from airflow_provider_dicom.results import DicomExportResult

#: BigQuery's words for a table that ``WRITE_EMPTY`` may not touch.
_HAS_DATA = re.compile(r"already exists|not empty", re.IGNORECASE)


class Decision(TypedDict):
    """
    What the first rendering of the templates decided, as the kwargs of a deferral carry it.

    Airflow renders templates again on every resume, and an upstream task may be cleared meanwhile.
    """

    dicom_store: str
    request: dict[str, object]
    filter_digest: str | None
    is_filter_written: bool
    unknown_since: str | None
    unknown_until: str | None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """
    The submission of a long-running operation, ready to be sent.

    :param request: the request; later tries compare it with theirs.
    :param send: sends the request, and returns the Operation.
    :param state_key: the key of the records in the task state.
    :param api_method: the suffix of the Operation's ``apiMethodName``.
    :param duplicate_risk: the damage that a second submission could do, to follow "because"; None if a second
        submission leaves the same data as the first one alone.
    :param overwrites: a later submission replaces what an earlier one wrote.
    :param filter_digest: a digest of the filter file's content; None without a filter file.
    :param is_filter_written: the task itself writes the filter file.
    :param prepare: has to be called before the request is sent.
    """

    request: ApiRequest
    send: Callable[[], Operation]
    state_key: str
    api_method: str
    duplicate_risk: str | None
    overwrites: bool = True
    filter_digest: str | None = None
    is_filter_written: bool = False
    prepare: Callable[[], None] = lambda: None

    @property
    def repeatable(self) -> bool:
        """Whether a second submission leaves the same data as the first one alone."""
        return self.duplicate_risk is None

    @property
    def only_into_empty(self) -> bool:
        """Whether the API refuses to write where data is."""
        return self.repeatable and not self.overwrites

    @property
    def record_key(self) -> str:
        """The key of the submission's record."""
        return record_key(str(self.request.store), self.request.destination)

    def decision(self, unknown: Unknown) -> Decision:
        """
        Return what a deferral carries.

        :param unknown: the time in which earlier submissions may have been accepted.
        """
        return {
            "dicom_store": str(self.request.store),
            "request": dict(self.request.body or {}),
            "filter_digest": self.filter_digest,
            "is_filter_written": self.is_filter_written,
            **unknown,
        }


@dataclass(frozen=True)
class SubmittedOperation:
    """
    The Operation that the task waits for.

    :param operation: the Operation as the API returned it last.
    :param reattached: an earlier try submitted the Operation.
    """

    operation: Operation
    reattached: bool


@dataclass(frozen=True)
class DeliveredResult:
    """
    The result that an earlier try delivered.

    :param operation_name: the full name of the Operation.
    :param result: the result, or the Operation's name if that try did not wait.
    """

    operation_name: str
    result: DicomExportResult | str


@dataclass(frozen=True)
class Predecessor:
    """
    An Operation that has to end before the request is sent.

    :param operation_name: the full name of the Operation.
    :param is_own: the task has submitted the Operation, so that it may be cancelled.
    """

    operation_name: str
    is_own: bool


@dataclass(frozen=True)
class QuotaRefusal:
    """
    A submission that the API refused for a quota; nothing was submitted.

    :param error: the error of the submission.
    """

    error: DicomExportQuotaExhaustedError


Step = SubmittedOperation | DeliveredResult | Predecessor | QuotaRefusal


def destination_error(
    error: DicomExportError, *, destination: str | None, list_operations_command: str
) -> DicomExportDestinationNotEmptyError | None:
    """
    Explain the error of an export into a table that an earlier submission may have filled, or return None.

    :param error: the error of the submission or of its Operation.
    :param destination: the URI of the destination.
    :param list_operations_command: the command that lists the dataset's Operations.
    """
    if not _HAS_DATA.search(str(error)):
        return None
    return DicomExportDestinationNotEmptyError(
        f"{str(error).rstrip('.')}. An earlier submission of this task, whose operation is not known, may "
        f"have filled {destination}: the data may be complete. A DicomStoreExportCheckOperator tells whether "
        f"it is; the dataset's operations ({list_operations_command}) show what ran. If it is not complete, "
        "empty the table, then clear the task.",
        operation_name=error.operation_name,
        operation=error.operation,
    )
