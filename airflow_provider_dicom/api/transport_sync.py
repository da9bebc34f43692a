"""Sends requests from workers, with requests."""

from __future__ import annotations

from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import google.auth.transport.requests
import requests
import tenacity
from google.auth.exceptions import GoogleAuthError, RefreshError

from airflow_provider_dicom.api import responses
from airflow_provider_dicom.api.paging import Pages
from airflow_provider_dicom.api.private_logs import hide_searches
from airflow_provider_dicom.api.retry import retry_options
from airflow_provider_dicom.api.sync_session import BoundedSession, Exchange
from airflow_provider_dicom.api.transport import (
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    USER_AGENT,
    cause_without_url,
    connection_error,
    credentials_error,
    has_valid_token,
    needs_refresh,
    signature,
)
from airflow_provider_dicom.exceptions import DicomExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.auth.credentials import Credentials

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.transport import Access


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
        pages = Pages(request)
        while pages.request is not None:
            page = cast("dict[str, object]", self.send(pages.request, num_retries))
            yield from cast("list[object]", page.get(items, []))
            pages.advance(page)

    def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if "_session" in self.__dict__:
            self._session.close()
            del self.__dict__["_session"]

    @cached_property
    def _session(self) -> BoundedSession:
        hide_searches()
        session = BoundedSession()
        session.headers["User-Agent"] = USER_AGENT
        return session

    def _send_once(self, request: ApiRequest) -> object:
        credentials = self._access.credentials
        try:
            if needs_refresh(credentials):
                self._refresh_before_expiry()
            response = self._exchange(request)
            if response.status_code == HTTPStatus.UNAUTHORIZED and signature(credentials):
                refresh(credentials)
                response = self._exchange(request)
        except GoogleAuthError as error:
            raise credentials_error(request, error) from None
        return responses.decode(
            request, response.status_code, response.headers, response.content, self._access.caller
        )

    def _refresh_before_expiry(self) -> None:
        try:
            refresh(self._access.credentials)
        except GoogleAuthError:
            if not has_valid_token(self._access.credentials):
                raise

    def _exchange(self, request: ApiRequest) -> requests.Response:
        with Exchange(request.max_seconds, request.max_bytes) as exchange:
            try:
                return self._session.request(
                    request.http_method,
                    self._access.endpoint.url + request.target,
                    json=request.body,
                    headers=signature(self._access.credentials),
                    timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                    # A redirect could carry the token to another server; the API sends no redirects.
                    allow_redirects=False,
                )
            except requests.exceptions.ContentDecodingError as error:
                raise responses.garbage(request, f"the body ({error})") from None
            except (requests.RequestException, OSError) as error:
                cause = getattr(error.args[0], "reason", None) if error.args else None
                raise connection_error(
                    request, cause or error, safe_to_resend=not exchange.is_sent
                ) from cause_without_url(request, error)


def refresh(credentials: Credentials) -> None:
    """
    Fetch a token.

    :param credentials: the credentials that get the token.
    :raises GoogleAuthError: if there is no token.
    """
    with BoundedSession() as session:
        try:
            credentials.refresh(google.auth.transport.requests.Request(session))
        except (GoogleAuthError, DicomExportError):
            raise
        except Exception as error:  # a credential source may raise anything, and quote a key
            raise RefreshError(f"the credentials are unusable ({type(error).__name__})") from None
