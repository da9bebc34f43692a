"""The Operation of an export: its shape, its counters, and the one judgement of how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from airflow_provider_dicom import console
from airflow_provider_dicom.api.permissions import explain_service_agent
from airflow_provider_dicom.exceptions import (
    DicomExportCancelledError,
    DicomExportError,
    DicomExportOperationFailedError,
    DicomExportPermissionError,
    DicomExportTooManyFailuresError,
    DicomExportUnavailableError,
)

if TYPE_CHECKING:
    from airflow_provider_dicom.results import DicomExportResult

CANCELLED = 1
"""``google.rpc.Code`` of an Operation that was cancelled."""


class ProgressCounter(TypedDict, total=False):
    """``ProgressCounter`` of the API: int64 as strings, each left out when zero."""

    success: str
    failure: str
    pending: str
    secondarySuccess: str
    secondaryFailure: str


class OperationMetadata(TypedDict, total=False):
    """``OperationMetadata`` of the API."""

    apiMethodName: str
    createTime: str
    endTime: str
    logsUrl: str
    cancelRequested: bool
    counter: ProgressCounter


class Status(TypedDict, total=False):
    """``Status`` of the API."""

    code: int
    message: str
    details: list[dict[str, object]]


class Operation(TypedDict, total=False):
    """``Operation`` of the API; it may be only a name, which means that it is running."""

    name: str
    done: bool
    error: Status
    response: dict[str, object]
    metadata: OperationMetadata


class OperationPage(TypedDict, total=False):
    """``ListOperationsResponse`` of the API."""

    operations: list[Operation]
    nextPageToken: str


@dataclass(frozen=True)
class Counters:
    """
    How far an export has come.

    :param success: instances exported.
    :param failure: instances that could not be exported.
    :param pending: instances still to do.
    """

    success: int = 0
    failure: int = 0
    pending: int = 0

    @property
    def total(self) -> int:
        """All instances that the export is about, as far as the API knows them."""
        return self.success + self.failure + self.pending

    def __str__(self) -> str:
        return f"{self.success} exported, {self.failure} failed, {self.pending} pending"


def counters(operation: Operation) -> Counters:
    """
    Read the counters of an Operation.

    :param operation: the Operation as the API returned it.
    :raises DicomExportUnavailableError: if they are not readable.
    """
    try:
        counter = operation.get("metadata", {}).get("counter", {})
        return Counters(
            success=int(counter.get("success", 0)),
            failure=int(counter.get("failure", 0)),
            pending=int(counter.get("pending", 0)),
        )
    except (AttributeError, TypeError, ValueError):
        # To take them for zero would turn failed instances into a success.
        raise DicomExportUnavailableError(
            f"The API's answer about {operation.get('name')} holds no readable counters.", operation=operation
        ) from None


def logs_url(operation: Operation) -> str:
    """
    Find the address of an Operation's logs.

    :param operation: the Operation as the API returned it.
    """
    return operation.get("metadata", {}).get("logsUrl") or console.operation_logs_url(operation["name"])


def is_cancelled(operation: Operation) -> bool:
    """
    Tell whether an Operation ended because it was cancelled.

    :param operation: the Operation as the API returned it.
    """
    return operation.get("error", {}).get("code") == CANCELLED


def describe_cancellation(operation: Operation) -> str:
    """
    Say what came of asking for an Operation to be cancelled.

    :param operation: the Operation as it was seen after that.
    """
    if is_cancelled(operation):
        state = "is cancelled, as the API confirms"
    elif operation.get("done"):
        state = "had ended before it could be cancelled"
    else:
        state = "was asked to stop; the API has not confirmed it yet"
    return f"{operation['name']} {state}. It had come to: {counters(operation)}"


def describe_speed(operation: Operation) -> str:
    """
    Say how long a finished export took and how fast it was; empty if the API does not tell its times.

    :param operation: the Operation as the API returned it.
    """
    metadata = operation.get("metadata", {})
    try:
        begun = datetime.fromisoformat(metadata["createTime"])
        seconds = (datetime.fromisoformat(metadata["endTime"]) - begun).total_seconds()
    except (KeyError, TypeError, ValueError):
        return ""
    if seconds <= 0:
        return ""
    count = counters(operation)
    rate, unit = (count.success + count.failure) / seconds, "s"
    if rate < 1:
        rate, unit = rate * 60, "min"
    return f" in {seconds:.{0 if seconds >= 10 else 1}f} s ({rate:.1f} instances/{unit})"


def outcome(
    operation: Operation,
    *,
    max_failures: int | float = 0,
    dicom_store: str | None = None,
    destination: str | None = None,
    filter_uri: str | None = None,
) -> DicomExportResult:
    """
    Judge how a finished export ended: its error first, then its counters.

    :param operation: the finished Operation as the API returned it.
    :param max_failures: instances that may fail: a count, or a float share of all.
    :param dicom_store: the full name of the DICOM store, where it is known.
    :param destination: the URI of the destination, where it is known.
    :param filter_uri: the URI of the filter file, if there is one.
    :raises DicomExportCancelledError: if it was cancelled.
    :raises DicomExportPermissionError: if the service agent may not read or write what it has to.
    :raises DicomExportOperationFailedError: if it ended with any other error.
    :raises DicomExportTooManyFailuresError: if more instances failed than allowed.
    """
    name = operation["name"]
    count = counters(operation)
    what = f"The export of {dicom_store} to {destination}" if dicom_store else "The export"
    trace = f"Operation: {name}. Logs: {logs_url(operation)}"
    if "error" in operation:
        raise _error(operation, what, f"{count}. {trace}", destination, filter_uri)
    allowed = allowed_failures(max_failures, count.total)
    if count.failure > allowed:
        raise DicomExportTooManyFailuresError(
            f"{what} ended with {count.failure} failed of {count.total} instances; "
            f"max_failures={max_failures} allows {allowed}. What failed and why, instance by instance, is in "
            f"the logs; export again once it is mended, or allow more failures. {trace}",
            operation=operation,
        )
    metadata = operation.get("metadata", {})
    return {
        "operation_name": name,
        "dicom_store": dicom_store,
        "destination": destination,
        "state": "PARTIAL" if count.failure else "SUCCEEDED",
        "success": count.success,
        "failure": count.failure,
        "pending": count.pending,
        "create_time": metadata.get("createTime"),
        "end_time": metadata.get("endTime"),
        "logs_url": logs_url(operation),
    }


def _error(
    operation: Operation, what: str, progress: str, destination: str | None, filter_uri: str | None
) -> DicomExportError:
    status = operation.get("error", {})
    message = (status.get("message") or "no message").rstrip(".")
    partial = f"Part of the output may be there: {progress}"
    if is_cancelled(operation):
        return DicomExportCancelledError(f"{what} was cancelled: {message}. {partial}", operation=operation)
    text = f"{what} failed with code {status.get('code')}: {message}. {partial}"
    agent = explain_service_agent(message, operation["name"], destination=destination, filter_uri=filter_uri)
    if agent:
        return DicomExportPermissionError(f"{text}. {agent}", operation=operation)
    return DicomExportOperationFailedError(text, operation=operation)


def allowed_failures(max_failures: int | float, total: int) -> int:
    """
    Turn ``max_failures`` into a number of instances.

    :param max_failures: a count, or a float share of all.
    :param total: all instances of the export.
    """
    if isinstance(max_failures, float):
        # 0.29 * 100 is 28.999...: a share that names a whole number of instances has to allow it.
        return math.floor(round(max_failures * total, 6))
    return max_failures


def max_failures_mistake(value: object) -> str | None:
    """
    Say what is wrong with ``max_failures``, or return None.

    :param value: the parameter's value.
    """
    accepted = "a count from 0 (int), or a share from 0.0 to 1.0 of all instances (float)"
    # A bool is an int to Python, but nobody who writes max_failures=True means one instance.
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    is_share = isinstance(value, float) and 0.0 <= value <= 1.0
    return None if is_count or is_share else f"max_failures={value!r} is not accepted; accepted: {accepted}."
