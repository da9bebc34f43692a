"""The API's methods as an ASGI application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.messages import JSON_TYPE, Call, error_response, read_body
from airflow_provider_dicom.emulator.server import routes
from airflow_provider_dicom.emulator.server.discovery import check_query, parse_body
from airflow_provider_dicom.emulator.server.partial_response import select_body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from airflow_provider_dicom.emulator.server.routes import Route, Target
    from airflow_provider_dicom.emulator.server.state import ServerState

_log = logging.getLogger(__name__)
#: The schema of bodies that are not JSON.
_HTTP_BODY = "HttpBody"


class Api:
    """Carries out calls of the API.

    :param state: what they work on.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def __call__(self, target: Target | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        :param target: what it calls, if it is a method of the API.
        """
        request = Request(scope, receive)
        try:
            response = await self._answer(target, request)
        except ApiError as error:
            response = error_response(error)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("%s %s", request.method, request.url.path)
            response = error_response(ApiError.internal("Internal error encountered."))
        await response(scope, receive, send)

    async def _answer(self, target: Target | None, request: Request) -> Response:
        if target is None:
            raise ApiError.not_found(f"Method not found: {request.method} {request.url.path}")
        route, names = target.route, target.names
        if route.handler is None:
            raise ApiError.unimplemented(f"The local Healthcare API does not offer {route.method.id}.")
        if routes.PERMISSIONS.get(route.name) in self._state.settings.denied_permissions:
            raise ApiError.permission_denied(target.denial())
        call = Call(self._state, request, names, {}, {})
        if "dicomWebPath" in names:
            return await route.handler(call)
        query = check_query(request.query_params.multi_items(), route.method.query)
        if request.query_params.get("alt", "json") != "json":
            raise ApiError.unimplemented("The local Healthcare API answers in JSON only.")
        call = Call(self._state, request, names, query, await self._body(route, request))
        response = await route.handler(call)
        if "fields" in request.query_params:
            response = Response(
                select_body(bytes(response.body), request.query_params["fields"]), media_type=JSON_TYPE
            )
        return response

    async def _body(self, route: Route, request: Request) -> dict[str, Any]:
        raw = await read_body(request, self._state.limits.json)
        if route.method.request is None:
            if raw.strip():
                raise ApiError.invalid_argument(f"{route.method.id} takes no body.")
            return {}
        return parse_body(raw, route.method.request)
