"""
Responses of the API: parsed and checked here, for both transports, or mapped to the error that the HTTP
status and the body stand for.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.foreign_text import printable
from airflow_provider_dicom.api.permissions import explain_caller, explain_policy, explain_service_agent
from airflow_provider_dicom.api.private_logs import digest
from airflow_provider_dicom.api.shapes import checked, parse_json
from airflow_provider_dicom.exceptions import (
    DicomExportAuthenticationError,
    DicomExportError,
    DicomExportNotFoundError,
    DicomExportPermissionError,
    DicomExportTransientError,
    DicomExportUnavailableError,
    error_of_status,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_dicom.api.methods import ApiRequest

#: Statuses that mean that the server did not process the request. A 5xx does not mean that.
_SAFE_TO_RESEND = frozenset({408, 425, 429})
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
        return (typing.get_origin(request.response) or dict)()
    if 200 <= status < 300:
        try:
            return checked(parse_json(body), request.response)
        except ValueError:
            content_type = printable(headers.get("Content-Type", "no content type"), 100)
            # The response to a search holds patient data: nothing of it is quoted.
            described = f"{len(body)} bytes{'' if request.is_private else f' of {content_type}'}"
            raise garbage(request, f"the body ({described})", status) from None
    raise _error(request, status, headers, ErrorBody.of(body), caller)


def garbage(request: ApiRequest, what: str, status: int | None = None) -> DicomExportUnavailableError:
    """
    Build the error of a response that is none, however it was made.

    :param request: the request of the response.
    :param what: the part of the response that is wrong.
    :param status: the HTTP status, if it is known.
    """
    answered = "answered" if status is None else f"answered {status}"
    return DicomExportUnavailableError(
        f"Could not {request.action}: the API {answered}, but {what} is not the expected JSON. A proxy may "
        "have answered instead of the API, or the connection broke.",
        operation_name=request.operation_name,
    )


@dataclass(frozen=True)
class ErrorBody:
    """
    What the body of an error says.

    :param message: the API's own message, printable; else the beginning of the body.
    :param status: the name of the error's ``google.rpc.Code``, if the body holds it.
    :param reason: ``google.rpc.ErrorInfo.reason``, if the body holds it.
    """

    message: str
    status: str | None = None
    reason: str | None = None

    @classmethod
    def of(cls, body: bytes) -> ErrorBody:
        """
        Read the body of an error; Google's error envelope may be wrapped in a list.

        :param body: the body.
        """
        try:
            decoded = parse_json(body)
        except ValueError:
            return cls(_quote(body))
        if isinstance(decoded, list) and decoded:
            decoded = decoded[0]
        error = decoded.get("error") if isinstance(decoded, dict) else None
        if isinstance(error, str) and error:
            return cls(printable(error))
        if not isinstance(error, dict):
            return cls(_quote(body))
        texts = [text for key in ("status", "message") if isinstance(text := error.get(key), str) and text]
        message = printable(" ".join(texts)).rstrip(".") or _quote(body)
        status = error.get("status")
        return cls(message, status if isinstance(status, str) else None, _reason(error.get("details")))


def _reason(details: object) -> str | None:
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith("google.rpc.ErrorInfo"):
            reason = detail.get("reason")
            return printable(reason, 100) if isinstance(reason, str) else None
    return None


def _error(
    request: ApiRequest, status: int, headers: Mapping[str, str], body: ErrorBody, caller: str | None
) -> DicomExportError:
    message = body.message
    # The API's text about a search may quote the values of the search.
    quoted = f"(a message of {digest(message)}, not quoted)" if request.is_private else message
    text = f"Could not {request.action}: {status} {quoted}"
    operation_name = request.operation_name
    # A conflict with another request; the API did nothing, and asks for the same request again.
    is_aborted = status == 409 and body.status == "ABORTED"
    kind = DicomExportUnavailableError if is_aborted else error_of_status(status)
    if issubclass(kind, DicomExportTransientError):
        return kind(
            f"{text}{_quota_advice(request) if status == 429 else ''}",
            safe_to_resend=status in _SAFE_TO_RESEND or is_aborted,
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
    if kind is DicomExportAuthenticationError:
        return kind(
            f"{text}. The credentials of the connection are not accepted, and a new token did not help: "
            "check the connection's key, impersonation chain and scopes (cloud-platform or -healthcare).",
            operation_name=operation_name,
        )
    if kind is DicomExportPermissionError:
        advice = explain_policy(body.reason, message, request.dataset.project_id) or explain_caller(
            request.permission, request.dataset, request.store, caller
        )
        return kind(f"{text}. {_export_goes_on(request)}{advice}", operation_name=operation_name)
    advice = _not_found_advice(request) if kind is DicomExportNotFoundError else _invalid_advice(request)
    return kind(f"{text}. {advice}", operation_name=operation_name)


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


def _quote(body: bytes) -> str:
    # A few bytes of UTF-8 make one character, and white space is shortened.
    text = printable(body[: 40 * _LONGEST_QUOTE].decode(errors="replace"), 20 * _LONGEST_QUOTE).strip()
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
