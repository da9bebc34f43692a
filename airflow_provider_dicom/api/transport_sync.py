"""Sends requests from workers, with requests and google-auth's session."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

import google.auth.transport.requests
import requests
import tenacity
import urllib3.exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError

from airflow_provider_dicom.api import responses
from airflow_provider_dicom.api.private_logs import hide_searches
from airflow_provider_dicom.api.retry import retry_options
from airflow_provider_dicom.api.transport import (
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    USER_AGENT,
    cause_without_url,
    connection_error,
    credentials_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.transport import Access

_CONNECTING_FAILED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
)


class SyncTransport:
    """
    One HTTP session, opened by the first request.

    :param access: the endpoint and the credentials.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    def send(self, request: ApiRequest, num_retries: int) -> object:
        """
        Send a request, and return the JSON of the response.

        :param request: the request.
        :param num_retries: the number of repetitions after a transient error.
        :raises DicomExportError: if there is no valid response.
        """
        return tenacity.Retrying(**retry_options(request, num_retries))(self._send_once, request)

    def pages(self, request: ApiRequest, items: str, num_retries: int) -> Iterator[object]:
        """
        Yield the items of all pages of a list.

        :param request: the request of the first page.
        :param items: the name of the list's field in a response.
        :param num_retries: the number of repetitions of each request after a transient error.
        :raises DicomExportError: if there is no valid response.
        """
        while True:
            page = cast("dict[str, object]", self.send(request, num_retries))
            yield from cast("list[object]", page.get(items, []))
            if not (token := page.get("nextPageToken")):
                return
            request = request.page(str(token))

    def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if "_session" in self.__dict__:
            self._session.close()
            del self.__dict__["_session"]

    @cached_property
    def _session(self) -> requests.Session:
        hide_searches()
        credentials = self._access.credentials
        session: requests.Session = (
            requests.Session()
            if isinstance(credentials, AnonymousCredentials)
            else google.auth.transport.requests.AuthorizedSession(credentials, max_refresh_attempts=1)
        )
        session.headers["User-Agent"] = USER_AGENT
        return session

    def _send_once(self, request: ApiRequest) -> object:
        try:
            response = self._session.request(
                request.http_method,
                self._access.endpoint.url + request.target,
                json=request.body,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                # A redirect could carry the token to another server; the API sends no redirects.
                allow_redirects=False,
            )
        except GoogleAuthError as error:
            raise credentials_error(request, error) from error
        except requests.RequestException as error:
            cause = getattr(error.args[0], "reason", None) if error.args else None
            safe_to_resend = isinstance(cause, _CONNECTING_FAILED)
            raise connection_error(
                request, cause or error, safe_to_resend=safe_to_resend
            ) from cause_without_url(request, error)
        return responses.decode(
            request, response.status_code, response.headers, response.content, self._access.caller
        )
