"""Sends requests from event loops, with aiohttp; the event loop never waits for a token or a file."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
from asgiref.sync import sync_to_async
from google.auth.exceptions import GoogleAuthError
from yarl import URL

from airflow_provider_dicom.api import responses
from airflow_provider_dicom.api.body import ACCEPT_ENCODING, Body, UnreadableBodyError
from airflow_provider_dicom.api.environment import proxy_headers, ssl_context
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
from airflow_provider_dicom.api.transport_sync import refresh
from airflow_provider_dicom.exceptions import DicomExportError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from google.auth.credentials import Credentials

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api.transport import Access

#: Errors of a connection that was never made, its proxy tunnel and its TLS handshake included.
_CONNECTING_FAILED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
#: How long a failure to get credentials is reported to all calls without another attempt, in seconds.
CREDENTIAL_ERROR_TTL = 5.0


class CredentialErrorCache:
    """
    Keeps the latest credential error for a while, so that a thousand waiting calls do not each repeat it.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._since = 0.0

    def raise_cached(self) -> None:
        """
        Raise the cached error, if there is a recent one.

        :raises DicomExportError: the cached error.
        :raises GoogleAuthError: the cached error.
        """
        if self._error is not None and time.monotonic() - self._since < CREDENTIAL_ERROR_TTL:
            raise self._error.with_traceback(None)

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Cache the credential error that the block raises; a block without one clears the cache."""
        try:
            yield
        except (DicomExportError, GoogleAuthError) as error:
            self._error, self._since = error, time.monotonic()
            raise
        self._error = None


class AsyncTransport:
    """
    One HTTP session and one token for all calls of an event loop.

    :param max_connections: the number of connections that may be open at a time.
    :param credential_errors: the cache of credential errors.
    """

    def __init__(self, max_connections: int, credential_errors: CredentialErrorCache) -> None:
        self._max_connections = max_connections
        self._credential_errors = credential_errors
        self._refresh_lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def send_once(self, access: Access, request: ApiRequest) -> object:
        """
        Send a request without retries, and return the JSON of the response.

        :param access: the endpoint and the credentials.
        :param request: the request.
        :raises DicomExportError: if there is no valid response.
        """
        return responses.decode(request, *await self._signed_exchange(access, request), access.caller)

    async def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _signed_exchange(
        self, access: Access, request: ApiRequest
    ) -> tuple[int, Mapping[str, str], bytes]:
        credentials = access.credentials
        try:
            if needs_refresh(credentials):
                await self._refresh_before_expiry(credentials)
            headers, token = signature(credentials), credentials.token
            answer = await self._exchange(access, request, headers)
            if answer[0] == HTTPStatus.UNAUTHORIZED and headers:
                await self._refresh(credentials, stale_token=token)
                answer = await self._exchange(access, request, signature(credentials))
        except GoogleAuthError as error:
            raise credentials_error(request, error) from None
        except UnreadableBodyError as error:
            raise responses.garbage(request, f"the body ({error})") from None
        except (aiohttp.ClientError, OSError) as error:
            raise connection_error(
                request, error, safe_to_resend=isinstance(error, _CONNECTING_FAILED)
            ) from cause_without_url(request, error)
        return answer

    async def _exchange(
        self, access: Access, request: ApiRequest, headers: dict[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        async with self._open_session().request(
            request.http_method,
            # The target is quoted already; yarl would quote it again in its own way.
            URL(access.endpoint.url + request.target, encoded=True),
            json=request.body,
            headers=headers,
            # aiohttp's errors quote this URL.
            proxy=None if access.proxy is None else URL(access.proxy).with_user(None),
            proxy_headers=None if access.proxy is None else proxy_headers(access.proxy),
            ssl=await self._tls_settings(access),
            timeout=aiohttp.ClientTimeout(
                total=request.max_seconds, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT
            ),
            # A redirect could carry the token to another server; the API sends no redirects.
            allow_redirects=False,
        ) as response:
            body = Body(response.headers.get("Content-Encoding"), request.max_bytes)
            async for chunk in response.content.iter_any():
                body.feed(chunk)
            return response.status, response.headers, body.content()

    async def _tls_settings(self, access: Access) -> ssl.SSLContext | bool:
        if access.endpoint.url.startswith("http:"):
            return True
        if self._tls is None:
            self._tls = await sync_to_async(ssl_context, thread_sensitive=False)(access.ca_bundle)
        return self._tls

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": ACCEPT_ENCODING},
                # Of bounded size, so not by aiohttp.
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=self._max_connections),
            )
        return self._session

    async def _refresh_before_expiry(self, credentials: Credentials) -> None:
        try:
            await self._refresh(credentials, stale_token=credentials.token)
        except (GoogleAuthError, DicomExportError):
            if not has_valid_token(credentials):
                raise

    async def _refresh(self, credentials: Credentials, *, stale_token: str | None) -> None:
        async with self._refresh_lock:
            # Another call may have refreshed the token while this one waited for the lock.
            if credentials.token == stale_token:
                self._credential_errors.raise_cached()
                with self._credential_errors.caching():
                    # Not thread-sensitive: that would queue all triggers of a triggerer on one thread.
                    await sync_to_async(refresh, thread_sensitive=False)(credentials)
