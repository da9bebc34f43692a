"""
What the sync and the async transport share: timeouts, headers, and the errors of requests without a response.

``transport_sync`` sends with requests, ``transport_async`` with aiohttp. Each imports its own HTTP library,
so that a worker never loads aiohttp on behalf of this provider. Both are given an :class:`Access` and know no
hook.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_dicom import __version__
from airflow_provider_dicom.exceptions import DicomExportAuthenticationError, DicomExportUnavailableError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.auth.exceptions import GoogleAuthError

    from airflow_provider_dicom.api.endpoint import Endpoint
    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.exceptions import DicomExportError

USER_AGENT = f"airflow-provider-dicom/{__version__}"
#: The longest wait for a connection, and for the next bytes of a response, in seconds.
CONNECT_TIMEOUT = 30.0
READ_TIMEOUT = 60.0

_QUERY = re.compile(r"\?\S+")


@dataclass(frozen=True)
class Access:
    """
    The server that gets the requests, and the credentials that sign them.

    :param endpoint: the server.
    :param credentials: the credentials; anonymous ones leave requests unsigned.
    :param caller: the e-mail address of the credentials' account, if it is known.
    :param proxy: the URL of the proxy for the endpoint, if there is one; the sync transport finds it itself.
    """

    endpoint: Endpoint
    credentials: Credentials
    caller: str | None
    proxy: str | None = None


def connection_error(
    request: ApiRequest, error: BaseException, *, safe_to_resend: bool
) -> DicomExportUnavailableError:
    """
    Build the error of a request that got no response.

    :param request: the request.
    :param error: the HTTP library's exception.
    :param safe_to_resend: the request certainly did not reach the server.
    """
    # The text of the error may quote the URL, or what a server answered.
    reason = type(error).__name__
    if not request.is_private:
        reason = _QUERY.sub("?...", f"{reason}: {error}")
    return DicomExportUnavailableError(
        f"Could not {request.action}: no response ({reason})",
        safe_to_resend=safe_to_resend,
        operation_name=request.operation_name,
    )


def credentials_error(request: ApiRequest, error: GoogleAuthError) -> DicomExportError:
    """
    Build the error of a request for which there is no access token.

    :param request: the request.
    :param error: google-auth's exception.
    """
    from google.auth.exceptions import TransportError

    text = f"Could not {request.action}: no access token ({type(error).__name__}: {error})"
    if isinstance(error, TransportError) or error.retryable:
        # The token is fetched before the request is sent.
        return DicomExportUnavailableError(text, safe_to_resend=True, operation_name=request.operation_name)
    return DicomExportAuthenticationError(
        f"{text}. Check the connection's key, impersonation chain and scopes.",
        operation_name=request.operation_name,
    )


def cause_without_url(request: ApiRequest, error: Exception) -> Exception | None:
    """
    Return the exception to chain to an error; None if its text could quote patient attributes.

    :param request: the request.
    :param error: the HTTP library's exception, which quotes the URL with its query.
    """
    return None if request.query else error
