"""The outcome of a finished Operation: a result or an error, decided here for every mode."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.export_request import transcodes
from airflow_provider_dicom.api.permissions import explain_service_agent
from airflow_provider_dicom.api_types import PERMISSION_DENIED, Counters, is_cancelled
from airflow_provider_dicom.console import logs_url
from airflow_provider_dicom.exceptions import (
    DicomExportCancelledError,
    DicomExportError,
    DicomExportPermissionError,
    DicomExportTooManyFailuresError,
    DicomExportUnavailableError,
    error_of_operation,
)

if TYPE_CHECKING:
    from airflow_provider_dicom.api_types import Operation, Status
    from airflow_provider_dicom.results import DicomExportResult


def counters(operation: Operation) -> Counters:
    """
    Read the counters of an Operation.

    :param operation: the Operation as the API returned it.
    :raises DicomExportUnavailableError: if the counters are not readable.
    """
    try:
        return Counters.of(operation)
    except ValueError:
        raise DicomExportUnavailableError(
            f"The API's answer about {operation.get('name')} holds no readable counters.", operation=operation
        ) from None


def describe_cancellation(operation: Operation) -> str:
    """
    Describe the effect of a cancellation request.

    :param operation: the Operation as the API returned it after the request.
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
    Describe the duration and the rate of a finished export; empty if the Operation holds no times.

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
    rate, unit = count.done / seconds, "s"
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
    mime_type: str | None = None,
    earliest_submission: str | None = None,
) -> DicomExportResult:
    """
    Turn a finished Operation into the export's result, or raise the error that it ended with.

    Error and counters decide together: an Operation of which some instances failed may end with an error or
    without one.

    :param operation: the finished Operation as the API returned it.
    :param max_failures: instances that may fail: a count, or a float share of all.
    :param dicom_store: the full name of the DICOM store, if it is known.
    :param destination: the URI of the destination, if it is known.
    :param filter_uri: the URI of the filter file, if there is one.
    :param mime_type: the format of the files, if it is known and not the one as uploaded.
    :param earliest_submission: the time of an earlier submission that may have written the output, too.
    :raises DicomExportCancelledError: if the Operation was cancelled.
    :raises DicomExportPermissionError: if the Healthcare Service Agent lacks a role on bucket, table or file.
    :raises DicomExportInvalidRequestError: if the Operation ended with a code that no retry mends.
    :raises DicomExportNotFoundError: if the Operation ended because a resource does not exist.
    :raises DicomExportOperationFailedError: if the Operation ended with any other error.
    :raises DicomExportTooManyFailuresError: if more instances failed than ``max_failures`` allows.
    """
    name = operation["name"]
    count = counters(operation)
    export = f"The export of {dicom_store} to {destination}" if dicom_store else "The export"
    logs = logs_url(operation, dicom_store)
    trace = f"{_transcoding_limits(mime_type, count)}Operation: {name}. Logs: {logs}"
    allowed = allowed_failures(max_failures, count.total)
    is_partial = _is_partial(operation, count, destination, filter_uri)
    if "error" in operation and not (is_partial and count.failure <= allowed):
        limit = f"max_failures={max_failures} allows {allowed} failed instances. " if is_partial else ""
        raise _error(operation, export, f"{count}. {limit}{trace}", destination, filter_uri)
    if count.failure > allowed:
        raise DicomExportTooManyFailuresError(
            f"{export} ended with {count.failure} failed of {count.total} instances; "
            f"max_failures={max_failures} allows {allowed}. The logs list each failed instance with its "
            f"cause; remove the causes and export again, or allow more failures. {trace}",
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
        "logs_url": logs,
        "snapshot_time": _earlier(metadata.get("createTime"), earliest_submission),
    }


def _transcoding_limits(mime_type: str | None, count: Counters) -> str:
    """
    Return a sentence about the limits that failed instances may have exceeded; or nothing.

    Google does not document the message of such an instance, so that it cannot be recognized.
    """
    if not count.failure or not transcodes(mime_type):
        return ""
    return (
        f"mime_type={mime_type!r} makes the API transcode, which it does only for files up to 1 GB and "
        "frames up to 150 MB: larger instances fail, but can be exported as uploaded, without mime_type. "
    )


def _earlier(created: str | None, other: str | None) -> str | None:
    if created is None or other is None:
        return created if other is None else other
    return min(created, other, key=datetime.fromisoformat)


def _is_partial(
    operation: Operation, count: Counters, destination: str | None, filter_uri: str | None
) -> bool:
    """
    Tell whether an Operation exported all but some instances.

    A counter of zero is left out, so that an Operation that failed as a whole may hold no pending instances,
    either: without an exported and a failed instance, an error is one of the whole export.
    """
    status = operation.get("error", {})
    message = status.get("message") or ""
    return (
        count.success > 0
        and count.failure > 0
        and count.pending == 0
        and not is_cancelled(operation)
        and not operation.get("metadata", {}).get("cancelRequested")
        and status.get("code") != PERMISSION_DENIED
        and explain_service_agent(message, operation["name"], destination=destination, source=filter_uri)
        is None
    )


def describe_accepted_error(operation: Operation, dicom_store: str | None = None) -> str:
    """
    Describe the error of an Operation whose failed instances ``max_failures`` allows.

    :param operation: the finished Operation as the API returned it.
    :param dicom_store: the full name of the DICOM store, if it is known.
    """
    status = operation.get("error", {})
    return (
        f"The export ended with {_code_name(status.get('code'))}: {_message(status)}. It counts as partial, "
        f"because max_failures allows the failed instances: {counters(operation)}. "
        f"Operation: {operation['name']}. Logs: {logs_url(operation, dicom_store)}"
    )


def _message(status: Status) -> str:
    return (status.get("message") or "no message").rstrip(".")


def _error(
    operation: Operation, export: str, progress: str, destination: str | None, filter_uri: str | None
) -> DicomExportError:
    status = operation.get("error", {})
    message = _message(status)
    partial = f"Part of the output may be there: {progress}"
    if is_cancelled(operation):
        return DicomExportCancelledError(f"{export} was cancelled: {message}. {partial}", operation=operation)
    text = f"{export} failed with {_code_name(status.get('code'))}: {message}. {partial}"
    agent = explain_service_agent(message, operation["name"], destination=destination, source=filter_uri)
    if agent:
        return DicomExportPermissionError(f"{text}. {agent}", operation=operation)
    return error_of_operation(status.get("code"))(text, operation=operation)


def _code_name(code: int | None) -> str:
    # Imported where it is used: DAG files must stay cheap to parse.
    from google.rpc.code_pb2 import Code  # type: ignore[import-untyped]

    try:
        return f"{Code.Name(code)} (code {code})"
    except (TypeError, ValueError):
        return f"code {code}"


def allowed_failures(max_failures: int | float, total: int) -> int:
    """
    Turn ``max_failures`` into a number of instances.

    :param max_failures: a count, or a float share of all.
    :param total: all instances of the export.
    """
    if isinstance(max_failures, float):
        # 0.29 * 100 is 28.999...: a share of exactly 29 instances has to allow 29.
        return math.floor(round(max_failures * total, 6))
    return max_failures
