"""Executes the methods of the API: validation, permissions, the handler, partial responses (``fields``)."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.call import Call
from airflow_provider_dicom.emulator.messages import JSON_TYPE, error_response, read_body
from airflow_provider_dicom.emulator.names import DOT_SEGMENTS
from airflow_provider_dicom.emulator.server import routes
from airflow_provider_dicom.emulator.server.discovery import check_query, parse_body, without_standard
from airflow_provider_dicom.emulator.server.origin import check_json

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from airflow_provider_dicom.emulator.messages import Json, JsonObject
    from airflow_provider_dicom.emulator.server.routes import Route, Target
    from airflow_provider_dicom.emulator.server.state import ServerState

_log = logging.getLogger(__name__)


class Api:
    """The methods of the API as an ASGI application.

    :param state: the state of the server.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def __call__(self, target: Target | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Execute one request, and send the response.

        :param target: the route of the request; None if it is no method of the API.
        """
        request = Request(scope, receive)
        try:
            response = await self._response(target, request)
        except ApiError as error:
            response = error_response(self._as_google_says(error, target))
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("%s %s failed unexpectedly", request.method, request.url.path)
            response = error_response(ApiError.internal("Internal error encountered."))
        await response(scope, receive, send)

    def _as_google_says(self, error: ApiError, target: Target | None) -> ApiError:
        """Return the error with which Google's API hides whether a dataset does not exist."""
        hidden = (
            error.http_status == 404
            and self._state.settings.missing_dataset_status == 403
            and target is not None
            and target.dataset is not None
            and not self._state.archive.has_dataset(target.dataset)
        )
        return ApiError.permission_denied(target.denial()) if hidden and target else error

    async def _response(self, target: Target | None, request: Request) -> Response:
        if target is None:
            raise ApiError.not_found(f"Method not found: {request.method} {request.url.path}")
        if DOT_SEGMENTS & {*request.url.path.split("/")}:
            raise ApiError.invalid_argument("An id in the path of the URL is . or .., which no resource has.")
        route = target.route
        if route.handler is None:
            raise ApiError.unimplemented(f"The local Healthcare API does not offer {route.method.id}.")
        if routes.PERMISSIONS.get(route.name) in self._state.settings.denied_permissions:
            raise ApiError.permission_denied(target.denial())
        call = Call(
            archive=self._state.archive,
            operations=self._state.operations,
            runner=self._state.runner,
            settings=self._state.settings,
            reader=self._state.reader,
            max_upload_bytes=self._state.limits.upload,
            request=request,
            names=target.names,
        )
        if "dicomWebPath" in target.names:
            search = without_standard(request.query_params.multi_items())
            return await route.handler(replace(call, search=search))
        query = check_query(request.query_params.multi_items(), route.method.query)
        if request.query_params.get("alt", "json") != "json":
            raise ApiError.unimplemented("The local Healthcare API supports only alt=json.")
        response = await route.handler(replace(call, query=query, body=await self._body(route, request)))
        if "fields" in request.query_params:
            selection = parse_fields(request.query_params["fields"])
            selected = select_fields(json.loads(bytes(response.body)), selection)
            content = json.dumps(selected, ensure_ascii=False, separators=(",", ":")).encode()
            response = Response(content, media_type=JSON_TYPE)
        return response

    async def _body(self, route: Route, request: Request) -> JsonObject:
        raw = await read_body(request, self._state.limits.json)
        if route.method.request is None:
            if raw.strip():
                raise ApiError.invalid_argument(f"{route.method.id} takes no body.")
            return {}
        if raw.strip():
            check_json(request.headers)
        return parse_body(raw, route.method.request)


# ---------------------------------------------------------------------------------------------------------
# Partial responses

#: Selected fields by name (``*`` for any); an empty selection below a field selects all of it.
Selection: TypeAlias = "dict[str, Selection]"


def parse_fields(expression: str) -> Selection:
    """Parse the parameter ``fields``: a comma-separated list, with ``a/b`` and ``a(b,c)`` for subfields.

    :raises ApiError: the syntax is invalid.
    """
    tokens = re.findall(r"[^,()/\s]+|[,()/]", expression)
    selection = _parse_list(tokens)
    if tokens:
        raise ApiError.invalid_argument(f"Invalid field selection {expression}")
    return selection


def _parse_list(tokens: list[str]) -> Selection:
    selection: Selection = {}
    while True:
        _parse_item(tokens, selection)
        if not tokens or tokens[0] != ",":
            return selection
        tokens.pop(0)


def _parse_item(tokens: list[str], selection: Selection) -> None:
    if not tokens or tokens[0] in ",()/":
        raise ApiError.invalid_argument("Invalid field selection")
    inner = selection.setdefault(tokens.pop(0), {})
    if tokens and tokens[0] == "/":
        tokens.pop(0)
        _parse_item(tokens, inner)
    elif tokens and tokens[0] == "(":
        tokens.pop(0)
        inner.update(_parse_list(tokens))
        if not tokens or tokens.pop(0) != ")":
            raise ApiError.invalid_argument("Invalid field selection")


def select_fields(value: Json, selection: Selection) -> Json:
    """Return the selected fields of a response."""
    if not selection:
        return value
    if isinstance(value, list):
        return [select_fields(item, selection) for item in value]
    if not isinstance(value, dict):
        return value
    everywhere = selection.get("*")
    return {
        name: select_fields(item, selection.get(name, everywhere or {}))
        for name, item in value.items()
        if name in selection or everywhere is not None
    }
