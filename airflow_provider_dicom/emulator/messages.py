"""HTTP requests and responses in the form that all methods of the API share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, Json]"

JSON_TYPE = "application/json; charset=UTF-8"
#: Bytes of an oversized body that are read and discarded, because most clients read no response before they
#: have sent their whole request.
_MAX_DISCARDED = 256 * 1024 * 1024


def json_response(value: object, status: int = 200, media_type: str = JSON_TYPE) -> Response:
    """Return a response with a JSON body."""
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(content, status, media_type=media_type)


def error_response(error: ApiError) -> Response:
    """Return an error in the envelope of Google's APIs."""
    return json_response(error.envelope(), error.http_status)


def dicomweb_url(request: Request, store: str) -> str:
    """Return the base URL of a store's DICOMweb services, at the address that the request was sent to."""
    host, port = request.scope["server"]
    version = request.url.path.split("/")[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{version}/{store}/dicomWeb"


async def body_chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body of a request chunk by chunk.

    :param limit: the largest body that is accepted, in bytes.
    :raises ApiError: the body is larger.
    """
    announced = request.headers.get("content-length", "")
    too_large = announced.isdecimal() and int(announced) > limit
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        too_large = too_large or received > limit
        if not too_large:
            yield chunk
        elif received > limit + _MAX_DISCARDED:
            break
    if too_large:
        raise ApiError.of_http_status(413, f"Request payload size exceeds the limit: {limit} bytes.")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body of a request.

    :param limit: the largest body that is accepted, in bytes.
    :raises ApiError: the body is larger.
    """
    return b"".join([chunk async for chunk in body_chunks(request, limit)])
