"""
What the sync and the async transport share: timeouts, headers, and the errors of requests without a response.

``transport_sync`` sends with requests, ``transport_async`` with aiohttp. Each imports its own HTTP library,
so that a worker never loads aiohttp on behalf of this provider. Both are given an :class:`Access` and know no
hook.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_dicom import __version__
from airflow_provider_dicom.api.environment import CA_VARIABLES, ca_bundle, proxy_for
from airflow_provider_dicom.api.foreign_text import describe_token_error, printable, without_userinfo
from airflow_provider_dicom.exceptions import DicomExportAuthenticationError, DicomExportUnavailableError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.auth.exceptions import GoogleAuthError

    from airflow_provider_dicom.api.endpoint import Endpoint
    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.exceptions import DicomExportError

USER_AGENT = f"airflow-provider-dicom/{__version__}"
#: The longest wait for a connection, and for the next bytes of a response, in seconds; ``ApiRequest`` has the
#: bounds of a whole response.
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
    :param proxy: the URL of the proxy for the endpoint, if there is one; it may hold a password.
    :param ca_bundle: the file or the folder of trusted CAs.
    """

    endpoint: Endpoint
    credentials: Credentials
    caller: str | None
    proxy: str | None = field(repr=False)
    ca_bundle: str

    @classmethod
    def in_environment(cls, endpoint: Endpoint, credentials: Credentials, caller: str | None) -> Access:
        """
        Complete the access with what the process's environment says.

        :param endpoint: the server.
        :param credentials: the credentials.
        :param caller: the e-mail address of the credentials' account, if it is known.
        :raises DicomExportUnavailableError: if the environment names an unusable proxy or CA.
        """
        return cls(endpoint, credentials, caller, proxy_for(endpoint.url), ca_bundle())


def connection_error(
    request: ApiRequest, error: BaseException, *, safe_to_resend: bool
) -> DicomExportUnavailableError:
    """
    Build the error of a request that got no response.

    :param request: the request.
    :param error: the HTTP library's exception.
    :param safe_to_resend: the request certainly did not reach the server.
    """
    certificate = _certificate_error(error)
    if certificate is not None:
        reason = (
            f"the server's certificate is not trusted ({printable(certificate.verify_message, 200)}). If a "
            f"company's own CA signs it, set {CA_VARIABLES[0]} to the CA's file, for workers and triggerers"
        )
    elif request.is_private:
        # The text of the error may quote the URL, or what a server answered.
        reason = f"no response ({type(error).__name__})"
    else:
        reason = without_userinfo(_QUERY.sub("?...", f"{type(error).__name__}: {error}"))
        reason = f"no response ({reason})"
    return DicomExportUnavailableError(
        f"Could not {request.action}: {reason}",
        # A client looks at the certificate before it sends anything.
        safe_to_resend=safe_to_resend or certificate is not None,
        operation_name=request.operation_name,
    )


def _certificate_error(error: object) -> ssl.SSLCertVerificationError | None:
    """Find the certificate's error behind an exception of an HTTP library."""
    seen: list[object] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        # aiohttp's own class is a subclass without the message.
        if isinstance(one, ssl.SSLCertVerificationError) and hasattr(one, "verify_message"):
            return one
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return None


def credentials_error(request: ApiRequest, error: GoogleAuthError) -> DicomExportError:
    """
    Build the error of a request for which there is no access token.

    :param request: the request.
    :param error: google-auth's exception.
    """
    from google.auth.exceptions import TransportError

    text = f"Could not {request.action}: no access token ({describe_token_error(error)})"
    if isinstance(error, TransportError) or error.retryable:
        # The token is fetched before the request is sent.
        return DicomExportUnavailableError(text, safe_to_resend=True, operation_name=request.operation_name)
    return DicomExportAuthenticationError(
        f"{text}. Check the connection's key, impersonation chain and scopes.",
        operation_name=request.operation_name,
    )


def signature(credentials: Credentials) -> dict[str, str]:
    """
    Return the headers that sign a request; empty for anonymous credentials.

    :param credentials: the credentials, with a token unless they are anonymous.
    """
    from google.auth.credentials import AnonymousCredentials

    headers: dict[str, str] = {}
    if not isinstance(credentials, AnonymousCredentials):
        credentials.apply(headers)
    return headers


def needs_refresh(credentials: Credentials) -> bool:
    """
    Tell whether a token has to be fetched before the next request: there is none, or it ends soon.

    :param credentials: the credentials.
    """
    from google.auth.credentials import AnonymousCredentials, TokenState

    return (
        not isinstance(credentials, AnonymousCredentials) and credentials.token_state is not TokenState.FRESH
    )


def has_valid_token(credentials: Credentials) -> bool:
    """
    Tell whether the API still accepts the token, though it should have been refreshed already.

    :param credentials: the credentials.
    """
    from google.auth.credentials import TokenState

    return credentials.token_state is not TokenState.INVALID


def cause_without_url(request: ApiRequest, error: Exception) -> Exception | None:
    """
    Return the exception to chain to an error; None if its text could quote patient attributes.

    :param request: the request.
    :param error: the HTTP library's exception, which quotes the URL with its query.
    """
    return None if request.query else error
