"""Requests and answers, as all routes of the API have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.requests import Request

    from airflow_provider_dicom.emulator.server.discovery import JsonObject
    from airflow_provider_dicom.emulator.server.state import ServerState

JSON_TYPE = "application/json; charset=UTF-8"
#: So much of a body that is too long is still read, so that the client comes to see the answer.
_MOST_DRAINED = 256 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """A call of one of the API's methods.

    :param names: the variables of the URL's path, such as ``name`` or ``parent``.
    :param query: the method's own query parameters; empty for DICOMweb, which has its own rules.
    :param body: the checked body; empty for DICOMweb.
    """

    state: ServerState
    request: Request
    names: Mapping[str, str]
    query: JsonObject
    body: JsonObject


Handler: TypeAlias = "Callable[[Call], Awaitable[Response]]"


def json_response(value: object, status: int = 200, media_type: str = JSON_TYPE) -> Response:
    """Return an answer in JSON."""
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(content, status, media_type=media_type)


def error_response(error: ApiError) -> Response:
    """Return an error as Google's APIs answer it."""
    return json_response(error.envelope(), error.http_status)


def dicomweb_url(request: Request, store: str) -> str:
    """Return the address of a store's DICOMweb services, as this server is really reached."""
    host, port = request.scope["server"]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1/{store}/dicomWeb"


async def body_chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Return a request's body piece by piece.

    :raises ApiError: it is longer than it may be.
    """
    announced = request.headers.get("content-length", "")
    too_long = announced.isdecimal() and int(announced) > limit
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        too_long = too_long or received > limit
        if not too_long:
            yield chunk
        elif received > limit + _MOST_DRAINED:
            break
    if too_long:
        raise ApiError.of_http_status(413, f"Request payload size exceeds the limit: {limit} bytes.")


async def read_body(request: Request, limit: int) -> bytes:
    """Return a request's body.

    :raises ApiError: it is longer than it may be.
    """
    return b"".join([chunk async for chunk in body_chunks(request, limit)])
