"""What an answer of the API means: its JSON, or the error that it amounts to."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.permissions import explain_caller, explain_service_agent
from airflow_provider_dicom.exceptions import (
    DicomExportAuthenticationError,
    DicomExportError,
    DicomExportInvalidRequestError,
    DicomExportNotFoundError,
    DicomExportPermissionError,
    DicomExportQuotaExhaustedError,
    DicomExportUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_dicom.api.methods import ApiRequest

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Answers by which a server says that it did not carry a request out. A 5xx does not say so.
_NOT_ACCEPTED = frozenset({408, 425, 429})
#: Refusals with a 403 that no role can lift.
_POLICY = re.compile(
    r"has not been used in project|it is disabled|VPC Service Controls|organization's policy"
)
_LONGEST_QUOTE = 500
#: A server may ask for a long pause, but not for one that hides an outage, in seconds.
LONGEST_RETRY_AFTER = 600.0


def decode(
    request: ApiRequest, status: int, headers: Mapping[str, str], body: bytes, caller: str | None
) -> object:
    """
    Read the JSON of an answer, or raise the error that it amounts to.

    :param request: the request that was answered.
    :param status: the HTTP status.
    :param headers: the headers, looked up without regard to case.
    :param body: the body as it came.
    :param caller: the e-mail address of the caller's account, where it is known.
    :raises DicomExportError: the error that the answer amounts to.
    """
    if status == 204:
        return request.answer()
    if 200 <= status < 300:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, request.answer):
            raise DicomExportUnavailableError(
                # Not quoted: the body of a search holds patient data.
                f"Could not {request.action}: the API answered {status}, but the body ({len(body)} bytes of "
                f"{headers.get('Content-Type', 'no content type')}) is not the JSON expected. A proxy may "
                "have answered in its place, or the connection broke.",
                operation_name=request.operation_name,
            )
        return answer
    raise _error(request, status, headers, _message(body), caller)


def _error(
    request: ApiRequest, status: int, headers: Mapping[str, str], message: str, caller: str | None
) -> DicomExportError:
    text = f"Could not {request.action}: {status} {message}"
    operation_name = request.operation_name
    if status in RETRYABLE:
        kind = DicomExportQuotaExhaustedError if status == 429 else DicomExportUnavailableError
        return kind(
            f"{text}{_quota_advice(request) if status == 429 else ''}",
            not_accepted=status in _NOT_ACCEPTED,
            retry_after=retry_after(headers.get("Retry-After")),
            operation_name=operation_name,
        )
    # Whether the API says with a 400 or a 403 that its agent may not write is not documented.
    if request.export is not None and (
        agent := explain_service_agent(
            message,
            str(request.dataset),
            destination=request.export.destination,
            filter_uri=request.export.filter_uri,
        )
    ):
        return DicomExportPermissionError(f"{text}. {agent}")
    if status == 401:
        return DicomExportAuthenticationError(
            f"{text}. The credentials of the connection are not accepted, and a new token did not help: "
            "check the connection's key, impersonation chain and scopes (cloud-platform or -healthcare).",
            operation_name=operation_name,
        )
    if status == 403 and (policy := _POLICY.search(message)):
        return DicomExportPermissionError(
            f"{text}. {_export_goes_on(request)}This is not about a role ({policy.group()}): ask the "
            "administrators of the project.",
            operation_name=operation_name,
        )
    if status == 403:
        return DicomExportPermissionError(
            f"{text}. {_export_goes_on(request)}"
            f"{explain_caller(request.permission, request.dataset, request.store, caller)}",
            operation_name=operation_name,
        )
    if status == 404:
        return DicomExportNotFoundError(
            f"{text}. {_not_found_advice(request)}", operation_name=operation_name
        )
    return DicomExportInvalidRequestError(
        f"{text}. {_invalid_advice(request)}", operation_name=operation_name
    )


def _quota_advice(request: ApiRequest) -> str:
    if request.export is None:
        return ""
    return (
        ". Google advises few concurrent exports, such as 5 for a project and region: use an Airflow pool "
        "that counts deferred tasks, or ask for more quota"
    )


def _export_goes_on(request: ApiRequest) -> str:
    if request.operation_name is None:
        return ""
    return f"The export itself goes on as {request.operation_name}. "


def _not_found_advice(request: ApiRequest) -> str:
    if request.operation_name is not None:
        return (
            "Operations are kept for about 30 days; check the name, and the destination for what the "
            f"export wrote. Operation: {request.operation_name}"
        )
    return "Check project, location, dataset and DICOM store, and that this is the right API endpoint."


def _invalid_advice(request: ApiRequest) -> str:
    if request.export is not None and request.export.destination.startswith("bq://"):
        return (
            "For BigQuery, the table's dataset must exist, in a location that goes with the DICOM store's "
            "and, as the reference has it, in the DICOM store's project; WRITE_EMPTY needs an empty table."
        )
    if request.export is not None:
        return (
            "For Cloud Storage, the bucket must exist, and the MIME type must be one that the API supports."
        )
    return "The request has to be changed before it can succeed."


def _message(body: bytes) -> str:
    """Find the API's own message; Google's error envelope may come inside a list."""
    try:
        answer = json.loads(body)
    except ValueError:
        return _quote(body)
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict):
        error = " ".join(str(error[key]) for key in ("status", "message") if error.get(key)).rstrip(".")
    return str(error) if error else _quote(body)


def _quote(body: bytes) -> str:
    text = " ".join(body.decode(errors="replace").split())
    if not text:
        return "(empty body)"
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def retry_after(value: str | None) -> float | None:
    """
    Read a ``Retry-After`` header.

    :param value: seconds, or an HTTP date.
    :return: the pause in seconds, ten minutes at the most; None if there is no readable one.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), LONGEST_RETRY_AFTER)
