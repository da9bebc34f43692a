"""
Responses of the API: decoded to JSON, or mapped to the error that the HTTP status and the body stand for.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.permissions import explain_caller, explain_service_agent
from airflow_provider_dicom.api.private_logs import digest
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
#: Statuses that mean that the server did not process the request. A 5xx does not mean that.
_SAFE_TO_RESEND = frozenset({408, 425, 429})
#: Messages of a 403 that no role can lift.
_POLICY = re.compile(
    r"has not been used in project|it is disabled|VPC Service Controls|organization's policy"
)
_LONGEST_QUOTE = 500
#: A longer ``Retry-After`` is cut, in seconds: it would hide an outage.
LONGEST_RETRY_AFTER = 600.0


def decode(
    request: ApiRequest, status: int, headers: Mapping[str, str], body: bytes, caller: str | None
) -> object:
    """
    Decode the JSON of a response, or raise the error that the response stands for.

    :param request: the request of the response.
    :param status: the HTTP status.
    :param headers: the headers; lookups ignore case.
    :param body: the body as received.
    :param caller: the e-mail address of the caller's account, if it is known.
    :raises DicomExportError: if the response is an error or not the expected JSON.
    """
    if status == 204:
        return request.response()
    if 200 <= status < 300:
        try:
            decoded = json.loads(body)
        except ValueError:
            decoded = None
        if not isinstance(decoded, request.response):
            content_type = headers.get("Content-Type", "no content type")
            # The response to a search holds patient data: nothing of it is quoted.
            described = f"{len(body)} bytes{'' if request.is_private else f' of {content_type}'}"
            raise DicomExportUnavailableError(
                f"Could not {request.action}: the API answered {status}, but the body ({described}) is not "
                "the expected JSON. A proxy may have answered instead of the API, or the connection broke.",
                operation_name=request.operation_name,
            )
        return decoded
    raise _error(request, status, headers, _message(body), caller)


def _error(
    request: ApiRequest, status: int, headers: Mapping[str, str], message: str, caller: str | None
) -> DicomExportError:
    # The API's text about a search may quote the values of the search.
    quoted = f"(a message of {digest(message)}, not quoted)" if request.is_private else message
    text = f"Could not {request.action}: {status} {quoted}"
    operation_name = request.operation_name
    if status in RETRYABLE:
        kind = DicomExportQuotaExhaustedError if status == 429 else DicomExportUnavailableError
        return kind(
            f"{text}{_quota_advice(request) if status == 429 else ''}",
            safe_to_resend=status in _SAFE_TO_RESEND,
            retry_after=retry_after(headers.get("Retry-After")),
            operation_name=operation_name,
        )
    # Google does not document whether a missing role of its service agent comes as a 400 or as a 403.
    if request.destination is not None and (
        agent := explain_service_agent(
            message, str(request.dataset), destination=request.destination, source=request.source
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
    if request.idempotent:
        return ""
    return (
        ". Google advises few concurrent exports, such as 5 for a project and region: use an Airflow pool "
        "that counts deferred tasks, or request more quota"
    )


def _export_goes_on(request: ApiRequest) -> str:
    if request.operation_name is None:
        return ""
    return f"The export itself goes on as {request.operation_name}. "


def _not_found_advice(request: ApiRequest) -> str:
    if request.operation_name is not None:
        return (
            "The API keeps an Operation for about 30 days after its end; check the name, and look at the "
            f"destination for the output of the export. Operation: {request.operation_name}"
        )
    return "Check project, location, dataset and DICOM store, and that this is the right API endpoint."


def _invalid_advice(request: ApiRequest) -> str:
    if request.destination is None:
        return "The request has to be changed before it can succeed."
    if request.destination.startswith("bq://"):
        return (
            "For BigQuery, the table's dataset must exist, in a location that is compatible with the DICOM "
            "store's and, according to the API's reference, in the DICOM store's project; WRITE_EMPTY needs "
            "an empty table."
        )
    return "For Cloud Storage, the bucket must exist, and the API must support the MIME type."


def _message(body: bytes) -> str:
    """Return the API's own message; Google's error envelope may be wrapped in a list."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return _quote(body)
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    error = decoded.get("error") if isinstance(decoded, dict) else None
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
    Parse a ``Retry-After`` header.

    :param value: the header: seconds, or an HTTP date.
    :return: the pause in seconds, at most ``LONGEST_RETRY_AFTER``; None without a readable header.
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
