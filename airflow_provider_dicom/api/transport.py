"""What both hooks say of themselves on the wire, and of a connection that failed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_dicom import __version__
from airflow_provider_dicom.exceptions import DicomExportAuthenticationError, DicomExportUnavailableError

if TYPE_CHECKING:
    from google.auth.exceptions import GoogleAuthError

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.exceptions import DicomExportError

USER_AGENT = f"airflow-provider-dicom/{__version__}"
CONNECT_TIMEOUT = 30.0
READ_TIMEOUT = 60.0

_QUERY = re.compile(r"\?\S+")


def connection_error(
    request: ApiRequest, error: BaseException, *, not_accepted: bool
) -> DicomExportUnavailableError:
    """
    Build the error of a request that got no answer.

    :param request: the request.
    :param error: what the HTTP library raised.
    :param not_accepted: the request certainly did not reach the server.
    """
    # A query may hold patient attributes.
    reason = _QUERY.sub("?...", f"{type(error).__name__}: {error}")
    return DicomExportUnavailableError(
        f"Could not {request.action}: no answer ({reason})",
        not_accepted=not_accepted,
        operation_name=request.operation_name,
    )


def credentials_error(request: ApiRequest, error: GoogleAuthError) -> DicomExportError:
    """
    Build the error of a request for which no token could be had.

    :param request: the request.
    :param error: what google-auth raised.
    """
    from google.auth.exceptions import TransportError

    text = f"Could not {request.action}: no access token ({type(error).__name__}: {error})"
    if isinstance(error, TransportError) or error.retryable:
        # The request itself was not sent yet.
        return DicomExportUnavailableError(text, not_accepted=True, operation_name=request.operation_name)
    return DicomExportAuthenticationError(
        f"{text}. Check the connection's key, impersonation chain and scopes.",
        operation_name=request.operation_name,
    )
