"""The front of the API, which every request passes first: the log of requests, access tokens and faults.

Invariants:

- Every request is counted in the log before anything else, so that a client that has received a response, or
  lost its connection, finds its request in the log. Its status is filled in when the response begins, and
  stays 0 if none is sent.
- A request without a valid access token gets HTTP 401 and consumes no fault.
- At most one fault affects a request: the first of the active ones that matches. Its effects happen in this
  order: delay (``latency_seconds``); reset ``before``, which ends it; ``vanish``; the error response
  (``status``), or else the execution of the request; delay (``hold_seconds``); reset ``after``, or the
  response, with the body changed.
- A request that is reset ``before``, or gets a ``status``, is never executed. With any other fault a request
  is executed completely before the first byte of its response is sent.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.messages import error_response
from airflow_provider_dicom.emulator.server import routes
from airflow_provider_dicom.emulator.server.connections import connection_of

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from airflow_provider_dicom.emulator.server.dispatch import Api
    from airflow_provider_dicom.emulator.server.faults import Fault
    from airflow_provider_dicom.emulator.server.requests_log import RequestRecord
    from airflow_provider_dicom.emulator.server.routes import Target
    from airflow_provider_dicom.emulator.server.state import ServerState

_UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
    "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
#: Google's messages of these statuses.
_MESSAGES = {
    401: _UNAUTHENTICATED,
    429: "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute per region' "
    "of service 'healthcare.googleapis.com'.",
    500: "Internal error encountered.",
    502: "Bad Gateway",
    503: "The service is currently unavailable.",
    504: "Deadline expired before operation could complete.",
}
#: A page of Google's front end, instead of the API's JSON.
_HTML = """<!DOCTYPE html>
<html lang=en>
  <meta charset=utf-8>
  <title>Error {status} (Server Error)!!1</title>
  <p><b>{status}.</b> <ins>That's an error.</ins>
  <p>The server encountered a temporary error and could not complete your request.
  <p>Please try again in 30 seconds.  <ins>That's all we know.</ins>
"""


class _CapturedResponse:
    """An ASGI ``send`` that keeps the response, so that a fault can change it before the client gets it."""

    def __init__(self) -> None:
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")


class Front:
    """The front of the API, an ASGI application.

    Not a middleware of a framework, because those cannot leave a request without a response.

    :param state: contains the faults, the tokens and the log.
    :param api: executes the requests.
    """

    def __init__(self, state: ServerState, api: Api) -> None:
        self._state = state
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        target = routes.find(scope["method"], scope["path"])
        headers = Headers(scope=scope)
        record = self._record(target, scope, headers)

        async def recording(message: Message) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
            await send(message)

        if self._state.tokens is not None and _token(headers) not in self._state.tokens:
            await _error(401, None, target)(scope, receive, recording)
            return
        fault = self._state.faults.draw(record["route"], scope["path"])
        if fault is None:
            await self._api(target, scope, receive, recording)
        else:
            await self._apply(fault, target, scope, receive, recording)

    def _record(self, target: Target | None, scope: Scope, headers: Headers) -> RequestRecord:
        record: RequestRecord = {
            "route": target.route.name if target else routes.UNKNOWN,
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "status": 0,
            "authorization": "bearer" if _token(headers) is not None else "none",
            "user_agent": headers.get("user-agent", ""),
        }
        self._state.requests.add(record, connection_of(scope).number)
        return record

    async def _apply(
        self, fault: Fault, target: Target | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if fault.latency_seconds:
            await fault.delay(fault.latency_seconds)
        if fault.reset == "before":
            await _reset(scope, receive)
            return
        if fault.vanish and target is not None:
            with suppress(ApiError):
                await self._state.runner.vanish(target.names.get("name", ""))
        response = _CapturedResponse()
        if fault.status is not None:
            await _error(fault.status, fault, target)(scope, receive, response)
        else:
            await self._api(target, scope, receive, response)
        if fault.hold_seconds:
            await fault.delay(fault.hold_seconds)
        if fault.reset == "after":
            await _reset(scope, receive)
        elif fault.body == "truncated":
            await _send_half(response, scope, receive, send)
        else:
            await _with_changed_body(response, fault)(scope, receive, send)


def _token(headers: Headers) -> str | None:
    """Return the access token of a request; None without one."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _error(status: int, fault: Fault | None, target: Target | None) -> Response:
    """Return an error response of Google's front end."""
    message = _MESSAGES.get(status, "The request was refused.")
    if status == 403 and target is not None:
        message = target.denial()
    if fault is not None and fault.message is not None:
        message = fault.message
    response = error_response(ApiError.of_http_status(status, message))
    if status == 401:
        response.headers["www-authenticate"] = (
            'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        )
    if fault is not None and fault.retry_after is not None:
        response.headers["retry-after"] = str(fault.retry_after)
    return response


def _with_changed_body(captured: _CapturedResponse, fault: Fault) -> Response:
    """Return the captured response with its body changed as the fault says; unchanged if it does not."""
    status: int = captured.start["status"]
    headers = Headers(raw=captured.start["headers"])
    content, kind = captured.body, headers.get("content-type")
    if fault.body == "html":
        content, kind = _HTML.format(status=status).encode(), "text/html; charset=UTF-8"
    elif fault.body == "empty":
        content = b""
    kept = {name: value for name, value in headers.items() if name not in ("content-length", "content-type")}
    return Response(content, status, kept, kind)


async def _send_half(captured: _CapturedResponse, scope: Scope, receive: Receive, send: Send) -> None:
    await send(captured.start)
    half = captured.body[: len(captured.body) // 2]
    await send({"type": "http.response.body", "body": half, "more_body": True})
    connection_of(scope).hang_up()
    await _disconnected(receive)


async def _reset(scope: Scope, receive: Receive) -> None:
    connection_of(scope).reset()
    # Uvicorn responds with HTTP 500 if the application returns without a response while the client is
    # connected.
    await _disconnected(receive)


async def _disconnected(receive: Receive) -> None:
    """Wait until the server knows that the connection is closed."""
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = dict(await receive())
