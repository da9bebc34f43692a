"""The control endpoint, ``/_emulator``, through which tests steer and observe the server."""

# No "from __future__ import annotations": FastAPI reads the annotations.

from typing import Annotated, Any, TypedDict

from fastapi import APIRouter, Body, Depends, Request
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.changes import DeliveriesReport
from airflow_provider_dicom.emulator.models.operations import EXPORT_METHOD, IMPORT_METHOD, OperationReport
from airflow_provider_dicom.emulator.server import routes
from airflow_provider_dicom.emulator.server.faults import Fault, FaultReport
from airflow_provider_dicom.emulator.server.origin import check_json
from airflow_provider_dicom.emulator.server.requests_log import RequestsReport
from airflow_provider_dicom.emulator.server.state import ServerState
from airflow_provider_dicom.emulator.settings import Settings


class Step(BaseModel):
    """A step of exports.

    :param operation: the name of one operation; null: all.
    :param instances: the number of instances per export; null: all that are left.
    """

    model_config = ConfigDict(extra="forbid")

    operation: str | None = None
    instances: NonNegativeInt | None = None


class Steps(BaseModel):
    """The operations that were stepped."""

    operations: list[dict[str, Any]]


class Exports(TypedDict):
    """The accepted exports, in the order of their submission.

    :param accepted: the number of accepted exports.
    :param highest_running: the maximum number of exports that ran at the same time.
    :param highest_unfinished: the maximum number of exports that ran or were queued at the same time.
    """

    accepted: int
    highest_running: int
    highest_unfinished: int
    operations: list[OperationReport]


class Imports(TypedDict):
    """The accepted imports, in the order of their submission."""

    operations: list[OperationReport]


class FaultId(BaseModel):
    """The id of a fault."""

    id: int


class FaultReports(BaseModel):
    """All faults."""

    faults: list[FaultReport]


class Tokens(BaseModel):
    """The access tokens that are accepted.

    :param valid: all valid tokens; null: requests need no token.
    """

    model_config = ConfigDict(extra="forbid")

    valid: list[str] | None


def _body_is_json(request: Request) -> None:
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        check_json(request.headers)


router = APIRouter(prefix="/_emulator", dependencies=[Depends(_body_is_json)])


def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


State = Annotated[ServerState, Depends(_state)]


@router.get("/settings")
async def get_settings(state: State) -> Settings:
    """Return the settings."""
    return state.settings


@router.patch("/settings")
async def patch_settings(changes: Annotated[dict[str, Any], Body()], state: State) -> Settings:
    """Change the given settings, and return all settings."""
    try:
        wanted = Settings(**{**dict(state.settings), **changes})
    except ValidationError as error:
        raise ApiError.invalid_argument(describe(error.errors())) from error
    for name in changes:
        setattr(state.settings, name, getattr(wanted, name))
    state.runner.settings_changed()
    return state.settings


@router.post("/step")
async def step(wanted: Step, state: State) -> Steps:
    """Let exports write some more instances, and return their operations when they have."""
    stepped = await state.runner.step(wanted.operation, wanted.instances)
    return Steps(operations=[dict(operation.body()) for operation in stepped])


@router.get("/exports", response_model=None)
async def get_exports(state: State) -> Exports:
    """Return the accepted exports, with their states and logs."""
    exports = state.operations.started_by(EXPORT_METHOD)
    return Exports(
        accepted=len(exports),
        highest_running=state.runner.highest_running,
        highest_unfinished=state.runner.highest_unfinished,
        operations=[operation.report() for operation in exports],
    )


@router.get("/imports", response_model=None)
async def get_imports(state: State) -> Imports:
    """Return the accepted imports, with their states and logs."""
    imports = state.operations.started_by(IMPORT_METHOD)
    return Imports(operations=[operation.report() for operation in imports])


@router.delete("/exports")
async def reset_highest(state: State) -> dict[str, Any]:
    """Reset both maxima to the current numbers; the exports are kept."""
    state.runner.reset_highest()
    return {}


@router.get("/deliveries", response_model=None)
async def get_deliveries(state: State) -> DeliveriesReport:
    """Return what was streamed to BigQuery and published to Pub/Sub, and what failed."""
    return state.changes.report()


@router.post("/faults")
async def add_fault(fault: Fault, state: State) -> FaultId:
    """Add a fault."""
    if fault.route not in routes.NAMES | {routes.UNKNOWN, "*"}:
        raise ApiError.invalid_argument(
            f"unknown route {fault.route!r}: it must be * or one of {sorted(routes.NAMES)}"
        )
    return FaultId(id=state.faults.add(fault))


@router.get("/faults", response_model_exclude_defaults=True)
async def get_faults(state: State) -> FaultReports:
    """Return the faults, each with the number of requests that it affected."""
    return FaultReports(faults=state.faults.report())


@router.delete("/faults")
async def clear_faults(state: State) -> dict[str, Any]:
    """Remove all faults."""
    state.faults.clear()
    return {}


@router.delete("/faults/{identifier}")
async def remove_fault(identifier: int, state: State) -> dict[str, Any]:
    """Remove one fault."""
    state.faults.remove(identifier)
    return {}


@router.get("/requests", response_model=None)
async def get_requests(state: State) -> RequestsReport:
    """Return the log of requests to the API."""
    return state.requests.report()


@router.delete("/requests")
async def reset_requests(state: State) -> dict[str, Any]:
    """Start counting from zero."""
    state.requests.reset()
    return {}


@router.post("/tokens")
async def set_tokens(tokens: Tokens, state: State) -> Tokens:
    """Set the access tokens that are accepted."""
    state.tokens = None if tokens.valid is None else frozenset(tokens.valid)
    return tokens


def describe(errors: Any) -> str:
    """Return pydantic's validation errors as one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc'] if part != 'body') or 'body'}: {error['msg']}"
        for error in errors
    )
