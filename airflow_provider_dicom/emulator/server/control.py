"""The control endpoint, ``/_emulator``: what tests set, step and look at."""

# No "from __future__ import annotations": FastAPI reads the annotations.

from typing import Annotated, Any, TypedDict

from fastapi import APIRouter, Body, Depends, Request
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.models.operations import OperationReport
from airflow_provider_dicom.emulator.server import routes
from airflow_provider_dicom.emulator.server.faults import Fault, FaultReport
from airflow_provider_dicom.emulator.server.requests_log import RequestsReport
from airflow_provider_dicom.emulator.server.state import ServerState
from airflow_provider_dicom.emulator.settings import Settings


class Step(BaseModel):
    """How far exports are to go.

    :param operation: the name of one; all if null.
    :param instances: how many each; up to the end if null.
    """

    model_config = ConfigDict(extra="forbid")

    operation: str | None = None
    instances: NonNegativeInt | None = None


class Steps(BaseModel):
    """The operations that were stepped."""

    operations: list[dict[str, Any]]


class Exports(TypedDict):
    """The exports that were accepted, in order.

    :param highest_running: how many ran at the same time, at most.
    :param highest_unfinished: how many ran or waited at the same time, at most.
    """

    accepted: int
    highest_running: int
    highest_unfinished: int
    operations: list[OperationReport]


class FaultId(BaseModel):
    """The number of a fault."""

    id: int


class FaultReports(BaseModel):
    """All faults."""

    faults: list[FaultReport]


class Tokens(BaseModel):
    """The access tokens that are accepted.

    :param valid: these and no others; any, or none, if null.
    """

    model_config = ConfigDict(extra="forbid")

    valid: list[str] | None


router = APIRouter(prefix="/_emulator")


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
    """Change some settings, and return all."""
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
    """Let exports go on for a while, and return them when they have."""
    stepped = await state.runner.step(wanted.operation, wanted.instances)
    return Steps(operations=[dict(operation.body()) for operation in stepped])


@router.get("/exports", response_model=None)
async def get_exports(state: State) -> Exports:
    """Return the exports that were accepted."""
    exports = state.operations.exports()
    return Exports(
        accepted=len(exports),
        highest_running=state.runner.highest_running,
        highest_unfinished=state.runner.highest_unfinished,
        operations=[operation.report() for operation in exports],
    )


@router.delete("/exports")
async def forget_highest(state: State) -> dict[str, Any]:
    """Begin to look for the highest numbers anew; the exports stay."""
    state.runner.forget_highest()
    return {}


@router.post("/faults")
async def add_fault(fault: Fault, state: State) -> FaultId:
    """Set a fault."""
    if fault.route not in routes.NAMES | {routes.UNKNOWN, "*"}:
        raise ApiError.invalid_argument(
            f"unknown route {fault.route!r}: it is * or one of {sorted(routes.NAMES)}"
        )
    return FaultId(id=state.faults.add(fault))


@router.get("/faults", response_model_exclude_defaults=True)
async def get_faults(state: State) -> FaultReports:
    """Return the faults, with how often each fired."""
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
    """Return what was asked of the API."""
    return state.requests.report()


@router.delete("/requests")
async def forget_requests(state: State) -> dict[str, Any]:
    """Count from zero again."""
    state.requests.reset()
    return {}


@router.post("/tokens")
async def set_tokens(tokens: Tokens, state: State) -> Tokens:
    """Say which access tokens are accepted."""
    state.tokens = None if tokens.valid is None else frozenset(tokens.valid)
    return tokens


def describe(errors: Any) -> str:
    """Return validation errors of pydantic as one sentence."""
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc'] if part != 'body') or 'body'}: {error['msg']}"
        for error in errors
    )
