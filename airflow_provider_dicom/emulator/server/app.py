"""The whole server as one ASGI application."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.messages import error_response
from airflow_provider_dicom.emulator.names import API_VERSIONS
from airflow_provider_dicom.emulator.server import control
from airflow_provider_dicom.emulator.server.dispatch import Api
from airflow_provider_dicom.emulator.server.front import Front
from airflow_provider_dicom.emulator.server.origin import check_origin

_API = tuple(f"/{version}/" for version in API_VERSIONS)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request, Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from airflow_provider_dicom.emulator.server.state import ServerState


def create_app(state: ServerState, *, loopback_only: bool) -> ASGIApp:
    """Return the server: the APIs below ``/v1/`` and ``/v2/``, the control endpoint and ``/healthz``.

    :param state: the state of the server; closed when the application shuts down.
    :param loopback_only: the server listens on loopback, and refuses requests that name another machine.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await state.runner.recover()
        yield
        await state.close()

    side = FastAPI(title="Local Healthcare API: control", lifespan=lifespan)
    side.state.server = state
    side.include_router(control.router)

    @side.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @side.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @side.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(ApiError.invalid_argument(control.describe(error.errors())))

    front = Front(state, Api(state))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and loopback_only:
            try:
                check_origin(Headers(scope=scope))
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        if scope["type"] == "http" and scope["path"].startswith((*_API, "/v2/")):
            await front(scope, receive, send)
        else:
            await side(scope, receive, send)

    return app
